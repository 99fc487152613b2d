"""The card says what is in the files, and only that; the Hub, datasets and mlcroissant take it."""

import functools
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.colors import to_hex
from PIL import Image

from hyper_kvasir import (
    CITATION,
    FINDINGS,
    OFFICIAL,
    TAXONOMY,
    VERSION,
    VIEWS,
    features_of,
)
from scripts.card import main
from scripts.pipeline import card, configs, croissant, figures, leaks, stats
from scripts.pipeline.card import (
    TEXTS,
    builder_commit,
    card_files,
    card_key,
    folder_examples,
    front_matter,
    stale,
    write_card,
)
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.manifest import make_manifest, manifest_text, read_manifest
from tests.conftest import OBJECT_FACTS, sha256_of, tree
from tests.processes import sketch

# Of one worker, so that it draws the figures once.
pytestmark = pytest.mark.xdist_group("card")

SEGMENTED = "data/segmented/train_00.parquet"
LABELED = "data/labeled/lower-gi-tract/pathological-findings/fold2-0_fold5-0_00.parquet"


@pytest.fixture(scope="module", autouse=True)
def all_drawn(drawn):
    """This is about the figures, too."""


@pytest.fixture(scope="module")
def carded(built, tmp_path_factory):
    """The miniature with its card. Not to be changed: copy it."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("carded") / "folder")
    (folder / "README.md").unlink()  # has sketches
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture
def folder(carded, tmp_path):
    return shutil.copytree(carded, tmp_path / "folder")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures that take no time."""
    monkeypatch.setattr(figures, "draw", sketch)


@pytest.fixture(scope="module")
def official(carded):
    """(the manifest, {path: content}) of a card of the official counts, its figures not made into bytes."""
    summaries = official_summaries()
    entry = {"bytes": 1, "data_bytes": 1, "sha256": "0", "key": "0"}
    files = {path: {**entry, "rows": summary["rows"]} for path, summary in summaries.items()}
    manifest = make_manifest(list(read_manifest(str(carded))["configs"]), {}, files, 1)
    with pytest.MonkeyPatch.context() as patch:
        do_not_encode(patch)
        return manifest, card_files(manifest, summaries, one_of_each(carded), commit="1f2e3d")


@pytest.fixture
def unencoded(monkeypatch):
    """Figures that are laid out, and not made into bytes."""
    do_not_encode(monkeypatch)


def do_not_encode(patch):
    patch.setattr(figures, "_encoded", lambda canvas, kind: b"")


