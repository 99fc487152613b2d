"""Measures speed and memory as ratios to a rival that does the same work in the same run.

    python -m scripts.bench --all                 # all that the dataset's speed is told by, in some 20 minutes
    python -m scripts.bench build                 # archive to Parquet against unzip, cp and the ways people go today
    python -m scripts.bench build --archive hyper-kvasir-labeled-images.zip --runs 3
    python -m scripts.bench unchanged             # building again where nothing changed, and where 10 labels did
    python -m scripts.bench feed                  # images into a training loop, against ImageFolder and WebDataset
    python -m scripts.bench small                 # the small edition: its build, feed and stream against the full one's
    python -m scripts.bench growth                # build, verify and load_dataset, from 1,000 images to 99,417
    python -m scripts.bench streams               # files of several sizes: streams, how well these mix, and updates
    python -m scripts.bench origin                # streaming out of a remote archive of 29 GB: first image, and others
    python -m scripts.bench cluster               # a cluster and an S3, on this machine, against the local pool
    python -m scripts.bench updates               # what an update of the labeled part sends to the Hub
    python -m scripts.bench commit                # the request that commits as many files as the whole dataset has

Runs alternate with the rival's; the quickest of each counts, since noise only ever adds time.
"""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version

from scripts.bench.build import bench_build
from scripts.bench.cluster import bench_cluster
from scripts.bench.feed import RIVALS, bench_feed
from scripts.bench.growth import bench_growth
from scripts.bench.origin import bench_origin
from scripts.bench.small import bench_small
from scripts.bench.sources import missing, photographs
from scripts.bench.streams import bench_streams
from scripts.bench.unchanged import bench_unchanged
from scripts.bench.updates import bench_commit, bench_updates
from scripts.pipeline.console import command_parser, number, say
from scripts.pipeline.measure import claim

PACKAGES = ("datasets", "huggingface-hub", "pyarrow", "pillow", "numpy", "simplejpeg", "deflate")
GIGABYTES = 0.5
BUILT = 3.05  # that --all builds: of less, the start takes a share


def archive_of(args: argparse.Namespace) -> str:
    """The archive that was given, or one of generated photographs."""
    return os.path.abspath(args.archive) if args.archive else photographs(args.work, args.gigabytes)


# {name: what gives its table}; those of `ALL` in the order in which they run.
BENCHES = {
    "build": lambda work, args: bench_build(args.work, archive_of(args), args.runs, whole=not args.all),
    "unchanged": lambda work, args: bench_unchanged(work),
    "feed": lambda work, args: bench_feed(work, archive_of(args), args.runs),
    "small": lambda work, args: bench_small(work, archive_of(args), args.official, args.runs),
    "growth": lambda work, args: bench_growth(work),
    "streams": lambda work, args: bench_streams(args.work, archive_of(args), args.official),
    "origin": lambda work, args: bench_origin(),
    "cluster": lambda work, args: bench_cluster(work, archive_of(args)),
    "updates": lambda work, args: bench_updates(work, archive_of(args)),
    "commit": lambda work, args: bench_commit(work),
}
ALL = ("build", "unchanged", "growth", "feed", "small", "streams", "origin", "cluster")
OF_REAL = ("small", "streams")  # which also look at real images
NEEDS = {  # {name: what it cannot do without, and where that is named}
    "feed": (*RIVALS, "scripts/bench/requirements.txt"),
    "cluster": ("distributed", "s3fs", "moto", "scripts/cluster-requirements.txt -r tests/requirements.txt"),
}


def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.bench", __doc__)
    parser.add_argument("what", nargs="?", choices=BENCHES)
    parser.add_argument("--all", action="store_true", help=f"{', '.join(ALL)}, with versions and machine")
    about = "a labeled archive with the fold csvs beside it, or for feed a segmented one; default: one of generated "
    about += "photographs"
    parser.add_argument("--archive", metavar="ZIP", help=about)
    size = f"size of a generated one (default: {GIGABYTES}; with --all {BUILT} for build)"
    parser.add_argument("--gigabytes", type=gigabytes, help=size)
    official = "of small and streams: the folder of the official labels, folds and some images (default: %(default)s)"
    parser.add_argument("--official", metavar="DIR", default="../shared/source", help=official)
    parser.add_argument("--runs", type=number, help="times that quick commands run (default: 3; with --all 2)")
    parser.add_argument("--work", metavar="DIR", default="dist/bench", help="where to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    if bool(args.what) == args.all:
        parser.error("give what to measure, or --all")
    if (args.all or args.what in OF_REAL) and not os.path.isdir(args.official):
        parser.error(f"--official {args.official}: no such folder")
    for name in ALL if args.all else [args.what]:
        *packages, named = NEEDS.get(name, ("",))
        if absent := missing(packages):
            parser.error(f"{name} needs {', '.join(absent)}: pip install -r {named}")
    claim(parser, args.work)
    args.runs = args.runs or (2 if args.all else 3)
    if not args.all:
        args.gigabytes = args.gigabytes or GIGABYTES
        print(BENCHES[args.what](os.path.join(args.work, args.what), args))
        return 0
    print(machine(), flush=True)
    for name in ALL:
        size = args.gigabytes or (BUILT if name == "build" else GIGABYTES)
        started = time.monotonic()
        text = BENCHES[name](os.path.join(args.work, name), argparse.Namespace(**{**vars(args), "gigabytes": size}))
        say(f"{name}: {time.monotonic() - started:.0f} s")
        print(f"\n## {name}\n\n{text}", flush=True)
    return 0


def gigabytes(text: str) -> float:
    """The type of --gigabytes."""
    if not 0 < float(text) < 1000:
        raise argparse.ArgumentTypeError("must be more than 0, and less than 1,000")
    return float(text)


def machine() -> str:
    """A line on what is measured on, and one on the versions."""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / 1e6
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    here = f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.platform()}"
    return f"{here}\nPython {platform.python_version()}, {packages}"


if __name__ == "__main__":
    sys.exit(main())
