"""Measures speed and memory as ratios to a rival that does the same work in the same run.

    python -m scripts.bench build                 # archive to Parquet, against `unzip -q` and `cp` of the archive
    python -m scripts.bench build --archive hyper-kvasir-labeled-images.zip --runs 3
    python -m scripts.bench updates               # what an update of the labeled part sends, by hf_xet's own count

Runs alternate with the rival's; the quickest of each counts, since noise only ever adds time.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hyper_kvasir import TAXONOMY, Expected, plan_parts
from scripts.pipeline.console import say, table
from scripts.pipeline.parquet import write_part, write_table
from scripts.pipeline.plan import make_plan, plan_part


class Run(NamedTuple):
    seconds: float
    parquet_seconds: float | None  # until the Parquet files were in place, of a build
    cpu_seconds: float
    peak_bytes: int  # of the largest process


def run(command: list[str]) -> Run:
    """Runs a command to its end and measures it with its children. Raises RuntimeError if it fails."""
    started, parquet_at, said = time.monotonic(), None, []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        said.append(line)
        if line.startswith("Parquet files:"):
            parquet_at = time.monotonic() - started
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {''.join(said)[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(time.monotonic() - started, parquet_at, cpu, usage.ru_maxrss * 1024)


def photographs(work: str, gigabytes: float) -> str:
    """A labeled archive of generated photographs, made if it is not there."""
    source = os.path.join(work, f"source-{gigabytes:g}")
    if not os.path.exists(os.path.join(source, "expected.json")):
        say(f"generating {gigabytes:g} GB of photographs")
        run([sys.executable, "-m", "tests.fake_source", source, "--gigabytes", str(gigabytes), "--images", "photo"])
    return os.path.join(source, "hyper-kvasir-labeled-images.zip")


# ------------------------------------------------------------------------------------------------------------- build


def bench_build(work: str, archive: str, runs: int) -> str:
    """Archive to Parquet against unzip and cp of the same archive; all files in the page cache, as after a download."""
    source = os.path.dirname(archive)
    expect = os.path.join(source, "expected.json")
    flags = ["--expect", expect] if os.path.exists(expect) else []
    out = os.path.join(work, "out")
    build = [sys.executable, "-m", "scripts.build", "--source", source, "--config", "labeled", "--out", out, *flags]
    commands = {
        "unzip -q": ["unzip", "-q", archive, "-d", out],
        "cp": ["cp", archive, out],
        "scripts.build": build,
        "scripts.build --workers 1": [*build, "--workers", "1"],
    }
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            if name in ("unzip -q", "cp"):
                os.makedirs(out)
            measured[name].append(run(command))
            say(f"{name}: {measured[name][-1].seconds:.2f} s")
    shutil.rmtree(out, ignore_errors=True)
    seconds = {name: min(r.seconds for r in results) for name, results in measured.items()}
    for name in ("scripts.build", "scripts.build --workers 1"):
        seconds[f"  {name}, to Parquet"] = min(r.parquet_seconds for r in measured[name])
    rows = []
    for name, quickest in sorted(seconds.items(), key=lambda item: item[0].strip()):
        results = measured.get(name, [])
        ratios = (f"{quickest / seconds[rival]:.2f}" for rival in ("unzip -q", "cp"))
        cpu = f"{min(r.cpu_seconds for r in results):.2f}" if results else ""
        peak = f"{max(r.peak_bytes for r in results) / 1e6:.0f}" if results else ""
        rows.append((name, f"{quickest:.2f}", *ratios, cpu, peak))
    size = f"{os.path.getsize(archive) / 1e9:.2f} GB"
    head = f"{os.path.basename(archive)}: {size}, {os.cpu_count()} cores, quickest of {runs}\n"
    return head + table(("command", "seconds", "of unzip", "of cp", "CPU seconds", "peak MB of a process"), rows)


# ----------------------------------------------------------------------------------------------------------- updates


def bench_updates(work: str, archive: str) -> str:
    """New bytes of updated versions in a deduplicating store that holds version 1: hf_xet's own `local://` store.

    Version 1 is the archive less 20 images, which the version with 20 images more adds. Only files that differ are
    given to hf_xet, as scripts.publish does.
    """
    source = os.path.dirname(archive)
    expected = Expected.load(os.path.join(source, "expected.json"))
    (planned,) = {p.part.archive for p in make_plan([source], ["labeled"], expected).parts.values()}
    rows = [row for p in make_plan([source], ["labeled"], expected).parts.values() for row in p.part.rows]
    chance = random.Random(0)
    chance.shuffle(rows)
    first, new = rows[20:], rows[:20]
    chosen = first[:10]
    versions = {
        "nothing changed": first,
        "10 labels changed": [row._replace(label=other_label(row)) for row in chosen] + first[10:],
        "3 images removed": first[3:],
        "20 images added": rows,
    }
    store = os.path.join(work, "store")
    shutil.rmtree(work, ignore_errors=True)
    base = write_rows(work, planned, first)
    size = sum(os.path.getsize(path) for path in base.values())
    new_bytes, wire = upload_bytes(store, list(base.values()))
    lines = [("version 1", len(base), size, new_bytes, wire, percent(new_bytes, size))]
    for name, version in versions.items():
        files = write_rows(work, planned, version)
        changed = [path for key, path in files.items() if key not in base]
        lines.append((name, len(changed), *measured(store, changed, size)))
        if name == "20 images added":
            own = sum(row.image.size for row in new)
            lines.append(("  (their own bytes)", "", own, "", "", percent(own, size)))
    wider = [add_column(path) for path in base.values()]
    lines.append(("a column added", len(wider), *measured(store, wider, size)))
    header = ("update", "files", "bytes of these", "new bytes", "sent with shards", "of the config")
    return f"labeled part of {len(first):,} images, {size / 1e9:.2f} GB\n" + table(header, lines)


def other_label(row):
    """Another finding of the same tract, mostly of another category, so that the image moves to another file."""
    tract = TAXONOMY[row.label].tract
    return next(i for i, f in enumerate(TAXONOMY) if f.tract == tract and i != row.label)


def write_rows(work, archive, rows):
    """Writes the files of these rows that were not written before: {key: path}."""
    parts = plan_parts("labeled", archive, sorted(rows, key=lambda row: row.image_id))
    paths = {p.key: (p, os.path.join(work, "files", f"{p.key}.parquet")) for p in map(plan_part, parts)}
    for part, path in paths.values():
        if not os.path.exists(path):
            write_part(*part, path)
    return {key: path for key, (_, path) in paths.items()}


def add_column(path):
    """The same file with one more column, as a later version of the dataset might have."""
    table = pq.read_table(path)
    wider = table.append_column("blur", pa.array([0.5] * table.num_rows, pa.float32()))
    with open(path + ".wider", "wb") as file:
        write_table(wider, {}, file)
    return path + ".wider"


def measured(store, paths, size):
    """(bytes of the files, new bytes, bytes sent, share of the config) of an upload onto a copy of the store."""
    trial = store + "-trial"
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(store, trial)
    new, wire = upload_bytes(trial, paths)
    return sum(map(os.path.getsize, paths)), new, wire, percent(new, size)


UPLOAD = """
import sys, hf_xet
commit = hf_xet.XetSession().new_upload_commit(endpoint="local://" + sys.argv[1])
handles = [commit.start_upload_file(path) for path in sys.argv[2:]]
metrics = commit.wait_to_finish().dedup_metrics
print(metrics.new_bytes, metrics.xorb_bytes_uploaded + metrics.shard_bytes_uploaded)
"""


def upload_bytes(store, paths):
    """(new bytes, bytes of xorbs and shards) of an upload to a local store of hf_xet, as from another machine."""
    if not paths:
        return 0, 0
    store = os.path.abspath(store)
    env = {**os.environ, "HF_HOME": tempfile.mkdtemp(dir=os.path.dirname(store))}
    command = [sys.executable, "-c", UPLOAD, store, *paths]
    said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    new, wire = map(int, said.split())
    return new, wire


def percent(part, whole):
    return f"{100 * part / whole:.3f} %"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["build", "updates"])
    parser.add_argument("--archive", metavar="ZIP", help="a labeled archive; default: one of generated photographs")
    parser.add_argument("--gigabytes", type=float, default=1.05, help="size of a generated one (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="times each command runs (default: %(default)s)")
    parser.add_argument("--work", metavar="DIR", default="dist/bench", help="where to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    os.makedirs(args.work, exist_ok=True)
    archive = args.archive or photographs(args.work, args.gigabytes)
    if args.what == "build":
        print(bench_build(args.work, archive, args.runs))
    else:
        print(bench_updates(os.path.join(args.work, "updates"), archive))
    return 0


if __name__ == "__main__":
    sys.exit(main())
