"""What the card says in numbers, counted from the stored files, and kept in `stats.json` beside them.

A summary is a dict of counts of one file, in JSON's types. Summaries add up (`merge`), and each is kept with the sha256
of its file: a file that did not change, or that is only on the Hub, need not be read again.
"""

import csv
import functools
import io
import json
import operator
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from hyper_kvasir import PARTS, TAXONOMY
from scripts.pipeline import leaks
from scripts.pipeline.configs import METADATA
from scripts.pipeline.files import opened as opened_here
from scripts.pipeline.files import read
from scripts.pipeline.manifest import part_of_path
from scripts.pipeline.small import LOSS

Examples = Callable[[str, Sequence[str]], dict]  # (part, image ids) -> {id: row}, images as {"bytes", "path"}

FILE = "stats.json"
OBJECTS_FILE = "objects.csv"
SCHEMA = 5  # of a summary; increment it when the same file is to give another summary

GRID = 64  # cells a side of the heat maps
MATCH = 2  # pixels by which each edge of a box may be off the component that it belongs to
FITS = MATCHED, STRETCHED, UNMATCHED = ("matched", "stretched", "unmatched")  # how a box fits the mask
UNBOXED = "unboxed"  # an instance that no box matches
FINDING_EXAMPLES = 3  # images of each finding shown on the card
OBJECT_EXAMPLES = {"one": 2, "several": 2}  # segmented images shown there, beside the most stretched one
INSTANCE, BOX = "instance", "box"  # the kinds of objects

POLYPS = [finding.name for finding in TAXONOMY].index("polyps")  # a name less of hyper_kvasir to import
MOST_UNFIT = 28  # boxes that match nothing, of which the card has a picture; there are as many in the official data

HEADER = 4096  # bytes

# The example luminance table of the JPEG standard (Annex K); libjpeg scales it by the quality that it is asked for.
_STANDARD_TABLE_SUM = 3688


def summarize(source, part: str) -> dict:
    """The summary of the rows of one file of a part, e.g. "segmented": of a table, or a Parquet file, by path or open.

    {"rows": n,
     "first": image_id,                                         the smallest
     "sizes": [[width, height, images]],
     of the small edition
     "psnr", "mask_ious", "lost":                               see `small.Loss`
     labeled and segmented
     "cells": [[label, fold_2, fold_5, images]],                folds may be None
     "encoders": [[label, JFIF marker, quality, images]],       see `encoder_of`
     "bits": [[label, bits a pixel, images]],                   of the files, to a twentieth of a bit
     "polyps": [image_id],                                      sorted; of labeled files those of the finding polyps
     "examples": {label or kind: [image_id]},                   the smallest of each finding, or kind of polyp image
     segmented
     "instances", "boxes": [[number in an image, images]],
     "objects": [`Object`],                                     sorted
     "kvasir_seg": [[set or None, images]],
     "mask_map", "box_map": [[images]],                         GRID x GRID: images with a polyp at the cell's center
     "boxes_offset", "boxes_at_edge": boxes,                    see `Fit`
     metadata
     what `leaks.count` gives}

    A file of labeled or segmented images is read whole, though of a photograph only the header counts: one that is on
    the Hub is downloaded, where its summary is missing or of another SCHEMA.
    """
    if part == METADATA:
        rows = leaks.rows_of(source) if isinstance(source, pa.Table) else leaks.read_rows(source)
        sizes = _counted((row["width"], row["height"]) for row in rows)
        return {"rows": len(rows), "first": rows[0]["image_id"], "sizes": sizes, **leaks.count(rows)}
    if not isinstance(source, pa.Table):
        with pq.ParquetFile(source, memory_map=True, pre_buffer=False, buffer_size=1 << 20) as file:
            return _summarize(functools.partial(_stored, file), file.schema_arrow, part)
    return _summarize(functools.partial(_in_memory, source), source.schema, part)


def _stored(file, columns, rows):
    return file.iter_batches(rows, columns=columns, use_threads=False)


def _in_memory(table, columns, rows):
    return table.select(columns).to_batches(max_chunksize=rows)


