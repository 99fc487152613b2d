"""Checks a built folder by reading it alone: every file, every row, every number."""

import functools
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hyper_kvasir import (
    PARTS,
    TAXONOMY,
    Expected,
    Problems,
    SourceError,
    check_jpeg,
    instance_map,
    read_kvasir_seg,
)
from scripts.pipeline import leaks
from scripts.pipeline.card import stale
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.configs import METADATA, ORIGINAL_SIZE, VIEWS, features_of, looked_parts
from scripts.pipeline.console import Progress
from scripts.pipeline.files import absolute, below, check_address, is_address, opened, read, sizes
from scripts.pipeline.manifest import FILE, built_manifest, matching, part_of_path
from scripts.pipeline.parquet import entry_of, features_metadata, read_rows
from scripts.pipeline.plan import make_plan
from scripts.pipeline.pool import worker_pool
from scripts.pipeline.readers import does_not_load, stream_problems
from scripts.pipeline.small import check_small

UUID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


OF_SOME = (*leaks.SPLITS, *leaks.GROUPS.values(), "label", "category", "tract")
KVASIR_SEG = leaks.KVASIR_SEG_COLUMNS[:2]  # those of segmented images
MAY_BE_NULL = {  # in other parts, the folds that a split does not list
    METADATA: (*OF_SOME, "kvasir_seg_id"),
    "segmented": (*leaks.FOLDS, *KVASIR_SEG),
}
# Of metadata and a part.
COMPARED = ("sha256", "bytes", "width", "height", "label", "category", "tract", "fold_2", "fold_5", *KVASIR_SEG)

MOST_OBJECTS = 10  # of an official image

# What rows and images of any content raise when they are read.
UNREADABLE = (ValueError, OSError, TypeError, LookupError, SyntaxError, ArithmeticError, Image.DecompressionBombError)


class Check(NamedTuple):
    """A number of the dataset: what it counts, what it must be, what it is.

    `unread`: how much of it may be in rows that cannot be read, which are a problem of their own.
    """

    what: str
    expected: int
    found: int
    unread: int = 0

    @property
    def differs(self) -> bool:
        """Whether it is not as expected."""
        return self.found != self.expected

    @property
    def explained(self) -> bool:
        """Whether it differs, and the rows that cannot be read are enough of a reason."""
        return self.found < self.expected <= self.found + self.unread


@dataclass
class Verified:
    """What a folder was found to hold: its numbers, and what is wrong."""

    checks: list[Check] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    complete: bool = True

    def listed(self) -> list[str]:
        """Every problem as a line: what explains many of the others, then numbers that differ, then the rest.

        Numbers that differ only for the rows that cannot be read are left out: these rows are told.
        """
        first = [] if self.complete else ["built with --no-verify from an incomplete source; build it with checks on"]
        differing = [check for check in self.checks if check.differs and not check.explained]
        return first + [f"{c.what}: {c.found:,}, expected {c.expected:,}" for c in differing] + self.problems


class FileContent(NamedTuple):
    """What one Parquet file holds, without its images: columns as lists, in the file's order."""

    sha256: str
    columns: dict[str, list]
    crcs: list[int]  # of the image bytes
    instances: int | None  # None where the masks were not read
    boxes: int
    problems: list[str]
    lines: list[str] | None = None  # of `row_line`; None where the images were not read
    entry: dict | None = None  # what the footer says of the manifest entry, where it was read
    uncounted: int = 0  # rows whose instances could not be counted

    @classmethod
    def unreadable(cls, sha256: str, problems: list[str]) -> "FileContent":
        """Of a file in which nothing has a meaning."""
        return cls(sha256, {"image_id": []}, [], 0, 0, problems)


def verify(folder: str, expected: Expected, workers: int, *, sources: Sequence[str] = ()) -> Verified:
    """Checks everything in `folder`, and with `sources` compares its rows with the archives there.

    Returns all that was found. Raises ValueError where there is no manifest, or for an address that cannot be used.
    """
    folder = absolute(folder)  # pyarrow takes relative names for addresses, and expands ~
    if is_address(folder):
        check_address(folder)
    manifest = built_manifest(folder, at_address=True)
    result = Verified(configs=list(manifest["configs"]), complete=manifest["complete"])
    paths = _check_files(folder, manifest, result)
    max_side = manifest.get("max_side")
    contents = read_contents(folder, paths, workers, max_side=max_side)
    check_contents(manifest, contents, expected, result)
    if sources:
        sound = {path for path, content in contents.items() if not content.problems}
        result.problems += compare_sources(folder, manifest, sources, expected, sound=sound, workers=workers)
    _check_card(folder, manifest, result)
    if not is_address(folder):  # load_dataset takes none for a dataset
        stream = functools.partial(stream_problems, folder, small=max_side is not None)
        check_loading(manifest, result, stream)
    return result


