"""Writes the card of a built folder anew: README.md, its figures, and what goes along with it.

    python -m scripts.card dist/hyper-kvasir

From the texts in dataset_card/ and what is in the files: README.md, assets/, stats.json, croissant.json, datasheet.md,
CITATION.bib, CITATION.cff, CHANGELOG.md; and it enters them in manifest.json. Every number is counted. Files whose
sha256 stands in stats.json are not read again, and only what differs is written. Then the card is checked: its metadata
against what the Hub takes, its numbers against the Parquet files. Problems are listed, and the command exits with 1.

scripts.build does this at its end; use this command after a change of the texts or figures.
"""

import argparse
import os

from scripts.pipeline.card import check_card, lint_card, write_card
from scripts.pipeline.console import run, say
from scripts.pipeline.manifest import FILE, manifest_text, read_manifest


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    args = parser.parse_args(arguments)
    try:
        manifest = read_manifest(args.folder)
        if manifest is None:
            raise ValueError(f"{args.folder}: no {FILE} there; build the folder first: python -m scripts.build")
        written = write_card(args.folder, manifest)
        if written != manifest:
            _replace(os.path.join(args.folder, FILE), manifest_text(written))
        with open(os.path.join(args.folder, "README.md"), encoding="utf-8") as file:
            card = file.read()
        problems = lint_card(card, list(written["files"])) + check_card(card, written, args.folder)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return 1
    for problem in problems:
        say(f"problem: {problem}")
    state = "was up to date" if written == manifest else "written"
    say(f"{args.folder}: card of {len(written['card']['files'])} files {state}, {len(problems)} problems")
    return 1 if problems else 0


def _replace(path, text):
    beside = f"{path}.{os.getpid()}.incomplete"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(beside, path)


if __name__ == "__main__":
    run(main)
