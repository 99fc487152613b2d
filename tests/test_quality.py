"""scripts.quality looks at every image: copies and scenes are found, and `metadata` says so."""

import csv
import io
import json
import random
import re
import shutil
import zipfile
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kvasir import FINDINGS
from scripts import bench_quality
from scripts.bench_quality import CHANGES, jpeg, make_source, picture
from scripts.pipeline import leaks
from scripts.pipeline.manifest import read_manifest
from scripts.pipeline.quality import images, metadata, pairs
from scripts.pipeline.quality.folds import Row, group_folds, without_leaks
from scripts.pipeline.review import page
from scripts.quality import main as quality
from scripts.review import main as review
from scripts.verify import main as verify
from tests.conftest import build, tree
from tests.fake_source import write_source

pytestmark = pytest.mark.xdist_group("quality")  # what it looks at is made once
METADATA = "data/metadata/00.parquet"


def look(source, out, *arguments, workers=1):
    """Runs the command in this process; the source brings its expected numbers."""
    expect = ["--expect", str(source / "expected.json")]
    return quality(["--source", str(source), "--out", str(out), "--workers", str(workers), *expect, *arguments])


def rows_of(folder):
    return {row["image_id"]: row for row in pq.read_table(folder / METADATA).to_pylist()}


def found_pairs(folder):
    return {
        (p["one"]["image_id"], p["other"]["image_id"]): p for p in leaks.all_pairs(leaks.read_rows(folder / METADATA))
    }


# ------------------------------------------------------------------------------------------------- copies and scenes


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """(a source of 60 generated images, eight of which are copies of others; {copy: original})"""
    folder = tmp_path_factory.mktemp("copies")
    planted = make_source(str(folder), 60, 2, every=6)
    return folder, planted


@pytest.fixture(scope="module")
def looked_at(copies, tmp_path_factory):
    out = tmp_path_factory.mktemp("looked") / "out"
    assert look(copies[0], out, "--config", "unlabeled", workers=2) == 0
    return out


def test_planted_copies_are_found_and_nothing_else(copies, looked_at):
    planted = {tuple(sorted(pair)) for pair in copies[1].items()}
    found = found_pairs(looked_at)
    assert len(planted) == 8 and set(found) == planted
    assert [pair["kind"] for pair in found.values()].count("same_frame") >= 7
    rows = rows_of(looked_at)
    for one, other in planted:
        assert rows[one]["scene_group"] == rows[other]["scene_group"] == one
    assert sum(row["scene_group"] is not None for row in rows.values()) == 2 * len(planted)


def test_facts_are_those_of_the_files(copies, looked_at):
    archive = zipfile.ZipFile(copies[0] / "hyper-kvasir-unlabeled-images.zip")
    rows = rows_of(looked_at)
    for image_id, row in list(rows.items())[:20]:
        data = archive.read(f"unlabeled-images/images/{image_id}.jpg")
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert (row["height"], row["width"]) == pixels.shape[:2] and row["bytes"] == len(data)
        assert row["parts"] == ["unlabeled"] and row["label"] is None and row["fold_5_grouped"] is None
        assert row["jfif"] and row["subsampling"] == "4:2:0" and re.fullmatch("[0-9a-f]{16}", row["phash"])
        assert abs(row["black_share"] - (pixels.max(2) <= 20).mean()) < 0.02
    assert Counter(row["quality"] for row in rows.values()).most_common(1)[0][0] == 90


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "mirror"])
def test_a_changed_copy_is_the_same_frame(name):
    original = picture(np.random.default_rng(5))
    one, other = jpeg(original), CHANGES[name](original)
    looks = [images.look(data).descriptor.astype(int) for data in (one, other)]
    assert 1 - looks[0] @ looks[1] / images.LENGTH**2 < pairs.DISTANCE
    match = pairs.compare(images.sketch(one), images.sketch(other))
    assert match.kind(1_500_000) == "same_frame"
    if "scale" in name:
        assert pairs.scale_of(match.transform) == pytest.approx(float(name.split()[1]), rel=0.01)


def test_burned_text_makes_no_pair():
    """Two patients' images with the same date and labels."""
    for place in (0, 0.3, 0.6):  # of the width, from the left

        def moved(pixels, place=place):
            plain = pixels.copy()
            written = bench_quality.written_on(np.roll(plain, -round(place * plain.shape[1]), axis=1))
            return np.roll(written, round(place * plain.shape[1]), axis=1)

        one, other = (images.sketch(jpeg(moved(picture(np.random.default_rng(seed))))) for seed in (7, 8))
        match = pairs.compare(one, other)
        assert match is None or match.kind(1) is None


def test_dim_text_makes_no_pair():
    """It is not bright enough to be taken for a reflection."""
    one, other = (images.sketch(jpeg(bench_quality.written_on(picture(np.random.default_rng(s)), 200))) for s in (3, 4))
    match = pairs.compare(one, other)
    assert match is None or match.kind(1) is None


def test_what_makes_a_pair():
    match = pairs.Match(40, 20, 10**-4.6, 0.9, np.eye(2, 3))
    assert match.kind(1) == "same_frame" and match.kind(10**6) is None
    assert match._replace(correlation=0.5).kind(1) == match._replace(inliers=10).kind(1) == "same_scene"


