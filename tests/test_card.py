"""The card says what is in the files, and only that; the Hub, datasets and mlcroissant take it."""

import csv
import functools
import hashlib
import io
import itertools
import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.text import Text
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
OTHERS = "data/segmented/validation_00.parquet"
LABELED = "data/labeled/lower-gi-tract/pathological-findings/fold2-0_fold5-0_00.parquet"


POLYPS = FINDINGS.index("polyps")
FOLDS = "| finding | " + " | ".join(f"`fold_{k}`: {fold}" for k in (2, 5) for fold in range(k)) + " |"


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
def official_figures(carded):
    """The figures of the official counts, not made into bytes."""
    with pytest.MonkeyPatch.context() as patch:
        do_not_encode(patch)
        return figures.draw(stats.by_part(official_summaries()), one_of_each(carded))


@pytest.fixture(scope="module")
def official(carded, official_figures):
    """(the manifest, {path: content}) of a card of the official counts."""
    summaries = official_summaries()
    entry = {"bytes": 1, "data_bytes": 1, "sha256": "0", "key": "0"}
    files = {path: {**entry, "rows": summary["rows"]} for path, summary in summaries.items()}
    manifest = make_manifest(list(read_manifest(str(carded))["configs"]), {}, files, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *arguments: official_figures)
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
        "README.md", "stats.json", "objects.csv", "croissant.json", "CITATION.bib", "CITATION.cff", "CHANGELOG.md",
        "datasheet.md", "assets/findings.jpg", "assets/polyps.jpg", "assets/class_balance.png", "assets/quality.png",
        "assets/sizes.png", "assets/objects.png", "assets/heat_maps.png", "assets/unfit.jpg",
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

    def examples(part, image_ids):
        rows.extend((part, image_id) for image_id in image_ids)
        return folder_examples(str(carded), summaries)(part, image_ids)

    files = card_files(manifest, summaries, examples, repo_id="someone/hyper-kvasir")
    assert b'load_dataset("someone/hyper-kvasir", "tract")' in files["README.md"]
    assert b"ns/hyper-kvasir" not in files["README.md"] + files["croissant.json"]
    assert Counter(part for part, _ in set(rows))["labeled"] == 3 * len(FINDINGS)


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
    assert said.splitlines()[0] == "written: README.md" and "card of 16 files, 1 rewritten, 0 problems" in said
    assert main([str(folder)]) == 0
    assert "written:" not in (said := capsys.readouterr().err) and "card of 16 files, up to date, 0 problems" in said


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
DIGEST = 7, "8e28b9183e39dde0ba41adc99ef4a96480cbd310b43b61d530456cf7bf63afdb"


# card.SCHEMA, and the digest of figures.py
FIGURES_DIGEST = 7, "772c2159e1e2edc846f707986e81888ea4b060a20d3483c14088b5231662e7aa"


def test_other_figures_count_the_schema_up():
    """The code stands in for the pixels."""
    made = card.SCHEMA, hashlib.sha256(Path(figures.__file__).read_bytes()).hexdigest()
    assert made == FIGURES_DIGEST, (
        "figures.py differs: increment SCHEMA in card.py if the same data give other figures; then update this digest; "
        f"got {made}"
    )


def test_other_files_count_the_schema_up(official, official_figures, monkeypatch):
    """All that goes into the card's files but the texts, which count by their content, and the figures."""
    metadata = yaml.safe_load((TEXTS / "metadata.yaml").read_text(encoding="utf-8")) | {"claims": {}}
    monkeypatch.setattr(card, "_metadata", lambda: without_texts(metadata))
    summaries = official_summaries() | {leaks.METADATA_FILE: metadata_summary()}
    files = official[0]["files"] | {leaks.METADATA_FILE: {"bytes": 1, "data_bytes": 1, "sha256": "0", "rows": 2}}
    manifest = make_manifest([*official[0]["configs"], configs.METADATA], {}, files, 1)
    manifest, parts = {**manifest, "version": "1.0.0", "versions": {}}, stats.by_part(summaries)
    context = card._context(manifest, parts, official_figures, a_row, repo_id="ns/name", commit="1f2e3d")
    described = croissant.croissant_text(
        manifest, card._metadata(), {"description": "", "rai": {}}, repo_id="ns/name", version="1.0.0"
    )
    filters = "{{ 43600000 | size }} {{ 0.00001 | percent }} {{ 1071 | n }} {{ ['a', 'b', 'c'] | words }}"
    filters += "{{ {'quality': 75, 'jfif': true} | encoder }} {{ {'quality': 97, 'jfif': false} | encoder }}"
    words = card._template(filters).render()
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


def a_row(part, image_ids):
    """{image id: stored row}, the same always: generated images may change with their generator."""
    return {image_id: _a_row(part, image_id) for image_id in image_ids}


