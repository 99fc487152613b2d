"""Measures speed and memory as ratios to a rival that does the same work in the same run.

    python -m scripts.bench build                 # archive to Parquet, against `unzip -q` and `cp` of the archive
    python -m scripts.bench build --archive hyper-kvasir-labeled-images.zip --runs 3
    python -m scripts.bench updates               # what an update of the labeled part sends to the Hub
    python -m scripts.bench commit                # the request that commits as many files as the whole dataset has

Runs alternate with the rival's; the quickest of each counts, since noise only ever adds time.
"""

import os
import sys

from scripts.bench.build import bench_build
from scripts.bench.sources import photographs
from scripts.bench.updates import bench_commit, bench_updates
from scripts.pipeline.console import command_parser, number
from scripts.pipeline.measure import claim


def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.bench", __doc__)
    parser.add_argument("what", choices=["build", "updates", "commit"])
    parser.add_argument("--archive", metavar="ZIP", help="a labeled archive; default: one of generated photographs")
    parser.add_argument("--gigabytes", type=float, default=1.05, help="size of a generated one (default: %(default)s)")
    parser.add_argument("--runs", type=number, default=3, help="times each command runs (default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", default="dist/bench", help="where to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    claim(parser, args.work)
    if args.what == "commit":
        print(bench_commit(os.path.join(args.work, "commit")))
        return 0
    archive = args.archive or photographs(args.work, args.gigabytes)
    if args.what == "build":
        print(bench_build(args.work, archive, args.runs))
    else:
        print(bench_updates(os.path.join(args.work, "updates"), archive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
