"""What an update of the labeled part sends to the Hub, and the request that commits it."""

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

from hyper_kvasir import TAXONOMY, VIEWS, Part
from scripts.bench.sources import expected_of
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline import stats
from scripts.pipeline.card import make_card
from scripts.pipeline.console import table
from scripts.pipeline.hub import Repository, State
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest
from scripts.pipeline.measure import run
from scripts.pipeline.parquet import find_rows, write_shard, write_table
from scripts.pipeline.plan import SCHEMA, make_plan, plan_shard

REPO = "ns/hyper-kvasir"


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
    part = make_plan([source], ["labeled"], expected_of(source)).parts[0]
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
    files = write_files(work, labeled(archive, rows).shards(), known)
    entries = {path: known[file] for path, file in files.items()}
    manifest = make_manifest([config for config, view in VIEWS.items() if view.part == "labeled"], {}, entries, SCHEMA)
    summaries = stats.collect(work, manifest, {}, files.get)

    def examples(part, image_ids):
        return find_rows([files[path] for path in stats.paths_of(summaries, part, image_ids)], image_ids)

    manifest, texts = make_card(manifest, summaries, examples, REPO, changelog)
    return Version(files, {**texts, FILE: manifest_text(manifest).encode()})


def labeled(archive, rows):
    """The labeled part that has these rows, of an archive."""
    return Part("labeled", archive, {}, sorted(rows, key=lambda row: row.image_id))


def write_files(work, shards, known):
    """{path in the repository: file on this disk} of shards; the entries of what was not `known` go into it."""
    files = {}
    for planned in map(plan_shard, shards):
        files[planned.shard.path] = file = os.path.join(work, "files", f"{planned.key}.parquet")
        if file not in known:
            known[file] = write_shard(*planned, file).entry
    return files


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


def bench_commit(work: str, operations: int = 1400) -> str:
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
