"""The card's figures, drawn from summaries (`scripts.pipeline.stats`) and from stored rows.

Each has a light background: photographs, white masks and the palette then look the same on a light and a dark page,
unlike in transparent figures with mid-tone ink. Each is WIDTH wide at twice the pixels of the column that a card is
read in, for fine screens; its text has at least 9 pixels where a phone shows it 312 pixels wide, so panels are stacked.
The colors are Okabe and Ito's, which color-blind readers can tell apart, on white with a contrast of 3 at least, and
color is never the only sign. The same numbers and rows give the same bytes.
"""

import io
import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image, ImageChops, ImageFilter

from hyper_kvasir import TAXONOMY, VIEWS
from scripts.pipeline.configs import KINDS, METADATA
from scripts.pipeline.leaks import is_across, place_of
from scripts.pipeline.output import BuildError
from scripts.pipeline.pool import finished, worker_pool
from scripts.pipeline.stats import (
    BOX,
    INSTANCE,
    MOST_UNFIT,
    Examples,
    densest,
    in_percent,
    label_counts,
    object_examples,
    objects_of,
    size_range,
    unfit_boxes,
)

WIDTH, DPI = 6.4, 220  # inches, pixels an inch: 1408 pixels, twice 704
SMALL, TEXT = 13.5, 14.5  # points of text; 13.5 are 9.1 pixels on a figure that is 312 pixels wide
PHOTO_SIDE = 256  # pixels of the longer side of a photograph that is drawn: of more, burned-in text could be read
TEXT_LEFT = 0.33  # of an image's width, from the left: burned-in text lies there,
TEXT_RIGHT = 0.75  # or from here on to the right, on the black border,
BLACK = 32  # which is at most as bright
FRAMES, SCENES = 4, 2  # pairs of one frame, and of one scene, that are shown
SLIVER = 0.03  # of the image's longer side: narrower boxes have a ring around them

BLUE, GREEN, VERMILION, PURPLE = "#0072B2", "#00825F", "#C85400", "#A8527F"  # the last three darkened, for contrast
BOX_COLOR, MASK_COLOR = "#E69F00", "#56B4E9"  # on photographs, over a dark line
CATEGORIES, TRACTS = VIEWS["category"].values, VIEWS["tract"].values
CATEGORY_STYLES = dict(zip(CATEGORIES, ((BLUE, "o"), (VERMILION, "D"), (GREEN, "s"), (PURPLE, "^"))))  # color, marker
INK, GRAY, FAINT = "#222222", "#767676", "#d9d9d9"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": SMALL,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.labelsize": SMALL,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.color": INK,
    "ytick.labelsize": SMALL,
}


class Figure(NamedTuple):
    """`path` in the repository; `alt` says in words what the figure shows."""

    name: str
    path: str
    alt: str
    data: bytes


class Drawing(NamedTuple):
    """A figure before it is encoded: as "png" or, for photographs, which as PNG take ten times the space, "jpg"."""

    name: str
    kind: str
    alt: str
    canvas: Canvas


def draw(parts: dict, examples: Examples, pairs: Sequence[dict] = ()) -> list[Figure]:
    """All figures that the merged summaries `parts` ({part: summary}) and `pairs` (`leaks.all_pairs`) allow.

    Drawn by a process for each core.
    """
    jobs = _jobs(parts, examples, pairs)
    with worker_pool(os.cpu_count(), len(jobs)) as pool:
        try:
            drawn = dict(finished(pool, {pool.submit(_figure, job): i for i, job in enumerate(jobs)}))
        except BuildError as error:
            text = "a process that draws figures was killed (out of memory?); run again with more memory free"
            raise BuildError(text) from error
    return [drawn[i] for i in range(len(jobs))]


def _jobs(parts, examples, pairs):
    """[(the function that draws a figure, *its arguments)], with the rows that it shows."""
    jobs = []
    if "labeled" in parts:
        labeled = parts["labeled"]
        ids = [image_id for some in labeled["examples"].values() for image_id in some]
        jobs += [(findings, labeled, examples("labeled", ids)), (class_balance, labeled)]
        jobs += [(quality, labeled)] if "psnr" not in labeled else []  # one of all images in the small edition
    jobs.append((sizes, {part: summary for part, summary in parts.items() if part != METADATA} or parts))
    if "segmented" in parts:
        segmented = parts["segmented"]
        if ids := object_examples(segmented):
            jobs.append((polyps, segmented, examples("segmented", ids)))
        jobs += [(objects, segmented), (heat_maps, segmented)]
        if boxes := unfit_boxes(segmented)[:MOST_UNFIT]:
            ids = sorted({box.image_id for box in boxes})
            jobs.append((unfit, segmented, examples("segmented", ids)))
    shown = shown_pairs(pairs) if "segmented" in parts else []
    if shown:
        ids = sorted({pair[end]["image_id"] for pair in shown for end in ("one", "other")})
        jobs.append((leaking_pairs, shown, examples("segmented", ids)))
    return jobs


