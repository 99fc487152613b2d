"""hyper_kvasir.py as users of datasets know a loading script: configs, data_dir, downloads, streaming."""

import hashlib
import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets.exceptions import DatasetGenerationError

import hyper_kvasir
from hyper_kvasir import (
    CONFIGS,
    FINDINGS,
    OFFICIAL_FILES,
    POLYPS,
    Expected,
    HyperKvasir,
    OfficialFile,
    SourceError,
    features_of,
    read_kvasir_seg,
)
from tests.conftest import ROOT
from tests.fake_source import write_source


def builder(config, source, **settings):
    return HyperKvasir(config_name=config, data_dir=str(source), expected=str(source / "expected.json"), **settings)


def raw(rows):
    """Rows with undecoded images, by id."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return {row["image_id"]: row for row in rows}


def test_what_the_ecosystem_expects():
    assert [config.name for config in HyperKvasir.BUILDER_CONFIGS] == CONFIGS
    assert HyperKvasir.DEFAULT_CONFIG_NAME == "labeled" and HyperKvasir().config.name == "labeled"
    for config in CONFIGS:
        info = HyperKvasir(config_name=config).info
        assert info.description and info.citation.startswith("@article") and info.homepage and "CC BY" in info.license
        assert str(info.version) == "1.0.0" and info.features == features_of(config)
        total = {"unlabeled": 99417, "segmented": 1000, "kvasir_seg": 1000}.get(config, 10662)
        assert sum(split.num_examples for split in info.splits.values()) == total


@pytest.mark.parametrize(
    "config, file_format", [(config, "arrow") for config in CONFIGS] + [("segmented", "parquet"), ("fold_2", "parquet")]
)
def test_prepared_rows_are_those_of_the_built_folder(config, file_format, source, built, tmp_path):
    made = builder(config, source, cache_dir=str(tmp_path))
    made.download_and_prepare(file_format=file_format, num_proc=2)
    if file_format == "arrow":
        rows = made.as_dataset()
    else:
        rows = datasets.load_dataset("parquet", data_files={s: f"{made.cache_dir}/*-{s}*" for s in made.info.splits})
    stored = datasets.load_dataset(str(built), config)
    assert set(rows) == set(stored)
    for split in rows:
        assert rows[split].features == stored[split].features
        assert raw(rows[split]) == raw(stored[split])


@pytest.mark.parametrize("config", CONFIGS)
def test_streaming_from_the_archive(config, source, built):
    stream = builder(config, source).as_streaming_dataset()
    for split, rows in stream.items():
        stored = datasets.load_dataset(str(built), config, split=split)
        assert sorted(row["image_id"] for row in rows) == sorted(stored["image_id"])


def test_a_segmented_row(source):
    row = next(iter(builder("segmented", source).as_streaming_dataset(split="train")))
    assert row["mask"].mode == "L" and row["instances"].mode == "P"
    assert row["mask"].size == row["instances"].size == row["image"].size == (row["width"], row["height"])
    assert set(np.unique(row["mask"])) == {0, 255}
    assert row["label"] == POLYPS == FINDINGS.index("polyps")
    assert row["objects"]["id"] == list(range(len(row["objects"]["bbox"])))


def as_the_hubs_viewer_saves(image, folder):
    """The file that huggingface/dataset-viewer makes of an image (libs/libcommon, viewer_utils/features.py)."""
    for suffix in (".jpg", ".png"):
        try:
            image.save(folder / f"cell{suffix}")
            return folder / f"cell{suffix}"
        except OSError:
            continue
    raise ValueError("Image cannot be written as JPEG or PNG")


def test_instances_show_in_the_hubs_viewer(source, tmp_path):
    """A map of one channel would be a JPEG whose brightest pixel is as dark as the number of instances."""
    rows = list(builder("segmented", source).as_streaming_dataset(split="train"))
    row = max(rows, key=lambda row: len(row["objects"]["id"]))
    pixels, numbers = np.asarray(row["instances"]), set(np.unique(row["instances"]).tolist())
    assert numbers == set(range(len(numbers))) and len(numbers) > 2
    saved = as_the_hubs_viewer_saves(row["instances"], tmp_path)
    shown = np.asarray(PIL.Image.open(saved).convert("RGB")).astype(int)
    colors = {number: {tuple(color) for color in shown[pixels == number].tolist()} for number in numbers}
    assert all(len(some) == 1 for some in colors.values()) and len(set.union(*colors.values())) == len(numbers)
    assert colors[0] == {(0, 0, 0)} and all(
        max(color) >= 119 for some in colors.values() for color in some - {(0, 0, 0)}
    )


# How color-blind people see linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
SEEN = {
    "by most": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colors, seen):
    """CIE Lab of colors like "#55bbff"."""
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(seen)
    xyz = np.clip(linear, 0, 1) @ TO_XYZ.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("seen", SEEN)
def test_instances_are_told_apart_by_the_color_blind(seen):
    colors = lab(["#000000", *hyper_kvasir.INSTANCE_COLORS], SEEN[seen])
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    assert len(colors) == 11 and distances[np.triu_indices(11, 1)].min() >= 22


def test_kvasir_segs_split_is_that_of_its_lists(source):
    """Every image is one of Kvasir-SEG's, and in the set that `dataset_card/kvasir_seg.csv` gives."""
    listed = read_kvasir_seg()
    for split, rows in builder("kvasir_seg", source).as_streaming_dataset().items():
        found = {row["image_id"]: (row["kvasir_seg_id"], row["kvasir_seg_set"]) for row in rows}
        assert found and found == {image_id: listed[image_id] for image_id in found}
        assert {name for _, name in found.values()} == {split}