def readme(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def keep_parts(folder, *parts):
    """Leaves only some parts in a built folder, as if only they had been built."""
    manifest = read_manifest(str(folder))
    files = {path: entry for path, entry in manifest["files"].items() if path.split("/")[1] in parts}
    for path in set(manifest["files"]) - set(files):
        (folder / path).unlink()
    sources = {part: manifest["sources"][part] for part in parts}
    configs = [config for config in manifest["configs"] if VIEWS[config].part in parts]
    manifest = make_manifest(configs, sources, files, 1)
    (folder / "manifest.json").write_text(manifest_text(manifest))
    return manifest


def rewrite(folder, path, change):
    """Stores `change` of the rows of a file, the manifest following."""
    table = pq.read_table(folder / path)
    changed = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    pq.write_table(changed, folder / path, compression="none")
    manifest = json.loads((folder / "manifest.json").read_text())
    size, sha256 = (folder / path).stat().st_size, sha256_of(folder / path)
    manifest["files"][path].update(rows=changed.num_rows, bytes=size, sha256=sha256)
    manifest = {
        **make_manifest(list(manifest["configs"]), manifest["sources"], manifest["files"], manifest["schema"]),
        "card": manifest["card"],
    }
    (folder / "manifest.json").write_text(manifest_text(manifest))


def drop_rows(folder, path, rows):
    """Takes rows off the end of a stored file; returns their labels."""
    labels = pq.read_table(folder / path)["label"].to_pylist()
    rewrite(folder, path, lambda stored: stored[:-rows])
    return labels[-rows:]


def table(text, head):
    """The rows of the card's table that has this line above them, as lists of cells."""
    lines = text.split(f"\n{head}\n", 1)[1].splitlines()[1:]
    cells = []
    for line in lines:
        if not line.startswith("|"):
            return cells
        cells.append([cell.strip(" `") for cell in line.strip("|").split("|")])


def number(text):
    return int(text.replace(",", ""))


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
        assert sha256_of(carded / path) == entry["sha256"]
    text = readme(carded)
    assert all(f"]({path})" in text for path in manifest["card"]["files"] if path.startswith("assets/"))
    assert not re.search(r"!\[\]|\bNone\b|undefined|More [Ii]nformation [Nn]eeded", text)
    assert len(re.findall(r"\n!\[[^\]]+\]\(assets/\S+\)\n\n\*[^*\n]+\*\n", text)) == 8, "each with a caption"
    assert stale(str(carded), manifest) == []


@pytest.mark.slow
def test_the_same_bytes_again(carded):
    manifest = read_manifest(str(carded))
    summaries = stats.collect(str(carded), manifest, {})
    files = card_files(manifest, summaries, folder_examples(str(carded), summaries), commit=manifest["card"]["commit"])
    assert all((carded / path).read_bytes() == data for path, data in files.items())


def test_nothing_to_do_writes_nothing_and_reads_no_data(folder, monkeypatch):
    monkeypatch.setattr(stats, "collect", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_only_a_changed_file_is_read_again(folder, monkeypatch, undrawn):
    drop_rows(folder, LABELED, 1)
    read, summarize = [], stats.summarize
    monkeypatch.setattr(stats, "summarize", lambda path, part: read.append(path) or summarize(path, part))
    assert main([str(folder)]) == 0
    assert [Path(path) for path in read] == [folder / LABELED]


def test_a_card_without_the_files(carded, unencoded):
    """An incremental publication has the summaries and a way to get single rows, not the unchanged files."""
    manifest, summaries = read_manifest(str(carded)), stats.read_stats(str(carded))
    rows = []

    def example(part, image_id):
        rows.append((part, image_id))
        return folder_examples(str(carded), summaries)(part, image_id)

    files = card_files(manifest, summaries, example, repo_id="someone/hyper-kvasir")
    assert b'load_dataset("someone/hyper-kvasir", "tract")' in files["README.md"]
    assert b"ns/hyper-kvasir" not in files["README.md"] + files["croissant.json"]
    assert Counter(part for part, _ in set(rows))["labeled"] == len(FINDINGS)


@pytest.mark.parametrize("change", ["edited", "missing", "data", "schema", "repo", "none"])
def test_stale(folder, change, undrawn, monkeypatch):
    manifest = read_manifest(str(folder))
    if change == "edited":
        (folder / "README.md").write_text(readme(folder).replace("7", "8", 1))
    elif change == "missing":
        (folder / "assets/sizes.png").unlink()
    elif change == "data":
        drop_rows(folder, LABELED, 1)
        manifest = read_manifest(str(folder))
    elif change == "schema":
        monkeypatch.setattr(card, "SCHEMA", card.SCHEMA + 1)
    elif change == "none":
        del manifest["card"]
    problems = stale(str(folder), manifest, *(["someone/else"] if change == "repo" else []))
    assert len(problems) == 1 and "python -m scripts.card" in problems[0]
    if change != "repo":
        assert stale(str(folder), write_card(str(folder), manifest)) == []


def test_a_false_number_of_the_same_length_is_put_right(folder, undrawn, capsys):
    (folder / "README.md").unlink()
    main([str(folder)])
    manifest, true = read_manifest(str(folder)), readme(folder)
    (folder / "README.md").write_text(true.replace("| `labeled` | 137 |", "| `labeled` | 138 |"))
    assert readme(folder) != true and len(readme(folder)) == len(true)
    capsys.readouterr()
    assert main([str(folder)]) == 0
    assert readme(folder) == true and read_manifest(str(folder)) == manifest
    said = capsys.readouterr().err
    assert said.splitlines()[0] == "written: README.md" and "card of 15 files, 1 rewritten, 0 problems" in said
    assert main([str(folder)]) == 0
    assert "written:" not in (said := capsys.readouterr().err) and "card of 15 files, up to date, 0 problems" in said


def test_what_the_card_has_no_more_is_removed(folder, undrawn, capsys):
    keep_parts(folder, "unlabeled")
    manifest = read_manifest(str(folder))
    (folder / "extra.md").write_text("")
    manifest["card"] = {"key": "0", "files": {"extra.md": {"bytes": 0, "sha256": "0"}}}
    (folder / "manifest.json").write_text(manifest_text(manifest))
    assert main([str(folder)]) == 0
    assert not (folder / "extra.md").exists() and "removed: extra.md" in capsys.readouterr().err


def test_the_commit_of_the_builder(folder, monkeypatch, undrawn, tmp_path):
    """It is in the manifest and the card, and a card that is not stale keeps it."""
    monkeypatch.setattr("scripts.pipeline.card.builder_commit", lambda: "0123abc-dirty")
    manifest = write_card(str(folder), {**read_manifest(str(folder)), "complete": False})
    assert manifest["card"]["commit"] == "0123abc-dirty" and "commit of the builder: `0123abc-dirty`" in readme(folder)
    monkeypatch.setattr("scripts.pipeline.card.builder_commit", lambda: None)
    (folder / "README.md").unlink()
    assert write_card(str(folder), manifest) == manifest and "`0123abc-dirty`" in readme(folder)
    manifest = write_card(str(folder), {**manifest, "complete": True})
    assert manifest["card"]["commit"] is None and "commit of the builder: unknown" in readme(folder)
    assert builder_commit() is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", builder_commit())
    monkeypatch.setattr("scripts.pipeline.card.PROJECT", tmp_path)
    assert builder_commit() is None, "never that of a repository around the project"


def test_key_depends_on_data_texts_and_schemas(carded, tmp_path, monkeypatch):
    manifest = read_manifest(str(carded))
    key = card_key(manifest)
    texts = shutil.copytree(TEXTS, tmp_path / "texts")
    monkeypatch.setattr("scripts.pipeline.card.TEXTS", texts)
    (texts / "CHANGELOG.md").write_text("# Changelog\n\n## 9.9.9\n")  # every version adds to it
    assert card_key(manifest) == key
    (texts / "rai.yaml").write_text("rai: {}")
    keys = {key, card_key(manifest), card_key(manifest, "a/b"), card_key({**manifest, "complete": False})}
    for module in (card, stats):
        monkeypatch.setattr(module, "SCHEMA", module.SCHEMA + 1)
        keys.add(card_key(manifest))
    assert len(keys) == 6


def test_key_does_not_depend_on_the_bytes_of_code(carded, monkeypatch):
    manifest = read_manifest(str(carded))
    key = card_key(manifest)
    for module in (card, croissant, figures, stats):
        monkeypatch.setattr(module, "__file__", "nowhere")
    assert card_key(manifest) == key


# card.SCHEMA, and what `test_other_files_count_the_schema_up` makes of the fixed inputs
DIGEST = 3, "d838af63065ea3414ae045e677a37ecd25dfa6979d07bdbad03a22af16474daa"


FIGURES_DIGEST = "e31c14ced523b41ea1538ffb2d04f25cc50e75860a464dd0e5dc7663875b1a30"


def test_other_figures_count_the_schema_up():
    """The code stands in for the pixels."""
    made = hashlib.sha256(Path(figures.__file__).read_bytes()).hexdigest()
    assert made == FIGURES_DIGEST, (
        "figures.py differs: increment SCHEMA in card.py if the same data give other figures; then update this digest; "
        f"got {made}"
    )


def test_other_files_count_the_schema_up(official, carded, monkeypatch):
    """All that goes into the card's files but the texts, which count by their content, and the figures."""
    metadata = yaml.safe_load((TEXTS / "metadata.yaml").read_text(encoding="utf-8")) | {"claims": {}}
    monkeypatch.setattr(card, "_metadata", lambda: without_texts(metadata))
    do_not_encode(monkeypatch)
    summaries = official_summaries() | {leaks.METADATA_FILE: metadata_summary()}
    files = official[0]["files"] | {leaks.METADATA_FILE: {"bytes": 1, "data_bytes": 1, "sha256": "0", "rows": 2}}
    manifest = make_manifest([*official[0]["configs"], configs.METADATA], {}, files, 1)
    manifest, parts = {**manifest, "version": "1.0.0", "versions": {}}, stats.by_part(summaries)
    drawn = figures.draw(parts, one_of_each(carded))
    context = card._context(manifest, parts, drawn, a_row, repo_id="ns/name", commit="1f2e3d")
    described = croissant.croissant_text(
        manifest, card._metadata(), {"description": "", "rai": {}}, repo_id="ns/name", version="1.0.0"
    )
    filters = "{{ 43600000 | size }} {{ 0.00001 | percent }} {{ 1071 | n }} {{ ['a', 'b', 'c'] | words }}"
    words = card._templates().from_string(filters).render()
    context["leaks"] = repr(context["leaks"])  # its keys are not JSON's
    text = json.dumps([context, front_matter(manifest), described, words], default=repr)
    made = card.SCHEMA, hashlib.sha256(text.encode()).hexdigest()
    assert made == DIGEST, (
        "the card's files differ: increment SCHEMA in card.py, unless inputs of card_key differ too (columns, views); "
        f"then update this digest; got {made}"
    )


def without_texts(value):
    if isinstance(value, dict):
        return {key: without_texts(inner) for key, inner in value.items()}
    return [without_texts(inner) for inner in value] if isinstance(value, list) else ""


def a_row(part, image_id):
    """A stored row, the same always: generated images may change with their generator."""
    picture = png(np.zeros((2, 3)))
    boxes = {"id": [0], "bbox": [[0.0, 0.0, 3.0, 2.0]], "area": [6.0], "category": [0]}
    columns = {"image": picture, "mask": picture, "instances": picture, "image_id": image_id, "objects": boxes}
    columns |= {"label": 4, "category": 1, "tract": 0, "fold_2": 1, "fold_5": None, "width": 3, "height": 2}
    return {name: columns.get(name) for name in configs.features_of(part)}  # most of metadata may be null


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
    objects = pq.read_table(carded / "data/segmented")["objects"].to_pylist()
    assert f"and {sum(len(o['id']) for o in objects)} boxes" in text
    assert "Not the official numbers" in text and "labeled images: 137 here, officially 10,662;" in text
    for claim in ("254 groups", "982 are JFIF", "18 pairs show", "On a copy", "Of the official archives:"):
        assert claim not in text, "of the official archives, which these are not"


@pytest.mark.slow
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


def test_numbers_of_objects_change_with_the_data(folder, undrawn):
    """A box less, of the image that is first; numbers of all kinds follow."""
    before = stats.read_stats(str(folder))[SEGMENTED]

    def without_a_box(rows):
        i = next(i for i, row in enumerate(rows) if len(row["objects"]["id"]) == 1)
        rows[i]["objects"] = {name: [] for name in rows[i]["objects"]}
        return rows

    rewrite(folder, SEGMENTED, without_a_box)
    assert main([str(folder)]) == 0
    text, after = readme(folder), stats.read_stats(str(folder))[SEGMENTED]
    boxes = len(before["box_shares"]) - 1
    assert len(after["box_shares"]) == len(after["overlaps"]) == sum(after["boxes_by_fit"].values()) == boxes
    assert after["unboxed"] == before["unboxed"] + 1 and after["boxes"][0] == [0, 1]
    assert np.sum(after["box_map"]) < np.sum(before["box_map"]) and after["mask_map"] == before["mask_map"]
    assert f"and {boxes} boxes" in text and f"- Instances without a matching box: {after['unboxed']}." in text
    assert "- Boxes in an image: 0 in 1 image, " in text
    assert table(text, SHARES)[1][:2] == ["Boxes", str(boxes)]


SHARES = "| | number | smallest share of the image | median | largest |"


def test_no_number_of_the_dataset_is_typed():
    """The texts compute; only constants of the process and names that hold digits are typed."""
    names = r"\d-fold|fold_5_grouped|\bcv2\b|\d_fold_split|sha256|8-connected|CC BY 4\.0|2\.21|float32|\bv2\b"
    process = r"gray value of 128( into 0 and 255)?|0 background|255 polyp|1 to n|from 0|> 0|x 4:|\)\[0\]"
    arguments = r"\(\d+, \d+\)|shape\[\d\]|(seed|buffer_size|batch_size|num_workers)=\d+"
    words = r"(?i)\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|hundred|thousand)\b"
    metadata = yaml.safe_load((TEXTS / "metadata.yaml").read_text(encoding="utf-8"))
    for name in FINDINGS:  # grades are in the names of findings
        meaning = re.findall(r"\d", metadata["findings"][name])
        assert set(meaning) <= set(re.findall(r"\d", name)), name
    texts = {
        **{name: (TEXTS / name).read_text(encoding="utf-8") for name in ("card.md.j2", "datasheet.md", "rai.yaml")},
        "metadata.yaml": " ".join(
            text for k in ("columns", "segmented_columns", "categories") for text in metadata[k].values()
        ),
    }
    for name, text in texts.items():
        text = re.sub(r"{{.*?}}|{%.*?%}|https?://\S+|^#.*", "", text, flags=re.MULTILINE)
        text = re.sub(f"{names}|{process}|{arguments}", "", text)
        assert re.findall(r"\S*\d\S*", text) + [m[0] for m in re.finditer(words, text)] in ([], ["two"]), name


def test_full_counts_are_the_official_ones(official):
    """A manifest and summaries of the official counts give the official numbers, to the last digit."""
    manifest, files = official
    text = files["README.md"].decode()
    assert "Not the official numbers" not in text and "Incomplete" not in text
    assert taxonomy(text) == OFFICIAL.findings
    assert check_card(text, manifest) == []
    assert [(cells[0], number(cells[1])) for cells in table(text, "| category | images | what it holds |")] == [
        ("anatomical-landmarks", 4104), ("pathological-findings", 2642),
        ("therapeutic-interventions", 1991), ("quality-of-mucosal-views", 1925),
    ]  # fmt: skip
    tracts = [(cells[0], number(cells[1])) for cells in table(text, "| tract | images |")]
    assert tracts == [("lower-gi-tract", 7210), ("upper-gi-tract", 3452)]
    for fact in (
        "| `labeled` | 10,662 | 23 findings in 4 categories and 2 tracts",
        "| `segmented` | 1,000 | polyps with a mask, 1,063 instances and 1,071 boxes; the images are also in `labeled`",
        "| `unlabeled` | 99,417 |",
        "| `tract` | `lower_gi_tract` | 7,210 |", "| `tract` | `upper_gi_tract` | 3,452 |",
        "| `category` | `anatomical_landmarks` | 4,104 |", "| `category` | `pathological_findings` | 2,642 |",
        "| `category` | `therapeutic_interventions` | 1,991 |", "| `category` | `quality_of_mucosal_views` | 1,925 |",
        "| `fold_2` | `fold_0` | 5,324 |", "| `fold_2` | `fold_1` | 5,338 |",
        *(f"| `fold_5` | `fold_{i}` | {'2,174' if i == 4 else '2,122'} |" for i in range(5)),
        "the largest finding has 191 times the images of the smallest", "from 6 to 1,148",
        *OBJECT_FACTS,
        "- Instances without a matching box: 21.",
        "| Instances | 1,063 | 0.2% | 10.0% | 81.2% |", "| Boxes | 1,071 | 0.001% | 15.0% | 99.8% |",
        "up to 51.0% by mask, up to 61.0% by box", "the median is 0.97.",
        "- `labeled`: 23 different sizes, widths of 640 to 662 and heights of 480 to 480 pixels.",
        "- `segmented`: 2 different sizes, widths of 332 to 1,920 and heights of 352 to 1,072 pixels.",
        "Most common: 1,920 × 352 (600 images), 332 × 1,072 (400 images).",
        "- `unlabeled`: 1 different size, widths of 720 to 720 and heights of 576 to 576 pixels.",
        "commit of the builder: `1f2e3d`",
    ):  # fmt: skip
        assert fact in text, fact
    sheet = files["datasheet.md"].decode()
    assert "10,662 labeled. 1,000 segmented, all of which are labeled too. 99,417 unlabeled." in sheet
    described = json.loads(files["croissant.json"])
    assert described["description"].endswith(
        ": 10,662 labeled images of 23 findings, 1,000 polyps with masks and bounding boxes, 99,417 unlabeled images."
    )
    assert "Classes are imbalanced, from 6 to 1,148 images." in described["rai:dataLimitations"][0]
    assert described["rai:dataLimitations"][2] == "28 of 1,071 boxes match no component of their mask."
    assert described["rai:dataBiases"][1].startswith(
        "982 of 1,000 segmented polyps are JFIF files of quality 90 or less"
    )
    assert front_matter(manifest)["size_categories"] == ["100K<n<1M"]
    alts = dict((name, alt) for alt, name in re.findall(r"!\[(.*?)\]\(assets/(\w+)\.", text))
    for name, words in {
        "findings": "each of 23 findings",
        "class_balance": "from 1,148 of bbps-2-3 down to 6 of hemorrhoids",
        "folds": "each of 23 findings in the 2 folds of the 2-fold split and the 5 folds of the 5-fold split",
        "objects": "1,063 polyp instances (median 10.0%) and 1,071 boxes (median 15.0%) take. Right: number of objects "
        "in an image, up to 10",
        "heat_maps": "the densest place is covered in 61% of the images",
        "agreement": "1,071 boxes with their mask component, median 0.97. Right: 1,043 boxes match a component, 20 are "
        "stretched to the corner of the image, 8 match no component",
        "sizes": "segmented 332 to 1,920 by 352 to 1,072 pixels",
    }.items():
        assert words in alts[name]


def test_sizes_of_parts_are_those_of_the_files(carded):
    text = readme(carded)
    for part in ("labeled", "segmented", "unlabeled"):
        files = list((carded / "data" / part).rglob("*.parquet"))
        size = sum(file.stat().st_size for file in files)
        assert f"`{part}` takes {size / 1000:,.1f} kB in {len(files)} file" in text
    for cells in table(text, "| config | split | rows | files |"):
        count, pattern = cells[3].split(": `")
        assert number(count) == len(list(carded.glob(pattern)))


def test_the_most_uneven_fold():
    """Of the finding, split and fold that is farthest above an even share."""
    from scripts.pipeline.card import _most_uneven

    cells = [[0, 0, 0, 6], [0, 1, 1, 4], [1, 0, 4, 1], [1, 1, 4, 2], [1, 1, 0, 1], [2, None, None, 9]]
    assert _most_uneven({"cells": cells}) == {
        "finding": FINDINGS[1], "split": "fold_5", "fold": "fold_4", "images": 3, "of": 4, "ratio": 3.75
    }  # fmt: skip
    assert _most_uneven({"cells": [[0, None, None, 5]]}) is None


# ---------------------------------------------------------------------------------------------------------- its words


def test_nothing_that_a_card_needs_is_missing(official):
    text, sheet = official[1]["README.md"].decode(), official[1]["datasheet.md"].decode()
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "Use", "Structure", "Taxonomy", "Masks and boxes", "Image sizes", "How it was made", "Known quirks",
        "Leakage, and what is known about patients", "What the source says", "License",
        "Ethics, intended use and misuse", "Citation", "Provenance",
    ]  # fmt: skip
    for config in official[0]["configs"]:
        assert f'load_dataset("ns/hyper-kvasir", "{config}")' in text and f"| `{config}`" in text
    for words in (
        "streaming=True", f'revision="v{VERSION}"', "for held_out in folds", "DataLoader(",
        'np.asarray(row["mask"]) > 0', "tv_tensors.Mask(",
        "tv_tensors.BoundingBoxes(", f'"hf://datasets/ns/hyper-kvasir@v{VERSION}/', "duckdb.sql(",
        "polars.read_parquet(", "cju_to_uuid.csv", "All labeled images: 23 findings",
        "license the data under CC BY 4.0", "still asks for written permission for competitions and commercial use",
        "**Meant for**", "**Not for**", "neighboring frames", "carry burned-in dates and\ntimes",
        "leave out the ids they share", CITATION, "Kvasir-SEG: A Segmented Polyp Dataset", "254 groups",
    ):  # fmt: skip
        assert words in text, words
    for heading in ("Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance"):
        assert f"\n## {heading}" in sheet
    assert not re.search(r"[Ss]ee the (paper|acknowledgements)", sheet)


def test_python_in_the_card_is_python(official):
    blocks = re.findall(r"```python\n(.*?)```", official[1]["README.md"].decode(), re.DOTALL)
    assert len(blocks) >= 9
    for block in blocks:
        compile(block, "README.md", "exec")


def test_a_row_is_shown_as_datasets_gives_it(carded):
    import datasets

    text = readme(carded)
    for part in ("labeled", "segmented", "unlabeled"):
        shown = re.search(rf"### `{part}`.*?```text\n(.*?)```", text, re.DOTALL)[1]
        rows = datasets.load_dataset(str(carded), part, split="train", streaming=True)
        least = min(rows, key=lambda row: row["image_id"])
        for name, value in least.items():
            value = re.sub(r" at 0x\w+", "", repr(value))
            assert f"    {name!r}: {value}," in shown


def test_what_only_the_source_can_know_is_marked(official):
    files = {path: official[1][path].decode() for path in ("README.md", "datasheet.md")}
    described = json.loads(official[1]["croissant.json"])
    texts = [text for name in described if name.startswith("rai:") for text in as_list(described[name])]
    for text in files.values():
        texts += re.split(r"\n\n|\n- ", text.split("---\n")[-1])
    told = [text for text in texts if re.search("hospital", text, re.IGNORECASE)]
    assert len(told) >= 6
    for text in told:
        sentences = [sentence for sentence in re.split(r"(?<=\.) (?=[A-Z])", text) if "hospital" in sentence.lower()]
        assert re.search(r"\[source\]|\(paper|[Aa]ccording to the (source|paper)", text), sentences
    assert "published results are compared" not in files["README.md"]


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_punctuation(official, carded):
    for files in (official[1], {path: (carded / path).read_bytes() for path in official[1] if path.endswith(".md")}):
        for path in ("README.md", "datasheet.md", "croissant.json"):
            text = re.sub(r"```.*?```", "", files.get(path, b"").decode(), flags=re.DOTALL)
            assert not re.search(r" [.,;](\s|\"|$)|,\.|\.\.\s|:\s*\.", text), path


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
            "rows": images, "first": f"{label:02}", "sizes": [[640 + label, 480, images]],
            "cells": [[label, fold_2, fold_5, images]], "examples": {str(label): [f"{label:02}"]},
        }  # fmt: skip
    cells = [[4, 0, 0, 1000]]
    shares = {
        "instance_shares": [0.00187] + [0.1] * (OFFICIAL.instances - 2) + [0.8124],
        "box_shares": [0.0000123] + [0.15] * (OFFICIAL.boxes - 2) + [0.998],
    }
    maps = {"mask_map": [[1, 510], [2, 3]], "box_map": [[4, 5], [610, 6]]}
    summaries["data/segmented/train_00.parquet"] = {
        "rows": 1000, "first": "s", "sizes": [[332, 1072, 400], [1920, 352, 600]], "cells": cells,
        "examples": {"one": ["s"], "several": ["t"]}, "stretched": [[0.5, "u"]],
        "instances": [[1, 952], [2, 41], [3, 5], [4, 1], [10, 1]],
        "boxes": [[1, 945], [2, 47], [3, 6], [4, 1], [10, 1]], **shares, **maps,
        "overlaps": [0.01] * 8 + [0.6] * 20 + [0.97] * 1043,
        "boxes_by_fit": {"matched": 1043, "stretched": 20, "unmatched": 8}, "boxes_offset": 974,
        "boxes_at_edge": 116, "unboxed": 21, "encoders": [[False, 99, 14], [True, 75, 982], [True, 95, 4]],
    }  # fmt: skip
    unlabeled = {"rows": OFFICIAL.unlabeled, "first": "u", "sizes": [[720, 576, OFFICIAL.unlabeled]]}
    return {**summaries, "data/unlabeled/00.parquet": unlabeled}


