"""The small edition against the full one: bytes, build, training loop, stream, and what a file tells without pixels."""

import os
import shutil
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from hyper_kvasir import Expected, Part
from scripts.bench.sources import expectations, missing
from scripts.bench.streams import streamed
from scripts.bench.updates import hub_bytes
from scripts.pipeline import leaks, stats
from scripts.pipeline.console import say, table
from scripts.pipeline.manifest import part_of_path, read_manifest
from scripts.pipeline.measure import run
from scripts.pipeline.parquet import write_shard
from scripts.pipeline.plan import make_plan, plan_shard
from scripts.pipeline.small import shard_limits

SIDE = 256
DECODE = "decoding alone, by Pillow"
EDITIONS = {"full": [], "small": ["--max-side", str(SIDE)]}
IMAGES = 110_079  # of the official dataset
STREAMED = 64  # images, after the first
WORKERS = (0, 2)


def bench_small(work: str, archive: str, official: str, runs: int) -> str:
    """Four tables: of generated photographs and their two editions, and of the real images in the folder `official`."""
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    built, builds = _build(work, archive, runs)
    texts = [builds, _feed(work, built), _stream(work, built, official), _real(work, official)]
    shutil.rmtree(work)
    return "\n\n".join(texts)


def _build(work, archive, runs):
    """({edition: folder}, the table of their builds beside a bare decoding)."""
    source = os.path.dirname(archive)
    command = [sys.executable, "-m", "scripts.build", "--source", source, "--config", "labeled", *expectations(source)]
    commands = {DECODE: [sys.executable, "-m", "scripts.bench.rivals", "decode", archive, work]}
    folders = {name: os.path.join(work, name) for name in EDITIONS}
    commands |= {name: [*command, "--out", folders[name], *flags] for name, flags in EDITIONS.items()}
    measured = {name: [] for name in commands}
    for _ in range(runs):
        for name, line in commands.items():
            shutil.rmtree(folders.get(name, ""), ignore_errors=True)
            measured[name].append(run(line))
            say(f"{name}: {measured[name][-1].seconds:.2f} s")
    rows = []
    for name, results in measured.items():
        seconds = min(result.seconds for result in results)
        ratio = seconds / min(result.seconds for result in measured[DECODE])
        cpu, peak = min(result.cpu_seconds for result in results), max(result.peak_bytes for result in results)
        size, images = _bytes_of(folders[name]) if name in folders else ("", "")
        numbers = f"{seconds:.2f}", f"{ratio:.2f}", f"{cpu:.2f}", f"{peak / 1e6:.0f}"
        rows.append((name, *numbers, size, f"{size / images / 1000:.1f}" if images else ""))
    header = ("", "seconds", "of decoding", "CPU seconds", "peak MB of a process", "bytes", "kB an image")
    head = f"{images:,} generated photographs, {os.cpu_count()} cores, the quickest of {runs}"
    return folders, f"{head}\n{table(header, rows)}"


def _bytes_of(folder, part="labeled"):
    """(bytes of the files of a part, images in them)"""
    entries = [e for path, e in read_manifest(folder)["files"].items() if part_of_path(path) == part]
    return sum(entry["bytes"] for entry in entries), sum(entry["rows"] for entry in entries)


def _feed(work, built):
    """Images a second at 224 pixels into a DataLoader, decoded whole and by the card's transform."""
    from scripts.bench import feed  # loads torch

    if absent := missing(feed.RIVALS):
        advice = "pip install -r scripts/bench/requirements.txt"
        return f"A training loop was not measured: no {', '.join(absent)} ({advice})"
    feed.be_quiet(work)
    rates = {}
    for name, folder in built.items():
        for way, loader in feed.own_feeds(folder, "labeled", feed.run_snippet(folder)).items():
            for n in WORKERS:
                rates[name, way, n] = 1 / min(feed.measure(loader(n), n)[0] for _ in range(2))
                say(f"{name}, {way}, {n} workers: {rates[name, way, n]:.0f} images/s")
    rows = []
    for name, way in dict.fromkeys((name, way) for name, way, _ in rates):
        own, whole = ([rates[edition, way, n] for n in WORKERS] for edition in (name, "full"))
        rows.append((name, way, *map(round, own), *(f"{one / other:.1f}" for one, other in zip(own, whole))))
    columns = (*(f"images/s, {n} workers" for n in WORKERS), *(f"of full, {n}" for n in WORKERS))
    return table(("edition", "into a DataLoader at 224 pixels", *columns), rows)


def _stream(work, built, official):
    """The first example of each edition from a loopback Hub that is slow, and its bytes."""
    rows, published = [], {}
    for name, folder in built.items():
        published[name] = {path: os.path.join(folder, path) for path in read_manifest(folder)["files"]}
    published["small, unlabeled"] = _as_unlabeled(work, official)
    for name, files in published.items():
        hub = os.path.join(work, f"hub-{name}")
        hub_bytes(hub, files, {}, [])
        found = min((streamed(hub, None, STREAMED, shaped=True) for _ in range(2)), key=lambda run: run.first_seconds)
        rows.append((name, f"{found.first_seconds:.2f}", *found.before, f"{found.rate:.0f}"))
    header = ("edition", "first example (s)", "requests", "bytes", "images/s after, not decoded")
    return "from a loopback Hub of 50 ms a request and 50 MB/s\n" + table(header, rows)


def _as_unlabeled(work, official):
    """{path: file} of as many real images as a file of the small edition's unlabeled part has at most.

    The path is a labeled one, which is what `streamed` reads.
    """
    limits = shard_limits("unlabeled", SIDE)
    part = make_plan([official], ["segmented"], Expected.load(None), checks=False).parts[0]
    (shard,) = Part("unlabeled", part.archive, {}, part.rows[: limits[1]]).shards(limits)
    place = os.path.join(work, "unlabeled.parquet")
    write_shard(*plan_shard(shard, SIDE), place, max_side=SIDE)
    return {"data/labeled/all/all/00.parquet": place}


def _real(work, official):
    """Of the real images: their bytes, and how well polyps are told from other findings without a pixel."""
    places = {"segmented": official, "labeled": os.path.join(official, "labeled-sample")}
    rows = []
    for name, flags in EDITIONS.items():
        out = os.path.join(work, f"real-{name}")
        for config, place in places.items():
            command = [sys.executable, "-m", "scripts.build", "--source", place, "--config", config, "--out", out]
            run([*command, "--no-verify", *flags])
        summaries = list(stats.by_part(stats.read_stats(out)).values())
        encoders, bits = (stats.merged(kind, summaries) for kind in ("encoders", "bits"))
        told = stats.auc_of_bits(bits, stats.POLYPS)
        images = sum(count for *_, count in bits)
        size = sum(map(_image_bytes, Path(out).rglob("*.parquet"))) / images
        numbers = (
            f"{size / 1000:.1f}",
            f"{size * IMAGES / 1e9:.2f}",
            f"{leaks.auc_of_header(encoders, stats.POLYPS):.2f}",
            f"{max(told, 1 - told):.2f}",
        )
        rows.append((name, *numbers))
    others = sum(count for label, *_, count in encoders if label != stats.POLYPS)
    head = f"{images:,} real images; polyps against {others} images of other findings, told without a pixel"
    columns = ("edition", "kB an image", f"GB of {IMAGES:,} such", "AUC by the JPEG header", "AUC by bits a pixel")
    return f"{head}\n{table(columns, rows)}"


def _image_bytes(path):
    column = pq.read_table(path, columns=["image"], partitioning=None)["image"]
    return pc.sum(pc.binary_length(pc.struct_field(column, "bytes"))).as_py()
