"""Measures speed and memory as ratios to a rival that does the same work in the same run.

    python -m scripts.bench build                 # archive to Parquet, against `unzip -q` and `cp` of the archive
    python -m scripts.bench build --archive hyper-kvasir-labeled-images.zip --runs 3
    python -m scripts.bench updates               # what an update of the labeled part sends to the Hub
    python -m scripts.bench commit                # the request that commits as many files as the whole dataset has

Runs alternate with the rival's; the quickest of each counts, since noise only ever adds time.
"""

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from hyper_kvasir import TAXONOMY, VIEWS, Expected, Part
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline import stats
from scripts.pipeline.card import make_card
from scripts.pipeline.console import command_parser, number, say, table
from scripts.pipeline.hub import Repository, State
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest
from scripts.pipeline.measure import Run, claim, run
from scripts.pipeline.parquet import find_rows, write_shard, write_table
from scripts.pipeline.plan import SCHEMA, make_plan, plan_shard

REPO = "ns/hyper-kvasir"


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
    out, extracted = os.path.join(work, "out"), os.path.join(work, "extracted")

    def build(place, *more):
        command = [sys.executable, "-m", "scripts.build", "--source", place, "--config", "labeled", "--out", out]
        return [*command, *flags, *more]

    # In an order in which each finds what it needs: verify and a second build the build before them.
    commands = {
        "unzip -q": ["unzip", "-q", archive, "-d", extracted],
        "cp": ["cp", archive, out],
        "scripts.build --workers 1": build(source, "--workers", "1"),
        "scripts.build of the extracted folder, decoding": build(extracted),
        "scripts.build": build(source),
        "scripts.build again, nothing changed": build(source),
        "scripts.verify, decoding": [sys.executable, "-m", "scripts.verify", out, *flags],
    }
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(runs):
        shutil.rmtree(extracted, ignore_errors=True)
        for name, command in commands.items():
            if "again" not in name and "verify" not in name:
                shutil.rmtree(out, ignore_errors=True)
            if name in ("unzip -q", "cp"):
                os.makedirs(extracted if name == "unzip -q" else out)
            if "extracted" in name:
                for file in ("2_fold_split.csv", "5_fold_split.csv"):
                    shutil.copy(os.path.join(source, file), extracted)
            measured[name].append(run(command))
            say(f"{name}: {measured[name][-1].seconds:.2f} s")
    for folder in (out, extracted):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = {name: min(r.seconds for r in results) for name, results in measured.items()}
    for name in ("scripts.build", "scripts.build --workers 1", "scripts.build of the extracted folder, decoding"):
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


# ------------------------------------------------------------------------------------------------------------ commit


def bench_commit(work: str, operations: int = 550) -> str:
    """The request that commits `operations` files: the card of a miniature, and copies of its data files."""
    source, folder = os.path.join(work, "miniature"), os.path.join(work, "miniature-built")
    shutil.rmtree(work, ignore_errors=True)
    run([sys.executable, "-m", "tests.fake_source", source])
    expect = ["--expect", os.path.join(source, "expected.json")]
    run([sys.executable, "-m", "scripts.build", "--source", source, "--out", folder, *expect])
    manifest = read_manifest(folder)
    texts = {path: Path(folder, path).read_bytes() for path in [*manifest["card"]["files"], FILE]}
    data = sorted(manifest["files"])
    copies = [f"{data[i % len(data)][:-8]}{i:02}.parquet" for i in range(operations - len(texts))]
    for i, path in enumerate(copies):
        with open(os.path.join(folder, path), "wb") as file:
            file.write(b"PAR1%d" % i)
    with LoopbackHub(os.path.join(work, "hub")) as hub:
        repository = Repository(HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN), REPO)
        head = repository.make(State(REPO, None))
        additions = [*repository.upload(copies, folder).values(), *repository.prepare(texts)]
        hub.reset()
        started = time.monotonic()
        repository.commit(additions, [], "one commit", head)
        seconds, sent = time.monotonic() - started, hub.counters()["uploaded"]["commits"]
    return f"one commit of {len(additions):,} files: a request of {sent:,} bytes, answered in {seconds:.2f} s"


# ----------------------------------------------------------------------------------------------------------- updates


class Version(NamedTuple):
    """A version of the labeled part by paths in its repository: data files on this disk; card and manifest."""

    files: dict[str, str]
    texts: dict[str, bytes]


def bench_updates(work: str, archive: str) -> str:
    """What updated versions send: new bytes by hf_xet's own `local://` store, and all that the loopback Hub received.

    Version 1 is the archive less 20 images, which the version with 20 images more adds. As scripts.publish does, only
    files that differ are given to the clients, here from a machine that knows nothing of earlier uploads.
    """
    source = os.path.dirname(archive)
    expected = Expected.load(os.path.join(source, "expected.json"))
    part = make_plan([source], ["labeled"], expected).parts[0]
    rows = list(part.rows)
    chance = random.Random(0)
    chance.shuffle(rows)
    first, new = rows[20:], rows[:20]
    relabeled = [row._replace(label=other_label(row)) for row in first[:10]] + first[10:]
    shutil.rmtree(work, ignore_errors=True)

    known: dict[str, dict] = {}

    def make(rows, changelog="1.0.0"):
        return make_version(work, part.archive, rows, f"# Changelog\n\n## {changelog}\n", known)

    base = make(first)
    size = sum(map(os.path.getsize, base.files.values()))
    own = sum(row.image.size for row in new)
    wider = Version({path: add_column(file) for path, file in base.files.items()}, base.texts)
    versions = {
        "nothing changed": base,
        "10 labels changed": make(relabeled),
        "3 images removed": make(first[3:]),
        "20 images added": make(rows),
        "a column added": wider,
        "the card alone": make(first, "1.0.1"),
    }
    lines = [("version 1", *sent(work, Version({}, {}), base, size))]
    for name, version in versions.items():
        lines.append((name, *sent(work, base, version, size)))
        if name == "20 images added":
            lines.append(("  (their own bytes)", "", own, "", percent(own, size), "", ""))
    header = ("update", "files", "bytes of these", "new bytes", "of the config", "the Hub received", "of the config")
    return f"labeled part of {len(first):,} images, {size / 1e9:.2f} GB\n" + table(header, lines)


