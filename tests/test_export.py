"""scripts.export: what each format's own reader gives is what the dataset holds."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hyper_kvasir import FINDINGS, instance_map
from scripts.export import main
from scripts.loopback_hub.client import READ_TOKEN
from scripts.pipeline import output
from scripts.pipeline.export import formats, run
from scripts.pipeline.export.choose import GROUPED
from scripts.pipeline.export.formats import FORMATS
from tests.conftest import ROOT, build, config_flags, sha256_of, tree
from tests.processes import Process

pytestmark = pytest.mark.xdist_group("export")  # the miniature is built once

FEW = dict.fromkeys(FINDINGS, 1) | {"polyps": 12, "cecum": 6}
# Read by their own programs where `nox -s exports` has installed these: a Python that has them.
READERS = os.environ.get("EXPORT_READERS")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A miniature with metadata. Not to be changed: copy it."""
    from tests.fake_source import write_source

    source = tmp_path_factory.mktemp("source")
    write_source(source, images="tiny", findings=FEW, segmented=8, unlabeled=6)
    out = tmp_path_factory.mktemp("built") / "hyper-kvasir"
    configs = ["labeled", "fold_2", "fold_5", "segmented", "kvasir_seg", "unlabeled", "metadata"]
    build(source, out, *config_flags(configs))
    return out


def rows_of(folder, config="segmented"):
    """{split: {image id: row}}, pictures as they are stored."""
    found = {}
    for split, rows in load_dataset(str(folder), config).items():
        table = rows.data.table.to_pylist()
        found[split] = {row["image_id"]: row for row in table}
    return found


def export(folder, name, to, config="kvasir_seg", *arguments):
    """Runs the command in this process."""
    assert main([str(folder), name, "--config", config, "--to", str(to), *arguments]) == 0
    return to


def block(to, language="python"):
    """The code in the README of an export."""
    return re.search(rf"```{language}\n(.*?)```", (to / "README.md").read_text(), re.DOTALL)[1]


def run_block(to, monkeypatch):
    """What the code in the README of an export makes, run in its folder."""
    names = {}
    with monkeypatch.context() as patch:
        patch.chdir(to)
        exec(block(to).replace(f"path/to/{to.name}", str(to)), names)
    return names


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data["bytes"])))


def instances_of(row):
    numbers = pixels(row["instances"])
    return [numbers == number for number in range(1, numbers.max() + 1)]


def corners(row):
    return [[x, y, x + width, y + height] for x, y, width, height in row["objects"]["bbox"]]


# ------------------------------------------------------------------------------------------------ each is read back


def test_coco_by_pycocotools(folder, tmp_path, monkeypatch):
    from pycocotools.coco import COCO

    to = export(folder, "coco", tmp_path / "coco")
    assert run_block(to, monkeypatch)["masks"]
    for split, rows in rows_of(folder, "kvasir_seg").items():
        masks, boxes = (COCO(to / f"annotations/{kind}_{split}.json") for kind in ("instances", "boxes"))
        assert [masks.cats, boxes.cats] == [{1: {"id": 1, "name": "polyp", "supercategory": "polyp"}}] * 2
        assert {image["file_name"] for image in masks.imgs.values()} == {f"{i}.jpg" for i in rows}
        assert masks.imgs == boxes.imgs and masks.dataset["licenses"][0]["name"] == "CC BY 4.0"
        assert not any(one["iscrowd"] for one in masks.anns.values())
        for number, image in masks.imgs.items():
            row = rows[image["file_name"].removesuffix(".jpg")]
            assert (to / split / image["file_name"]).read_bytes() == row["image"]["bytes"]
            assert (image["width"], image["height"]) == (row["width"], row["height"])
            found = masks.imgToAnns[number]
            for one, mask in zip(found, instances_of(row), strict=True):
                assert np.array_equal(masks.annToMask(one), mask) and one["area"] == mask.sum()
                y, x = np.nonzero(mask)
                assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert [one["bbox"] for one in boxes.imgToAnns[number]] == row["objects"]["bbox"]
            assert [one["area"] for one in boxes.imgToAnns[number]] == row["objects"]["area"]


