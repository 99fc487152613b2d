"""Rewrites the card of a built folder: README.md, its figures, and the files that go with it.

    python -m scripts.card dist/hyper-kvasir

From the texts in dataset_card/ and what is in the files: README.md, assets/, stats.json, croissant.json, datasheet.md,
CITATION.bib, CITATION.cff and CHANGELOG.md, all recorded in manifest.json. Every number is counted. Files whose
sha256 is in stats.json are not read again, and only what differs is written. Then the card's configs and numbers are
checked against the Parquet files. Lists what was written and any problems, and exits with 1 if there is one.

scripts.build does this last; use this command after changing the texts or figures.
"""

from pathlib import Path

from scripts.pipeline.card import EDITED, update_card
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.console import command_parser, refusing, run, say
from scripts.pipeline.files import write_file
from scripts.pipeline.manifest import FILE, built_manifest, manifest_text
from scripts.pipeline.output import BuildError, only_builder_of, remove_leftovers


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.card", __doc__)
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    args = parser.parse_args(arguments)
    built_manifest(args.folder)  # before the folder is locked, or made
    with only_builder_of(args.folder):
        remove_leftovers(args.folder)
        manifest = built_manifest(args.folder)
        updated, changed = update_card(args.folder, manifest)
        if updated != manifest:
            write_file(Path(args.folder, FILE), manifest_text(updated).encode())
            changed.append(FILE)
    card = Path(args.folder, "README.md").read_text(encoding="utf-8")
    problems = lint_card(card, list(updated["files"])) + check_card(card, updated, args.folder)
    for path in changed:
        what = "written" if Path(args.folder, path).exists() else "removed"
        say(f"edited by hand, now in: {path}" if EDITED in path else f"{what}: {path}")
    for problem in problems:
        say(f"problem: {problem}")
    rewritten = [path for path in changed if EDITED not in path]
    state = f"{len(rewritten)} rewritten" if rewritten else "up to date"
    say(f"{args.folder}: card of {len(updated['card']['files'])} files, {state}, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
