"""The real segmented part: built, described by its card, published."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter

import datasets
import pytest
from datasets import load_dataset

from hyper_kvasir import FINDINGS, OFFICIAL, Problems, find_archive, read_folds, read_kvasir_seg, read_part
from scripts.build import main as build
from scripts.pipeline import leaks, stats
from scripts.pipeline.verify import part_digest, row_line
from scripts.quality import main as quality
from tests.conftest import OBJECT_FACTS, ROOT
from tests.publisher import REPO

# Of one worker, so that it is built once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]


@pytest.fixture(scope="module")
def built(real, tmp_path_factory):
    """(the folder, not to be changed; the most memory that a process of its build took, in bytes)"""
    folder = tmp_path_factory.mktemp("real") / "hyper-kvasir"
    command = [
        sys.executable,
        "-m",
        "scripts.build",
        "--source",
        real,
        "--config",
        "segmented",
        "--config",
        "kvasir_seg",
    ]
    command += ["--out", folder]
    measure = (  # in a process between, since what this one has counts for those that it starts
        "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", measure, *map(str, command), "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return folder, int(done.stdout) * 1024


@pytest.fixture(scope="module")
def folder(built):
    return built[0]


def test_the_memory_of_its_build(built):
    assert built[1] < 300e6


def test_the_rows_that_are_pinned(real):
    """The labeled ones follow from image-labels.csv and the fold csvs; verification compares the segmented ones."""
    problems = Problems()
    folds = read_folds(datasets.DownloadManager(), [str(real)], OFFICIAL, problems)
    lines = []
    with open(real / "labeled-sample/labeled-images/image-labels.csv", newline="") as file:
        for listed in csv.DictReader(file):
            fold = folds[listed["Video file"]]
            assert FINDINGS[fold.label] == listed["Finding"]
            lines.append(row_line({"image_id": listed["Video file"], **fold._asdict()}, {}))
    assert not problems.found and len(lines) == 10_662
    assert part_digest(lines) == OFFICIAL.part_digests["labeled"]


@pytest.mark.parametrize("wrong", ["a box moved", "boxes of two images swapped"])
def test_other_boxes_are_not_the_official_ones(wrong, real, tmp_path, capsys):
    """The images and masks are; counts and bounds are right."""
    with zipfile.ZipFile(real / "hyper-kvasir-segmented-images.zip") as archive:
        archive.extractall(tmp_path)
    file = tmp_path / "segmented-images/bounding-boxes.json"
    entries = json.loads(file.read_text())
    if wrong == "a box moved":
        box = next(e["bbox"][0] for e in entries.values() if e["bbox"][0]["xmin"] > 0)
        box["xmin"] -= 1
    else:
        pairs = itertools.combinations(entries.values(), 2)
        one, other = next((a, b) for a, b in pairs if (a["width"], a["height"]) == (b["width"], b["height"]))
        one["bbox"], other["bbox"] = other["bbox"], one["bbox"]
    file.write_text(json.dumps(entries, indent=4))
    problems = Problems()
    archive = find_archive("segmented", [str(tmp_path)])
    read_part("segmented", archive, {}, OFFICIAL, problems, kvasir_seg=read_kvasir_seg())
    assert [problem.waivable for problem in problems.found] == [True]
    assert "not the official bounding-boxes.json: sha256" in problems.found[0].text


def test_images_are_those_of_the_archive(real, folder):
    rows = load_dataset(str(folder), "segmented", split="train").cast_column("image", datasets.Image(decode=False))
    assert len(rows) == 1000
    assert sum(len(objects["id"]) for objects in rows["objects"]) == 1071
    archive = zipfile.ZipFile(real / "hyper-kvasir-segmented-images.zip")
    for row in rows:
        assert row["image"]["bytes"] == archive.read(f"segmented-images/images/{row['image_id']}.jpg")


def test_the_card_has_the_numbers_that_are_known_of_the_true_masks_and_boxes(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    summary = stats.by_part(stats.read_stats(str(folder)))["segmented"]
    for fact in (
        "| `segmented` | 1,000 | 43.1 MB | segmentation, detection: polyps with a mask, 1,063 instances,",
        "All 1,000 images are those of [Kvasir-SEG]",
        "20 stretched to the upper left corner (IoU 0.46 to 0.98), 8 elsewhere (IoU 0.00 to 0.02).",
        "982 of 1,000 segmented images are JPEG files of quality 75 with a JFIF marker.",
        "| `kvasir_seg` | `train` | 880 |",
        "| `kvasir_seg` | `validation` | 120 |",
        "| Instances | 1,063 | 1.06 | 240 (30 to 1,346) | 251 (25 to 1,070) | 10.4% (0.2% to 81.2%) |",
        *OBJECT_FACTS,
        "- Instances that no box matches: 20.",
        "- `segmented`: 333 different sizes, widths of 332 to 1,920 and heights of 352 to 1,072 pixels.",
        "`segmented` takes 43.1 MB in 2 files.",
        "the official content in another container",
        "143 of them have one stray white pixel",  # the claims are shown: this is the official content
        "Nothing in segmented was left out.",
    ):
        assert fact in text, fact
    assert "Not the official numbers" not in text
    unfit = stats.unfit_boxes(summary)
    assert [box.fit for box in unfit] == ["stretched"] * 20 + ["unmatched"] * 8
    assert stats.object_examples(summary)[-1] == unfit[0].image_id and unfit[0].iou < 0.7
    with open(folder / "objects.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert Counter(line["kind"] for line in lines) == {"instance": 1063, "box": 1071}
    assert sum(line["fit"] == "unboxed" for line in lines) == 20


def test_a_mixed_folder_says_what_is_counted_and_what_is_proven(real, folder, tmp_path):
    """The real segmented part beside 16 labeled images: what is known of one part is not said of the other."""
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    sources = ["--source", str(real), "--source", str(real / "labeled-sample")]
    configs = ["--config", "labeled", "--config", "segmented", "--config", "fold_2"]
    assert build([*sources, "--out", str(mixed), *configs, "--no-verify", "--workers", "1"]) == 0
    text = (mixed / "README.md").read_text(encoding="utf-8")
    for fact in (
        "**Incomplete.**",
        "labeled images: 16 here, officially 10,662;",
        "**Not known to be official.** `labeled` was built from files that could not be matched to the",
        "All 1,000 images are those of [Kvasir-SEG]",
        ", and 1 is in `labeled`, too, by the same id",
        "982 of 1,000 segmented images are JPEG files of quality 75 with a JFIF marker. When you mix them",
        "143 of them have one stray white pixel",
        "513 to 558 of the 1,000 images",
    ):
        assert fact in text, fact
    for claim in ("254 groups", "A copy on Kaggle", "To compare with the paper", "those of the official archives"):
        assert claim not in text.split("---\n", 2)[2], claim
    sheet = (mixed / "datasheet.md").read_text(encoding="utf-8")
    assert "16 labeled. 1,000 segmented, of which 1 are labeled, too." in sheet


def test_it_verifies_is_published_and_loads(xet_publisher, folder):
    """Publication refuses what does not verify."""
    xet_publisher.ok(folder, "1.0.0", expect=False)
    found = xet_publisher.python(f"""