def metadata_summary():
    """The summary of metadata of two images of one frame, on different sides of all official splits."""
    evidence = dict.fromkeys(("matches", "inliers", "log10_chance", "correlation", "scale", "transform"), [1])
    none = {name: [] for name in ("image_id", "kind", "mask_iou", *evidence)}
    found = {"image_id": ["b"], "kind": [0], "mask_iou": [0.9], **evidence}
    rows = [
        {
            **{"image_id": image_id, "parts": ["labeled", "segmented"], "label": label, "pairs": some},
            **{"fold_2": side, "fold_5": side, "kvasir_seg_set": ("train", "validation")[side]},
            **{"fold_2_grouped": 0, "fold_5_grouped": 0, "kvasir_seg_clean": ("train", None)[side]},
            **dict.fromkeys(leaks.GROUPS.values(), "a"),
            **{"width": 600, "height": 500, "jfif": bool(side), "quality": 90, "subsampling": "4:2:0"},
        }
        for side, (image_id, label, some) in enumerate((("a", 4, found), ("b", 5, none)))
    ]
    return {"rows": len(rows), "first": "a", "sizes": [[600, 500, 2]], **leaks.count(rows)}


def one_of_each(folder):
    """The first row of each part, whatever image is asked for."""

    @functools.cache
    def first(part):
        return pq.read_table(min((folder / "data" / part).rglob("*.parquet"))).slice(0, 1).to_pylist()[0]

    return lambda part, image_id: first(part)