def test_pairs_that_were_found_stay(copies, looked_at, tmp_path, monkeypatch):
    """Though others are nearer now: here, so many that hardly any of them would be compared."""
    folder = shutil.copytree(looked_at, tmp_path / "folder")
    monkeypatch.setattr(pairs, "NEAREST", 0)
    monkeypatch.setattr(metadata, "SCHEMA", 99)
    assert look(copies[0], folder, "--config", "unlabeled") == 0
    assert set(found_pairs(folder)) == set(found_pairs(looked_at))
    (folder / METADATA).unlink()
    assert look(copies[0], folder, "--config", "unlabeled") == 0
    assert len(found_pairs(folder)) < len(found_pairs(looked_at))


def test_other_frames_and_mirrors_are_no_pair():
    one = jpeg(picture(np.random.default_rng(1)))
    for other in (jpeg(picture(np.random.default_rng(2))), CHANGES["mirror"](picture(np.random.default_rng(1)))):
        match = pairs.compare(images.sketch(one), images.sketch(other))
        assert match is None or match.kind(1) is None


@pytest.mark.parametrize("shape", [(300, 400, 3), (5, 900, 3), (2000, 1, 3), (1, 1, 3), (400, 400)])
def test_images_without_content_are_looked_at(shape):
    pixels = np.full(shape, 120 if 1 in shape or 5 in shape else 0, np.uint8)
    data = jpeg(pixels)
    look, sketch = images.look(data), images.sketch(data)
    assert look.facts.width == pixels.shape[1] and pairs.compare(sketch, sketch) is None


def test_the_agreement_of_masks():
    """Where both images show content: a mask that the black rectangle of one of them hides counts for neither."""
    plain = picture(np.random.default_rng(4))
    height, width = plain.shape[:2]
    one, other, hidden = (np.zeros((height, width), bool) for _ in range(3))
    one[100:200, 300:400] = other[100:200, 350:400] = True
    hidden[420:520, 110:210] = True
    data, covered = jpeg(plain), CHANGES["black overlay"](plain)

    def iou(first, second):
        return pairs.mask_agreement(first, second, np.eye(2, 3))

    assert iou((data, one), (data, one)) == 1 and iou((data, one), (data, other)) == 0.5
    assert iou((data, one | hidden), (covered, one)) == pytest.approx(1, abs=0.02)
    assert iou((data, one | hidden), (data, one)) == pytest.approx(0.5, abs=0.02)
    moved = np.float64([[1, 0, 50], [0, 1, 0]])
    assert pairs.mask_agreement((data, other), (data, np.roll(other, 50, axis=1)), moved) == 1


def test_navigation_pictures_are_seen():
    plain = picture(np.random.default_rng(3))
    facts = {name: images.look(CHANGES[f"{name} overlay"](plain)).facts for name in ("black", "green")}
    facts["none"] = images.look(jpeg(plain)).facts
    assert facts["green"].green_share > 0.05 and facts["none"].green_share == facts["black"].green_share == 0
    assert facts["black"].black_rectangle > 0.03 and facts["none"].black_rectangle == 0


# ------------------------------------------------------------------------------------------------- all of a folder


FEW = {"polyps": 9, "cecum": 6, "ileum": 3, "z-line": 6, "pylorus": 5}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A miniature of all parts, of few images: each is worked on for 20 ms."""
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, images="tiny", findings=FEW, segmented=4, unlabeled=6)
    return folder


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "hyper-kvasir"
    build(source, folder)
    return folder


@pytest.fixture(scope="module")
def whole(source, built, tmp_path_factory):
    """The miniature with its metadata. Not to be changed: copy it."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("whole") / "hyper-kvasir")
    assert look(source, folder) == 0
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "folder")


def said_of(source, folder, capsys):
    """What verification says is wrong."""
    code = verify([str(folder), "--workers", "1", "--expect", str(source / "expected.json")])
    said = capsys.readouterr().out
    return said.partition("problem")[2] if code else ""


def test_a_row_for_each_distinct_image(source, whole, capsys):
    expected = json.loads((source / "expected.json").read_text())
    assert said_of(source, whole, capsys) == ""
    rows = rows_of(whole)
    assert len(rows) == sum(expected["findings"].values()) + expected["unlabeled"]
    labeled = load_dataset(str(whole), "labeled", split="train").remove_columns("image")
    for row in labeled:
        found = rows[row["image_id"]]
        assert {name: found[name] for name in row} == row
    segmented = load_dataset(str(whole), "segmented", split="train")["image_id"]
    assert {i for i, row in rows.items() if "segmented" in row["parts"]} == set(segmented)
    loaded = load_dataset(str(whole), "metadata", split="train")
    assert loaded.num_rows == len(rows) and loaded.features["label"].names == FINDINGS


def test_the_result_is_the_same_with_any_number_of_workers(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "AT_ONCE", 50)  # else one of them would compare all
    assert look(source, tmp_path / "out", workers=2) == 0
    assert (tmp_path / "out" / METADATA).read_bytes() == (whole / METADATA).read_bytes()


def test_groups_are_in_one_fold(whole):
    for number in (2, 5):
        sides = {}
        for row in rows_of(whole).values():
            assert (row[f"fold_{number}"] is None) == (row[f"fold_{number}_grouped"] is None)
            if row["scene_group"] and row["label"] is not None:
                sides.setdefault(row["scene_group"], set()).add(row[f"fold_{number}_grouped"])
        assert sides and all(len(found) == 1 for found in sides.values())


