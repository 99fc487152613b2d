"""Files of several sizes: what a stream costs before its first example and after, how well it mixes, and updates."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from itertools import islice
from statistics import mean
from subprocess import PIPE
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hyper_kvasir import TAXONOMY, VIEWS, Expected, Part
from scripts.bench.sources import expected_of, official
from scripts.bench.updates import REPO, hub_bytes, labeled, new_bytes, other_label, write_files
from scripts.loopback_hub import LoopbackHub
from scripts.pipeline.card import BUFFER
from scripts.pipeline.console import say, table
from scripts.pipeline.plan import make_plan
from scripts.pipeline.stats import in_percent

LIMITS = {  # (bytes, images) of a file
    "64 MB": (64 << 20, math.inf),
    "32 MB": (32 << 20, math.inf),
    "16 MB": (16 << 20, math.inf),
    "as built": None,
}
PUSHED, PUSHED_BYTES = "push_to_hub", 500_000_000  # the most bytes of a file that it makes
BUFFERS = (1000, BUFFER)  # what datasets shuffles by, and what the card advises
WINDOW, SEEDS = 256, 3
IMAGES, ROUNDS = 250, 2  # that are streamed from the Hub, and how often
DELAY, BANDWIDTH = 0.05, 50_000_000  # of the Hub: seconds a request, bytes a second


def bench_streams(work: str, archive: str, official_folder: str) -> str:
    """Two tables: of the official labeled part by plan, and of generated photographs that come from a loopback Hub."""
    place = os.path.join(work, "streams")
    shutil.rmtree(place, ignore_errors=True)
    return "\n".join([by_plan(place, official_rows(work, official_folder)), from_a_hub(place, archive)])


# ------------------------------------------------------------------------------------------ the official part, by plan


def official_rows(work, folder):
    """The rows of the official labeled part. Those of no image at hand have the mean size of their kind.

    Images of the upper tract are four times as large as those of the lower, and polyps a fifth of these: with one mean
    of all, other files would come out. Sizes are scaled so that they add up to the official archive's.
    """
    tiny = official(work, folder)
    rows = make_plan([tiny], ["labeled"], expected_of(tiny)).parts[0].rows
    places = [os.path.join(folder, "labeled-sample"), folder]
    at_hand = make_plan(places, ["labeled", "segmented"], Expected.load(None), checks=False).parts
    sizes = {row.image_id: row.image.size for part in at_hand for row in part.rows}
    of_kind = defaultdict(list)
    for row in rows:
        if row.image_id in sizes:
            of_kind[kind(row)].append(sizes[row.image_id])
    sizes = {row.image_id: sizes.get(row.image_id) or mean(of_kind[kind(row)]) for row in rows}
    scale = Expected.load(None).sources["hyper-kvasir-labeled-images.zip"]["bytes"] / sum(sizes.values())
    return [row._replace(image=row.image._replace(size=round(scale * sizes[row.image_id]))) for row in rows]


def kind(row):
    return "polyps" if TAXONOMY[row.label].name == "polyps" else TAXONOMY[row.label].tract


def by_plan(work, rows):
    """Planned files: how a shuffled stream of them mixes labels, and what it asks for before its first example.

    The order of a stream follows from the order of the files and of the rows in each. So the files that are streamed
    hold labels alone, in place of the planned ones, and those that are opened count with the bytes that are planned.
    """
    chance, labels = np.random.default_rng(0), np.array([row.label for row in rows])
    perfect = mean(entropy(chance.permutation(labels)) for _ in range(SEEDS))
    total, lines = size_of(rows), []
    for name, files in layouts(rows).items():
        folder = os.path.join(work, "plan", name)
        for path, chosen in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
            pq.write_table(pa.table({"label": [row.label for row in chosen]}), os.path.join(folder, path))
        line = [name, len(files), max(map(size_of, files.values())), max(map(len, files.values()))]
        for buffer in (0, *BUFFERS):
            say(f"labels in files of {name}, a buffer of {buffer}")
            passes = child("mix", folder, buffer, SEEDS if buffer else 1, env=offline(work))
            line.append(in_percent(mean(entropy(found) for found, _ in passes) / perfect))
            if buffer:  # what was pushed has several row groups a file, and is not read by the file
                asked = mean(sum(size_of(files[path]) for path in opened) for _, opened in passes)
                line.append(in_percent(asked / total) if name != PUSHED else "")
        lines.append(line)
    header = ("files up to", "files", "largest bytes", "most images", "not shuffled")
    header += tuple(text for buffer in BUFFERS for text in (f"buffer of {buffer:,}", "read before"))
    head = f"labeled part of {len(rows):,} images, {total / 1e9:.2f} GB, by plan: entropy of the labels in windows of "
    head += f"{WINDOW}\n(in perfect order {perfect:.3f}), bytes read before the first example; means of {SEEDS} seeds\n"
    return head + table(header, lines)


def layouts(rows):
    """{name: {path: rows of that file}}"""
    part = Part("labeled", None, {}, rows)
    found = {name: {shard.path: shard.rows for shard in part.shards(limits)} for name, limits in LIMITS.items()}
    rows = sorted(rows, key=lambda row: row.image.name)  # as they lie in their folders
    ends = np.linspace(0, len(rows), size_of(rows) // PUSHED_BYTES + 2).astype(int).tolist()
    pieces = [rows[start:end] for start, end in zip(ends, ends[1:])]
    return {**found, PUSHED: {f"data/labeled/all/all/{i:02}.parquet": piece for i, piece in enumerate(pieces)}}


def size_of(rows):
    return sum(row.image.size for row in rows)


def offline(work):
    return {**os.environ, "HF_HOME": os.path.abspath(os.path.join(work, "home")), "HF_HUB_OFFLINE": "1"}


def entropy(labels):
    """The mean entropy of the labels in windows of a stream, in nats."""
    windows = [labels[i : i + WINDOW] for i in range(0, len(labels) - WINDOW + 1, WINDOW)] or [labels]
    shares = [np.bincount(window)[np.unique(window)] / len(window) for window in windows]
    return float(mean(-(share * np.log(share)).sum() for share in shares))


# ----------------------------------------------------------------------------------------- photographs, from a Hub


def from_a_hub(work, archive):
    """What an unshuffled stream of the archive costs that is published in files of several sizes, and an update."""
    source = os.path.dirname(archive)
    part = make_plan([source], ["labeled"], expected_of(source)).parts[0]
    rows = random.Random(0).sample(part.rows, len(part.rows))
    relabeled = [row._replace(label=other_label(row)) for row in rows[:10]] + rows[10:]
    measured, known = {}, {}
    for name, limits in LIMITS.items():
        say(f"photographs in files of {name}")
        files, changed = (
            write_files(work, labeled(part.archive, some).shards(limits), known) for some in (rows, relabeled)
        )
        moved = [file for path, file in changed.items() if files.get(path) != file]
        store = os.path.abspath(os.path.join(work, "store"))
        os.makedirs(store)
        new_bytes(store, list(files.values()))
        measured[name] = (len(files), len(moved), new_bytes(store, moved))
        shutil.rmtree(store)
        hub_bytes(os.path.join(work, f"hub {name}"), files, {}, [])
    runs, lines = defaultdict(list), []
    for name in [*LIMITS] * ROUNDS:
        runs[name].append(streamed(os.path.join(work, f"hub {name}"), None, min(IMAGES, len(rows)), shaped=True))
    for name, (files, *update) in measured.items():
        first, rate = min(run.first_seconds for run in runs[name]), max(run.rate for run in runs[name])
        scan = streamed(os.path.join(work, f"hub {name}"), ["label"], len(rows), shaped=False)
        lines.append((name, files, f"{first:.2f}", *runs[name][0].before, f"{rate:.0f}", *scan.in_all, *update))
    shutil.rmtree(work)
    header = ("files up to", "files", "first (s)", "requests", "bytes", "images/s after")
    header += ("label scan", "bytes", "10 new labels", "new bytes")
    head = (
        f"{len(rows):,} photographs of {size_of(rows) / 1e9:.2f} GB, not decoded, not shuffled, from a loopback Hub of"
    )
    head += f"\n{1000 * DELAY:.0f} ms a request and {BANDWIDTH / 1e6:.0f} MB/s; quickest of {ROUNDS}\n"
    return head + table(header, lines)


class Stream(NamedTuple):
    """A stream from a Hub: seconds to its first example, examples a second after it; (requests, bytes) up to there."""

    first_seconds: float
    rate: float
    before: tuple[int, int]
    in_all: tuple[int, int]


def streamed(folder, columns, images, shaped):
    """Streams some columns of the first images from the Hub in a folder, which is slow if `shaped`."""
    with LoopbackHub(folder) as hub:
        if shaped:
            hub.faults(delay=DELAY, times=0)
            hub.limit_bandwidth(BANDWIDTH)
        started, first, end = child("times", REPO, columns, images, env=hub.env())
        asked = [(entry["time"], entry["bytes_out"]) for entry in hub.log()]

    def until(moment):
        sizes = [size for at, size in asked if started <= at <= moment]
        return len(sizes), sum(sizes)

    return Stream(first - started, (images - 1) / (end - first), until(first), until(end))


# ------------------------------------------------------------------------------------------- in processes of their own


def mix(folder, buffer, seeds):
    """[(labels, files opened before the first)] of a pass for each seed over a folder; buffer 0: not shuffled."""
    opened, passes = set(), []

    def hear(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".parquet"):
            opened.add(os.path.relpath(arguments[0], folder))

    sys.addaudithook(hear)
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # it is for a program that ends by itself
    for seed in range(seeds):
        stream = load(folder)
        stream = iter(stream.shuffle(seed=seed, buffer_size=buffer) if buffer else stream)
        opened.clear()
        labels = [next(stream)["label"]]
        time.sleep(0.3)  # what is read ahead is opened, too
        before = sorted(opened)
        passes.append(([*labels, *(row["label"] for row in stream)], before))
    return passes


def times(repo, columns, images):
    """When a stream was opened, when its first example came, and the last of some."""
    stream = load(repo, columns=columns).decode(False)
    moments = [time.time()]
    for i, _ in enumerate(islice(stream, images)):
        if i in (0, images - 1):
            moments.append(time.time())
    return moments


def load(place, **settings):
    return datasets.load_dataset(place, data_files=VIEWS["labeled"].files, split="train", streaming=True, **settings)


def child(function, *arguments, env):
    """What a function of this module returns in a new process, ended at once: see `console.run`."""
    code = f"import json, os, sys; from scripts.bench.streams import {function} as function\n"
    code += "print(json.dumps(function(*json.load(sys.stdin)))); sys.stdout.flush(); os._exit(0)"
    given = json.dumps(arguments)
    done = subprocess.run([sys.executable, "-c", code], input=given, env=env, check=True, text=True, stdout=PIPE)
    return json.loads(done.stdout.splitlines()[-1])