def check_contents(manifest: dict, contents: dict[str, FileContent], expected: Expected, result: Verified) -> None:
    """Checks the files' contents against the manifest, each other and the expected numbers."""
    for path, content in contents.items():
        _check_entry(path, manifest["files"][path], content, result)
    unread = _unread(manifest, contents)
    _check_ids(contents, unread, result)
    _check_folds(contents, result)
    _check_kvasir_seg(contents, result)
    _count(manifest, contents, expected, unread, result)
    _check_views(manifest, contents, result)
    _check_metadata(contents, unread, result)
    _check_part_digests(manifest, contents, expected, result)


def _check_files(folder, manifest, result):
    """The manifest against the files on disk; returns those that are in both."""
    listed = set(manifest["files"])
    there = {*below(folder), *sizes(folder, listed)}  # in linked folders, too
    result.problems += [f"{path}: in {FILE}, but not in the folder" for path in sorted(listed - there)]
    stray = {path for path in there - listed if path.endswith(".parquet")}
    text = f"in the folder, but not in {FILE}; remove it, or build again"
    result.problems += [f"{path}: {text}" for path in sorted(stray)]
    unknown = {part_of_path(path) for path in listed} - {METADATA, *manifest["sources"]}
    result.problems += [f"{part}: {FILE} does not say from which source it is; build it again" for part in unknown]
    return sorted(listed & there)


def read_contents(
    folder: str, paths: list[str], workers: int, *, max_side: int | None = None
) -> dict[str, FileContent]:
    """Reads files whole, in parallel; with `max_side`, of the small edition."""
    bytes_of = sizes(folder, paths)
    with worker_pool(workers) as pool, Progress(sum(bytes_of.values()), "verifying") as bar:
        contents = {}
        for path, content in zip(paths, pool.map(functools.partial(read_content, folder, max_side=max_side), paths)):
            contents[path] = content
            bar.update(bytes_of.get(path, 0))
    return contents


def read_content(folder: str, path: str, max_side: int | None = None) -> FileContent:
    """Reads a file whole and checks each of its rows; with `max_side`, of the small edition."""
    return check_file(read(os.path.join(folder, path)) or b"", path, max_side)


