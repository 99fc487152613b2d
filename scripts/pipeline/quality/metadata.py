"""The pass over all images that the config `metadata` takes: one Parquet file, with a row for each distinct image.

Each image is decoded and looked at, in parallel; those that others are like are read again, to be compared. What was
found stays in a hidden folder of the output, LOOKED: the looks of a shard, by the key of its inputs, and the results of
comparisons, by the digests of the two images. So a pass that was cut off goes on, and one over a new version looks at
the shards that are new. The same images, and the same version before, give the same bytes, with any number of workers.
"""

import functools
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import NamedTuple
from zlib import crc32

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from hyper_kvasir import PARTS, TAXONOMY, Problems, Shard, SourceError, listed, read_examples
from scripts.pipeline import leaks
from scripts.pipeline.configs import KINDS, METADATA, VIEWS, features_of
from scripts.pipeline.console import Progress, say
from scripts.pipeline.files import (
    file_sha256,
    is_address,
    names,
    opened,
    read,
    remove,
    remove_all,
    replacing,
    write_file,
)
from scripts.pipeline.manifest import QUALITY
from scripts.pipeline.output import LOOKED
from scripts.pipeline.parquet import features_metadata, write_file_of, writer_options
from scripts.pipeline.plan import PlannedShard
from scripts.pipeline.pool import Workers, finished, worker_pool
from scripts.pipeline.quality import folds, images, pairs

SCHEMA = 1  # of the file; increment it when the same images are to give another
LOOKS = 1  # of what is kept of images and comparisons; increment it when the same images are to give others
PACKAGES = ("numpy", "pillow", *QUALITY)  # others may give other looks
SHA256 = 32  # bytes at the end of a file that is kept
AT_ONCE = 4096  # pairs that a worker compares before it gives its results
ALL_BLACK, SMALL = 0.9, 200  # of an image that is told as odd: share, and pixels a side (official: 332 at least)
LARGE_GROUP = 20  # images of one scene, at least, that are told: a wrong pair may have joined two scenes


class Found(NamedTuple):
    """What a pass gives."""

    entry: dict  # of its file in the manifest
    problems: list[str]  # images that cannot be decoded, which have no row, and masks that cannot be compared


class Earlier(NamedTuple):
    """What stays of the version before."""

    folds: dict[str, dict[str, int]]  # {column: {image id: fold}} of the grouped folds
    pairs: list[tuple[str, str]]  # ids of two images


def metadata_key(looked: Mapping[str, PlannedShard]) -> str:
    """A digest of all that the file depends on, but for what stays of the version before."""
    inputs = [SCHEMA, LOOKS, writer_options(METADATA), features_metadata(METADATA)]
    inputs += [sorted((path, planned.key) for path, planned in looked.items())]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def make_metadata(
    looked: Mapping[str, PlannedShard],
    out: str,
    place: str,
    *,
    workers: Workers,
    before: str | None = None,
    given: Earlier | None = None,
) -> Found:
    """Looks at the images of the shards `looked`, compares them, writes the file to `place`, and says what it found.

    Keeps that in `out`. Of `before`, a file of the version before, the grouped folds stay as they are, and the pairs
    are compared again, although other images may be nearer now; those that are `given` come first. Raises ValueError
    where it is another file.
    """
    was = earlier_of(before) if before else Earlier({}, [])
    given = given or was
    stay = {column: was.folds.get(column, {}) | some for column, some in given.folds.items()}
    folder, rows = _folder(out), distinct(looked)
    shards = first_rows(looked, rows)
    looks, problems = look_at_all(shards, folder, workers)
    table = joined(looks)
    if not table.num_rows:
        raise SourceError([*problems, "no image that can be decoded is left"])
    found, unread = _with_masks(find_pairs(table, shards, folder, workers, known=was.pairs + given.pairs), looked)
    problems += unread
    columns, notes = _columns(table, rows, found, stay)
    notes += _gone(was.folds, table, before, out)
    for text in (*notes, *_odd_images(table)):
        say(text)
    data = pa.table(columns, schema=features_of(METADATA).arrow_schema)
    digests = "".join(rows[image_id].digest for image_id in table["image_id"].to_pylist())
    # What is left out may be given, and decode, the next time.
    key = metadata_key(looked) if not problems else hashlib.sha256(json.dumps(problems).encode()).hexdigest()
    entry = write_file_of(data, METADATA, place, key=key, row_digests=digests)
    return Found(entry, problems)


