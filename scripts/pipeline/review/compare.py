"""What changed in a built folder since another version of it: a folder, or a revision on the Hub.

Rows are compared by what they hold: images by their bytes, masks and instances by their pixels. Files whose digests are
the same are not read.
"""

import base64
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.parquet as pq
from datasets import ClassLabel

from scripts.pipeline.configs import METADATA, features_of
from scripts.pipeline.console import Progress
from scripts.pipeline.hub import PublishError, Repository, patiently
from scripts.pipeline.manifest import FILE, built_manifest, part_of_path
from scripts.pipeline.parquet import find_rows
from scripts.pipeline.published import parse_at
from scripts.pipeline.review.pictures import SIDE, decoded, encoded, scaled, size_at
from scripts.pipeline.review.rows import annotation, pixels
from scripts.pipeline.verify import UNREADABLE

SIDE_BY_SIDE = 24  # changed rows whose pictures are shown
BATCH = 16  # rows at a time
MOST_LETTERS = 120  # of a value before and after


class Version(NamedTuple):
    """A built folder, or a revision on the Hub: its name in words, its manifest, and how a data file is opened."""

    name: str
    manifest: dict
    opened: Callable[[str], object]  # path -> what pq.ParquetFile takes
    row: Callable[[str, str], dict]  # (path, image id) -> the row


class Place(NamedTuple):
    """Where a row is, and what it holds: digests of pictures, other values themselves."""

    path: str
    names: tuple[str, ...]  # the same for all rows of a file, as there may be 110,079
    row: tuple

    @property
    def values(self) -> dict:
        """{column: value or digest}"""
        return dict(zip(self.names, self.row))


@dataclass
class Changes:
    """What differs from another version, by part.

    added, removed: {part: image ids}. changed: {part: [{"id", "columns": [{"name", "before", "after"}]}]}, what is seen
    in pictures first; the first SIDE_BY_SIDE also have "after", of `_picture`, and "before" if that is another one.
    columns: {part: sentences on columns that only one version has}.
    """

    against: str
    files: int  # that differ, and so were read
    added: dict[str, list[str]] = field(default_factory=dict)
    removed: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[dict]] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """{"added", "removed", "changed": rows}"""
        return {name: sum(map(len, getattr(self, name).values())) for name in ("added", "removed", "changed")}


# ---------------------------------------------------------------------------------------------------------- versions


def folder_version(folder: str, name: str | None = None) -> Version:
    """A built folder. Raises ValueError for any other."""
    folder = os.path.abspath(folder)

    def opened(path):
        return os.path.join(folder, path)

    def row(path, image_id):
        return find_rows([opened(path)], [image_id])[image_id]

    return Version(name or os.path.basename(folder), built_manifest(folder), opened, row)


def published_version(repository: Repository, revision: str) -> Version:
    """A revision on the Hub. Raises PublishError where there is none, or something else."""
    commit, where = repository.commit_of(revision), f"{repository.repo_id}@{revision}"
    if FILE not in repository.files(commit):
        raise PublishError(f"{where}: holds no {FILE}, so this project did not publish it")

    def opened(path):
        return io.BytesIO(repository.read_large(path, commit))

    def row(path, image_id):
        found = patiently(f"reading a row of {path}", lambda: find_rows([repository.open(path, commit)], [image_id]))
        return found[image_id]

    return Version(where, parse_at(repository, commit, f"{where}/{FILE}"), opened, row)


# --------------------------------------------------------------------------------------------------------- comparing


