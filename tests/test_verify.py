"""scripts.verify finds whatever is wrong in a built folder."""

import io
import itertools
import json
import re
import shutil
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hyper_kvasir import instance_map
from scripts.build import main as build_command
from scripts.card import main as card
from scripts.pipeline.manifest import read_manifest
from scripts.pipeline.parquet import KEY, ROWS, entry_of
from scripts.pipeline.verify import part_digest, read_contents
from scripts.verify import main
from tests.conftest import build, sha256_of, tree
from tests.fake_source import UNDECODABLE, write_source

LABELED = "data/labeled/lower-gi-tract/pathological-findings/fold2-0_fold5-0_00.parquet"
SEGMENTED = "data/segmented/train_00.parquet"


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
    table, footer = pq.read_table(folder / path), pq.read_metadata(folder / path).metadata
    rows = table.to_pylist()
    rows = change(rows) or rows
    with pq.ParquetWriter(folder / path, table.schema, compression="none") as writer:
        writer.write_table(pa.Table.from_pylist(rows, table.schema), **settings)
        writer.add_key_value_metadata({KEY: footer[KEY], ROWS: footer[ROWS]})
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"][path]
    entry.update(entry_of(pq.read_metadata(folder / path)))
    entry.update(bytes=(folder / path).stat().st_size, sha256=sha256_of(folder / path))
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


def ids_of(path):
    return set(pq.read_table(path, columns=["image_id"], partitioning=None)["image_id"].to_pylist())


@pytest.mark.parametrize("how", ["lost", "cut"])
def test_a_file_that_cannot_be_read_is_told_once(folder, how, verify):
    """Its rows are missing in many numbers, which say so, and are no problems of their own."""
    segmented = ids_of(folder / SEGMENTED)
    labeled = next(path for path in sorted((folder / "data/labeled").rglob("*.parquet")) if ids_of(path) & segmented)
    if how == "lost":
        labeled.unlink()
    else:
        labeled.write_bytes(labeled.read_bytes()[:-100])
    code, said = verify(folder)
    table, problems = re.split(r" problems?:\n", said.out)
    assert (
        code == 1
        and str(labeled.relative_to(folder)) in problems
        and "some cannot be read" in table
        and "differs" not in table
    )
    assert ", expected " not in problems and "has no labeled row" not in problems


def test_what_a_lost_file_does_not_explain_is_told(folder, verify):
    """A row that is missing in another file, a finding of which there are too many."""
    (folder / SEGMENTED).unlink()
    rewrite(folder, LABELED, lambda rows: rows[1:])
    code, said = verify(folder)
    assert code == 1 and "labeled / train: 136, expected 137" in said.out
    assert "polyp instances: " not in said.out and "boxes: " not in said.out


@pytest.mark.parametrize("wrong", ["image", "mask", "instances"])
def test_a_row_that_cannot_be_read_is_told_once(folder, wrong, verify):
    def cut(rows):
        rows[0][wrong]["bytes"] = rows[0][wrong]["bytes"][:40]

    rewrite(folder, SEGMENTED, cut)
    code, said = verify(folder)
    assert code == 1 and "polyp instances: " not in said.out and "boxes: " not in said.out
    assert re.search(r"^polyp instances .* some cannot be read$", said.out, re.MULTILINE)
    assert re.search(r"^boxes +\d+ +\d+$", said.out, re.MULTILINE), "its boxes are counted"


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
    return encoded(Image.fromarray(pixels))


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def a_small_mask(rows):
    rows[0]["mask"]["bytes"] = png(np.full((3, 3), 255, np.uint8))


def a_grey_mask(rows):
    rows[0]["mask"]["bytes"] = png(np.full((rows[0]["height"], rows[0]["width"]), 100, np.uint8))


def instances_of(row):
    return Image.open(io.BytesIO(row["instances"]["bytes"]))


def one_instance_of_all(rows):
    row = next(row for row in rows if len(row["objects"]["id"]) > 1)
    image = instances_of(row)
    image.paste(1, (0, 0, *image.size))
    row["instances"]["bytes"] = encoded(image)


def instances_without_colors(rows):
    rows[0]["instances"]["bytes"] = png(np.asarray(instances_of(rows[0])))


def other_colors(rows):
    image = instances_of(rows[0])
    image.putpalette([0] * 768)
    rows[0]["instances"]["bytes"] = encoded(image)