def _gone(folds_before, table, before, out):
    """What to tell of images that had a grouped fold and have no row now; their file is kept for them."""
    gone = {image_id for of in folds_before.values() for image_id in of} - set(table["image_id"].to_pylist())
    if not gone:
        return []
    kept = os.path.join(out, LOOKED, f"metadata-before-{file_sha256(before)[:8]}.parquet")
    write_file(kept, read(before))
    text = f"{len(gone):,} images that had grouped folds have no row now (e.g. {min(gone)})"
    return [f"{text}; should they come back, scripts.quality --folds-from {kept} gives them the same folds"]


def _folder(out):
    """Where a pass keeps what it finds, in `out`; what other versions have found is removed."""
    name = _digest(LOOKS, [version(package) for package in PACKAGES])
    above = os.path.join(out, LOOKED)
    for other in names(above):
        if other != name and re.fullmatch("[0-9a-f]{32}", other):
            remove_all(os.path.join(above, other))
    return os.path.join(above, name)


# ------------------------------------------------------------------------------------------------------- looking


class Known(NamedTuple):
    """A distinct image, as far as it is known before it is read."""

    parts: tuple[str, ...]
    known: dict  # `known_columns` of the first of its parts
    file: tuple[int, int]  # its size and CRC

    @property
    def digest(self) -> str:
        """Of what a row is about. Groups and folds follow from other rows, too, and may change with them."""
        return f"{crc32(json.dumps(self).encode()):08x}"

    @property
    def columns(self) -> dict:
        """The columns of its row that are known: {column: value}."""
        label = self.known.get("label")
        of = {name: None if label is None else getattr(TAXONOMY[label], name) for name in ("category", "tract")}
        return {
            "parts": list(self.parts),
            **{name: self.known.get(name) for name in ("label", "fold_2", "fold_5")},
            **{name: None if value is None else VIEWS[name].values.index(value) for name, value in of.items()},
        }


def distinct(looked: Mapping[str, PlannedShard]) -> dict[str, Known]:
    """{image id: Known} of all parts, sorted."""
    rows: dict[str, Known] = {}
    for part in PARTS:
        for planned in looked.values():
            for row in planned.shard.rows if planned.shard.part == part else ():
                first = Known((), row.known_columns(part), (row.image.size, row.image.crc))
                one = rows.get(row.image_id, first)
                rows[row.image_id] = one._replace(parts=(*one.parts, part))
    return dict(sorted(rows.items()))


def first_rows(looked: Mapping[str, PlannedShard], rows: Mapping[str, Known]) -> list[tuple[Shard, str]]:
    """[(a shard with the rows whose first part it is, its key)] of all shards: each image once."""
    found = []
    for _, planned in sorted(looked.items()):
        shard = planned.shard
        first = tuple(row for row in shard.rows if rows[row.image_id].parts[0] == shard.part)
        if first:
            found.append((shard._replace(rows=first), planned.key))
    return found


def look_at_all(shards: list[tuple], folder: str, workers: Workers) -> tuple[list[pa.Table], list[str]]:
    """([a table of looks for each of `shards`], problems). What is in `folder` already is read, and the rest made."""
    places = _of_each(_look_at, shards, os.path.join(folder, "looks"), workers, text="looking at images")
    problems = [text for place in places for text in _problems_in(place)]
    return [_read(place).replace_schema_metadata() for place in places], problems


