"""The card's blocks that read columns or train, run as they stand on the miniature: what they give is in its files.

What other tests do not need is installed here where that takes seconds: DuckDB, Polars, and PyTorch where pip finds a
build for processors alone. `nox -s readers` runs all of them.
"""

import csv
import importlib.util
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hyper_kvasir import FINDINGS
from scripts.bench.feed import SIDE, decoded_whole, difference
from tests.conftest import ROOT, block_in_card, install, rows_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torch")]  # they are run once

PINNED = (ROOT / "tests/readers-requirements.txt").read_text().splitlines()
TABLES = [line for line in PINNED if line.startswith(("duckdb", "polars"))]
TORCH, TORCHVISION = ["torch"], ["torch", "torchvision"]
# name: (words of each block, what it needs)
BLOCKS = {
    "tables": (["duckdb.sql("], ["duckdb"]),
    "train at 224 px": (["IMREAD_REDUCED_COLOR_8", "to the GPU first"], TORCH),
    "classify with torchvision": (["v2.CenterCrop("], TORCHVISION),
    "segment": (["IMREAD_REDUCED_COLOR_8", "def cut("], TORCH),
    "segment drawn": (["IMREAD_REDUCED_COLOR_8", "def cut("], TORCH),
    "detect": (["def collate("], TORCH),
    "losses": (["def collate("], TORCHVISION),
    "detect drawn": (["def collate("], TORCH),
    "augment drawn with torchvision": (["def collate(", "v2.SanitizeBoundingBoxes("], TORCHVISION),
    "augment drawn with albumentations": (["def collate(", "A.BboxParams("], ["torch", "albumentations"]),
    "seeds with torchvision": (["def collate(", "v2.SanitizeBoundingBoxes("], TORCHVISION),
    "seeds with albumentations": (["def collate(", "A.BboxParams("], ["torch", "albumentations"]),
    "transformers": (["ViTImageProcessor("], [*TORCHVISION, "transformers"]),
    "transformers drawn": (["SegformerImageProcessor("], [*TORCHVISION, "transformers"]),
}


@pytest.fixture(scope="module")
def found(built, request, tmp_path_factory):
    """A function that gives what a block gave, and skips where a package is missing."""
    missing, folder = {}, tmp_path_factory.mktemp("blocks")
    places = [str(folder / "packages")]
    for name in sorted({name for _, needs in BLOCKS.values() for name in needs}):
        if importlib.util.find_spec(name):
            continue
        if name == "torch":
            place, missing[name] = request.getfixturevalue("torch_for_cpus")
            places.append(str(place))
        else:
            missing[name] = install(TABLES, places[0]) if name == "duckdb" else "see `nox -s readers`"
    missing = {name: reason for name, reason in missing.items() if reason}
    code = {
        name: "\n".join(block_in_card(built, some) for some in words)
        for name, (words, needs) in BLOCKS.items()
        if not missing.keys() & set(needs)
    }
    settings = {"PYTHONPATH": os.pathsep.join(places), "NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.run_blocks", folder / "found"]
    environment = {**os.environ, **settings}
    subprocess.run(command, cwd=ROOT, env=environment, input=pickle.dumps(code), check=True, timeout=300)
    shutil.rmtree(places[0], ignore_errors=True)  # hundreds of MB
    given = pickle.loads((folder / "found").read_bytes())

    def of(name):
        for package in set(BLOCKS[name][1]) & set(missing):
            pytest.skip(f"{package} is not installed: {missing[package]}")
        assert not isinstance(given[name], str), given[name]
        return given[name]

    return of


@pytest.fixture(scope="module")
def labeled(built):
    return rows_of(built, "labeled")


@pytest.fixture(scope="module")
def segmented(built):
    return rows_of(built, "segmented")


def alike(one, other):
    """Share of what either marks that both mark; 1 where neither marks anything."""
    either = (one | other).sum()
    return (one & other).sum() / either if either else 1.0


