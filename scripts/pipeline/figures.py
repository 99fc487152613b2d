"""The card's figures, drawn from summaries (`scripts.pipeline.stats`) and from example rows.

All stand on a light ground of their own: photographs, white masks and the palette then look the same on a light and a
dark page, which transparent figures with mid-tone ink do not. Colours are Okabe and Ito's, which stay apart for
colour-blind readers, and colour is never the only sign. The same numbers and rows give the same bytes.
"""

import io
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from hyper_kvasir import CATEGORIES, FINDINGS, TAXONOMY, TRACTS

Example = Callable[[str, str], dict]  # (part, image id) -> the row, images as {"bytes", "path"}

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CATEGORY_COLOURS = dict(zip(CATEGORIES, (BLUE, VERMILION, GREEN, ORANGE)))
FIT_COLOURS = {"matched": BLUE, "stretched": ORANGE, "unmatched": VERMILION}
INK, FAINT = "#222222", "#d9d9d9"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 10,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Figure(NamedTuple):
    """`path` in the repository; `alt` says in words what the figure shows."""

    name: str
    path: str
    alt: str
    data: bytes


def draw(parts: dict, example: Example) -> list[Figure]:
    """All figures that the merged summaries `parts` ({part: summary}) allow."""
    figures = []
    with rc_context(STYLE):
        if "labeled" in parts:
            labeled = parts["labeled"]
            figures += [_findings(labeled, example), _class_balance(labeled), _folds(labeled)]
        if "segmented" in parts:
            figures.append(_polyps(parts["segmented"], example))
        figures.append(_sizes({part: parts[part] for part in ("labeled", "segmented", "unlabeled") if part in parts}))
        if "segmented" in parts:
            segmented = parts["segmented"]
            figures += [_objects(segmented), _heat_maps(segmented), _agreement(segmented)]
    return figures


def _png(canvas):
    """PNG of a canvas. Its metadata is emptied: it would name the version of matplotlib."""
    buffer = io.BytesIO()
    FigureCanvasAgg(canvas).print_figure(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _jpeg(canvas):
    """JPEG of a canvas of photographs, which as PNG would take ten times the space."""
    FigureCanvasAgg(canvas).draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.canvas.buffer_rgba())[:, :, :3]).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _thousands(axis):
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))


def _title(text):
    """A taxonomy name in words, e.g. "Lower GI tract"."""
    words = text.replace("-", " ").replace(" gi ", " GI ")
    return words[0].upper() + words[1:]


def _picture(row, column):
    return Image.open(io.BytesIO(row[column]["bytes"]))