def unknown_to_kvasir_seg(rows):
    """Of another id, with a name all the same."""
    row = rows[-1]
    row["image_id"], row["kvasir_seg_id"] = "ffffffff-0000-4000-8000-000000000000", "cju0"
    for name, suffix in (("image", "jpg"), ("mask", "png"), ("instances", "png")):
        row[name]["path"] = f"{row['image_id']}.{suffix}"


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
    "instances without a palette": (instances_without_colors, "instances of mode L"),
    "instances that are all but black": (other_colors, "instances have other colors than are given to them"),
    "another name in Kvasir-SEG": (change("kvasir_seg_id", "x"), "kvasir_seg_id is x, expected cju"),
    "another set of Kvasir-SEG": (change("kvasir_seg_set", "validation"), "validation, expected train"),
    "an image that Kvasir-SEG does not have": (unknown_to_kvasir_seg, "kvasir_seg_id is cju0, expected None"),
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


# ------------------------------------------------------------------------------- wrong content with a right manifest


def swap(*columns):
    """Swaps columns of two rows of the same size, with other values."""

    def changed(rows):
        pairs = itertools.combinations(rows, 2)
        same = [(a, b) for a, b in pairs if (a["width"], a["height"]) == (b["width"], b["height"])]
        one, other = next((a, b) for a, b in same if a[columns[0]] != b[columns[0]])
        for column in columns:
            one[column], other[column] = other[column], one[column]
            for row in (one, other):
                if isinstance(row[column], dict) and "path" in row[column]:
                    row[column]["path"] = f"{row['image_id']}{row[column]['path'][-4:]}"

    return changed


def move_a_box(rows):
    box = next(row["objects"]["bbox"][0] for row in rows if row["objects"]["bbox"][0][0] > 0)
    box[0] -= 1


def erase_a_pixel(rows):
    """One at the edge of a component, of which the rest stays one."""
    row = rows[0]
    mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"]))).copy()
    y, x = np.argwhere(mask)[0]
    mask[y, x] = 0
    row["mask"]["bytes"], row["instances"]["bytes"] = png(mask), encoded(instance_map(mask > 0))


def flip_a_fold(rows):
    rows[0]["fold_2"] = 1 - rows[0]["fold_2"]


def another_picture(rows):
    buffer = io.BytesIO()
    size = rows[0]["width"], rows[0]["height"]
    Image.new("RGB", size, (90, 40, 30)).save(buffer, "JPEG")
    rows[0]["image"]["bytes"] = buffer.getvalue()


WRONG_CONTENT = {
    "masks swapped": swap("mask", "instances"),
    "images swapped": swap("image"),
    "boxes swapped": swap("objects"),
    "a box moved": move_a_box,
    "a mask pixel erased": erase_a_pixel,
    "a fold flipped": flip_a_fold,
    "another picture": another_picture,
}


@pytest.fixture(scope="module")
def polyps(tmp_path_factory):
    """(source, built folder) of a segmented part whose images have one size; its row digest is in expected.json."""
    work = tmp_path_factory.mktemp("polyps")
    write_source(work / "source", images="drawn", parts=("segmented",))
    build(work / "source", work / "folder", "--config", "segmented")
    contents = read_contents(str(work / "folder"), sorted(read_manifest(str(work / "folder"))["files"]), 1)
    expected = json.loads((work / "source/expected.json").read_text())
    expected["part_digests"] = {
        "segmented": part_digest(line for content in contents.values() for line in content.lines)
    }
    (work / "expected.json").write_text(json.dumps(expected))
    return work / "source", work / "folder"


@pytest.mark.parametrize("wrong", WRONG_CONTENT)
def test_wrong_content_with_a_right_manifest(wrong, polyps, tmp_path, capsys):
    """The digest of the rows tells, and comparison with the archives says which row, even if the card agrees."""
    source, built = polyps
    folder = shutil.copytree(built, tmp_path / "folder")
    rewrite(folder, SEGMENTED, WRONG_CONTENT[wrong])
    assert card([str(folder)]) == 0
    capsys.readouterr()
    assert main([str(folder), "--expect", str(source / "expected.json")]) == 0  # without either
    assert main([str(folder), "--expect", str(source.parent / "expected.json")]) == 1
    assert "segmented: the rows have the digest" in capsys.readouterr().out
    assert main([str(folder), "--expect", str(source / "expected.json"), "--source", str(source)]) == 1
    said = capsys.readouterr().out
    columns = {"m": "mask, instances", "i": "image", "b": "objects", "f": "fold_2"}
    column = columns["b" if "box" in wrong else "f" if "fold" in wrong else "m" if "mask" in wrong else "i"]
    assert re.search(rf"{SEGMENTED}: \S+: other {column} than in the archives", said), said


