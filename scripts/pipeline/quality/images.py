"""What one image shows: facts about it, a descriptor to find others like it, local features to compare it with them.

An image is decoded by libjpeg-turbo, strictly, at the smallest of its scales that leaves enough pixels, and reduced by
OpenCV until its longer side has SIDE pixels. All of its entropy coding is undone, so that damage is seen as in a full
decode. All facts but those of the file are of that picture: of one size, so that they compare.

The *content* is what the camera saw: without the black border, and without the navigation picture, which is green, or
blacked out. Its threshold is relative to the brightness of the image, since copies differ in contrast and gamma. Burned
text is never read. Local features leave out the left quarter of the content, where it lies, and what is as bright as it
anywhere: dates and labels of different patients match.
"""

import hashlib
import io
from typing import NamedTuple

import cv2  # opencv-contrib, for img_hash. Not PDQ: pdqhash has to be compiled.
import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin

from scripts.pipeline.stats import encoder_of

SIDE = 256  # pixels of the longer side of the picture that facts, descriptor and features are taken from
CELLS, DIRECTIONS = 8, 8  # of the descriptor: gradients by direction, in 8 x 8 cells of the content
GRID = 64  # pixels a side of the content that these are summed over
DESCRIPTOR = CELLS * CELLS * DIRECTIONS  # values of a descriptor
LENGTH = 512  # of descriptors and features, which are whole numbers: float32 has their products exactly (below 2**24)
FEATURES = 400  # local ones of an image, at most
CORRELATED = 192  # pixels of the longer side of the content, to correlate it with another

DARK = 0.08  # of the brightness that a tenth of the pixels exceed: what is darker is border
DARKEST = 10  # of 255, at least
BLACK = 20  # of 255, at most: what counts as black in `black_share`
GREEN = 50  # of 255: what is less green is no navigation picture
INSIDE = 0.03  # of the content's width and height: so far from its edges a black rectangle is measured
SPECKS = np.ones((7, 7), np.uint8)  # text and noise on the border are thinner
TEXT = 0.24  # of the content's width, from the left, may hold burned text
GLARE = 210  # of 255: reflections move between frames, and text is as bright, so what is brighter counts for nothing
BESIDE_TEXT = 4  # pixels of SIDE: with 1, text in the middle joined 13 of 18 pairs of unrelated images; with 4, none

cv2.setNumThreads(1)  # the images are worked on in parallel


class Facts(NamedTuple):
    """Facts of a file and its picture. Shares are of all pixels, between 0 and 1."""

    sha256: str
    bytes: int
    width: int
    height: int
    phash: str  # pHash of the picture (Zauner 2010, as OpenCV's img_hash has it), 16 hex digits
    jfif: bool
    quality: int  # that the luminance quantization table implies, as libjpeg counts it
    subsampling: str  # "4:2:0"
    bits_per_pixel: float
    black_share: float
    green_share: float  # the navigation picture: 0 without one
    black_rectangle: float  # the navigation picture blacked out, at the lower left corner of the content: 0 without one
    brightness: float  # mean luma of the content, 0 to 255
    blur: float  # variance of the Laplacian of the content's luma: the smaller, the more blurred


class Look(NamedTuple):
    """What a pass over the images keeps of one."""

    facts: Facts
    descriptor: np.ndarray  # uint8, DESCRIPTOR values; of Euclidean length LENGTH


class Sketch(NamedTuple):
    """What an image is compared by. Places are in pixels of the image, (x, y)."""

    points: np.ndarray  # float32, n x 2
    features: np.ndarray  # uint8, n x 128, of Euclidean length LENGTH
    content: np.ndarray  # uint8, at most CORRELATED a side: luma of the content
    mask: np.ndarray  # uint8, of its shape: not 0 where it is content, and no text
    to_image: np.ndarray  # float64, 2 x 3: from pixels of `content` to pixels of the image