def test_boxes_are_the_sources_in_coco_form(source):
    import zipfile

    with zipfile.ZipFile(source / "hyper-kvasir-segmented-images.zip") as archive:
        corners = json.loads(archive.read("segmented-images/bounding-boxes.json"))
    for row in builder("segmented", source).as_streaming_dataset(split="train"):
        boxes = [[b["xmin"], b["ymin"], b["xmax"], b["ymax"]] for b in corners[row["image_id"]]["bbox"]]
        assert [[x, y, x + w, y + h] for x, y, w, h in row["objects"]["bbox"]] == boxes
        assert row["objects"]["area"] == [w * h for _, _, w, h in row["objects"]["bbox"]]


def test_official_numbers_are_checked_by_default(source, tmp_path):
    with pytest.raises(SourceError, match="cecum: 7 found, expected 1,009 images"):
        HyperKvasir(config_name="labeled", data_dir=str(source), cache_dir=str(tmp_path)).download_and_prepare()


def test_no_checks_builds_a_partial_source(source, tmp_path):
    made = HyperKvasir(config_name="fold_2", data_dir=str(source), cache_dir=str(tmp_path))
    made.download_and_prepare(verification_mode="no_checks")
    assert sum(map(len, made.as_dataset().values())) == 137


def test_a_damaged_image_is_named_through_datasets(tmp_path):
    write_source(tmp_path / "source", images="tiny", parts=("labeled",), form="folder", defects=["truncated_jpeg"])
    with pytest.raises(DatasetGenerationError) as caught:
        builder("labeled", tmp_path / "source", cache_dir=str(tmp_path / "cache")).download_and_prepare()
    assert "expected a whole JPEG image: image file is truncated" in str(caught.value.__cause__)


def test_a_missing_archive_says_what_to_download(tmp_path):
    with pytest.raises(SourceError, match=r"no hyper-kvasir-unlabeled-images.zip.*Download https://.* to "):
        HyperKvasir(config_name="unlabeled", data_dir=str(tmp_path)).download_and_prepare()


# --------------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def served(web, source, monkeypatch):
    """The miniature on a web server, as the second address of each source; the first one does not answer."""
    address, folder, requests = web
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for name, official in OFFICIAL_FILES.items():
        sha256 = hashlib.sha256((folder / official.name).read_bytes()).hexdigest()
        addresses = (f"{address}gone/{official.name}", address + official.name)
        monkeypatch.setitem(hyper_kvasir.OFFICIAL_FILES, name, OfficialFile(official.name, addresses, None, sha256))
    return web


@pytest.mark.parametrize("config", ["labeled", "segmented", "unlabeled"])
def test_download_falls_back_to_the_second_address(config, served, source, tmp_path):
    made = HyperKvasir(config_name=config, expected=str(source / "expected.json"), cache_dir=str(tmp_path / "cache"))
    made.download_and_prepare()
    assert len(made.as_dataset(split="train")) == getattr(Expected.load(source / "expected.json"), config)