def decoded(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def filled(shape, boxes):
    """Where boxes of left, upper, right and lower edges are."""
    marked = np.zeros(shape, bool)
    for left, upper, right, lower in np.rint(boxes).astype(int):
        marked[upper:lower, left:right] = True
    return marked


def edges(boxes):
    """Of boxes of x, y, width and height."""
    boxes = np.reshape(boxes, (-1, 4))
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def matching_boxes(folder):
    """{image id: edges of its boxes that match a polyp}"""
    with open(folder / "objects.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["kind"], row["fit"]) == ("box", "matched")]
    good = {(row["image_id"], int(row["number"])) for row in rows}
    boxes = {row["image_id"]: enumerate(row["objects"]["bbox"]) for row in rows_of(folder, "segmented")}
    return {name: edges([box for i, box in some if (name, i) in good]) for name, some in boxes.items()}


def test_columns_without_images(found, labeled):
    given = found("tables")
    assert given["counts"] == Counter(row["label"] for row in labeled)
    rows = sorted((row["image_id"], row["label"], row["width"], row["height"]) for row in labeled)
    assert given["rows"] == given["table"] == rows


def test_224_px_in_a_loader(found, labeled):
    """What the pixels are is asked by tests/test_feed.py."""
    given = found("train at 224 px")
    rows, batch = given["rows"], given["batch"]
    assert rows["label"].tolist() == [row["label"] for row in labeled]
    pairs = {(label, pixels.tobytes()) for label, pixels in zip(rows["label"], rows["pixels"])}
    assert all((label, pixels.tobytes()) in pairs for label, pixels in zip(batch["label"], batch["pixels"]))
    assert given["pixels"].dtype == np.float32 and given["pixels"].shape == (len(batch["label"]), 3, SIDE, SIDE)
    assert np.allclose(given["pixels"], batch["pixels"].transpose(0, 3, 1, 2) / 255)


def test_classification_with_torchvision(found, labeled):
    given = found("classify with torchvision")
    rows = given["rows"]
    assert rows["label"].tolist() == [row["label"] for row in labeled]
    assert Counter(given["batches"]["label"]) == Counter(rows["label"])
    assert given["batches"]["pixels"].dtype == np.float32
    for pixels, row in zip(rows["pixels"], labeled, strict=True):
        whole = decoded_whole(row["image"]["bytes"], Image.Resampling.BILINEAR)
        assert difference(255 * pixels.transpose(1, 2, 0), whole)[0] > 30
    by_class = Counter()
    for label, loss in zip(rows["label"].tolist(), given["losses"]):
        by_class[label] += loss
    assert len(by_class) == len(FINDINGS), "else all weigh alike"
    assert list(by_class.values()) == pytest.approx([by_class[0]] * len(FINDINGS))


def test_segmentation(found, segmented):
    given = found("segment")
    random, middle, ready = given["random"], given["middle"], given["ready"]
    assert random["pixels"].shape == (2 * len(segmented), SIDE, SIDE, 3) and random["pixels"].dtype == np.uint8
    assert random["mask"].shape == random["pixels"].shape[:3] and random["mask"].dtype == bool
    assert len({pixels.tobytes() for pixels in random["pixels"]}) == 2 * len(segmented), "another crop in each epoch"
    for pixels, cropped in zip(middle["pixels"], given["cropped"], strict=True):
        assert difference(pixels, cropped)[0] > 30
    assert ready["pixels"].shape[1:] == (3, SIDE, SIDE) and 0.5 < ready["pixels"].max() <= 1
    assert ready["mask"].shape[1:] == (1, SIDE, SIDE) and set(np.unique(ready["mask"])) == {0, 1}
    assert ready["mask"].dtype == ready["pixels"].dtype == np.float32


def test_a_mask_is_cropped_and_flipped_as_its_image(found):
    given = found("segment drawn")
    random, middle = given["random"], given["middle"]
    assert alike(random["pixels"][..., 0] > 127, random["mask"]) > 0.95
    assert alike(middle["pixels"][..., 0] > 127, middle["mask"]) > 0.95
    assert alike(np.stack(given["cropped"])[..., 0] > 127, middle["mask"]) > 0.95, "as at 224 px"


def test_detection(found, built, segmented):
    given, boxes = found("detect"), matching_boxes(built)
    stored = {row["image_id"]: row for row in segmented}
    assert sorted(str(target["image_id"]) for target in given["targets"]) == sorted(stored)
    for image, target in zip(given["images"], given["targets"], strict=True):
        image_id = str(target["image_id"])
        pixels = decoded(stored[image_id])
        assert image.dtype == np.float32 and np.allclose(image.transpose(1, 2, 0), pixels / 255)
        assert target["boxes"].dtype == np.float32 and target["boxes"].shape == (len(boxes[image_id]), 4)
        assert np.array_equal(target["boxes"], boxes[image_id])
        assert target["labels"].dtype == np.int64 and target["labels"].tolist() == [1] * len(boxes[image_id])
        assert (target["boxes"] >= 0).all() and (target["boxes"] <= [*pixels.shape[1::-1]] * 2).all()
    assert {len(some) for some in boxes.values()} >= {0, 1, 2}


def test_boxes_are_where_they_are(found):
    given = found("detect drawn")
    for image, target in zip(given["images"], given["targets"], strict=True):
        assert np.array_equal(image[1] > 0.5, filled(image.shape[1:], target["boxes"]))


def test_detectors_of_torchvision_take_its_batches(found):
    losses = found("losses")
    assert "loss_box_reg" in losses and np.isfinite(list(losses.values())).all()


@pytest.mark.parametrize("library", ["torchvision", "albumentations"])
def test_mask_and_boxes_follow_their_image(found, segmented, library):
    given = found(f"augment drawn with {library}")
    assert len(given) == 4 * len(segmented)
    if library == "torchvision":
        images, boxes = np.stack([row["image"] for row in given]).transpose(0, 2, 3, 1), [row["boxes"] for row in given]
    else:
        images, boxes = np.stack([row["image"] for row in given]) / 255, [edges(row["bboxes"]) for row in given]
    masks = np.stack([row["mask"] for row in given]) > 0
    assert images.shape[1:] == (SIDE, SIDE, 3) and alike(images[..., 0] > 0.5, masks) > 0.95
    assert alike(images[..., 1] > 0.5, np.stack([filled((SIDE, SIDE), some) for some in boxes])) > 0.99
    assert [row["labels"].tolist() for row in given] == [[1] * len(some) for some in boxes]
    assert {len(some) for some in boxes} >= {0, 1, 2}
    assert all((some >= 0).all() and (some <= SIDE).all() for some in boxes)


def test_workers_and_epochs_augment_differently(found):
    torchvision, albumentations = found("seeds with torchvision"), found("seeds with albumentations")
    assert len(set(torchvision["seeded"])) == len(set(albumentations["seeded"])) == 16
    assert len(set(albumentations["not seeded"])) == 4, "what the card warns of"


def test_a_processor_of_transformers(found, labeled):
    given = found("transformers")
    assert given["labels"].tolist() == [row["label"] for row in labeled]
    assert given["pixel_values"].shape == (len(labeled), 3, SIDE, SIDE) and given["pixel_values"].dtype == np.float32
    assert -1 <= given["pixel_values"].min() < -0.5 and 0.5 < given["pixel_values"].max() <= 1


def test_a_processor_of_transformers_with_masks(found, segmented):
    given = found("transformers drawn")
    assert given["labels"].dtype == np.int64 and set(np.unique(given["labels"])) == {0, 1}
    assert len(given["labels"]) == len(segmented) and given["labels"].shape[1:] == given["pixel_values"].shape[2:]
    red = given["pixel_values"][:, 0] * 0.229 + 0.485  # as it normalizes
    for pixels, labels in zip(red, given["labels"], strict=True):
        assert alike(pixels > 0.5, labels == 1) > 0.95
