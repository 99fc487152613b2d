"""Builds a Hub dataset repository from the official archives.

    python -m scripts.build --source archives --out dist/hyper-kvasir

The sources may hold the official zips (any subset, with --config for the configs they serve), the full zip, extracted
folders, or a copy with the spelling of the official split csvs. The source is checked whole: counts, labels, folds,
masks, boxes, CRCs, digests. All problems are listed, then the command fails and leaves no finished-looking output.

Run it again after a kill, or with a changed source: it builds only what is missing or changed.
"""

import os

from hyper_kvasir import VIEWS, Expected
from scripts.pipeline.build import BuildError, build
from scripts.pipeline.console import add_expect, add_workers, command_parser, refusing, run, say


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.build", __doc__)
    parser.add_argument(
        "--source", action="append", required=True, metavar="DIR", help="folder (or zip) of the source; repeatable"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write, new or built by this command")
    parser.add_argument(
        "--config", action="append", choices=VIEWS, metavar="NAME", help=f"one of {', '.join(VIEWS)}; default all"
    )
    add_workers(parser)
    parser.add_argument(
        "--no-verify", action="store_true", help="build from a partial source too, saying what is missing"
    )
    add_expect(parser)
    args = parser.parse_args(arguments)
    for source in args.source:
        if not os.path.exists(source):
            parser.error(f"--source {source}: no such folder")
    settings = {"workers": args.workers, "checks": not args.no_verify, "expected": Expected.load(args.expect)}
    build(args.source, args.out, args.config or list(VIEWS), **settings)
    say(f"built {args.out}; next: python -m scripts.verify {args.out}")
    return 0


if __name__ == "__main__":
    run(main)
