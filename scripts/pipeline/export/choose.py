"""Which rows an export has, and the split of each: those of a view, or of a column of `metadata`."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from hyper_kvasir import VIEWS
from scripts.pipeline.configs import METADATA
from scripts.pipeline.manifest import matching, part_of_path
from scripts.pipeline.versions import Version

# Columns of `metadata` that give splits without leaks, with the part whose rows they split.
GROUPED = {"fold_2_grouped": "labeled", "fold_5_grouped": "labeled", "kvasir_seg_clean": "segmented"}
CONFIGS = {**{name: view.part for name, view in VIEWS.items()}, **GROUPED}  # what can be exported, with its part


class Chosen(NamedTuple):
    """The rows of an export: the splits in order, and {path: its split, or that of each image id}."""

    part: str
    splits: list[str]
    files: dict[str, str | dict[str, str]]

    def rows(self, version: Version, path: str) -> Iterator[tuple[str, list[dict]]]:
        """(split, its rows) of a file. Raises ValueError for a file of other content than its manifest says."""
        split, rows = self.files[path], read_rows(version, path)
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
    return Chosen(chosen.part, [split], files)


def _view(version, config):
    configs = version.manifest["configs"]
    if config not in configs:
        raise ValueError(f"{version.name}: has no config {config!r}; there are {', '.join(configs)}")
    there = version.manifest["files"]
    files = {path: split for split, of in configs[config].items() for path in matching(of["files"], there)}
    return Chosen(CONFIGS[config], list(configs[config]), files)


def _grouped(version, column):
    part, there = CONFIGS[column], sorted(version.manifest["files"])
    files = {of: [path for path in there if part_of_path(path) == of] for of in (part, METADATA)}
    for of, paths in files.items():
        if not paths:
            advice = "; run python -m scripts.quality" if of == METADATA else ""
            raise ValueError(f"{version.name}: has no config {of!r}, which {column} takes its rows from{advice}")
    split_of = {}
    for path in files[METADATA]:
        table = pq.read_table(io.BytesIO(read(version, path)), columns=["image_id", "parts", column])
        for row in table.to_pylist():
            if part in row["parts"] and row[column] is not None:
                split_of[row["image_id"]] = f"fold_{row[column]}" if isinstance(row[column], int) else row[column]
    splits = sorted(set(split_of.values()))  # by luck, "train" comes before "validation"
    if not splits:
        raise ValueError(f"{version.name}: no row of metadata has {column}; run python -m scripts.quality again")
    return Chosen(part, splits, dict.fromkeys(files[part], split_of))


def read_rows(version: Version, path: str) -> list[dict]:
    """The rows of a data file, images as {"bytes", "path"}."""
    return pq.read_table(io.BytesIO(read(version, path)), partitioning=None).to_pylist()


def read(version: Version, path: str) -> bytes:
    """A data file, whole. Raises ValueError where it is not the one that the manifest names."""
    file = version.opened(path)
    data = file.getvalue() if isinstance(file, io.BytesIO) else Path(file).read_bytes()
    found, known = hashlib.sha256(data).hexdigest(), version.manifest["files"][path]["sha256"]
    if found != known:
        raise ValueError(f"{path} of {version.name}: sha256 {found}, expected {known}; build it again")
    return data