def _of_each(function, shards, folder, workers, *, text):
    """The files that `function` writes, for each of `shards`, into a folder of ours; others there are removed."""
    places, todo = [], []
    for shard, key in shards:
        # A new fact has to be looked at: the columns are part of the name.
        name = _digest(key, [row.image_id for row in shard.rows], features_metadata(METADATA))
        places.append(os.path.join(folder, f"{name}.arrow"))
        if not _is_whole(places[-1]) or _problems_in(places[-1]):  # they may be mended by now
            todo.append(((shard, places[-1]), shard.image_bytes))
    _remove_others(folder, places)
    with Progress(sum(units for _, units in todo), text) as bar:
        _in_parallel(function, todo, workers, bar)
    return places


def _problems_in(place):
    with _mapped(place) as file:
        return json.loads((_opened(file).schema.metadata or {}).get(b"problems", b"[]"))


def joined(looks: list[pa.Table]) -> pa.Table:
    """The looks of all images, sorted by id, as the rows of every file are."""
    return pa.concat_tables(looks).sort_by("image_id").combine_chunks()


def descriptors_of(table: pa.Table) -> np.ndarray:
    """The descriptors of looks, uint8, images x DESCRIPTOR."""
    return np.frombuffer(b"".join(table["descriptor"].to_pylist()), np.uint8).reshape(-1, images.DESCRIPTOR)


def _look_at(shard, place):
    """Looks at the images of a shard, and writes what was found to `place`."""
    found, problems = [], []
    for row in sorted(shard.rows, key=lambda row: row.image.start):  # in archive order
        try:
            look = images.look(shard.archive.read(row.image))
            found.append({"image_id": row.image_id, **look.facts._asdict(), "descriptor": look.descriptor.tobytes()})
        except SourceError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{shard.archive}: {row.image.name}: {error}")
    wanted = features_of(METADATA).arrow_schema
    fields = [wanted.field(name) for name in ("image_id", *images.Facts._fields)]
    schema = pa.schema([*fields, pa.field("descriptor", pa.binary(images.DESCRIPTOR))])
    schema = schema.with_metadata({"problems": json.dumps(problems)})
    _write([pa.Table.from_pylist(found, schema)], schema, place)


def _digest(*inputs):
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def _in_parallel(function, todo, workers, bar):
    """Calls `function` for each of `todo`, [(arguments, units of work)], and counts these on a bar."""
    if todo:
        with worker_pool(workers, len(todo)) as pool:
            jobs = {pool.submit(function, *arguments): units for arguments, units in todo}
            for units, _ in finished(pool, jobs):
                bar.update(units)


def _write(tables: Iterable[pa.Table], schema, place):
    """Writes tables to a file that can be read without being copied, its sha256 last; a kill leaves no half of it."""
    if is_address(place):
        file = pa.BufferOutputStream()
        _write_to(file, tables, schema)
        data = file.getvalue().to_pybytes()
        return write_file(place, data + hashlib.sha256(data).digest())
    with replacing(place) as other:
        with pa.OSFile(other, "wb") as file:
            _write_to(file, tables, schema)
        with open(other, "r+b") as file:
            file.write(hashlib.file_digest(file, "sha256").digest())


