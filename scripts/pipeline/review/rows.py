"""What the review page shows of each row: the files are streamed, and every image is looked at once.

Top to bottom: reading, what a worker makes of a row, masks against boxes.
"""

import io
import itertools
import os
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hyper_kvasir import PARTS
from scripts.pipeline.configs import features_of
from scripts.pipeline.console import Progress
from scripts.pipeline.manifest import part_of_path
from scripts.pipeline.pool import worker_pool
from scripts.pipeline.review.outlines import outline
from scripts.pipeline.review.pictures import SIDE, TILE, Sheets, Store, decoded, encoded, scaled, size_at
from scripts.pipeline.stats import BOX, FITS, INSTANCE, MATCHED, UNBOXED, encoder_of, measure
from scripts.pipeline.verify import UNREADABLE

UNLABELED = 1_000  # rows that are shown, spread evenly over the part, unless all are
TASK = 16  # rows that a worker looks at in one go: a row may have a megabyte
BATCH_BYTES = 8 << 20  # read in one go, of small rows many
GIVEN = ("label", "fold_2", "fold_5", "kvasir_seg_id", "kvasir_seg_set")  # columns of files that are shown as they are
LOOKED_AT = ("image_id", "image", *GIVEN, "mask", "instances", "objects")  # columns of files
OPTIONAL = ("kvasir_seg_id", "kvasir_seg_set")  # which older folders lack
COLUMNS = ("id", *GIVEN, "width", "height", "quality")  # of the page


# ----------------------------------------------------------------------------------------------------------- reading


class Chosen(NamedTuple):
    """Which rows are shown: all, but of the unlabeled ones a sample and those named here, unless `every` is true.

    Of those in `small`, (part, image id), a picture of SIDE pixels is given back, too.
    """

    every: bool
    named: Collection[str]
    small: Collection[tuple[str, str]]


@dataclass
class Shown:
    """What the page shows of a part's rows, in the order of its files."""

    rows: int  # of the part, shown or not
    columns: dict[str, list] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    objects: list[dict | None] = field(default_factory=list)  # of `annotation`, where the part has masks
    errors: dict[int, str] = field(default_factory=dict)  # by the row's number here


