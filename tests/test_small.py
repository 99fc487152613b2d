"""The small edition: the same rows, scaled and encoded alike; what it loses; that it stays apart from the full one."""

import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scripts.build import main
from scripts.card import main as card
from scripts.pipeline import leaks, small, stats
from scripts.pipeline.configs import features_of
from scripts.pipeline.hub import PublishError
from scripts.pipeline.manifest import read_manifest
from scripts.pipeline.parquet import write_file_of
from scripts.pipeline.publish import check_edition
from scripts.quality import main as quality
from scripts.review import main as review
from scripts.verify import main as verify
from tests.conftest import build, tree
from tests.fake_source import write_source
from tests.publisher import FEW, REPO, Publisher

SIDE = 64
FLAGS = ["--max-side", str(SIDE)]
SEGMENTED = "data/segmented/train_00.parquet"

pytestmark = pytest.mark.xdist_group("small")


@pytest.fixture(scope="module")
def drawn_source(tmp_path_factory):
    """Images of some 160 x 120 pixels, all parts."""
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, findings=FEW, unlabeled=20)
    return folder


@pytest.fixture(scope="module")
def both(drawn_source, tmp_path_factory):
    """(the full edition, the small one)"""
    folder = tmp_path_factory.mktemp("editions")
    build(drawn_source, folder / "full")
    build(drawn_source, folder / "small", *FLAGS)
    return folder / "full", folder / "small"


@pytest.fixture
def copy(both, tmp_path):
    """The small edition, to be changed."""
    return shutil.copytree(both[1], tmp_path / "small")


def rows_of(folder, part):
    """{image id: row} of a part."""
    tables = [pq.read_table(path) for path in sorted((folder / "data" / part).rglob("*.parquet"))]
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


def opened(value):
    return Image.open(io.BytesIO(value["bytes"]))


def verified(folder, source, *flags):
    return verify([str(folder), "--expect", f"{source}/expected.json", *flags])


def test_it_has_the_rows_and_views_of_the_full_edition(both):
    for part in ("labeled", "segmented", "unlabeled"):
        full, scaled = (rows_of(folder, part) for folder in both)
        assert full.keys() == scaled.keys() and full
        for image_id, row in scaled.items():
            other = full[image_id]
            same = set(other) - {"image", "mask", "instances", "objects", "width", "height"}
            assert {name: row[name] for name in same} == {name: other[name] for name in same}
            assert (row["original_width"], row["original_height"]) == (other["width"], other["height"])
            assert row["image"]["path"] == other["image"]["path"]
    configs = [read_manifest(str(folder))["configs"] for folder in both]
    splits = [{c: {s: e["rows"] for s, e in some.items()} for c, some in of.items()} for of in configs]
    assert splits[0] == splits[1]


def test_images_are_scaled_and_keep_their_shape(both):
    full, scaled = (rows_of(folder, "labeled") for folder in both)
    for image_id, row in scaled.items():
        size = row["width"], row["height"]
        assert opened(row["image"]).size == size and max(size) == SIDE
        original = opened(full[image_id]["image"]).convert("RGB")
        assert abs(size[0] / size[1] - original.width / original.height) < 0.02
        exact = np.asarray(original.resize(size, Image.Resampling.LANCZOS), float)
        assert np.abs(np.asarray(opened(row["image"]), float) - exact).mean() < 6


def test_one_header_for_all_images_of_a_size(both):
    headers = {}
    for part in ("labeled", "segmented", "unlabeled"):
        for row in rows_of(both[1], part).values():
            data = row["image"]["bytes"]
            header = data[: data.index(b"\xff\xda")]
            headers.setdefault((row["width"], row["height"]), set()).add(header)
    assert len(headers) > 1 and all(len(found) == 1 for found in headers.values())


def test_masks_and_instances_are_the_nearest_pixels_of_the_full_ones(both):
    full, scaled = (rows_of(folder, "segmented") for folder in both)
    for image_id, row in scaled.items():
        for name, mode in (("mask", "L"), ("instances", "P")):
            before, after = np.asarray(opened(full[image_id][name])), np.asarray(opened(row[name]))
            centers = [(np.arange(s) + 0.5) * o / s for s, o in zip(after.shape, before.shape)]
            sure = np.ix_(*(c % 1 > 1e-6 for c in centers))  # elsewhere a center is between two pixels
            assert np.array_equal(after[sure], before[np.ix_(*(c.astype(int) for c in centers))][sure])
            assert opened(row[name]).mode == mode
        assert opened(row["instances"]).getpalette() == opened(full[image_id]["instances"]).getpalette()


