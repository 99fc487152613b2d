"""Which rows an export has, and the split of each: those of a view, or of a column of `metadata`."""

import hashlib
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from hyper_kvasir import VIEWS
from scripts.pipeline.configs import METADATA
from scripts.pipeline.manifest import matching, part_of_path
from scripts.pipeline.verify import UNREADABLE, check_schema
from scripts.pipeline.versions import Version

PICTURES = ("image", "mask", "instances")

# Columns of `metadata` that give splits without leaks, with the part whose rows they split.
GROUPED = {"fold_2_grouped": "labeled", "fold_5_grouped": "labeled", "kvasir_seg_clean": "segmented"}
CONFIGS = {**{name: view.part for name, view in VIEWS.items()}, **GROUPED}  # what can be exported, with its part


class Chosen(NamedTuple):
    """The rows of an export: the splits in order, and {path: its split, or that of each image id}.

    `others` are the files that tell the splits.
    """

    part: str
    splits: list[str]
    files: dict[str, str | dict[str, str]]
    others: tuple[str, ...] = ()

    def bytes(self, path: str, size: int) -> float:
        """About how much of a file of so many bytes is of these splits."""
        split = self.files[path]
        return size if isinstance(split, str) else size * sum(of in self.splits for of in split.values()) / len(split)

    def rows(self, version: Version, path: str) -> Iterator[tuple[str, list[dict]]]:
        """(split, its rows) of a file. Raises ValueError for a file of other content than it should have."""
        split, rows = self.files[path], _read_rows(version, path, self.part)
        if isinstance(split, str):
            yield split, rows
            return
        for name in self.splits:
            some = [row for row in rows if split.get(row["image_id"]) == name]
            if some:
                yield name, some


def choose(version: Version, config: str, split: str | None = None) -> Chosen:
    """The rows of a config, or of one split of it. Raises ValueError, saying what there is, where it is not there."""
    chosen = _grouped(version, config) if config in GROUPED else _view(version, config)
    if split is None:
        return chosen
    if split not in chosen.splits:
        raise ValueError(f"{config} of {version.name}: no split {split!r}; there are {', '.join(chosen.splits)}")
    files = {path: of for path, of in chosen.files.items() if of == split or not isinstance(of, str)}
    return chosen._replace(splits=[split], files=files)


def _view(version, config):
    configs = version.manifest["configs"]
    if config not in configs:
        raise ValueError(f"{version.name}: has no config {config!r}; there are {', '.join(configs)}")
    there = version.manifest["files"]
    part = CONFIGS[config]
    files = {path: split for split, of in configs[config].items() for path in matching(of["files"], there)}
    if not files or any(part_of_path(path) != part for path in files):
        raise ValueError(
            f"{version.name}: its manifest gives {config} no files, or those of another part; it is damaged"
        )
    return Chosen(part, list(configs[config]), files)


def _grouped(version, column):
    part, there = CONFIGS[column], sorted(version.manifest["files"])
    files = {of: [path for path in there if part_of_path(path) == of] for of in (part, METADATA)}
    for of, paths in files.items():
        if not paths:
            advice = "; run python -m scripts.quality" if of == METADATA else ""
            text = f"has no config {of!r}, which {column} takes its rows from{advice}"
            raise ValueError(f"{version.name}: {text}; there are {', '.join(version.manifest['configs'])}")
    split_of = {}
    for path in files[METADATA]:
        file = io.BytesIO(_read(version, path))
        if column not in pq.read_schema(file).names:
            raise ValueError(f"{path} of {version.name}: has no {column}; run python -m scripts.quality again")
        for row in pq.read_table(file, columns=["image_id", column]).to_pylist():
            if row[column] is not None:
                split_of[row["image_id"]] = f"fold_{row[column]}" if isinstance(row[column], int) else row[column]
    splits = sorted(set(split_of.values()))  # by luck, "train" comes before "validation"
    if not splits or not all(re.fullmatch(r"fold_\d+|train|validation", split) for split in splits):
        raise ValueError(
            f"{version.name}: metadata has no {column}, or one of its own; run python -m scripts.quality again"
        )
    return Chosen(part, splits, dict.fromkeys(files[part], split_of), tuple(files[METADATA]))


def _read_rows(version: Version, path: str, part: str) -> list[dict]:
    """The rows of a data file of a part, images as {"bytes", "path"}. Raises ValueError for what cannot be exported.

    Anybody may have made the file: ids become names of files, and masks are taken to be of the size of their image.
    """
    table, problems = pq.read_table(io.BytesIO(_read(version, path)), partitioning=None), []
    check_schema(path, table.schema, part, problems, "max_side" in version.manifest)
    rows, seen = [] if problems else table.to_pylist(), set()
    for row in rows:
        wrong = _wrong(row, seen)
        if wrong:
            problems.append(f"{path}: {row['image_id']!a}: {wrong}")
    if problems:
        raise ValueError(f"{version.name}: {problems[0]}; it is damaged, or not of this project")
    return rows


def _wrong(row, seen):
    """What is wrong with a row, or None. `seen` has the ids before it."""
    image_id = row["image_id"]
    if not image_id or not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]*", image_id):
        return "is no id, as it would be no name of a file"
    if image_id in seen:
        return "is there twice"
    seen.add(image_id)
    empty = [name for name in (*PICTURES, "objects") if name in row and row[name] is None]
    empty += ["label"] if "tract" in row and row["label"] is None else []
    if empty:
        return f"has no {empty[0]}"
    for name in PICTURES if "mask" in row else ():
        try:
            with Image.open(io.BytesIO(row[name]["bytes"])) as picture:
                form = picture.size, picture.mode
        except UNREADABLE as error:
            return f"{name} cannot be read ({error})"
        mode = {"image": form[1], "mask": "L", "instances": "P"}[name]
        if form != ((row["width"], row["height"]), mode):
            return f"{name} of {form[0]} pixels and mode {form[1]}, expected {(row['width'], row['height'])} and {mode}"
    return None


def _read(version: Version, path: str) -> bytes:
    """A data file, whole. Raises ValueError where it is not the one that the manifest names."""
    data = version.read(path)
    found, known = hashlib.sha256(data).hexdigest(), version.manifest["files"][path]["sha256"]
    if found != known:
        raise ValueError(f"{path} of {version.name}: sha256 {found}, expected {known}; it is damaged")
    return data