def make_version(work, archive, rows, changelog, known):
    """The version of the labeled part that has these rows; files that are `known`, with their entries, are there."""
    files, entries = {}, {}
    for planned in map(plan_shard, Part("labeled", archive, {}, sorted(rows, key=lambda row: row.image_id)).shards()):
        path, file = planned.shard.path, os.path.join(work, "files", f"{planned.key}.parquet")
        if file not in known:
            known[file] = write_shard(*planned, file)
        files[path], entries[path] = file, known[file]
    manifest = make_manifest([config for config, view in VIEWS.items() if view.part == "labeled"], {}, entries, SCHEMA)
    summaries = stats.collect(work, manifest, {}, files.get)

    def examples(part, image_ids):
        return find_rows([files[path] for path in stats.paths_of(summaries, part, image_ids)], image_ids)

    manifest, texts = make_card(manifest, summaries, examples, REPO, changelog)
    return Version(files, {**texts, FILE: manifest_text(manifest).encode()})


def other_label(row):
    """Another finding of the same tract, mostly of another category, so that the image moves to another file."""
    tract = TAXONOMY[row.label].tract
    return next(i for i, f in enumerate(TAXONOMY) if f.tract == tract and i != row.label)


def add_column(path):
    """The same file with one more column, as a later version of the dataset might have."""
    table = pq.read_table(path)
    wider = table.append_column("blur", pa.array([0.5] * table.num_rows, pa.float32()))
    with open(path + ".wider", "wb") as file:
        write_table(wider, "labeled", {}, file)
    return path + ".wider"


def sent(work, old, new, size):
    """(data files, bytes of them, new bytes, their share, bytes the Hub received, their share) of an update."""
    changed = {path: file for path, file in new.files.items() if old.files.get(path) != file}
    texts = {path: text for path, text in new.texts.items() if old.texts.get(path) != text}
    gone = sorted((set(old.files) | set(old.texts)) - set(new.files) - set(new.texts))
    local, hub = (store_of(work, name, keep=not old.files) for name in ("store", "hub"))
    fresh = new_bytes(local, list(changed.values())) if changed else 0
    received = hub_bytes(hub, changed, texts, gone) if changed or texts or gone else 0
    total = sum(map(os.path.getsize, changed.values()))
    return len(changed), total, fresh, percent(fresh, size), received, percent(received, size)


def store_of(work, name, keep):
    """The store that version 1 goes to, or a copy of it to try an update on."""
    store = os.path.abspath(os.path.join(work, name))
    if keep:
        return store
    shutil.rmtree(f"{store}-trial", ignore_errors=True)
    return shutil.copytree(store, f"{store}-trial")


UPLOAD = """
import sys, hf_xet
commit = hf_xet.XetSession().new_upload_commit(endpoint="local://" + sys.argv[1])
handles = [commit.start_upload_file(path) for path in sys.argv[2:]]
print(commit.wait_to_finish().dedup_metrics.new_bytes)
"""


def new_bytes(store, files):
    """Bytes that hf_xet finds in no chunk of a local store, and adds to it."""
    env = {**os.environ, "HF_HOME": tempfile.mkdtemp(dir=os.path.dirname(store))}
    done = subprocess.run([sys.executable, "-c", UPLOAD, store, *files], env=env, check=True, stdout=subprocess.PIPE)
    return int(done.stdout)


COMMIT = """
import base64, json, sys
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from scripts.pipeline.hub import Repository
repo_id, files, texts, gone = json.load(sys.stdin)
api = HfApi()
api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
repository = Repository(api, repo_id)
repository.recall(repository.state(), files)
operations = [CommitOperationAdd(path, file) for path, file in files.items()]
operations += [CommitOperationAdd(path, base64.b64decode(text)) for path, text in texts.items()]
operations += [CommitOperationDelete(path) for path in gone]
api.create_commit(repo_id, operations, commit_message="update", repo_type="dataset")
"""


def hub_bytes(folder, files, texts, gone):
    """Bytes of content, indexes and commit that a loopback Hub in `folder` receives of one commit."""
    given = [REPO, files, {path: base64.b64encode(text).decode() for path, text in texts.items()}, gone]
    with LoopbackHub(folder) as hub, tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as home:
        hub.reset()
        env = {**hub.env(home=home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        subprocess.run([sys.executable, "-c", COMMIT], env=env, check=True, input=json.dumps(given), text=True)
        return sum(hub.counters()["uploaded"].values())


def percent(part, whole):
    return f"{100 * part / whole:.3f}%"


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