def test_the_report(whole):
    text = (whole / "README.md").read_text()
    lines = list(csv.DictReader(io.StringIO((whole / "leakage.csv").read_text())))
    found = found_pairs(whole)
    assert [(line["image_id"], line["other_image_id"]) for line in lines] == list(found)
    for split in ("fold_2", "fold_5"):
        leaking = [line for line in lines if split in line["leaks_in"].split()]
        assert leaking == [line for line in lines if line[split] != line[f"other_{split}"] and line[f"other_{split}"]
                           and line[split]]  # fmt: skip
        cells = {kind: sum(line["kind"] == kind for line in leaking) for kind in ("same_frame", "same_scene")}
        numbers = re.search(rf"^\| official, .* \| `{split}` \|(.*)\|(.*)\|(.*)\|(.*)\|$", text, re.MULTILINE).groups()
        assert [int(number.replace(",", "")) for number in numbers[1::2]] == list(cells.values())
        assert re.search(rf"\| `{split}_grouped` \| [\d,]+ \| 0 \| [\d,]+ \| 0 \|", text)
    assert "was not evaluated here" not in text and "were not looked for here" not in text


def test_the_review_page_shows_pairs(source, whole, tmp_path):
    assert review([str(whole), "--to", str(tmp_path / "page.html"), "--expect", str(source / "expected.json")]) == 0
    page = (tmp_path / "page.html").read_text()
    number = len(found_pairs(whole))
    assert f"Pairs of the same frame or scene ({number:,})" in page
    assert page.count('laid over the second"') == min(number, 200) and 'transform="matrix(' in page


def test_croissant_has_the_metadata(whole):
    mlcroissant = pytest.importorskip("mlcroissant")
    records = mlcroissant.Dataset(str(whole / "croissant.json"), mapping={"repository": str(whole)}).records("metadata")
    row = next(iter(records))
    assert row["metadata/image_id"].decode() in rows_of(whole)


def break_rows(folder, change):
    """Changes the rows of metadata, and the manifest to match."""
    from tests.test_verify import rewrite

    rewrite(folder, METADATA, change)


def a_pair(rows):
    return next(row for row in rows if row["pairs"]["image_id"])


def set_to(name, value):
    def change(rows):
        a_pair(rows)[name] = value

    return change


def lose_a_pair(rows):
    row = next(row for row in rows if len(row["pairs"]["image_id"]) == 1 and row["same_frame_group"])
    row["pairs"] = {name: [] for name in row["pairs"]}


def pair_with_nobody(rows):
    a_pair(rows)["pairs"]["image_id"][0] = "ffffffff-0000-4000-8000-000000000000"


def scene_in_two_folds(rows):
    row = next(row for row in rows if row["scene_group"] and row["fold_5_grouped"] is not None)
    row["fold_5_grouped"] = 1 - min(row["fold_5_grouped"], 1)


def lose_a_part(rows):
    row = next(row for row in rows if len(row["parts"]) == 2)
    row |= {"parts": ["labeled"], **dict.fromkeys(leaks.KVASIR_SEG_COLUMNS)}


def set_in_pair(name, value):
    def change(rows):
        a_pair(rows)["pairs"][name][0] = value

    return change


def pair_twice(rows):
    pairs_ = a_pair(rows)["pairs"]
    for values in pairs_.values():
        values.append(values[0])