def test_boxes_are_scaled_with_the_image(both):
    full, scaled = (rows_of(folder, "segmented") for folder in both)
    for image_id, row in scaled.items():
        old, new = full[image_id]["objects"], row["objects"]
        factors = [row["width"] / row["original_width"], row["height"] / row["original_height"]] * 2
        assert np.allclose(new["bbox"], np.multiply(old["bbox"], factors), rtol=1e-6)
        assert [round(w * h) for _, _, w, h in new["bbox"]] == new["area"]
        assert all(x + w <= row["width"] and y + h <= row["height"] for x, y, w, h in new["bbox"])
        assert (new["id"], new["category"]) == (old["id"], old["category"])


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 2000))
def test_a_size_is_scaled_to_the_pixel(width, height, side):
    new = small.scaled_size(width, height, side)
    assert max(new) == min(side, max(width, height)) and min(new) >= 1
    if max(width, height) <= side:
        assert new == (width, height)
    for one, other in zip(new, (width, height)):
        assert abs(one - other * max(new) / max(width, height)) <= 0.5 or one == 1


def test_an_image_that_is_small_already_is_only_encoded_anew():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    image.save(buffer := io.BytesIO(), "JPEG", quality=60)
    row = {"image_id": "a", "image": {"bytes": buffer.getvalue(), "path": "a.jpg"}, "width": 30, "height": 20}
    shrunk = small.shrink(row, 64, small.Loss(), sampled=True)
    assert (shrunk["width"], shrunk["height"]) == (30, 20) and shrunk["image"]["bytes"] != buffer.getvalue()
    small.check_small(shrunk, 64)


def test_a_gray_image_becomes_one_as_all_others():
    Image.new("L", (90, 40), 77).save(buffer := io.BytesIO(), "JPEG")
    row = {"image_id": "a", "image": {"bytes": buffer.getvalue(), "path": "a.jpg"}, "width": 90, "height": 40}
    shrunk = small.shrink(row, 64, small.Loss(), sampled=True)
    assert opened(shrunk["image"]).mode == "RGB"
    small.check_small(shrunk, 64)


def test_an_instance_that_is_lost_is_told_and_the_others_keep_their_numbers():
    instances = np.zeros((400, 400), np.uint8)
    instances[3, 3], instances[100:200, 100:200] = 1, 2
    mask = np.where(instances, 255, 0).astype(np.uint8)
    Image.new("RGB", (400, 400), "red").save(image := io.BytesIO(), "JPEG")

    def png(pixels, palette=None):
        picture = Image.fromarray(pixels)
        if palette:
            picture.putpalette(palette)
        picture.save(buffer := io.BytesIO(), "PNG")
        return {"bytes": buffer.getvalue(), "path": "a.png"}

    row = {
        **{"image_id": "a", "image": {"bytes": image.getvalue(), "path": "a.jpg"}, "width": 400, "height": 400},
        **{"mask": png(mask), "instances": png(instances, [0, 0, 0, 9, 9, 9, 8, 8, 8])},
        "objects": {"id": [0], "bbox": [[100, 100, 100, 100]], "area": [10_000], "category": [0]},
    }
    loss = small.Loss()
    shrunk = small.shrink(row, 40, loss, sampled=False)
    assert loss.counted()["lost"] == [["a", 1, 1]] and not loss.counted()["psnr"]
    found = np.asarray(opened(shrunk["instances"]))
    assert set(np.unique(found)) == {0, 2} and np.count_nonzero(found) == 100
    loss, instances = small.Loss(), np.where(instances == 1, 0, 1).astype(np.uint8)  # a background of one pixel
    row |= {"mask": png(np.where(instances, 255, 0).astype(np.uint8)), "instances": png(instances, [0, 0, 0, 9, 9, 9])}
    assert np.asarray(opened(small.shrink(row, 40, loss, sampled=False)["mask"])).all() and not loss.lost


def test_any_number_of_workers_gives_the_same_bytes(both, drawn_source, tmp_path):
    arguments = ["--source", str(drawn_source), "--expect", f"{drawn_source}/expected.json", *FLAGS]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--workers", "3"]) == 0
    assert tree(tmp_path / "out") == tree(both[1])