def _a_row(part, image_id):
    picture = png(np.zeros((2, 3)))
    boxes = {"id": [0], "bbox": [[0.0, 0.0, 3.0, 2.0]], "area": [6.0], "category": [0]}
    columns = {"image": picture, "mask": picture, "instances": picture, "image_id": image_id, "objects": boxes}
    columns |= {"label": 4, "category": 1, "tract": 0, "fold_2": 1, "fold_5": None, "width": 3, "height": 2}
    columns |= {"kvasir_seg_id": "cju", "kvasir_seg_set": "train"}
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
    assert f", {sum(len(o['id']) for o in objects)} boxes |" in text
    assert "Not the official numbers" in text and "labeled images: 137 here, officially 10,662;" in text
    assert "**Not known to be official.** `labeled` and `segmented` were built from files" in text
    for claim in (
        "254 groups",
        "513 to 558",
        "18 pairs show",
        "A copy on Kaggle",
        "carry burned-in",
        "To compare with the paper",
    ):
        assert claim not in text, "of the official archives, which these are not"


def test_numbers_change_with_the_data(folder, undrawn):
    before = readme(folder)
    dropped = Counter(FINDINGS[label] for label in drop_rows(folder, LABELED, 2))
    manifest = read_manifest(str(folder))
    problems = check_card(before, manifest, str(folder))
    assert any("metadata: labeled / train" in problem for problem in problems)
    assert any("table of splits: tract / lower_gi_tract" in problem for problem in problems)
    assert {p.split(": ")[2] for p in problems if "taxonomy" in p} == set(dropped)
    assert check_card(before, manifest), "the manifest alone tells, too"
    assert main([str(folder)]) == 0
    after = readme(folder)
    assert taxonomy(after) == {name: count - dropped[name] for name, count in taxonomy(before).items()}
    assert "| `labeled` | 135 |" in after and "| `labeled` | 137 |" in before


def test_numbers_of_objects_change_with_the_data(folder, undrawn):
    """A box less, of the image that is first; numbers of all kinds follow."""
    before = stats.read_stats(str(folder))[SEGMENTED]

    def without_a_box(rows):
        boxes = stats.objects_of(before, stats.BOX)
        single = {box.image_id for box in boxes if box.fit == "matched"} - {box.image_id for box in boxes if box.number}
        i = next(i for i, row in enumerate(rows) if row["image_id"] in single)
        rows[i]["objects"] = {name: [] for name in rows[i]["objects"]}
        return rows

    rewrite(folder, SEGMENTED, without_a_box)
    assert main([str(folder)]) == 0
    text, after = readme(folder), stats.read_stats(str(folder))[SEGMENTED]
    objects = {kind: stats.objects_of(after, kind) for kind in (stats.INSTANCE, stats.BOX)}
    boxes = len(stats.objects_of(before, stats.BOX)) - 1
    assert len(objects[stats.BOX]) == boxes and after["boxes"][0] == [0, 1]
    unboxed = [thing for thing in objects[stats.INSTANCE] if thing.fit == "unboxed"]
    assert len(unboxed) == 1 + sum(thing.fit == "unboxed" for thing in stats.objects_of(before, stats.INSTANCE))
    assert np.sum(after["box_map"]) < np.sum(before["box_map"]) and after["mask_map"] == before["mask_map"]
    all_boxes = boxes + len(pc.list_flatten(pc.struct_field(pq.read_table(folder / OTHERS)["objects"], "id")))
    assert f", {all_boxes} boxes |" in text and "- Boxes in an image: 0 in 1 image, " in text
    assert table(text, SIZES)[1][:2] == ["Boxes", str(all_boxes)]
    assert all(thing.match is None for thing in unboxed)