def _summarize(batches, schema, part):
    """`batches` gives some columns, so many rows at a time: no more pictures than that are held at once."""
    names = ("image_id", "width", "height", "label", "fold_2", "fold_5", "kvasir_seg_set")
    table = pa.Table.from_batches(batches([name for name in names if name in schema.names], 1 << 16))
    columns = table.to_pydict()
    summary = {
        "rows": len(columns["image_id"]),
        "first": min(columns["image_id"]),
        "sizes": _counted(zip(columns["width"], columns["height"])),
    }
    summary |= json.loads((schema.metadata or {}).get(LOSS, b"{}"))
    if "label" in columns:
        ids = sorted(zip(columns["image_id"], columns["label"]))
        summary["cells"] = _counted(zip(columns["label"], columns["fold_2"], columns["fold_5"]))
        files = list(_files(batches))
        pixels = map(operator.mul, columns["width"], columns["height"])
        summary["encoders"] = _counted((label, *encoder) for label, (_, encoder) in zip(columns["label"], files))
        bits = [round(20 * 8 * size / some) / 20 for (size, _), some in zip(files, pixels)]
        summary["bits"] = _counted(zip(columns["label"], bits))
        summary["polyps"] = [image_id for image_id, label in ids if label == POLYPS]
        summary["examples"] = {}
        for image_id, label in ids:
            summary["examples"].setdefault(str(label), []).append(image_id)
        summary["examples"] = {key: some[:FINDING_EXAMPLES] for key, some in summary["examples"].items()}
    if part == "segmented":
        summary |= _summarize_objects(batches)
        summary["kvasir_seg"] = _counted((name,) for name in columns["kvasir_seg_set"])
    return summary


def _files(batches):
    """(bytes, `encoder_of`) of each image, in the order of rows."""
    for batch in batches(["image"], 16):
        data = batch["image"].field("bytes")
        heads = pc.binary_slice(data, 0, HEADER)  # without copying the rest
        for i, (size, head) in enumerate(zip(pc.binary_length(data).to_pylist(), heads.to_pylist())):
            yield size, _encoder(head, functools.partial(data.__getitem__, i))


def _counted(values):
    """[[*value, times]] of an iterable (or Counter) of tuples, sorted; None before numbers."""
    counts = Counter(values)
    return [[*value, counts[value]] for value in sorted(counts, key=lambda v: [(x is not None, x) for x in v])]


class Object(NamedTuple):
    """An instance or a box, with what is most often computed of it: a line of objects.csv. Lengths are in pixels."""

    image_id: str
    kind: str  # INSTANCE or BOX
    number: int  # of an instance in the map, from 1; of a box its `objects.id`, from 0
    x: float  # of the upper left corner, as are y, width and height; of an instance those of its bounding box
    y: float  # all are whole, but of the boxes of the small edition
    width: float
    height: float
    area: int  # of the instance's pixels; of a box, width times height
    share: float  # of the image's area
    iou: float  # with the object of the other kind that it fits best, both as boxes; 0 without one
    match: int | None  # the number of the object of the other kind that matches, if one does
    fit: str  # of a box one of FITS; of an instance MATCHED, or UNBOXED where no box matches it


class Polyps(NamedTuple):
    """The polyps of one segmented image. Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive."""

    image_id: str
    objects: list[Object]  # the instances, then the boxes
    boxes: list[tuple]  # the source's
    fits: list["Fit"]  # of the boxes

    def of(self, kind: str) -> list[Object]:
        """The instances, or the boxes."""
        return [thing for thing in self.objects if thing.kind == kind]


def _summarize_objects(batches):
    images, mask_map, box_map = [], np.zeros((GRID, GRID), int), np.zeros((GRID, GRID), int)
    for batch in batches(["image_id", "instances", "objects"], 4):
        for row in batch.to_pylist():
            instances = np.asarray(Image.open(io.BytesIO(row["instances"]["bytes"])))
            images.append(measure(row["image_id"], instances, row["objects"]["bbox"]))
            mask_map += _on_grid(instances > 0)
            box_map += _on_grid(_painted(images[-1].boxes, instances.shape))
    fits = [fit for image in images for fit in image.fits]
    return {
        "examples": _object_examples(images),
        "instances": _counted((len(image.of(INSTANCE)),) for image in images),
        "boxes": _counted((len(image.of(BOX)),) for image in images),
        "objects": sorted(list(thing) for image in images for thing in image.objects),
        "mask_map": mask_map.tolist(),
        "box_map": box_map.tolist(),
        "boxes_offset": sum(fit.offset for fit in fits),
        "boxes_at_edge": sum(fit.at_edge for fit in fits),
    }