BROKEN = {
    "a pair is lost": (lose_a_pair, "is not the one that the pairs make"),
    "a pair with nobody": (pair_with_nobody, "expected a greater id that has a row"),
    "another group": (set_to("scene_group", "x"), "its scene_group is not the one that the pairs make"),
    "no fold": (set_to("fold_5_grouped", None), "fold_5_grouped is None, fold_5 is"),
    "another frame group": (set_to("same_frame_group", "x"), "its same_frame_group is not the one"),
    "a scene in two folds": (scene_in_two_folds, "is in several folds of fold_5_grouped"),
    "a part is lost": (lose_a_part, "1 images of segmented have no row"),
    "other bytes": (set_to("sha256", "0" * 64), "sha256 of"),
    "another size": (set_to("bytes", 1), "bytes of"),
    "another label": (set_to("label", 7), "label of"),
    "no part": (set_to("parts", []), "parts []"),
    "parts that are null": (set_to("parts", None), "parts None"),
    "a fold too many": (set_to("fold_2_grouped", 2), "fold_2_grouped is 2"),
    "a pair twice": (pair_twice, "or twice the same"),
    "a pair of no kind": (set_in_pair("kind", 7), "of no kind"),
    "no scale": (set_in_pair("scale", None), "evidence is impossible"),
    "too many inliers": (set_in_pair("inliers", 10**6), "evidence is impossible"),
    "a correlation above 1": (set_in_pair("correlation", 1.5), "evidence is impossible"),
    "masks that agree too well": (set_in_pair("mask_iou", 7), "evidence is impossible"),
    "no transform": (set_in_pair("transform", [float("nan")] * 6), "evidence is impossible"),
    "in Kvasir-SEG": (set_to("kvasir_seg_set", "other"), "kvasir_seg_set is other, expected "),
    "in a clean set": (set_to("kvasir_seg_clean", "other"), "kvasir_seg_clean is other, expected "),
    "a row is lost": (lambda rows: rows[:1] + rows[2:], "expected 35"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_wrong_metadata_does_not_verify(what, source, folder, capsys):
    change, text = BROKEN[what]
    break_rows(folder, change)
    assert text in said_of(source, folder, capsys)


def test_metadata_of_other_images_does_not_verify(source, folder, tmp_path, capsys):
    """A plain build of new images leaves the metadata as it was; looking again mends it, and looks at what is new."""
    write_source(tmp_path / "added", images="tiny", findings=FEW, segmented=4, unlabeled=6, add=4, remove=2)
    build(tmp_path / "added", folder)
    said = said_of(tmp_path / "added", folder, capsys)
    assert "4 images of labeled have no row" in said and "2 images of labeled are not there" in said
    assert "make it again by scripts.quality, or with --config metadata" in said
    before = rows_of(folder)
    assert look(tmp_path / "added", folder) == 0
    assert said_of(tmp_path / "added", folder, capsys) == ""
    # Old rows keep their grouped folds, but for those that a new image joined with others, which are named.
    after, said = rows_of(folder), capsys.readouterr().err
    for column in ("fold_2_grouped", "fold_5_grouped"):
        for image_id in set(before) & set(after):
            assert before[image_id][column] == after[image_id][column] or image_id in said


def test_images_that_cannot_be_read_are_not_called_gone(source, folder, capsys):
    """A file that is cut says nothing of metadata; a row that is missing beside it does."""
    from tests.test_verify import rewrite

    cut, other = sorted(folder.rglob("data/labeled/**/*.parquet"), key=lambda path: pq.read_metadata(path).num_rows)[
        -2:
    ]
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    said = said_of(source, folder, capsys)
    assert "Parquet" in said and "labeled are not there" not in said
    rewrite(folder, str(other.relative_to(folder)), lambda rows: rows[1:])
    gone = pq.read_metadata(pa.BufferReader(data)).num_rows + 1
    assert f"{gone} images of labeled are not there" in said_of(source, folder, capsys)


def test_pairs_that_leak_come_first_in_the_review(whole, monkeypatch):
    """Then those of the same frame; as many as the page shows."""
    manifest = read_manifest(str(whole))
    found = page.best_pairs(str(whole), manifest)
    order = [(sum(leaks.is_across(p, split) for split in leaks.OFFICIAL_SPLITS), p["kind"]) for p in found["shown"]]
    assert order == sorted(order, key=lambda of: (-of[0], of[1] != "same_frame")) and len({*order}) > 2
    assert found["all"] == len(order) > 3
    monkeypatch.setattr(page, "MOST_PAIRS", 3)
    assert page.best_pairs(str(whole), manifest) == {"all": len(order), "shown": found["shown"][:3]}


def test_nothing_changed_nothing_done(source, folder, capsys):
    before = tree(folder)
    assert look(source, folder) == 0
    said = capsys.readouterr().err
    assert tree(folder) == before and "looking at images" not in said and "comparing" not in said


def test_of_what_is_only_looked_at_nothing_is_said(source, tmp_path):
    """Neither does a good source make a bad build complete, nor a bad one a good build incomplete."""
    write_source(tmp_path / "partial", images="tiny", parts=["unlabeled"], unlabeled=10)
    expect = ["--expect", str(source / "expected.json"), "--config", "unlabeled"]
    for name, first, then in (("bad", tmp_path / "partial", source), ("good", source, tmp_path / "partial")):
        out = tmp_path / name
        build(first, out, *expect, "--no-verify", expect=False)
        before = json.loads((out / "manifest.json").read_text())
        assert before["complete"] == (name == "good")
        flags = ["--source", str(then), "--out", str(out), "--workers", "1", *expect, "--no-verify"]
        assert quality(flags) == 0
        after = json.loads((out / "manifest.json").read_text())
        assert (after["complete"], after["sources"]) == (before["complete"], before["sources"])
        assert verify([str(out), "--workers", "1", *expect[:2]]) == 1


def test_a_better_source_makes_metadata_alone_complete(source, tmp_path):
    write_source(tmp_path / "partial", images="tiny", parts=["unlabeled"], unlabeled=10)
    for place, flag, complete in ((tmp_path / "partial", ["--no-verify"], False), (source, [], True)):
        flags = ["--source", str(place), "--out", str(tmp_path / "out"), "--workers", "1", "--config", "unlabeled"]
        flags += flag
        assert quality([*flags, "--expect", str(source / "expected.json")]) == 0
        assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"] == complete


def test_a_damaged_file_gives_no_folds(source, whole, folder, capsys):
    data = (folder / METADATA).read_bytes()
    for damaged in (data[:-100], data[:500] + bytes(50) + data[550:]):
        (folder / METADATA).write_bytes(damaged)
        assert look(source, folder) == 0
        assert "its grouped folds cannot be kept" in capsys.readouterr().err
        assert (folder / METADATA).read_bytes() == (whole / METADATA).read_bytes()


def test_parts_of_a_folder_are_looked_at_again_without_being_named(source, tmp_path, capsys):
    assert look(source, tmp_path / "out", "--config", "unlabeled") == 0
    (tmp_path / "out" / METADATA).unlink()
    assert look(source, tmp_path / "out") == 0
    assert {row["parts"][0] for row in rows_of(tmp_path / "out").values()} == {"unlabeled"}


def test_as_part_of_a_build(source, whole, tmp_path):
    flags = ["--config", "labeled", "--config", "segmented", "--config", "unlabeled", "--config", "metadata"]
    build(source, tmp_path / "out", *flags)
    assert (tmp_path / "out" / METADATA).read_bytes() == (whole / METADATA).read_bytes()


@pytest.mark.parametrize("step, done", [("_look_at", 5), ("_sketch", 3), ("_compare", 0), ("_remove_others", 2)])
def test_a_pass_that_was_cut_off_goes_on(step, done, source, whole, tmp_path, monkeypatch, capsys):
    """Anywhere, between files; what it did is not done again."""
    calls, function = [], getattr(metadata, step)

    def cut_off(*arguments):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(arguments)
        return function(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metadata, step, cut_off)
        look(source, tmp_path / "out")
    assert ("workers finish the files in hand first" in capsys.readouterr().err) == (step != "_remove_others")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.quality").rglob("*.arrow")}
    assert kept or step == "_compare" and not done
    assert look(source, tmp_path / "out") == 0
    assert (tmp_path / "out" / METADATA).read_bytes() == (whole / METADATA).read_bytes()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if "looks" in path.parts)


def test_images_that_cannot_be_decoded_are_listed(tmp_path, capsys):
    """Of a folder, as the digest of an archive would tell. All are named; with --no-verify their rows are left out."""
    write_source(tmp_path / "source", images="tiny", form="folder", parts=["unlabeled"])
    files = sorted((tmp_path / "source/unlabeled-images/images").glob("*.jpg"))
    for path in files[:2]:
        path.write_bytes(path.read_bytes()[:-40] + b"\xff\xd9")
    assert look(tmp_path / "source", tmp_path / "out", "--config", "unlabeled") == 1
    said = capsys.readouterr().err
    assert "2 problems" in said and all(path.name in said for path in files[:2]) and "cannot be decoded" in said
    assert not (tmp_path / "out" / METADATA).exists()
    assert look(tmp_path / "source", tmp_path / "out", "--config", "unlabeled", "--no-verify") == 0
    assert len(rows_of(tmp_path / "out")) == len(files) - 2
    write_source(tmp_path / "source", images="tiny", form="folder", parts=["unlabeled"])
    assert look(tmp_path / "source", tmp_path / "out", "--config", "unlabeled") == 0
    assert len(rows_of(tmp_path / "out")) == len(files)


def test_images_of_the_same_bytes_are_the_same_frame(tmp_path, monkeypatch, capsys):
    """Those without any feature too, and those that are near to others that are twice there. What is odd is told."""
    monkeypatch.setattr(metadata, "LARGE_GROUP", 4)
    write_source(tmp_path / "source", images="tiny", form="folder", parts=["unlabeled"])
    files = sorted((tmp_path / "source/unlabeled-images/images").glob("*.jpg"))
    black, seen, framed = (
        jpeg(np.zeros((300, 400, 3), np.uint8)),
        *(jpeg(change(picture(np.random.default_rng(9)))) for change in (np.array, bench_quality.framed)),
    )
    for path, data in zip(files, (black, seen, black, seen, framed, black, framed)):
        path.write_bytes(data)
    out = tmp_path / "out"
    assert look(tmp_path / "source", out, "--config", "unlabeled") == 0
    rows, ids, said = rows_of(out), [path.stem for path in files], capsys.readouterr().err
    assert "100% of it is black" in said and f"joins 4 images into one scene: look at those of group {ids[1]}" in said
    assert [rows[image_id]["same_frame_group"] for image_id in ids[:7]] == [ids[i] for i in (0, 1, 0, 1, 1, 0, 1)]
    pairs_ = list(found_pairs(out))
    assert len(pairs_) == len(set(pairs_)) == 8 and pairs_ == sorted(pairs_)


@pytest.mark.parametrize("step", [1, 2])
def test_what_a_power_failure_spoiled_is_looked_at_again(step, source, whole, folder):
    (folder / METADATA).unlink()
    for i, path in enumerate(sorted((folder / ".quality").rglob("*.arrow"))):
        data = path.read_bytes()
        middle = len(data) // 2
        zeros = data[:middle] + bytes(64) + data[middle + 64 :]
        path.write_bytes((b"", zeros, b"ARROW1", zeros, data)[(i * step + step - 1) % 5])
    assert look(source, folder) == 0
    assert (folder / METADATA).read_bytes() == (whole / METADATA).read_bytes()


@pytest.mark.parametrize("name", ["SCHEMA", "LOOKS"])
def test_a_schema_that_is_incremented_makes_metadata_again(name, source, folder, monkeypatch, capsys):
    key = json.loads((folder / "manifest.json").read_text())["files"][METADATA]["key"]
    monkeypatch.setattr(metadata, name, 99)
    assert look(source, folder) == 0
    assert json.loads((folder / "manifest.json").read_text())["files"][METADATA]["key"] != key
    assert ("looking at images" in capsys.readouterr().err) == (name == "LOOKS")
    assert len(list((folder / ".quality").iterdir())) == 1


def test_folds_from_something_else(source, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("not Parquet")
    for name in ("notes.txt", "missing.parquet"):
        assert look(source, tmp_path / "out", "--folds-from", str(tmp_path / name)) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path / name}: no file with the grouped folds of metadata" in said and "Traceback" not in said


def write_folds(path, shift, metadata_file, number=None):
    """A file of `metadata` whose grouped folds are `shift` further on, of `number` or as many as there are."""
    table = pq.read_table(metadata_file)
    for split, folds_ in leaks.FOLDS.items():
        name = f"{split}_grouped"
        values = [None if fold is None else (fold + shift) % (number or folds_) for fold in table[name].to_pylist()]
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values, "int8"))
    pq.write_table(table, path)
    return path