@pytest.mark.parametrize("name", ["yolo", "yolo-seg"])
def test_yolo_by_supervision(name, folder, tmp_path, monkeypatch):
    import supervision
    import yaml

    to = export(folder, name, tmp_path / name)
    assert len(run_block(to, monkeypatch)["found"])
    data = yaml.safe_load((to / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/validation", "nc": 1, "names": ["polyp"]}
    for split, rows in rows_of(folder, "kvasir_seg").items():
        images, labels = (str(to / kind / split) for kind in ("images", "labels"))
        ds = supervision.DetectionDataset.from_yolo(images, labels, str(to / "data.yaml"), force_masks="seg" in name)
        assert sorted(Path(path).stem for path in ds.image_paths) == sorted(rows)
        for path in ds.image_paths:
            row, found = rows[Path(path).stem], ds.annotations[path]
            assert Path(path).read_bytes() == row["image"]["bytes"] and set(found.class_id) == {0}
            if name == "yolo":  # whose numbers have five digits
                assert found.xyxy == pytest.approx(np.array(corners(row)), abs=0.01)
            else:
                assert np.array_equal(found.mask, instances_of(row))


def test_pascal_voc_by_supervision(folder, tmp_path, monkeypatch):
    to = export(folder, "pascal-voc", tmp_path / "voc")
    ds = run_block(to, monkeypatch)["ds"]
    sets = rows_of(folder, "kvasir_seg")
    rows = sets["train"] | sets["validation"]
    assert ds.classes == ["polyp"] and len(ds) == len(rows)
    for path in ds.image_paths:
        row = rows[Path(path).stem]
        assert ds.annotations[path].xyxy.tolist() == corners(row)
        for kind, expected in (("Class", pixels(row["mask"]) > 0), ("Object", pixels(row["instances"]))):
            with Image.open(to / f"Segmentation{kind}/{row['image_id']}.png") as image:
                assert image.mode == "P" and np.array_equal(np.asarray(image), expected)
        assert (to / f"JPEGImages/{row['image_id']}.jpg").read_bytes() == row["image"]["bytes"]
    for split, name in (("train", "train"), ("validation", "val")):
        for kind in ("Main", "Segmentation"):
            assert (to / f"ImageSets/{kind}/{name}.txt").read_text().split() == sorted(sets[split])


def test_pascal_voc_counts_pixels_from_one(folder, tmp_path):
    from xml.etree import ElementTree

    to = export(folder, "pascal-voc", tmp_path / "voc")
    for row in rows_of(folder)["train"].values():
        root = ElementTree.parse(to / f"Annotations/{row['image_id']}.xml")
        found = [[int(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")]
        assert found == [[x + 1, y + 1, right, bottom] for x, y, right, bottom in corners(row)]
        assert root.findtext("filename") == f"{row['image_id']}.jpg"
        assert (root.findtext("size/depth"), root.findtext("segmented")) == ("3", "1")
        assert [int(root.findtext(f"size/{side}")) for side in ("width", "height")] == [row["width"], row["height"]]


def test_png_masks(folder, tmp_path, monkeypatch):
    to = export(folder, "png-masks", tmp_path / "png")
    names = run_block(to, monkeypatch)
    assert names["image"].size == names["mask"].size
    for split, rows in rows_of(folder, "kvasir_seg").items():
        for row in rows.values():
            for kind, end in (("image", "jpg"), ("mask", "png"), ("instances", "png")):
                path = to / split / f"{kind.removesuffix('s')}s" / f"{row['image_id']}.{end}"
                assert path.read_bytes() == row[kind]["bytes"]


def test_nnunet(folder, tmp_path):
    """Where its own checker is not at hand: what that looks for, by the same rules."""
    to = export(folder, "nnunet", tmp_path / "Dataset501_KvasirSEG")
    sets = rows_of(folder, "kvasir_seg")
    rows = sets["train"] | sets["validation"]
    about = json.loads((to / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "polyp": 1} and about["numTraining"] == len(rows)
    assert (about["overwrite_image_reader_writer"], about["file_ending"]) == ("NaturalImage2DIO", ".png")
    assert sorted(os.listdir(to / "imagesTr")) == sorted(f"{i}_0000.png" for i in rows)
    assert sorted(os.listdir(to / "labelsTr")) == sorted(f"{i}.png" for i in rows)
    for image_id, row in rows.items():
        image, label = (
            Image.open(to / f"{name}.png") for name in (f"imagesTr/{image_id}_0000", f"labelsTr/{image_id}")
        )
        assert image.mode == "RGB" and np.array_equal(image, pixels(row["image"]))
        assert label.mode == "L" and np.array_equal(label, pixels(row["mask"]) > 0)
    (fold,) = json.loads((to / "splits_final.json").read_text())
    assert fold == {"train": sorted(sets["train"]), "val": sorted(sets["validation"])}
    assert "-d 501" in block(to, "bash")


def test_nnunet_of_one_split_has_no_splits(folder, tmp_path):
    to = export(folder, "nnunet", tmp_path / "Dataset502_Polyps", "segmented")
    assert not (to / "splits_final.json").exists() and "which may leak" in (to / "README.md").read_text()


def test_monai_lists(folder, tmp_path):
    """Masks as labels, and findings by fold."""
    to = export(folder, "monai", tmp_path / "masks")
    lists = json.loads((to / "datalist.json").read_text())
    assert lists["labels"] == {"0": "background", "1": "polyp"} and lists["numTraining"] == len(lists["training"])
    for split, key in (("train", "training"), ("validation", "validation")):
        rows = rows_of(folder, "kvasir_seg")[split]
        assert {Path(entry["image"]).stem for entry in lists[key]} == set(rows)
        for entry in lists[key]:
            row = rows[Path(entry["image"]).stem]
            assert (to / entry["image"]).read_bytes() == row["image"]["bytes"]
            assert np.array_equal(Image.open(to / entry["label"]), pixels(row["mask"]) > 0)
    to = export(folder, "monai", tmp_path / "findings", "fold_2")
    lists = json.loads((to / "datalist.json").read_text())
    expected = {
        (i, row["label"], row["fold_2"]) for rows in rows_of(folder, "fold_2").values() for i, row in rows.items()
    }
    assert {(Path(e["image"]).stem, e["label"], e["fold"]) for e in lists["training"]} == expected
    assert lists["labels"] == {str(i): name for i, name in enumerate(FINDINGS)}
    assert lists["numTraining"] == len(expected) and "told apart by `fold`" in (to / "README.md").read_text()
    assert "is_segmentation=False" in block(to)


@pytest.mark.parametrize("config", ["segmented", "fold_5", "unlabeled"])
def test_webdataset_by_its_reader_and_by_datasets(config, folder, tmp_path, monkeypatch):
    import webdataset

    to = export(folder, "webdataset", tmp_path / "tars", config)
    read, expected = run_block(to, monkeypatch), rows_of(folder, config)
    if config == "segmented":
        row = expected["train"][read["sample"]["__key__"]]
        assert np.array_equal(read["mask"], pixels(row["mask"]))
        assert np.array_equal(read["instances"], pixels(row["instances"])) and read["image"].shape[2] == 3
    else:
        assert read["sample"]["jpg"].size == (read["sample"]["json"]["width"], read["sample"]["json"]["height"])
    loaded = load_dataset(str(to))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: len(rows) for split, rows in expected.items()
    }
    for split, rows in expected.items():
        tars = sorted(map(str, to.glob(f"{split}-*.tar")))
        assert [path[-10:] for path in tars] == [f"{i:06}.tar" for i in range(len(tars))]
        samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
        assert sorted(samples) == sorted(rows)
        for image_id, row in rows.items():
            sample, values = samples[image_id], json.loads(samples[image_id]["json"])
            assert sample["jpg"] == row["image"]["bytes"] and values["width"] == row["width"]
            if config == "segmented":
                assert (
                    sample["mask.png"] == row["mask"]["bytes"] and values["objects"]["bbox"] == row["objects"]["bbox"]
                )
                assert sample["instances.png"] == row["instances"]["bytes"]
            if config == "fold_5":
                assert int(sample["cls"]) == row["label"] and values["label"] == FINDINGS[row["label"]]
                assert values["fold_5"] == int(split[-1])


def test_tars_are_the_same_each_time(folder, tmp_path):
    one, other = (tree(export(folder, "webdataset", tmp_path / name, "fold_5")) for name in ("a", "b"))
    assert one == other
    with tarfile.open(fileobj=io.BytesIO(next(data for path, data in one.items() if path.endswith(".tar")))) as tar:
        assert {(member.mtime, member.uname) for member in tar} == {(0, "root")}


def test_imagefolder_of_labeled_images(folder, tmp_path, monkeypatch):
    to = export(folder, "imagefolder", tmp_path / "images", "fold_2")
    ds = run_block(to, monkeypatch)["ds"]
    for split, rows in rows_of(folder, "fold_2").items():
        found = Counter(ds[split].features["label"].int2str(label) for label in ds[split]["label"])
        assert found == Counter(FINDINGS[row["label"]] for row in rows.values())
        for image_id, row in rows.items():
            path = to / split / FINDINGS[row["label"]] / f"{image_id}.jpg"
            assert path.read_bytes() == row["image"]["bytes"]


def test_imagefolder_of_segmented_images(folder, tmp_path, monkeypatch):
    to = export(folder, "imagefolder", tmp_path / "images")
    ds = run_block(to, monkeypatch)["ds"]
    for split, rows in rows_of(folder, "kvasir_seg").items():
        found = {row["image_id"]: row for row in ds[split]}
        assert sorted(found) == sorted(rows)
        for image_id, row in rows.items():
            assert np.array_equal(found[image_id]["mask"], pixels(row["mask"]))
            assert np.array_equal(found[image_id]["instances"], pixels(row["instances"]))
            assert found[image_id]["image"].size == (row["width"], row["height"])
            assert found[image_id]["objects"]["bbox"] == row["objects"]["bbox"] and found[image_id]["label"] == "polyps"


def test_imagefolder_of_unlabeled_images(folder, tmp_path, monkeypatch):
    to = export(folder, "imagefolder", tmp_path / "images", "unlabeled")
    assert len(run_block(to, monkeypatch)["ds"]["train"]) == 6
    assert sorted(path.stem for path in (to / "train").iterdir()) == sorted(rows_of(folder, "unlabeled")["train"])


def test_fiftyone_files_are_those_of_coco(folder, tmp_path):
    one, other = export(folder, "fiftyone", tmp_path / "fo"), export(folder, "coco", tmp_path / "coco")
    for split in ("train", "validation"):
        for name, kind in (("labels", "instances"), ("boxes", "boxes")):
            assert (one / split / f"{name}.json").read_bytes() == (
                other / f"annotations/{kind}_{split}.json"
            ).read_bytes()
        assert tree(one / split / "data") == tree(other / split)


OWN = {  # what a format's own program reads, run in the folder of an export: prints JSON
    "nnunet": """
import json
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    verify_dataset_integrity(".", num_processes=1)
    print(json.dumps("good"))
""",
    "monai": "import json\nprint(json.dumps([len(data), sorted(data[0])]))",  # after the code of its README
    "fiftyone": """
import json
from fiftyone.utils.coco import COCODetectionDatasetImporter as Importer
found = []
for split in ("train", "validation"):
    with Importer(dataset_dir=split, label_types=["detections", "segmentations"]) as samples:
        masks = [polyp.mask for _, _, label in samples for polyp in label["segmentations"].detections]
    with Importer(dataset_dir=split, labels_path="boxes.json", label_types="detections") as samples:
        found.append([sum(int(mask.sum()) for mask in masks), sum(len(label.detections) for _, _, label in samples)])
print(json.dumps(found))
""",
    "yolo": """
import json
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
data = check_det_dataset("data.yaml", autodownload=False)
sets = [YOLODataset(img_path=data[name], data=data, task="detect", augment=False) for name in ("train", "val")]
print(json.dumps([sum(len(image["bboxes"]) for image in some.labels) for some in sets]))
""",
    "yolo-seg": """
import json
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
data = check_det_dataset("data.yaml", autodownload=False)
sets = [YOLODataset(img_path=data[name], data=data, task="segment", augment=False) for name in ("train", "val")]
print(json.dumps([sum(len(image["segments"]) for image in some.labels) for some in sets]))
""",
}


@pytest.mark.skipif(not READERS, reason="the readers are installed by nox -s exports")
@pytest.mark.parametrize("name", OWN)
def test_read_by_its_own_program(name, folder, tmp_path):
    to = export(folder, name, tmp_path / "Dataset501_KvasirSEG")
    (tmp_path / "read.py").write_text(OWN[name] if name != "monai" else block(to) + OWN[name])
    env = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true", "FIFTYONE_DO_NOT_TRACK": "1"}
    done = subprocess.run([READERS, str(tmp_path / "read.py")], cwd=to, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sets = [list(rows.values()) for rows in rows_of(folder, "kvasir_seg").values()]
    boxes = [sum(len(row["objects"]["id"]) for row in rows) for rows in sets]
    expected = {
        "nnunet": "good",
        "monai": [len(sets[0]), ["image", "label"]],
        "fiftyone": [[sum(int((pixels(row["mask"]) > 0).sum()) for row in rows), n] for rows, n in zip(sets, boxes)],
        "yolo": boxes,
        "yolo-seg": [sum(len(instances_of(row)) for row in rows) for rows in sets],
    }
    assert json.loads(done.stdout.splitlines()[-1]) == expected[name]


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.randoms(use_true_random=False), st.floats(0.2, 0.9))
def test_yolo_polygons_of_any_masks(height, width, rng, share):
    """Lines and single pixels, holes in holes: what is read back is the same instance, or a box around fewer than three
    corners."""
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    mask = np.array([[rng.random() < share for _ in range(width)] for _ in range(height)])
    mask[0, 0] = True
    file = io.BytesIO()
    instance_map(mask).save(file, "PNG")
    row = {
        "image_id": "x",
        "image": {"bytes": b""},
        "instances": {"bytes": file.getvalue()},
        "height": height,
        "width": width,
    }
    (_, (_, text)) = formats.FORMATS["yolo-seg"].files("train", row)
    found = yolo_annotations_to_detections(text.decode().splitlines(), (width, height), True)
    for polygon, one in zip(found.mask, instances_of(row), strict=True):
        assert np.array_equal(polygon, one)


def test_the_tour(folder, tmp_path):
    """Every format gives the same polyps and boxes, and they are drawn where they are."""
    from scripts.examples import tour

    drawn = [name for name, form in FORMATS.items() if "segmented" in form.parts]
    exports = [export(folder, name, tmp_path / f"Dataset501_{name.replace('-', '_')}") for name in drawn]
    rows = rows_of(folder, "kvasir_seg")["train"]
    for to, name in zip(exports, drawn):
        found = tour.READERS[name](to, "train")
        assert set(found) == set(rows)
        for image_id, (file, boxes, masks) in found.items():
            with Image.open(file) as image:
                assert image.size == (rows[image_id]["width"], rows[image_id]["height"])
            assert not masks or np.array_equal(np.any(masks, axis=0), pixels(rows[image_id]["mask"]) > 0)
            assert not boxes or np.array(boxes) == pytest.approx(np.array(corners(rows[image_id])), abs=0.01)
            assert masks or boxes
    names = list(map(str, exports))
    tour.main([*names, "--split", "train", "--images", "2", "--to", str(tmp_path / "tour.png")])
    with Image.open(tmp_path / "tour.png") as page:
        assert page.size == (2 * (tour.SIDE + 6) + 6, len(names) * (tour.SIDE + 24))
    black = io.BytesIO(png(tour.SIDE, tour.SIDE, mode="RGB")["bytes"])
    drawn = np.asarray(tour.draw(black, [(10, 20, 30, 60)], [np.eye(tour.SIDE) > 0]))
    other = export(folder, "imagefolder", tmp_path / "folds", "fold_2")
    with pytest.raises(SystemExit, match="is of fold_2, which has no masks and boxes to draw"):
        tour.main([str(other), "--to", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit, match="no split 'test'; there are train, validation"):
        tour.main([names[0], "--split", "test", "--to", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit, match="is no export; make one with python -m scripts.export"):
        tour.main([str(folder), "--to", str(tmp_path / "x.png")])
    y, x = np.nonzero((drawn == 255).all(axis=2))
    assert (x.min(), y.min(), x.max(), y.max()) == (10, 20, 29, 59)
    assert (drawn[100, 100] > 0).any() and not drawn[100, 99].any()


# -------------------------------------------------------------------------------------------------------- its splits


@pytest.mark.parametrize("config", GROUPED)
def test_splits_without_leaks_are_those_of_the_metadata(config, folder, tmp_path):
    part = GROUPED[config]
    to = export(folder, "imagefolder", tmp_path / "images", config)
    found = {path.stem: path.relative_to(to).parts[0] for path in to.rglob("*.jpg")}
    metadata = rows_of(folder, "metadata")["train"]
    splits = {i: row[config] for i, row in metadata.items() if part in row["parts"]}
    expected = {i: split for i, split in splits.items() if split is not None}  # one of the miniature leaks
    assert (len(splits) - len(expected)) == (part == "segmented")
    assert found == {i: f"fold_{of}" if "fold" in config else of for i, of in expected.items()} and found


def test_one_split(folder, tmp_path):
    to = export(folder, "coco", tmp_path / "coco", "kvasir_seg", "--split", "validation")
    assert sorted(os.listdir(to)) == ["README.md", "annotations", "export.json", "validation"]
    assert {path.stem for path in (to / "validation").iterdir()} == set(rows_of(folder, "kvasir_seg")["validation"])


def test_from_the_hub(xet_publisher, small, tmp_path):
    xet_publisher.ok(small, "1.0.0")
    command = [
        "scripts.export",
        "ns/hyper-kvasir@v1.0.0",
        "coco",
        "--config",
        "segmented",
        "--to",
        tmp_path / "published",
    ]
    code, said = xet_publisher.end(Process(xet_publisher.env(READ_TOKEN), command))
    assert code == 0 and "exported" in said, said
    local = tree(export(small, "coco", tmp_path / "local", "segmented"))
    published = tree(tmp_path / "published")
    for path in ("README.md", "export.json", *(f"annotations/{kind}_train.json" for kind in ("boxes", "instances"))):
        published[path] = published[path].replace(b"ns/hyper-kvasir@v1.0.0", small.name.encode())
    assert published == local


# --------------------------------------------------------------------------------------------- whole, or not there


def cut_off(monkeypatch, after):
    """A full disk after some files."""
    write, written = run._write, []

    def failing(*arguments):
        if len(written) == after:
            raise OSError(28, "No space left on device", "somewhere")
        written.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(run, "_write", failing)
    return written


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_cut_off_goes_on(name, folder, tmp_path, monkeypatch, capsys):
    config = "fold_2" if name == "webdataset" else "kvasir_seg"
    whole = tree(export(folder, name, tmp_path / "whole/Dataset501_x", config))
    arguments = [str(folder), name, "--config", config]
    to, done = tmp_path / "Dataset501_x", 0
    for after in (0, 1, 3 * len(whole) // 4):
        with monkeypatch.context() as patch:
            written = cut_off(patch, after)
            assert main([*arguments, "--to", str(to)]) == 1
            done += len(written)
        assert not to.exists() and "No space left" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        written = cut_off(patch, -1)
        assert main([*arguments, "--to", str(to)]) == 0
    assert tree(to) == whole and len(written) < len(whole) - 1, "files of earlier runs are kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Dataset501_x", "whole"]


def test_what_a_power_failure_spoiled_is_written_again(folder, tmp_path, monkeypatch):
    whole = tree(export(folder, "webdataset", tmp_path / "whole", "fold_2"))
    arguments = [str(folder), "webdataset", "--config", "fold_2", "--to", str(tmp_path / "to")]
    with monkeypatch.context() as patch:
        cut_off(patch, 6)
        assert main(arguments) == 1
    spoiled = sorted((tmp_path / ".to.exporting/files").iterdir())[2]
    spoiled.write_bytes(b"")
    with open(tmp_path / ".to.exporting/journal", "a") as journal:
        journal.write('\n["data/lab')
    assert main(arguments) == 0 and tree(tmp_path / "to") == whole


def test_an_unfinished_export_of_something_else_begins_anew(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut_off(patch, 6)
        assert main([str(folder), "coco", "--config", "kvasir_seg", "--to", str(tmp_path / "to")]) == 1
    export(folder, "yolo", tmp_path / "to")
    assert tree(tmp_path / "to") == tree(export(folder, "yolo", tmp_path / "other"))


def test_what_is_written_again_keeps_its_place(folder, tmp_path, monkeypatch):
    """The lines of an index are in the order of the dataset's files."""
    whole = tree(export(folder, "imagefolder", tmp_path / "whole", "segmented"))
    arguments = [str(folder), "imagefolder", "--config", "segmented", "--to", str(tmp_path / "to")]
    with monkeypatch.context() as patch:
        cut_off(patch, 8 * 3)  # all images, and no index
        assert main(arguments) == 1
    place = tmp_path / ".to.exporting"
    first = json.loads((place / "journal").read_text().splitlines()[2])
    (place / "files" / next(iter(first[1]))).write_bytes(b"")
    assert main(arguments) == 0
    assert tree(tmp_path / "to")["train/metadata.jsonl"] == whole["train/metadata.jsonl"]


def test_nothing_to_do(folder, tmp_path, capsys):
    to = export(folder, "coco", tmp_path / "coco")
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*")}
    capsys.readouterr()
    export(folder, "coco", to)
    assert "is there already, nothing to do: train" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*")} == before


def test_into_an_empty_folder_or_a_link_to_one(folder, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "to")
    export(folder, "coco", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "to/export.json").exists()
    export(folder, "coco", tmp_path / "to")


@pytest.mark.parametrize("what", ["config", "split", "version", "files", "schema"])
def test_an_export_that_differs_in_one_thing_is_another(what, folder, tmp_path, monkeypatch, capsys):
    to = export(folder, "coco", tmp_path / "coco", "kvasir_seg_clean")
    before, arguments, version = tree(to), ["coco", "--config", "kvasir_seg_clean"], folder
    if what == "config":
        arguments[-1] = "kvasir_seg"
    elif what == "split":
        arguments += ["--split", "train"]
    elif what == "version":
        version = shutil.copytree(folder, tmp_path / "other")
    elif what == "files":
        version = changed(folder, tmp_path / "x" / folder.name, SEGMENTED, list.reverse)
    else:
        monkeypatch.setattr(run, "SCHEMA", run.SCHEMA + 1)
    refused("holds another export (coco of kvasir_seg_clean", version, *arguments, to=to, capsys=capsys)
    assert tree(to) == before


@pytest.mark.parametrize("name", ["imagefolder", "webdataset"])
def test_datasets_takes_no_other_export_from_its_cache(name, folder, tmp_path):
    """Of the same place and the same names of files."""

    def widths(folder):
        to = export(folder, name, tmp_path / "to", "segmented")
        rows = load_dataset(str(to), split="train")
        found = [(row["json"] if name == "webdataset" else row)["width"] for row in rows]
        shutil.rmtree(to)
        return found

    def fewer(rows):
        del rows[1:]

    other = changed(folder, tmp_path / "x" / folder.name, SEGMENTED, fewer)
    assert len(widths(folder)) == 8 > len(widths(other))


def test_one_at_a_time(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(output, "LOCK_SECONDS", 0)
    to, arguments = tmp_path / "to", ["coco", "--config", "kvasir_seg"]
    with output.lock(str(to)):
        refused("another command is writing to it", folder, *arguments, to=to, capsys=capsys)


def test_a_mounted_folder_cannot_be_replaced(folder, tmp_path, monkeypatch, capsys):
    to = tmp_path / "to"
    to.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda place: os.fspath(place) == str(to))
    refused("is a mounted folder", folder, "coco", "--config", "kvasir_seg", to=to, capsys=capsys)


# ---------------------------------------------------------------------------------------------------------- refused


def refused(words, folder, *arguments, to, capsys):
    capsys.readouterr()
    assert main([str(folder), *arguments, "--to", str(to)]) == 1
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: "), said


@pytest.mark.parametrize("config", ["labeled", "unlabeled", "fold_5_grouped"])
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.parts == formats.MASKS])
def test_formats_of_masks_take_nothing_else(name, config, folder, tmp_path, capsys):
    to = tmp_path / "to"
    refused(
        f"{name} is not for {config}, which has no masks and boxes",
        folder,
        name,
        "--config",
        config,
        to=to,
        capsys=capsys,
    )
    assert not list(tmp_path.iterdir())


def test_refusals(folder, tmp_path, capsys):
    to = tmp_path / "to"
    few = tmp_path / "few"
    shutil.copytree(folder, few)
    manifest = json.loads((few / "manifest.json").read_text())
    for config in ("metadata", "kvasir_seg"):
        del manifest["configs"][config]
    manifest["files"] = {path: entry for path, entry in manifest["files"].items() if "metadata" not in path}
    (few / "manifest.json").write_text(json.dumps(manifest))
    refused(
        "has no config 'kvasir_seg'; there are labeled", few, "coco", "--config", "kvasir_seg", to=to, capsys=capsys
    )
    arguments = ["coco", "--config", "kvasir_seg_clean"]
    refused("has no config 'metadata', which kvasir_seg_clean takes", few, *arguments, to=to, capsys=capsys)
    arguments = ["coco", "--config", "kvasir_seg", "--split", "test"]
    refused("no split 'test'; there are train, validation", folder, *arguments, to=to, capsys=capsys)
    for name in ("to", "Dataset1_x", "Dataset٥٠١_x"):
        arguments = ["nnunet", "--config", "kvasir_seg"]
        refused("expected e.g. Dataset501_KvasirSEG", folder, *arguments, to=tmp_path / name, capsys=capsys)
    words = "monai is not for unlabeled, which has neither masks nor labels; give labeled, segmented"
    refused(words, folder, "monai", "--config", "unlabeled", to=to, capsys=capsys)
    (tmp_path / "empty").mkdir()
    refused("no manifest.json here", tmp_path / "empty", "coco", "--config", "kvasir_seg", to=to, capsys=capsys)
    refused("no such folder", tmp_path / "none", "coco", "--config", "kvasir_seg", to=to, capsys=capsys)
    assert not to.exists()


def test_what_is_not_installed_is_named_before_any_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("scripts.pipeline.export.formats.importlib.util.find_spec", lambda name: None)
    words = "coco needs pycocotools: pip install -r scripts/export-requirements.txt"
    refused(words, folder, "coco", "--config", "kvasir_seg", to=tmp_path / "to", capsys=capsys)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_stays_as_it_is(folder, tmp_path, capsys):
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    arguments = ["coco", "--config", "kvasir_seg"]
    refused("holds 'mine.txt', and is no export", folder, *arguments, to=to, capsys=capsys)
    assert tree(to) == {"mine.txt": b"mine"}
    other = export(folder, "yolo", tmp_path / "other")
    refused("holds another export (yolo of kvasir_seg", folder, *arguments, to=other, capsys=capsys)
    refused("is a file", folder, *arguments, to=to / "mine.txt", capsys=capsys)
    refused("choose a folder beside it", folder, *arguments, to=folder / "coco", capsys=capsys)


def test_a_damaged_file_is_refused(folder, tmp_path, capsys):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    path = next((damaged / "data/segmented").iterdir())
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    to = tmp_path / "to"
    refused("expected", damaged, "png-masks", "--config", "segmented", to=to, capsys=capsys)
    assert not to.exists()


def changed(folder, to, path, change):
    """A copy of a folder in which the rows of a data file are others, and the manifest says so."""
    shutil.copytree(folder, to)
    table = pq.read_table(to / path, partitioning=None)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), to / path)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["files"][path]["sha256"] = sha256_of(to / path)
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def png(*size, mode="L"):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "x.png"}


SEGMENTED = "data/segmented/train_00.parquet"
HOSTILE = {  # a repository on the Hub may be anybody's: what the last row is changed to, and what is said of it
    **{
        f"id {image_id!r}": (
            lambda row, rows, i=image_id: {"image_id": i},
            "is no id, as it would be no name of a file",
        )
        for image_id in ("../../escape", "/etc/escape", ".hidden", "a\nb", "a.b", "", None)
    },
    "an id twice": (lambda row, rows: {"image_id": rows[0]["image_id"]}, "is there twice"),
    "no mask": (lambda row, rows: {"mask": None}, "has no mask"),
    "no boxes": (lambda row, rows: {"objects": None}, "has no objects"),
    "another size": (lambda row, rows: {"instances": png(3, 3, mode="P")}, "instances of (3, 3) pixels"),
    "colors": (lambda row, rows: {"mask": png(row["width"], row["height"], mode="RGB")}, "mode RGB, expected"),
    "no picture": (lambda row, rows: {"image": {"bytes": b"x", "path": "x.jpg"}}, "image cannot be read"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", ["png-masks", "webdataset"])
def test_rows_that_cannot_be_exported_are_refused(what, name, folder, tmp_path, capsys):
    change, words = HOSTILE[what]
    hostile = changed(folder, tmp_path / "x", SEGMENTED, lambda rows: rows[-1].update(change(rows[-1], rows)))
    refused(words, hostile, name, "--config", "segmented", to=tmp_path / "to", capsys=capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"x", ".to.exporting"}


def test_files_of_another_part_are_refused(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "x")
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(text.replace('"data/segmented/*.parquet"', '"data/unlabeled/*.parquet"'))
    refused("or those of another part", other, "monai", "--config", "segmented", to=tmp_path / "to", capsys=capsys)


def test_splits_that_changed_since_are_another_export(folder, tmp_path, monkeypatch, capsys):
    """The files of the images are the same: their splits are those of the metadata, also after a kill."""
    metadata = "data/metadata/00.parquet"

    def turn(rows):
        for row in rows:
            if row["fold_2_grouped"] is not None:
                row["fold_2_grouped"] = 1 - row["fold_2_grouped"]

    turned = changed(folder, tmp_path / "turned" / folder.name, metadata, turn)
    to = export(folder, "imagefolder", tmp_path / "to", "fold_2_grouped")
    arguments = ["imagefolder", "--config", "fold_2_grouped"]
    refused("holds another export", turned, *arguments, to=to, capsys=capsys)
    with monkeypatch.context() as patch:
        cut_off(patch, 12)
        assert main([str(folder), *arguments, "--to", str(tmp_path / "again")]) == 1
    again = export(turned, "imagefolder", tmp_path / "again", "fold_2_grouped")
    found = {path.stem: path.parent.parent.name for path in again.rglob("*.jpg")}
    rows = pq.read_table(turned / metadata, columns=["image_id", "fold_2_grouped"]).to_pylist()
    folds = {row["image_id"]: row["fold_2_grouped"] for row in rows}
    assert found and all(of == f"fold_{folds[image_id]}" for image_id, of in found.items())


def bad_split(rows):
    rows[0]["kvasir_seg_clean"] = "a\n---\n# injected"


def test_splits_that_are_none_are_refused(folder, tmp_path, capsys):
    odd = changed(folder, tmp_path / "x", "data/metadata/00.parquet", lambda rows: [bad_split([row]) for row in rows])
    arguments = ["coco", "--config", "kvasir_seg_clean"]
    refused("has no kvasir_seg_clean, or one of its own", odd, *arguments, to=tmp_path / "to", capsys=capsys)


def test_a_folder_in_the_way_that_is_not_ours_stays(folder, tmp_path, capsys):
    """Where an unfinished export would be."""
    place = tmp_path / ".to.exporting"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    arguments = ["coco", "--config", "kvasir_seg"]
    refused("is in the way, and not of this project", folder, *arguments, to=tmp_path / "to", capsys=capsys)
    assert tree(place) == {"mine.txt": b"mine"}
    place.rename(tmp_path / "mine")
    place.symlink_to(tmp_path / "mine")
    refused("is in the way", folder, *arguments, to=tmp_path / "to", capsys=capsys)
    assert tree(tmp_path / "mine") == {"mine.txt": b"mine"}


def test_a_kill_when_all_is_done_leaves_nothing_for_good(folder, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("scripts.pipeline.export.folder.shutil.rmtree", killed)
        export(folder, "coco", tmp_path / "to")
    assert (tmp_path / "to/export.json").exists() and (tmp_path / ".to.exporting").exists()
    export(folder, "coco", tmp_path / "to")
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_room_on_the_disk_is_for_what_is_left(folder, tmp_path, monkeypatch, capsys):
    """What is there already needs no more, and a format may need several times what the dataset does."""
    asked = []
    monkeypatch.setattr("scripts.pipeline.export.folder.check_disk", lambda to, needed: asked.append(needed))
    arguments = [str(folder), "webdataset", "--config", "fold_5", "--to", str(tmp_path / "to")]
    with monkeypatch.context() as patch:
        cut_off(patch, 8)
        assert main(arguments) == 1
    assert main(arguments) == 0
    export(folder, "nnunet", tmp_path / "Dataset501_A")
    export(folder, "coco", tmp_path / "coco")
    export(folder, "imagefolder", tmp_path / "all", "fold_5_grouped")
    export(folder, "imagefolder", tmp_path / "one", "fold_5_grouped", "--split", "fold_1")
    whole, left, nnunet, coco, all_folds, one_fold = asked
    assert left < whole and nnunet == pytest.approx(9 * coco, abs=9) and one_fold < all_folds / 2


@pytest.mark.parametrize("box, expected", [
    ((63.69, 15.44, 0.309, 13.7), [64, 16, 64, 29]),  # ends at the edge, of a third of a pixel
    ((0.2, 0.4, 10.2, 20.3), [1, 1, 10, 21]),
    ((3, 4, 10, 20), [4, 5, 13, 24]),
])  # fmt: skip
def test_boxes_of_fractions_in_pascal_voc(box, expected, folder):
    row = next(iter(rows_of(folder)["train"].values())) | {"width": 64, "height": 54}
    row["objects"] = row["objects"] | {"bbox": [box]}
    text = dict(FORMATS["pascal-voc"].files("train", row))[f"Annotations/{row['image_id']}.xml"].decode()
    assert [int(re.search(rf"<{side}>(\d+)<", text)[1]) for side in ("xmin", "ymin", "xmax", "ymax")] == expected


def test_the_small_edition(tmp_path):
    from tests.fake_source import write_source

    write_source(tmp_path / "source", findings=FEW, segmented=8, unlabeled=6)
    build(tmp_path / "source", tmp_path / "small", "--config", "segmented", "--max-side", "32")
    to = export(tmp_path / "small", "yolo-seg", tmp_path / "yolo", "segmented")
    rows = rows_of(tmp_path / "small")["train"]
    assert {path.stem for path in (to / "images/train").iterdir()} == set(rows)
    for image_id, row in rows.items():
        lines = (to / f"labels/train/{image_id}.txt").read_text().splitlines()
        assert len(lines) == len(np.unique(pixels(row["instances"]))) - 1


def test_help_names_formats_configs_and_what_to_install(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in (*FORMATS, *GROUPED, "scripts/export-requirements.txt"))
    table = (ROOT / "README.md").read_text().split("## Export\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in table for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_says_how_it_is_read(name, folder, tmp_path):
    text = (export(folder, name, tmp_path / "Dataset501_x") / "README.md").read_text()
    assert re.search(r"^```(python|bash)\n", text, re.MULTILINE) and "CC BY 4.0" in text
