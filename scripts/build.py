"""Builds a Hub dataset repository from the official archives.

    python -m scripts.build --source archives --out dist/hyper-kvasir

A source may hold the official zips (any subset; name the configs that they serve by --config), the one full zip,
extracted folders, or a copy whose folders are spelled as in the official split csvs. Everything in it is checked:
counts, labels, folds, masks, boxes, CRCs, digests. If anything is wrong, all problems are listed and no new build
is written; an earlier one in --out stays as it was.

After a kill or a change of the source, run it again: it builds only what is missing or changed.

Sources and output may be addresses, as s3://bucket/folder. With --cluster, the workers of a dask scheduler do the work,
each in a checkout of this project; scripts/cluster-requirements.txt has what both need. The files are the same.

With --max-side 256, the small edition: the same rows, configs, ids, labels and folds, with every image scaled to at
most 256 pixels a side and encoded alike, masks and boxes with it. It is a folder, and a repository, of its own.
"""

import shlex

from hyper_kvasir import Expected
from scripts.pipeline.build import BuildError, build
from scripts.pipeline.configs import BUILT, METADATA, VIEWS
from scripts.pipeline.console import add_building, add_max_side, check_sources_exist, command_parser, refusing, run, say


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.build", __doc__)
    add_building(parser)
    parser.add_argument(
        "--config",
        action="append",
        choices=VIEWS,
        metavar="NAME",
        help=f"one of {', '.join(VIEWS)}; repeatable; default: all but {METADATA}, which looks at every image",
    )
    add_max_side(parser, "the small edition: images of at most N pixels a side")
    parser.add_argument("--no-verify", action="store_true", help="build from a partial source, and say what is missing")
    args = parser.parse_args(arguments)
    check_sources_exist(parser, args.source)
    settings = {"workers": args.workers, "checks": not args.no_verify, "expected": Expected.load(args.expect)}
    build(args.source, args.out, args.config or list(BUILT), max_side=args.max_side, **settings)
    then = "" if args.no_verify else f"; next: python -m scripts.verify {shlex.quote(args.out)}"
    say(f"built {args.out}{then}")
    return 0


if __name__ == "__main__":
    run(main)