def test_how_boxes_fit():
    """Of an image 60 wide and 50 high with components at (10, 10) and (30, 30), both 10 wide and high."""
    components = [(10, 10, 20, 20), (30, 30, 40, 40)]
    boxes = [(9, 9, 20, 20), (28, 32, 38, 42), (0, 0, 20, 20), (27, 30, 40, 40), (56, 2, 60, 4), (31, 31, 41, 50)]
    fits = stats.compare_boxes(boxes, components, (50, 60))
    assert [fit.kind for fit in fits] == ["matched", "matched", "stretched", "unmatched", "unmatched", "unmatched"]
    assert [fit.component for fit in fits] == [0, 1, 0, 1, 0, 1]
    assert [fit.offset for fit in fits] == [True] + [False] * 5
    assert [fit.at_edge for fit in fits] == [False] * 4 + [True] * 2
    assert [fit.overlap for fit in fits[:3]] == pytest.approx([100 / 121, 64 / 136, 1 / 4])
    assert stats.matched_components(fits) == {0, 1} and stats.matched_components(fits[1:]) == {1}
    assert stats.compare_boxes([(0, 0, 1, 1)], [], (50, 60)) == [stats.Fit(None, 0.0, "stretched", False, False)]


@pytest.mark.parametrize("path", [LABELED, SEGMENTED])
def test_summaries_add_up(carded, path):
    path, part = carded / path, path.split("/")[1]
    whole = stats.summarize(str(path), part)
    table = pq.read_table(path)
    pieces = []
    for i, piece in enumerate((table.slice(0, 2), table.slice(2))):
        pq.write_table(piece, path.with_suffix(f".{i}"))
        pieces.append(stats.summarize(str(path.with_suffix(f".{i}")), part))
        path.with_suffix(f".{i}").unlink()
    assert stats.merge(pieces) == stats.merge(pieces[::-1]) == whole
    assert json.loads(json.dumps(whole)) == whole