def test_objects_csv_tells_what_fits(carded):
    """A line for each instance and box; places, areas and IoU are found again, from the pixels."""
    with open(carded / "objects.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    found = 0
    for row in pq.read_table(carded / "data/segmented").to_pylist():
        instances = np.asarray(Image.open(io.BytesIO(row["instances"]["bytes"])))
        own = [line for line in lines if line["image_id"] == row["image_id"]]
        boxes, parts = ([line for line in own if line["kind"] == kind] for kind in ("box", "instance"))
        assert [[float(line[side]) for side in ("x", "y", "width", "height")] for line in boxes] == row["objects"][
            "bbox"
        ]
        assert [int(line["number"]) for line in boxes] == row["objects"]["id"]
        assert [int(line["area"]) for line in boxes] == row["objects"]["area"]
        assert [int(line["number"]) for line in parts] == sorted(set(np.unique(instances)) - {0})
        painted = {}
        for line in own:
            x, y, width, height = (int(line[side]) for side in ("x", "y", "width", "height"))
            painted[line["kind"], line["number"]] = mask = np.zeros(instances.shape, bool)
            mask[y : y + height, x : x + width] = True
        for line in parts:
            pixels = instances == int(line["number"])
            assert int(line["area"]) == pixels.sum() and float(line["share"]) == pytest.approx(pixels.mean(), abs=1e-6)
            assert (pixels <= painted["instance", line["number"]]).all()
        for line in own:
            other = "box" if line["kind"] == "instance" else "instance"
            one = painted[line["kind"], line["number"]]
            ious = {n: (one & m).sum() / (one | m).sum() for (kind, n), m in painted.items() if kind == other}
            assert float(line["iou"]) == pytest.approx(max(ious.values()), abs=1e-4)
            if line["match"]:
                assert line["fit"] == "matched" and ious[line["match"]] == max(ious.values())
        found += len(own)
    assert found == len(lines)


SIZES = (
    "| | number | in an image | width (px): mean (range) | height (px): mean (range) "
    "| share of the image: median (range) |"
)


def test_no_number_of_the_dataset_is_typed():
    """The texts compute; only constants of the process and names that hold digits are typed."""
    names = r"macro-F1|\bf1(_score)?\b|\(224\)|\butf8\b"
    names += r"|\d-fold|fold_5_grouped|\bcv2\b|\d_fold_split|sha256|8-connected|CC BY 4\.0|2\.21|float32|\bv2\b"
    names += r"|\b224\b|uint8|\b\d: cv2|_COLOR_\d\b|BGR2RGB|n == 1\b|// 2\b|shape\[:2\]|permute\([\d, ]+\)|\(255\)"
    process = (
        r"gray value of 128( into 0 and 255)?|0 background|255 polyp|1 to n|from 0|> 0|x 4:|[)\]]\[0\]|\[\"\w+\"\]\[0\]"
    )
    arguments = r"\(\d+, \d+\)|shape\[\d\]|(seed|buffer_size|batch_size|num_workers|zero_division|min)=\d+|rowEnd: \d+"
    code = r"uniform\(0\.5, 1\)|randint\(0|< 0\.5|unsqueeze\(1\)|int64|background is 0|/ 255|reshape\(-1, 4\)"
    code += r"|scale=\(0\.5, 1\)|\[:, :?2:?\]|2\*\*32|255 would mean|polyps are 1|(paths|ds)\[0\]"
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
        text = re.sub(f"{names}|{process}|{arguments}|{code}", "", text)
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
    folds = [[number(count) for count in cells[1:]] for cells in table(text, FOLDS)]
    assert np.sum(folds, axis=0).tolist() == [*OFFICIAL.fold_2, *OFFICIAL.fold_5]
    assert [sum(counts[:2]) for counts in folds] == list(OFFICIAL.findings.values())
    tracts = [(cells[0], number(cells[1])) for cells in table(text, "| tract | images |")]
    assert tracts == [("lower-gi-tract", 7210), ("upper-gi-tract", 3452)]
    cells = sum(path.startswith("data/labeled/") for path in manifest["files"])  # each said to have one byte
    for fact in (
        f"| `labeled` | 10,662 | {cells} bytes | classification: 23 findings in 4 categories and 2 tracts",
        "| `segmented` | 1,000 | 1 bytes | segmentation, detection: polyps with a mask, 1,063 instances, 1,071 boxes |",
        "| `unlabeled` | 99,417 |",
        f'load_dataset("ns/hyper-kvasir", split="train")  # labeled, {cells} bytes',
        "All 1,000 images are those of [Kvasir-SEG]", "and 990 are in `labeled`, too, by the same id",
        "**Compression gives `polyps` away.** 982 of 1,028 images are JPEG files of quality 75 with a JFIF marker; of "
        "9,634 images of other findings, 3 are.",
        "**Classes are imbalanced**: from 6 to 1,148 images, a factor of 191.",
        "| `tract` | `lower_gi_tract` | 7,210 |", "| `tract` | `upper_gi_tract` | 3,452 |",
        "| `category` | `anatomical_landmarks` | 4,104 |", "| `category` | `pathological_findings` | 2,642 |",
        "| `category` | `therapeutic_interventions` | 1,991 |", "| `category` | `quality_of_mucosal_views` | 1,925 |",
        "| `fold_2` | `fold_0` | 5,324 |", "| `fold_2` | `fold_1` | 5,338 |",
        *(f"| `fold_5` | `fold_{i}` | {'2,174' if i == 4 else '2,122'} |" for i in range(5)),
        *OBJECT_FACTS,
        "- Instances that no box matches: 21.",
        "| Instances | 1,063 | 1.06 | 20 (20 to 20) | 10 (10 to 10) | 10.0% (0.2% to 81.2%) |",
        "| Boxes | 1,071 | 1.07 | 20 (20 to 20) | 10 (10 to 10) | 15.0% (0.001% to 99.8%) |",
        "up to 51.0% by mask, up to 61.0% by box", "that it fits best is 0.97.",
        "- `labeled`: 23 different sizes, widths of 640 to 662 and heights of 480 to 480 pixels.",
        "- `segmented`: 2 different sizes, widths of 332 to 1,920 and heights of 352 to 1,072 pixels.",
        "Most common: 1,920 × 352 (600 images), 332 × 1,072 (400 images).",
        "- `unlabeled`: 1 different size, widths of 720 to 720 and heights of 576 to 576 pixels.",
        "commit of the builder: `1f2e3d`",
    ):  # fmt: skip
        assert fact in text, fact
    sheet = files["datasheet.md"].decode()
    assert "10,662 labeled. 1,000 segmented, of which 990 are labeled, too. 99,417 unlabeled." in sheet
    described = json.loads(files["croissant.json"])
    assert described["description"].endswith(
        ": 10,662 labeled images of 23 findings, 1,000 images of 1,063 polyps with masks and bounding boxes, "
        "99,417 unlabeled images."
    )
    assert "Classes are imbalanced, from 6 to 1,148 images." in described["rai:dataLimitations"][0]
    assert described["rai:dataLimitations"][2] == "28 of 1,071 boxes match no instance of their mask."
    assert described["rai:dataBiases"][1].startswith(
        "982 of 1,028 images of polyps are JPEG files of quality 75 with a JFIF marker, and 3 of 9,634 others are"
    )
    assert front_matter(manifest)["size_categories"] == ["100K<n<1M"]
    alts = dict((name, alt) for alt, name in re.findall(r"!\[(.*?)\]\(assets/(\w+)\.", text))
    for name, words in {
        "findings": "for each of 23 findings",
        "class_balance": "from 1,148 of bbps-2-3 down to 6 of hemorrhoids",
        "quality": "For each of 23 findings",
        "objects": "1,063 polyp instances (median 10.0%) and 1,071 boxes (median 15.0%)",
        "heat_maps": "the densest place is covered in 61% of the images",
        "unfit": "28 boxes that match no instance, on 28 polyp images",
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
        "Before you train", "Use", "Structure", "Classes", "Masks and boxes", "Image sizes", "Leakage", "Known quirks",
        "How it was made", "What the source says", "License", "Ethics, intended use and misuse", "Citation", "Contact",
        "Provenance",
    ]  # fmt: skip
    for config in official[0]["configs"]:
        assert f'load_dataset("ns/hyper-kvasir", "{config}")' in text and f"| `{config}`" in text
    for words in (
        "buffer_size=600)", "load_state_dict(", "have 97.8% of the entropy",
        "streaming=True", f'revision="v{VERSION}"', "for held_out in folds", "DataLoader(",
        "**Train at 224 px.**", "IMREAD_REDUCED_COLOR_4", "PSNR", "matthews_corrcoef(",
        'np.asarray(row["mask"]) > 0', "tv_tensors.Mask(", "compare with the paper: its five methods",
        "kavsir_bboxes.json",
        "tv_tensors.BoundingBoxes(", "def cut(", "def collate(", "A.BboxParams(", "SegformerImageProcessor(",
        "pandas.read_parquet(", "listFiles(", f'"hf://datasets/ns/hyper-kvasir@v{VERSION}/', "duckdb.sql(",
        "polars.read_parquet(", "dd.read_parquet(", "ray.data.read_parquet(", "spark.read.parquet(",
        "daft.read_parquet(", "utf8: false", "Labeled images, with finding, category", "paalh@simula.no", "https://arxiv.org/abs/1911.07069",
        "license the data under CC BY 4.0", "still asks for written permission for competitions and commercial use",
        "**Meant for**", "**Not for**", "Neighboring frames", "do not train on one and test on another", CITATION,
        "Kvasir-SEG: A Segmented Polyp Dataset",
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
            text = re.sub(r"\"regex\": .*", "", text)
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
            "encoders": [[label, False, 100, images]], "polyps": [],
        }  # fmt: skip
    # 982 of the polyps, and 3 others, are of another kind; 990 of them are segmented.
    polyps = [path for path, summary in summaries.items() if summary["cells"][0][0] == POLYPS]
    left = 982
    for i, path in enumerate(polyps):
        images = summaries[path]["rows"]
        some = min(images, left)
        left -= some
        kinds = [[POLYPS, True, 75, some], [POLYPS, False, 97, images - some]]
        summaries[path]["encoders"] = [kind for kind in kinds if kind[3]]
        summaries[path]["polyps"] = [f"{n:04}" for n in range(990)] if i == 0 else []
    other = next(summary for path, summary in summaries.items() if path not in polyps and summary["rows"] > 3)
    other["encoders"] = [[other["cells"][0][0], False, 100, other["rows"] - 3], [other["cells"][0][0], True, 75, 3]]

    objects = official_objects()
    maps = {"mask_map": [[1, 510], [2, 3]], "box_map": [[4, 5], [610, 6]]}
    summaries["data/segmented/train_00.parquet"] = {
        "rows": 1000, "first": "s", "sizes": [[332, 1072, 400], [1920, 352, 600]], "cells": [[4, 0, 0, 1000]],
        "examples": {"one": ["s"], "several": ["t"]}, "polyps": [f"{n:04}" for n in range(1000)],
        "kvasir_seg": [["train", 880], ["validation", 120]], "objects": objects,
        "instances": [[1, 952], [2, 41], [3, 5], [4, 1], [10, 1]],
        "boxes": [[1, 945], [2, 47], [3, 6], [4, 1], [10, 1]], **maps, "boxes_offset": 974, "boxes_at_edge": 116,
        "encoders": [[4, False, 97, 14], [4, True, 75, 982], [4, True, 97, 4]],
    }  # fmt: skip
    unlabeled = {"rows": OFFICIAL.unlabeled, "first": "u", "sizes": [[720, 576, OFFICIAL.unlabeled]]}
    return {**summaries, "data/unlabeled/00.parquet": unlabeled}


def official_objects():
    """As many instances and boxes as the official ones, with their fits; all 20 pixels wide and 10 high."""
    shares = [0.00187] + [0.1] * (OFFICIAL.instances - 2) + [0.8124]
    things = [
        ["x", stats.INSTANCE, i, 0, 0, 20, 10, 200, share, 0.97, *((None, "unboxed") if i < 21 else (0, "matched"))]
        for i, share in enumerate(shares)
    ]
    shares = [0.0000123] + [0.15] * (OFFICIAL.boxes - 2) + [0.998]
    fits = [(0.01, None, "unmatched")] * 8 + [(0.6, None, "stretched")] * 20 + [(0.97, 1, "matched")] * 1043
    boxes = zip(shares, fits, strict=True)
    things += [[f"u{i:04}", stats.BOX, 0, 0, 0, 20, 10, 200, share, *fit] for i, (share, fit) in enumerate(boxes)]
    return sorted(things, key=lambda thing: thing[:3])


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

    return lambda part, image_ids: {image_id: first(part) for image_id in image_ids}


def test_the_encoder_of_a_long_header():
    """A comment of 50 kB before the tables changes nothing."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=80)
    data = buffer.getvalue()
    long = data[:20] + b"\xff\xfe" + (50_000).to_bytes(2, "big") + bytes(49_998) + data[20:]
    image = pa.array([{"bytes": long, "path": "a"}, {"bytes": data, "path": "b"}])
    batch = pa.record_batch({"image": image})
    found = list(stats._files(lambda columns, rows: [batch.select(columns)]))
    assert found == [(len(long), (True, 80)), (len(data), (True, 80))]


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
    assert stats.compare_boxes([(0, 0, 1, 1)], [], (50, 60)) == [stats.Fit(None, 0.0, "stretched", False, False)]


def test_an_instance_is_matched_by_the_first_of_its_boxes():
    instances = np.zeros((50, 60), np.uint8)
    instances[10:20, 10:20] = 1
    boxes = [[0.0, 0.0, 2.0, 2.0], [9.0, 9.0, 11.0, 11.0], [10.0, 10.0, 10.0, 10.0]]
    instance, *others = stats.measure("x", instances, boxes).objects
    assert (instance.match, instance.iou, instance.fit) == (1, 1.0, "matched")
    assert [box.match for box in others] == [None, 1, 1]


def test_a_kind_of_file_that_gives_a_finding_away():
    """Of 30 polyps 25 are of a kind that 3 of 40 others are; few images, or a kind that others have, tell nothing."""
    told = [[4, True, 75, 25], [4, False, 97, 5], [0, True, 75, 3], [0, False, 100, 17], [1, False, 100, 20]]
    assert card._shortcut(told) == {
        "finding": "polyps", "jfif": True, "quality": 75, "images": 25, "of": 30, "others": 3, "of_others": 40
    }  # fmt: skip
    assert card._shortcut([[4, True, 75, 19], [0, False, 100, 40]]) is None, "too few polyps"
    assert card._shortcut([[4, True, 75, 40], [0, False, 100, 19]]) is None, "too few others"
    assert card._shortcut([[4, True, 75, 40], [0, True, 75, 30], [0, False, 100, 10]]) is None


def test_segmented_files_that_are_unlike_others():
    segmented, polyps = [[4, True, 75, 9], [4, True, 97, 1]], [[4, True, 75, 10]]
    kind = {"jfif": True, "quality": 75, "images": 9}
    assert card._unlike(segmented, []) == card._unlike(segmented, polyps) == kind
    assert card._unlike(segmented, [*polyps, [0, True, 75, 4], [0, False, 100, 5]]) == kind
    assert card._unlike(segmented, [*polyps, [0, True, 75, 5], [0, False, 100, 5]]) is None


def test_examples_are_images_whose_boxes_all_match(segmented):
    boxes = [(0, 0, 9, 9)]
    fits = {kind: stats.Fit(0, 0.5, kind, False, False) for kind in stats.FITS}
    thing = stats.Object("x", stats.INSTANCE, 1, 0, 0, 9, 9, 81, 0.1, 0.5, None, "unboxed")
    images = [stats.Polyps(kind, [thing], boxes, [fit]) for kind, fit in fits.items()]
    assert stats._object_examples(images) == {"one": ["matched"], "several": []}
    assert stats.object_examples({**segmented, "examples": {}}) == ["u0008"], "the worst of those that are stretched"


def test_no_image_to_show_is_no_figure(carded):
    """All boxes unmatched: there is no example, and no figure of one; the card is made all the same."""
    summaries = stats.read_stats(str(carded))
    for path in (SEGMENTED, OTHERS):
        summaries[path]["examples"] = {}
        summaries[path]["objects"] = [[*thing[:-1], "unmatched"] for thing in summaries[path]["objects"]]
    segmented = {"segmented": stats.by_part(summaries)["segmented"]}
    names = [job[0].__name__ for job in figures._jobs(segmented, folder_examples(str(carded), summaries), ())]
    assert "polyps" not in names and "unfit" in names
    names += ["findings", "class_balance", "quality"]
    drawn = [figures.Figure(name, f"assets/{name}.png", name, b"") for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *arguments: drawn)
        files = card_files(read_manifest(str(carded)), summaries, folder_examples(str(carded), summaries))
    assert b"assets/polyps" not in files["README.md"] and b"assets/unfit" in files["README.md"]


def test_burned_in_text_is_not_spread():
    """The left of every photograph is blurred, and what stands on black at its right; it is small."""
    stripes = np.zeros((600, 900, 3), np.uint8)
    stripes[:, ::12] = stripes[:, 1::12] = stripes[:, 2::12] = stripes[:, 3::12] = 255
    stripes[300:, 720:] = 120  # mucosa, with the same lines
    stripes[300:, 720::12] = stripes[300:, 721::12] = stripes[300:, 722::12] = 255
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "JPEG", quality=95)
    photo = np.asarray(figures._photo({"image": {"bytes": buffer.getvalue()}})).astype(int)
    assert max(photo.shape) == 256
    left, middle, black, mucosa = photo[:, 20:70], photo[:, 100:180], photo[10:70, 215:], photo[100:, 215:]
    assert np.ptp(left) < 0.4 * np.ptp(middle) and np.ptp(black) < 0.4 * np.ptp(middle)
    assert np.ptp(mucosa) > 40


def pair(one, other, kind, sets):
    rows = [
        {"image_id": image_id, "parts": ["labeled", "segmented"], "kvasir_seg_set": side}
        for image_id, side in zip((one, other), sets)
    ]
    return {"one": rows[0], "other": rows[1], "kind": kind}


def test_pairs_that_leak_are_shown_first():
    both = ("train", "validation")
    pairs = [
        pair("i", "j", "same_scene", both), pair("c", "d", "same_frame", ("train", "train")),
        pair("e", "f", "same_frame", both), pair("g", "h", "same_scene", both), pair("a", "b", "same_scene", both),
    ]  # fmt: skip
    assert [p["one"]["image_id"] for p in figures.shown_pairs(pairs)] == ["e", "c", "a", "g"]
    row = {"image": png(np.full((20, 30, 3), 100))}
    canvas = figures.leaking_pairs(pairs[:2], defaultdict(lambda: row)).canvas
    assert [axis.get_title(loc="center") for axis in canvas.axes] == ["train", "validation", "train", "train"]


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
    row = {"image": png(np.full((20, 30, 3), 100)), "instances": png(instances)}
    box = ["s", stats.BOX, 0, 19, 1, 9, 5, 45, 0.075, 0.4, None, "unmatched"]
    drawing = figures.polyps({**segmented, "objects": [box]}, defaultdict(lambda: row))
    rows = np.array(drawing.canvas.axes).reshape(2, 3)  # one of one polyp, one of several
    assert [axis.get_title(loc="center") for axis in rows[0]] == ["image", "mask, instances", "boxes"]
    plain, numbered, boxed = rows[0]
    pixels = [axis.images[0].get_array() for axis in rows[0]]
    assert (pixels[0] == 100).all() and (pixels[2] == 100).all()
    assert np.array_equal((pixels[1] != 100).any(axis=2), instances > 0)
    assert [(text.get_text(), *np.round(text.get_position(), 1)) for text in numbered.texts] == [
        ("1", 23.5, 3.5), ("2", 3.6, 15.0)
    ]  # fmt: skip
    ends = [path.get_extents() for line in numbered.collections for path in line.get_paths()]
    assert len(numbered.collections) == 4, "dark and light, of two instances"
    assert max(end.x1 for end in ends) == pytest.approx(28, abs=0.6)
    assert min(end.y0 for end in ends) == pytest.approx(2, abs=0.6)
    boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in boxed.patches]
    assert boxes == [(19, 1, 9, 5)] * 2 and [text.get_text() for text in boxed.texts] == ["IoU 0.40"]
    assert boxed.get_xlim()[0] < 0 and boxed.get_xlim()[1] > 30, "lines at the edge are seen whole"


def test_every_box_that_fits_nothing_is_shown(segmented):
    """With its IoU and the outline of the mask; one that is too narrow to be seen has a ring."""
    instances = np.zeros((60, 100), np.uint8)
    instances[2:6, 20:28] = 1
    row = {"image": png(np.full((60, 100, 3), 100)), "instances": png(instances)}
    objects = [thing for thing in segmented["objects"] if thing[-1] != "matched"]
    objects[0][5:7] = [1, 1]
    canvas = figures.unfit({**segmented, "objects": objects}, defaultdict(lambda: row)).canvas
    assert [axis.get_title(loc="center") for axis in canvas.axes] == ["IoU 0.60"] * 20 + ["IoU 0.01"] * 8
    assert sum(len(axis.patches) == 4 for axis in canvas.axes) == 1
    assert all(len(axis.collections) == 2 for axis in canvas.axes)


def test_every_finding_is_shown_under_its_tract_and_category(carded):
    parts = stats.by_part(stats.read_stats(str(carded)))
    asked = []

    def examples(part, image_ids):
        asked.extend(image_ids if part == "labeled" else ())
        return one_of_each(carded)(part, image_ids)

    job = next(job for job in figures._jobs(parts, examples, ()) if job[0] is figures.findings)
    canvas = figures.findings(*job[1:]).canvas
    under, heading = {}, None
    for text in canvas.texts:
        heading = text.get_text() if text.get_fontweight() == "bold" else heading
        if text.get_fontweight() != "bold":
            under[text.get_text().replace("-\n", "-")] = heading
    words = {f.name: f"{f.tract[:5].title()} GI tract: {f.category.replace('-', ' ')}" for f in TAXONOMY}
    assert under == words and len(canvas.axes) == len(TAXONOMY)
    ids = pq.read_table(carded / "data/labeled", columns=["image_id", "label"], partitioning=None).to_pylist()
    wanted = [sorted(row["image_id"] for row in ids if row["label"] == label)[:3] for label in range(len(TAXONOMY))]
    assert sorted(asked) == sorted(itertools.chain(*wanted))


def test_class_balance_shows_the_counts(official):
    labeled = stats.by_part(official_summaries())["labeled"]
    dots = {}
    for axis in figures.class_balance(labeled).canvas.axes:
        names = [label.get_text() for label in axis.get_yticklabels()]
        dots |= dict(zip(names, (line.get_xdata()[0] for line in axis.lines)))
        assert [number(text.get_text().strip()) for text in axis.texts] == [dots[name] for name in names]
        styles = {
            TAXONOMY[FINDINGS.index(n)].category: (line.get_color(), line.get_marker())
            for n, line in zip(names, axis.lines)
        }
        assert styles.items() <= figures.CATEGORY_STYLES.items()
    assert dots == OFFICIAL.findings
    assert len({marker for _, marker in figures.CATEGORY_STYLES.values()}) == 4, "color is never the only sign"


def test_quality_shows_the_share_of_each_kind_of_file():
    labeled = stats.by_part(official_summaries())["labeled"]
    marks = {}
    for axis in figures.quality(labeled).canvas.axes:
        names = [label.get_text() for label in axis.get_yticklabels()]
        for mark in axis.collections:
            x, place = mark.get_offsets()[0]
            marks.setdefault(names[round(place)], []).append((round(x), round(mark.get_sizes()[0] / 260, 4)))
    assert marks["polyps"] == [(97, round(46 / 1028, 4)), (75, round(982 / 1028, 4))]
    assert set(marks) == set(FINDINGS) and marks["hemorrhoids"] == [(100, 1.0)]


def test_sizes_are_where_they_are():
    parts = stats.by_part(official_summaries())
    axes = figures.sizes(parts).canvas.axes
    for axis, summary in zip(axes, parts.values(), strict=True):
        drawn = axis.collections[0]
        assert drawn.get_offsets().tolist() == [[width, height] for width, height, _ in summary["sizes"]]
        assert np.argmax(drawn.get_sizes()) == np.argmax([images for *_, images in summary["sizes"]])
        assert axis.get_xlim()[0] < 332 and axis.get_xlim()[1] > 1920 and axis.get_ylim()[1] > 1072
        assert axis.get_aspect() == 1


def test_objects_are_all_in_the_histograms(segmented):
    for axis, kind in zip(figures.objects(segmented).canvas.axes, (stats.INSTANCE, stats.BOX)):
        shares = [thing.share for thing in stats.objects_of(segmented, kind)]
        assert sum(bar.get_height() for bar in axis.patches) == len(shares)
        assert axis.patches[0].get_x() <= min(shares) and axis.patches[-1].get_x() < max(shares)
        assert f"median {np.median(shares):.1%}" in axis.texts[0].get_text() and f"{len(shares):,}" in axis.get_title()


def test_heat_maps_show_shares_of_images_the_right_way_round(segmented):
    masks, boxes, _ = figures.heat_maps(segmented).canvas.axes
    for axis, title, key in ((masks, "Masks", "mask_map"), (boxes, "Boxes", "box_map")):
        shown = axis.images[0]
        assert axis.get_title() == title and shown.origin == "upper"
        assert np.array_equal(shown.get_array(), np.array(segmented[key]) / 1000)
        assert (shown.cmap.name, shown.get_clim()) == ("cividis", (0, 0.61))


def contrast(color, other="white"):
    """The ratio of luminances, as WCAG has it."""

    def luminance(name):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05

    one, two = sorted((luminance(color), luminance(other)))
    return two / one


def test_colors_are_seen_on_white():
    assert contrast("black") == pytest.approx(21)
    colors = {color for color, _ in figures.CATEGORY_STYLES.values()} | {figures.BLUE, figures.VERMILION, figures.INK}
    assert all(contrast(color) >= 3 for color in colors)


def test_text_is_legible_on_a_phone(carded):
    """At least 9 pixels high where a figure is 312 pixels wide."""
    summaries = stats.read_stats(str(carded))
    least = {name: size for name, size in figures.STYLE.items() if name.endswith("size")}
    with rc_context(figures.STYLE):
        for draw, *arguments in figures._jobs(stats.by_part(summaries), folder_examples(str(carded), summaries), ()):
            drawing = draw(*arguments)
            texts = [text for text in drawing.canvas.findobj(Text) if text.get_text().strip()]
            least[drawing.name] = min(text.get_fontsize() for text in texts)
    assert {name: size for name, size in least.items() if size / 72 / figures.WIDTH * 312 < 9} == {}


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
    assert re.findall(r'^files = "(data/\w+/)', body, re.MULTILINE) == [f"data/{part}/" for part in parts]
    assert ("## Classes" in body) == ("labeled" in parts) == (folder / "assets/class_balance.png").exists()
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
    assert not re.search("checked (against|them whole)|was left out|the official archives and", text)


@pytest.mark.parametrize(
    "change, known, told",
    [
        ({}, "the official archive, ", True),
        ({"sha256": "0"}, "the official content in another container, ", True),
        ({"sha256": "0", "content": "0"}, "other than the official archive, ", False),
    ],
)
def test_claims_of_the_official_archives_are_for_them_alone(official, carded, undrawn, change, known, told):
    file = "hyper-kvasir-segmented-images.zip"
    source = {"file": file, **OFFICIAL.sources[file], "content": OFFICIAL.segmented_content, **change}
    manifest = {**official[0], "sources": {"segmented": source}}
    text = card_files(manifest, official_summaries(), one_of_each(carded))["README.md"].decode()
    assert f"`segmented`: {known}" in text and ("143 of them have" in text) == told
    assert ("those of the official archives" in text) == ("**Not known to be official.**" not in text) == told
    assert "254 groups" not in text, "the labeled archive is not known to be the official one"


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
        "language": {"en"},
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

    def read():
        return mlc.Dataset(str(carded / "croissant.json"), mapping={"repository": str(carded)})

    dataset = read()
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    described = json.loads((carded / "croissant.json").read_text())
    assert {name for name in described if name.startswith("rai:")} >= {"rai:dataBiases", "rai:dataLimitations"}
    sets = {record_set.uuid for record_set in dataset.metadata.record_sets}
    assert set(read_manifest(str(carded))["configs"]) <= sets
    for name in sets:
        records = [record for record, _ in zip(dataset.records(name), range(5))]
        if name.endswith("-splits"):
            config = name.removesuffix("-splits")
            names = [(plain(record[f"{name}/path"]), plain(record[f"{name}/name"])) for record in records]
            assert names == list(zip(map(str, VIEWS[config].values), VIEWS[config].splits))
        elif name.startswith("classes-"):
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
            if name in ("category", "fold_5", "kvasir_seg"):
                check_splits(carded, name, read().records(name))


def test_croissant_leaves_out_files_of_no_split(folder):
    """As an incomplete build may have them, of images that are in no set of Kvasir-SEG."""
    mlc = pytest.importorskip("mlcroissant")
    table = pq.read_table(folder / "data/segmented/train_00.parquet", partitioning=None)
    ids = pa.array([f"another {image_id}" for image_id in table["image_id"].to_pylist()])
    others = table.set_column(table.schema.get_field_index("image_id"), "image_id", ids)
    pq.write_table(others, folder / "data/segmented/none_00.parquet")
    dataset = mlc.Dataset(str(folder / "croissant.json"), mapping={"repository": str(folder)})
    check_splits(folder, "kvasir_seg", dataset.records("kvasir_seg"))


def check_records(folder, config, records):
    """Every field of every record is that of the row in the Parquet files."""
    stored = {}
    for path in (folder / "data" / VIEWS[config].part).rglob("*.parquet"):
        stored |= {row["image_id"]: row for row in pq.read_table(path, partitioning=None).to_pylist()}
    for record in records:
        record = {name.removeprefix(f"{config}/"): value for name, value in record.items()}
        record.pop("split", None)
        assert {name.split("/")[0] for name in record} == set(features_of(config))
        row = stored[plain(record["image_id"])]
        for name, value in record.items():
            column, _, key = name.partition("/")
            wanted = row[column][key] if key else row[column]
            if isinstance(value, Image.Image):
                assert np.array_equal(value, Image.open(io.BytesIO(wanted["bytes"])))
            else:
                assert plain(value) == wanted, name


def test_the_pieces_of_paths_that_say_the_split():
    """Whether a reader searches or matches, and wherever the folder is."""
    for config, path, piece in (
        ("fold_5", "data/labeled/upper-gi-tract/x/fold2-1_fold5-3_00.parquet", "3"),
        ("fold_2", "data/labeled/upper-gi-tract/x/fold2-1_fold5-3_00.parquet", "1"),
        ("tract", "data/labeled/upper-gi-tract/x/fold2-1_fold5-3_00.parquet", "upper-gi-tract"),
        ("kvasir_seg", "data/segmented/validation_00.parquet", "validation"),
    ):
        regex = croissant._split_field(config)["source"]["transform"]["regex"]
        for text in (path, f"/home/u2/data/train_0/{path}", piece):
            assert re.search(regex, text)[1] == re.match(regex, text)[1] == piece
        assert not re.search(regex, f"{path}.incomplete") and not re.match(regex, "data/segmented/none_00.parquet")


def check_splits(folder, config, records):
    """Every record is in the split that load_dataset has it in."""
    import datasets

    found = {plain(record[f"{config}/image_id"]): plain(record[f"{config}/split"]) for record in records}
    names = dict(zip(VIEWS[config].splits, map(str, VIEWS[config].values)))
    loaded = datasets.load_dataset(str(folder), config)
    assert found == {image_id: names[split] for split, rows in loaded.items() for image_id in rows["image_id"]}


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
