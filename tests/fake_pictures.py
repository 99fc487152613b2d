"""What the images of a generated source show: a scene for each finding, with polyps, their masks and boxes.

A picture depends on its `Art` alone, so the same arguments give the same bytes wherever and whenever it is drawn.
"""

import functools
import hashlib
import io
import random
import struct
import uuid
from typing import NamedTuple

import numpy as np
from PIL import Image

from hyper_kvasir import TAXONOMY

BY_NAME = {finding.name: finding for finding in TAXONOMY}


def polyp_layouts():
    """(instances, boxes) of the 1,000 segmented images: the true multiset, with some of each kind among the first."""
    first = [(1, 1), (2, 2), (1, 1), (3, 3), (1, 2), (1, 1), (1, 1), (10, 10), (2, 3), (4, 4)]
    rest = [(1, 1)] * 941 + [(1, 2)] * 6 + [(2, 2)] * 39 + [(3, 3)] * 4
    random.Random(0).shuffle(rest)
    return first + rest


LAYOUTS = polyp_layouts()


def number(*words):
    """A number that depends on nothing but the words: the one source of chance here."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:16], "big")


def new_id(*words):
    """A lowercase uuid4 that depends on the words alone."""
    return str(uuid.UUID(int=number("id", *words), version=4))


class Art(NamedTuple):
    """All that a picture depends on. `layout` is an index into LAYOUTS for polyps, else -1."""

    seed: int
    id: str
    look: str
    layout: int
    images: str

    def chance(self, *words):
        return np.random.default_rng(number(self.seed, self.id, *words))

    def size(self):
        """Width and height."""
        pick = number(self.seed, self.id, "size")
        if self.images == "tiny":
            return (64 + pick % 9, 48 + pick % 7) if self.layout >= 0 else (16 + pick % 9, 16 + pick % 5)
        sizes = {
            "drawn": [(160, 120), (152, 128), (168, 124)],
            "photo": [(920, 880), (1000, 990), (1080, 1010), (1225, 1013)],
        }
        return sizes[self.images][pick % len(sizes[self.images])]


class Canvas:
    """A picture in the making: `x` and `y` run over [-1, 1], `px` is RGB in 0…255, `rng` decides what varies by id."""

    def __init__(self, rng, size, color):
        width, height = size
        self.rng, self.size = rng, size
        self.y, self.x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        self.x *= 1.15
        mottle = Image.fromarray(rng.integers(0, 256, (6, 8), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        light = 0.9 + 0.2 * (np.asarray(mottle) / 255.0 - 0.5) + 0.12 * self.y
        self.px = light[..., None] * (np.array(color, float) + rng.normal(0, 6, 3))

    def polar(self, cx=0.0, cy=0.0):
        """Distance and angle from a center."""
        return np.hypot(self.x - cx, self.y - cy), np.arctan2(self.y - cy, self.x - cx)

    def blob(self, cx, cy, radius, wobble=0.15):
        """1 at the center, 0 at a wobbly outline, negative outside."""
        distance, angle = self.polar(cx, cy)
        a, b = self.rng.uniform(0, 6.3, 2)
        return 1 + wobble * (np.cos(2 * angle + a) + 0.6 * np.cos(5 * angle + b)) - distance / radius

    def blend(self, alpha, color):
        """Lay a color over the picture where alpha is above 0, up to fully."""
        alpha = np.clip(alpha, 0, 1)[..., None]
        self.px = self.px * (1 - alpha) + alpha * np.array(color, float)

    def anywhere(self, reach=0.8):
        return self.rng.uniform(-reach, reach, 2)


def lumen(canvas, radius=0.28, at=None, color=(48, 16, 14)):
    """The dark way on, with the light falling off towards it."""
    cx, cy = canvas.anywhere(0.3) if at is None else at
    canvas.px *= np.clip(0.45 + 0.65 * canvas.polar(cx, cy)[0] / (radius * 2.6), 0.45, 1.05)[..., None]
    canvas.blend(canvas.blob(cx, cy, radius, 0.08) * 5, color)


def folds(canvas, rings=5, strength=0.16, at=None):
    """Bright and dark rings, closer together farther in."""
    cx, cy = canvas.anywhere(0.3) if at is None else at
    distance, angle = canvas.polar(cx, cy)
    a, b = canvas.rng.uniform(0, 6.3, 2)
    wave = np.sin(rings * 3 * np.sqrt(distance) + 0.8 * np.cos(3 * angle + a) + b)
    canvas.px *= (1 + strength * np.sign(wave) * np.abs(wave) ** 0.6)[..., None]


def rays(canvas, count=9, strength=0.18):
    """Long folds that run together towards the middle, as in the stomach."""
    distance, angle = canvas.polar(0, -0.3)
    canvas.px *= (1 + strength * np.sin(count * angle + 5 * np.sin(2.2 * distance + canvas.rng.uniform(0, 6))))[
        ..., None
    ]


def tube(canvas, color=(22, 22, 28)):
    """The endoscope itself, seen when it is bent back: a dark bar from above with white marks."""
    x0, bend = canvas.rng.uniform(-0.3, 0.3), canvas.rng.uniform(-0.4, 0.4)
    alpha = 8 * (0.17 - np.abs(canvas.x - x0 - bend * canvas.y)) * (canvas.y < 0.1)
    canvas.blend(alpha * 3, color)
    canvas.blend(alpha * (np.sin(canvas.y * 16) > 0.82), (225, 225, 225))


def patches(canvas, count, radius, color, opacity=0.8):
    """Soft blots: blood, fibrin, stool, dye."""
    for _ in range(count):
        canvas.blend(
            np.minimum(canvas.blob(*canvas.anywhere(), radius * canvas.rng.uniform(0.6, 1.4), 0.25) * 3, opacity),
            color,
        )


def mounds(canvas, count, radius, color, at=None):
    """Round bulges, lit from above, with a dark rim."""
    for index in range(count):
        cx, cy = canvas.anywhere(0.55) if at is None else at[index]
        height = canvas.blob(cx, cy, radius, 0.07)
        canvas.blend((height + 0.15) * 5 * (height < 0.1), (70, 22, 22))
        canvas.blend(height * 8, np.array(color) * 0.72)
        canvas.blend(
            canvas.blob(cx - 0.15 * radius, cy - 0.2 * radius, radius * 0.7, 0.07),
            np.minimum(np.array(color) * 1.25, 255),
        )


def tongues(canvas, depth, count, color=(196, 92, 70), radius=0.5):
    """The line where pale gullet meets salmon-red stomach, with tongues of `depth` reaching out."""
    distance, angle = canvas.polar()
    edge = (
        radius + depth * np.maximum(0, np.cos(count * angle + canvas.rng.uniform(0, 6))) ** 2 + 0.05 * np.cos(7 * angle)
    )
    canvas.blend((edge - distance) * 14, color)
    lumen(canvas, 0.2, (0, 0))


def streaks(canvas, count, width, length):
    """Red breaks in the gullet's lining, running outwards."""
    distance, angle = canvas.polar()
    for start in canvas.rng.uniform(0, 6.3) + np.arange(count) * 6.28 / count:
        across = np.abs((angle - start + np.pi) % (2 * np.pi) - np.pi) * distance
        inside = (distance > 0.45) & (distance < 0.45 + length)
        canvas.blend((width - across) * 22 * inside, (172, 24, 34))
        canvas.blend((width * 0.35 - across) * 22 * inside, (238, 214, 190))


