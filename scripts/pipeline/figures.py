"""The card's figures, drawn from summaries (`scripts.pipeline.stats`) and from example rows.

Each has a light background: photographs, white masks and the palette then look the same on a light and a dark page,
unlike in transparent figures with mid-tone ink. Each is WIDTH wide, a little more than the column that a card is read
in, so its text stays legible there. The colors are Okabe and Ito's, which color-blind readers can tell apart, and color
is never the only sign. The same numbers and rows give the same bytes.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageFilter

from hyper_kvasir import TAXONOMY, VIEWS
from scripts.pipeline.configs import KINDS, METADATA
from scripts.pipeline.leaks import is_across, place_of
from scripts.pipeline.stats import FITS, Example, densest, label_counts, object_examples, size_range

WIDTH, DPI = 8, 110  # inches, pixels an inch
# Pixels of the longer side of a photograph that is drawn, half as many again as in the figure. matplotlib keeps all
# that it draws, and of five whole images that is 300 MB.
PHOTO_SIDE = 256
TEXT_SHARE = 0.33  # of an image's width, from the left: burned-in text lies there
FRAMES, SCENES = 4, 2  # pairs of one frame, and of one scene, that are shown
SIZE_CELL = 64  # pixels a side, of the cells that image sizes are counted in

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
CATEGORIES, TRACTS = VIEWS["category"].values, VIEWS["tract"].values
CATEGORY_COLORS = dict(zip(CATEGORIES, (BLUE, VERMILION, GREEN, ORANGE)))
FIT_COLORS = dict(zip(FITS, (BLUE, ORANGE, VERMILION)))
INSTANCE_COLORS = (SKY, ORANGE, "#ffffff", GREEN, PURPLE)
INK, FAINT = "#222222", "#d9d9d9"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 11,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
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


class Drawing(NamedTuple):
    """A figure before it is encoded: as "png" or, for photographs, which as PNG take ten times the space, "jpg"."""

    name: str
    kind: str
    alt: str
    canvas: Canvas


def draw(parts: dict, example: Example, pairs: Sequence[dict] = ()) -> list[Figure]:
    """All figures that the merged summaries `parts` ({part: summary}) and `pairs` (`leaks.all_pairs`) allow."""
    with rc_context(STYLE):
        return [
            Figure(name, f"assets/{name}.{kind}", alt, _encoded(canvas, kind))
            for name, kind, alt, canvas in _drawings(parts, example, pairs)
        ]


def _drawings(parts, example, pairs):
    if "labeled" in parts:
        labeled = parts["labeled"]
        yield from (findings(labeled, example), class_balance(labeled), folds(labeled))
    if "segmented" in parts:
        yield polyps(parts["segmented"], example)
    yield sizes({part: summary for part, summary in parts.items() if part != METADATA} or parts)
    if "segmented" in parts:
        segmented = parts["segmented"]
        yield from (objects(segmented), heat_maps(segmented), agreement(segmented))
    shown = shown_pairs(pairs) if "segmented" in parts else []
    if shown:
        yield leaking_pairs(shown, example)


def _encoded(canvas, kind):
    """A canvas as PNG or JPEG. Not by matplotlib's `savefig`, which draws twice and names its version in the file."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(agg.buffer_rgba())[:, :, :3])
    image.save(buffer, "PNG") if kind == "png" else image.save(buffer, "JPEG", quality=85)
    canvas.clear()  # what it drew is held in cycles, until the garbage collector comes
    return buffer.getvalue()


def _canvas(height):
    """An empty canvas of `height` inches. Its style is the one in effect when it is drawn."""
    return Canvas(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.08))


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