# ------------------------------------------------------------------------------------------------------- its figures


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "x.png"}


@pytest.fixture(scope="module")
def segmented():
    return official_summaries()[SEGMENTED]


def test_polyps_are_drawn_where_they_are(segmented):
    """A gray image 30 wide and 20 high with two instances and a box, which are all off the diagonal."""
    instances = np.zeros((20, 30), np.uint8)
    instances[2:6, 20:28], instances[15, 3] = 1, 2
    row = {
        "image": png(np.full((20, 30, 3), 100)),
        "mask": png((instances > 0) * 255),
        "instances": png(instances),
        "objects": {"bbox": [[19.0, 1.0, 9.0, 5.0]]},
    }
    drawing = figures.polyps(segmented, lambda part, image_id: row)
    columns = np.array(drawing.canvas.axes).reshape(4, 3)  # one of one polyp, of several, and the stretched one
    assert [axis.get_ylabel() for axis in columns[:, 0]] == ["image", "mask", "instances", "boxes"]
    plain, masked, numbered, boxed = columns[:, 0]
    pixels = [axis.images[0].get_array() for axis in (plain, masked, numbered, boxed)]
    assert (pixels[0] == 100).all() and (pixels[3] == 100).all()
    assert np.array_equal(pixels[1] > 100, np.repeat((instances > 0)[:, :, None], 3, axis=2))
    changed = (pixels[2] != 100).any(axis=2)
    assert np.array_equal(changed, instances > 0) and (pixels[2][3, 22] != pixels[2][15, 3]).any()
    assert [(text.get_text(), *np.round(text.get_position(), 1)) for text in numbered.texts] == [
        ("1", 24.0, 4.0), ("2", 3.6, 15.5)
    ]  # fmt: skip
    for axis, dark_and_light in ((masked, 2), (numbered, 4)):
        ends = [path.get_extents() for line in axis.collections for path in line.get_paths()]
        assert len(axis.collections) == dark_and_light
        assert max(end.x1 for end in ends) == pytest.approx(28, abs=0.6)
        assert min(end.y0 for end in ends) == pytest.approx(2, abs=0.6)
    boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in boxed.patches]
    assert boxes == [(19, 1, 9, 5)] * 2
    assert boxed.get_xlim()[0] < 0 and boxed.get_xlim()[1] > 30, "lines at the edge are seen whole"