def measure(image_id: str, instances: np.ndarray, bboxes: list[list[float]]) -> Polyps:
    """Measures the polyps of an image: its instance map, height x width, against its COCO boxes [x, y, width, height].

    The one measure of them: the card's numbers and the review page's are both by it.
    """
    boxes = [_corners(bbox) for bbox in bboxes]
    pixels = _pixels(instances)
    components = _components(instances, pixels)
    numbers, places = list(components), list(components.values())
    fits = compare_boxes(boxes, places, instances.shape)

    def thing(kind, number, box, *, area, iou, match, fit):
        left, top, right, bottom = box
        place = left, top, _rounded(right - left), _rounded(bottom - top)
        share = round(area / max(instances.size, 1), 6)
        return Object(image_id, kind, number, *place, area, share, round(iou, 4), match, fit)

    objects = []
    for i, (number, place) in enumerate(components.items()):
        iou = max((overlap(box, place) for box in boxes), default=0.0)
        match = next((j for j, fit in enumerate(fits) if fit.kind == MATCHED and fit.component == i), None)
        kind = UNBOXED if match is None else MATCHED
        objects.append(thing(INSTANCE, number, place, area=pixels[number - 1], iou=iou, match=match, fit=kind))
    for j, (box, fit) in enumerate(zip(boxes, fits)):
        match = numbers[fit.component] if fit.kind == MATCHED else None
        objects.append(thing(BOX, j, box, area=round(_area(box)), iou=fit.overlap, match=match, fit=fit.kind))
    return Polyps(image_id, objects, boxes, fits)


def _encoder(head, whole):
    """The `encoder_of` a JPEG. Its first bytes tell, unless it has more before its scan than any official image."""
    try:
        with Image.open(io.BytesIO(head)) as image:
            return encoder_of(image)
    except (OSError, SyntaxError, IndexError, KeyError):
        with Image.open(io.BytesIO(whole().as_buffer())) as image:
            return encoder_of(image)


def encoder_of(image: Image.Image) -> tuple[bool, int]:
    """(whether a JPEG has a JFIF marker, the quality that its luminance table implies, 0 to 100)."""
    scale = 100 * sum(image.quantization[image.layer[0][3]]) / _STANDARD_TABLE_SUM  # of the first component
    return "jfif" in image.info, max(0, round(100 - scale / 2 if scale <= 100 else 5000 / scale))


# ------------------------------------------------------------------------------------------- boxes against components


class Fit(NamedTuple):
    """How a box fits the mask."""

    component: int | None  # the one that the box fits best, from 0; None where the mask is empty
    overlap: float  # their IoU, both as boxes
    kind: str  # of FITS
    offset: bool  # starts one pixel left of and above its component, and ends where that ends
    at_edge: bool  # ends at the right or lower edge of the image


def _corners(bbox):
    x, y, width, height = bbox
    return tuple(map(_rounded, (x, y, x + width, y + height)))


def _rounded(pixels):
    """A length to a thousandth of a pixel, as boxes of the small edition have it; a whole one as int."""
    pixels = round(pixels, 3)
    return int(pixels) if pixels == int(pixels) else pixels


def _components(instances, pixels):
    """{number: (left, top, right, bottom)} of an instance map, of which `_pixels` are known."""
    components = {}
    for number, of_number in enumerate(pixels, start=1):
        if of_number:
            across, down = (np.flatnonzero((instances == number).any(axis)) for axis in (0, 1))
            components[number] = (int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1)
    return components


def _pixels(instances):
    """The pixels of number 1, 2, ... of an instance map."""
    # Not by np.bincount, which takes eight times the memory of the map.
    return [int(np.count_nonzero(instances == number)) for number in range(1, int(instances.max(initial=0)) + 1)]


def compare_boxes(boxes: list[tuple], components: list[tuple], shape: tuple[int, int]) -> list[Fit]:
    """The `Fit` of each box to the components of its image, both as in `Polyps`; `shape` is (height, width).

    Matched: every edge is within MATCH pixels of that of the component with the greatest IoU. Else stretched, where the
    box begins at the upper left corner of the image, or unmatched.
    """
    fits = []
    for box in boxes:
        overlaps = [overlap(box, component) for component in components]
        best = int(np.argmax(overlaps)) if overlaps else None
        differences = np.subtract(components[best], box).tolist() if overlaps else [np.inf]
        kind = STRETCHED if box[:2] == (0, 0) else UNMATCHED
        if max(map(abs, differences)) <= MATCH:
            kind = MATCHED
        at_edge = box[2] == shape[1] or box[3] == shape[0]
        fits.append(Fit(best, max(overlaps, default=0.0), kind, differences == [1, 1, 0, 0], at_edge))
    return fits


