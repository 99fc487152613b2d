"""How build, verification and start-up grow with the number of images, and start-up with the number of files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi

from scripts.bench.sources import expectations, tiny
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline.console import say, table
from scripts.pipeline.measure import run

IMAGES = (1_000, 10_000, 99_417)
FILES = (1, 100, 1400)  # the whole dataset has about as many
REPO = "ns/hyper-kvasir"
RUNS = 2

# The import of datasets, which takes longer, is the same for all.
START = """
import sys, time
from datasets import load_dataset
started = time.monotonic()
load_dataset(sys.argv[1], "unlabeled", split="train", streaming=True)
print(time.monotonic() - started)
"""


def bench_growth(work: str, images=IMAGES, files=FILES) -> str:
    """A table of built folders by their unlabeled images, of some hundred bytes; one of repositories by their files."""
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    header = ("images", "build s", "peak MB of a process", "verify s", "peak MB of a process", "load_dataset s")
    folders = table(header, [_built(work, count) for count in images])
    repositories = table(("files", "load_dataset s", "requests"), [_published(work, count) for count in files])
    shutil.rmtree(work)
    return (
        f"unlabeled tiny images, {os.cpu_count()} cores, the quickest of {RUNS} runs of each; load_dataset streams\n"
        f"{folders}\n\nfrom the loopback Hub\n{repositories}"
    )


def _built(work, images):
    """A row of the table of folders. Leaves the folder in `work`."""
    source = tiny(os.path.join(work, "source"), parts=["unlabeled"], unlabeled=images)
    out, flags = os.path.join(work, "out"), expectations(source)
    build = [sys.executable, "-m", "scripts.build", "--source", source, "--config", "unlabeled", "--out", out, *flags]
    builds, checks = [], []
    for _ in range(RUNS):
        shutil.rmtree(out, ignore_errors=True)
        builds.append(run(build))
        checks.append(run([sys.executable, "-m", "scripts.verify", out, *flags]))
    say(f"{images:,} images: {builds[-1].seconds:.2f} s")
    home = {**os.environ, "HF_HOME": os.path.join(work, "home")}
    return images, *_quickest(builds), *_quickest(checks), _start(out, home)


def _quickest(runs):
    return f"{min(run.seconds for run in runs):.2f}", f"{max(run.peak_bytes for run in runs) / 1e6:.0f}"


def _start(place, env):
    """The seconds that load_dataset takes with nothing in its cache, as text."""
    seconds = []
    for _ in range(RUNS):
        shutil.rmtree(env["HF_HOME"], ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", START, place], env=env, check=True, stdout=subprocess.PIPE)
        seconds.append(float(done.stdout))
    return f"{min(seconds):.2f}"


def _published(work, files):
    """A row of the table of repositories: the card and data file of the built folder, published as so many files."""
    out = Path(work, "out")
    data = min((out / "data/unlabeled").iterdir())
    folder = Path(work, "published")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data/unlabeled").mkdir(parents=True)
    shutil.copy(out / "README.md", folder)
    for i in range(files):
        os.link(data, folder / f"data/unlabeled/{i:03}.parquet")
    with LoopbackHub(os.path.join(work, f"hub-{files}")) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        api.create_repo(REPO, repo_type="dataset")
        api.upload_folder(repo_id=REPO, repo_type="dataset", folder_path=folder)
        hub.reset()
        seconds = _start(REPO, hub.env(home=os.path.join(work, "home")))
        return files, seconds, hub.counters()["requests"] // RUNS