def test_what_is_built_is_not_built_again(copy, drawn_source, capsys):
    build(drawn_source, copy, *FLAGS)
    assert "(0 built, " in capsys.readouterr().err
    (copy / SEGMENTED).unlink()
    build(drawn_source, copy, *FLAGS)
    assert "(1 built, " in capsys.readouterr().err


def test_editions_and_sizes_are_not_mixed(both, copy, drawn_source, tmp_path, capsys):
    expect = ["--expect", f"{drawn_source}/expected.json"]
    full = shutil.copytree(both[0], tmp_path / "full")
    for folder, flags, told in (
        (copy, [], "holds images of at most 64 pixels a side; give --max-side 64, or choose"),
        (copy, ["--max-side", "96"], "holds images of at most 64 pixels a side"),
        (copy, ["--max-side", "96", "--config", "metadata"], "holds images of at most 64 pixels a side"),
        (full, FLAGS, "holds the full edition; leave --max-side out, or choose"),
    ):
        before = tree(folder)
        assert main(["--source", str(drawn_source), "--out", str(folder), *expect, *flags]) == 1
        assert told in capsys.readouterr().err and tree(folder) == before


def test_metadata_alone_is_of_no_edition(drawn_source, tmp_path):
    for _ in range(2):
        build(drawn_source, tmp_path / "out", "--config", "metadata", *FLAGS)
    assert "max_side" not in read_manifest(str(tmp_path / "out"))


@pytest.mark.parametrize("side", ["31", "0", "-5", "1025", "abc"])
def test_a_size_that_makes_no_sense_is_refused(side, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--source", str(tmp_path), "--out", str(tmp_path / "out"), "--max-side", side])
    assert f"'{side}' is no number of pixels from 32 to 1,024" in capsys.readouterr().err


@pytest.mark.parametrize(
    "repo_id, held, given, other",
    [("ns/x", None, 256, "ns/x-256"), ("ns/x-256", 256, None, "ns/x"), ("ns/x-256", 256, 128, "ns/x-128")],
)
def test_an_edition_does_not_replace_another(repo_id, held, given, other):
    """Nor one that was uploaded by hand, whose manifest has no version."""
    held, given = ({"max_side": side} if side else {} for side in (held, given))
    published = SimpleNamespace(repo_id=repo_id, manifest=held)
    with pytest.raises(PublishError, match=f"{repo_id} holds .* publish to another repository, e.g. {other}$"):
        check_edition(published, given)


# ------------------------------------------------------------------------------------------------------------- checks


def test_it_verifies_alone_and_against_the_archives(both, drawn_source, capsys):
    assert verified(both[1], drawn_source, "--source", str(drawn_source)) == 0
    assert "all good" in capsys.readouterr().out


def change(folder, path, row_change):
    """Writes a file of the small edition anew, with its first row changed, and the manifest as if it were so."""
    table = pq.read_table(folder / path)
    rows = table.to_pylist()
    row_change(rows[0])
    part = path.split("/")[1]
    fresh = pa.Table.from_pylist(rows, features_of(part, small=True).arrow_schema)
    metadata = table.schema.metadata
    fresh = fresh.replace_schema_metadata({small.LOSS: metadata[small.LOSS]})
    footer = pq.read_metadata(folder / path).metadata
    key, digests = (footer[f"hyper_kvasir.{name}".encode()].decode() for name in ("key", "rows"))
    entry = write_file_of(fresh, part, str(folder / path), key=key, row_digests=digests)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path] = entry
    (folder / "manifest.json").write_text(json.dumps(manifest))


def other_quality(row):
    opened(row["image"]).save(buffer := io.BytesIO(), "JPEG", quality=75)
    row["image"]["bytes"] = buffer.getvalue()


def other_size(row):
    row["original_width"] += 30


def other_instances(row):
    with opened(row["instances"]) as image:
        pixels = np.asarray(image).copy()
        palette = image.getpalette()
    pixels[0, 0] = 1 - pixels[0, 0]
    image = Image.fromarray(pixels)
    image.putpalette(palette)
    image.save(buffer := io.BytesIO(), "PNG")
    row["instances"]["bytes"] = buffer.getvalue()


def other_box(row):
    row["objects"]["bbox"][0][2] += 100


def other_area(row):
    row["objects"]["area"][0] += 2


