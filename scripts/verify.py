"""Checks a built folder, reading nothing else: every file, row and number.

    python -m scripts.verify dist/hyper-kvasir

Rows of each config, split and finding; ids unique, and the same in labels, folds and masks; instances and boxes; sizes
of image, mask and instances; each file's sha256, rows and features; the card; that each split loads by its name. Prints
a table of expected and found, then every problem, and exits with 1 if there is one.
"""

from hyper_kvasir import VIEWS, Expected
from scripts.pipeline.console import add_expect, add_workers, command_parser, refusing, run, table
from scripts.pipeline.verify import verify


@refusing(ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.verify", __doc__)
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    add_workers(parser)
    add_expect(parser)
    args = parser.parse_args(arguments)
    result = verify(args.folder, Expected.load(args.expect), args.workers)
    rows = [(*check, "" if check.expected == check.found else "differs") for check in result.checks]
    print(table(("what", "expected", "found", ""), rows))
    absent = [config for config in VIEWS if config not in result.configs]
    if absent:
        print(f"\nnot in this folder, so not checked: {', '.join(absent)}")
    problems = result.listed()
    if problems:
        what = "problem" if len(problems) == 1 else "problems"
        print(f"\n{len(problems):,} {what}:\n" + "\n".join(f"- {problem}" for problem in problems))
        return 1
    print(f"\nall good: {', '.join(result.configs)}")
    return 0


if __name__ == "__main__":
    run(main)
