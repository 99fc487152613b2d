"""The examples, run as a researcher would on miniatures, with a few steps of training."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from scripts.pipeline.configs import VIEWS
from scripts.pipeline.leaks import kvasir_seg_columns
from tests.conftest import ROOT, build
from tests.fake_source import write_source

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torch")]  # which is installed once


@pytest.fixture(scope="module")
def ran(torch_for_cpus, built, leaking, tmp_path_factory):
    """({example: what it printed}, the folder of what was saved). One process, as PyTorch takes seconds to load."""
    torch_folder, reason = torch_for_cpus
    if reason:
        pytest.skip(f"no PyTorch for CPUs could be installed: {reason}")
    out = tmp_path_factory.mktemp("examples")
    programs = {
        "classify": (CLASSIFY, [built, out / "classify.csv"]),
        "segment": (SEGMENT, [leaking[0], out / "segment.csv"]),
        "options": (OPTIONS, [built]),
        "pretrain": (PRETRAIN, [built, *PRETRAIN_OPTIONS, "--save", out / "encoder.pt"]),
    }
    code = "import sys\n"
    for name, (program, arguments) in programs.items():
        code += f"print('## {name}')\nsys.argv[1:] = {list(map(str, arguments))}\n"
        code += f"exec({program!r}, {{'__name__': '__main__'}})\n"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(torch_folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", done.stdout, re.MULTILINE | re.DOTALL)), out


def lines_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def losses(said):
    return [float(loss) for loss in re.findall(r"loss (-?[\d.]+)", said)]


# ------------------------------------------------------------------------------------------------------------ classify

CLASSIFY = """
import json, sys, torch
from scripts.examples import classify

trained, real_load, real_train, ids = [], classify.load, classify.train, {}

def load(rows, side):
    images, labels = real_load(rows, side)
    ids[images.data_ptr()] = list(rows["image_id"])
    return images, labels

def train(images, labels, *rest):
    trained.append(ids[images.data_ptr()])
    return real_train(images, labels, *rest)

classify.load, classify.train = load, train
args = [sys.argv[1], "--epochs", "2", "--side", "16", "--batch", "16", "--save", sys.argv[2]]
classify.main(args)
print(json.dumps(trained))

# Red and blue, one in ten: what is rare is learned, too.
labels = (torch.arange(200) % 10 == 0).long()
images = torch.randint(0, 100, (200, 3, 16, 16), dtype=torch.uint8)
images[labels == 0, 0] += 150
images[labels == 1, 2] += 150
class few: epochs, batch = 10, 32
model = real_train(images, labels, 2, few)
print(json.dumps(classify.predict(model, images).tolist() == labels.tolist()))
"""


def test_folds_are_learned_and_scored_in_turn(ran, built):
    said, out = ran[0]["classify"].splitlines(), ran[1]
    trained = json.loads(next(line for line in said if line.startswith("[[")))
    folds = {
        name: rows.select_columns(["image_id", "label"]) for name, rows in load_dataset(str(built), "fold_2").items()
    }
    assert [sorted(ids) for ids in trained] == [sorted(folds[name]["image_id"]) for name in ("fold_0", "fold_1")]
    lines, shown = lines_of(out / "classify.csv"), []
    for name in ("fold_1", "fold_0"):
        found = [line for line in lines if line["fold"] == name]
        truth = dict(zip(folds[name]["image_id"], folds[name].features["label"].int2str(folds[name]["label"])))
        assert {line["image_id"]: line["label"] for line in found} == truth and len(found) == len(truth)
        shown.append(f1_and_mcc([line["label"] for line in found], [line["predicted"] for line in found]))
    table = [line.split()[-2:] for line in said if re.match(r"fold_\d +fold|mean ", line)]
    assert np.allclose(np.array(table, float), [*shown, np.mean(shown, axis=0)], atol=6e-4)
    assert 0 < shown[0][0] < 1 and losses("\n".join(said))[1] < losses("\n".join(said))[0]
    assert said[-1] == "true"


def f1_and_mcc(truth, predicted):
    """By their definitions."""
    f1 = []
    for name in {*truth, *predicted}:
        hit = sum(one == other == name for one, other in zip(truth, predicted))
        f1.append(2 * hit / (truth.count(name) + predicted.count(name)))
    n, right = len(truth), sum(one == other for one, other in zip(truth, predicted))
    true, guessed = Counter(truth), Counter(predicted)
    chance = sum(true[name] * guessed[name] for name in true)
    spread = [n * n - sum(count * count for count in counts.values()) for counts in (true, guessed)]
    return np.mean(f1), (right * n - chance) / np.sqrt(spread[0] * spread[1])


# ------------------------------------------------------------------------------------------------------------- segment

SEGMENT = """
import hashlib, json, sys, numpy as np, torch
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as Pillow
from scripts.examples import segment

