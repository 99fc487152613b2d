"""The small edition: every image scaled to at most so many pixels a side, and all of them encoded alike.

So it is read at a multiple of the speed, and neither the JPEG header nor the quality tells what an image shows. Rows,
ids, labels, folds and views are those of the full edition. What is lost is measured where both are at hand, and noted
in the file.
"""

import functools
import io
import json
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from hyper_kvasir import Problems, Shard, read_examples
from scripts.pipeline.configs import ORIGINAL_SIZE, features_of

SCHEMA = 2  # of the small edition; increment it when the same images are to give others
QUALITY, SUBSAMPLING = 90, "4:2:0"  # of JPEG
# Images are decoded at this multiple of the new size or more, by JPEG's own scaling, before the filter. On real ones
# that is at least 39 dB to the same without it, and 44 at the median; at 2, as quick tools do it, 33 and 38.
DECODED = 3
IMAGE_BYTES = 17_000  # of a real image of 256 pixels, about
SHARD_BYTES = 16 << 20  # of files: streamed, the first image comes when the first file is read
LABELED_IMAGES = 64  # of a file, as in the full edition: the same buffer mixes both as well
SAMPLED = 16  # of so many rows of a file, one is compared with the exact picture
LOSS = b"hyper_kvasir.loss"  # in a file's metadata


def shard_limits(part: str, max_side: int) -> tuple[float, float]:
    """The limits of a file of the small edition, see `hyper_kvasir.Part.shards`: of images alone."""
    most_images = max(1, SHARD_BYTES // image_bytes(max_side))
    return math.inf, min(most_images, LABELED_IMAGES) if part == "labeled" else most_images


def image_bytes(max_side: int) -> int:
    """What an image takes, about."""
    return max(1, round(IMAGE_BYTES * (max_side / 256) ** 2))


def small_key(max_side: int) -> list:
    """What a file of the small edition depends on beyond what a full one does."""
    return [SCHEMA, max_side, QUALITY, SUBSAMPLING, DECODED, SAMPLED]


def scaled_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) in pixels, of which the longer is `max_side`; of a smaller image, its own."""
    longer = max(width, height)
    if longer <= max_side:
        return width, height
    return tuple(max(1, (2 * side * max_side + longer) // (2 * longer)) for side in (width, height))


def read_small(shard: Shard, rows: Sequence, max_side: int, problems: Problems, *, decode: bool = False) -> pa.Table:
    """Some rows of a shard as an Arrow table of the small edition, with what was lost in LOSS of its metadata.

    As `hyper_kvasir.read_examples`; what is wrong, and what cannot be decoded, goes to `problems`.
    """
    small, loss, members = [], Loss(), {row.image_id: row.image for row in rows}
    for start in range(0, len(rows), 16):  # originals are large
        for row in read_examples(shard, rows[start : start + 16], problems, decode=decode).to_pylist():
            try:
                small.append(shrink(row, max_side, loss, sampled=len(small) % SAMPLED == 0))
            except ValueError as error:
                text = f"it cannot be decoded ({error}); download the archive again"
                problems.extend(shard.archive.error(members[row["image_id"]].name, text).problems)
    schema = features_of(shard.part, small=True).arrow_schema
    return pa.Table.from_pylist(small, schema=schema).replace_schema_metadata({LOSS: json.dumps(loss.counted())})


class Loss:
    """What is lost, counted over the rows of a file."""

    def __init__(self):
        self.psnr, self.mask_ious, self.lost = Counter(), Counter(), []

    def counted(self) -> dict:
        """In JSON's types: {"psnr": [[dB, images]], "mask_ious": [[IoU, masks]], "lost": [[image id, number, pixels]]}.

        "psnr" is that of an image, as encoded, to its original that was decoded whole and scaled by the same filter; of
        a sample. "mask_ious" are of masks, enlarged again, and the originals. "lost" are instances without a pixel
        left, with the pixels that they had.
        """
        counted = {"psnr": self.psnr, "mask_ious": self.mask_ious}
        return {name: sorted(map(list, counter.items())) for name, counter in counted.items()} | {"lost": self.lost}


def shrink(row: dict, max_side: int, loss: Loss, *, sampled: bool) -> dict:
    """A row of the full edition as one of the small one. Raises ValueError where its image cannot be decoded."""
    size = row["width"], row["height"]
    new = scaled_size(*size, max_side)
    data = _encoded(_scaled(row["image"]["bytes"], new, DECODED))
    if sampled:
        loss.psnr[_psnr(Image.open(io.BytesIO(data)), _scaled(row["image"]["bytes"], new, None))] += 1
    sizes = dict(zip(("width", "height", *ORIGINAL_SIZE), (*new, *size)))
    shrunk = {**row, "image": {**row["image"], "bytes": data}, **sizes}
    if "mask" in row:
        shrunk |= _shrunk_masks(row, new, loss)
        shrunk["objects"] = scaled_objects(row["objects"], size, new)
    return shrunk


def _scaled(data, size, times):
    """A JPEG as an image of a size, decoded at so many times that or more; exact with None."""
    least = {} if times is None else {"min_width": times * size[0], "min_height": times * size[1]}
    pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    image = Image.fromarray(pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _encoded(image):
    buffer = io.BytesIO()
    # By the tables of the standard: one header for all.
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def check_small(row: dict, max_side: int) -> None:
    """Raises ValueError where a row is not as the small edition's are: its size, how its image is encoded."""
    size, original = (row["width"], row["height"]), tuple(row[name] for name in ORIGINAL_SIZE)
    if size != scaled_size(*original, max_side):
        text = f"image of {size[0]} x {size[1]} pixels, made of one of {original[0]} x {original[1]}"
        raise ValueError(f"{text}; expected {' x '.join(map(str, scaled_size(*original, max_side)))}")
    if _header(row["image"]["bytes"]) != _header_of(size):
        raise ValueError("image is encoded otherwise than all others")