def _figure(job):
    function, *arguments = job
    with rc_context(STYLE):
        name, kind, alt, canvas = function(*arguments)
        return Figure(name, f"assets/{name}.{kind}", alt, _encoded(canvas, kind))


def _encoded(canvas, kind):
    """A canvas as PNG or JPEG. Not by matplotlib's `savefig`, which draws twice and names its version in the file."""
    image = _pixels(canvas)
    canvas.clear()  # what it drew is held in cycles, until the garbage collector comes
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if kind == "png" else image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _pixels(canvas):
    """A canvas as an image; of the buffer that it is drawn in, four bytes a pixel, nothing is left."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    return Image.frombuffer("RGBA", agg.get_width_height(), agg.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")


def _canvas(height):
    """An empty canvas of `height` inches. Its style is the one in effect when it is drawn."""
    return Canvas(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.04))


def _thousands(axis):
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _title(text):
    """A taxonomy name in words, e.g. "Lower GI tract"."""
    words = text.replace("-", " ").replace(" gi ", " GI ")
    return words[0].upper() + words[1:]


def _picture(row, column):
    return Image.open(io.BytesIO(row[column]["bytes"]))


def _photo(row):
    """A photograph of at most PHOTO_SIDE pixels, blurred where dates and times are burned in.

    They can link images of one patient: a figure need not spread them.
    """
    photo = _picture(row, "image")
    photo.draft("RGB", (PHOTO_SIDE, PHOTO_SIDE))  # decoded at half or a quarter of its size, if that is enough
    photo = photo.convert("RGB")
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    left, right = (round(share * photo.width) for share in (TEXT_LEFT, TEXT_RIGHT))
    around = 4  # pixels
    dark = photo.crop((right - around, 0, *photo.size)).convert("L").point(lambda value: 255 * (value <= BLACK))
    for _ in range(around):  # as MaxFilter(9), in a quarter of the time
        dark = dark.filter(ImageFilter.MaxFilter(3))
    border = Image.new("L", photo.size)
    border.paste(dark.crop((around, 0, *dark.size)), (right, 0))
    border.paste(255, (0, 0, left, photo.height))
    mask = ImageChops.lighter(border, border.filter(ImageFilter.BoxBlur(6)))  # no edge that looks like a fault
    photo.paste(photo.filter(ImageFilter.GaussianBlur(photo.width / 60)), mask=mask)
    return photo


def _square(image, side):
    """An image on a black square of `side` pixels, as the endoscope's own border is black."""
    scale = side / max(image.size)
    image = image.resize([max(1, round(scale * size)) for size in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _name(label):
    """A finding's name in lines that are as wide as its images, broken at its hyphens."""
    return "\n".join(textwrap.wrap(TAXONOMY[label].name, 20, break_long_words=False))


def _strip(rows, number, side):
    """Photographs side by side, with room for `number`, each on a square of `side` pixels."""
    strip = Image.new("RGB", (number * side, side), "white")
    for i, row in enumerate(rows):
        strip.paste(_square(_photo(row), side), (i * side, 0))
    return strip


# ------------------------------------------------------------------------------------------------------- photographs


def findings(labeled: dict, rows: dict) -> Drawing:
    """Some images of each finding side by side; findings by tract and category, which are named above them."""
    ids = {int(label): ids for label, ids in labeled["examples"].items()}
    groups = [
        (tract, category, [label for label in sorted(ids) if TAXONOMY[label][1:3] == (category, tract)])
        for tract in TRACTS
        for category in CATEGORIES
    ]
    columns, width, gap = 3, max(map(len, ids.values())), 0.12  # findings side by side, images of each, inches
    side = (WIDTH - (columns + 1) * gap) / columns / width
    lines = []  # (height in inches of the text above, heading or None, labels)
    for tract, category, labels in groups:
        for i in range(0, len(labels), columns):
            some = labels[i : i + columns]
            text = 0.23 * max(_name(label).count("\n") + 1 for label in some) + 0.06
            lines.append((text, None if i else f"{_title(tract)}: {category.replace('-', ' ')}", some))
    height = sum(text + side + gap + (0.34 if heading else 0) for text, heading, _ in lines)
    canvas = Canvas(figsize=(WIDTH, height), dpi=DPI)
    top = height
    for text, heading, labels in lines:
        if heading:
            top -= 0.34
            canvas.text(gap / WIDTH, (top + 0.04) / height, heading, fontweight="bold", fontsize=TEXT)
        top -= text + side + gap
        for i, label in enumerate(labels):
            left, bottom = gap + i * (width * side + gap), top + gap
            axis = canvas.add_axes((left / WIDTH, bottom / height, width * side / WIDTH, side / height))
            axis.imshow(_strip([rows[image_id] for image_id in ids[label]], width, min(round(side * DPI), PHOTO_SIDE)))
            axis.set_axis_off()
            place = left / WIDTH, (bottom + side + 0.05) / height
            canvas.text(*place, _name(label), fontsize=SMALL, linespacing=0.95)
    shown = sum(map(len, ids.values()))
    alt = f"{shown} endoscopy images, up to {width} for each of {len(ids)} findings, by tract and category"
    return Drawing("findings", "jpg", alt, canvas)


def polyps(segmented: dict, rows: dict) -> Drawing:
    """Some segmented images in rows: as they are, with the numbered instances, with the boxes."""
    ids = object_examples(segmented)
    names = ("image", "mask, instances", "boxes")
    canvas = _canvas(0.4 + 1.95 * len(ids))
    grid = canvas.subplots(len(ids), len(names), squeeze=False)
    for axes, image_id in zip(grid, ids):
        _polyp_row(axes, rows[image_id], [box for box in objects_of(segmented, BOX) if box.image_id == image_id])
    for axis, name in zip(grid[0], names):
        axis.set_title(name, loc="center", fontsize=SMALL, fontweight="normal")
    alt = (
        f"{len(ids)} images of polyps, one a row: the photograph, the mask as numbered instances laid over it, and the "
        "bounding boxes with the IoU of those that match no instance"
    )
    return Drawing("polyps", "jpg", alt, canvas)


def _polyp_row(axes, row, boxes):
    """Draws one image on three axes, in pixels from the upper left."""
    photo, instances, size = _small(row)
    scale = size[0] / photo.shape[1]
    colored = photo.copy()
    numbers = [int(number) for number in np.unique(instances) if number]
    for number in numbers:
        _tint(colored, instances == number, MASK_COLOR)
    for axis, pixels in zip(axes, (photo, colored, photo)):
        _show(axis, pixels, size)
    for number in numbers:
        part = instances == number
        _outline(axes[1], part, scale)
        if len(numbers) > 1:
            _number(axes[1], part, scale, number)
    for box in boxes:
        _box(axes[2], box, size)


def unfit(segmented: dict, rows: dict) -> Drawing:
    """The boxes that match no instance, each on its image with the outline of the mask."""
    boxes = unfit_boxes(segmented)[:MOST_UNFIT]
    columns = 4
    lines = -(-len(boxes) // columns)
    canvas = _canvas(1.75 * lines)
    for axis, box in zip(canvas.subplots(lines, columns, squeeze=False).flat, boxes):
        photo, instances, size = _small(rows[box.image_id])
        _show(axis, photo, size)
        _outline(axis, instances > 0, size[0] / photo.shape[1])
        _box(axis, box, size, told=False)
        axis.set_title(f"IoU {box.iou:.2f}", loc="center", fontsize=SMALL, fontweight="normal")
    for axis in canvas.axes[len(boxes) :]:
        axis.set_axis_off()
    alt = (
        f"{len(boxes)} boxes that match no instance, on {len(rows)} polyp images with the outline of the mask and the "
        "IoU"
    )
    return Drawing("unfit", "jpg", alt, canvas)


def _small(row):
    """(photo, height x width x 3; instance map, as small; the image's (width, height)) of a segmented row."""
    photo, instances = _photo(row), _picture(row, "instances")
    small = instances.resize(photo.size, Image.Resampling.NEAREST)
    return np.asarray(photo), np.asarray(small), instances.size


def _show(axis, pixels, size):
    width, height = size
    margin = 0.02 * max(size)  # shows lines that are flush with the image's edge
    axis.imshow(pixels, extent=(0, width, height, 0))
    axis.set(xticks=[], yticks=[], xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    axis.spines[:].set_visible(False)


def _box(axis, box, size, told=True):
    """Draws a box; where it matches no instance, with its IoU if that is to be told."""
    for color, line in ((INK, 4), (BOX_COLOR, 2)):  # dark below light, to be seen on any mucosa
        axis.add_patch(Rectangle((box.x, box.y), box.width, box.height, fill=False, color=color, linewidth=line))
        if min(box.width, box.height) < SLIVER * max(size):  # else it would not be seen
            center = box.x + box.width / 2, box.y + box.height / 2
            axis.add_patch(Circle(center, 2.5 * SLIVER * max(size), fill=False, color=color, linewidth=line))
    if told and box.match is None:
        _label(axis, (size[0] / 2, 0.93 * size[1]), f"IoU {box.iou:.2f}")


def _number(axis, part, scale, number):
    """Writes the number of an instance on it; beside it, if it is so small that the number would hide it."""
    rows, columns = (scale * places for places in np.nonzero(part))
    small = np.ptp(columns) < 0.15 * scale * part.shape[1]
    right = columns.max() < 0.8 * scale * part.shape[1]
    gap = 0.02 * scale * part.shape[1]
    x = (columns.max() + gap if right else columns.min() - gap) if small else columns.mean()
    _label(axis, (x, rows.mean()), str(number), ha=("left" if right else "right") if small else "center")


def _label(axis, place, text, ha="center"):
    text = axis.text(*place, text, color="white", ha=ha, va="center", fontweight="bold", fontsize=SMALL)
    text.set_path_effects([withStroke(linewidth=3, foreground="black")])


def shown_pairs(pairs: Sequence[dict]) -> list[dict]:
    """Pairs of segmented images for the figure, of each kind first those on both sides of Kvasir-SEG's split."""
    some = [pair for pair in pairs if place_of(pair["one"]) == place_of(pair["other"]) == "segmented"]
    some.sort(key=lambda pair: (not is_across(pair, "kvasir_seg_set"), pair["one"]["image_id"]))
    frames, scenes = ([pair for pair in some if pair["kind"] == kind] for kind in KINDS)
    return frames[:FRAMES] + scenes[:SCENES]


def leaking_pairs(shown: list[dict], rows: dict) -> Drawing:
    """Pairs of one frame, and of one scene, side by side; two pairs a row."""
    lines = -(-len(shown) // 2)
    canvas = _canvas(2.2 * lines)
    for pair, block in zip(shown, canvas.subfigures(lines, 2, squeeze=False, wspace=0.06).flat):
        block.suptitle(pair["kind"].replace("_", " ").capitalize(), fontweight="bold", fontsize=SMALL)
        for axis, end in zip(block.subplots(1, 2), ("one", "other")):
            axis.imshow(_square(_photo(rows[pair[end]["image_id"]]), PHOTO_SIDE))
            axis.set_title(pair[end]["kvasir_seg_set"] or "", fontsize=SMALL, fontweight="normal", loc="center")
            axis.set_axis_off()
    numbers = [(sum(pair["kind"] == kind for pair in shown), kind.replace("_", " ")) for kind in KINDS]
    count = " and ".join(f"{number} of the {kind}" for number, kind in numbers if number)
    return Drawing(
        "pairs", "jpg", f"Pairs of polyp images side by side, with their sets in Kvasir-SEG: {count}", canvas
    )


def _tint(pixels, where, color):
    """Lays a color a third through over some pixels, in place."""
    pixels[where] = (0.65 * pixels[where] + 0.35 * 255 * np.array(to_rgb(color))).astype(np.uint8)


def _outline(axis, where, scale):
    """Draws the edge of a bool mask, height x width, of pixels that are `scale` wide, as a light line on a dark one."""
    height, width = where.shape
    padded = np.pad(where, 1).astype(float)  # so that it closes at the image's edge
    centers = scale * np.arange(-0.5, width + 1), scale * np.arange(-0.5, height + 1)
    found = axis.contour(*centers, padded, [0.5])
    paths = found.get_paths()
    found.remove()  # it keeps its grid, some MB a mask
    for color, line in ((INK, 4), (MASK_COLOR, 2)):
        axis.add_collection(PathCollection(paths, facecolor="none", edgecolor=color, linewidths=line))


# ------------------------------------------------------------------------------------------------------------ labels


def class_balance(labeled: dict) -> Drawing:
    """Images of each finding as dots: on a logarithmic axis the length of a bar would mean nothing."""
    counts = label_counts(labeled)
    wide = max(counts.values()) >= 100 * min(counts.values())
    ticks = [10**i * step for i in range(7) for step in ((1,) if wide else (1, 2, 5))]
    canvas, axes = _by_tract(counts, lambda label: counts[label])
    for tract, axis, labels in axes:
        for place, label in enumerate(labels):
            color, marker = CATEGORY_STYLES[TAXONOMY[label].category]
            axis.plot(counts[label], place, marker, color=color, markersize=8)
            axis.annotate(f"{counts[label]:,}", (counts[label], place), (9, 0), textcoords="offset points", va="center")
        axis.set(xscale="log", xlim=(0.8 * min(counts.values()), 4 * max(counts.values())))
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(f"{_title(tract)}: {sum(counts[label] for label in labels):,}")
        _thousands(axis.xaxis)
    axes[-1][1].set_xlabel("images (logarithmic)")
    styles = [(c, *CATEGORY_STYLES[c]) for c in CATEGORIES if c in {TAXONOMY[label].category for label in counts}]
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=8, label=_title(category))
        for category, color, marker in styles
    ]
    canvas.legend(handles=handles, loc="outside lower left", ncols=1, handletextpad=0.2)
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    alt = "Dots for the images of each finding on a logarithmic axis, "
    if counts[most] > counts[least]:
        alt += f"from {counts[most]:,} of {TAXONOMY[most].name} down to {counts[least]:,} of {TAXONOMY[least].name}"
    else:
        alt += f"{counts[most]:,} of each"
    return Drawing("class_balance", "png", alt, canvas)


def quality(labeled: dict) -> Drawing:
    """The JPEG qualities of the images of each finding: a circle's area is the share of the finding's images."""
    counts, of = label_counts(labeled), {}
    for label, jfif, value, images in labeled["encoders"]:
        of.setdefault(label, {})[jfif, value] = images
    least = min(value for _, _, value, _ in labeled["encoders"])
    canvas, axes = _by_tract(counts, lambda label: -label)
    for tract, axis, labels in axes:
        axis.set_title(_title(tract))
        for place, label in enumerate(labels):
            for (jfif, value), images in sorted(of[label].items()):
                look = {"facecolor": VERMILION, "marker": "s"} if jfif else {"facecolor": BLUE, "marker": "o"}
                area = 260 * images / counts[label]
                axis.scatter(value, place, area, edgecolor="white", linewidth=0.5, alpha=0.85, zorder=3, **look)
        axis.set(xlim=(min(least, 95) - 3, 103))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[-1][1].set_xlabel("JPEG quality")
    marks = (("s", VERMILION, "with a JFIF marker"), ("o", BLUE, "without"))
    handles = [Line2D([], [], color=c, marker=m, linestyle="", markersize=9, label=text) for m, c, text in marks]
    canvas.legend(handles=handles, loc="outside lower left", ncols=2, handletextpad=0.2)
    alt = (
        f"For each of {len(counts)} findings, the JPEG qualities of its images, with a JFIF marker or without; larger "
        "marks stand for more of its images"
    )
    return Drawing("quality", "png", alt, canvas)


def _by_tract(counts, order):
    """(A canvas, [(tract, axis, labels from below)]): a panel for each tract, a line for each finding."""
    canvas = _canvas(0.31 * len(counts) + 2.6)
    present = [[label for label in counts if TAXONOMY[label].tract == tract] for tract in TRACTS]
    tracts = [
        (tract, sorted(labels, key=lambda label: (order(label), -label))) for tract, labels in zip(TRACTS, present)
    ]
    tracts = [(tract, labels) for tract, labels in tracts if labels]
    ratios = [len(labels) + 1 for _, labels in tracts]
    axes = canvas.subplots(len(tracts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (_, labels) in zip(axes, tracts):
        axis.set_yticks(range(len(labels)), [TAXONOMY[label].name for label in labels])
        axis.set_ylim(-0.7, len(labels) - 0.3)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="both", color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
    return canvas, [(tract, axis, labels) for axis, (tract, labels) in zip(axes, tracts)]


# ------------------------------------------------------------------------------------------------------------- sizes


def sizes(parts: dict) -> Drawing:
    """Widths against heights of the images of each part ({part: summary}): a circle's area grows with their number."""
    ranges = np.array([size_range(summary) for summary in parts.values()])
    (left, right), (low, high) = ((ranges[:, i].min(), ranges[:, i + 1].max()) for i in (0, 2))
    shape = 0.5  # of a panel; pixels are as wide as high
    across = 1.2 * max(right - left, (high - low) / shape, 200)
    starts = [
        max((least + most - span) / 2, 0) for least, most, span in ((left, right, across), (low, high, shape * across))
    ]
    limits = [(start, start + span) for start, span in zip(starts, (across, shape * across))]
    canvas = _canvas(3.2 * len(parts) + 0.4)
    axes = canvas.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    most = max(images for summary in parts.values() for _, _, images in summary["sizes"])
    for axis, (part, summary) in zip(axes, parts.items()):
        widths, heights, images = np.array(summary["sizes"]).T
        areas = 12 + 240 * images / most
        axis.scatter(widths, heights, areas, facecolor="#0072B255", linewidth=1, edgecolor=BLUE)
        different = len(summary["sizes"])
        axis.set_title(f"{part}: {different:,} {'sizes' if different > 1 else 'size'}")
        axis.set(xlim=limits[0], ylim=limits[1], aspect="equal", ylabel="height (px)")
        axis.grid(color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(MaxNLocator(4, integer=True))
            _thousands(side)
    axes[-1].set_xlabel("width (px)")
    alt = "Images by width and height, larger circles for more images: " + "; ".join(
        "{} {:,} to {:,} by {:,} to {:,} pixels".format(part, *size_range(summary)) for part, summary in parts.items()
    )
    return Drawing("sizes", "png", alt, canvas)


def objects(segmented: dict) -> Drawing:
    """Sizes of instances and of boxes, as shares of their images."""
    canvas = _canvas(5.6)
    axes = canvas.subplots(2, 1, sharex=True, sharey=True)
    shares = {kind: np.array([thing.share for thing in objects_of(segmented, kind)]) for kind in (INSTANCE, BOX)}
    least = min(min(some[some > 0], default=1) for some in shares.values())
    bins = np.logspace(np.floor(np.log10(least) * 10 - 1) / 10, 0, 41)
    for axis, (kind, some), color in zip(axes, shares.items(), (BLUE, VERMILION)):
        axis.hist(some, bins, color=color)
        median = float(np.median(some)) if len(some) else 1
        axis.axvline(median, color=INK, linestyle="--", linewidth=1.4)
        side = "right" if np.log(median) > np.log(bins[0]) / 2 else "left"  # where there is more room
        place = {"xycoords": ("data", "axes fraction"), "ha": side, "va": "top"}
        axis.annotate(f" median {in_percent(median)} ", (median, 1), **place)
        axis.set_title(f"{len(some):,} {'instances' if kind == INSTANCE else 'boxes'}")
        axis.set_ylabel("number")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[1].set(xscale="log", xlim=(bins[0], 1), xlabel="share of the image (logarithmic)")
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes[1].xaxis.set_minor_locator(NullLocator())
    medians = {kind: in_percent(float(np.median(some))) if len(some) else "none" for kind, some in shares.items()}
    alt = (
        f"Histograms of the share of the image that {len(shares[INSTANCE]):,} polyp instances (median "
        f"{medians[INSTANCE]}) and {len(shares[BOX]):,} boxes (median {medians[BOX]}) take"
    )
    return Drawing("objects", "png", alt, canvas)


def heat_maps(segmented: dict) -> Drawing:
    """Where in the image polyps are."""
    canvas = _canvas(3.2)
    axes = canvas.subplots(1, 2)
    maps = {"Masks": "mask_map", "Boxes": "box_map"}
    most = max(densest(segmented, key) for key in maps.values())
    for axis, (name, key) in zip(axes, maps.items()):
        shares = np.array(segmented[key]) / segmented["rows"]
        shown = axis.imshow(shares, cmap="cividis", vmin=0, vmax=most, interpolation="bicubic")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(name)
    bar = canvas.colorbar(shown, ax=axes, pad=0.02, aspect=20, format=lambda value, _: f"{value:.0%}")
    bar.set_label("of the images")
    bar.outline.set_visible(False)
    alt = (
        "Two heat maps of where polyps are, by mask and by box, in images scaled to a square; the densest place is "
        f"covered in {most:.0%} of the images"
    )
    return Drawing("heat_maps", "png", alt, canvas)
