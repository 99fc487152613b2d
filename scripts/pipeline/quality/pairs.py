"""Which images show the same frame, or the same scene.

In two stages. The descriptors of all images are compared with each other, exactly, and each image's nearest are its
candidates (`candidates`). Those are compared by local features: a similarity transform that maps one onto the other,
how many features follow it, and how well the pictures correlate under it (`compare`). Mirrored copies are not looked
for.
"""

from math import comb
from typing import NamedTuple

import cv2
import faiss
import numpy as np

from scripts.pipeline.configs import KINDS
from scripts.pipeline.quality.images import LENGTH, SIDE, Sketch, content_of

NEAREST = 20  # candidates of an image, at most
DISTANCE = 0.40  # of their descriptors, at most: 1 - cosine
RATIO = 0.88  # of the distances of a feature to the best and the second best, at most (Lowe 2004)
LEAST = 4  # features that match, at least: two make any transform, and more must follow it
OFF = 4  # pixels of SIDE that a feature may be off its place under the transform
SCALES = (0.5, 2.0)  # of a transform, between contents reduced to SIDE
DEGREES = 45  # of its rotation, at most
OVERLAP = 0.1  # of the content of an image, at least, must be in the other to be correlated
NOISE = 30  # of 255: larger differences from the surroundings are reflections and edges of masks

SAME_FRAME, SAME_SCENE = KINDS
FRAME_INLIERS, FRAME_CORRELATION = 15, 0.72  # at least; measured: `python -m scripts.bench_quality copies`
FALSE_PAIRS = 0.5  # expected in all, at most
CHANCE = 10**-4.5  # of a pair, at most, however few are compared


class Match(NamedTuple):
    """How one image maps onto another: the evidence for a pair."""

    matches: int  # features that are alike
    inliers: int  # of these, at different places, that follow the transform
    chance: float  # transforms that as many would follow by chance: expected number
    correlation: float  # of luma less its surroundings, where both have content; between -1 and 1
    transform: np.ndarray  # float64, 2 x 3: from pixels of one image to pixels of the other

    def kind(self, compared: int) -> str | None:
        """SAME_FRAME, SAME_SCENE, or None, of a pair out of so many that were compared."""
        if self.chance > min(CHANCE, FALSE_PAIRS / max(compared, 1)):
            return None
        same = self.inliers >= FRAME_INLIERS and self.correlation >= FRAME_CORRELATION
        return SAME_FRAME if same else SAME_SCENE


