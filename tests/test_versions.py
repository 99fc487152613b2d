"""A built folder, and the builder itself, on the versions of datasets that people have."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from hyper_kvasir import CONFIGS, FINDINGS, Expected
from tests.conftest import ROOT, block_in_card

# With the versions of its time of what it works closely with; pyarrow, numpy and pillow are those of this environment.
NEEDS = {
    "2.21.0": ["huggingface_hub==0.36.0", "fsspec==2024.6.1", "dill==0.3.8", "multiprocess==0.70.16"],
    "3.6.0": ["huggingface_hub==0.36.0", "fsspec==2025.3.0", "dill==0.3.8", "multiprocess==0.70.16"],
    "4.8.5": [
        *("huggingface_hub==0.36.0", "fsspec==2025.3.0", "dill==0.4.0", "multiprocess==0.70.18"),
        *("httpx==0.28.1", "httpcore==1.0.9"),
    ],
}
SCRIPTS_RUN = ["2.21.0", "3.6.0"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("versions")]  # each is installed once


@pytest.fixture(scope="module", params=NEEDS)
def old(request, tmp_path_factory):
    """(version, a function that runs code with it and returns the JSON that it prints)"""
    place = tmp_path_factory.mktemp("datasets")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
    done = subprocess.run([*pip, f"datasets=={request.param}", *NEEDS[request.param]], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"datasets {request.param} could not be installed: {done.stderr.strip().splitlines()[-1]}")

    def run(code):
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"PYTHONPATH": str(place), "HF_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
        # Ended at once: after streaming, the interpreter's own end aborts now and then (apache/arrow#45214).
        code = f"import datasets, json, os, sys\nassert datasets.__version__ == {request.param!r}\n{code}"
        code += "\nprint(json.dumps(found))\nsys.stdout.flush()\nos._exit(0)"
        done = subprocess.run([sys.executable, "-c", code], cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return request.param, run


def test_every_config_loads_and_streams(old, built, source):
    _, run = old
    found = run(f"""
import numpy
found = {{}}
for config in {CONFIGS!r}:
    loaded = datasets.load_dataset({str(built)!r}, config)
    streams = datasets.load_dataset({str(built)!r}, config, streaming=True)
    assert next(iter(list(streams.values())[0]))["image"].size
    rows = list(loaded.values())[0]
    rows[0]["image"].load()
    names = rows.features["label"].names if "label" in rows.features else None
    objects = None
    if "objects" in rows.features:
        rows = [row for split in loaded.values() for row in split]
        instances = sum(int(numpy.asarray(row["instances"]).max()) for row in rows)
        objects = [sum(len(row["objects"]["bbox"]) for row in rows), instances]
    found[config] = [{{split: len(rows) for split, rows in loaded.items()}}, list(streams), names, objects]
""")
    expected = Expected.load(source / "expected.json")
    for config in CONFIGS:
        splits = expected.split_rows(config)
        names = FINDINGS if config != "unlabeled" else None
        objects = [expected.boxes, expected.instances] if config in ("segmented", "kvasir_seg") else None
        assert found[config] == [splits, list(splits), names, objects]


def test_a_stream_is_shuffled_and_goes_on_as_the_card_says(old, built):
    """By its own blocks: the second is cut off after some batches, and run again."""
    _, run = old
    resume = block_in_card(built, "load_state_dict").replace("...  # your training step", "train(batch)")
    found = run(f"""
from datasets import load_dataset
{block_in_card(built, "ds.shuffle(")}
found = [[row["image_id"] for row in ds]]
for stop in (3, 9):
    given = []
    def train(batch):
        if len(given) == stop:
            raise InterruptedError
        given.append(batch["image_id"])
    try:
        exec({resume!r})
    except InterruptedError:
        pass
    found.append([image_id for batch in given for image_id in batch])
""")
    shuffled, before, after = found
    assert len(before) == 96 and sorted(before + after) == sorted(set(shuffled)) == sorted(shuffled)
    assert shuffled != before + after


def test_the_builder_is_a_loading_script_where_these_run(old, source, tmp_path):
    version, run = old
    for name in ("hyper_kvasir.py", "dataset_card/kvasir_seg.csv"):  # the loader copies the script to its cache
        shutil.copy(ROOT / name, tmp_path)
    arguments = f"data_dir={str(source)!r}, expected={str(source / 'expected.json')!r}"
    if version in SCRIPTS_RUN:
        code = f"datasets.load_dataset({str(tmp_path / 'hyper_kvasir.py')!r}, 'segmented', {arguments}, "
        code = f"rows = {code} trust_remote_code=True, split='train')"
    else:
        code = f"sys.path.insert(0, {str(tmp_path)!r})\nfrom hyper_kvasir import HyperKvasir\n"
        code += f"made = HyperKvasir(config_name='segmented', {arguments})\nmade.download_and_prepare()\n"
        code += "rows = made.as_dataset(split='train')"
    found = run(f"{code}\nfound = [len(rows), sum(len(objects['bbox']) for objects in rows['objects'])]")
    expected = Expected.load(source / "expected.json")
    assert found == [expected.segmented, expected.boxes]