def arc(canvas, color=(92, 28, 26)):
    """The mouth of the appendix: a crescent within a shallow whorl."""
    cx, cy = canvas.anywhere(0.25)
    folds(canvas, 3, 0.1, (cx, cy))
    distance, angle = canvas.polar(cx, cy)
    canvas.blend((0.07 - np.abs(distance - 0.2)) * 20 * (np.cos(angle + canvas.rng.uniform(0, 6)) > -0.1), color)


def villi(canvas):
    """The velvet of the small bowel."""
    grain = np.sin(canvas.x * 34 + 2 * np.sin(canvas.y * 9)) * np.sin(canvas.y * 34 + 2 * np.sin(canvas.x * 8))
    canvas.px *= (1 + 0.16 * grain)[..., None]


def colitis(grade):
    """Inflamed bowel: redder, with more blood and more white fibrin from grade to grade."""
    color = (222 - 8 * grade, 128 - 26 * grade, 104 - 20 * grade)
    spots = [
        (patches, int(3 + 6 * grade), 0.22, (176, 30, 28), 0.5),
        (patches, int(9 * max(0, grade - 0.75)), 0.1, (238, 222, 178)),
    ]
    return color, [(folds, 3, 0.07), *spots]


PINK, PALE, STOMACH, DYE = (224, 138, 112), (232, 176, 170), (216, 128, 92), (64, 138, 176)
LOOKS = {  # finding: ground color, then painters with their arguments
    "cecum": (PINK, [(arc,)]),
    "ileum": ((226, 158, 104), [(lumen, 0.22), (villi,)]),
    "retroflex-rectum": ((208, 118, 106), [(folds, 3, 0.08), (tube,)]),
    "hemorrhoids": (
        (206, 104, 98),
        [
            (lumen, 0.2, (0, 0)),
            (mounds, 4, 0.34, (142, 44, 84), [(-0.55, -0.3), (0.5, -0.4), (0.45, 0.5), (-0.45, 0.5)]),
        ],
    ),
    "polyps": ((220, 120, 88), [(folds, 4, 0.1)]),
    "ulcerative-colitis-grade-0-1": colitis(0.5),
    "ulcerative-colitis-grade-1": colitis(1),
    "ulcerative-colitis-grade-1-2": colitis(1.5),
    "ulcerative-colitis-grade-2": colitis(2),
    "ulcerative-colitis-grade-2-3": colitis(2.5),
    "ulcerative-colitis-grade-3": colitis(3),
    "bbps-0-1": (PINK, [(folds, 5), (lumen, 0.25), (patches, 7, 0.34, (168, 120, 32), 0.85)]),
    "bbps-2-3": (PINK, [(folds, 6, 0.2, (0, -0.1)), (lumen, 0.3, (0, -0.1))]),
    "impacted-stool": (
        (150, 96, 44),
        [(lumen, 0.3), (mounds, 9, 0.36, (128, 86, 26)), (patches, 14, 0.06, (206, 168, 66))],
    ),
    "dyed-lifted-polyps": (
        (210, 132, 100),
        [(folds, 4, 0.1), (mounds, 1, 0.66, DYE, [(0.1, 0.15)]), (mounds, 1, 0.32, (214, 176, 170), [(0.05, 0)])],
    ),
    "dyed-resection-margins": (
        DYE,
        [
            (folds, 4, 0.12),
            (mounds, 1, 0.58, (196, 222, 228), [(0, 0)]),
            (patches, 3, 0.1, (150, 30, 36)),
            (mounds, 1, 0.36, (40, 78, 150), [(0, 0.05)]),
        ],
    ),
    "pylorus": (
        STOMACH,
        [(folds, 4, 0.12, (0, 0)), (mounds, 1, 0.42, (206, 106, 78), [(0, 0)]), (lumen, 0.14, (0, 0), (24, 8, 8))],
    ),
    "retroflex-stomach": ((206, 132, 120), [(rays, 9), (tube,)]),
    "z-line": (PALE, [(tongues, 0.1, 5)]),
    "barretts": (PALE, [(tongues, 0.55, 4)]),
    "barretts-short-segment": (PALE, [(tongues, 0.28, 3)]),
    "esophagitis-a": (PALE, [(tongues, 0.06, 5), (streaks, 2, 0.05, 0.3)]),
    "esophagitis-b-d": (PALE, [(tongues, 0.06, 5), (streaks, 6, 0.11, 0.6)]),
}