def test_a_right_folder_is_as_its_archives(polyps, tmp_path, capsys):
    source, folder = polyps
    assert main([str(folder), "--expect", str(source.parent / "expected.json"), "--source", str(source)]) == 0
    png_again = shutil.copytree(folder, tmp_path / "folder")

    def other_compression(rows):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(rows[0]["mask"]["bytes"])).save(buffer, "PNG", compress_level=0)
        rows[0]["mask"]["bytes"] = buffer.getvalue()

    rewrite(png_again, SEGMENTED, other_compression)
    assert card([str(png_again)]) == 0
    arguments = ["--expect", str(source.parent / "expected.json"), "--source", str(source)]
    assert main([str(png_again), *arguments]) == 0


def test_rows_that_are_missing_or_no_rows_of_the_archives(polyps, tmp_path, capsys):
    source, built = polyps
    folder = shutil.copytree(built, tmp_path / "folder")

    def another_id_in_place(rows):
        rows[0]["image_id"] = "00000000-0000-4000-8000-000000000000"
        for name, suffix in (("image", "jpg"), ("mask", "png"), ("instances", "png")):
            rows[0][name]["path"] = f"{rows[0]['image_id']}.{suffix}"

    rewrite(folder, SEGMENTED, another_id_in_place)
    assert main([str(folder), "--expect", str(source / "expected.json"), "--source", str(source)]) == 1
    said = capsys.readouterr().out
    assert f"{SEGMENTED}: 00000000-0000-4000-8000-000000000000: not in the archives" in said
    assert re.search(rf"{SEGMENTED}: \w{{8}}-\S+: missing", said)


def no_mask(rows):
    rows[0]["mask"] = None


def a_broken_mask(rows):
    rows[0]["mask"]["bytes"] = rows[0]["mask"]["bytes"][:50]


def a_bomb(rows):
    """A PNG of some hundred bytes that claims 60,000 x 60,000 pixels."""
    data = rows[0]["mask"]["bytes"]
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    rows[0]["mask"]["bytes"] = data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


@pytest.mark.parametrize("damage", [no_mask, a_broken_mask, a_bomb, "no such column", "a truncated file"])
def test_damage_is_told_beside_the_archives_too(damage, polyps, tmp_path, capsys):
    """Comparison with the archives neither fails on it nor hides what else was found."""
    source, built = polyps
    folder = shutil.copytree(built, tmp_path / "folder")
    if damage == "no such column":
        pq.write_table(pq.read_table(folder / SEGMENTED).drop_columns(["image_id"]), folder / SEGMENTED)
    elif damage == "a truncated file":
        (folder / SEGMENTED).write_bytes((folder / SEGMENTED).read_bytes()[:-100])
    else:
        rewrite(folder, SEGMENTED, damage)
    for more in ([], ["--source", str(source)]):
        assert main([str(folder), "--expect", str(source / "expected.json"), *more]) == 1
        said = capsys.readouterr()
        assert (
            "what               expected  found" in said.out
            and f"- {SEGMENTED}: " in said.out
            and "error" not in said.err
        )


def test_archives_that_are_wrong_are_told_beside_the_rest(polyps, tmp_path, capsys):
    source, folder = polyps
    write_source(tmp_path / "bad", images="drawn", parts=("segmented",), defects=["bad_crc"])
    arguments = ["--expect", str(source / "expected.json"), "--source", str(tmp_path / "bad")]
    assert main([str(folder), *arguments]) == 1
    said = capsys.readouterr().out
    assert "- --source: " in said and "the file is damaged" in said and "polyp instances" in said


