"""Analyzes every image once, writes the results as the config `metadata`, and prints a report.

    python -m scripts.quality --source archives --out dist/hyper-kvasir

Covers the parts that --out already holds, or all parts if it is new; --config limits it. A row for each distinct image,
without pixels, joins the other configs by `image_id`: facts about file and picture; which images show the same frame,
or the same scene, with the evidence for each pair; grouped folds, which keep every scene on one side; Kvasir-SEG's ids
and sets, and a clean variant of these.

Images that cannot be decoded are listed, and then nothing is written; with --no-verify, their rows are left out. After
a kill, or with other images, run it again: it looks at what is new. Burned-in dates and names are never read.

Addresses and --cluster are as in scripts.build.
"""

import shlex

from hyper_kvasir import Expected
from scripts.pipeline.build import BuildError, build
from scripts.pipeline.configs import BUILT, METADATA, parts_of
from scripts.pipeline.console import add_building, check_sources_exist, command_parser, refusing, run, say


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.quality", __doc__)
    add_building(parser)
    parser.add_argument(
        "--config",
        action="append",
        choices=BUILT,
        metavar="NAME",
        help=f"look at the part of this config: {', '.join(BUILT)}; repeatable; default: what --out holds, or all",
    )
    parser.add_argument(
        "--folds-from",
        metavar="FILE",
        help="metadata of an earlier version, whose grouped folds are kept; default: that in --out, if there is any",
    )
    parser.add_argument("--no-verify", action="store_true", help="continue despite missing or undecodable images")
    args = parser.parse_args(arguments)
    check_sources_exist(parser, args.source)
    build(
        args.source,
        args.out,
        [METADATA],
        workers=args.workers,
        checks=not args.no_verify,
        expected=Expected.load(args.expect),
        looked=parts_of(args.config or ()),
        folds_from=args.folds_from,
    )
    next_ = "" if args.no_verify else f"; next: python -m scripts.verify {shlex.quote(args.out)}"
    say(f"metadata is in {args.out}{next_}")
    return 0


if __name__ == "__main__":
    run(main)
