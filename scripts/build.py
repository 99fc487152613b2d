"""Builds a Hub dataset repository from the official archives.

    python -m scripts.build --source archives --out dist/hyper-kvasir

The sources may hold the official zips (any subset, with --config for the configs they serve), the full zip, extracted
folders, or a copy with the spelling of the official split csvs. The source is checked whole: counts, labels, folds,
masks, boxes, CRCs, digests. All problems are listed, then the command fails and leaves no finished-looking output.

Run it again after a kill, or with a changed source: it builds only what is missing or changed.
"""

import argparse
import os

from hyper_kvasir import VIEWS, Expected, SourceError
from scripts.pipeline.build import BuildError, build
from scripts.pipeline.console import run, say


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", action="append", required=True, metavar="DIR", help="folder (or zip) of the source; repeatable"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write, new or built by this command")
    parser.add_argument(
        "--config", action="append", choices=VIEWS, metavar="NAME", help=f"one of {', '.join(VIEWS)}; default all"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument(
        "--no-verify", action="store_true", help="build from a partial source too, saying what is missing"
    )
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON of the numbers to check against in place of the official ones"
    )
    args = parser.parse_args(arguments)
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    for source in args.source:
        if not os.path.exists(source):
            parser.error(f"--source {source}: no such folder")
    try:
        settings = {"workers": args.workers, "checks": not args.no_verify, "expected": Expected.load(args.expect)}
        build(args.source, args.out, args.config or list(VIEWS), **settings)
    except (SourceError, BuildError, ValueError, OSError) as error:
        say(f"error: {error}")
        return 1
    say(f"built {args.out}; next: python -m scripts.verify {args.out}")
    return 0


if __name__ == "__main__":
    run(main)