def findings(labeled: dict, example: Example) -> Drawing:
    """One image of each finding, on a grid by tract."""
    ids = {int(label): ids[0] for label, ids in labeled["examples"].items()}
    columns, side = 6, 160
    rows = []  # of labels; a tract begins a new row
    for tract in TRACTS:
        labels = [label for label in sorted(ids, key=_category_order) if TAXONOMY[label].tract == tract]
        rows += [(tract, labels[i : i + columns]) for i in range(0, len(labels), columns)]
    canvas = _canvas(len(rows) * 1.8 + 0.7)
    grid = canvas.subplots(len(rows), columns, squeeze=False)
    for i, ((tract, labels), axes) in enumerate(zip(rows, grid)):
        for axis in axes:
            axis.set_axis_off()
        for label, axis in zip(labels, axes):
            axis.imshow(_square(_picture(example("labeled", ids[label]), "image"), side))
            color = CATEGORY_COLORS[TAXONOMY[label].category]
            name = "\n".join(textwrap.wrap(TAXONOMY[label].name, 14))
            axis.set_title(name, fontsize=10, fontweight="normal", loc="center")
            axis.add_patch(Rectangle((-0.5, -0.5), side, side, fill=False, color=color, linewidth=5))
        if i == 0 or rows[i - 1][0] != tract:
            place = {"xycoords": "axes fraction", "ha": "right", "va": "center"}
            axes[0].annotate(_title(tract), (-0.04, 0.5), rotation=90, **place)
    _category_legend(canvas, {TAXONOMY[label].category for label in ids})
    alt = f"One endoscopy image for each of {len(ids)} findings, framed in the color of its category"
    return Drawing("findings", "jpg", alt, canvas)


def _category_order(label):
    return CATEGORIES.index(TAXONOMY[label].category), label


def _category_legend(canvas, categories):
    handles = [Patch(color=CATEGORY_COLORS[c], label=_title(c)) for c in CATEGORIES if c in categories]
    canvas.legend(handles=handles, loc="outside lower center", ncols=2)


def polyps(segmented: dict, example: Example) -> Drawing:
    """Some segmented images: as they are, and with mask, instances and boxes laid over."""
    ids = object_examples(segmented)
    names = ("image", "mask", "instances", "boxes")
    canvas = _canvas(6.3)
    grid = canvas.subplots(len(names), len(ids), squeeze=False)
    for column, image_id in zip(grid.T, ids):
        _polyp_column(column, example("segmented", image_id))
    for axis, name in zip(grid[:, 0], names):
        axis.set_ylabel(name)
    alt = (
        f"{len(ids)} images of polyps in columns: the photograph, then with the polyp mask, "
        "the numbered instances and the bounding boxes laid over it"
    )
    return Drawing("polyps", "jpg", alt, canvas)


def _polyp_column(axes, row):
    """Draws one image on four axes: plain, with mask, instances, boxes. Axes are in pixels from the upper left."""
    width, height = _picture(row, "image").size
    photo = _picture(row, "image")
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    maps = (_picture(row, name).resize(photo.size, Image.Resampling.NEAREST) for name in ("mask", "instances"))
    photo, mask, instances = (np.asarray(picture) for picture in (photo.convert("RGB"), *maps))
    colored, masked = photo.copy(), photo.copy()
    numbers = [int(number) for number in np.unique(instances) if number]
    for number in numbers:
        _tint(colored, instances == number, _instance_color(number))
    _tint(masked, mask > 0, "#ffffff")
    margin = 0.02 * max(height, width)  # shows lines that are flush with the image's edge
    for axis, pixels in zip(axes, (photo, masked, colored, photo)):
        axis.imshow(pixels, extent=(0, width, height, 0))
        axis.set(xticks=[], yticks=[], xlim=(-margin, width + margin), ylim=(height + margin, -margin))
        axis.spines[:].set_visible(False)
    scale = width / photo.shape[1]
    _outline(axes[1], mask > 0, scale, "#ffffff")
    for number in numbers:
        part = instances == number
        _outline(axes[2], part, scale, _instance_color(number))
        rows, columns = (scale * places for places in np.nonzero(part))
        small = np.ptp(columns) < 0.12 * width  # it would be hidden by its number
        x, side = (columns.max() + margin, "left") if small else (columns.mean() + scale / 2, "center")
        place = (x, rows.mean() + scale / 2)
        text = axes[2].text(*place, str(number), color="white", ha=side, va="center", fontweight="bold")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
    for x, y, across, down in row["objects"]["bbox"]:
        for color, line in ((INK, 3), (ORANGE, 1.5)):  # dark below light, to be seen on any mucosa
            axes[3].add_patch(Rectangle((x, y), across, down, fill=False, color=color, linewidth=line))