def test_folds_that_cannot_be(source, whole, tmp_path, capsys):
    """Told before the pass, not after it."""
    for shift, number in ((9, 20), (-1, 99)):
        flags = ["--folds-from", str(write_folds(tmp_path / "folds.parquet", shift, whole / METADATA, number))]
        assert look(source, tmp_path / "out", *flags) == 1
        said = capsys.readouterr().err
        assert "other values in fold_2_grouped, fold_5_grouped" in said and "looking at" not in said


def cut_off_before_the_manifest(monkeypatch, source, out):
    """A pass that is killed when its files are in their places, and the manifest is not."""

    def cut_off(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("scripts.pipeline.build._finish", cut_off)
        look(source, out)


def test_folds_that_were_given_stay(source, whole, folder, tmp_path, monkeypatch, capsys):
    """In a folder that is up to date; when a kill comes while files change places; when a part goes and returns."""

    def folds_now():
        return [[row[f"{split}_grouped"] for split in leaks.FOLDS] for row in rows_of(folder).values() if row["parts"]]

    given = write_folds(tmp_path / "folds.parquet", 1, whole / METADATA)
    before = folds_now()
    assert look(source, folder, "--folds-from", str(given)) == 0
    shifted = folds_now()
    assert shifted == [[None if f is None else (f + 1) % n for f, n in zip(folds, (2, 5))] for folds in before]
    capsys.readouterr()
    assert look(source, folder, "--folds-from", str(given)) == 0
    assert "metadata is up to date" in capsys.readouterr().err

    write_source(tmp_path / "added", images="tiny", findings=FEW, segmented=4, unlabeled=7)
    cut_off_before_the_manifest(monkeypatch, tmp_path / "added", folder)
    assert look(tmp_path / "added", folder) == 0
    assert "cannot be kept" not in capsys.readouterr().err
    ids = [image_id for image_id, row in rows_of(folder).items() if row["label"] is not None]
    assert [row for row in folds_now() if row[0] is not None] == [row for row in shifted if row[0] is not None]

    assert look(source, folder, "--config", "unlabeled") == 0
    said = capsys.readouterr().err
    (kept,) = (folder / ".quality").glob("metadata-before-*.parquet")
    assert f"{len(ids)} images that had grouped folds have no row now" in said and f"--folds-from {kept}" in said
    assert look(source, folder, "--folds-from", str(kept)) == 0
    assert folds_now() == shifted


def test_changed_folds_are_named():
    rows = {i: SimpleNamespace(known={"label": 0, "fold_2": int(i) % 2}) for i in "0123"}
    grouped = metadata._grouped_folds(list(rows), rows, dict.fromkeys("012", "0"), "fold_2", {"0": 0, "1": 1, "2": 0})
    assert grouped[0]["1"] == 0
    assert grouped[1] == ["fold_2_grouped: in another fold than before, as their scenes were joined: 1"]


def test_rows_of_parts_without_files_stay(source, tmp_path, capsys):
    """A plain build of another part leaves their source in the manifest, and so their rows in the metadata."""
    out = tmp_path / "out"
    build(source, out, "--config", "labeled")
    assert look(source, out, "--config", "labeled", "--config", "unlabeled") == 0
    write_source(tmp_path / "added", images="tiny", findings=FEW, segmented=4, unlabeled=6, add=4)
    build(tmp_path / "added", out, "--config", "labeled")
    assert look(tmp_path / "added", out) == 0
    assert Counter(row["parts"][0] for row in rows_of(out).values()) == {"labeled": 33, "unlabeled": 6}
    assert said_of(tmp_path / "added", out, capsys) == ""


def test_a_kill_while_files_change_places_forgets_no_part(source, tmp_path, monkeypatch):
    """Nor does it take more parts for those that the folder covers."""
    assert look(source, tmp_path / "out", "--config", "unlabeled") == 0
    write_source(tmp_path / "added", images="tiny", findings=FEW, segmented=4, unlabeled=7)
    cut_off_before_the_manifest(monkeypatch, tmp_path / "added", tmp_path / "out")
    assert look(tmp_path / "added", tmp_path / "out") == 0
    assert [row["parts"] for row in rows_of(tmp_path / "out").values()] == [["unlabeled"]] * 7


def test_folds_of_a_file_given_leave_those_of_other_images(source, whole, folder, tmp_path):
    """A file that knows only some of the images, e.g. those that had gone and are back."""
    assert look(source, folder, "--folds-from", str(write_folds(tmp_path / "all.parquet", 1, whole / METADATA))) == 0
    shifted, some = rows_of(folder), tmp_path / "some.parquet"
    alone = [i for i, row in shifted.items() if row["label"] is not None and not row["scene_group"]]
    table = pq.read_table(whole / METADATA)
    pq.write_table(table.filter(pa.array([i == alone[0] for i in table["image_id"].to_pylist()])), some)
    assert look(source, folder, "--folds-from", str(some)) == 0
    after = rows_of(folder)
    changed = [i for i in shifted if after[i]["fold_5_grouped"] != shifted[i]["fold_5_grouped"]]
    assert changed == [alone[0]]


def test_metadata_alone_is_compared_with_the_archives(source, tmp_path, capsys):
    assert look(source, tmp_path / "out", "--config", "unlabeled") == 0
    write_source(tmp_path / "other", images="tiny", seed=1, parts=["unlabeled"], unlabeled=6)
    for place, code in ((source, 0), (tmp_path / "other", 1)):
        expect = ["--expect", str(place / "expected.json"), "--workers", "1"]
        assert verify([str(tmp_path / "out"), "--source", str(place), *expect]) == code
    said = capsys.readouterr().out
    assert said.count(": missing") == said.count("not in the archives") == 6


def test_metadata_of_fewer_parts_verifies(source, tmp_path, capsys):
    assert look(source, tmp_path / "out", "--config", "unlabeled") == 0
    build(source, tmp_path / "out", "--config", "labeled")
    assert said_of(source, tmp_path / "out", capsys) == ""


def test_masks_that_cannot_be_compared(tmp_path, capsys):
    write_source(tmp_path / "source", images="tiny", form="folder", findings=FEW, segmented=4)
    files = sorted((tmp_path / "source/segmented-images/images").glob("*.jpg"))
    shutil.copy(files[0], files[1])
    mask = tmp_path / "source/segmented-images/masks" / files[1].name
    mask.write_bytes(mask.read_bytes()[:100])
    flags = ["--config", "segmented"]
    assert look(tmp_path / "source", tmp_path / "out", *flags) == 1
    assert look(tmp_path / "source", tmp_path / "out", *flags, "--no-verify") == 0
    said = capsys.readouterr().err
    assert f"{files[1].name}: " in said and "Traceback" not in said
    assert [pair["mask_iou"] for pair in found_pairs(tmp_path / "out").values()] == [None]


def test_an_image_that_decodes_the_next_time(source, whole, tmp_path, monkeypatch):
    """What an incomplete pass left out is looked at again, though no file changed."""
    look_at, failed = images.look, []

    def fails_once(data):
        if not failed:
            failed.append(data)
            raise ValueError("it cannot be decoded")
        return look_at(data)

    with monkeypatch.context() as patch:
        patch.setattr(images, "look", fails_once)
        assert look(source, tmp_path / "out", "--no-verify") == 0
    assert len(rows_of(tmp_path / "out")) == len(rows_of(whole)) - 1
    assert look(source, tmp_path / "out") == 0
    assert list(rows_of(tmp_path / "out")) == list(rows_of(whole))


def test_folds_are_those_of_a_file_given(source, whole, tmp_path):
    """As they were published, in a folder that knows nothing of that."""
    write_source(tmp_path / "added", images="tiny", findings=FEW, segmented=4, unlabeled=6, add=4)
    assert look(tmp_path / "added", tmp_path / "out", "--folds-from", str(whole / METADATA)) == 0
    before, after = rows_of(whole), rows_of(tmp_path / "out")
    for column in ("fold_2_grouped", "fold_5_grouped"):
        changed = [i for i in before if before[i][column] != after[i][column]]
        assert len(changed) <= 4  # those that a new image joins with others


def test_published_and_read(xet_publisher, whole, source):
    shutil.copy(source / "expected.json", whole.parent / "hyper-kvasir.expected.json")
    xet_publisher.ok(whole, "1.0.0")
    found = xet_publisher.python("""
import json
from datasets import load_dataset
rows = load_dataset("ns/hyper-kvasir", "metadata", split="train", revision="v1.0.0")
print(json.dumps([rows.num_rows, sum(len(pairs["image_id"]) for pairs in rows["pairs"])]))""")
    assert found == [len(rows_of(whole)), len(found_pairs(whole))]


def test_published_from_the_archives(xet_publisher, tmp_path):
    """The pass is part of it; a version whose metadata would be of other images is refused."""
    p, flags = xet_publisher, ["--config", "unlabeled", "--config", "metadata", "--workers", "1"]
    write_source(tmp_path / "one", images="tiny", parts=["unlabeled"])
    write_source(tmp_path / "two", images="tiny", parts=["unlabeled"], unlabeled=15)

    def given(name):
        return ["--source", tmp_path / name, "--expect", tmp_path / name / "expected.json"]

    p.ok(tmp_path / "work", "1.0.0", *given("one"), *flags, expect=False)
    assert "nothing changed" in p.ok(tmp_path / "work", "1.0.1", *given("one"), *flags, expect=False)
    text = "metadata: 3 images of unlabeled have no row"
    p.refused(text, tmp_path / "work", "1.1.0", *given("two"), "--config", "unlabeled", expect=False)
    p.ok(tmp_path / "work", "1.1.0", *given("two"), *flags, "--build-and-upload", expect=False)
    assert look(tmp_path / "two", tmp_path / "out", "--config", "unlabeled") == 0
    assert p.read("data/metadata/00.parquet", "v1.1.0") == (tmp_path / "out" / METADATA).read_bytes()
    assert p.read("leakage.csv", "v1.1.0") == (tmp_path / "out/leakage.csv").read_bytes()


def test_published_metadata_covers_parts_without_files(xet_publisher, source, tmp_path):
    """Published from the archives, it is of the same parts as before."""
    build(source, tmp_path / "out", "--config", "labeled")
    assert look(source, tmp_path / "out", "--config", "labeled", "--config", "unlabeled") == 0
    expect = ["--expect", source / "expected.json"]
    xet_publisher.ok(tmp_path / "out", "1.0.0", *expect, expect=False)
    flags = ["--source", source, *expect, "--config", "labeled", "--config", "metadata", "--workers", "1"]
    assert "nothing changed" in xet_publisher.ok(tmp_path / "work", "1.0.1", *flags, expect=False)


# --------------------------------------------------------------------------------------------------------- folds


@st.composite
def planted(draw):
    number = draw(st.sampled_from([2, 5]))
    rows = draw(st.integers(1, 60))
    ids = [f"{i:04d}" for i in range(rows)]
    groups = draw(st.lists(st.sampled_from([None, "a", "b", "c", "d"]), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    official = draw(st.lists(st.integers(0, number - 1), min_size=rows, max_size=rows))
    return number, [Row(*row) for row in zip(ids, labels, official, groups)]


@given(planted(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_grouped_folds_of_any_rows(given, rng):
    number, rows = given
    found = group_folds(rows, number, {})
    assert set(found.folds) == {row.image_id for row in rows} and set(found.folds.values()) <= set(range(number))
    for group in {row.group for row in rows} - {None}:
        assert len({found.folds[row.image_id] for row in rows if row.group == group}) == 1
    assert found.moved == [row.image_id for row in rows if found.folds[row.image_id] != row.official]
    shuffled = rng.sample(rows, len(rows))
    assert group_folds(shuffled, number, {}) == found
    # Some rows fewer, then all: only those of a group that was not whole before may change.
    some = [row for row in rows if rng.random() < 0.8]
    before = group_folds(some, number, {}).folds
    after = group_folds(rows, number, before)
    changed = {row.image_id for row in some if after.folds[row.image_id] != before[row.image_id]}
    assert set(after.changed) == changed
    assert not changed  # a group's old rows are in one fold, so a new row of it joins them there


def test_small_classes_that_are_not_in_every_fold_are_told(whole):
    rows = leaks.read_rows(whole / METADATA)
    absent = leaks.absent_findings(leaks.count(rows))
    for split, findings in absent.items():
        for label, finding in enumerate(FINDINGS):
            there = {row[split] for row in rows if row["label"] == label} - {None}
            assert (finding in findings) == (0 < len(there) < int(split[5]))
    assert absent["fold_5_grouped"] and "fold_5_grouped: not in every fold" in leaks.report(rows)
    assert f"in every fold of `fold_5_grouped`: {absent['fold_5_grouped'][0]}" in (whole / "README.md").read_text()


def test_a_new_image_that_joins_two_groups_moves_the_smaller():
    rows = [Row(f"{i}", 0, 0, "a") for i in range(3)] + [Row(f"{i}", 0, 1, "b") for i in range(3, 5)]
    before = group_folds(rows, 2, {}).folds
    joined = [row._replace(group="a") for row in rows] + [Row("9", 0, 1, "a")]
    after = group_folds(joined, 2, before)
    assert before == {"0": 0, "1": 0, "2": 0, "3": 1, "4": 1}
    assert after.changed == ["3", "4"] and set(after.folds.values()) == {0}


def test_folds_stay_near_the_official_ones(real):
    """With the true labels: no group is split, few rows move, and classes keep their shares."""
    lines = bench_quality.bench_folds([str(real)])
    assert len(lines) == 8
    for line in lines:
        assert line.split == line.changed == 0
        assert line.where_allowed <= (0.0035 if "added" in line.what else 0.003)  # no old row may move
        if "few groups" in line.what:
            assert line.moved <= 0.03 * 10_662 and line.absent == 0


def test_the_fewest_images_are_left_out():
    groups = {"a": "g", "b": "g", "c": "g", "d": "h", "e": "h", "f": None}
    sides = {"a": "train", "b": "train", "c": "validation", "d": "train", "e": "validation", "f": "train"}
    kept = {"a": "train", "b": "train", "e": "validation", "f": "train"}
    assert without_leaks(groups, sides) == kept


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(70, 73), st.integers(1, 30)), min_size=1))
def test_what_the_header_tells(cells):
    counts = Counter()
    for label, jfif, quality_, number in cells:
        counts[label, jfif, quality_, "4:2:0"] += number
    told = leaks.told_by_header([[*cell, number] for cell, number in counts.items()])
    labels = {label for label, *_ in counts}
    assert len(told) == (len(labels) if len(labels) > 1 else 0)
    for entry in told:
        label = FINDINGS.index(entry["finding"])
        share = {}  # of the finding among images of a signature
        for _, *signature in counts:
            own = sum(n for (of, *other), n in counts.items() if other == signature and of == label)
            share[tuple(signature)] = own / sum(n for (_, *other), n in counts.items() if other == signature)
        right = total = 0
        for (one, *first), n in counts.items():
            for (other, *second), m in counts.items():
                if one == label != other:
                    total += n * m
                    ahead = share[tuple(first)] - share[tuple(second)]
                    right += n * m * (1 if ahead > 0 else 0.5 if ahead == 0 else 0)
        others = sum(counts.values()) - entry["images"]
        wanted = right / total if min(entry["images"], others) >= leaks.FEW else None
        assert entry["auc"] == pytest.approx(wanted)


def test_groups_follow_chains():
    chain = [(f"{i:03d}", f"{i + 1:03d}") for i in range(50)]
    random.Random(0).shuffle(chain)
    assert leaks.groups([*chain, ("x", "y")]) == {f"{i:03d}": "000" for i in range(51)} | {"x": "x", "y": "x"}


def test_what_is_given_is_checked(tmp_path, capsys):
    with pytest.raises(SystemExit):
        quality(["--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert quality(["--source", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 1
    assert "the labeled part is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        quality(["--source", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), "--config", "metadata"])
    assert "invalid choice" in capsys.readouterr().err and not (tmp_path / "out").exists()