def look(data: bytes) -> Look:
    """Decodes an image and looks at it. Raises ValueError, saying why, where it cannot be decoded."""
    header, pixels = _decode(data, SIDE)
    picture = _reduced(pixels, SIDE)
    brightest, green, content = _content(picture)
    luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    inner = cv2.erode(content, SPECKS[:5, :5])
    detail = cv2.Laplacian(luma, cv2.CV_16S)
    area = header["width"] * header["height"]
    facts = Facts(
        **header,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        phash=_PHASH.compute(picture).tobytes().hex(),
        bits_per_pixel=_rounded(8 * len(data) / area),
        black_share=_rounded(cv2.countNonZero(cv2.compare(brightest, BLACK, cv2.CMP_LE)) / luma.size),
        green_share=_rounded(cv2.countNonZero(green) / luma.size),
        black_rectangle=_rounded(_black_rectangle(brightest, content) / luma.size),
        brightness=_rounded(cv2.mean(luma, content)[0]),
        blur=_rounded(cv2.meanStdDev(detail, mask=inner)[1].item() ** 2),
    )
    return Look(facts, _descriptor(luma, content))


def sketch(data: bytes) -> Sketch:
    """Decodes an image, and takes what it is compared with others by. Raises ValueError as `look`."""
    header, pixels = _decode(data, 2 * SIDE)
    picture = _reduced(pixels, SIDE)
    *_, content = _content(picture)
    left, top, width, height = _box(content)
    reduced = picture.shape[1] / pixels.shape[1]
    # The content at full SIDE, from more pixels than the picture has.
    box = [round(edge / reduced) for edge in (left, top, left + width, top + height)]
    luma = cv2.cvtColor(pixels[box[1] : box[3], box[0] : box[2]], cv2.COLOR_BGR2GRAY)
    shape = np.array(luma.shape[::-1])  # width, height
    luma = _reduced(luma, SIDE)
    mask = _to_shape(content[top : top + height, left : left + width], luma.shape)
    mask[:, : round(TEXT * mask.shape[1])] = 0
    usable = cv2.erode(mask, SPECKS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    points, features = _features(luma, usable & ~_glare(luma, BESIDE_TEXT))
    small = _reduced(luma, CORRELATED)
    # By centers of pixels. What was decoded at a scale of libjpeg's is smaller than the image.
    by = header["width"] / pixels.shape[1], header["height"] / pixels.shape[0]
    corner = np.multiply(by, box[:2])
    step = by * shape / small.shape[::-1]
    to_image = np.column_stack([np.diag(step), corner + step / 2 - 0.5])
    places = (points + 0.5) * (by * shape / luma.shape[::-1]) + corner - 0.5
    return Sketch(places.astype(np.float32), features, small, _to_shape(mask, small.shape), to_image)


def content_of(data: bytes) -> np.ndarray:
    """Where an image shows content, as bool, of its height x width."""
    _, pixels = _decode(data)
    return _to_shape(_content(_reduced(pixels, SIDE))[2], pixels.shape[:2]) > 0


def _decode(data, side=None):
    """(what its header tells, pixels as B, G, R); with `side` at the smallest of libjpeg's scales that leaves as much.

    That makes no difference to what is found to be damaged: all of the entropy coding is undone.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            jfif, quality = encoder_of(image)
            sampling = "4:0:0" if image.mode == "L" else _SAMPLINGS.get(JpegImagePlugin.get_sampling(image), "other")
            size = image.size
        least = [max(1, side * edge // max(size)) for edge in size] if side else (0, 0)
        pixels = simplejpeg.decode_jpeg(data, "BGR", min_width=least[0], min_height=least[1])
    except (OSError, ValueError, SyntaxError, LookupError, Image.DecompressionBombError) as error:
        why = "it is no JPEG" if "cannot identify" in str(error) else error  # which names an address in memory
        raise ValueError(f"it cannot be decoded: {why}") from error
    header = {"width": size[0], "height": size[1], "jfif": jfif, "quality": quality, "subsampling": sampling}
    return header, pixels


_SAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def _rounded(value):
    return round(float(value), 4)


def _reduced(pixels, side):
    """Pixels whose longer side has `side`. Areas are averaged where linear interpolation would skip pixels."""
    by = side / max(pixels.shape[:2])
    height, width = (max(1, round(by * edge)) for edge in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if by <= 0.5 else cv2.INTER_LINEAR)


def _to_shape(mask, shape):
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _box(mask):
    """(left, top, width, height) of a mask; of an empty one, all of it."""
    box = cv2.boundingRect(mask)
    return box if box[2] else (0, 0, mask.shape[1], mask.shape[0])


# ---------------------------------------------------------------------------------------------------------- content


def _content(picture):
    """(brightest of B, G, R; masks, 0 or 255, of the green navigation picture and of the content) of a picture."""
    blue, green, red = cv2.split(picture)
    brightest = cv2.max(cv2.max(blue, green), red)
    counts = np.cumsum(cv2.calcHist([brightest], [0], None, [256], [0, 256]))
    bright = int(np.searchsorted(counts, 0.9 * counts[-1]))
    flat = cv2.compare(green, cv2.max(cv2.multiply(red, 1.25), blue), cv2.CMP_GT)
    flat &= cv2.compare(green, GREEN, cv2.CMP_GT)
    flat = cv2.morphologyEx(flat, cv2.MORPH_OPEN, SPECKS)
    seen = cv2.compare(brightest, max(DARKEST, DARK * bright), cv2.CMP_GT) & ~flat
    seen = cv2.morphologyEx(seen, cv2.MORPH_OPEN, SPECKS)
    number, labels, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=4, ltype=cv2.CV_16U)
    if number < 2:  # nothing is bright
        return brightest, flat, np.full_like(seen, 255)
    return brightest, flat, cv2.compare(labels, float(1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])), cv2.CMP_EQ)


def _black_rectangle(brightest, content):
    """Pixels of the black rectangle at the lower left corner of the content's box; 0 without one.

    The largest dark rectangle at that corner, if it takes a tenth to six tenths of the box's width and height, and most
    rows end where it ends: those of a corner that the round view leaves dark do not.
    """
    left, top, width, height = _box(content)
    inside = max(1, round(INSIDE * min(width, height)))  # its outer edges may be soft
    dark = brightest[top : top + height - inside, left + inside : left + width] <= BLACK
    if not dark.size:
        return 0
    ends = np.where(dark.all(1), dark.shape[1], dark.argmin(1))[::-1]  # of the dark pixels of each row, from below
    across = np.minimum.accumulate(ends)
    down = 1 + int(np.argmax(across * np.arange(1, len(across) + 1)))
    if not (0.1 * height <= down <= 0.6 * height and 0.1 * width <= across[down - 1] <= 0.6 * width):
        return 0
    sharp = np.median(ends[:down]) <= 1.15 * across[down - 1]
    return int((down + inside) * (across[down - 1] + inside)) if sharp else 0


def _glare(luma, around):
    """Reflections, burned text, and `around` pixels next to them, as a mask."""
    return cv2.dilate(cv2.compare(luma, GLARE, cv2.CMP_GT), np.ones((2 * around + 1,) * 2, np.uint8))


# ------------------------------------------------------------------------------------------------------- descriptors


def _descriptor(luma, content):
    """Histograms of gradients by direction over the cells of the content, whatever its shape, as uint8."""
    left, top, width, height = _box(content)
    box = slice(top, top + height), slice(left, left + width)
    pixels = cv2.resize(luma[box], (GRID, GRID), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(content[box], (GRID, GRID), interpolation=cv2.INTER_NEAREST)
    mask = cv2.erode(mask, SPECKS[:3, :3], borderType=cv2.BORDER_CONSTANT, borderValue=0) & ~_glare(pixels, 1)
    size, angle = cv2.cartToPolar(cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1))
    size = cv2.sqrt(cv2.sqrt(size)) * (mask > 0)  # else a few strong edges are all that counts
    angle *= DIRECTIONS / (2 * np.pi)
    lower = np.floor(angle)
    upper = (angle - lower) * size  # shared out between the two nearest directions
    cell = np.arange(GRID) * CELLS // GRID
    place = (cell[:, None] * CELLS + cell) * DIRECTIONS
    sums = np.zeros(DESCRIPTOR)
    for direction, weight in ((lower, size - upper), (lower + 1, upper)):
        at = place + direction.astype(np.int64) % DIRECTIONS
        sums += np.bincount(at.ravel(), weight.ravel(), len(sums))
    length = np.linalg.norm(sums)
    return np.minimum(np.round(sums * (LENGTH / length if length else 0)), 255).astype(np.uint8)


_PHASH = cv2.img_hash.PHash.create()
_SIFT = cv2.SIFT_create(FEATURES, contrastThreshold=0.005)


def _features(luma, usable):
    """(places, n x 2, and features, n x 128) of an image: SIFT, as RootSIFT compares it (Arandjelović 2012)."""
    found, features = _SIFT.detectAndCompute(luma, usable)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    found, features = found[:FEATURES], features[:FEATURES]  # of equal strength there may be more
    features = LENGTH * np.sqrt(features / np.maximum(features.sum(1, keepdims=True), 1e-9))
    return np.array([point.pt for point in found], np.float32), np.minimum(np.round(features), 255).astype(np.uint8)
