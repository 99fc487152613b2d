"""The real segmented part: built, described by its card, published."""

import zipfile

import datasets
import pytest
from datasets import load_dataset

from scripts.pipeline import stats
from tests.conftest import OBJECT_FACTS, build
from tests.publisher import REPO

# Of one worker, so that it is built once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]


@pytest.fixture(scope="module")
def folder(real, tmp_path_factory):
    """Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("real") / "hyper-kvasir"
    build(real, folder, "--config", "segmented", "--workers", "2", expect=False)
    return folder


def test_images_are_those_of_the_archive(real, folder):
    rows = load_dataset(str(folder), "segmented", split="train").cast_column("image", datasets.Image(decode=False))
    assert len(rows) == 1000
    assert sum(len(objects["id"]) for objects in rows["objects"]) == 1071
    archive = zipfile.ZipFile(real / "hyper-kvasir-segmented-images.zip")
    for row in rows:
        assert row["image"]["bytes"] == archive.read(f"segmented-images/images/{row['image_id']}.jpg")


def test_the_card_has_the_numbers_that_are_known_of_the_true_masks_and_boxes(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    summary = stats.read_stats(str(folder))["data/segmented/00.parquet"]
    for fact in (
        "| `segmented` | 1,000 | polyps with a mask, 1,063 instances and 1,071 boxes |",
        *OBJECT_FACTS,
        "- Instances without a matching box: 20.",
        "- `segmented`: 333 different sizes, widths of 332 to 1,920 and heights of 352 to 1,072 pixels.",
        "`segmented` takes 43.6 MB in 1 file.",
        "the official content in another container",
        "143 of them have one stray white pixel",  # the claims are shown: this is the official content
        "Nothing in segmented was left out.",
    ):
        assert fact in text, fact
    assert "Not the official numbers" not in text
    assert summary["boxes_by_fit"] == {"matched": 1043, "stretched": 20, "unmatched": 8}
    assert stats.object_examples(summary)[-1] == summary["stretched"][0][1] and summary["stretched"][0][0] < 0.7


def test_it_verifies_is_published_and_loads(xet_publisher, folder):
    """Publication refuses what does not verify."""
    xet_publisher.settings["DRAW_FIGURES"] = "1"
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