def check_file(data: bytes, path: str, max_side: int | None = None) -> FileContent:
    """Checks each row of the file that `data` is the content of; with `max_side`, of the small edition."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return _read_table(data, sha256, path, max_side)
    except (pa.ArrowException, AttributeError, *UNREADABLE) as error:
        text = f"{path}: not a readable Parquet file: {type(error).__name__}: {error}"
        return FileContent.unreadable(sha256, [text])


def _read_table(data, sha256, path, max_side):
    part, problems = part_of_path(path), []
    file = pq.ParquetFile(pa.BufferReader(data))
    table = file.read()
    if file.num_row_groups != 1:
        problems.append(f"{path}: {file.num_row_groups} row groups, expected 1 (streaming would hang at exit)")
    check_schema(path, table.schema, part, problems, max_side is not None)
    scalars = [name for name in table.schema.names if not pa.types.is_nested(table.schema.field(name).type)]
    empty = [name for name in scalars if table[name].null_count and name not in MAY_BE_NULL.get(part, leaks.FOLDS)]
    problems += [f"{path}: empty values in column {name}" for name in empty]
    if problems:
        return FileContent.unreadable(sha256, problems)
    if part == METADATA:
        return metadata_content(file, sha256, path)
    crcs, lines, instances, boxes, digests, sizes, uncounted = [], [], 0, 0, [], [], 0
    for row in _rows(table):
        number = None  # of its instances
        boxes += len(row["objects"]["id"]) if part == "segmented" else 0
        try:
            crcs.append(crc32(row["image"]["bytes"]))
            digests.append(hashlib.sha256(row["image"]["bytes"]).hexdigest())
            sizes.append(len(row["image"]["bytes"]))
            _check_row(row, part)
            pixels = {}
            if max_side:
                check_small(row, max_side)
            if part == "segmented":
                pixels, number = _check_masks(row, small=max_side is not None)
                _check_boxes(row, small=max_side is not None)
            lines.append(row_line(row, pixels))
        except UNREADABLE as error:
            problems.append(f"{path}: {row['image_id']}: {error}")
        instances += number or 0
        uncounted += number is None
    entry = _footer_entry(file, path, problems)
    columns = comparable(table.select(scalars).to_pydict(), {"sha256": digests, "bytes": sizes})
    return FileContent(sha256, columns, crcs, instances, boxes, problems, lines, entry, uncounted)


def comparable(columns: dict, of_files: dict | None = None) -> dict:
    """The columns of a file with those `of_files`, as `metadata` has them: of the original images."""
    if ORIGINAL_SIZE[0] not in columns:
        return {**columns, **(of_files or {})}
    return {**columns, **{name.removeprefix("original_"): columns[name] for name in ORIGINAL_SIZE}}


def metadata_content(file: pq.ParquetFile, sha256: str, path: str) -> FileContent:
    """What a file of `metadata` holds, whose columns are as they should be; its rows are checked, seen alone."""
    table = file.read(use_threads=False)
    problems = [f"{path}: {text}" for text in leaks.problems_of(leaks.rows_of(table))]
    entry = _footer_entry(file, path, problems)
    columns = table.select(["image_id", "parts", *COMPARED]).to_pydict()
    return FileContent(sha256, columns, [], 0, 0, problems, None, entry)


def _footer_entry(file, path, problems):
    try:
        return entry_of(file.metadata)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return {}


def _rows(table):
    """Rows as dicts, one at a time: images are large."""
    for batch in table.to_batches(max_chunksize=16):
        yield from batch.to_pylist()


def check_schema(path: str, schema: pa.Schema, part: str, problems: list[str], small: bool = False) -> None:
    """Checks the columns of a file, and the features in its metadata; `small`: in the small edition."""
    if not schema.remove_metadata().equals(features_of(part, small).arrow_schema.remove_metadata()):
        problems.append(f"{path}: columns {schema.names} with types other than those of {part!r}")
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    if metadata.get("info", {}).get("features") != features_metadata(part, small):
        problems.append(f"{path}: the features in its metadata are not those of {part!r}")


def _check_row(row, part):
    if not UUID.fullmatch(row["image_id"]):
        raise ValueError("not a uuid in lower case")
    for name, suffix in (("image", "jpg"), *((("mask", "png"), ("instances", "png")) if part == "segmented" else ())):
        if row[name]["path"] != f"{row['image_id']}.{suffix}":
            raise ValueError(f"{name} path {row[name]['path']!r}, expected {row['image_id']}.{suffix}")
    size = check_jpeg(row["image"]["bytes"])
    if size != (row["width"], row["height"]):
        raise ValueError(f"image of {size[0]} x {size[1]} pixels, columns say {row['width']} x {row['height']}")
    if part == "labeled":
        finding = TAXONOMY[row["label"]]
        category, tract = (VIEWS[column].values[row[column]] for column in ("category", "tract"))
        if (category, tract) != (finding.category, finding.tract):
            raise ValueError(f"{finding.name} in {category}, {tract}; expected {finding.category}, {finding.tract}")
    if part == "segmented" and TAXONOMY[row["label"]].name != "polyps":
        raise ValueError(f"label {TAXONOMY[row['label']].name}, expected polyps")


def _check_masks(row, small):
    """Checks mask and instances; returns their pixels, and the number of instances."""
    pixels, palettes, size = {}, {}, (row["width"], row["height"])
    for name, mode in (("mask", "L"), ("instances", "P")):
        with Image.open(io.BytesIO(row[name]["bytes"]), formats=["PNG"]) as image:
            if (image.mode, image.size) != (mode, size):
                raise ValueError(f"{name} of mode {image.mode} and {image.size} pixels, expected {mode} and {size}")
            pixels[name] = np.asarray(image)
            palettes[name] = image.getpalette()
    if not set(np.unique(pixels["mask"])) <= {0, 255} or not (pixels["mask"].any() or small):
        raise ValueError("mask is empty or has values other than 0 and 255")
    number = len(palettes["instances"]) // 3 - 1
    # Of a small one, any map of as many instances has the palette.
    wanted = instance_map(np.tile([True, False], (1, number)) if small else pixels["mask"] > 0)
    if small:  # components may have been cut in two, or joined, or be gone
        good = np.array_equal(pixels["mask"] > 0, pixels["instances"] > 0) and pixels["instances"].max() <= number
    else:
        good = np.array_equal(wanted, pixels["instances"])
    if not good:
        raise ValueError("instances are not the components of the mask")
    if palettes["instances"] != wanted.getpalette():
        raise ValueError("instances have other colors than are given to them")
    return pixels, number


def _check_boxes(row, small):
    """Checks the objects. In the small edition areas are rounded to whole numbers."""
    objects = row["objects"]
    if not len(objects["id"]) == len(objects["bbox"]) == len(objects["area"]) == len(objects["category"]) > 0:
        raise ValueError("objects of differing lengths, or none")
    if objects["id"] != list(range(len(objects["id"]))) or set(objects["category"]) != {0}:
        raise ValueError(f"objects with ids {objects['id']} and categories {objects['category']}, expected 0... and 0")
    for (x, y, width, height), area in zip(objects["bbox"], objects["area"]):
        inside = x >= 0 and y >= 0 and x + width <= row["width"] and y + height <= row["height"]
        if not inside or min(width, height) <= 0 or abs(width * height - area) > (0.5 if small else 0):
            raise ValueError(f"box {[x, y, width, height]} of area {area} is out of bounds, empty or miscounted")


def _check_entry(path, entry, content, result):
    rows = len(content.columns["image_id"])
    if content.sha256 != entry["sha256"]:
        text = f"sha256 is {content.sha256}, {FILE} says {entry['sha256']}; delete the file and build again"
        result.problems.append(f"{path}: {text}")
    if rows != entry["rows"] and not content.problems:
        result.problems.append(f"{path}: {rows:,} rows, {FILE} says {entry['rows']:,}")
    for name, value in (content.entry or {}).items():
        if value != entry[name]:
            result.problems.append(f"{path}: its {name} is {value}, {FILE} says {entry[name]}; build again")
    result.problems += content.problems


def _unread(manifest, contents):
    """{path: rows by the manifest} of the files that are not there or cannot be read."""
    read = {path for path, content in contents.items() if content.columns["image_id"] or not content.problems}
    return {path: entry["rows"] for path, entry in manifest["files"].items() if path not in read}


def _rows_of(unread, part):
    return sum(rows for path, rows in unread.items() if part_of_path(path) == part)


def _ids(contents, part):
    """{image id: (path, row number)} of a part."""
    return {
        image_id: (path, i)
        for path, content in contents.items()
        if part_of_path(path) == part
        for i, image_id in enumerate(content.columns["image_id"])
    }


def _check_ids(contents, unread, result):
    """Ids are unique in a part, no labeled one is unlabeled, segmented ones are labeled polyps of equal bytes."""
    for path, content in contents.items():
        if content.columns["image_id"] != sorted(content.columns["image_id"]):
            result.problems.append(f"{path}: rows are not sorted by image_id")
    ids = {part: _ids(contents, part) for part in PARTS}
    for part, found in ids.items():
        rows = sum(len(c.columns["image_id"]) for path, c in contents.items() if part_of_path(path) == part)
        if len(found) != rows:
            result.problems.append(f"{part}: rows that repeat an image id: {rows - len(found):,}")
    both = set(ids["labeled"]) & set(ids["unlabeled"])
    if both:
        result.problems.append(f"{len(both):,} ids are both labeled and unlabeled, e.g. {min(both)}")
    alone = sorted(ids["segmented"].keys() - ids["labeled"].keys()) if ids["labeled"] else []
    if len(alone) > _rows_of(unread, "labeled"):  # else they may be in what cannot be read
        result.problems += [
            f"{ids['segmented'][image_id][0]}: {image_id} is segmented and has no labeled row" for image_id in alone
        ]
    for image_id in sorted(ids["segmented"].keys() & ids["labeled"].keys()):
        path, i = ids["segmented"][image_id]
        labeled_path, j = ids["labeled"][image_id]
        one, other = contents[path], contents[labeled_path]
        for column in ("label", "fold_2", "fold_5"):
            if one.columns[column][i] != other.columns[column][j]:
                result.problems.append(f"{path}: {image_id} has another {column} in {labeled_path}")
        if one.crcs and other.crcs and one.crcs[i : i + 1] != other.crcs[j : j + 1]:
            result.problems.append(f"{path}: {image_id} has other image bytes in {labeled_path}")


def _check_folds(contents, result):
    """Every image that has folds is in one of each official split."""
    for path, content in _of_parts(contents).items():
        for column in ("fold_2", "fold_5"):
            found, folds = set(content.columns.get(column, ())), VIEWS[column].values
            if not found <= set(folds):
                result.problems.append(f"{path}: {column} has {sorted(map(str, found))}, expected 0 to {folds[-1]}")


def _check_kvasir_seg(contents, result):
    """Names and sets of segmented images in Kvasir-SEG are those that this project lists."""
    known = read_kvasir_seg()
    for path, content in contents.items():
        if part_of_path(path) == "segmented" and set(KVASIR_SEG) <= set(content.columns):
            for image_id, *found in zip(*(content.columns[name] for name in ("image_id", *KVASIR_SEG))):
                wanted = known.get(image_id, (None, None))
                if tuple(found) != wanted:
                    wrong = dict(zip(KVASIR_SEG, zip(found, wanted)))
                    texts = [f"{name} is {here}, expected {there}" for name, (here, there) in wrong.items()]
                    result.problems.append(f"{path}: {image_id}: {'; '.join(texts)}")


def _of_parts(contents):
    return {path: content for path, content in contents.items() if part_of_path(path) != METADATA}


def _check_metadata(contents, unread, result):
    """The rows of metadata are of the images of the parts that are here, and say of them what their rows do."""
    rows = {
        image_id: {name: values[i] for name, values in content.columns.items()}
        for path, content in contents.items()
        if part_of_path(path) == METADATA and not content.problems
        for i, image_id in enumerate(content.columns["image_id"])
    }
    again = "made of other images than those here; make it again by scripts.quality, or with --config metadata"
    of = {part for row in rows.values() for part in row["parts"]}
    for part in PARTS:
        here = _ids(contents, part) if part in of else {}
        missing = [image_id for image_id in here if image_id not in rows or part not in rows[image_id]["parts"]]
        gone = [image_id for image_id, row in rows.items() if part in row["parts"] and here and image_id not in here]
        gone = gone if len(gone) > _rows_of(unread, part) else []  # else they may be in what cannot be read
        for what, ids in (("have no row", missing), ("are not there", gone)):
            if ids:
                text = f"{len(ids):,} images of {part} {what} (e.g. {min(ids)}): it was {again}"
                result.problems.append(f"{METADATA}: {text}")
        other = []
        for image_id, (path, i) in here.items():
            columns = contents[path].columns
            row = rows.get(image_id, {})  # of files that are not built yet, some columns are known
            names = [name for name in COMPARED if len(columns.get(name, ())) > i and name in row]
            other += [(image_id, name) for name in names if columns[name][i] != row[name]]
        if other:
            text = f"{other[0][1]} of {other[0][0]} and {len(other) - 1:,} more values differ from those in {part}"
            result.problems.append(f"{METADATA}: {text}: it was {again}")


def row_line(row: dict, pixels: dict) -> str:
    """What a row must hold to be the official one, as a line that begins with its id.

    Of labeled images: label and folds; of segmented ones also image bytes, `pixels` of mask and instances, and boxes.
    """
    line = f"{row['image_id']} {row['label']} {row['fold_2']} {row['fold_5']}" if "label" in row else row["image_id"]
    if pixels:
        data = (row["image"]["bytes"], pixels["mask"].tobytes(), pixels["instances"].tobytes())
        digests = " ".join(hashlib.sha256(some).hexdigest() for some in data)
        line += f" {digests} {[[int(side) for side in box] for box in row['objects']['bbox']]}"
    return line


def part_digest(lines: Iterable[str]) -> str:
    """The sha256 of the lines of a part's rows, in the order of their ids."""
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def _check_part_digests(manifest, contents, expected, result):
    """The rows of a part are those that are known; of segmented images, if they are from the source that is known."""
    for part, wanted in expected.part_digests.items():
        of = [content for path, content in contents.items() if part_of_path(path) == part]
        source = manifest["sources"].get(part, {})
        if part == "segmented" and (source.get("content") != expected.segmented_content or "max_side" in manifest):
            continue
        if not of or any(content.lines is None or content.problems for content in of):
            continue
        lines = [line for content in of for line in content.lines]
        if len(lines) == getattr(expected, part) and part_digest(lines) != wanted:
            text = f"the rows have the digest {part_digest(lines)}, expected {wanted}; to see which of them differ, run"
            result.problems.append(f"{part}: {text} python -m scripts.verify with --source ARCHIVES")