def polyps(art, size):
    """A height field for each polyp of the picture, above 0 inside: what is drawn, and what the mask is cut from."""
    count, rng = LAYOUTS[art.layout][0], art.chance("polyps")
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 10: 5}[count]
    lines = -(-count // columns)
    y, x = np.mgrid[0.5 : size[1], 0.5 : size[0]] / np.array([size[1], size[0]])[:, None, None]
    for index in range(count):
        cx, cy = (index % columns + 0.5) / columns, (index // columns + 0.5) / lines
        rx, ry = rng.uniform(0.5, 0.7, 2) / (2 * columns, 2 * lines)
        if count == 1:
            (rx, ry), (cx, cy) = rng.uniform(0.16, 0.26, 2), rng.uniform(0.35, 0.65, 2)
            if art.layout % 9 == 0:  # as in 116 of the true boxes, this one reaches the right or the lower edge
                cx, cy = [(0.9, 0.5), (0.5, 0.9)][art.layout // 9 % 2]
        u, v = (x - cx) / rx, (y - cy) / ry
        angle, phase = np.arctan2(v, u), rng.uniform(0, 6.3)
        yield 1 + 0.1 * np.cos(2 * angle + phase) + 0.06 * np.cos(3 * angle + 2 * phase) - np.hypot(u, v)


def scene(art, size):
    """The picture as an RGB image."""
    color, painters = LOOKS[art.look]
    canvas = Canvas(art.chance("scene"), size, color)
    for painter, *arguments in painters:
        painter(canvas, *arguments)
    for height in polyps(art, size) if art.layout >= 0 else ():
        canvas.blend(np.exp(-(((height + 0.05) * 9) ** 2)) * 0.7, (96, 30, 24))
        canvas.blend(height * 12, (206, 84, 66))
        canvas.blend(height * 0.9, (250, 176, 148))
    for _ in range(canvas.rng.integers(4, 10)):  # wet highlights
        canvas.blend(canvas.blob(*canvas.anywhere(), canvas.rng.uniform(0.02, 0.05)) * 3, (255, 250, 244))
    distance = canvas.polar()[0]
    canvas.px *= np.clip(1.25 - 0.45 * distance**2, 0, 1)[..., None]
    canvas.px *= ((np.abs(canvas.x) + np.abs(canvas.y) < 1.72) & (distance < 1.28))[..., None]
    if BY_NAME[art.look].tract == "lower-gi-tract" and art.look != "polyps" and canvas.rng.random() < 0.5:
        canvas.blend((canvas.x < -0.6) & (canvas.y > 0.45), (18, 164, 138))  # the navigation picture
    return Image.fromarray(np.clip(canvas.px, 0, 255).astype(np.uint8))


@functools.lru_cache(1)
def grain():
    """The noise that photos take their windows from."""
    return np.random.default_rng(0).normal(0, 3.4, (2048, 2048)).astype(np.int16)


def photo(art):
    """A scene drawn small, enlarged, with the grain of a camera: about 370 KB.

    With Huffman tables of its own a photo deflates as the real ones do, to 0.999 of its size (the 16 real ones at hand:
    0.998), and so costs about as much to inflate.
    """
    width, height = art.size()
    rng = art.chance("photo")
    left, top = rng.integers(0, 2048 - width), rng.integers(0, 2048 - height)
    small = scene(art, (width // 8, height // 8)).convert("YCbCr")
    luma, *chroma = small.resize((width, height), Image.Resampling.BILINEAR).split()
    luma = np.clip(np.asarray(luma, np.int16) + grain()[top : top + height, left : left + width], 0, 255)
    return Image.merge("YCbCr", [Image.fromarray(luma.astype(np.uint8)), *chroma]), int(rng.integers(95, 99))


def encode(image, quality, optimize=False):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=optimize)
    return buffer.getvalue()


def stamp(jpeg, text):
    """The same JPEG with a comment: other bytes, the same picture."""
    comment = text.encode()
    return jpeg[:20] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[20:]


def picture(art):
    """The image file. Tiny ones without polyps share a few pictures for each look, and differ by a comment."""
    if art.images == "photo":
        return encode(*photo(art), optimize=True)
    if art.images == "tiny" and art.layout < 0:
        return stamp(variant(art.seed, number(art.id) % 4, art.look), art.id)
    return drawn(art, 90)


@functools.lru_cache(4096)
def drawn(art, quality):
    return encode(scene(art, art.size()), quality)


def variant(seed, index, look):
    return drawn(Art(seed, f"variant-{index}", look, -1, "tiny"), 75)


@functools.lru_cache(4096)
def mask(art):
    """The mask file: a JPEG of three equal channels, in one of seven with the stray white pixel at (0, 0)."""
    white = np.max(list(polyps(art, art.size())), axis=0) > 0
    white[0, 0] |= art.layout % 7 == 2
    return encode(Image.fromarray(white.astype(np.uint8) * 255).convert("RGB"), 95)


def boxes(art):
    """Entry in bounding-boxes.json: boxes a pixel outside their polyp, and the true ones' two kinds of oddity."""
    found = []
    for height in polyps(art, art.size()):
        y, x = np.nonzero(height > 0)
        found.append([max(x.min() - 1, 0), max(y.min() - 1, 0), x.max() + 1, y.max() + 1])
    if art.layout % 49 == 2:  # stretched to the stray pixel
        found[0][:2] = 0, 0
    if LAYOUTS[art.layout][1] > len(found):  # a sliver, beside the polyp's own box
        _, top, right, bottom = found[0]
        found.append([right - 2, top, right, bottom])
    width, height = art.size()
    bbox = [{"label": "polyp", **dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, box)))} for box in found]
    return {"height": height, "width": width, "bbox": bbox}