@pytest.mark.parametrize(
    ("row_change", "told"),
    [
        (other_quality, "image is encoded otherwise than all others"),
        (other_size, "; expected 64 x "),
        (other_instances, "instances are not the components of the mask"),
        (other_box, "is out of bounds, empty or miscounted"),
        (other_area, "is out of bounds, empty or miscounted"),
    ],
)
def test_verification_finds_what_is_not_as_it_should_be(row_change, told, copy, drawn_source, capsys):
    change(copy, SEGMENTED, row_change)
    assert verified(copy, drawn_source) == 1
    assert told in capsys.readouterr().out


def test_verification_compares_pixels_with_the_archives(copy, drawn_source, capsys):
    def darker(row):
        opened(row["image"]).point(lambda value: value // 2).save(
            buffer := io.BytesIO(), "JPEG", quality=small.QUALITY, subsampling="4:2:0"
        )
        row["image"]["bytes"] = buffer.getvalue()

    path = next(p for p in read_manifest(str(copy))["files"] if p.startswith("data/unlabeled"))
    change(copy, path, darker)
    assert verified(copy, drawn_source, "--source", str(drawn_source)) == 1
    assert "other image than in the archives" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- what it loses


def test_editions_are_not_compared(both, tmp_path, capsys):
    assert review([str(both[1]), "--to", str(tmp_path / "page.html"), "--against", str(both[0])]) == 1
    assert "holds the full edition, and this is of images of at most 64 pixels a side" in capsys.readouterr().err