def _count(manifest, contents, expected, unread, result):
    """Counts every number of the dataset that the folder's configs hold."""
    checks = result.checks
    for config in result.configs:
        splits = manifest["configs"][config]
        for split, rows in _expected_rows(config, contents, expected).items():
            pattern = splits[split]["files"] if split in splits else ""
            found = sum(len(contents[path].columns["image_id"]) for path in matching(pattern, contents))
            lost = sum(unread[path] for path in matching(pattern, unread))
            checks.append(Check(f"{config} / {split}", rows, found, lost))
    parts = {VIEWS[config].part for config in result.configs}
    if "labeled" in parts:
        labels, lost = Counter(), _rows_of(unread, "labeled")
        for path, content in contents.items():
            if part_of_path(path) == "labeled":
                labels.update(content.columns.get("label", ()))
        for label, finding in enumerate(TAXONOMY):
            checks.append(Check(f"finding {finding.name}", expected.findings[finding.name], labels[label], lost))
    if "segmented" in parts:
        of = [content for path, content in contents.items() if part_of_path(path) == "segmented"]
        lost = _rows_of(unread, "segmented") * MOST_OBJECTS
        if all(content.instances is not None for content in of):
            found, uncounted = (sum(getattr(content, name) for content in of) for name in ("instances", "uncounted"))
            checks.append(Check("polyp instances", expected.instances, found, lost + uncounted * MOST_OBJECTS))
        checks.append(Check("boxes", expected.boxes, sum(content.boxes for content in of), lost))
    if parts - {METADATA} == set(PARTS):
        distinct = len({image_id for content in contents.values() for image_id in content.columns["image_id"]})
        lost = sum(_rows_of(unread, part) for part in PARTS)
        checks.append(Check("distinct images", expected.labeled + expected.unlabeled, distinct, lost))