def tables(folder: str, manifest: dict, part: str, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
    """(path, some columns) of each file of a part that can be read. What cannot be is among the problems already."""
    for path, batches in _files(folder, manifest, part, columns):
        try:
            yield path, pa.Table.from_batches(batches)
        except (OSError, ValueError):
            continue


def _files(folder, manifest, part, columns):
    """(path, its batches) of each file of a part in which these columns have the types that they should have."""
    # Mapped: pyarrow takes a minute for a buffered stream of 50,000 small images, and a tenth of a second for these.
    features = features_of(part).arrow_schema
    for path in sorted(path for path in manifest["files"] if part_of_path(path) == part):
        try:
            with pq.ParquetFile(os.path.join(folder, path), memory_map=True, pre_buffer=False) as file:
                there = file.schema_arrow
                here = [name for name in columns if name in there.names or name not in OPTIONAL]
                if all(name in there.names and there.field(name).type == features.field(name).type for name in here):
                    mean = os.path.getsize(os.path.join(folder, path)) // max(file.metadata.num_rows, 1)
                    size = max(BATCH_BYTES // max(mean, 1), TASK)
                    yield path, file.iter_batches(size, columns=here, use_threads=False)
        except (OSError, ValueError):
            continue


def read_rows(
    folder: str, manifest: dict, chosen: Chosen, workers: int, *, store: Store
) -> tuple[dict[str, Shown], dict[tuple[str, str], bytes]]:
    """({part: what is shown of it}, {(part, image id): picture, where it is in `chosen.small`}).

    Pictures go to `store`: tiles as Sheets, larger ones as "pictures/<part>-<row>.webp", which of segmented rows are
    the original files, ".jpg". Rows that cannot be read have an error, and no picture.
    """
    parts, small = {}, {}
    with worker_pool(workers) as pool:
        for part in PARTS:
            numbers, all_rows = _chosen_numbers(folder, manifest, part, chosen)
            total = sum(map(len, numbers.values()))
            if not total:
                continue
            shown, sheets = Shown(all_rows), Sheets(part, store)
            tasks = _tasks(folder, manifest, part, numbers)
            of_part = {image_id for where, image_id in chosen.small if where == part}
            with Progress(total, f"drawing {part}", unit=" images") as bar:
                for seen in _in_order(pool, workers, ((part, rows, of_part) for rows in tasks)):
                    small |= {(part, seen.row["id"]): seen.small} if seen.small else {}
                    _keep(seen, part, shown, sheets, store)
                    bar.update(1)
            sheets.close()
            parts[part] = shown
    return parts, small


def _chosen_numbers(folder, manifest, part, chosen):
    """({path: the numbers of its rows that are shown}, all rows of the part)"""
    ids = {path: table["image_id"].to_pylist() for path, table in tables(folder, manifest, part, ["image_id"])}
    total = sum(map(len, ids.values()))
    if part != "unlabeled" or chosen.every:
        return {path: range(len(some)) for path, some in ids.items()}, total
    numbers, at, wanted = {}, itertools.count(), set(spread(total))
    named = {*chosen.named, *(image_id for of, image_id in chosen.small if of == part)}
    for path, some in ids.items():
        numbers[path] = [i for i, image_id in enumerate(some) if next(at) in wanted or image_id in named]
    return numbers, total


def spread(total: int) -> list[int]:
    """Which of `total` unlabeled rows are shown: UNLABELED, spread evenly, or all if there are fewer."""
    return [i * total // UNLABELED for i in range(UNLABELED)] if total > UNLABELED else list(range(total))


def _tasks(folder, manifest, part, numbers):
    """The rows of a part that are shown, some at a time."""
    columns = [name for name in features_of(part) if name in LOOKED_AT]
    for path, batches in _files(folder, manifest, part, columns):
        wanted, start = numbers.get(path, ()), 0
        try:
            for batch in batches:
                here = [n - start for n in wanted[bisect_left(wanted, start) : bisect_left(wanted, start + len(batch))]]
                for first in range(0, len(here), TASK):
                    yield batch.take(here[first : first + TASK]).to_pylist()
                start += len(batch)
                if not wanted or start > wanted[-1]:
                    break
        except (OSError, ValueError):  # among the problems already
            continue


def _in_order(pool, workers, tasks):
    """What `look` makes of the rows of some tasks, of which a few are in memory."""
    jobs = deque()
    for task in tasks:
        jobs.append(pool.submit(look, *task))
        if len(jobs) > workers:
            yield from jobs.popleft().result()
    while jobs:
        yield from jobs.popleft().result()


def _keep(seen, part, shown, sheets, store):
    """Adds a row to what is shown."""
    number = len(shown.columns["id"])
    for name in COLUMNS:
        shown.columns[name].append(seen.row.get(name))
    if part == "segmented":
        shown.objects.append(seen.objects)
    if seen.error:
        shown.errors[number] = seen.error
    sheets.add(seen.tile)
    if seen.larger:
        store.add(f"pictures/{part}-{number}.{'jpg' if part == 'segmented' else 'webp'}", seen.larger)


# ------------------------------------------------------------------------------------------------ what is made of one


class Seen(NamedTuple):
    """A row as the page shows it: COLUMNS, its masks and boxes, pictures of it, and what of it cannot be read."""

    row: dict  # with a width and height of 0 where the image cannot be decoded
    objects: dict | None = None
    tile: np.ndarray | None = None
    larger: bytes | None = None
    small: bytes | None = None
    error: str | None = None


def look(part: str, rows: list[dict], small: Collection[str]) -> list[Seen]:
    """Looks at rows of a part; of the images in `small` a picture of SIDE pixels is made, whatever the part."""
    return [_look(part, row, row["image_id"] in small) for row in rows]


def _look(part, row, small):
    scalars = {name: row.get(name) for name in GIVEN}
    seen = Seen({"id": row["image_id"] or "no id", **scalars, "width": 0, "height": 0})
    try:
        seen = _pictured(part, row, seen, small)
        if part == "segmented":
            masks = (pixels(row[name]["bytes"]) for name in ("mask", "instances"))
            seen = seen._replace(objects=annotation(*masks, row["objects"]["bbox"]))
    except UNREADABLE as error:
        text = re.sub(r" <_io\.\S+ object at \w+>", "", str(error))  # an address in memory
        seen = seen._replace(error=text or type(error).__name__)
    return seen


def _pictured(part, row, seen, small):
    """`seen` with pictures of its image, and what its file says of itself. Raises one of UNREADABLE."""
    data = row["image"]["bytes"]
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        (width, height), quality = image.size, encoder_of(image)[1]
    size, tile = (size_at((width, height), side) for side in (SIDE, TILE))
    if small or part != "segmented":
        picture = scaled(decoded(data, size), size)
        larger = encoded(picture)
    else:
        picture, larger = decoded(data, tile), None
    return seen._replace(
        row={**seen.row, "width": width, "height": height, "quality": quality},
        tile=np.asarray(scaled(picture, tile)),
        larger=data if part == "segmented" else larger,
        small=larger if small else None,
    )


def pixels(png: bytes) -> np.ndarray:
    """A PNG of one channel as it stores it, height x width. Raises one of UNREADABLE."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        array = np.asarray(image)
    if array.ndim != 2:
        raise ValueError(f"an image of {array.shape[2]} channels, expected one")
    return array


# ------------------------------------------------------------------------------------------------ masks against boxes


def annotation(mask: np.ndarray, instances: np.ndarray, bboxes: list) -> dict:
    """Outlines and boxes, and how far they agree, by `stats.measure`.

    boxes: [{"at": [x, y, width, height], "iou", "fit", "match"}]. instances: [{"at", "iou", "fit", "number", "path"}].
    iou, match and fit are those of `stats.Object`. lowest: the smallest IoU. agree: boxes and instances match one to
    one. share: of the image that is mask. mask: the mask's outline where it differs from the instances together. Paths
    are of `outline`.
    """
    polyps = measure("", instances, bboxes)  # the page has the id beside them
    boxes, parts = polyps.of(BOX), polyps.of(INSTANCE)
    found = {
        "boxes": [{**_fit(box), "match": box.match} for box in boxes],
        "instances": [{**_fit(part), "number": part.number, "path": _path(instances, part)} for part in parts],
        "lowest": min((thing.iou for thing in polyps.objects), default=0.0),
        "agree": all(thing.fit == MATCHED for thing in polyps.objects) and len(boxes) == len(parts),
        "share": round(np.count_nonzero(mask) / max(mask.size, 1), 5),
    }
    if not np.array_equal(mask > 0, instances > 0):
        found["mask"] = outline(mask > 0)
    return found


def _fit(thing):
    return {"at": [thing.x, thing.y, thing.width, thing.height], "iou": thing.iou, "fit": thing.fit}


def _path(instances, part):
    piece = instances[part.y : part.y + part.height, part.x : part.x + part.width]
    return outline(piece == part.number, part.x, part.y)


def agreement(rows: list[dict | None]) -> dict:
    """Of all images: numbers of images, instances, boxes, boxes by their fit, instances that no box matches."""
    known = [objects for objects in rows if objects]
    boxes = [box for objects in known for box in objects["boxes"]]
    instances = [instance for objects in known for instance in objects["instances"]]
    return {
        "images": len(rows),
        "boxes": len(boxes),
        "instances": len(instances),
        **{fit: sum(box["fit"] == fit for box in boxes) for fit in FITS},
        UNBOXED: sum(instance["fit"] == UNBOXED for instance in instances),
        "disagree": sum(not objects["agree"] for objects in known),
    }
