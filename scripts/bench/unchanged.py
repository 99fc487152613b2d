"""What building again costs, in the true numbers: where nothing changed, and where 10 labels did."""

import os
import shutil
import sys

from scripts.bench.sources import expectations, tiny
from scripts.pipeline.console import say, table
from scripts.pipeline.manifest import read_manifest
from scripts.pipeline.measure import Run, run

OFFICIAL = {"findings": "official", "segmented": 1000, "unlabeled": 99_417}
HEADER = ("build", "runs", "seconds", "peak MB of a process", "files built", "images in them", "images read")

# Runs scripts.build, and writes to a file how many images, masks left out, it read in all of its processes.
COUNTED = """
import multiprocessing, sys
from hyper_kvasir import Archive
from scripts.build import main
read, count = Archive.read, multiprocessing.Value("q")
def counted(archive, member):
    with count.get_lock():
        count.value += member.name.endswith(".jpg") and "/masks/" not in member.name
    return read(archive, member)
Archive.read = counted
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(count.value))
sys.exit(code)
"""


def bench_unchanged(work: str, **numbers) -> str:
    """Builds a source and one of 10 other labels in turns; `numbers` as of `tiny`, by default the official ones.

    The images have some hundred bytes: the seconds are those of the work on rows, files and the card. Of a new build,
    the segmented images are read twice, once for their digest.
    """
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    numbers = numbers or OFFICIAL
    source = tiny(os.path.join(work, "source"), **numbers)
    other = tiny(os.path.join(work, "relabeled"), **numbers, relabel=10)
    again, changed = "again, nothing changed", "again, 10 labels changed"
    steps = [("new", source), (again, source), (again, source), (changed, other), (changed, source)]
    measured: dict[str, list[tuple[Run, tuple]]] = {}
    for name, place in steps:
        measured.setdefault(name, []).append(_counted_build(work, place))
        say(f"{name}: {measured[name][-1][0].seconds:.2f} s")
    rows = []
    for name, results in measured.items():
        seconds = min(result.seconds for result, _ in results)
        peak = max(result.peak_bytes for result, _ in results)
        rows.append((name, len(results), f"{seconds:.2f}", f"{peak / 1e6:.0f}", *max(counts for _, counts in results)))
    shutil.rmtree(work)
    return f"{rows[0][-2]:,} rows of tiny images, {os.cpu_count()} cores, the quickest run of each\n" + table(
        HEADER, rows
    )


def _counted_build(work, source):
    """(Run, (files built, images in them, images read)) of a build into the folder that the one before it left."""
    out, count = os.path.join(work, "out"), os.path.join(work, "count")
    before = (read_manifest(out) or {"files": {}})["files"]
    flags = ["--source", source, "--out", out, *expectations(source)]
    result = run([sys.executable, "-c", COUNTED, count, *flags])
    built = [entry["rows"] for path, entry in read_manifest(out)["files"].items() if before.get(path) != entry]
    with open(count) as file:
        return result, (len(built), sum(built), int(file.read()))