def _expected_rows(config, contents, expected):
    """{split: rows} of a config; of metadata by the parts that it is of."""
    if config != METADATA:
        return expected.split_rows(config)
    of = {
        part
        for path, content in contents.items()
        if part_of_path(path) == METADATA
        for parts in content.columns.get("parts", ())
        for part in parts or ()
    }
    labeled = expected.labeled if "labeled" in of else expected.segmented if "segmented" in of else 0
    return {split: labeled + (expected.unlabeled if "unlabeled" in of else 0) for split in VIEWS[METADATA].splits}


def _check_views(manifest, contents, result):
    """Each split of a view holds the rows that its name promises; the splits of a config hold each file once."""
    for config, splits in manifest["configs"].items():
        taken = Counter(path for entry in splits.values() for path in matching(entry["files"], contents))
        twice = [path for path, times in taken.items() if times > 1]
        left = [path for path in contents if part_of_path(path) == VIEWS[config].part and path not in taken]
        result.problems += [f"{config}: {path} is in more than one split" for path in twice]
        result.problems += [f"{config}: {path} is in no split" for path in left]
        column, names = VIEWS[config].column, list(VIEWS[config].splits)
        for split, entry in splits.items() if column else ():
            for path in matching(entry["files"], contents):
                values = set(contents[path].columns.get(column, ()))
                if values - {names.index(split), split}:
                    result.problems.append(f"{config}: {path} of split {split} has rows of another {column}: {values}")


