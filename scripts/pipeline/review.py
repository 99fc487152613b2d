"""The review page of a built folder: one HTML file that holds everything it shows.

Top to bottom: the page, problems and counts, samples, pairs, segmented rows, outlines, figures.
"""

import base64
import functools
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from PIL import Image

from hyper_kvasir import PARTS, TAXONOMY, Expected
from scripts.pipeline import leaks
from scripts.pipeline.card import stored_pairs
from scripts.pipeline.configs import KINDS, METADATA, VIEWS, features_of
from scripts.pipeline.console import Progress
from scripts.pipeline.files import write_file
from scripts.pipeline.manifest import part_of_path, read_manifest
from scripts.pipeline.output import BuildError, check_name
from scripts.pipeline.pool import worker_pool
from scripts.pipeline.stats import FITS, MATCH, compare_boxes, components_of, corners, matched_components, overlap
from scripts.pipeline.verify import UUID, Verified, verify

# One picture serves as thumbnail and in the large view; rows whose mask and boxes disagree, which one looks at closely,
# have a larger one. WebP: at this size JPEG takes about twice the bytes.
SIDE, LARGE_SIDE = 400, 800  # pixels of the longer side
ENCODING = {"format": "WEBP", "quality": 45, "method": 4}

UNLABELED_SAMPLES = 6
MOST_PAIRS = 200  # that are shown; all are in leakage.csv
GENERATOR = "scripts.review of hyper-kvasir"  # by which a page of ours is known, and may be replaced
HERE = Path(__file__).parent


# ---------------------------------------------------------------------------------------------------------- the page


def write_review(folder: str, expected: Expected, workers: int, to: str) -> str:
    """Writes the review page of `folder` to the file `to`; returns its status, e.g. "all good" or "3 problems".

    Raises ValueError where there is no manifest, BuildError where `to` is something else, OSError where it cannot be
    written.
    """
    check_name(to)
    if os.path.isdir(to):
        raise BuildError(f"{to}: is a folder; give the name of the HTML file to write")
    if os.path.lexists(to) and not _is_review(to):
        raise BuildError(f"{to}: is there, and is no review page; give another name, or move that file away")
    result = verify(folder, expected, workers)
    status, page = page_text(folder, result, workers)
    write_file(Path(to), page.encode())
    return status


