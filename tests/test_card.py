"""The card says what is in the files, and only that; the Hub, datasets and mlcroissant take it."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from hyper_kvasir import CITATION, FINDINGS, OFFICIAL, TAXONOMY, VERSION, features_of, file_sha256, part_of
from scripts.card import main
from scripts.pipeline import figures, stats
from scripts.pipeline.card import (
    TEXTS,
    card_files,
    card_key,
    check_card,
    folder_examples,
    front_matter,
    lint_card,
    stale,
    write_card,
)
from scripts.pipeline.manifest import make_manifest, manifest_text, read_manifest
from tests.conftest import tree

LABELED = "data/labeled/lower-gi-tract/pathological-findings/fold2-0_fold5-0_00.parquet"


@pytest.fixture(scope="module")
def carded(built, tmp_path_factory):
    """The miniature with its card. Not to be changed: copy it."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("carded") / "folder")
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture
def folder(carded, tmp_path):
    return shutil.copytree(carded, tmp_path / "folder")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures that take no time."""

    def draw(parts, example):
        names = ("findings", "class_balance", "folds", "polyps", "sizes", "objects", "heat_maps", "agreement")
        return [figures.Figure(name, f"assets/{name}.png", "", b"") for name in names]

    monkeypatch.setattr(figures, "draw", draw)


def readme(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def keep_parts(folder, *parts):
    """Leaves only some parts in a built folder, as if only they had been built."""
    manifest = read_manifest(str(folder))
    files = {path: entry for path, entry in manifest["files"].items() if path.split("/")[1] in parts}
    for path in set(manifest["files"]) - set(files):
        (folder / path).unlink()
    sources = {part: manifest["sources"][part] for part in parts}
    configs = [config for config in manifest["configs"] if part_of(config) in parts]
    manifest = make_manifest(configs, sources, files, 1)
    (folder / "manifest.json").write_text(manifest_text(manifest))
    return manifest


def drop_rows(folder, path, rows):
    """Takes rows off the end of a stored file, the manifest following."""
    table = pq.read_table(folder / path)
    pq.write_table(table.slice(0, table.num_rows - rows), folder / path, compression="none")
    manifest = json.loads((folder / "manifest.json").read_text())
    size, sha256 = (folder / path).stat().st_size, file_sha256(str(folder / path))
    manifest["files"][path].update(rows=table.num_rows - rows, bytes=size, sha256=sha256)
    manifest = {
        **make_manifest(list(manifest["configs"]), manifest["sources"], manifest["files"], manifest["schema"]),
        "card": manifest["card"],
    }
    (folder / "manifest.json").write_text(manifest_text(manifest))
    return table.slice(table.num_rows - rows)["label"].to_pylist()


def taxonomy(text):
    found = re.findall(r"^\| \d+ \| `([\w-]+)` \|.*?\| ([\d,]+) \|", text, re.MULTILINE)
    return {name: int(images.replace(",", "")) for name, images in found}


# --------------------------------------------------------------------------------------------------------- the files


def test_everything_goes_along(carded):
    manifest = read_manifest(str(carded))
    assert set(manifest["card"]["files"]) == {
        "README.md", "stats.json", "croissant.json", "CITATION.bib", "CITATION.cff", "CHANGELOG.md", "datasheet.md",
        "assets/findings.jpg", "assets/polyps.jpg", "assets/class_balance.png", "assets/folds.png", "assets/sizes.png",
        "assets/objects.png", "assets/heat_maps.png", "assets/agreement.png",
    }  # fmt: skip
    for path, entry in manifest["card"]["files"].items():
        assert (carded / path).stat().st_size == entry["bytes"] < 500_000
        assert file_sha256(str(carded / path)) == entry["sha256"]
    text = readme(carded)
    assert all(f"]({path})" in text for path in manifest["card"]["files"] if path.startswith("assets/"))
    assert not re.search(r"!\[\]|\bNone\b|undefined|More [Ii]nformation [Nn]eeded", text)
    assert stale(str(carded), manifest) == []


def test_the_same_bytes_again(carded):
    manifest = read_manifest(str(carded))
    summaries = stats.collect(str(carded), manifest, {})
    files = card_files(manifest, summaries, folder_examples(str(carded), summaries))
    assert all((carded / path).read_bytes() == data for path, data in files.items())


def test_nothing_to_do_writes_nothing_and_reads_no_data(folder, monkeypatch):
    monkeypatch.setattr(stats, "collect", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_only_a_changed_file_is_read_again(folder, monkeypatch, undrawn):
    drop_rows(folder, LABELED, 1)
    read, summarise = [], stats.summarise
    monkeypatch.setattr(stats, "summarise", lambda path, part: read.append(path) or summarise(path, part))
    assert main([str(folder)]) == 0
    assert [Path(path) for path in read] == [folder / LABELED]


def test_a_card_without_the_files(carded):
    """An incremental publication has the summaries and a way to get single rows, not the unchanged files."""
    manifest, summaries = read_manifest(str(carded)), stats.read_stats(str(carded))
    rows = []

    def example(part, image_id):
        rows.append((part, image_id))
        return folder_examples(str(carded), summaries)(part, image_id)

    files = card_files(manifest, summaries, example, "someone/hyper-kvasir")
    assert b'load_dataset("someone/hyper-kvasir", "tract")' in files["README.md"]
    assert b"ns/hyper-kvasir" not in files["README.md"] + files["croissant.json"]
    assert Counter(part for part, _ in set(rows))["labeled"] == len(FINDINGS)


@pytest.mark.parametrize("change", ["edited", "missing", "data", "repo", "none"])
def test_stale(folder, change, undrawn):
    manifest = read_manifest(str(folder))
    if change == "edited":
        (folder / "README.md").write_text(readme(folder).replace("7", "8", 1))
    elif change == "missing":
        (folder / "assets/sizes.png").unlink()
    elif change == "data":
        drop_rows(folder, LABELED, 1)
        manifest = read_manifest(str(folder))
    elif change == "none":
        del manifest["card"]
    problems = stale(str(folder), manifest, *(["someone/else"] if change == "repo" else []))
    assert len(problems) == 1 and "python -m scripts.card" in problems[0]
    if change not in ("edited", "repo"):
        assert stale(str(folder), write_card(str(folder), manifest)) == []


def test_key_depends_on_data_texts_and_code(carded, tmp_path, monkeypatch):
    manifest = read_manifest(str(carded))
    key = card_key(manifest)
    texts = shutil.copytree(TEXTS, tmp_path / "texts")
    monkeypatch.setattr("scripts.pipeline.card.TEXTS", texts)
    assert card_key(manifest) == key
    (texts / "rai.yaml").write_text("rai: {}")
    code = tmp_path / "figures.py"
    code.write_text("")
    keys = {key, card_key(manifest), card_key(manifest, "a/b"), card_key({**manifest, "complete": False})}
    monkeypatch.setattr(figures, "__file__", str(code))
    assert len(keys | {card_key(manifest)}) == 5


@pytest.mark.parametrize("what", ["no manifest", "not a folder", "file missing", "file damaged"])
def test_errors_say_what_to_do(folder, what, capsys):
    path = folder / LABELED
    (folder / "stats.json").unlink()
    (folder / "README.md").unlink()
    if what == "file missing":
        path.unlink()
    elif what == "file damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif what == "no manifest":
        (folder / "manifest.json").unlink()
    assert main([str(folder / "nowhere" if what == "not a folder" else folder)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    assert LABELED in said if what.startswith("file") else "python -m scripts.build" in said


# --------------------------------------------------------------------------------------------------------- its numbers


def test_numbers_are_those_of_the_files(carded):
    text, manifest = readme(carded), read_manifest(str(carded))
    labels = Counter()
    for path in (carded / "data/labeled").rglob("*.parquet"):
        labels.update(pq.read_table(path)["label"].to_pylist())
    assert taxonomy(text) == {name: labels[i] for i, name in enumerate(FINDINGS)}
    assert check_card(text, manifest, str(carded)) == []
    objects = pq.read_table(carded / "data/segmented/00.parquet")["objects"].to_pylist()
    assert f"and {sum(len(o['id']) for o in objects)} boxes" in text
    assert "Not the official numbers" in text and "labeled images: 137 here, officially 10,662;" in text


def test_numbers_change_with_the_data(folder):
    before = readme(folder)
    dropped = Counter(FINDINGS[label] for label in drop_rows(folder, LABELED, 2))
    manifest = read_manifest(str(folder))
    problems = check_card(before, manifest, str(folder))
    assert any("metadata: labeled / train" in problem for problem in problems)
    assert any("table of splits: tract / lower_gi_tract" in problem for problem in problems)
    assert {p.split(": ")[2] for p in problems if "taxonomy" in p} == set(dropped)
    assert check_card(before, manifest), "the manifest alone tells, too"
    images_before = {path: data for path, data in tree(folder).items() if path.startswith("assets/")}
    assert main([str(folder)]) == 0
    after, images = readme(folder), tree(folder)
    assert taxonomy(after) == {name: count - dropped[name] for name, count in taxonomy(before).items()}
    assert "| `labeled` | 135 |" in after and "| `labeled` | 137 |" in before
    changed = {path for path, data in images_before.items() if images[path] != data}
    assert {"assets/class_balance.png", "assets/folds.png"} <= changed
    assert "assets/polyps.jpg" not in changed


def test_no_number_of_the_dataset_is_typed():
    """The template computes; only constants of the process and names that hold digits are typed."""
    names = r"\d-fold|\d_fold_split|sha256|8-connected|CC BY 4\.0|2\.21|float32|\bv2\b"
    process = r"grey value of 128 into 0 and 255|0 background|1 to n|> 0 |x 4:|\)\[0\]|:5\]|> 5|- 5"
    arguments = r"\(\d+, \d+\)|(seed|buffer_size|batch_size|num_workers)=\d+"
    for name in ("card.md.j2", "datasheet.md"):
        text = re.sub(r"{{.*?}}|{%.*?%}|https?://\S+", "", (TEXTS / name).read_text(encoding="utf-8"))
        assert re.findall(r"\S*\d\S*", re.sub(f"{names}|{process}|{arguments}", "", text)) == []


def test_full_counts_are_the_official_ones(carded, undrawn):
    """A manifest and summaries of the official counts give the official numbers, to the last digit."""
    summaries = official_summaries()
    entry = {"bytes": 1, "data_bytes": 1, "sha256": "0", "key": "0"}
    files = {path: {**entry, "rows": summary["rows"]} for path, summary in summaries.items()}
    manifest = make_manifest(list(read_manifest(str(carded))["configs"]), {}, files, 1)
    text = card_files(manifest, summaries, one_of_each(carded))["README.md"].decode()
    assert "Not the official numbers" not in text and "Incomplete" not in text
    assert taxonomy(text) == OFFICIAL.findings
    assert check_card(text, manifest) == []
    for fact in (
        "| `labeled` | 10,662 | 23 findings in 4 categories and 2 tracts",
        "| `segmented` | 1,000 | polyps with a mask, 1,063 instances and 1,071 boxes",
        "| `unlabeled` | 99,417 |",
        "| `tract` | `lower_gi_tract` | 7,210 |", "| `tract` | `upper_gi_tract` | 3,452 |",
        "| `category` | `anatomical_landmarks` | 4,104 |", "| `category` | `pathological_findings` | 2,642 |",
        "| `category` | `therapeutic_interventions` | 1,991 |", "| `category` | `quality_of_mucosal_views` | 1,925 |",
        "| `fold_2` | `fold_0` | 5,324 |", "| `fold_2` | `fold_1` | 5,338 |",
        *(f"| `fold_5` | `fold_{i}` | {'2,174' if i == 4 else '2,122'} |" for i in range(5)),
    ):  # fmt: skip
        assert fact in text
    assert front_matter(manifest)["size_categories"] == ["100K<n<1M"]


def official_summaries():
    """Summaries of files that hold the official numbers of rows, labels, folds, instances and boxes."""
    rest = {"fold_2": list(OFFICIAL.fold_2), "fold_5": list(OFFICIAL.fold_5)}
    cells = Counter()
    for label, finding in enumerate(TAXONOMY):
        for _ in range(finding.count):
            fold = [next(i for i, left in enumerate(rest[k]) if left) for k in rest]
            for k, i in zip(rest, fold):
                rest[k][i] -= 1
            cells[label, *fold] += 1
    summaries = {}
    for (label, fold_2, fold_5), images in sorted(cells.items()):
        finding = TAXONOMY[label]
        path = f"data/labeled/{finding.tract}/{finding.category}/fold2-{fold_2}_fold5-{fold_5}_{label:02}.parquet"
        summaries[path] = {
            "rows": images, "first": f"{label:02}", "sizes": [[640, 480, images]],
            "cells": [[label, fold_2, fold_5, images]], "examples": {str(label): [f"{label:02}"]},
        }  # fmt: skip
    cells = [[4, 0, 0, 1000]]
    shares = {"instance_shares": [0.1] * OFFICIAL.instances, "box_shares": [0.2] * OFFICIAL.boxes}
    maps = {name: [[1] * stats.GRID] * stats.GRID for name in ("mask_map", "box_map")}
    summaries["data/segmented/00.parquet"] = {
        "rows": 1000, "first": "s", "sizes": [[640, 480, 1000]], "cells": cells, "examples": {"one": ["s"]},
        "instances": [[1, 1000]], "boxes": [[1, 1000]], **shares, **maps, "overlaps": [1.0] * OFFICIAL.boxes,
        "boxes_by_fit": {"matched": OFFICIAL.boxes, "stretched": 0, "unmatched": 0}, "boxes_offset": 0,
        "boxes_at_edge": 0, "unboxed": 0, "encoders": [[True, 75, 1000]],
    }  # fmt: skip
    unlabeled = {"rows": OFFICIAL.unlabeled, "first": "u", "sizes": [[640, 480, OFFICIAL.unlabeled]]}
    return {**summaries, "data/unlabeled/00.parquet": unlabeled}


def one_of_each(folder):
    """The first row of each part, whatever image is asked for."""

    def example(part, image_id):
        return pq.read_table(min((folder / "data" / part).rglob("*.parquet"))).slice(0, 1).to_pylist()[0]

    return example


def test_real_segmented_part(real, tmp_path):
    """The numbers that are known of the true masks and boxes."""
    from scripts.build import main as build

    out = tmp_path / "out"
    assert build(["--source", str(real), "--out", str(out), "--config", "segmented", "--workers", "2"]) == 0
    summary = stats.summarise(str(out / "data/segmented/00.parquet"), "segmented")
    assert summary["instances"] == [[1, 952], [2, 41], [3, 5], [4, 1], [10, 1]]
    assert summary["boxes"] == [[1, 945], [2, 47], [3, 6], [4, 1], [10, 1]]
    assert summary["boxes_by_fit"] == {"matched": 1043, "stretched": 20, "unmatched": 8}
    assert (summary["boxes_offset"], summary["boxes_at_edge"]) == (974, 116)
    assert sum(images for jfif, quality, images in summary["encoders"] if jfif and quality < 90) == 982
    assert len(summary["sizes"]) == 333 and figures.size_range(summary) == (332, 1920, 352, 1072)


def test_summaries_add_up(carded):
    path = carded / LABELED
    whole = stats.summarise(str(path), "labeled")
    table = pq.read_table(path)
    pieces = []
    for i, piece in enumerate((table.slice(0, 2), table.slice(2))):
        pq.write_table(piece, path.with_suffix(f".{i}"))
        pieces.append(stats.summarise(str(path.with_suffix(f".{i}")), "labeled"))
        path.with_suffix(f".{i}").unlink()
    assert stats.merge(pieces) == stats.merge(pieces[::-1]) == whole
    assert json.loads(json.dumps(whole)) == whole


# ------------------------------------------------------------------------------------------------- what is in a folder


@pytest.mark.parametrize("parts", [["segmented"], ["unlabeled"], ["labeled"]])
def test_a_folder_of_some_parts(folder, parts):
    keep_parts(folder, *parts)
    shutil.rmtree(folder / "assets")
    assert main([str(folder)]) == 0
    text = readme(folder)
    body = text.split("---\n", 2)[2]
    assert not {"labeled", "segmented", "unlabeled"} - set(parts) & set(re.findall(r"^### `(\w+)`", body, re.MULTILINE))
    assert ("## Taxonomy" in body) == ("labeled" in parts) == (folder / "assets/class_balance.png").exists()
    assert ("## Masks and boxes" in body) == ("segmented" in parts) == (folder / "assets/polyps.jpg").exists()
    tasks = yaml.safe_load(text.split("---\n")[1])["task_categories"]
    assert ("image-classification" in tasks) == ("labeled" in parts)
    assert ("object-detection" in tasks) == ("segmented" in parts)
    assert set(re.findall(r"\(((?:assets/)?[\w.]+\.(?:png|jpg|md|json))\)", body)) <= set(tree(folder))


def test_an_incomplete_source_is_said(folder, undrawn):
    manifest = read_manifest(str(folder))
    manifest["complete"] = False
    write_card(str(folder), manifest)
    assert "**Incomplete.**" in readme(folder)


# -------------------------------------------------------------------------------------------------------------- lint


def spoiled(text, change):
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    change(metadata)
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{body}"


def test_lint_takes_the_card(carded):
    assert lint_card(readme(carded), list(read_manifest(str(carded))["files"])) == []


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda m: m.update(license="cc-by-9.0"), "license: the Hub knows no 'cc-by-9.0'"),
        (lambda m: m["task_categories"].append("image-classifying"), "task_categories: the Hub knows no"),
        (lambda m: m["task_ids"].append("semantic"), "task_ids: the Hub knows no 'semantic'"),
        (lambda m: m.update(size_categories=["100K"]), "size_categories: the Hub knows no '100K'"),
        (lambda m: m.update(annotations_creators=["doctors"]), "annotations_creators: the Hub knows no 'doctors'"),
        (lambda m: m.update(language="English"), "language: 'English' is not an ISO 639 code"),
        (lambda m: m.update(licence="mit"), "licence: not a key"),
        (lambda m: m["configs"].append(m["configs"][0]), "configs: 'labeled' stands 2 times"),
        (lambda m: m["configs"][1].update(default=True), "configs: more than one default: labeled, unlabeled"),
        (lambda m: m["configs"][1]["data_files"][0].update(path="data/x/*"), "unlabeled / train: no file at data/x/*"),
        (lambda m: m["configs"].pop(), "dataset_info: 'fold_5' is not in configs"),
    ],
)
def test_lint_finds(carded, change, problem):
    problems = lint_card(spoiled(readme(carded), change), list(read_manifest(str(carded))["files"]))
    assert any(problem in found for found in problems) and all(found.startswith("README.md: ") for found in problems)


@pytest.mark.parametrize("text", ["# No metadata\n", "---\nlicense: [\n---\n", "---\nword\n---\n"])
def test_lint_of_no_metadata(text):
    assert len(lint_card(text, [])) == 1 and len(check_card(text, {})) == 1


# ---------------------------------------------------------------------------------------------------------- the others


def test_croissant_validates_and_loads(carded):
    mlc = pytest.importorskip("mlcroissant")
    dataset = mlc.Dataset(str(carded / "croissant.json"), mapping={"repository": str(carded)})
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    described = json.loads((carded / "croissant.json").read_text())
    assert {name for name in described if name.startswith("rai:")} >= {"rai:dataBiases", "rai:dataLimitations"}
    sets = {record_set.uuid for record_set in dataset.metadata.record_sets}
    assert set(read_manifest(str(carded))["configs"]) <= sets
    for name in sets:
        records = [record for record, _ in zip(dataset.records(name), range(5))]
        assert len(records) == min(5, len(records)) > 0
        if name.startswith("classes-"):
            continue
        assert len(records) == 5
        assert {key.split("/")[1] for key in records[0]} - {"split"} == set(features_of(name))
        assert records[0][f"{name}/image"].size == (records[0][f"{name}/width"], records[0][f"{name}/height"])


def test_datasets_reads_the_card(carded):
    import datasets

    for config, splits in read_manifest(str(carded))["configs"].items():
        loaded = datasets.load_dataset(str(carded), config, streaming=True)
        assert list(loaded) == list(splits)
        builder = datasets.load_dataset_builder(str(carded), config)
        assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
            name: view["rows"] for name, view in splits.items()
        }
        assert builder.info.features == features_of(config)


def test_citation_and_changelog(carded):
    assert (carded / "CITATION.bib").read_text() == CITATION + "\n"
    cff = yaml.safe_load((carded / "CITATION.cff").read_text())
    assert cff["version"] == str(VERSION) and cff["preferred-citation"]["authors"] == cff["authors"]
    names = re.search(r"author\s*= \{(.*?)\},\n", CITATION, re.DOTALL)[1].replace(r"{\aa}", "å")
    authors = [f"{author['family-names']}, {author['given-names']}" for author in cff["authors"]]
    assert " ".join(names.split()) == " and ".join(authors)
    assert cff["preferred-citation"]["doi"] in CITATION and cff["preferred-citation"]["title"] in CITATION
    assert f"\n## {VERSION}\n" in (carded / "CHANGELOG.md").read_text()