def digests(images):
    return [hashlib.md5(image.numpy().tobytes()).hexdigest() for image in images]

sets = load_dataset(sys.argv[1], "kvasir_seg")
ids = {digest: i for rows in sets.values() for digest, i in zip(digests(segment.load(rows, 32)[0]), rows["image_id"])}
trained, real_train = [], segment.train

def train(images, masks, *rest):
    trained.append([ids[digest] for digest in digests(images)])
    return real_train(images, masks, *rest)

segment.train = train
segment.main([sys.argv[1], "--epochs", "1", "--side", "32", "--seeds", "3", "4", "--save", sys.argv[2]])
print("TRAINED", json.dumps(trained))

# Squares, white in the image where the mask is: aligned when loaded and turned, and learned.
rng = np.random.default_rng(0)
corners = [*rng.integers(0, 40, (64, 2)), (3, 30)]
masks = [np.zeros((64, 96), np.uint8) for _ in corners]
for mask, (top, left) in zip(masks, corners):
    mask[top : top + 24, left : left + 40] = 255
rows = Dataset.from_dict({
    "image": [Pillow.fromarray(np.stack([mask] * 3, 2)) for mask in masks], "mask": list(map(Pillow.fromarray, masks)),
}, features=Features({"image": Image(), "mask": Image()}))
images, masks = segment.load(rows, 32)
print("ALIGNED", bool(((images[:, :1] > 127) == masks).all()))
some, truth = segment.turned(images, masks)
print("TURNED", bool(((some[:, :1] > 127) == truth).all()), bool((truth != masks).any()))
class few: epochs, batch = 12, 8
model = real_train(images, masks, few, 0)
print("LEARNED", segment.scores(model, images, masks)[:, 0].mean().item())

# Known scores: 8 of 16 and 12 pixels are in both; none; all.
known = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
found = torch.full((3, 1, 8, 8), -5.0)
known[0, 0, :2], found[0, 0, 1] = True, 5
found[0, 0, 2, :4] = 5
known[1, 0, 0], found[1, 0, 7] = True, 5
known[2, 0, 3], found[2, 0, 3] = True, 5
print("SCORES", json.dumps(segment.scores(lambda _: found, torch.zeros(3, 3, 8, 8), known).tolist()))
"""


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """(a folder whose validation images leak, {image id: its row of metadata}, {set of Kvasir-SEG: its ids})"""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("leaking") / "out"
    write_source(source, images="tiny", segmented=12, findings={"polyps": 14}, unlabeled=1)
    build(source, folder, "--config", "segmented", "--config", "kvasir_seg")
    sets = {name: sorted(rows["image_id"]) for name, rows in load_dataset(str(folder), "kvasir_seg").items()}
    scenes = [  # two that leave out a training image, and one that leaves out a validation image; one within a set
        (sets["validation"][0], sets["train"][0]),
        (sets["validation"][1], sets["train"][1]),
        (sets["validation"][2], *sets["train"][2:4]),
        sets["train"][4:6],
    ]
    scene = {image_id: min(ids) for ids in scenes for image_id in ids}
    ids = [image_id for some in sets.values() for image_id in some]
    rows = [{"image_id": i, "parts": ["segmented"], "scene_group": scene.get(i)} for i in ids]
    made = kvasir_seg_columns(rows)
    rows = [{**row, "kvasir_seg_clean": made[row["image_id"]]["kvasir_seg_clean"]} for row in rows]
    (folder / "data/metadata").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/metadata/00.parquet")
    card = (folder / "README.md").read_text(encoding="utf-8")
    config = f"configs:\n- config_name: metadata\n  data_files: {VIEWS['metadata'].files}\n"
    (folder / "README.md").write_text(card.replace("configs:\n", config), encoding="utf-8")
    return folder, {row["image_id"]: row for row in rows}, sets


def test_no_scene_is_on_both_sides_of_the_clean_split(ran, leaking):
    (_, rows, sets), said, lines = leaking, ran[0]["segment"], lines_of(ran[1] / "segment.csv")
    told = dict(re.findall(r"^([A-Z]+) (.*)$", said, re.MULTILINE))
    official, clean, *again = json.loads(told["TRAINED"])
    assert sorted(official) == sets["train"] and again == [official, clean]
    scored = {(line["trained_on"], line["seed"]): {} for line in lines}
    for line in lines:
        scored[line["trained_on"], line["seed"]][line["image_id"]] = float(line["iou"]), float(line["dice"])
    assert set(scored) == {(name, seed) for name in ("official", "clean") for seed in "34"}
    assert all(sorted(found) == sets["validation"] for found in scored.values())

    kept = [i for i in sets["validation"] if rows[i]["kvasir_seg_clean"]]
    sides = [{rows[i]["scene_group"] for i in ids} - {None} for ids in (clean, kept)]
    assert len(clean) == 6 and len(kept) == 3 and not sides[0] & sides[1]
    groups = {"official, all": sets["validation"], "clean, all": kept}
    groups |= {"scene in training": [i for i in kept if i in sets["validation"][:2]], "others": kept[2:]}
    for number, score in enumerate(("IoU", "Dice")):
        for group, ids in groups.items():
            means = [
                [np.mean([scored[name, seed][i][number] for i in ids]) for seed in "34"]
                for name in ("official", "clean")
            ]
            means.append(np.subtract(*means))
            cells = [number for some in means for number in (np.mean(some), np.std(some, ddof=1))]
            (line,) = re.findall(rf"^{score} +{group} +{len(ids)} (.*)$", said, re.MULTILINE)
            shown = [float(word) for word in re.findall(r"-?\d\.\d+", line)]
            assert np.allclose(shown, cells[: 2 if group == "official, all" else 6], atol=6e-4), (score, group)


def test_images_keep_their_masks_and_squares_are_learned(ran):
    told = dict(re.findall(r"^([A-Z]+) (.*)$", ran[0]["segment"], re.MULTILINE))
    assert told["ALIGNED"] == "True" and told["TURNED"] == "True True"
    assert float(told["LEARNED"]) > 0.8
    assert np.allclose(json.loads(told["SCORES"]), [[8 / 20, 16 / 28], [0, 0], [1, 1]])


# ------------------------------------------------------------------------------------------------------------- options

OPTIONS = """
import contextlib, io, json, sys
from scripts.examples import common