def shown_pairs(pairs: Sequence[dict]) -> list[dict]:
    """Pairs of segmented images for the figure: first those of one frame on both sides of Kvasir-SEG's split."""

    def order(pair):
        return pair["kind"] != KINDS[0], not is_across(pair, "kvasir_seg_set"), pair["one"]["image_id"]

    some = [pair for pair in pairs if place_of(pair["one"]) == place_of(pair["other"]) == "segmented"]
    by_kind = [[pair for pair in sorted(some, key=order) if pair["kind"] == kind] for kind in KINDS]
    return by_kind[0][:FRAMES] + by_kind[1][:SCENES]


def leaking_pairs(shown: list[dict], example: Example) -> Drawing:
    """Pairs of one frame, and of one scene, side by side; two pairs a row."""
    rows = -(-len(shown) // 2)
    canvas = _canvas(2.6 * rows)
    for pair, block in zip(shown, canvas.subfigures(rows, 2, squeeze=False, wspace=0.08).flat):
        block.suptitle(pair["kind"].replace("_", " ").capitalize(), fontweight="bold", fontsize=11)
        for axis, end in zip(block.subplots(1, 2), ("one", "other")):
            photo = _picture(example("segmented", pair[end]["image_id"]), "image").convert("RGB")
            axis.imshow(_square(_without_text(photo), PHOTO_SIDE))
            axis.set_title(pair[end]["kvasir_seg_set"] or "", fontsize=10, fontweight="normal", loc="center")
            axis.set_axis_off()
    numbers = [(sum(pair["kind"] == kind for pair in shown), kind.replace("_", " ")) for kind in KINDS]
    count = " and ".join(f"{number} of the {kind}" for number, kind in numbers if number)
    return Drawing(
        "pairs", "jpg", f"Pairs of polyp images side by side, with their sets in Kvasir-SEG: {count}", canvas
    )


def _without_text(photo):
    """A photograph with the left, where dates and times are burned in, blurred: a figure need not spread them."""
    photo.thumbnail((2 * PHOTO_SIDE, 2 * PHOTO_SIDE), Image.Resampling.LANCZOS)
    left = photo.crop((0, 0, round(TEXT_SHARE * photo.width), photo.height))
    photo.paste(left.filter(ImageFilter.GaussianBlur(photo.width / 50)), (0, 0))
    return photo


def _instance_color(number):
    return INSTANCE_COLORS[(number - 1) % len(INSTANCE_COLORS)]


def _tint(pixels, where, color):
    """Lays a color a third through over some pixels, in place."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    pixels[where] = (0.65 * pixels[where] + 0.35 * rgb).astype(np.uint8)


def _outline(axis, where, scale, color):
    """Draws the edge of a bool mask, height x width, of pixels that are `scale` wide, as a light line on a dark one."""
    height, width = where.shape
    padded = np.pad(where, 1).astype(float)  # so that it closes at the image's edge
    centers = scale * np.arange(-0.5, width + 1), scale * np.arange(-0.5, height + 1)
    axis.contour(*centers, padded, [0.5], colors=[INK], linewidths=3)
    axis.contour(*centers, padded, [0.5], colors=[color], linewidths=1.5)


# ------------------------------------------------------------------------------------------------------------ labels


def class_balance(labeled: dict) -> Drawing:
    """Images of each finding, on a logarithmic axis."""
    counts = label_counts(labeled)
    canvas = _canvas(0.29 * len(counts) + 2.3)
    present = [[label for label in counts if TAXONOMY[label].tract == tract] for tract in TRACTS]
    tracts = [(tract, labels) for tract, labels in zip(TRACTS, present) if labels]
    ratios = [len(labels) + 1 for _, labels in tracts]
    axes = canvas.subplots(len(tracts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (tract, labels) in zip(axes, tracts):
        labels = sorted(labels, key=lambda label: (counts[label], -label))
        values = [counts[label] for label in labels]
        colors = [CATEGORY_COLORS[TAXONOMY[label].category] for label in labels]
        axis.barh([TAXONOMY[label].name for label in labels], values, color=colors, height=0.72)
        for place, value in enumerate(values):
            axis.annotate(f" {value:,}", (value, place), va="center")
        axis.set(xscale="log", xlim=(0.8, 2 * max(counts.values())))
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
        "Bar chart of the images of each finding on a logarithmic axis, "
        f"from {counts[most]:,} of {TAXONOMY[most].name} down to {counts[least]:,} of {TAXONOMY[least].name}"
    )
    return Drawing("class_balance", "png", alt, canvas)


def folds(labeled: dict) -> Drawing:
    """Images of each finding in each official fold, shaded by how far they are from an even share."""
    totals = label_counts(labeled)
    labels = [label for tract in TRACTS for label in sorted(totals) if TAXONOMY[label].tract == tract]
    columns = [(k, fold) for k, column in ((2, 1), (5, 2)) for fold in _folds_of(labeled, column)]
    by_fold = {2: label_counts(labeled, 1), 5: label_counts(labeled, 2)}
    counts = np.array([[by_fold[k][label, fold] for k, fold in columns] for label in labels])
    even = np.array([[totals[label] / k for k, _ in columns] for label in labels])
    shares = counts / even
    canvas = _canvas(0.31 * len(labels) + 2)
    axis = canvas.subplots()
    shown = axis.imshow(shares, cmap="PuOr", vmin=0, vmax=2, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        color = "white" if abs(shares[row, column] - 1) > 0.6 else INK
        axis.annotate(f"{counts[row, column]:,}", (column, row), ha="center", va="center", color=color)
    heads = [f"{'none' if fold is None else fold}\n{sums:,}" for (_, fold), sums in zip(columns, counts.sum(axis=0))]
    axis.set_xticks(range(len(columns)), heads)
    axis.set_yticks(range(len(labels)), [TAXONOMY[label].name for label in labels])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    for k in (2, 5):
        places = [i for i, (of, _) in enumerate(columns) if of == k]
        axis.annotate(
            f"fold_{k}", (np.mean(places), 1), xycoords=("data", "axes fraction"), xytext=(0, 38),
            textcoords="offset points", ha="center", fontweight="bold",
        )  # fmt: skip
        axis.axvline(places[-1] + 0.5, color="white", linewidth=6)
    beyond = "max" if shares.max() > 2 else "neither"
    ticks = {"ticks": [0, 1, 2], "format": lambda value, _: f"{value:.0f}×"}
    bar = canvas.colorbar(shown, ax=axis, pad=0.01, aspect=40, extend=beyond, **ticks)
    bar.set_label("of an even share of the finding")
    bar.outline.set_visible(False)
    splits = " and ".join(f"the {sum(of == k for of, _ in columns)} folds of the {k}-fold split" for k in (2, 5))
    alt = (
        f"Table of the images of each of {len(labels)} findings in {splits}, shaded by deviation from an even share; "
        f"the largest is {shares.max():.1f} times an even share"
    )
    return Drawing("folds", "png", alt, canvas)


def _folds_of(summary, column):
    return sorted({cell[column] for cell in summary["cells"]}, key=lambda fold: (fold is not None, fold))


# ------------------------------------------------------------------------------------------------------------- sizes


def sizes(parts: dict) -> Drawing:
    """Widths against heights of the images of each part ({part: summary}), counted in cells of SIZE_CELL pixels."""
    canvas = _canvas(3.7)
    axes = canvas.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
    ranges = np.array([size_range(summary) for summary in parts.values()])
    across, down = (_cell_edges(ranges[:, i].min(), ranges[:, i + 1].max()) for i in (0, 2))
    maps = {}
    for part, summary in parts.items():
        widths, heights, images = np.array(summary["sizes"]).T
        maps[part] = np.histogram2d(heights, widths, (down, across), weights=images)[0]
    norm = LogNorm(1, max(10, *(counts.max() for counts in maps.values())))
    for axis, (part, counts) in zip(axes, maps.items()):
        shown = axis.pcolormesh(across, down, np.ma.masked_equal(counts, 0), norm=norm, cmap="viridis_r")
        different = len(parts[part]["sizes"])
        axis.set_title(f"{part}: {different:,} {'sizes' if different > 1 else 'size'}")
        axis.set_xlabel("width (pixels)")
        axis.grid(color=FAINT, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        _thousands(axis.xaxis)
        _thousands(axis.yaxis)
    axes[0].set_ylabel("height (pixels)")
    bar = canvas.colorbar(shown, ax=axes, pad=0.02, aspect=25, format=lambda value, _: f"{value:,.0f}")
    bar.set_label("images (logarithmic)")
    bar.outline.set_visible(False)
    alt = f"Images by width and height in cells of {SIZE_CELL} pixels, darker for more images: " + "; ".join(
        "{} {:,} to {:,} by {:,} to {:,} pixels".format(part, *size_range(summary)) for part, summary in parts.items()
    )
    return Drawing("sizes", "png", alt, canvas)


def _cell_edges(least, most):
    """Edges of cells of SIZE_CELL pixels that hold sizes from `least` to `most`, with an empty cell around."""
    return np.arange(max(least // SIZE_CELL - 1, 0), most // SIZE_CELL + 3) * SIZE_CELL


def objects(segmented: dict) -> Drawing:
    """Sizes of instances and boxes, and how many an image has."""
    canvas = _canvas(3.7)
    areas, numbers = canvas.subplots(1, 2, gridspec_kw={"width_ratios": [4, 3]})
    drawn = (("instances", "instance_shares", BLUE), ("boxes", "box_shares", ORANGE))
    least = min(segmented[key][0] for _, key, _ in drawn)
    bins = np.logspace(np.floor(np.log10(least) * 10 - 1) / 10, 0, 41)
    for name, key, color in drawn:
        shares = segmented[key]
        areas.hist(shares, bins, histtype="stepfilled", color=color, alpha=0.25)
        areas.hist(shares, bins, histtype="step", color=color, linewidth=1.6, label=f"{name} ({len(shares):,})")
        areas.axvline(np.median(shares), color=color, linestyle="--" if name == "boxes" else ":", linewidth=1.4)
    areas.set(xscale="log", xlim=(bins[0], 1), xlabel="share of the image (logarithmic)\nlines: medians")
    areas.set_ylabel("objects")
    areas.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    areas.set_title("Size of objects")
    areas.legend(loc="upper left")
    most = max(number for key in ("instances", "boxes") for number, _ in segmented[key])
    for shift, (name, _, color) in zip((-0.2, 0.2), drawn):
        counts = dict(segmented[name])
        heights = [counts.get(number, 0) for number in range(1, most + 1)]
        numbers.bar(np.arange(1, most + 1) + shift, heights, width=0.4, color=color, label=name)
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
    return Drawing("objects", "png", alt, canvas)


def heat_maps(segmented: dict) -> Drawing:
    """Where in the image polyps are."""
    canvas = _canvas(3.7)
    axes = canvas.subplots(1, 2)
    maps = {"masks": "mask_map", "boxes": "box_map"}
    most = max(densest(segmented, key) for key in maps.values())
    for axis, (name, key) in zip(axes, maps.items()):
        shares = np.array(segmented[key]) / segmented["rows"]
        shown = axis.imshow(shares, cmap="cividis", vmin=0, vmax=most)
        axis.set(xticks=[], yticks=[], xlabel="width of the image →", ylabel="← height of the image")
        axis.spines[:].set_visible(False)
        axis.set_title(f"Polyp {name}")
    bar = canvas.colorbar(shown, ax=axes, pad=0.02, aspect=30, format=lambda value, _: f"{value:.0%}")
    bar.set_label("images with a polyp here")
    bar.outline.set_visible(False)
    alt = (
        "Two heat maps of where polyps are, by mask and by box, in images scaled to a square; the densest place is "
        f"covered in {most:.0%} of the images"
    )
    return Drawing("heat_maps", "png", alt, canvas)


def agreement(segmented: dict) -> Drawing:
    """How well each box fits a component of the mask."""
    canvas = _canvas(3.7)
    curve, kinds = canvas.subplots(1, 2, gridspec_kw={"width_ratios": [4, 3]})
    overlaps = np.array(segmented["overlaps"])
    curve.hist(overlaps, np.linspace(0, 1, 51), color=BLUE)
    curve.set(yscale="log", ylim=(0.7, 2.5 * len(overlaps)), xlim=(0, 1))
    curve.set(xlabel="IoU of a box and the box of the\nmask component it fits best", ylabel="boxes (logarithmic)")
    curve.set_title("Overlap of box and mask")
    _thousands(curve.yaxis)
    fits = segmented["boxes_by_fit"]
    words = dict(zip(FITS, ("match a\ncomponent", "stretched to\nthe corner", "match none")))
    places = range(len(words))
    kinds.barh(places, [fits[kind] for kind in words], color=[FIT_COLORS[kind] for kind in words], height=0.6)
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
    return Drawing("agreement", "png", alt, canvas)