def overlap(one: tuple, other: tuple) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    common = _area((*np.maximum(one[:2], other[:2]).tolist(), *np.minimum(one[2:], other[2:]).tolist()))
    return common / (_area(one) + _area(other) - common)


def _area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _painted(boxes, shape):
    """The boxes of an image as a bool mask of a shape (height, width)."""
    mask = np.zeros(shape, bool)
    for box in boxes:
        left, top, right, bottom = map(round, box)
        mask[top:bottom, left:right] = True
    return mask


def _on_grid(mask):
    """A mask at the centers of GRID x GRID cells, as int."""
    rows, columns = ((np.arange(GRID) + 0.5) * size // GRID for size in mask.shape)
    return mask[np.ix_(rows.astype(int), columns.astype(int))].astype(int)


def _object_examples(images):
    """{kind: the smallest image ids}: images of one polyp, and of several, all of whose boxes match."""
    kinds = {kind: [] for kind in OBJECT_EXAMPLES}
    for image in images:
        if all(fit.kind == MATCHED for fit in image.fits):
            kinds["one" if len(image.of(INSTANCE)) == 1 else "several"].append(image.image_id)
    return {kind: sorted(ids)[: OBJECT_EXAMPLES[kind]] for kind, ids in kinds.items()}


# ------------------------------------------------------------------------------------------------------------ adding


def merge(summaries: list[dict]) -> dict:
    """The summary of several files of one part. Raises ValueError for none."""
    if not summaries:
        raise ValueError("no summary to merge")
    total = summaries[0]
    for summary in summaries[1:]:
        total = {name: _add(name, total[name], summary[name]) for name in total}
    return total


def _add(name, one, other):
    if name == "first":
        return min(one, other)
    if name == "examples":
        most = {**dict.fromkeys([*one, *other], FINDING_EXAMPLES), **(OBJECT_EXAMPLES if "several" in one else {})}
        return {key: sorted([*one.get(key, []), *other.get(key, [])])[: most[key]] for key in sorted(most)}
    if name in ("sizes", "cells", "instances", "boxes", "encoders", "bits", "kvasir_seg", "psnr", "mask_ious"):
        counts = Counter({tuple(value): times for *value, times in one})
        counts.update({tuple(value): times for *value, times in other})
        return _counted(counts)
    if name in ("mask_map", "box_map"):
        return np.add(one, other).tolist()
    return sorted(one + other) if isinstance(one, list) else one + other


# ---------------------------------------------------------------------------------------------------- what they say


def size_range(summary: dict) -> tuple[int, int, int, int]:
    """(smallest width, largest width, smallest height, largest height) in pixels."""
    widths, heights, _ = zip(*summary["sizes"])
    return min(widths), max(widths), min(heights), max(heights)


def common_sizes(summary: dict, number: int) -> list[tuple[int, int, int]]:
    """The most common (width, height, images), the most common first."""
    return [tuple(size) for size in sorted(summary["sizes"], key=lambda size: (-size[2], size))[:number]]


def label_counts(labeled: dict, column: int = 0) -> Counter:
    """Images by label or, with a column of 1 or 2 (fold_2, fold_5), by (label, fold)."""
    counts = Counter()
    for *cell, images in labeled["cells"]:
        counts[(cell[0], cell[column]) if column else cell[0]] += images
    return counts


def merged(name: str, summaries: Sequence[dict]) -> list:
    """One count of several summaries, added up."""
    return functools.reduce(functools.partial(_add, name), (summary[name] for summary in summaries))


def told_by_files(labeled: dict) -> list[dict]:
    """How well each finding is told from all others without a pixel: [{"label", "images", "header", "bits"}].

    AUC by the kind of its files, see `encoder_of`, and by bits a pixel, whichever way they tell more; 0.5 by chance.
    Only of findings with enough images for that.
    """
    headers = {entry["finding"]: entry["auc"] for entry in leaks.told_by_header(labeled["encoders"])}
    counts, found = label_counts(labeled), []
    for label, images in sorted(counts.items()):
        header = headers.get(TAXONOMY[label].name)
        if header is not None:
            auc = auc_of_bits(labeled["bits"], label)
            found.append({"label": label, "images": images, "header": header, "bits": max(auc, 1 - auc)})
    return found


def auc_of_bits(bits: Sequence[Sequence], label: int) -> float:
    """The share of pairs of an image with the label and one without, of which the first has more bits a pixel."""
    own, others = Counter(), Counter()
    for of, value, images in bits:
        (own if of == label else others)[value] += images
    return leaks.auc(own, others)


def objects_of(segmented: dict, kind: str) -> list[Object]:
    """The instances, or the boxes, by image id and number."""
    return [thing for thing in map(Object._make, segmented["objects"]) if thing.kind == kind]


def unfit_boxes(segmented: dict) -> list[Object]:
    """The boxes that match no instance: first those stretched to the corner, each kind with the worst first."""
    found = [box for box in objects_of(segmented, BOX) if box.fit != MATCHED]
    return sorted(found, key=lambda box: (FITS.index(box.fit), box.iou, box.image_id, box.number))


def object_examples(segmented: dict) -> list[str]:
    """The images shown on the card: of one polyp, of several, and with the most stretched box."""
    ids = [image_id for kind in OBJECT_EXAMPLES for image_id in segmented["examples"].get(kind, [])]
    return ids + [box.image_id for box in unfit_boxes(segmented) if box.fit == STRETCHED][:1]


def objects_text(segmented: dict) -> str:
    """objects.csv: a line for each instance and box.

    Not columns of `objects`: that has the shape that training scripts on the Hub take, has no place for instances, and
    every new number in it would be sent to the Hub with its file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Object._fields)
    writer.writerows(segmented["objects"])
    return text.getvalue()


def in_percent(share: float) -> str:
    """A share with a digit after the point, or one other than 0, e.g. "10.4%", "0.001%"."""
    percent = 100 * share
    digits = 1 if percent >= 0.1 or not percent else 1 - int(np.floor(np.log10(percent)) + 1)
    return f"{percent:.{digits}f}%"


def densest(segmented: dict, of: str) -> float:
    """The share of images that have a polyp at the densest cell of "mask_map" or "box_map"."""
    return np.max(segmented[of]) / segmented["rows"]


# ----------------------------------------------------------------------------------------------------------- keeping


def collect(folder: str, manifest: dict, known: dict, opened=None) -> dict:
    """{path: summary with "sha256" and "schema"} of all files of a manifest, reading those that `known` lacks.

    They are read in `folder`, or by `opened` (path -> a file object) if they are elsewhere. Raises OSError, naming the
    file, if one cannot be read.
    """
    summaries = {}
    for path, entry in manifest["files"].items():
        old = known.get(path, {})
        if _identity(entry).items() <= old.items():
            summaries[path] = old
        else:
            file = opened(path) if opened else opened_here(os.path.join(folder, path))
            summaries[path] = {**_identity(entry), **_summarize_or_say(file, part_of_path(path))}
    return summaries


def summary_of(table: pa.Table, part: str, entry: dict) -> dict:
    """The summary of a file that was just written from a table, as `collect` would give it."""
    return {**_identity(entry), **summarize(table, part)}


def _identity(entry):
    return {"sha256": entry["sha256"], "schema": SCHEMA}


def _summarize_or_say(path, part):
    try:
        return summarize(path, part)
    except pa.ArrowInvalid as error:
        raise OSError(f"{path}: not a whole Parquet file ({error}); build it again") from error


def read_stats(folder: str) -> dict:
    """The summaries kept in `folder`; none where there are none, or none that can be read."""
    try:
        summaries = json.loads(read(os.path.join(folder, FILE)) or b"{}")
        return summaries if isinstance(summaries, dict) else {}
    except ValueError:
        return {}


def stats_text(summaries: dict) -> str:
    """stats.json: a line for each file."""
    lines = (f"{json.dumps(path)}: {json.dumps(summary)}" for path, summary in sorted(summaries.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def by_part(summaries: dict) -> dict:
    """{part: merged summary} of the parts that there are."""
    parts = {part: [] for part in (*PARTS, METADATA)}
    for path, summary in sorted(summaries.items()):
        parts[part_of_path(path)].append(summary)
    return {part: merge(some) for part, some in parts.items() if some}


def paths_of(summaries: dict, part: str, image_ids: Sequence[str]) -> list[str]:
    """The files of `part` that hold images which their summaries name; all files, if one is named by none."""
    paths = [path for path in summaries if part_of_path(path) == part]
    found, left = [], set(image_ids)
    for path in paths:
        summary = summaries[path]
        examples = (name for ids in summary.get("examples", {}).values() for name in ids)
        named = left & {summary["first"], *summary.get("polyps", ()), *examples}
        found += [path] * bool(named)
        left -= named
    return paths if left else found
