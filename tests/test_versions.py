"""A built folder, and the builder itself, on the versions of datasets that people have.

Here a sample, on this Python, with this environment's versions of what is not pinned; `nox` runs all, on all Pythons.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from hyper_kvasir import FINDINGS, PARTS, Expected
from noxfile import DATASETS
from scripts.pipeline.configs import METADATA, VIEWS
from scripts.quality import main as quality
from tests.conftest import ROOT, block_in_card, install

OLDEST, NEWEST = list(DATASETS)[0], list(DATASETS)[-1]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("versions")]  # each is installed once

# What comes before a reader's code. `told` reads all rows of a config, decodes all images, and gives what is in them.
BEGIN = """
import json, os, sys
import datasets, numpy
globals().update(json.loads(sys.argv[1]))
assert datasets.__version__ == version
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0

def told(splits):
    names, counts, boxes, instances = None, {}, 0, 0
    for split, rows in splits.items():
        names = rows.features["label"].names if "label" in rows.features else None
        counts[split] = 0
        for row in rows:
            counts[split] += 1
            images = [row[name] for name in ("image", "mask", "instances") if name in row]
            assert all(numpy.asarray(image).any() and image.size == images[0].size for image in images)
            assert not images or images[0].size == (row["width"], row["height"])
            if "objects" in row:
                mask, polyps = (numpy.asarray(image) for image in images[1:])
                assert (mask[polyps > 0] > 0).all()
                instances += int(polyps.max())
                boxes += len(row["objects"]["bbox"])
                assert all(len(box) == 4 for box in row["objects"]["bbox"])
    return [counts, names, boxes, instances]
"""
# Ended at once: after streaming, the interpreter's own end aborts now and then (apache/arrow#45214). For that, datasets
# 5.2 sleeps for 5 s after a shuffled stream, which BEGIN turns off.
END = "\nprint(json.dumps(found))\nsys.stdout.flush()\nos._exit(0)"


@pytest.fixture(scope="module", params=[os.environ["READER_DATASETS"]] if "READER" in os.environ else [OLDEST, NEWEST])
def reader(request, tmp_path_factory):
    """Has `version`, of datasets, and `run`, which runs code with these names, and returns what that leaves in `found`.

    It runs in the environment of the interpreter $READER; else in this one, with that version put before its own.
    """
    version, python = request.param, os.environ.get("READER", sys.executable)
    place = tmp_path_factory.mktemp("datasets")
    if "READER" not in os.environ and version != NEWEST:
        reason = install([f"datasets=={version}", *DATASETS[version]], place)
        if reason:
            pytest.skip(f"datasets {version} could not be installed: {reason}")

    def run(code, **names):
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"PYTHONPATH": str(place), "HF_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
        command = [python, "-c", BEGIN + code + END, json.dumps({"version": version, **names}, default=str)]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return SimpleNamespace(version=version, run=run)


@pytest.fixture(scope="module")
def whole(source, built, tmp_path_factory):
    """The miniature with its metadata."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("whole") / "hyper-kvasir")
    flags = ["--source", source, "--out", folder, "--config", "segmented", "--workers", "1"]
    flags += ["--expect", source / "expected.json"]
    assert quality(list(map(str, flags))) == 0
    return folder


@pytest.fixture
def project(tmp_path):
    """A folder with the builder and the file beside it. The loader of old versions copies the script to its cache."""
    for name in ("hyper_kvasir.py", "dataset_card/kvasir_seg.csv"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def contents(source):
    """What `told` gives for a config or part that is read whole."""
    expected = Expected.load(source / "expected.json")

    def of(config):
        objects = [expected.boxes, expected.instances] if VIEWS[config].part == "segmented" else [0, 0]
        return [expected.split_rows(config), FINDINGS if config != "unlabeled" else None, *objects]

    return of


def test_the_readme_says_what_is_tested():
    numbers = r"[\d.]+(?:(?:,| and)\s[\d.]+)+"
    said = re.search(rf"tested with `datasets` ({numbers})", (ROOT / "README.md").read_text())[1]
    said = re.findall(r"[\d.]+", said)
    assert OLDEST.startswith(f"{said[0]}.") and NEWEST.startswith(f"{said[-1]}.")


def test_every_config_loads_and_streams(reader, whole, contents):
    code = """
found = {}
for config in configs:
    found[config] = [told(datasets.load_dataset(folder, config, streaming=stream)) for stream in (False, True)]
"""
    found = reader.run(code, folder=whole, configs=list(VIEWS))
    images = pq.read_metadata(next(whole.glob("data/metadata/*.parquet"))).num_rows
    for config in VIEWS:
        told = contents(config) if config != METADATA else [{"train": images}, FINDINGS, 0, 0]
        assert found[config] == [told, told], config


def test_columns_can_be_chosen(reader, built, expected):
    code = """
found = []
for stream in (False, True):
    rows = datasets.load_dataset(folder, "segmented", split="train", columns=["image_id", "objects"], streaming=stream)
    rows = list(rows)
    found.append([sorted(rows[0]), len(rows), sum(len(row["objects"]["bbox"]) for row in rows)])
"""
    told = [["image_id", "objects"], expected["segmented"], expected["boxes"]]
    assert reader.run(code, folder=built) == [told, told]


def test_a_stream_is_shuffled_and_goes_on_as_the_card_says(reader, built):
    """By its own blocks: the second is cut off after some batches, and run again."""
    code = """
exec(shuffle)
found = [[row["image_id"] for row in ds]]
for stop in (3, 9):
    given = []
    def train(batch):
        if len(given) == stop:
            raise InterruptedError
        given.append(batch["image_id"])
    try:
        exec(resume)
    except InterruptedError:
        pass
    found.append([image_id for batch in given for image_id in batch])
"""
    shuffle = "from datasets import load_dataset\n" + block_in_card(built, "ds.shuffle(")
    resume = block_in_card(built, "load_state_dict").replace("...  # your training step", "train(batch)")
    shuffled, before, after = reader.run(code, shuffle=shuffle, resume=resume)
    assert len(before) == 96 and sorted(before + after) == sorted(set(shuffled)) == sorted(shuffled)
    assert shuffled != before + after


def test_the_builder_prepares_and_streams(reader, source, project, contents):
    code = """
sys.path.insert(0, project)
from hyper_kvasir import HyperKvasir
found = {}
for part in parts:
    builder = HyperKvasir(config_name=part, data_dir=source, expected=source + "/expected.json")
    builder.download_and_prepare()
    found[part] = [told(builder.as_dataset()), told(builder.as_streaming_dataset())]
"""
    found = reader.run(code, project=project, source=source, parts=PARTS)
    for part in PARTS:
        assert found[part] == [contents(part), contents(part)], part


def test_the_builder_is_a_loading_script_where_these_run(reader, source, project, contents):
    code = """
script = [project + "/hyper_kvasir.py", "segmented"]
arguments = {"data_dir": source, "expected": source + "/expected.json"}
if scripts_run:
    arguments["trust_remote_code"] = True
    found = [told(datasets.load_dataset(*script, **arguments, streaming=stream)) for stream in (False, True)]
else:
    try:
        found = str(datasets.load_dataset(*script, **arguments))
    except RuntimeError as error:
        found = str(error)
"""
    scripts_run = int(reader.version.split(".")[0]) < 4
    found = reader.run(code, project=project, source=source, scripts_run=scripts_run)
    refusal = "Dataset scripts are no longer supported, but found hyper_kvasir.py"
    assert found == ([contents("segmented")] * 2 if scripts_run else refusal)
