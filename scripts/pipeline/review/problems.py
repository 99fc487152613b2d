"""What is wrong with a folder, in words: each kind of problem once."""

import os
import re
from collections import defaultdict

from scripts.pipeline.verify import UUID, Verified

EXAMPLES = 3  # of a kind, before the fold
MOST_TOLD = 1_000  # of a kind; scripts.verify prints all

_VARIES = re.compile(
    rf"(?P<file>data/.*?\.parquet)|(?P<image>{UUID.pattern[1:-1]})|(?P<digest>\b[0-9a-f]{{64}}\b)"
    r"|(?P<value>'[^']*'|\[[^]]*\]|(?<![\w-])\d[\d,.]*\b)"
)
_NUMBER = re.compile(r"[^:]+: [\d,]+, expected [\d,]+")  # as `Verified.listed` has them


def problem_texts(folder: str, result: Verified) -> list[str]:
    """`Verified.listed`, with paths cut to the folder's name: the page may travel."""
    above = os.path.join(os.path.dirname(os.path.abspath(folder)), "")
    return [text.replace(above, "") for text in result.listed()]


def kinds_of(problems: list[str]) -> list[list[str]]:
    """Problems by their kind, in the order in which the kinds come first."""
    kinds = defaultdict(list)
    for text in problems:
        of_kind = _VARIES.sub(lambda found: f"({found.lastgroup})", text)
        kinds["numbers" if _NUMBER.fullmatch(text) else of_kind].append(text)
    return list(kinds.values())


def grouped(kinds: list[list[str]], known: set[str]) -> list[dict]:
    """What the page says of each of `kinds_of`.

    [{"kind": the text, with "(value)" and the like for what varies; None for a single problem, "count", "examples",
    "rest", "more": how many are left out}]. An example, and one of the rest, is a list of (text, whether it is an id
    that the browser can open); it is the image alone, or the file, where that is all that varies.
    """
    groups = []
    for texts in kinds:
        kind, told = _told_once(texts)
        pieces = [[(piece, piece in known) for piece in UUID.split(text) if piece] for text in told[:MOST_TOLD]]
        groups.append(
            {
                "kind": kind,
                "count": len(texts),
                "examples": pieces[:EXAMPLES],
                "rest": pieces[EXAMPLES:],
                "more": len(texts) - len(pieces),
            }
        )
    return groups


def _told_once(texts):
    """(what texts of a kind have in common, what is left to say of each)"""
    if len(texts) == 1:
        return None, texts
    if _NUMBER.fullmatch(texts[0]):
        return "numbers that are not as expected", texts
    found = [list(_VARIES.finditer(text)) for text in texts]
    varying = [i for i, some in enumerate(zip(*found)) if len({match[0] for match in some}) > 1]
    kind = texts[0]
    for match in reversed([found[0][i] for i in varying]):
        kind = f"{kind[: match.start()]}({match.lastgroup}){kind[match.end() :]}"
    kind = re.sub(r"^(\(file\): )?(\(image\) )?", "", kind)  # what is said of each below
    names = [found[0][i].lastgroup for i in varying]
    if not varying or not {"file", "image"}.issuperset(names):
        return kind, texts
    telling = varying[names.index("image") if "image" in names else 0]
    return kind, [matches[telling][0] for matches in found]