def compare_sources(
    folder: str,
    manifest: dict,
    sources: Sequence[str],
    expected: Expected,
    *,
    workers: int,
    sound: Collection[str] | None = None,
) -> list[str]:
    """What in a built folder is not as the archives in `sources` have it: every column of every row.

    Of the files that are `sound`, default all; what is wrong with the archives is listed, too.
    """
    try:
        looked = looked_parts(manifest["configs"], manifest)
        max_side = manifest.get("max_side")
        plan = make_plan(list(sources), list(manifest["configs"]), expected, looked=looked, max_side=max_side)
        for part in plan.parts:
            expected.check_fingerprint(part.archive, part.fingerprint(), plan.problems)
        plan.problems.settle(checks=True)
    except SourceError as error:
        return [f"--source: {text}" for text in error.problems]
    there = {path for path in manifest["files"] if part_of_path(path) != METADATA}
    problems = [f"{path}: the archives give no such file" for path in sorted(there - set(plan.shards))]
    problems += [f"{path}: the archives give this file, and it is missing" for path in sorted(set(plan.shards) - there)]
    compared = there if sound is None else there & set(sound)
    shards = {path: planned.shard for path, planned in plan.shards.items() if path in compared}
    if looked and (sound is None or leaks.METADATA_FILE in sound):
        problems += _compare_metadata(os.path.join(folder, leaks.METADATA_FILE), plan.looked)
    total = sum(shard.image_bytes for shard in shards.values())
    with worker_pool(workers) as pool, Progress(total, "comparing") as bar:
        compare = functools.partial(_compare_shard, folder, max_side=max_side)
        for shard, found in zip(shards.values(), pool.map(compare, shards.values())):
            problems += found
            bar.update(shard.image_bytes)
    return problems