said, asked = [], []
for arguments in (["--side", "30"], ["--batch", "1"], ["--side", "16"]):
    file = io.StringIO()
    with contextlib.redirect_stderr(file), contextlib.suppress(SystemExit):
        common.parser_of("scripts.examples.x", "").parse_args(["data", *arguments])
    said.append(file.getvalue())
load, common.load_dataset = common.load_dataset, lambda *data, **how: asked.append([data, how])
common.loaded("ns/x@v1.0.0", "fold_2")
common.loaded(sys.argv[1], "fold_2", split="train")
common.load_dataset = load
print(json.dumps([said, asked]))
"""


def test_options_are_checked_and_a_revision_can_be_named(ran, built):
    (side, batch, none), asked = json.loads(ran[0]["options"])
    assert "python -m scripts.examples.x: error: argument --side: 30 is no multiple of 16" in side
    assert "--batch: 1 is no multiple of 2" in batch and not none
    assert asked[0] == [["ns/x", "fold_2"], {"revision": "v1.0.0"}]
    assert asked[1] == [[str(built), "fold_2"], {"revision": None, "split": "train"}]


# ------------------------------------------------------------------------------------------------------------ pretrain


PRETRAIN_OPTIONS = ["--steps", "60", "--side", "16", "--batch", "8", "--probe"]
PRETRAIN = """
import datasets, os, runpy, sys, torch
from scripts.examples.common import encoder

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # else a shuffled stream waits for 5 seconds at the end of an epoch
leave, os._exit = os._exit, print
runpy.run_module("scripts.examples.pretrain", run_name="__main__")
torch.manual_seed(0)
begun, model = encoder().state_dict(), encoder()
model.load_state_dict(torch.load(sys.argv[-1]))
print("CHANGED", all((weights != begun[name]).any() for name, weights in model.state_dict().items()), flush=True)
leave(0)
"""


def test_pretraining_learns_and_is_kept(ran):
    said = ran[0]["pretrain"]
    first, last = losses(said)
    spreads = [float(spread) for spread in re.findall(r"spread ([\d.]+)", said)]
    assert -1 < last < first - 0.05 and min(spreads) > 0.3
    table = dict(re.findall(r"^(random weights|pretrained) +(.*)$", said, re.MULTILINE))
    numbers = np.array([line.split() for line in table.values()], float)
    assert len(table) == 2 and (numbers > 0).all() and (numbers < 1).all() and (numbers[0] != numbers[1]).any()
    assert "CHANGED True" in said