def test_a_picture_of_somebody_else_is_not_replaced_by_the_card(folder, capsys):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["card"]["files"]["assets/sizes.png"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    (folder / "assets/sizes.png").write_text("mine")
    (folder / "README.md").write_text("mine")
    assert card([str(folder)]) == 0
    said = capsys.readouterr().err
    for path in ("README.md", "assets/sizes.png"):
        assert f"edited by hand, now in: {path}.edited-1\n" in said and f"written: {path}\n" in said
        assert (folder / f"{path}.edited-1").read_text() == "mine"


def test_labels_of_two_images_of_a_cell_that_are_swapped(folder, verify):
    """Neither counts nor views tell, and the archives are not needed: the labels are known."""

    def swapped(rows):
        one, other = next((a, b) for a, b in itertools.combinations(rows, 2) if a["label"] != b["label"])
        one["label"], other["label"] = other["label"], one["label"]

    rewrite(folder, LABELED, swapped)
    code, said = verify(folder)
    assert code == 1 and "labeled: the rows have the digest" in said.out, said.out


def test_every_image_is_decoded(folder, verify):
    """And not only the first of each split, which is also loaded."""

    def damaged(rows):
        for row, (_, how) in zip(reversed(rows), UNDECODABLE.values()):
            buffer = io.BytesIO()
            Image.effect_noise((row["width"], row["height"]), 40).convert("RGB").save(buffer, "JPEG")
            row["image"]["bytes"] = how(buffer.getvalue())

    rewrite(folder, "data/unlabeled/00.parquet", damaged)
    code, said = verify(folder)
    found = re.findall(r"unlabeled/00.parquet: (\S+): (?:it cannot be decoded|it is not coded|image of)", said.out)
    hidden = re.search(r"- and (\d+) more", said.out)
    assert code == 1 and len(set(found)) + (int(hidden[1]) if hidden else 0) >= len(UNDECODABLE), said.out


def test_a_mask_that_cannot_be_decoded(folder, verify):
    def damaged(rows):
        data = rows[-1]["instances"]["bytes"]
        rows[-1]["instances"]["bytes"] = data[:60] + bytes([data[60] ^ 255]) + data[61:]

    rewrite(folder, SEGMENTED, damaged)
    code, said = verify(folder)
    assert code == 1 and re.search(rf"{SEGMENTED}: \w{{8}}-", said.out), said.out


@pytest.mark.parametrize("name", ["data_bytes", "key", "content"])
def test_a_manifest_entry_that_is_not_of_its_file(name, folder, verify):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][LABELED][name] = 1 if name == "data_bytes" else "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, said = verify(folder)
    assert code == 1 and f"{LABELED}: its {name} is" in said.out


# ----------------------------------------------------------------------------------------------------- odd manifests


def without(name):
    return lambda manifest: manifest.pop(name)


def put(*place, value):
    """Puts a value at a place of a manifest."""

    def changed(manifest):
        for name in place[:-1]:
            manifest = manifest[name]
        manifest[place[-1]] = value

    return changed


ODD_MANIFESTS = {
    "a file that is no data": (lambda m: m["files"].update({"README.md": m["files"][SEGMENTED]}), "README.md"),
    "an entry without a digest": (lambda m: m["files"][SEGMENTED].pop("sha256"), "'sha256' is a required property"),
    "a config that is not ours": (put("configs", "videos", value={}), "'videos' is not one of"),
    "configs as a list": (put("configs", value=[]), "configs: "),
    "a config that is nothing": (put("configs", "labeled", value=None), "configs / labeled: None is not of"),
    "a split that is nothing": (put("configs", "labeled", "train", value=None), "configs / labeled / train"),
    "no sources": (put("sources", value=None), "sources: None"),
    "a source without a file": (put("sources", "labeled", value={"complete": True}), "'file' is a required"),
    "rows as text": (put("files", SEGMENTED, "rows", value="7"), "rows: '7' is not of type 'integer'"),
    "fewer than no rows": (put("files", SEGMENTED, "rows", value=-1), "rows: -1 is less than"),
    "a version that is a number": (put("version", value=1), "version: 1 is not of type 'string'"),
    "a version without end": (put("version", value="9" * 5000), "version: '999"),
    "a card that is nothing": (put("card", value=None), "card: None"),
    "a card with a hidden file": (
        put("card", "files", ".gitattributes", value={"bytes": 1, "sha256": "0"}),
        "card / files",
    ),
    "nothing complete": (without("complete"), "'complete' is a required property"),
    "a split that there is not": (put("configs", "labeled", "x", value={"files": "a", "rows": 1}), "no splits of it"),
    "another builder": (put("builder", value="mine"), "builder: 'hyper-kvasir' was expected"),
}


@pytest.mark.parametrize("odd", ODD_MANIFESTS)
def test_a_manifest_of_another_form(odd, folder, source, capsys):
    """It is refused, in words of a bounded length, by what reads it."""
    change, message = ODD_MANIFESTS[odd]
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = tree(folder)
    expect = ["--expect", str(source / "expected.json")]
    for command in (
        lambda: main([str(folder), *expect]),
        lambda: card([str(folder)]),
        lambda: build_command(["--source", str(source), "--out", str(folder), *expect]),
    ):
        assert command() == 1
        said = capsys.readouterr().err
        assert "not a manifest of this builder (" in said and message in said and len(said) < 1500, said
    assert tree(folder) == before


@pytest.mark.parametrize("text", ["[" * 99_999, '{"builder": ' + "9" * 9999 + "}", "[]", "null", "\x00", ""])
def test_a_manifest_that_is_no_json_object(text, folder, verify):
    (folder / "manifest.json").write_text(text)
    code, said = verify(folder)
    assert code == 1 and "not a manifest of this builder (" in said.err and len(said.err) < 1500


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
