"""The review page of a built folder: one HTML file that holds everything it shows but many pictures.

Top to bottom: the page, its status, counts, samples, pairs, figures.
"""

import base64
import functools
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import jinja2
import pyarrow as pa
from markupsafe import Markup, escape
from PIL import Image

from hyper_kvasir import TAXONOMY, Expected
from scripts.pipeline import leaks
from scripts.pipeline.card import stored_pairs
from scripts.pipeline.configs import KINDS, METADATA, VIEWS
from scripts.pipeline.files import write_file
from scripts.pipeline.manifest import built_manifest, part_of_path, read_manifest
from scripts.pipeline.output import BuildError, check_name
from scripts.pipeline.review.compare import Changes
from scripts.pipeline.review.pictures import ACROSS, SIDE, TILE, Store
from scripts.pipeline.review.problems import MOST_TOLD, grouped, kinds_of, problem_texts
from scripts.pipeline.review.rows import Chosen, agreement, read_rows, spread, tables
from scripts.pipeline.stats import MATCH
from scripts.pipeline.verify import UUID, Verified, verify
from scripts.pipeline.versions import Version, folder_version

UNLABELED_SAMPLES = 6
MOST_PAIRS, UNFOLDED = 200, 6  # pairs that are shown, and those before the fold; all are in leakage.csv
LEAKS = {split: "Kvasir-SEG" if split == "kvasir_seg_set" else split for split in leaks.OFFICIAL_SPLITS}
GENERATOR = "scripts.review of hyper-kvasir"  # by which a page of ours is known, and may be replaced
HERE = Path(__file__).parent


# ---------------------------------------------------------------------------------------------------------- the page


def write_review(
    folder: str,
    expected: Expected,
    workers: int,
    to: str,
    *,
    every: bool = False,
    compare: Callable[[Version], Changes] | None = None,
) -> tuple[str, str]:
    """Writes the review page of `folder` to the file `to`, and its pictures into a folder beside it if they are many.

    `every`: with all unlabeled images. `compare` gives the changes in a Version since another one. Returns the page's
    status, e.g. "all good" or "3 kinds of problem", and what was written, with its sizes.

    Raises ValueError where there is no manifest, BuildError where `to` or the folder beside it is something else,
    OSError where they cannot be written.
    """
    check_name(to)
    if os.path.isdir(to):
        raise BuildError(f"{to}: is a folder; give the name of the HTML file to write")
    if os.path.lexists(to) and not _is_review(to):
        raise BuildError(f"{to}: is there, and is no review page; give another name, or move that file away")
    built_manifest(folder)  # at an address, there is no page of it
    with Store(to) as store:
        result = verify(folder, expected, workers)
        pa.default_memory_pool().release_unused()  # what it streamed
        changes = compare(folder_version(folder)) if compare else None
        page = Page(folder, result, expected, changes)
        text = page.text(store, workers, every=every).encode()
        store.replace()
        write_file(Path(to), text)
    written = f"{os.path.basename(to)} ({len(text) / 1e6:.1f} MB)"
    if store.bytes_beside:
        written += f" and {store.folder.name}/ ({store.bytes_beside / 1e6:.1f} MB)"
    return page.status, written