def _square(image, side):
    """An image on a black square of `side` pixels, as the endoscope's own border is black."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


# ------------------------------------------------------------------------------------------------------- photographs


def _findings(labeled, example):
    """One image of each finding, on a grid by tract."""
    ids = {int(label): ids[0] for label, ids in labeled["examples"].items()}
    columns, side = 8, 200
    rows = []  # of labels; a tract begins a new row
    for tract in TRACTS:
        labels = [label for label in sorted(ids, key=_category_order) if TAXONOMY[label].tract == tract]
        rows += [(tract, labels[i : i + columns]) for i in range(0, len(labels), columns)]
    canvas = Canvas(figsize=(columns * 1.6, len(rows) * 2.1 + 0.4), dpi=110, layout="constrained")
    grid = canvas.subplots(len(rows), columns, squeeze=False)
    for i, ((tract, labels), axes) in enumerate(zip(rows, grid)):
        for axis in axes:
            axis.set_axis_off()
        for label, axis in zip(labels, axes):
            axis.imshow(_square(_picture(example("labeled", ids[label]), "image"), side))
            colour = CATEGORY_COLOURS[TAXONOMY[label].category]
            axis.set_title(
                "\n".join(textwrap.wrap(FINDINGS[label], 19)), fontsize=10, fontweight="normal", loc="center"
            )
            axis.add_patch(Rectangle((-0.5, -0.5), side, side, fill=False, color=colour, linewidth=5))
        if i == 0 or rows[i - 1][0] != tract:
            place = {"xycoords": "axes fraction", "ha": "right", "va": "center"}
            axes[0].annotate(_title(tract), (-0.04, 0.5), rotation=90, **place)
    _category_legend(canvas, {TAXONOMY[label].category for label in ids})
    alt = f"One endoscopy image for each of {len(ids)} findings, framed in the colour of its category"
    return Figure("findings", "assets/findings.jpg", alt, _jpeg(canvas))


def _category_order(label):
    return CATEGORIES.index(TAXONOMY[label].category), label


def _category_legend(canvas, categories):
    handles = [Patch(color=CATEGORY_COLOURS[c], label=_title(c)) for c in CATEGORIES if c in categories]
    canvas.legend(handles=handles, loc="outside lower center", ncols=4)


def _polyps(segmented, example):
    """Some segmented images: as they are, and with mask, instances and boxes laid over."""
    ids = [image_id for kind in ("one", "several", "stretched") for image_id in segmented["examples"].get(kind, [])]
    names = ("image", "mask", "instances", "objects (boxes)")
    canvas = Canvas(figsize=(len(ids) * 1.9 + 0.4, 7.2), dpi=110, layout="constrained")
    grid = canvas.subplots(len(names), len(ids), squeeze=False)
    instance_colours = [SKY, GREEN, PURPLE, BLUE, ORANGE, VERMILION]
    for column, image_id in enumerate(ids):
        row = example("segmented", image_id)
        photo, instances = np.asarray(_picture(row, "image").convert("RGB")), np.asarray(_picture(row, "instances"))
        coloured = photo.copy()
        for number in range(1, int(instances.max()) + 1):
            colour = instance_colours[(number - 1) % len(instance_colours)]
            _tint(coloured, instances == number, colour)
        masked = photo.copy()
        _tint(masked, np.asarray(_picture(row, "mask")) > 0, "#ffffff")
        for axis, pixels in zip(grid[:, column], (photo, masked, coloured, photo)):
            axis.imshow(Image.fromarray(pixels))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for x, y, width, height in row["objects"]["bbox"]:
            for colour, line in ((INK, 3), (ORANGE, 1.5)):  # dark below light, to be seen on any mucosa
                box = Rectangle((x, y), width, height, fill=False, color=colour, linewidth=line)
                grid[3][column].add_patch(box)
    for axis, name in zip(grid[:, 0], names):
        axis.set_ylabel(name, fontsize=10)
    alt = (
        f"{len(ids)} images of polyps in columns: the photograph, then with the polyp mask, "
        "the numbered instances and the bounding boxes laid over it"
    )
    return Figure("polyps", "assets/polyps.jpg", alt, _jpeg(canvas))


def _tint(pixels, where, colour):
    """Lays a colour half through over some pixels, in place, and draws their outline."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    pixels[where] = (0.5 * pixels[where] + 0.5 * rgb).astype(np.uint8)
    line = max(1, pixels.shape[1] // 150)
    inner = where.copy()
    for axis in (0, 1):
        for shift in (-line, line):
            inner &= np.roll(where, shift, axis)
    pixels[where & ~inner] = rgb


# ------------------------------------------------------------------------------------------------------------ labels


def _label_counts(summary, column=0):
    """Images by (label,) or, with a column of 1 or 2 (fold_2, fold_5), by (label, fold)."""
    counts = Counter()
    for *cell, images in summary["cells"]:
        counts[(cell[0], cell[column]) if column else cell[0]] += images
    return counts


def _class_balance(labeled):
    """Images of each finding, on a logarithmic axis."""
    counts = _label_counts(labeled)
    canvas = Canvas(figsize=(9.5, 0.27 * len(counts) + 1.9), layout="constrained")
    present = [[label for label in counts if TAXONOMY[label].tract == tract] for tract in TRACTS]
    tracts = [(tract, labels) for tract, labels in zip(TRACTS, present) if labels]
    ratios = [len(labels) + 1 for _, labels in tracts]
    axes = canvas.subplots(len(tracts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (tract, labels) in zip(axes, tracts):
        labels = sorted(labels, key=lambda label: (counts[label], -label))
        values = [counts[label] for label in labels]
        colours = [CATEGORY_COLOURS[TAXONOMY[label].category] for label in labels]
        axis.barh([FINDINGS[label] for label in labels], values, color=colours, height=0.72)
        for place, value in enumerate(values):
            axis.annotate(f" {value:,}", (value, place), va="center", fontsize=9)
        axis.set(xscale="log", xlim=(0.8, 1.6 * max(counts.values())))
        axis.set_title(f"{_title(tract)}: {sum(values):,} images")
        axis.tick_params(axis="y", length=0)
        axis.margins(y=0.02)
        axis.grid(axis="x", color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        _thousands(axis.xaxis)
    axes[-1].set_xlabel("images (logarithmic)")
    _category_legend(canvas, {TAXONOMY[label].category for label in counts})
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    alt = (
        f"Bar chart of the images of each finding on a logarithmic axis, from {counts[most]:,} of {FINDINGS[most]} "
        f"down to {counts[least]:,} of {FINDINGS[least]}"
    )
    return Figure("class_balance", "assets/class_balance.png", alt, _png(canvas))


def _folds(labeled):
    """Images of each finding in each official fold, the shade saying how far from an even share."""
    totals = _label_counts(labeled)
    labels = [label for tract in TRACTS for label in sorted(totals) if TAXONOMY[label].tract == tract]
    columns = [(k, fold) for k, column in ((2, 1), (5, 2)) for fold in _folds_of(labeled, column)]
    by_fold = {2: _label_counts(labeled, 1), 5: _label_counts(labeled, 2)}
    counts = np.array([[by_fold[k][label, fold] for k, fold in columns] for label in labels])
    even = np.array([[totals[label] / k for k, _ in columns] for label in labels])
    canvas = Canvas(figsize=(9.5, 0.3 * len(labels) + 1.9), layout="constrained")
    axis = canvas.subplots()
    shown = axis.imshow(counts / even, cmap="PuOr", vmin=0, vmax=2, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        share = counts[row, column] / even[row, column]
        colour = "white" if abs(share - 1) > 0.6 else INK
        axis.annotate(f"{counts[row, column]:,}", (column, row), ha="center", va="center", fontsize=9, color=colour)
    heads = [f"{'none' if fold is None else fold}\n{sums:,}" for (_, fold), sums in zip(columns, counts.sum(axis=0))]
    axis.set_xticks(range(len(columns)), heads)
    axis.set_yticks(range(len(labels)), [FINDINGS[label] for label in labels])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    for k in (2, 5):
        places = [i for i, (of, _) in enumerate(columns) if of == k]
        axis.annotate(
            f"fold_{k}", (np.mean(places), 1), xycoords=("data", "axes fraction"), xytext=(0, 34),
            textcoords="offset points", ha="center", fontweight="bold",
        )  # fmt: skip
        axis.axvline(places[-1] + 0.5, color="white", linewidth=6)
    bar = canvas.colorbar(shown, ax=axis, pad=0.01, aspect=40, ticks=[0, 1, 2], format=lambda value, _: f"{value:.0f}×")
    bar.set_label("of an even share of the finding")
    bar.outline.set_visible(False)
    folds = " and ".join(f"the {sum(of == k for of, _ in columns)} folds of the {k}-fold split" for k in (2, 5))
    alt = f"Table of the images of each of {len(labels)} findings in {folds}, shaded by deviation from an even share"
    return Figure("folds", "assets/folds.png", alt, _png(canvas))


def _folds_of(summary, column):
    return sorted({cell[column] for cell in summary["cells"]}, key=lambda fold: (fold is not None, fold))


# ------------------------------------------------------------------------------------------------------------- sizes


def _sizes(parts):
    """Width against height of the images of each part."""
    canvas = Canvas(figsize=(3.4 * len(parts) + 0.8, 3.9), layout="constrained")
    axes = canvas.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (part, summary) in zip(axes, parts.items()):
        widths, heights, images = np.array(summary["sizes"]).T
        areas = 12 + 500 * images / images.sum()
        axis.scatter(widths, heights, areas, color=BLUE, alpha=0.45, edgecolor=BLUE, linewidth=0.6)
        axis.set_title(f"{part}: {len(images):,} {'sizes' if len(images) > 1 else 'size'}")
        axis.set_xlabel("width (pixels)")
        axis.grid(color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.margins(0.12)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        _thousands(axis.xaxis)
        _thousands(axis.yaxis)
    axes[0].set_ylabel("height (pixels)")
    alt = "Image widths against heights, larger dots for more images: " + "; ".join(
        "{} {:,} to {:,} by {:,} to {:,} pixels".format(part, *size_range(summary)) for part, summary in parts.items()
    )
    return Figure("sizes", "assets/sizes.png", alt, _png(canvas))


def size_range(summary: dict) -> tuple[int, int, int, int]:
    """(least width, greatest width, least height, greatest height) in pixels."""
    widths, heights, _ = zip(*summary["sizes"])
    return min(widths), max(widths), min(heights), max(heights)


def _objects(segmented):
    """Sizes of instances and boxes, and how many an image has."""
    canvas = Canvas(figsize=(9.5, 3.7), layout="constrained")
    sizes, numbers = canvas.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    drawn = (("instances", "instance_shares", BLUE), ("boxes", "box_shares", ORANGE))
    bins = np.geomspace(1e-4, 1, 41)
    for name, key, colour in drawn:
        shares = np.clip(segmented[key], bins[0], 1)
        sizes.hist(shares, bins, histtype="stepfilled", color=colour, alpha=0.25)
        sizes.hist(shares, bins, histtype="step", color=colour, linewidth=1.6, label=f"{name} ({len(shares):,})")
        sizes.axvline(np.median(shares), color=colour, linestyle="--" if name == "boxes" else ":", linewidth=1.4)
    sizes.set(xscale="log", xlim=(bins[0], 1), xlabel="share of the image (logarithmic); lines: medians")
    sizes.set_ylabel("objects")
    sizes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    sizes.set_title("Size of objects")
    sizes.legend(loc="upper left")
    most = max(number for key in ("instances", "boxes") for number, _ in segmented[key])
    for shift, (name, _, colour) in zip((-0.2, 0.2), drawn):
        counts = dict(segmented[name])
        heights = [counts.get(number, 0) for number in range(1, most + 1)]
        numbers.bar(np.arange(1, most + 1) + shift, heights, width=0.4, color=colour, label=name)
    numbers.set(yscale="log", ylim=(0.7, 2.5 * max(times for _, times in segmented["boxes"])))
    numbers.set(xlabel="objects in an image", ylabel="images (logarithmic)", xticks=range(1, most + 1))
    numbers.set_title("Objects in an image")
    numbers.legend(loc="upper right")
    _thousands(numbers.yaxis)
    alt = (
        f"Left: histogram of the share of the image that {len(segmented['instance_shares']):,} polyp instances (median "
        f"{np.median(segmented['instance_shares']):.1%}) and {len(segmented['box_shares']):,} boxes (median "
        f"{np.median(segmented['box_shares']):.1%}) take. Right: number of objects in an image, up to {most}"
    )
    return Figure("objects", "assets/objects.png", alt, _png(canvas))


def _heat_maps(segmented):
    """Where in the image polyps lie."""
    canvas = Canvas(figsize=(9.5, 4.2), layout="constrained")
    axes = canvas.subplots(1, 2)
    maps = {
        name: np.array(segmented[key]) / segmented["rows"]
        for name, key in (("masks", "mask_map"), ("boxes", "box_map"))
    }
    most = max(shares.max() for shares in maps.values())
    for axis, (name, shares) in zip(axes, maps.items()):
        shown = axis.imshow(shares, cmap="cividis", vmin=0, vmax=most)
        axis.set(xticks=[], yticks=[], xlabel="width of the image →", ylabel="← height of the image")
        axis.spines[:].set_visible(False)
        axis.set_title(f"Polyp {name}")
    bar = canvas.colorbar(shown, ax=axes, pad=0.02, aspect=30, format=lambda value, _: f"{value:.0%}")
    bar.set_label("images with a polyp here")
    bar.outline.set_visible(False)
    alt = (
        "Two heat maps of where polyps lie, by mask and by box, in images scaled to a square; the densest place is "
        f"covered in {most:.0%} of the images"
    )
    return Figure("heat_maps", "assets/heat_maps.png", alt, _png(canvas))


def _agreement(segmented):
    """How well each box fits a component of the mask."""
    canvas = Canvas(figsize=(9.5, 3.7), layout="constrained")
    curve, kinds = canvas.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    overlaps = np.array(segmented["overlaps"])
    curve.hist(overlaps, np.linspace(0, 1, 51), color=BLUE)
    curve.set(yscale="log", ylim=(0.7, 2.5 * len(overlaps)), xlim=(0, 1))
    curve.set(xlabel="IoU of a box and the mask component it fits best", ylabel="boxes (logarithmic)")
    curve.set_title("Overlap of box and mask")
    _thousands(curve.yaxis)
    fits = segmented["boxes_by_fit"]
    words = {"matched": "match a component", "stretched": "stretched to\nthe corner", "unmatched": "match none"}
    places = range(len(words))
    kinds.barh(places, [fits[kind] for kind in words], color=[FIT_COLOURS[kind] for kind in words], height=0.6)
    kinds.set_yticks(places, words.values())
    kinds.invert_yaxis()
    kinds.set(xscale="log", xlim=(0.7, 6 * max(1, *fits.values())), xlabel="boxes (logarithmic)")
    kinds.tick_params(axis="y", length=0)
    for place, kind in enumerate(words):
        kinds.annotate(f" {fits[kind]:,}", (max(fits[kind], 0.7), place), va="center")
    kinds.set_title("Boxes by fit")
    _thousands(kinds.xaxis)
    alt = (
        f"Left: histogram of the overlap (IoU) of {len(overlaps):,} boxes with their mask component, median "
        f"{np.median(overlaps):.2f}. Right: {fits['matched']:,} boxes match a component, {fits['stretched']:,} are "
        f"stretched to the corner of the image, {fits['unmatched']:,} match no component"
    )
    return Figure("agreement", "assets/agreement.png", alt, _png(canvas))