def _compare_metadata(place, looked):
    """What in a file of `metadata` is not as the directories of the archives have it; bytes are compared in parts."""
    from scripts.pipeline.quality import metadata  # loads OpenCV

    wanted = {image_id: {**row.columns, "bytes": row.file[0]} for image_id, row in metadata.distinct(looked).items()}
    names = list(next(iter(wanted.values())))
    table = pq.read_table(opened(place), columns=["image_id", *names], partitioning=None)
    stored = {row.pop("image_id"): row for row in table.to_pylist()}
    wrong = _other_ids(leaks.METADATA_FILE, stored, wanted)
    for image_id in sorted(stored.keys() & wanted.keys()):
        columns = [name for name in names if stored[image_id][name] != wanted[image_id][name]]
        wrong += _other_columns(leaks.METADATA_FILE, image_id, columns)
    return wrong


def _other_ids(path, stored, wanted):
    """The images that only the file, or only the archives have."""
    wrong = [f"{path}: {image_id}: not in the archives" for image_id in sorted(set(stored) - set(wanted))]
    return wrong + [f"{path}: {image_id}: missing" for image_id in sorted(set(wanted) - set(stored))]


def _other_columns(path, image_id, columns):
    return [f"{path}: {image_id}: other {', '.join(columns)} than in the archives"] if columns else []


def _compare_shard(folder, shard, max_side):
    """The rows of a stored file that differ from those of its shard."""
    problems, wrong, stored = Problems(), [], {}
    with pq.ParquetFile(opened(os.path.join(folder, shard.path))) as file:
        ids = file.read(columns=["image_id"])["image_id"].to_pylist()
        wanted = {row.image_id: row for row in shard.rows}
        wrong += _other_ids(shard.path, ids, wanted)
        for batch in file.iter_batches(16):
            stored = {row["image_id"]: row for row in batch.to_pylist() if row["image_id"] in wanted}
            rows = [wanted[image_id] for image_id in stored]
            for row in read_rows(shard, rows, problems, max_side=max_side).to_pylist():
                columns = [name for name in row if not _is_same(row[name], stored[row["image_id"]][name], max_side)]
                wrong += _other_columns(shard.path, row["image_id"], columns)
    return wrong + [problem.text for problem in problems.found]


def _is_same(one, other, max_side):
    """Whether two values are equal; images made anew if their pixels are: versions of Pillow differ in bytes."""
    if one == other or not (isinstance(one, dict) and (max_side or str(one.get("path")).endswith(".png"))):
        return one == other
    try:
        return one["path"] == other["path"] and np.array_equal(*(_pixels(value["bytes"]) for value in (one, other)))
    except UNREADABLE:
        return False


def _pixels(data):
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
        return np.asarray(image)


def _check_card(folder, manifest, result):
    """The card is the one that would be written now, and its configs and numbers are those of the files."""
    result.problems += stale(folder, manifest)
    try:
        data = read(os.path.join(folder, "README.md"))
        if data is None:
            raise FileNotFoundError("it is not there")
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        result.problems.append(f"README.md: cannot be read ({error})")
        return
    result.problems += lint_card(text, list(manifest["files"]))
    if not result.problems:  # damaged files have no meaningful numbers
        result.problems += check_card(text, manifest, folder)


def check_loading(manifest: dict, result: Verified, stream: Callable[[str, list[str]], list[str]]) -> None:
    """Checks that every split of every config streams by its name: `stream` gives what is wrong with one.

    Not where something is wrong already, which it would only repeat, less clearly.
    """
    for config, splits in manifest["configs"].items() if not result.problems else ():
        try:
            result.problems += stream(config, list(splits))
        except Exception as error:  # whatever load_dataset raises is what a user would see
            result.problems.append(does_not_load(config, error))