def _is_review(path):
    with open(path, "rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(4096)


def page_text(folder: str, result: Verified, workers: int) -> tuple[str, str]:
    """The status in words and the whole HTML page."""
    manifest = read_manifest(folder)
    problems = problem_texts(folder, result)
    rows = segmented_rows(folder, manifest, workers)
    pictures = [row.pop("picture") for row in rows]
    _attach_problems(rows, problems)
    status = "all good" if not problems else f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
    css, js = (HERE / "review.css").read_text("utf-8"), (HERE / "review.js").read_text("utf-8")
    return status, _template().render(
        name=os.path.basename(os.path.abspath(folder)),
        manifest=manifest,
        status=status,
        green=not problems,
        absent=[config for config in VIEWS if config not in result.configs],
        problems=[_with_links(text, {row["id"] for row in rows}) for text in problems],
        counts=count_tables(result),
        samples=finding_samples(folder, manifest, result),
        unlabeled=unlabeled_samples(folder, manifest),
        pairs=None if METADATA not in manifest["configs"] else pair_views(folder, manifest),
        figures=figures(folder),
        segmented=any(VIEWS[config].part == "segmented" for config in result.configs),
        summary=agreement(rows),
        match=MATCH,
        rows=rows,
        pictures=pictures,
        policy=_policy(css, js),
        generator=GENERATOR,
        css=Markup(css),
        js=Markup(js),
    )


def _template():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["json"] = _json
    return environment.get_template("review.html.j2")


def _json(value) -> Markup:
    """JSON for a <script> element, which only a "<" could end."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _policy(css: str, js: str) -> str:
    """A Content-Security-Policy for this style and script, embedded pictures, and nothing else."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


# ----------------------------------------------------------------------------------------------- problems and counts


def problem_texts(folder: str, result: Verified) -> list[str]:
    """`Verified.listed`, with paths cut to the folder's name: the page may travel."""
    above = os.path.join(os.path.dirname(os.path.abspath(folder)), "")
    return [text.replace(above, "") for text in result.listed()]


def _attach_problems(rows, problems):
    """Gives each row the texts that name its id."""
    naming = defaultdict(list)
    for text in problems:
        for image_id in dict.fromkeys(UUID.findall(text)):
            naming[image_id].append(text)
    for row in rows:
        row["problems"] = naming[row["id"]]


def _with_links(text, ids):
    """[(piece of the text, whether it is an id that the browser can open)]"""
    return [(piece, piece in ids) for piece in UUID.split(text) if piece]


def count_tables(result: Verified) -> dict[str, list[dict]]:
    """The checks by table: {heading: [{"what", "expected", "found", "verdict", "same"}]}."""
    splits, totals, findings = [], [], []
    for check in result.checks:
        rows = splits if " / " in check.what else findings if check.what.startswith("finding ") else totals
        what = check.what.removeprefix("finding ")
        rows.append({**check._asdict(), "what": what, **_verdict(check.expected, check.found)})
    tables = {"Rows of each split": splits, "Totals": totals, "Labeled images of each finding": findings}
    return {heading: rows for heading, rows in tables.items() if rows}


def _verdict(expected, found):
    if expected == found:
        return {"same": True, "verdict": "as expected"}
    return {"same": False, "verdict": f"{abs(expected - found):,} {'missing' if found < expected else 'too many'}"}


# ----------------------------------------------------------------------------------------------------------- samples


def finding_samples(folder: str, manifest: dict, result: Verified) -> dict[str, list[dict]]:
    """{category: findings}, each with its numbers where they are known and its first image by id where there is one."""
    first = _first_rows(folder, manifest)
    pictures = _pictures(folder, [(path, i) for _, path, i in first.values()])
    checks = {check.what.removeprefix("finding "): check for check in result.checks}
    samples = {category: [] for category in VIEWS["category"].values}
    for label, finding in enumerate(TAXONOMY):
        image_id, *place = first.get(label, (None,))
        check = checks.get(finding.name)
        if image_id is None and check is None:
            continue
        sample = {"name": finding.name, "tract": finding.tract, "id": image_id, "picture": pictures.get(tuple(place))}
        if check:
            sample |= {**check._asdict(), **_verdict(check.expected, check.found)}
        samples[finding.category].append(sample)
    return {category: found for category, found in samples.items() if found}


def _first_rows(folder, manifest):
    """{label: (image id, path, row number)} of the smallest id, labeled files first."""
    first = {}
    for part in ("labeled", "segmented"):
        least = {}
        for path, table in _tables(folder, manifest, part, ["image_id", "label"]):
            ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
            for i, (image_id, label) in enumerate(zip(ids, labels)):
                if label not in least or image_id < least[label][0]:
                    least[label] = image_id, path, i
        first = {**least, **first}
    return first


def unlabeled_samples(folder: str, manifest: dict) -> list[dict]:
    """The first images of the unlabeled part: [{"id", "picture"}]."""
    for path, table in _tables(folder, manifest, "unlabeled", ["image_id"]):
        ids = table["image_id"].to_pylist()[:UNLABELED_SAMPLES]
        pictures = _pictures(folder, [(path, i) for i in range(len(ids))])
        return [{"id": image_id, "picture": pictures[path, i]} for i, image_id in enumerate(ids)]
    return []


def _tables(folder, manifest, part, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
    """(path, table) of each file of a part that can be read. What cannot is among the problems already."""
    schema = features_of(part).arrow_schema
    for path in sorted(manifest["files"]):
        if part_of_path(path) == part:
            try:
                table = pq.read_table(os.path.join(folder, path), columns=columns, partitioning=None)
            except (OSError, ValueError):
                continue
            if all(table.schema.field(name).type == schema.field(name).type for name in table.schema.names):
                yield path, table


def _pictures(folder, places):
    """{(path, row number): picture}, each file read once; None for an image that cannot be decoded."""
    wanted, pictures = defaultdict(list), {}
    for path, i in places:
        wanted[path].append(i)
    for path, numbers in wanted.items():
        images = pq.read_table(os.path.join(folder, path), columns=["image"], partitioning=None)["image"]
        for i in numbers:
            try:
                pictures[path, i] = thumbnail(images[i].as_py()["bytes"])
            except UNREADABLE:
                pictures[path, i] = None
    return pictures


UNREADABLE = (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


def thumbnail(data: bytes, side: int = SIDE) -> str:
    """A JPEG image, its longer side at most `side` pixels, as WebP in base64. Raises one of UNREADABLE."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft("RGB", (side, side))
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, **ENCODING)
    return base64.b64encode(buffer.getvalue()).decode()


# ------------------------------------------------------------------------------------------------------------- pairs


def pair_views(folder: str, manifest: dict) -> dict:
    """The pairs of images to look at, those that leak first: {"all": number, "shown": [pair]}.

    A pair is {"kind", "leaks": splits in words, "facts": evidence in words, "matrix": the transform as SVG writes it,
    "one" and "other": {"id", "width", "height", "about", "picture"}}.
    """
    try:
        found = stored_pairs(manifest, functools.partial(os.path.join, folder))
    except (OSError, ValueError, KeyError):  # among the problems already
        found = []

    def order(pair):
        return -sum(leaks.is_across(pair, split) for split in leaks.OFFICIAL_SPLITS), pair["kind"] != KINDS[0]

    some = sorted(found, key=order)[:MOST_PAIRS]
    rows = {row["image_id"]: row for pair in some for row in (pair["one"], pair["other"])}
    places = {}
    for part in PARTS:
        for path, table in _tables(folder, manifest, part, ["image_id"]):
            ids = enumerate(table["image_id"].to_pylist())
            places |= {image_id: (path, i) for i, image_id in ids if image_id in rows}
    pictures = _pictures(folder, places.values())
    ends = {image_id: _end(row, pictures.get(places.get(image_id))) for image_id, row in rows.items()}
    return {"all": len(found), "shown": [_pair_view(pair, ends) for pair in some]}


def _end(row, picture):
    facts = [leaks.place_of(row)] if row["label"] is None else [leaks.place_of(row), TAXONOMY[row["label"]].name]
    facts += [f"{split}: {row[split]}" for split in leaks.OFFICIAL_SPLITS if row[split] is not None]
    return {"id": row["image_id"], "about": " · ".join(facts), "picture": picture} | {
        side: row[side] for side in ("width", "height")
    }


def _pair_view(pair, ends):
    a, b, x, c, d, y = pair["transform"]
    facts = [f"{pair['inliers']:,} of {pair['matches']:,} matched features fit the transform"]
    facts += [f"correlation {round(pair['correlation'], 2) + 0:.2f}"]  # + 0: no -0.00
    facts += [f"scale {pair['scale']:.2f}"]
    facts += [f"masks agree at an IoU of {pair['mask_iou']:.2f}"] if pair["mask_iou"] is not None else []
    return {
        "kind": pair["kind"].replace("_", " "),
        "leaks": [leaks.SPLITS[split] for split in leaks.OFFICIAL_SPLITS if leaks.is_across(pair, split)],
        "facts": "; ".join(facts),
        "matrix": " ".join(f"{value:g}" for value in (a, c, b, d, x, y)),
        "one": ends[pair["one"]["image_id"]],
        "other": ends[pair["other"]["image_id"]],
    }


# ---------------------------------------------------------------------------------------------------- segmented rows


def segmented_rows(folder: str, manifest: dict, workers: int) -> list[dict]:
    """What the browser shows of each segmented image, by id; see `describe`."""
    rows = [row for _, table in _tables(folder, manifest, "segmented") for row in table.to_pylist()]
    with worker_pool(workers) as pool, Progress(len(rows), "drawing", unit=" images") as bar:
        described = []
        for row in pool.map(describe, rows, chunksize=8):
            described.append(row)
            bar.update(1)
    return sorted(described, key=lambda row: row["id"])


def describe(row: dict) -> dict:
    """A segmented row for the page: scalars, "picture" and the annotation of `_annotation`; pixels are the image's own.

    With "error", a text, where an image of the row cannot be decoded; what could be is there all the same.
    """
    label = row["label"]
    described = {
        "id": row["image_id"],
        "finding": TAXONOMY[label].name if label in range(len(TAXONOMY)) else f"unknown label {label}",
        "picture": None,
        "boxes": [],
        "instances": [],
        "lowest": 0,
        "share": 0,
        **{name: row[name] for name in ("fold_2", "fold_5", "width", "height")},
    }
    try:
        described["picture"] = thumbnail(row["image"]["bytes"])
        described |= _annotation(_pixels(row["mask"]), _pixels(row["instances"]), row["objects"]["bbox"])
        if disagrees(described):
            described["picture"] = thumbnail(row["image"]["bytes"], LARGE_SIDE)
    except UNREADABLE as error:
        described["error"] = re.sub(r" <_io\.\S+ object at \w+>", "", str(error))  # an address in memory
    return described


def _pixels(png):
    with Image.open(io.BytesIO(png["bytes"]), formats=["PNG"]) as image:
        return np.asarray(image.convert("L"))


def _annotation(mask, instances, bboxes):
    """Outlines and boxes, and how far they agree; by `stats.compare_boxes`, as the card's numbers are.

    boxes: [{"at": [x, y, width, height], "iou", "instance", "fit"}] with the number of the instance that fits best, if
    any, and one of FITS. instances: [{"at", "iou", "number", "boxed", "path"}], "iou" to the best box, "boxed" where a
    box matches. An IoU is between boxes. lowest: the smallest of all these. share: of the image that is mask. mask: the
    mask's outline where it differs from the instances together.
    """
    components = components_of(instances)
    numbers, places = list(components), list(components.values())
    boxes = [corners(bbox) for bbox in bboxes]
    fits = compare_boxes(boxes, places, instances.shape)
    matched = matched_components(fits)
    of_instances = [max((overlap(box, place) for box in boxes), default=0.0) for place in places]
    annotation = {
        "boxes": [
            {
                "at": list(bbox),
                "iou": round(fit.overlap, 3),
                "instance": None if fit.component is None else numbers[fit.component],
                "fit": fit.kind,
            }
            for bbox, fit in zip(bboxes, fits)
        ],
        "instances": [
            {
                "at": [left, top, right - left, bottom - top],
                "iou": round(iou, 3),
                "number": number,
                "boxed": i in matched,
                "path": outline(instances == number),
            }
            for i, (number, (left, top, right, bottom), iou) in enumerate(zip(numbers, places, of_instances))
        ],
        "lowest": round(min([*(fit.overlap for fit in fits), *of_instances], default=0.0), 3),
        "share": round(float((mask > 0).mean()), 5),
    }
    if not np.array_equal(mask > 0, instances > 0):
        annotation["mask"] = outline(mask > 0)
    return annotation


def disagrees(row: dict) -> bool:
    """Whether a box matches no instance, an instance has no box, or their numbers differ."""
    unfit = any(box["fit"] != "matched" for box in row["boxes"]) or not all(i["boxed"] for i in row["instances"])
    return unfit or len(row["boxes"]) != len(row["instances"])


def agreement(rows: list[dict]) -> dict:
    """Of all rows: numbers of images, instances, boxes, boxes by their fit, instances without a box."""
    boxes = [box for row in rows for box in row["boxes"]]
    instances = [instance for row in rows for instance in row["instances"]]
    return {
        "images": len(rows),
        "boxes": len(boxes),
        "instances": len(instances),
        **{fit: sum(box["fit"] == fit for box in boxes) for fit in FITS},
        "unboxed": sum(not instance["boxed"] for instance in instances),
        "disagree": sum(map(disagrees, rows)),
    }


# ---------------------------------------------------------------------------------------------------------- outlines


def outline(mask: np.ndarray) -> str:
    """The outline of a bool mask, height x width, as an SVG path in pixels, holes included (fill rule "evenodd").

    Points are left out where the line stays within 1/500 of the longer side, or half a pixel.
    """
    tolerance = max(max(mask.shape) / 500, 0.5)
    return "".join(_path(_simplified(loop, tolerance)) for loop in _loops(mask))


def _loops(mask):
    """Closed loops of pixel corners (x, y) around a mask, the mask always on the same side; shape n x 2 each."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # (pixels with background on that side, start and end of the side within its pixel)
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following = defaultdict(list)
    for pixels, start, end in sides:
        places = np.argwhere(pixels)[:, ::-1]
        for one, other in zip((places + start).tolist(), (places + end).tolist()):
            following[tuple(one)].append(tuple(other))
    loops = []
    while following:
        corner = next(iter(following))
        loop = []
        while corner in following:
            loop.append(corner)
            ways = following[corner]
            if len(ways) == 1:
                del following[corner]
            corner = ways.pop()
        loops.append(np.array(loop))
    return loops


def _simplified(loop, tolerance):
    """A closed loop with fewer points, none farther than `tolerance` from the line (Douglas and Peucker)."""
    points = np.concatenate([loop, loop[:1]])
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    kept, open_spans = {0, far}, [(0, far), (far, len(loop))]
    while open_spans:
        first, last = open_spans.pop()
        if last - first < 2:
            continue
        along, inner = points[last] - points[first], points[first + 1 : last] - points[first]
        length = np.hypot(*along)
        distance = abs(along[0] * inner[:, 1] - along[1] * inner[:, 0]) / length if length else np.hypot(*inner.T)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            middle = first + 1 + worst
            kept.add(middle)
            open_spans += [(first, middle), (middle, last)]
    return loop[sorted(kept)]


def _path(points):
    steps = " ".join(f"{x} {y}" for x, y in np.diff(points, axis=0).tolist())
    return f"M{points[0][0]} {points[0][1]}l{steps}z"


# ----------------------------------------------------------------------------------------------------------- figures


def figures(folder: str) -> list[dict]:
    """The card's pictures in its order, then others in assets/: [{"name", "alt", "caption", "address"}].

    alt and caption, the slanted paragraph below, are the card's; the file's name and "" where it has none.
    """
    card = Path(folder, "README.md")
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    shown = re.findall(r"!\[([^\]]*)\]\(assets/([^)\s]+)\)(?:\n\n\*([^*]+)\*\n)?", text)
    words = {name: (alt, caption) for alt, name, caption in shown}
    files = {path.name: path for path in sorted(Path(folder, "assets").glob("*")) if path.suffix in PICTURES}
    order = [name for name in words if name in files] + [name for name in files if name not in words]
    pictures = []
    for name in order:
        alt, caption = words.get(name, (name, ""))
        data = base64.b64encode(files[name].read_bytes()).decode()
        address = f"data:image/{PICTURES[files[name].suffix]};base64,{data}"
        title = files[name].stem.replace("_", " ").replace("-", " ")
        pictures.append({"name": title, "alt": alt, "caption": caption, "address": address})
    return pictures


PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