def test_every_finding_is_shown_in_the_frame_of_its_category(carded):
    parts = stats.by_part(stats.read_stats(str(carded)))
    drawing = figures.findings(parts["labeled"], one_of_each(carded))
    frames = {}
    for axis in drawing.canvas.axes:
        if axis.images:
            frames[axis.get_title().replace("-\n", "-")] = to_hex(axis.patches[0].get_edgecolor()).upper()
    assert frames == {f.name: figures.CATEGORY_COLORS[f.category] for f in TAXONOMY}


def test_class_balance_and_folds_show_the_counts(official):
    labeled = stats.by_part(official_summaries())["labeled"]
    bars = {}
    for axis in figures.class_balance(labeled).canvas.axes:
        names = [label.get_text() for label in axis.get_yticklabels()]
        bars |= dict(zip(names, (bar.get_width() for bar in axis.patches)))
        assert [number(text.get_text().strip()) for text in axis.texts] == [bars[name] for name in names]
    assert bars == OFFICIAL.findings
    axis, bar = figures.folds(labeled).canvas.axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    counts = np.array([number(text.get_text()) for text in axis.texts if text.get_text()[:4] != "fold"]).reshape(-1, 7)
    assert counts.sum(axis=0).tolist() == [*OFFICIAL.fold_2, *OFFICIAL.fold_5]
    wanted = [[OFFICIAL.findings[name] / k for k in (2, 2, 5, 5, 5, 5, 5)] for name in names]
    assert np.allclose(axis.images[0].get_array(), counts / wanted)
    assert axis.images[0].colorbar.extend == "max", "a share beyond the scale is not drawn as one within"