def test_a_second_build_downloads_nothing(served, source, tmp_path):
    _, _, requests = served
    for config in ("labeled", "fold_2"):
        settings = {"expected": str(source / "expected.json"), "cache_dir": str(tmp_path / "cache")}
        HyperKvasir(config_name=config, **settings).download_and_prepare()
    downloads = [path for path, _ in requests if path == "/hyper-kvasir-labeled-images.zip"]
    assert len(downloads) == 1


def test_a_download_of_another_digest_is_refused(served, source, tmp_path):
    _, folder, _ = served
    archive = bytearray((folder / "hyper-kvasir-labeled-images.zip").read_bytes())
    archive[-2:] = b"\x01\x00"  # a zip comment of one byte
    (folder / "hyper-kvasir-labeled-images.zip").write_bytes(bytes(archive) + b"x")
    made = HyperKvasir(config_name="labeled", expected=str(source / "expected.json"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(SourceError, match="not the official hyper-kvasir-labeled-images.zip"):
        made.download_and_prepare()


def test_a_fold_csv_of_another_digest_is_refused(served, source, tmp_path):
    """Also without checks: a download is the official one, or none."""
    _, folder, _ = served
    with open(folder / "5_fold_split.csv", "a") as file:
        file.write("\n")
    made = HyperKvasir(config_name="labeled", expected=str(source / "expected.json"), cache_dir=str(tmp_path / "cache"))
    for mode in ("basic_checks", "no_checks"):
        with pytest.raises(SourceError, match="not the official 5_fold_split.csv: sha256"):
            made.download_and_prepare(verification_mode=mode)


def test_a_page_in_place_of_an_archive_is_not_taken_nor_kept(web, source, monkeypatch, tmp_path):
    address, folder, _ = web
    file = OFFICIAL_FILES["unlabeled"].name
    shutil.copy(source / file, folder / "good.zip")
    (folder / "page.zip").write_text("<html>log in</html>")
    sources = {name: OfficialFile(file, (address + "page.zip", address + name)) for name in ("good.zip", "page.zip")}
    settings = {"expected": str(source / "expected.json"), "cache_dir": str(tmp_path / "cache")}

    def prepare(name):
        monkeypatch.setitem(hyper_kvasir.OFFICIAL_FILES, "unlabeled", sources[name])
        made = HyperKvasir(config_name="unlabeled", **settings)
        made.download_and_prepare()
        return made

    with pytest.raises(SourceError, match="the file that arrived is an HTML page instead of a zip file"):
        prepare("page.zip")
    assert len(prepare("good.zip").as_dataset(split="train")) == 12  # from the second address
    shutil.copy(source / file, folder / "page.zip")
    settings["cache_dir"] = str(tmp_path / "other")
    assert len(prepare("page.zip").as_dataset(split="train")) == 12  # the page was not kept


def test_no_address_answers(web, monkeypatch, tmp_path):
    address = web[0]
    gone = OfficialFile("hyper-kvasir-unlabeled-images.zip", (address + "one", address + "two"))
    monkeypatch.setitem(hyper_kvasir.OFFICIAL_FILES, "unlabeled", gone)
    with pytest.raises(
        SourceError,
        match=r"could not be downloaded: http://\S+/one: \w+: 404.*http://\S+/two.* put it beside the archives",
    ):
        HyperKvasir(config_name="unlabeled", cache_dir=str(tmp_path)).download_and_prepare()


def test_a_remote_archive_is_streamed_by_range(served, source, built):
    """Without data_dir, streaming reads the zip's directory and then each member by one Range request."""
    _, folder, requests = served
    made = HyperKvasir(config_name="unlabeled", expected=str(source / "expected.json"))
    rows = {row["image_id"]: row for row in made.as_streaming_dataset(split="train").decode(False)}
    assert rows == raw(datasets.load_dataset(str(built), "unlabeled", split="train"))
    size = (folder / "hyper-kvasir-unlabeled-images.zip").stat().st_size
    ranges = [span for path, span in requests if "unlabeled" in path and span]
    assert len(ranges) >= len(rows) and f"bytes=0-{size - 1}" not in ranges[-len(rows) :]


def test_a_module_named_by_its_path_is_all_that_is_needed(source, tmp_path):
    """The loading script stands alone: copied elsewhere, it works without this repository."""
    shutil.copy(ROOT / "hyper_kvasir.py", tmp_path)
    code = (
        "from hyper_kvasir import HyperKvasir; "
        f"b = HyperKvasir(config_name='tract', data_dir={str(source)!r}, expected={str(source / 'expected.json')!r}, "
        f"cache_dir={str(tmp_path / 'cache')!r}); b.download_and_prepare(); print(b.as_dataset())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "lower_gi_tract" in done.stdout, done.stderr


def test_segmented_images_need_the_list_of_their_names(source, tmp_path, monkeypatch):
    """Beside the module, wherever that is; or where the loader found a script that it copied."""
    monkeypatch.setattr(hyper_kvasir, "__file__", str(tmp_path / "cache" / "hyper_kvasir.py"))
    with pytest.raises(SourceError, match=rf"kvasir_seg.csv is missing.* copy it .* to {tmp_path / 'cache'}$"):
        next(iter(builder("segmented", source).as_streaming_dataset(split="train")))
    (tmp_path / "cache").mkdir()
    shutil.copy(ROOT / "dataset_card/kvasir_seg.csv", tmp_path / "cache")
    assert len(list(builder("kvasir_seg", source).as_streaming_dataset(split="validation"))) == 2
    (tmp_path / "cache/kvasir_seg.csv").unlink()
    stream = builder("kvasir_seg", source, base_path=str(ROOT)).as_streaming_dataset(split="validation")
    assert len(list(stream)) == 2


def test_a_build_without_checks_in_the_cache_is_not_taken_for_a_checked_one(source, tmp_path, monkeypatch):
    """Also where the numbers are right: here all folds are unknown."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    shutil.copytree(source, tmp_path / "source")
    for k in (2, 5):
        (tmp_path / f"source/{k}_fold_split.csv").unlink()
    settings = {"cache_dir": str(tmp_path / "cache")}
    made = builder("labeled", tmp_path / "source", **settings)
    made.download_and_prepare(verification_mode="no_checks")
    assert set(made.as_dataset(split="train")["fold_2"]) == {None}
    builder("labeled", tmp_path / "source", **settings).download_and_prepare(verification_mode="no_checks")
    with pytest.raises(SourceError, match="an earlier build without checks; build again with download_mode"):
        builder("labeled", tmp_path / "source", **settings).download_and_prepare()
    for k in (2, 5):
        shutil.copy(source / f"{k}_fold_split.csv", tmp_path / "source")
    made = builder("labeled", tmp_path / "source", **settings)
    made.download_and_prepare(None, None, "reuse_cache_if_exists", "all_checks")
    assert None not in made.as_dataset(split="train")["fold_2"]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_cache_follows_what_lies_in_the_source(form, tmp_path):
    write_source(tmp_path / "source", images="tiny", form=form, parts=("unlabeled",), seed=1)
    write_source(tmp_path / "other", images="tiny", form=form, parts=("unlabeled",), seed=2)
    name = "unlabeled-images" if form == "folder" else OFFICIAL_FILES["unlabeled"].name
    data_dir = tmp_path / "source" / ("" if form == "folder" else name)

    def ids():
        settings = {"expected": str(tmp_path / "source/expected.json"), "cache_dir": str(tmp_path / "cache")}
        made = HyperKvasir(config_name="unlabeled", data_dir=str(data_dir), **settings)
        made.download_and_prepare()
        return set(made.as_dataset(split="train")["image_id"])

    first = ids()
    assert ids() == first
    for path in (name, "expected.json"):
        (tmp_path / "source" / path).rename(tmp_path / f"old-{path}")
        (tmp_path / "other" / path).rename(tmp_path / "source" / path)
    assert len(ids()) == 12 and not ids() & first


def test_a_better_zip_in_the_place_of_a_bad_one_is_read(tmp_path):
    """In one process, as in a notebook whose user downloads again."""
    write_source(tmp_path / "bad", images="tiny", parts=("unlabeled",), seed=1)
    write_source(tmp_path / "source", images="tiny", parts=("unlabeled",), seed=2)
    place = tmp_path / "source" / OFFICIAL_FILES["unlabeled"].name
    place.rename(tmp_path / "good.zip")
    shutil.move(tmp_path / "bad" / place.name, place)
    with pytest.raises(SourceError):
        builder("unlabeled", tmp_path / "source", cache_dir=str(tmp_path / "cache")).download_and_prepare()
    (tmp_path / "good.zip").rename(place)
    builder("unlabeled", tmp_path / "source", cache_dir=str(tmp_path / "cache")).download_and_prepare()