def candidates(descriptors: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, of images of which one is among the NEAREST of the other: int64, pairs x 2, sorted.

    `descriptors` as of `Look`, uint8, images x values. Exact: all are compared, in whole numbers that float32 holds, so
    that the result depends on nothing else. Takes memory for them in float32, and time that is quadratic in the images.
    """
    values = descriptors.astype(np.float32)
    number = min(NEAREST + 1, len(values))  # an image is nearest to itself
    products, others = faiss.knn(values, values, number, metric=faiss.METRIC_INNER_PRODUCT)
    here = np.repeat(np.arange(len(values)), number).reshape(others.shape)
    near = (products >= (1 - DISTANCE) * LENGTH**2) & (others != here)
    here, others = here[near], others[near]
    keys = np.unique(np.minimum(here, others) * len(values) + np.maximum(here, others))
    return np.stack(np.divmod(keys, len(values)), axis=1)


def compare(one: Sketch, other: Sketch) -> Match | None:
    """The transform of one image to the other that most of their features follow; None without any."""
    matches = _matches(one.features, other.features)
    if len(matches) < LEAST:
        return None
    places = one.points[matches[:, 0]], other.points[matches[:, 1]]
    units = _unit(one), _unit(other)
    transform, follow = cv2.estimateAffinePartial2D(
        *(points[:, None] for points in places),
        method=cv2.RANSAC,
        ransacReprojThreshold=OFF * units[1],
        maxIters=1000,
        confidence=0.999,
    )
    if transform is None:
        return None
    turn = np.degrees(np.arctan2(transform[1, 0], transform[0, 0]))
    if not SCALES[0] <= scale_of(transform) * units[0] / units[1] <= SCALES[1] or abs(turn) > DEGREES:
        return None
    follow = follow.ravel() > 0
    # Several features at one place count once: a reflection has many.
    inliers = min(len(np.unique(np.round(p[follow] / (OFF * unit)), axis=0)) for p, unit in zip(places, units))
    chance = _chance(len(matches), inliers, np.count_nonzero(other.mask) * (SIDE / max(other.mask.shape)) ** 2)
    return Match(len(matches), inliers, chance, _correlation(one, other, transform), transform)


def scale_of(transform: np.ndarray) -> float:
    """By how much a similarity transform enlarges."""
    return float(np.hypot(transform[0, 0], transform[1, 0]))


def _unit(sketch):
    """Pixels of the image in one of SIDE."""
    return sketch.to_image[0, 0] * max(sketch.content.shape) / SIDE


def _chance(matches, inliers, area):
    """How many transforms by two of the matches at least so many would follow if places were random; an expectation.

    The measure of a contrario methods (Desolneux, Moisan and Morel 2000; for matches, Moisan and Stival 2004).
    """
    others, one = matches - 2, min(np.pi * OFF**2 / max(area, 1), 1)
    more = range(max(inliers - 2, 0), others + 1)
    return comb(matches, 2) * sum(comb(others, k) * one**k * (1 - one) ** (others - k) for k in more)


def _matches(one, other):
    """Features that are each other's best, and clearly so: index pairs, n x 2."""
    if len(one) < LEAST or len(other) < LEAST:
        return np.zeros((0, 2), int)
    products = one.astype(np.float32) @ other.T.astype(np.float32)
    best, back = products.argmax(1), products.argmax(0)
    rows = np.arange(len(one))
    top = products[rows, best]
    products[rows, best] = -1
    second = products.max(1)
    good = (back[best] == rows) & (LENGTH**2 - top < RATIO**2 * (LENGTH**2 - second))
    return np.stack([rows[good], best[good]], axis=1)


def _correlation(one, other, transform):
    """The correlation of the pictures, `one` warped onto `other`, where both have content."""
    step = np.linalg.inv(_square(other.to_image)) @ _square(transform) @ _square(one.to_image)
    size = other.content.shape[::-1]
    warped = cv2.warpAffine(_detail(one.content), step[:2], size)
    both = (cv2.warpAffine(one.mask, step[:2], size, flags=cv2.INTER_NEAREST) > 0) & (other.mask > 0)
    if both.sum() < OVERLAP * both.size:
        return 0.0
    values = np.stack([warped[both], _detail(other.content)[both]])
    values -= values.mean(1, keepdims=True)
    return float(values[0] @ values[1] / max(np.linalg.norm(values[0]) * np.linalg.norm(values[1]), 1e-9))


def _square(transform):
    return np.vstack([transform, [0, 0, 1]])


def _detail(luma):
    """Luma less its surroundings, so that light and contrast count for nothing."""
    luma = luma.astype(np.float32)
    return np.clip(luma - cv2.GaussianBlur(luma, (0, 0), max(luma.shape) / 32), -NOISE, NOISE)


def mask_agreement(one: tuple[bytes, np.ndarray], other: tuple[bytes, np.ndarray], transform: np.ndarray) -> float:
    """The IoU of the masks of two copies of a frame, where both show content; each is (JPEG, mask as bool).

    So a polyp that a black rectangle hides in one of them counts for neither.
    """
    size = other[1].shape[::-1]

    def warped(mask):
        return cv2.warpAffine(mask.astype(np.uint8), transform, size, flags=cv2.INTER_NEAREST) > 0

    both = warped(content_of(one[0])) & content_of(other[0])
    masks = warped(one[1]) & both, other[1] & both
    return round(float((masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1)), 4)