def test_sizes_are_counted_in_their_cells():
    parts = stats.by_part(official_summaries())
    drawing = figures.sizes(parts)
    axes = drawing.canvas.axes[:3]
    for axis, summary in zip(axes, parts.values()):
        cells = axis.collections[0].get_array()
        assert cells.sum() == summary["rows"]
    across, down = figures._cell_edges(332, 1920), figures._cell_edges(352, 1072)
    cells = axes[1].collections[0].get_array().filled(0)
    rows, columns = np.nonzero(cells)
    found = {(across[column] // 64, down[row] // 64): cells[row, column] for row, column in zip(rows, columns)}
    assert found == {(332 // 64, 1072 // 64): 400, (1920 // 64, 352 // 64): 600}


def test_objects_are_all_in_the_histograms(segmented):
    areas, numbers = figures.objects(segmented).canvas.axes
    outlines = {text.get_text(): patch for text, patch in zip(areas.get_legend().get_texts(), areas.patches[1::2])}
    assert list(outlines) == ["instances (1,063)", "boxes (1,071)"]
    for patch, key in zip(outlines.values(), ("instance_shares", "box_shares")):
        edges, heights = np.unique(patch.get_xy()[:, 0]), patch.get_xy()[:, 1]
        assert edges[0] <= min(segmented[key]) and edges[-1] >= max(segmented[key])
        assert heights[::2][:-1].sum() == len(segmented[key]) or heights[1::2].sum() == len(segmented[key])
    drawn = [bar.get_height() for bar in numbers.patches]
    assert drawn == [952, 41, 5, 1, 0, 0, 0, 0, 0, 1, 945, 47, 6, 1, 0, 0, 0, 0, 0, 1]


def test_heat_maps_show_shares_of_images_the_right_way_round(segmented):
    masks, boxes, _ = figures.heat_maps(segmented).canvas.axes
    for axis, title, key in ((masks, "Polyp masks", "mask_map"), (boxes, "Polyp boxes", "box_map")):
        shown = axis.images[0]
        assert axis.get_title() == title and shown.origin == "upper"
        assert np.array_equal(shown.get_array(), np.array(segmented[key]) / 1000)
        assert (shown.cmap.name, shown.get_clim()) == ("cividis", (0, 0.61))


def test_agreement_shows_the_fits(segmented):
    overlaps, fits = figures.agreement(segmented).canvas.axes
    heights = [bar.get_height() for bar in overlaps.patches]
    assert (heights[0], heights[-2], sum(heights)) == (8, 1043, 1071)
    assert [label.get_text().split()[0] for label in fits.get_yticklabels()] == ["match", "stretched", "match"]
    assert [bar.get_width() for bar in fits.patches] == [1043, 20, 8]


def test_figures_are_as_wide_as_a_card_shows_them(carded):
    for path in (carded / "assets").iterdir():
        with Image.open(path) as image:
            assert image.width == figures.WIDTH * figures.DPI


# ------------------------------------------------------------------------------------------------- what is in a folder


@pytest.mark.parametrize("parts", [["segmented"], ["unlabeled"], ["labeled"]])
def test_a_folder_of_some_parts(folder, parts, unencoded):
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
    assert "checked against `image-labels.csv`" in readme(folder) and "was left out" in readme(folder)
    manifest = read_manifest(str(folder))
    manifest["complete"] = False
    write_card(str(folder), manifest)
    text = readme(folder)
    assert "**Incomplete.**" in text and "Its checks were off" in text and "What the source lacked is missing." in text
    assert not re.search("checked (against|them whole)|left out\\.|the official archives and", text)


@pytest.mark.parametrize(
    "change, known, told",
    [
        ({}, "| the official archive |", True),
        ({"sha256": "0"}, "| the official content in another container |", True),
        ({"sha256": "0", "content": "0"}, "| other than the official archive |", False),
    ],
)
def test_claims_of_the_official_archives_are_for_them_alone(official, carded, undrawn, change, known, told):
    file = "hyper-kvasir-segmented-images.zip"
    source = {"file": file, **OFFICIAL.sources[file], "content": OFFICIAL.segmented_content, **change}
    manifest = {**official[0], "sources": {"segmented": source}}
    text = card_files(manifest, official_summaries(), one_of_each(carded))["README.md"].decode()
    assert known in text and ("254 groups" in text) == ("bytes of the official archives" in text) == told


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
        (lambda m: m["configs"].append(m["configs"][0]), "configs: 'labeled' is listed 2 times"),
        (lambda m: m["configs"][1].update(default=True), "configs: more than one default: labeled, unlabeled"),
        (lambda m: m["configs"][1]["data_files"][0].update(path="data/x/*"), "unlabeled / train: no file at data/x/*"),
        (lambda m: m["configs"].pop(), "dataset_info: 'kvasir_seg' is not in configs"),
    ],
)
def test_lint_finds(carded, change, problem):
    problems = lint_card(spoiled(readme(carded), change), list(read_manifest(str(carded))["files"]))
    assert any(problem in found for found in problems) and all(found.startswith("README.md: ") for found in problems)


def test_the_hub_knows_the_words_of_the_metadata(carded, official):
    """Its lists, as far as this card may need them: hub-docs (datasetcard.md, licenses), @huggingface/tasks 0.21.54."""
    known = {
        "license": {"cc-by-4.0"},
        "task_categories": {
            "image-classification", "image-segmentation", "object-detection", "image-feature-extraction",
        },
        "task_ids": {"multi-class-image-classification", "semantic-segmentation", "instance-segmentation"},
        "size_categories": {"n<1K", "100K<n<1M"},
        "annotations_creators": {"expert-generated"},
    }  # fmt: skip
    others = {"pretty_name", "tags", "source_datasets", "configs", "dataset_info"}
    for manifest in (read_manifest(str(carded)), official[0]):
        metadata = front_matter(manifest)
        assert metadata.keys() == known.keys() | others
        assert all(set(as_list(metadata[key])) <= words for key, words in known.items())


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
        if name.startswith("classes-"):
            column = name.removeprefix("classes-")
            names = {
                "label": FINDINGS,
                "category": VIEWS["category"].values,
                "tract": VIEWS["tract"].values,
                "objects.category": ["polyp"],
            }[column]
            assert [record[f"{name}/number"] for record in records] == list(range(len(records)))
            assert [plain(record[f"{name}/name"]) for record in records] == names[:5]
        else:
            assert len(records) == 5
            check_records(carded, name, records)


def check_records(folder, config, records):
    """Every field of every record is that of the row in the Parquet files."""
    stored = {}
    for path in (folder / "data" / VIEWS[config].part).rglob("*.parquet"):
        stored |= {row["image_id"]: row for row in pq.read_table(path, partitioning=None).to_pylist()}
    for record in records:
        record = {name.removeprefix(f"{config}/"): value for name, value in record.items()}
        assert {name.split("/")[0] for name in record} == set(features_of(config))
        row = stored[plain(record["image_id"])]
        for name, value in record.items():
            column, _, key = name.partition("/")
            wanted = row[column][key] if key else row[column]
            if isinstance(value, Image.Image):
                assert np.array_equal(value, Image.open(io.BytesIO(wanted["bytes"])))
            else:
                assert plain(value) == wanted, name


def plain(value):
    """A value of mlcroissant as Parquet has it."""
    if isinstance(value, dict):
        return {name.rsplit("/", 1)[1]: plain(item) for name, item in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


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
