"""What changed in a built folder since another version of it: a folder, or a revision on the Hub.

Rows are compared by what they hold: images by their bytes, masks and instances by their pixels. Files whose digests are
the same are not compared. In a folder, digests are those of the files themselves, as they may have been damaged since.
"""

import base64
import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.parquet as pq
from datasets import ClassLabel

from scripts.pipeline.configs import METADATA, features_of
from scripts.pipeline.console import Progress
from scripts.pipeline.hub import PublishError
from scripts.pipeline.manifest import part_of_path
from scripts.pipeline.review.pictures import SIDE, decoded, encoded, scaled, size_at
from scripts.pipeline.review.rows import annotation, pixels
from scripts.pipeline.verify import UNREADABLE
from scripts.pipeline.versions import Version

SIDE_BY_SIDE = 24  # changed rows whose pictures are shown
BATCH = 16  # rows at a time
MOST_LETTERS = 120  # of a value before and after


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
    columns: {part: sentences on columns that only one version has}. configs: those that only one version has, by
    "added" and "removed". lost: what could not be compared, and why.
    """

    against: str
    files: int  # that differ, and so were read
    added: dict[str, list[str]] = field(default_factory=dict)
    removed: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[dict]] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    configs: dict[str, list[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> dict[str, int]:
        """{"added", "removed", "changed": rows}"""
        return {name: sum(map(len, getattr(self, name).values())) for name in ("added", "removed", "changed")}


# --------------------------------------------------------------------------------------------------------- comparing


def compare(before: Version, after: Version) -> Changes:
    """What changed from one version to another.

    A file that cannot be read is compared in neither version, and a missing one has no rows: both are named.
    """
    changes = Changes(before.name, 0)
    digests = [_digests(version, changes.lost) for version in (before, after)]
    paths = [_differing(one, other) for one, other in (digests, digests[::-1])]
    with Progress(sum(map(len, paths)), "comparing", unit=" files") as bar:
        read = [_rows(version, some, bar, changes.lost) for version, some in zip((before, after), paths)]
    unread = {path for digest in digests for path, sha256 in digest.items() if sha256 is UNKNOWN}
    unread |= {path for (_, there), some in zip(read, paths) for path in set(some) - there}
    changes.files = sum(len(there - unread) for _, there in read)
    old, new = ({key: place for key, place in rows.items() if place.path not in unread} for rows, _ in read)
    configs = [version.manifest["configs"] for version in (before, after)]
    _keep(changes.configs, "added", [config for config in configs[1] if config not in configs[0]])
    _keep(changes.configs, "removed", [config for config in configs[0] if config not in configs[1]])
    for part in dict.fromkeys(part for part, _ in [*old, *new]):
        _compare_part(changes, part, *({i: row for (of, i), row in rows.items() if of == part} for rows in (old, new)))
    _draw(changes, (before, old), (after, new))
    return changes


def _compare_part(changes, part, old, new):
    """Notes what changed in a part, of which {image id: Place} of both versions are given."""
    both = sorted(old.keys() & new.keys())
    found = [_changed(part, image_id, old[image_id].values, new[image_id].values) for image_id in both]
    _keep(changes.added, part, sorted(new.keys() - old.keys()))
    _keep(changes.removed, part, sorted(old.keys() - new.keys()))
    _keep(changes.changed, part, sorted((row for row in found if row["columns"]), key=lambda row: not _seen(row)))
    _keep(changes.columns, part, _column_sentences(old, new))


def _draw(changes, before, after):
    """Adds pictures to the first rows that changed; `before` and `after` are (Version, {(part, image id): Place})."""
    changed = [(part, row) for part, rows in changes.changed.items() for row in rows if part != METADATA]
    first = sorted(changed, key=lambda of: not _seen(of[1]))[:SIDE_BY_SIDE]
    for name, (version, places) in (("before", before), ("after", after)):
        wanted = defaultdict(dict)
        for part, row in first:
            if name == "after" or _seen(row):
                place = places[part, row["id"]]
                wanted[place.path][place.values["image_id"]] = row
        for path, rows in wanted.items():
            for image_id, found in version.rows(path, rows).items():
                rows[image_id][name] = _picture(found)


def _seen(row):
    """Whether a change is seen in a picture of the row."""
    return any(column["name"] in ("image", "mask", "instances", "objects") for column in row["columns"])


def _keep(of, part, some):
    if some:
        of[part] = some


UNKNOWN = object()  # in the place of a digest, of a file that is there and cannot be read


def _digests(version, lost):
    """{path: sha256} of the data files of a version that are there. What is wrong is added to `lost`."""
    found = {}
    for path in version.manifest["files"]:
        try:
            digest = version.digest(path)
        except OSError as error:
            found[path] = UNKNOWN
            lost.append(f"{path} of {version.name}, which cannot be read ({error.strerror or error})")
            continue
        if digest is None:
            lost.append(f"{path} of {version.name}, which is missing: it counts as without rows")
        else:
            found[path] = digest
    return found


def _differing(digests, other):
    """The files that can be read and are not, byte for byte, in the other version."""
    return [path for path, sha256 in digests.items() if sha256 is not UNKNOWN and other.get(path) != sha256]


def _rows(version, paths, bar, lost):
    """({(part, image id): Place} of some files of a version, those of the files that could be read)"""
    rows, there = {}, set()
    for path in paths:
        part = part_of_path(path)
        try:
            of_file = {}
            for place in _places(path, version.opened(path)):
                of_file.setdefault((part, str(place.values["image_id"])), place)  # as `find_rows` finds the first
            for key, place in of_file.items():
                rows.setdefault(key, place)
            there.add(path)
        except (OSError, ValueError, LookupError, NotImplementedError, PublishError) as error:
            text = re.sub(r" '/[^']*/(data/[^']*)'", r" '\1'", str(error))  # the page may travel
            lost.append(f"{path} of {version.name}, which cannot be read ({text})")
        bar.update(1)
    return rows, there


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
    if value is None:
        return "none"
    feature = features_of(part).get(name)
    if name in ("image", "mask", "instances"):
        return f"sha256 {value[:12]}…"
    if isinstance(feature, ClassLabel) and value in range(feature.num_classes):
        return feature.int2str(value)
    text = str(value["bbox"] if name == "objects" else value)
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