def _write_to(file, tables, schema):
    with pa.ipc.new_file(file, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _mapped(place):
    """A file of ours, mapped; one at an address in memory. Raises FileNotFoundError."""
    if not is_address(place):
        return pa.memory_map(place)
    data = read(place)
    if data is None:
        raise FileNotFoundError(place)
    return pa.BufferReader(data)


def _opened(file):
    """An open file of ours, to be read as Arrow's."""
    return pa.ipc.open_file(file, footer_offset=file.size() - SHA256)


def _read(place):
    with _mapped(place) as file:
        return _opened(file).read_all()


def _is_whole(place):
    """Whether a file of ours is there, with the bytes that were written: a power failure may leave others."""
    try:
        with _mapped(place) as file:
            data = memoryview(file.read_buffer())
            return hashlib.sha256(data[:-SHA256]).digest() == bytes(data[-SHA256:])
    except (OSError, pa.ArrowInvalid):
        return False


def _remove_others(folder, places):
    """Removes what is in a folder of ours and not needed any more."""
    remove(folder, set(names(folder)) - set(map(os.path.basename, places)))


# ----------------------------------------------------------------------------------------------------- comparing


class Pair(NamedTuple):
    """A pair of images that show one frame or scene."""

    one: str
    other: str
    kind: str
    match: pairs.Match
    mask_iou: float | None = None


_KEYS = ["one", "other"]  # the first 16 digits of the images' sha256
_EVIDENCE = pa.schema(
    [
        *(pa.field(name, pa.uint64()) for name in _KEYS),
        *(pa.field(name, pa.int32()) for name in ("matches", "inliers")),  # null: compared, and no transform found
        *(pa.field(name, pa.float64()) for name in ("chance", "correlation", *(f"t{i}" for i in range(6)))),
    ]
)


def find_pairs(
    table: pa.Table, shards: list[tuple], folder: str, workers: Workers, *, known: Iterable[tuple[str, str]] = ()
) -> list[Pair]:
    """All pairs among the images of a table of looks, sorted. Comparisons that are in `folder` are not made again.

    Compared are those that are near to each other, and those that are `known`, by their ids.
    """
    ids = table["image_id"].to_pylist()
    near = _with_known(pairs.candidates(descriptors_of(table)), known, ids)
    evidence = _compare_all(near, table, shards, folder, workers)
    found = []
    for row in evidence.filter(pc.less_equal(evidence["chance"], pairs.CHANCE)).to_pylist():
        transform = np.array([row[f"t{i}"] for i in range(6)]).reshape(2, 3)
        match = pairs.Match(row["matches"], row["inliers"], row["chance"], row["correlation"], transform)
        kind = pairs.SAME_FRAME if row["one"] == row["other"] else match.kind(len(near))  # of the same bytes
        if kind:
            found.append(Pair(ids[row["i"]], ids[row["j"]], kind, match))
    found += _identical(table, found)
    return sorted(found, key=lambda pair: pair[:2])


def _with_known(near, known, ids):
    """Pairs (i, j) of the images `ids`, sorted: those that are near, and those of known ids that are there."""
    at = {image_id: i for i, image_id in enumerate(ids)}
    there = [sorted((at[one], at[other])) for one, other in known if one in at and other in at]
    return np.unique(np.concatenate([near, np.reshape(there, (-1, 2)).astype(np.int64)]), axis=0) if there else near


def _identical(table, found):
    """Pairs of images of the same bytes that were not found: an image without features is like no other."""
    known, by_sha256 = {pair[:2] for pair in found}, {}
    same = pairs.Match(0, 0, 0.0, 1.0, np.eye(2, 3))
    for image_id, sha256 in zip(table["image_id"].to_pylist(), table["sha256"].to_pylist()):
        first = by_sha256.setdefault(sha256, image_id)
        if first != image_id and (first, image_id) not in known:
            yield Pair(first, image_id, pairs.SAME_FRAME, same)


def _compare_all(near, table, shards, folder, workers):
    """The evidence of all pairs `near`: a table of _EVIDENCE, with the rows "i" and "j" of their images."""
    kept, ids = os.path.join(folder, "compared"), table["image_id"].to_pylist()
    prefixes = np.array([int(sha256[:16], 16) for sha256 in table["sha256"].to_pylist()], np.uint64)
    wanted = pa.table({"i": near[:, 0], "j": near[:, 1], "one": prefixes[near[:, 0]], "other": prefixes[near[:, 1]]})
    known = _known(kept)
    todo = wanted.join(known.select(_KEYS), _KEYS, join_type="left anti").sort_by(
        [("i", "ascending"), ("j", "ascending")]
    )
    if todo.num_rows:
        _compare_new(todo, _sketch_all(todo, ids, shards, folder, workers), kept, workers)
        known = _known(kept)
    if todo.num_rows or known.num_rows > wanted.num_rows:  # all in one file, without what is not asked for any more
        known = known.join(wanted.select(_KEYS), _KEYS, join_type="left semi")
        place = os.path.join(kept, f"{_digest(known.num_rows)}.arrow")
        _write([known], _EVIDENCE, place)
        _remove_others(kept, [place])
    remove_all(os.path.join(folder, "sketches"))
    return wanted.join(known, _KEYS).sort_by([("i", "ascending"), ("j", "ascending")])


def _known(folder):
    """The evidence that is kept: a row for each two images, of which some may be of the same bytes."""
    places = [place for name in sorted(names(folder)) if _is_whole(place := os.path.join(folder, name))]
    table = pa.concat_tables([_EVIDENCE.empty_table(), *map(_read, places)])
    _, first = np.unique(np.stack([table[name].to_numpy() for name in _KEYS]), axis=1, return_index=True)
    return table.take(np.sort(first))


def _sketch_all(todo, ids, shards, folder, workers):
    """(files of sketches; the number of the file and the row in it of each image): of the images of pairs `todo`."""
    wanted = {ids[i] for name in ("i", "j") for i in np.unique(todo[name])}
    number_of, where, some = {image_id: i for i, image_id in enumerate(ids)}, np.zeros((len(ids), 2), np.int32), []
    for shard, key in shards:
        rows = tuple(row for row in shard.rows if row.image_id in wanted)
        for number, row in enumerate(rows):
            where[number_of[row.image_id]] = len(some), number
        some += [(shard._replace(rows=rows), key)] if rows else []
    return _of_each(_sketch, some, os.path.join(folder, "sketches"), workers, text="taking features"), where


_SKETCH = pa.schema([*((name, pa.binary()) for name in images.Sketch._fields), ("width", pa.int32())])


def _sketch(shard, place):
    """Writes the sketches of the images of a shard to `place`, in the order of its rows."""

    def some(row):
        sketch = images.sketch(shard.archive.read(row.image))
        values = [value.tobytes() for value in sketch]
        return pa.table([[value] for value in (*values, sketch.content.shape[1])], schema=_SKETCH)

    with threadpool_limits(1):
        _write(map(some, shard.rows), _SKETCH, place)


@functools.lru_cache(maxsize=256)  # open files, each of one thread
def _sketches(place, thread):
    return _opened(pa.PythonFile(opened(place, 1 << 17)) if is_address(place) else pa.OSFile(place))


@functools.lru_cache(maxsize=64)  # pairs are sorted by their first image
def _sketch_at(place, number):
    """A sketch out of a file."""
    batch = _sketches(place, threading.get_ident()).get_batch(number)
    points, features, content, mask, to_image = (batch[name][0].as_buffer() for name in images.Sketch._fields)
    width = batch["width"][0].as_py()
    return images.Sketch(
        np.frombuffer(points, np.float32).reshape(-1, 2),
        np.frombuffer(features, np.uint8).reshape(-1, 128),
        np.frombuffer(content, np.uint8).reshape(-1, width),
        np.frombuffer(mask, np.uint8).reshape(-1, width),
        np.frombuffer(to_image, np.float64).reshape(2, 3),
    )


def _compare_new(todo, sketches, folder, workers):
    """Compares pairs, and writes a file of evidence for every AT_ONCE of them."""
    files, where = sketches
    batches = []
    for start in range(0, todo.num_rows, AT_ONCE):
        some = todo.slice(start, AT_ONCE)
        keys = np.stack([some[name].to_numpy() for name in _KEYS], axis=1)
        places = np.concatenate([where[some[name].to_numpy()] for name in ("i", "j")], axis=1)
        name = os.path.join(folder, f"{hashlib.sha256(keys.tobytes()).hexdigest()}.arrow")
        batches.append(((keys, places, files, name), len(keys)))
    with Progress(todo.num_rows, "comparing", unit=" pairs") as bar:
        _in_parallel(_compare, batches, workers, bar)


def _compare(keys, places, files, to):
    """Compares pairs of sketches, (file, row, file, row) by number, and writes the evidence to the file `to`."""
    found = []
    with threadpool_limits(1):
        for (one, other), (file, row, other_file, other_row) in zip(keys.tolist(), places.tolist()):
            match = pairs.compare(_sketch_at(files[file], row), _sketch_at(files[other_file], other_row))
            values = {"one": one, "other": other}
            if match:
                values |= {name: getattr(match, name) for name in ("matches", "inliers", "chance", "correlation")}
                values |= {f"t{i}": value for i, value in enumerate(match.transform.ravel().tolist())}
            found.append(values)
    _write([pa.Table.from_pylist(found, _EVIDENCE)], _EVIDENCE, to)


def _with_masks(found, looked):
    """(the pairs, with the IoU of the masks of two copies of one frame that have masks; problems of those masks)"""
    shards = [planned.shard for planned in looked.values() if planned.shard.part == "segmented"]
    rows = {row.image_id: (shard, row) for shard in shards for row in shard.rows}
    problems = Problems()

    def agreement(pair):
        if pair.kind != pairs.SAME_FRAME or not {pair.one, pair.other} <= set(rows):
            return pair
        examples = [_example(*rows[image_id], problems) for image_id in pair[:2]]
        iou = pairs.mask_agreement(*examples, pair.match.transform) if all(examples) else None
        return pair._replace(mask_iou=iou)

    return [agreement(pair) for pair in found], list(dict.fromkeys(problem.text for problem in problems.found))


def _example(shard: Shard, row, problems):
    """(the bytes of the image, mask as bool) of a segmented image; None where they are not good."""
    for example in read_examples(shard, [row], problems).to_pylist():
        mask = cv2.imdecode(np.frombuffer(example["mask"]["bytes"], np.uint8), cv2.IMREAD_GRAYSCALE)
        return example["image"]["bytes"], mask > 0
    return None


# ------------------------------------------------------------------------------------------------------- columns


def _columns(table, rows, found, before):
    """({column: values} in the order of the table, what to tell)."""
    ids = table["image_id"].to_pylist()
    same_frame = leaks.groups(pair[:2] for pair in found if pair.kind == pairs.SAME_FRAME)
    scene = leaks.groups(pair[:2] for pair in found)
    columns = {name: table[name] for name in ("image_id", *images.Facts._fields)}
    known = [rows[image_id].columns for image_id in ids]
    columns |= {name: [row[name] for row in known] for name in known[0]}
    columns["same_frame_group"] = [same_frame.get(image_id) for image_id in ids]
    columns["scene_group"] = [scene.get(image_id) for image_id in ids]
    columns["pairs"] = _pairs_of(ids, found)
    notes = _large_groups(scene)
    for split in leaks.FOLDS:
        name = f"{split}_grouped"
        grouped, said = _grouped_folds(ids, rows, scene, split, before.get(name, {}))
        columns[name] = [grouped.get(image_id) for image_id in ids]
        notes += said
    sets = leaks.kvasir_seg_columns({"image_id": i, "parts": rows[i].parts, "scene_group": scene.get(i)} for i in ids)
    columns |= {name: [sets.get(image_id, {}).get(name) for image_id in ids] for name in leaks.KVASIR_SEG_COLUMNS}
    return columns, notes


def _pairs_of(ids, found):
    """The pairs of each image with those of greater ids."""
    of: dict[str, list] = {image_id: [] for image_id in ids}
    for pair in found:
        chance = np.log10(max(pair.match.chance, 1e-99))
        of[pair.one].append(
            {
                "image_id": pair.other,
                "kind": KINDS.index(pair.kind),
                "matches": pair.match.matches,
                "inliers": pair.match.inliers,
                "log10_chance": round(float(chance), 2),
                "correlation": round(pair.match.correlation, 4),
                "scale": round(pairs.scale_of(pair.match.transform), 4),
                "transform": np.round(pair.match.transform, 4).ravel().tolist(),
                "mask_iou": pair.mask_iou,
            }
        )
    names = [field.name for field in features_of(METADATA).arrow_schema.field("pairs").type]
    return [{name: [pair[name] for pair in some] for name in names} for some in of.values()]


def _grouped_folds(ids, rows, scene, split, before):
    """({image id: fold}, what to tell) of the labeled images that have an official fold."""
    official = {image_id: rows[image_id].known.get(split) for image_id in ids}
    labels = {image_id: rows[image_id].known.get("label") for image_id in ids}
    some = [
        folds.Row(image_id, labels[image_id], fold, scene.get(image_id))
        for image_id, fold in official.items()
        if fold is not None
    ]
    if not some:
        return {}, []
    grouped = folds.group_folds(some, leaks.FOLDS[split], before)
    notes = []
    if grouped.changed:
        text = "in another fold than before, as their scenes were joined"
        notes.append(f"{split}_grouped: {text}: {', '.join(grouped.changed)}")
    return grouped.folds, notes


def _odd_images(table):
    """What to tell of images that are not as the official ones are; their rows are there all the same."""
    odd = []
    for row in table.select(["image_id", "subsampling", "black_share", "width", "height"]).to_pylist():
        if row["subsampling"] in ("4:0:0", "other"):
            odd.append(f"{row['image_id']}: not in color, or of an unusual subsampling")
        if row["black_share"] > ALL_BLACK:
            odd.append(f"{row['image_id']}: {row['black_share']:.0%} of it is black")
        if min(row["width"], row["height"]) < SMALL:
            odd.append(f"{row['image_id']}: {row['width']} x {row['height']} pixels")
    return [f"odd images: {len(odd):,}\n{listed(odd)}"] if odd else []


def _large_groups(scene):
    sizes = Counter(scene.values())
    return [
        f"a chain of pairs joins {size:,} images into one scene: look at those of group {first}"
        for first, size in sizes.most_common(10)
        if size >= LARGE_GROUP
    ]


def earlier_of(path: str) -> Earlier:
    """What stays of a file of `metadata`. Raises ValueError for another file."""
    numbers = {f"{split}_grouped": number for split, number in leaks.FOLDS.items()}
    try:
        if os.path.isdir(path):
            raise ValueError("it is a folder")
        table = pq.read_table(opened(path), columns=["image_id", "pairs", *numbers], partitioning=None)
        columns = table.drop_columns("pairs").to_pydict()
        others = pc.struct_field(table["pairs"], "image_id").to_pylist()
        found = {n: {i: fold for i, fold in zip(columns["image_id"], columns[n]) if fold is not None} for n in numbers}
        wrong = [n for n, number in numbers.items() if not set(found[n].values()) <= set(range(number))]
        if wrong:
            raise ValueError(f"other values in {', '.join(wrong)}")
        return Earlier(found, [(one, other) for one, some in zip(columns["image_id"], others) for other in some])
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        text = f"no file with the grouped folds of {METADATA} ({why.splitlines()[0][:200]})"
        raise ValueError(f"{path}: {text}; give {leaks.METADATA_FILE} of an earlier version") from error


def has_folds(path: str, given: Earlier) -> bool:
    """Whether the images in a file of `metadata` have the grouped folds that are given for them."""
    return all(
        given.folds[column].get(image_id, fold) == fold
        for column, found in earlier_of(path).folds.items()
        for image_id, fold in found.items()
    )