import json
from datasets import load_dataset
pinned = load_dataset({REPO!r}, "segmented", split="train", revision="v1.0.0")
stream = load_dataset({REPO!r}, "segmented", split="train", streaming=True)
row = next(iter(stream))
same = pinned[0]["image_id"] == row["image_id"]
print(json.dumps([pinned.num_rows, same, row["image"].size == row["mask"].size]))""")
    assert found == [1000, True, True]


def test_the_pairs_that_are_known_of_the_true_images(real, tmp_path):
    """tests/real_pairs.csv was made by eye. Every pair that is found is in it, and all of the same frame are found.

    Among their images and 50 others: `python -m scripts.bench_quality copies` counts those among all.
    """
    with open(ROOT / "tests/real_pairs.csv", newline="") as file:
        known = {(row["image_id"], row["other_image_id"]): row["kind"] for row in csv.DictReader(file)}
    with zipfile.ZipFile(real / "hyper-kvasir-segmented-images.zip") as archive:
        stems = sorted(name[-40:-4] for name in archive.namelist() if "/images/" in name and name.endswith(".jpg"))
        wanted = {image_id for pair in known for image_id in pair} | set(stems[::20])
        archive.extractall(tmp_path, [name for name in archive.namelist() if name[-40:-4] in wanted])
        boxes = json.loads(archive.read("segmented-images/bounding-boxes.json"))
    boxes = {image_id: entry for image_id, entry in boxes.items() if image_id in wanted}
    (tmp_path / "segmented-images/bounding-boxes.json").write_text(json.dumps(boxes))
    source = ["--source", str(tmp_path), "--source", str(real), "--config", "segmented", "--no-verify"]
    assert quality([*source, "--out", str(tmp_path.parent / "pairs")]) == 0
    out = tmp_path.parent / "pairs"
    with open(out / "leakage.csv", newline="") as file:
        found = {(row["image_id"], row["other_image_id"]): row for row in csv.DictReader(file)}
    assert set(found) <= set(known)
    frames = {pair for pair, kind in known.items() if kind == "same_frame"}
    assert len(frames) == 18 and {pair for pair, row in found.items() if row["kind"] == "same_frame"} == frames
    assert len(found) - len(frames) >= 0.6 * (len(known) - len(frames))
    assert not leaks.problems_of(leaks.read_rows(out / leaks.METADATA_FILE))  # Kvasir-SEG's ids and sets, too
    text = (out / "README.md").read_text()
    for line in (
        "| official, 2 folds | `fold_2` | 18 | 6 |",
        "| official, 5 folds | `fold_5` | 18 | 11 |",
        "| Kvasir-SEG | `kvasir_seg_set` | 18 | 13 |",
    ):
        assert line in text
    ious = sorted(float(row["mask_iou"]) for row in found.values() if row["kind"] == "same_frame")
    assert len(ious) == 18 and ious[0] > 0.6 and 0.9 < ious[8] < 0.95
    leaking = {row[f"{end}image_id"] for row in found.values() if "kvasir_seg_set" in row["leaks_in"]
               for end in ("", "other_") if row[f"{end}kvasir_seg_set"] == "validation"
               and row["kind"] == "same_frame"}  # fmt: skip
    assert len(leaking) == 13  # of the 120 validation images of Kvasir-SEG
