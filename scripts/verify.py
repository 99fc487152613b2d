"""Checks a built folder, or a published version: every file, row and number.

    python -m scripts.verify dist/hyper-kvasir
    python -m scripts.verify dist/hyper-kvasir --source archives
    python -m scripts.verify ns/hyper-kvasir --revision v1.0.0

Rows of each config, split and finding; ids unique, and the same in labels, folds and masks; instances and boxes; sizes
of image, mask and instances; every image decoded; each file's sha256, rows and features; the digests of the official
rows; the card; that each split loads by its name. With --source, every row is also compared with the archives.

Of a published version the Hub's digests, the footers and the columns are read; with --full, every byte. Prints a table
of expected and found, then every problem, and exits with 1 if there is one.
"""

import re

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from hyper_kvasir import Expected, listed
from scripts.pipeline.configs import VIEWS
from scripts.pipeline.console import (
    add_expect,
    add_workers,
    check_sources_exist,
    command_parser,
    refusing,
    run,
    table,
)
from scripts.pipeline.files import is_address
from scripts.pipeline.hub import REPO_ID, PublishError, Repository, explain, prepare_clients
from scripts.pipeline.published import verify_published
from scripts.pipeline.verify import Check, verify


@refusing(PublishError, ValueError, OSError, HTTPError, explained=explain)
def main(arguments=None) -> int:
    args = parse(arguments)
    expected = Expected.load(args.expect)
    if args.revision:
        prepare_clients()
        repository = Repository(HfApi(), args.place)
        result = verify_published(repository, args.revision, expected, args.workers, full=args.full)
    else:
        result = verify(args.place, expected, args.workers, sources=args.source or ())
    rows = [(check.what, check.expected, check.found, verdict(check)) for check in result.checks]
    print(table(("what", "expected", "found", ""), rows))
    absent = [config for config in VIEWS if config not in result.configs]
    if absent:
        print(f"\nnot here, so not checked: {', '.join(absent)}")
    if is_address(args.place):
        print("\nnot checked at an address: that load_dataset takes it, which it does of a folder")
    problems = result.listed()
    if problems:
        what = "problem" if len(problems) == 1 else "problems"
        print(f"\n{len(problems):,} {what}:\n{listed(problems)}")
        return 1
    print(f"\nall good: {', '.join(result.configs)}")
    return 0


def verdict(check: Check) -> str:
    """What the table says of a number; nothing if it is as expected."""
    return "some cannot be read" if check.explained else "differs" if check.differs else ""


def parse(arguments):
    parser = command_parser("python -m scripts.verify", __doc__)
    parser.add_argument(
        "place", metavar="DIR or NS/NAME", help="a folder or address that scripts.build wrote, or a dataset repository"
    )
    parser.add_argument("--source", action="append", metavar="DIR", help="compare every row with these archives")
    parser.add_argument("--revision", metavar="REV", help="of a repository: a tag, branch or commit")
    parser.add_argument("--full", action="store_true", help="with --revision: read every file whole")
    add_workers(parser)
    add_expect(parser)
    args = parser.parse_args(arguments)
    check_sources_exist(parser, args.source or ())
    if args.source and args.revision:
        parser.error("--source goes with a folder, and --revision with a repository")
    if args.full and not args.revision:
        parser.error("--full goes with --revision: a folder is always read whole")
    if args.revision and not re.fullmatch(REPO_ID, args.place):
        parser.error(f"{args.place}: --revision goes with a repository, NS/NAME")
    return args


if __name__ == "__main__":
    run(main)
