"""Measures speed and memory as ratios to a rival that does the same work in the same run.

    python -m scripts.bench build                 # archive to Parquet against unzip, cp and the ways people go today
    python -m scripts.bench build --archive hyper-kvasir-labeled-images.zip --runs 3
    python -m scripts.bench unchanged             # building again where nothing changed, and where 10 labels did
    python -m scripts.bench growth                # build, verify and load_dataset, from 1,000 images to 99,417
    python -m scripts.bench updates               # what an update of the labeled part sends to the Hub
    python -m scripts.bench commit                # the request that commits as many files as the whole dataset has

Runs alternate with the rival's; the quickest of each counts, since noise only ever adds time.
"""

import os
import sys

from scripts.bench.build import bench_build
from scripts.bench.growth import bench_growth
from scripts.bench.sources import photographs
from scripts.bench.unchanged import bench_unchanged
from scripts.bench.updates import bench_commit, bench_updates
from scripts.pipeline.console import command_parser, number
from scripts.pipeline.measure import claim

WITHOUT_ARCHIVE = {"unchanged": bench_unchanged, "growth": bench_growth, "commit": bench_commit}


def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.bench", __doc__)
    parser.add_argument("what", choices=["build", "updates", *WITHOUT_ARCHIVE])
    parser.add_argument("--archive", metavar="ZIP", help="a labeled archive; default: one of generated photographs")
    parser.add_argument("--gigabytes", type=float, default=1.05, help="size of a generated one (default: %(default)s)")
    parser.add_argument(
        "--runs", type=number, default=3, help="times that build runs quick ones (default: %(default)s)"
    )
    parser.add_argument("--work", metavar="DIR", default="dist/bench", help="where to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    claim(parser, args.work)
    if args.what in WITHOUT_ARCHIVE:
        print(WITHOUT_ARCHIVE[args.what](os.path.join(args.work, args.what)))
        return 0
    archive = os.path.abspath(args.archive) if args.archive else photographs(args.work, args.gigabytes)
    if args.what == "build":
        print(bench_build(args.work, archive, args.runs))
    else:
        print(bench_updates(os.path.join(args.work, "updates"), archive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