def test_the_card_says_what_is_lost(both):
    text = (both[1] / "README.md").read_text()
    summaries = stats.read_stats(str(both[1]))
    shown = text[text.index("## The small edition") : text.index("## Image sizes")]
    sampled = sum(-(-entry["rows"] // small.SAMPLED) for entry in read_manifest(str(both[1]))["files"].values())
    assert f"| {sampled:,} images, one of 16 in each file |" in shown
    psnr = [value for s in summaries.values() for value, images in s["psnr"] for _ in range(images)]
    assert f"PSNR {np.median(psnr)} dB at the median, {min(psnr)} dB at least" in shown
    full, scaled = (rows_of(folder, "segmented") for folder in both)
    ious = []
    for image_id, row in scaled.items():
        one = np.asarray(opened(full[image_id]["mask"])) > 0
        back = opened(row["mask"]).resize(one.shape[::-1], Image.Resampling.NEAREST)
        other = np.asarray(back) > 0
        ious.append(round(float((one & other).sum() / (one | other).sum()), 3))
    assert f"IoU {np.median(ious):.3f} at the median, {min(ious):.3f} at least" in shown
    assert "The image bytes here are" not in text and "byte for byte" not in text
    assert "JPEG quality" not in text and not (both[1] / "assets/quality.png").exists()


def test_the_loss_that_is_told_is_that_of_the_pictures(both):
    full, scaled = (rows_of(folder, "segmented") for folder in both)
    table = pq.read_table(both[1] / SEGMENTED)
    ids = table["image_id"].to_pylist()[:: small.SAMPLED]
    found = []
    for image_id in ids:
        size = scaled[image_id]["width"], scaled[image_id]["height"]
        exact = Image.fromarray(simplejpeg.decode_jpeg(full[image_id]["image"]["bytes"], "RGB"))
        exact = np.asarray(exact.resize(size, Image.Resampling.LANCZOS), float)
        error = np.mean((np.asarray(opened(scaled[image_id]["image"]), float) - exact) ** 2)
        found.append(10 * np.log10(255**2 / error))
    told = [v for v, n in json.loads(table.schema.metadata[small.LOSS])["psnr"] for _ in range(n)]
    assert np.allclose(sorted(told), sorted(found), atol=0.26)


def test_the_header_tells_nothing(both):
    """Each finding has files of its own kind in the full edition, and all are alike in the small one."""
    labeled = stats.by_part(stats.read_stats(str(both[1])))["labeled"]
    assert {tuple(kind[:2]) for _, *kind in labeled["encoders"]} == {(True, small.QUALITY)}
    findings = {label for label, *_ in labeled["encoders"]}
    assert {leaks.auc_of_header(labeled["encoders"], label) for label in findings} == {0.5}


def test_what_bits_a_pixel_tell():
    bits = [[0, 1.0, 30], [1, 1.0, 10], [1, 2.0, 20]]
    labeled = {
        "cells": [[0, 0, 0, 30], [1, 0, 0, 30]],
        "bits": bits,
        "encoders": [[0, True, 90, 30], [1, True, 90, 30]],
    }
    told = stats.told_by_files(labeled)
    assert [entry["header"] for entry in told] == [0.5, 0.5]
    assert [entry["bits"] for entry in told] == pytest.approx([20 / 30 + 10 / 30 / 2] * 2)


@pytest.mark.slow
def test_reduced_decoding_gives_nearly_the_same_picture_of_real_images(real):
    """The error that small.DECODED states, of images that are large enough to be reduced."""
    found = []
    for path in sorted((real / "labeled-sample").rglob("*.jpg")):
        data = path.read_bytes()
        size = small.scaled_size(*Image.open(io.BytesIO(data)).size, 256)
        one, other = (np.asarray(small._scaled(data, size, times), float) for times in (small.DECODED, None))
        error = np.mean((one - other) ** 2)
        found += [10 * np.log10(255**2 / error)] if error else []
    assert found and min(found) >= 39 and np.median(found) >= 44


# ------------------------------------------------------------------------------------------------- beside all else


def test_metadata_is_that_of_the_full_edition(tmp_path, capsys):
    """Facts, pairs and folds are of the originals: the file is the same."""
    source, full, scaled = (tmp_path / name for name in ("source", "full", "small"))
    write_source(source, parts=["segmented"], segmented=8)
    flags = ["--expect", f"{source}/expected.json", "--workers", "1"]
    for out, edition in ((full, []), (scaled, FLAGS)):
        build(source, out, "--config", "segmented", *edition)
        assert quality(["--source", str(source), "--out", str(out), *flags]) == 0
    assert (scaled / leaks.METADATA_FILE).read_bytes() == (full / leaks.METADATA_FILE).read_bytes()
    capsys.readouterr()
    assert verified(scaled, source, "--source", str(source)) == 0, capsys.readouterr().out
    assert "Facts about a file and its picture are of the original" in (scaled / "README.md").read_text()


def test_card_and_review_page_are_made_of_it(copy, drawn_source, tmp_path):
    (copy / "README.md").unlink()
    assert card([str(copy)]) == 0
    assert verified(copy, drawn_source) == 0
    expect = ["--expect", f"{drawn_source}/expected.json"]
    assert review([str(copy), "--to", str(tmp_path / "review.html"), *expect]) == 0
    assert (tmp_path / "review.html").stat().st_size > 10_000


@pytest.mark.slow
def test_it_is_published_beside_the_full_one(tmp_path_factory, tmp_path):
    """From a folder, then an update straight from the archives; the full edition's repository refuses it."""
    from scripts.loopback_hub import LoopbackHub

    work = tmp_path_factory.mktemp("publish")
    write_source(work / "source", findings=FEW, unlabeled=3)
    configs = ["--config", "labeled", "--config", "segmented"]
    for name, flags in (("full", []), ("small", FLAGS)):
        build(work / "source", work / name, *configs, *flags)
        shutil.copy(work / "source/expected.json", work / f"{name}.expected.json")
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        publisher = Publisher(hub, tmp_path / "home", True)
        publisher.ok(work / "small", "1.0.0")
        assert json.loads(publisher.read("manifest.json"))["max_side"] == SIDE
        publisher.refused(
            "holds images of at most 64 pixels a side, and this is of the full edition", work / "full", "1.1.0"
        )
        for flags in ([], ["--full"]):
            code, said = publisher.verify("--revision", "v1.0.0", "--expect", work / "small.expected.json", *flags)
            assert code == 0, said
        write_source(work / "relabeled", findings=FEW, unlabeled=3, relabel=1)
        shutil.copy(work / "relabeled/expected.json", tmp_path / "work.expected.json")
        flags = ["--source", work / "relabeled", *configs]
        publisher.refused("holds images of at most 64 pixels", tmp_path / "work", "2.0.0", *flags)
        said = publisher.ok(tmp_path / "work", "2.0.0", *flags, *FLAGS)
        assert json.loads(publisher.read("manifest.json"))["max_side"] == SIDE
        found = publisher.python(
            "import json\nfrom datasets import load_dataset\n"
            f"rows = load_dataset({REPO!r}, 'segmented', split='train')\n"
            "print(json.dumps([max(rows[0]['image'].size), list(rows.features)]))"
        )
        assert found == [SIDE, list(features_of("segmented", small=True))]