def _header(data):
    return data[: data.find(b"\xff\xda")]  # up to the scan


@functools.lru_cache(maxsize=1024)
def _header_of(size):
    return _header(_encoded(Image.new("RGB", size)))


def _psnr(one, other):
    """Peak signal-to-noise ratio of two images in dB, to half a dB; 99 of equal ones."""
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return 99.0 if error == 0 else min(99.0, round(2 * 10 * float(np.log10(255**2 / error))) / 2)


def _shrunk_masks(row, size, loss):
    """Mask and instances, by the nearest pixel: values stay what they are, and the two stay alike."""
    shrunk, pixels = {}, {}
    for name in ("mask", "instances"):
        with Image.open(io.BytesIO(row[name]["bytes"])) as image:
            small = image.resize(size, Image.Resampling.NEAREST)
            pixels[name] = np.asarray(image), np.asarray(small)
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        shrunk[name] = {**row[name], "bytes": buffer.getvalue()}
        if name == "mask":
            back = small.resize(image.size, Image.Resampling.NEAREST)
            one, other = pixels[name][0] > 0, np.asarray(back) > 0
            loss.mask_ious[round(np.count_nonzero(one & other) / np.count_nonzero(one | other), 3)] += 1
    before, after = (np.bincount(some.ravel(), minlength=256) for some in pixels["instances"])
    before[0] = 0  # no instance
    gone = np.flatnonzero((before > 0) & (after == 0))
    loss.lost += [[row["image_id"], int(number), int(before[number])] for number in gone]
    return shrunk


def scaled_objects(objects: dict, size: tuple[int, int], new: tuple[int, int]) -> dict:
    """`objects` of an image of a size (width, height) as they are at a new one, areas in whole square pixels.

    Boxes are as float32 has them, and do not reach beyond the image.
    """
    boxes = []
    for x, y, width, height in objects["bbox"]:
        x, width = _scaled_span(x, width, new[0] / size[0], new[0])
        y, height = _scaled_span(y, height, new[1] / size[1], new[1])
        boxes.append([x, y, width, height])
    return {**objects, "bbox": boxes, "area": [round(width * height) for _, _, width, height in boxes]}


def _scaled_span(start, length, scale, end):
    """(start, length) along one side, which ends at `end`: float32 may round both up."""
    start, length = np.float32(start * scale), np.float32(length * scale)
    while float(start) + float(length) > end:
        length = np.nextafter(length, np.float32(0))
    return float(start), float(length)