def compare(before: Version, after: Version) -> Changes:
    """What changed from one version to another. Raises ValueError, naming the file, where one cannot be read."""
    paths = [_differing(one.manifest, other.manifest) for one, other in ((before, after), (after, before))]
    changes = Changes(before.name, sum(map(len, paths)))
    with Progress(changes.files, "comparing", unit=" files") as bar:
        old, new = (_rows(version, some, bar) for version, some in zip((before, after), paths))
    for part in dict.fromkeys(part for part, _ in [*old, *new]):
        of_old, of_new = ({i: place for (of, i), place in rows.items() if of == part} for rows in (old, new))
        both = sorted(of_old.keys() & of_new.keys())
        found = [_changed(part, image_id, of_old[image_id].values, of_new[image_id].values) for image_id in both]
        _keep(changes.added, part, sorted(of_new.keys() - of_old.keys()))
        _keep(changes.removed, part, sorted(of_old.keys() - of_new.keys()))
        _keep(changes.changed, part, sorted((row for row in found if row["columns"]), key=lambda row: not _seen(row)))
        _keep(changes.columns, part, _column_sentences(of_old, of_new))
    changed = [(part, row) for part, rows in changes.changed.items() for row in rows if part != METADATA]
    for part, row in sorted(changed, key=lambda of: not _seen(of[1]))[:SIDE_BY_SIDE]:
        for name, version, rows in (("before", before, old), ("after", after, new)):
            if name == "after" or _seen(row):
                row[name] = _picture(version.row(rows[part, row["id"]].path, row["id"]))
    return changes


def _seen(row):
    """Whether a change is seen in a picture of the row."""
    return any(column["name"] in ("image", "mask", "instances", "objects") for column in row["columns"])


def _keep(of, part, some):
    if some:
        of[part] = some


def _differing(manifest, other):
    """The files of a manifest that are not, byte for byte, in the other."""
    there = {path: entry["sha256"] for path, entry in other["files"].items()}
    return [path for path, entry in manifest["files"].items() if there.get(path) != entry["sha256"]]


def _rows(version, paths, bar):
    """{(part, image id): Place} of some files of a version."""
    rows = {}
    for path in paths:
        part = part_of_path(path)
        try:
            rows |= {(part, str(place.values["image_id"])): place for place in _places(path, version.opened(path))}
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(f"{version.name}: {path} cannot be read, so it is not compared ({error})") from error
        bar.update(1)
    return rows


def _places(path, file):
    """The rows of a Parquet file."""
    with pq.ParquetFile(file, memory_map=True, pre_buffer=False) as parquet:
        names = tuple(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(BATCH, use_threads=False):
            for row in batch.to_pylist():
                yield Place(path, names, tuple(_digested(row[name]) for name in names))


def _digested(value):
    if not (isinstance(value, dict) and "bytes" in value):
        return value
    data = value["bytes"] or b""
    if data[:4] == b"\x89PNG":  # other versions of Pillow compress the same pixels otherwise
        try:
            array = pixels(data)
            data = repr(array.shape).encode() + array.tobytes()
        except UNREADABLE:
            pass
    return hashlib.sha256(data).hexdigest()


def _changed(part, image_id, old, new):
    """How a row changed: {"id", "columns"}, of the columns that both versions have."""
    names = [name for name in new if name in old and new[name] != old[name]]
    columns = [{"name": n, "before": _shown(part, n, old[n]), "after": _shown(part, n, new[n])} for n in names]
    return {"id": image_id, "columns": columns}


def _shown(part, name, value):
    """A value in words."""
    feature = features_of(part).get(name)
    if name in ("image", "mask", "instances"):
        return f"sha256 {value[:12]}…"
    if isinstance(feature, ClassLabel) and value in range(feature.num_classes):
        return feature.int2str(value)
    text = str(value["bbox"]) if name == "objects" else "none" if value is None else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _column_sentences(old, new):
    """What to say of columns that only one of two versions has, by any row of each."""
    if not old or not new:
        return []
    names = [set(next(iter(rows.values())).names) for rows in (old, new)]
    said = [f"The column {name} is gone." for name in sorted(names[0] - names[1])]
    return said + [f"The column {name} is new." for name in sorted(names[1] - names[0])]


def _picture(row):
    """A row for the page: {"width", "height", "picture": base64, "objects"}; None where it cannot be decoded."""
    try:
        width, height = row["width"], row["height"]
        size = size_at((width, height), SIDE)
        picture = encoded(scaled(decoded(row["image"]["bytes"], size), size))
        masks = [pixels(row[name]["bytes"]) for name in ("mask", "instances") if name in row]
        objects = annotation(*masks, row["objects"]["bbox"]) if masks else None
    except UNREADABLE:
        return None
    return {"width": width, "height": height, "picture": base64.b64encode(picture).decode(), "objects": objects}