def _is_review(path):
    with open(path, "rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(4096)


class Page:
    """The page of a built folder, of which it is known what is right and wrong."""

    def __init__(self, folder: str, result: Verified, expected: Expected, changes: Changes | None = None):
        self.folder, self.result, self.changes = folder, result, changes
        self.manifest = read_manifest(folder)
        self.problems = problem_texts(folder, result)
        self.unknown = unknown_sources(self.manifest, expected)
        self.kinds = kinds_of(self.problems)
        self.status = status_of(len(self.problems), len(self.kinds), self.unknown)

    def text(self, store: Store, workers: int, *, every: bool = False) -> str:
        """The whole HTML page. Its pictures go to `store`, and into the page if they are there in the end."""
        folder, manifest, result = self.folder, self.manifest, self.result
        first = first_rows(folder, manifest)
        pairs = best_pairs(folder, manifest) if METADATA in manifest["configs"] else None
        unlabeled = first_unlabeled(folder, manifest)
        small = set(first.values()) | {("unlabeled", image_id) for image_id in unlabeled}
        ends = [pair[name] for pair in pairs["shown"] for name in ("one", "other")] if pairs else []
        small |= {place for end in ends for place in _places(end)}
        told = (text for texts in self.kinds for text in texts[:MOST_TOLD])
        chosen = Chosen(every, {image_id for text in told for image_id in UUID.findall(text)}, small)
        shown, pictures = read_rows(folder, manifest, chosen, workers, store=store)
        known = {image_id for part in shown.values() for image_id in part.columns["id"]}
        pictures = {place: base64.b64encode(data).decode() for place, data in pictures.items()}
        css, js = (HERE / f"page.{kind}" for kind in ("css", "js"))
        css, js = css.read_text("utf-8"), js.read_text("utf-8")
        embedded = store.embedded
        return _template().render(
            name=os.path.basename(os.path.abspath(folder)),
            manifest=manifest,
            status=self.status,
            green=not self.problems,
            unknown=self.unknown,
            absent=[config for config in VIEWS if config not in result.configs],
            problems=len(self.problems),
            groups=grouped(self.kinds, known),
            counts=count_tables(result),
            changes=self.changes,
            known=known,
            samples=finding_samples(first, pictures, result),
            unlabeled=[{"id": image_id, "picture": pictures.get(("unlabeled", image_id))} for image_id in unlabeled],
            pairs=pairs and {**pairs, "shown": [_pair_view(pair, pictures) for pair in pairs["shown"]]},
            unfolded=UNFOLDED,
            figures=figures(folder),
            shown=shown,
            unread=sorted({part_of_path(path) for path in manifest["files"]} - {METADATA, *shown}),
            summary=agreement(shown["segmented"].objects) if "segmented" in shown else None,
            match=MATCH,
            data=self._data(shown, known, store),
            pictures=embedded,
            policy=_policy(css, js, embedded is not None),
            generator=GENERATOR,
            css=Markup(css),
            js=Markup(js),
        )

    def _data(self, shown, known, store):
        """What page.js reads: the rows of each part, by columns."""
        naming = defaultdict(list)
        for text in self.problems:
            for image_id in dict.fromkeys(UUID.findall(text)):
                if image_id in known:
                    naming[image_id].append(text)
        return {
            "tile": TILE,
            "across": ACROSS,
            "side": SIDE,
            "folder": None if store.is_embedded else quote(store.folder.name),
            "findings": [[finding.name, finding.category, finding.tract] for finding in TAXONOMY],
            "problems": naming,
            "parts": [
                {"name": name, **_with_values(part.columns), "objects": part.objects, "errors": part.errors}
                for name, part in shown.items()
            ],
        }


def _with_values(columns):
    """Columns without those of nulls alone, of which a page may have 100,000."""
    return {name: values for name, values in columns.items() if name == "id" or set(values) != {None}}


def _template():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["json"] = _json
    environment.filters["breakable"] = lambda text: escape(text).replace("_", Markup("_<wbr>"))  # in no word
    return environment.get_template("page.html.j2")


def _json(value) -> Markup:
    """JSON for a <script> element, which only a "<" could end."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _policy(css: str, js: str, embedded: bool) -> str:
    """A Content-Security-Policy for this style and script, the page's pictures, and nothing else.

    Of a page from disk Chromium takes 'self' for any file, and a folder cannot be named: what an image may be is no
    narrower. file: says it to browsers that do not; 'self' is for a page on a server. Where pictures are embedded,
    neither is allowed.
    """
    images = "data:" if embedded else "data: 'self' file:"
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    return (
        f"default-src 'none'; img-src {images}; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


# -------------------------------------------------------------------------------------------------------- the status


def status_of(problems: int, kinds: int, unknown: list[str]) -> str:
    """The verdict in words, e.g. "all good" or "3 kinds of problem": one cause may show in a thousand places."""
    if kinds < problems:
        return f"{kinds:,} kind{'s' if kinds > 1 else ''} of problem"
    if problems:
        return f"{problems:,} problem{'s' if problems > 1 else ''}"
    return "all good, but not from the known official archives" if unknown else "all good"


def unknown_sources(manifest: dict, expected: Expected) -> list[str]:
    """What of the sources is not known to be official, where it could be: a sentence for each part.

    No digest of the unlabeled archive is known, so nothing is said of that.
    """
    said = []
    for part, source in manifest["sources"].items():
        archives = {file["sha256"] for name, file in expected.sources.items() if f"-{part}-" in name}
        known = archives | ({expected.segmented_content} - {None} if part == "segmented" else set())
        if known and not known & {source.get("sha256"), source.get("content")}:
            text = (
                f"{part}: the digest of {source['file']} is not the known one; its images may not be the official ones."
            )
            said.append(text)
    return said


# ------------------------------------------------------------------------------------------------------------ counts


def count_tables(result: Verified) -> dict[str, list[dict]]:
    """The checks by table: {heading: [{"what", "expected", "found", "verdict", "same"}]}."""
    splits, totals, findings = [], [], []
    for check in result.checks:
        rows = splits if " / " in check.what else findings if check.what.startswith("finding ") else totals
        what = check.what.removeprefix("finding ")
        rows.append({**check._asdict(), "what": what, **_verdict(check)})
    tables = {"Rows of each split": splits, "Totals": totals, "Labeled images of each finding": findings}
    return {heading: rows for heading, rows in tables.items() if rows}


def _verdict(check):
    if not check.differs:
        return {"same": True, "verdict": "as expected"}
    verdict = f"{abs(check.expected - check.found):,} {'missing' if check.found < check.expected else 'too many'}"
    return {"same": False, "verdict": f"{verdict}: not all can be read" if check.explained else verdict}


# ----------------------------------------------------------------------------------------------------------- samples


def finding_samples(
    first: dict[int, tuple[str, str]], pictures: dict[tuple[str, str], str], result: Verified
) -> dict[str, list[dict]]:
    """{category: findings}, each with its numbers where they are known and its first image by id where there is one."""
    checks = {check.what.removeprefix("finding "): check for check in result.checks}
    samples = {category: [] for category in VIEWS["category"].values}
    for label, finding in enumerate(TAXONOMY):
        place = first.get(label)
        check = checks.get(finding.name)
        if place is None and check is None:
            continue
        sample = {
            "name": finding.name,
            "tract": finding.tract,
            "id": place and place[1],
            "picture": pictures.get(place),
        }
        if check:
            sample |= {**check._asdict(), **_verdict(check)}
        samples[finding.category].append(sample)
    return {category: found for category, found in samples.items() if found}


def first_rows(folder: str, manifest: dict) -> dict[int, tuple[str, str]]:
    """{label: (part, image id)} of the smallest id, that of a labeled image where there is one."""
    first = {}
    for part in ("labeled", "segmented"):
        least = {}
        for _, table in tables(folder, manifest, part, ["image_id", "label"]):
            for image_id, label in zip(table["image_id"].to_pylist(), table["label"].to_pylist()):
                if image_id is not None:
                    least[label] = min(image_id, least.get(label, image_id))
        first = {label: (part, image_id) for label, image_id in least.items()} | first
    return first


def first_unlabeled(folder: str, manifest: dict) -> list[str]:
    """The first unlabeled images of those that are shown."""
    found = tables(folder, manifest, "unlabeled", ["image_id"])
    ids = [image_id for _, table in found for image_id in table["image_id"].to_pylist()]
    return [ids[i] for i in spread(len(ids))[:UNLABELED_SAMPLES]]


# ------------------------------------------------------------------------------------------------------------- pairs


def best_pairs(folder: str, manifest: dict) -> dict:
    """The pairs of images to look at, those that leak first: {"all": number, "shown": [pair of `leaks.all_pairs`]}."""
    try:
        found = stored_pairs(manifest, functools.partial(os.path.join, folder))
    except (OSError, ValueError, KeyError):  # among the problems already
        found = []

    def order(pair):
        return -sum(leaks.is_across(pair, split) for split in leaks.OFFICIAL_SPLITS), pair["kind"] != KINDS[0]

    return {"all": len(found), "shown": sorted(found, key=order)[:MOST_PAIRS]}


def _places(row):
    """Where an image of a pair is: [(part, image id)]"""
    return [(part, row["image_id"]) for part in row["parts"]]


def _end(row, pictures):
    picture = next((pictures[place] for place in _places(row) if place in pictures), None)
    facts = [leaks.place_of(row)] if row["label"] is None else [leaks.place_of(row), TAXONOMY[row["label"]].name]
    facts += [f"{split}: {row[split]}" for split in leaks.OFFICIAL_SPLITS if row[split] is not None]
    return {"id": row["image_id"], "about": " · ".join(facts), "picture": picture} | {
        side: row[side] for side in ("width", "height")
    }


def _pair_view(pair, pictures):
    """A pair for the page, with the evidence in words and the transform as SVG writes it."""
    a, b, x, c, d, y = pair["transform"]
    facts = [f"{pair['inliers']:,} of {pair['matches']:,} matched features fit the transform"]
    facts += [f"correlation {round(pair['correlation'], 2) + 0:.2f}"]  # + 0: no -0.00
    facts += [f"scale {pair['scale']:.2f}"]
    facts += [f"masks agree at an IoU of {pair['mask_iou']:.2f}"] if pair["mask_iou"] is not None else []
    return {
        "kind": pair["kind"].replace("_", " "),
        "leaks": [LEAKS[split] for split in leaks.OFFICIAL_SPLITS if leaks.is_across(pair, split)],
        "facts": "; ".join(facts),
        "matrix": " ".join(f"{value:g}" for value in (a, c, b, d, x, y)),
        "one": _end(pair["one"], pictures),
        "other": _end(pair["other"], pictures),
    }


# ----------------------------------------------------------------------------------------------------------- figures


def figures(folder: str) -> list[dict]:
    """The card's pictures in its order, then others in assets/: [{"name", "alt", "caption", "address", "size"}].

    alt and caption, the slanted paragraph below, are the card's; the file's name and "" where it has none.
    """
    card = Path(folder, "README.md")
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    shown = re.findall(r"!\[([^\]]*)\]\(assets/([^)\s]+)\)(?:\n\n\*([^*]+)\*\n)?", text)
    words = {name: (alt, caption) for alt, name, caption in shown}
    files = {path.name: path for path in sorted(Path(folder, "assets").glob("*")) if path.suffix in PICTURES}
    order = [name for name in words if name in files] + [name for name in files if name not in words]
    pictures = []
    for name in order:
        alt, caption = words.get(name, (name, ""))
        data = base64.b64encode(files[name].read_bytes()).decode()
        address = f"data:image/{PICTURES[files[name].suffix]};base64,{data}"
        stem = files[name].stem
        title = TITLES.get(stem, stem.replace("_", " ").replace("-", " ").capitalize())
        caption = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", caption)  # its links are into the card
        size = _size_of(files[name])
        pictures.append({"name": title, "alt": alt, "caption": caption, "address": address, "size": size})
    return pictures


def _size_of(path):
    """(width, height) of a picture, so that a page is laid out before it is decoded; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


TITLES = {
    "findings": "Findings",
    "class_balance": "Images of each finding",
    "quality": "JPEG quality by finding",
    "sizes": "Image sizes",
    "polyps": "Masks and boxes",
    "objects": "Sizes of polyps and boxes",
    "heat_maps": "Where polyps are",
    "unfit": "Boxes that match no instance",
    "pairs": "Same frames and scenes",
}
PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
