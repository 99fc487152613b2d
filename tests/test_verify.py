"""scripts.verify finds whatever is wrong in a built folder."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.verify import main
from tests.conftest import sha256_of

LABELED = "data/labeled/lower-gi-tract/pathological-findings/fold2-0_fold5-0_00.parquet"
SEGMENTED = "data/segmented/00.parquet"


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built, tmp_path / "folder")


@pytest.fixture
def verify(source, capsys):
    def run(folder):
        code = main([str(folder), "--expect", str(source / "expected.json")])
        return code, capsys.readouterr()

    return run


def rewrite(folder, path, change, **settings):
    """Writes a file again with `change`d rows, and the manifest to match: what only a look at the rows can find."""
    table = pq.read_table(folder / path)
    rows = table.to_pylist()
    rows = change(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / path, compression="none", **settings)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"][path]
    entry.update(rows=len(rows), bytes=(folder / path).stat().st_size, sha256=sha256_of(folder / path))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_folder(folder, verify):
    code, said = verify(folder)
    assert code == 0 and "all good: labeled, unlabeled, segmented, tract" in said.out


def test_official_numbers_by_default(folder, capsys):
    assert main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert "finding cecum" in said and "- finding cecum: 7, expected 1,009" in said


def test_a_flipped_byte(folder, verify):
    data = bytearray((folder / LABELED).read_bytes())
    data[len(data) // 3] ^= 1
    (folder / LABELED).write_bytes(bytes(data))
    code, said = verify(folder)
    assert code == 1 and f"{LABELED}: sha256 is" in said.out


def test_a_truncated_file(folder, verify):
    (folder / LABELED).write_bytes((folder / LABELED).read_bytes()[:-100])
    code, said = verify(folder)
    assert code == 1 and f"{LABELED}: not a readable Parquet file" in said.out


def test_a_lost_file(folder, verify):
    (folder / LABELED).unlink()
    code, said = verify(folder)
    assert code == 1 and f"{LABELED}: in manifest.json, but not in the folder" in said.out


def test_a_stray_file(folder, verify):
    shutil.copy(folder / LABELED, folder / "data/labeled/more.parquet")
    code, said = verify(folder)
    assert code == 1 and "data/labeled/more.parquet: in the folder, but not in manifest.json" in said.out


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_no_manifest_of_ours(folder, content, verify):
    (folder / "manifest.json").unlink()
    if content:
        (folder / "manifest.json").write_text(content)
    code, said = verify(folder)
    assert code == 1 and "manifest" in said.err and "Traceback" not in said.err


def test_several_row_groups(folder, verify):
    rewrite(folder, LABELED, lambda rows: rows, row_group_size=1)
    code, said = verify(folder)
    assert code == 1 and "row groups, expected 1" in said.out


def test_a_card_with_other_configs(folder, verify):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("fold2-0_*", "fold2-1_*"))
    code, said = verify(folder)
    assert code == 1 and "README.md: changed since it was made" in said.out


def change(column, value):
    def changed(rows):
        rows[0][column] = value

    return changed


def an_id_twice(rows):
    rows[1]["image_id"] = rows[0]["image_id"]
    rows[1]["image"]["path"] = rows[0]["image"]["path"]


def a_truncated_image(rows):
    rows[0]["image"]["bytes"] = rows[0]["image"]["bytes"][:-20]


def an_image_path(rows):
    rows[0]["image"]["path"] = "/home/me/image.jpg"


def another_id(rows):
    rows[0]["image_id"], rows[0]["image"]["path"] = "!x", "!x.jpg"


WRONG_LABELED = {
    "label of another category": (change("label", 0), "cecum in pathological-findings, lower-gi-tract; expected"),
    "label of another finding": (change("label", 3), "finding hemorrhoids: 4, expected 3"),
    "fold of another file": (change("fold_2", 1), "has rows of another fold_2"),
    "width": (change("width", 7), "pixels, columns say 7 x"),
    "id twice": (an_id_twice, "labeled: rows that repeat an image id: 1"),
    "order": (lambda rows: rows[::-1], "rows are not sorted by image_id"),
    "row lost": (lambda rows: rows[1:], "labeled / train: 136, expected 137"),
    "truncated image": (a_truncated_image, "image file is truncated"),
    "image path": (an_image_path, "image path '/home/me/image.jpg'"),
    "id that is no uuid": (another_id, "!x: not a uuid in lower case"),
    "no id": (change("image_id", None), "empty values in column image_id"),
    "no label": (change("label", None), "empty values in column label"),
    "no fold": (change("fold_5", None), "fold_5 has ['0', 'None'], expected 0 to 4"),
}


@pytest.mark.parametrize("wrong", WRONG_LABELED)
def test_labeled_rows(wrong, folder, verify):
    changed, message = WRONG_LABELED[wrong]
    rewrite(folder, LABELED, changed)
    code, said = verify(folder)
    assert code == 1 and message in said.out, said.out


def png(pixels):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def a_small_mask(rows):
    rows[0]["mask"]["bytes"] = png(np.full((3, 3), 255, np.uint8))


def a_grey_mask(rows):
    rows[0]["mask"]["bytes"] = png(np.full((rows[0]["height"], rows[0]["width"]), 100, np.uint8))


def one_instance_of_all(rows):
    row = next(row for row in rows if len(row["objects"]["id"]) > 1)
    row["instances"]["bytes"] = png(np.ones((row["height"], row["width"]), np.uint8))


def a_box_outside(rows):
    rows[0]["objects"]["bbox"][0][0] = 10_000.0


def another_image(rows):
    rows[0]["image"]["bytes"] = rows[1]["image"]["bytes"]
    rows[0]["width"], rows[0]["height"] = rows[1]["width"], rows[1]["height"]


def a_mask_path(rows):
    rows[0]["mask"]["path"] = "/home/me/mask.png"


def change_objects(name, value):
    def changed(rows):
        row = next(row for row in rows if len(row["objects"]["id"]) > 1)
        row["objects"][name][1] = value

    return changed


WRONG_SEGMENTED = {
    "mask path": (a_mask_path, "mask path '/home/me/mask.png', expected"),
    "object id twice": (change_objects("id", 0), "objects with ids [0, 0"),
    "fold that there is not": (change("fold_5", 9), "expected 0 to 4"),
    "mask of another size": (a_small_mask, "mask of mode L"),
    "mask neither black nor white": (a_grey_mask, "mask is empty or has values other than 0 and 255"),
    "instances that are not the components": (one_instance_of_all, "instances are not the components of the mask"),
    "box out of bounds": (a_box_outside, "is out of bounds, empty or miscounted"),
    "label": (change("label", 0), "label cecum, expected polyps"),
    "fold": (change("fold_5", 9), "has another fold_5 in data/labeled"),
    "other image bytes than labeled": (another_image, "has other image bytes in data/labeled"),
}


@pytest.mark.parametrize("wrong", WRONG_SEGMENTED)
def test_segmented_rows(wrong, folder, verify):
    changed, message = WRONG_SEGMENTED[wrong]
    rewrite(folder, SEGMENTED, changed)
    code, said = verify(folder)
    assert code == 1 and message in said.out, said.out


def test_other_features(folder, verify):
    table = pq.read_table(folder / SEGMENTED)
    pq.write_table(table.drop_columns(["fold_2"]), folder / SEGMENTED)
    code, said = verify(folder)
    assert code == 1 and "columns [" in said.out


@pytest.mark.parametrize("change", ["a file that is no data", "an entry without a digest", "a config that is not ours"])
def test_a_manifest_of_another_form(change, folder, verify):
    manifest = json.loads((folder / "manifest.json").read_text())
    if change == "a file that is no data":
        manifest["files"]["README.md"] = manifest["files"][SEGMENTED]
    elif change == "an entry without a digest":
        del manifest["files"][SEGMENTED]["sha256"]
    else:
        manifest["configs"]["videos"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, said = verify(folder)
    assert code == 1 and "not a manifest of this builder" in said.err


@pytest.mark.parametrize("path", ["README.md", "croissant.json", "assets/sizes.png"])
def test_a_file_of_the_card_that_is_not_the_one_written(path, folder, verify):
    data = (folder / path).read_bytes()
    (folder / path).write_bytes(data[:-5] + b"12345")
    code, said = verify(folder)
    assert code == 1 and f"{path}: changed since it was made" in said.out


def test_a_card_whose_numbers_are_not_those_of_the_files(folder, verify):
    """The manifest vouches for the card, so only its numbers tell."""
    text = (folder / "README.md").read_text()
    wrong = text.replace("num_examples: 137", "num_examples: 999", 1)
    assert wrong != text
    (folder / "README.md").write_text(wrong)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["card"]["files"]["README.md"]["sha256"] = sha256_of(folder / "README.md")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, said = verify(folder)
    assert code == 1 and "999" in said.out
