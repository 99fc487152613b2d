"""Measures the pass over all images: what it finds, what it costs, and the grouped folds.

    python -m scripts.bench_quality copies --source archives     # copies of the real images, changed in known ways
    python -m scripts.bench_quality pass --images 110079         # generated images with planted copies
    python -m scripts.bench_quality folds --source archives      # groups planted in the official folds

`copies` changes every image of the source, and asks whether it is found again among all of them. Half of the images
give the threshold, the other half the numbers. `pass` times a pass against the bare decoding of the same files.
"""

import csv
import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from hyper_kvasir import Expected, SourceError, listed
from scripts.pipeline.console import Progress, command_parser, number, say, table
from scripts.pipeline.measure import claim
from scripts.pipeline.plan import make_plan
from scripts.pipeline.pool import worker_pool
from scripts.pipeline.quality import folds, images, metadata, pairs

GREEN = (135, 163, 19)  # B, G, R of the navigation picture
SEED = 0


# ------------------------------------------------------------------------------------------------------------ copies


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Pixels as B, G, R, height x width x 3, as a JPEG."""
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def scaled(pixels, by):
    return cv2.resize(pixels, None, fx=by, fy=by, interpolation=cv2.INTER_AREA if by < 1 else cv2.INTER_CUBIC)


def cropped(pixels, share):
    height, width = pixels.shape[:2]
    down, across = round(share * height), round(share * width)
    return pixels[down : height - down, across : width - across]


def moved(pixels, transform):
    return cv2.warpAffine(pixels, np.float32(transform), pixels.shape[1::-1])


def shifted(pixels, share):
    height, width = pixels.shape[:2]
    return moved(pixels, [[1, 0, share * width], [0, 1, share * height]])


def turned(pixels, degrees):
    height, width = pixels.shape[:2]
    return moved(pixels, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1))


def brighter(pixels, by, more=0.0):
    return np.clip(pixels.astype(np.float32) * by + more, 0, 255).astype(np.uint8)


def contrasted(pixels, by):
    return brighter(pixels, by, float(pixels.mean()) * (1 - by))


def gamma(pixels, by):
    return cv2.LUT(pixels, np.round(255 * (np.arange(256) / 255) ** by).astype(np.uint8))


def written_on(pixels, brightness=255):
    """With lines of text at the left, as the endoscope burns them in."""
    pixels = pixels.copy()
    height, width = pixels.shape[:2]
    for i, text in enumerate(("Sex:  Age:", "D.O.B.:", "01/01/2000", "00:00:00", "00:00:00")):
        place = round(0.02 * width), round((0.3 + 0.06 * i) * height)
        cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_SIMPLEX, height / 700, (brightness,) * 3, 2)
    return pixels


def covered(pixels, color):
    """With a rectangle at the lower left, as the navigation picture and what covers it."""
    pixels = pixels.copy()
    height, width = pixels.shape[:2]
    pixels[round(0.68 * height) :, : round(0.32 * width)] = color
    return pixels


def framed(pixels):
    """Cropped a little, rescaled, on black with text and navigation picture: the real pairs, the other way."""
    inner = cropped(pixels, 0.01)
    inner = scaled(inner, min(576 / inner.shape[1], 518 / inner.shape[0]))
    frame = np.zeros((576, 720, 3), np.uint8)
    frame[30 : 30 + inner.shape[0], 60 : 60 + inner.shape[1]] = inner
    frame = written_on(frame)
    frame[390:560, 36:250] = GREEN
    return frame


def _pixels(change, *arguments):
    return lambda pixels: jpeg(change(pixels, *arguments))


CHANGES: dict[str, Callable[[np.ndarray], bytes]] = {
    **{f"quality {q}": functools.partial(jpeg, quality=q) for q in (20, 50, 95)},
    **{f"scale {by}": _pixels(scaled, by) for by in (0.5, 2)},
    **{f"crop {share:.0%} at each side": _pixels(cropped, share) for share in (0.02, 0.05, 0.1)},
    "shift 3%": _pixels(shifted, 0.03),
    **{f"rotation {degrees} degrees": _pixels(turned, degrees) for degrees in (2, 5)},
    **{f"brightness {by}": _pixels(brighter, by) for by in (0.7, 1.3)},
    **{f"contrast {by}": _pixels(contrasted, by) for by in (0.7, 1.3)},
    **{f"gamma {by}": _pixels(gamma, by) for by in (0.6, 1.6)},
    "burned text": _pixels(written_on),
    "black overlay": _pixels(covered, (0, 0, 0)),
    "green overlay": _pixels(covered, GREEN),
    "framed anew": _pixels(framed),
    "framed anew, quality 40": lambda pixels: jpeg(framed(pixels), 40),
    "mirror": _pixels(lambda pixels: pixels[:, ::-1].copy()),
}


def source_images(folders: list[str]) -> dict[str, bytes]:
    """{image id: JPEG} of all labeled and segmented images in some folders, however few."""
    found = {}
    for folder in folders:
        for part in ("labeled", "segmented"):
            try:
                plan = make_plan([folder, *folders], [part], Expected.load(None), checks=False)
            except SourceError as error:
                say(f"{folder}: {part}: {listed(error.problems, most=1)}")
                continue
            for planned in plan.shards.values():
                rows = [row for row in planned.shard.rows if row.image_id not in found]
                found |= {row.image_id: planned.shard.archive.read(row.image) for row in rows}
    return dict(sorted(found.items()))


def _base(data):
    return images.look(data).descriptor, images.sketch(data)


def _found_again(data, number, descriptors, own):
    """{change: (rank among all images, distance, Match or None)} of copies of an image."""
    pixels, result = simplejpeg.decode_jpeg(data, "BGR"), {}
    for name, change in CHANGES.items():
        copy = change(pixels)
        nearness = descriptors @ images.look(copy).descriptor.astype(np.float32) / images.LENGTH**2
        rank = int(np.count_nonzero(nearness > nearness[number]))
        result[name] = rank, 1 - float(nearness[number]), pairs.compare(own, images.sketch(copy))
    return result


def bench_copies(folders: list[str], workers: int) -> str:
    """How many copies of real images are found again, and how many real pairs are found that way."""
    originals = source_images(folders)
    with worker_pool(workers) as pool, Progress(len(originals) * 2, "copies", unit=" images") as bar:
        bases = []
        for base in pool.map(_base, originals.values(), chunksize=8):
            bases.append(base)
            bar.update(1)
        descriptors = np.array([descriptor for descriptor, _ in bases])
        given = descriptors.astype(np.float32)
        jobs = [pool.submit(_found_again, data, i, given, bases[i][1]) for i, data in enumerate(originals.values())]
        found = []
        for job in jobs:
            found.append(job.result())
            bar.update(1)
    near = pairs.candidates(descriptors)
    real = [(i, j, pairs.compare(bases[i][1], bases[j][1])) for i, j in near.tolist()]
    compared = len(near)
    ids = list(originals)
    halves = [[i for i, image_id in enumerate(ids) if int(image_id[0], 16) % 2 == half] for half in (0, 1)]

    def correlations(half):
        copies = [found[i][name][2] for i in half for name in CHANGES if name != "mirror"]
        return sorted(match.correlation for match in copies if match and match.inliers >= pairs.FRAME_INLIERS)

    others = [m.correlation for i, j, m in real if m and m.kind(compared) == pairs.SAME_SCENE and i in set(halves[0])]
    low = correlations(halves[0])
    chosen = (max(others, default=0.0) + low[len(low) // 1000]) / 2
    lines = []
    for name in CHANGES:
        row = [name]
        for half in halves:
            of = [found[i][name] for i in half]
            candidates = [m for rank, d, m in of if rank < pairs.NEAREST and d <= pairs.DISTANCE]
            same = sum(bool(m) and m.kind(compared) == pairs.SAME_FRAME for m in candidates)
            row += [f"{len(candidates) / len(of):.4f}", f"{same / len(of):.4f}"]
        lines.append(row)
    kinds = Counter(match.kind(compared) for _, _, match in real if match)
    return "\n".join(
        [
            f"{len(ids):,} images; halves of {len(halves[0]):,} and {len(halves[1]):,}",
            f"between scenes and copies of the 1st half: correlation {chosen:.2f}; used: {pairs.FRAME_CORRELATION}",
            table(("change", "1st half: candidates", "same frame", "2nd half: candidates", "same frame"), lines),
            f"among the real images, {compared:,} compared: {kinds[pairs.SAME_FRAME]:,} pairs of the same frame, "
            f"{kinds[pairs.SAME_SCENE]:,} more of the same scene",
        ]
    )


# -------------------------------------------------------------------------------------------------------------- pass


def picture(rng: np.random.Generator) -> np.ndarray:
    """A generated picture, B, G, R: smooth tissue with folds, vessels and reflections, in an endoscope's border."""
    height, width = 536, 660
    base = rng.normal(0, 1, (height, width)).astype(np.float32) * 4
    for cells in (3, 5, 9, 17, 40):
        noise = rng.normal(0, 90 / cells**0.7, (cells, cells)).astype(np.float32)
        base += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(np.stack([base * 0.5 + 70, base * 0.7 + 95, base * 0.9 + 160], axis=2), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(3, 8)):
        place = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(10, 120)), int(rng.integers(10, 90))
        color = [int(c) for c in rng.integers((20, 30, 90), (120, 140, 230))]
        cv2.ellipse(pixels, place, axes, float(rng.integers(180)), 0, 360, color, int(rng.integers(2, 9)), cv2.LINE_AA)
    for _ in range(rng.integers(5, 30)):
        place = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(pixels, place, int(rng.integers(1, 6)), (255, 255, 255), -1, cv2.LINE_AA)
    frame = np.zeros((height + 40, width + 60, 3), np.uint8)
    frame[20:-20, 30:-30] = pixels
    for x, y in ((30, 20), (width + 30, 20), (30, height + 20), (width + 30, height + 20)):
        cv2.circle(frame, (x, y), 70, (0, 0, 0), -1)
    return frame


def make_pictures(first: int, count: int, every: int) -> list[tuple[str, bytes, int | None]]:
    """[(image id, JPEG, number of the image that it is a copy of)] of so many images from the number `first` on.

    One of `every`, not a multiple of 7, is a copy of the image 7 numbers before it.
    """
    names = [name for name in CHANGES if name not in ("mirror", "scale 2", "crop 10% at each side")]
    made = []
    for i in range(first, first + count):
        source = i - 7 if i % every == 0 and i >= 7 else i
        pixels = picture(np.random.default_rng([SEED, source]))
        data = jpeg(pixels) if source == i else CHANGES[names[i // every % len(names)]](pixels)
        image_id = str(uuid.UUID(bytes=hashlib.md5(f"{SEED} {i}".encode()).digest()))
        made.append((image_id, data, source if source != i else None))
    return made


def make_source(folder: str, count: int, workers: int, every: int = 20) -> dict[str, str]:
    """Writes an archive of generated unlabeled images; returns {id of a copy: id of the image it is a copy of}."""
    os.makedirs(folder, exist_ok=True)
    ids, copies, step = {}, {}, 500
    place = os.path.join(folder, "hyper-kvasir-unlabeled-images.zip")
    starts = range(0, count, step)
    sizes = [min(step, count - start) for start in starts]
    with (
        worker_pool(workers) as pool,
        zipfile.ZipFile(place, "w") as archive,
        Progress(count, "making", " images") as bar,
    ):
        for start, some in zip(starts, pool.map(make_pictures, starts, sizes, [every] * len(sizes))):
            for i, (image_id, data, source) in enumerate(some, start):
                ids[i] = image_id
                archive.writestr(f"unlabeled-images/images/{image_id}.jpg", data)
                if source is not None:
                    copies[image_id] = ids[source]
            bar.update(len(some))
    numbers = {"unlabeled": count, "segmented": 0, "instances": 0, "boxes": 0, "fold_2": [0] * 2, "fold_5": [0] * 5}
    numbers["kvasir_seg_set"] = [0] * 2
    findings = dict.fromkeys(Expected.load(None).findings, 0)
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
        json.dump({**numbers, "findings": findings, "sources": {}}, file)
    with open(os.path.join(folder, "copies.json"), "w", encoding="utf-8") as file:
        json.dump(copies, file)
    return copies


def decode_all(archive: str) -> None:
    """Decodes all images of an archive, and no more: what a pass is measured against. Prints the CPU seconds."""
    before = _cpu_seconds()
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            simplejpeg.decode_jpeg(file.read(name), "BGR")
    json.dump(_cpu_seconds() - before, sys.stdout)


def pass_by_steps(source: str, folder: str, workers: str) -> None:
    """A pass over the images of a source, in `folder`; prints what each step took, and the pairs found, as JSON."""
    plan = make_plan([source], ["metadata"], Expected.load(f"{source}/expected.json"), looked=["unlabeled"])
    shards, told = metadata.first_rows(plan.looked, metadata.distinct(plan.looked)), {}

    def step(name, work):
        before = _cpu_seconds()
        result = work()
        peaks = [getrusage(who).ru_maxrss * 1024 for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
        told[name] = {"cpu": _cpu_seconds() - before, "parent": peaks[0], "worker": peaks[1]}
        say(f"{name}: {told[name]['cpu']:,.1f} CPU seconds, peaks of {[peak >> 20 for peak in peaks]} MiB")
        return result

    looks, _ = step("looking", lambda: metadata.look_at_all(shards, folder, int(workers)))
    table_ = metadata.joined(looks)
    near = step("searching", lambda: pairs.candidates(metadata.descriptors_of(table_)))
    found = step("searching and comparing", lambda: metadata.find_pairs(table_, shards, folder, int(workers)))
    told["candidates"], told["images"] = len(near), len(np.unique(near))
    told["pixels"] = sum(w * h for w, h in zip(table_["width"].to_pylist(), table_["height"].to_pylist()))
    told["pairs"] = [[pair.one, pair.other, pair.kind] for pair in found]
    json.dump(told, sys.stdout)


def _cpu_seconds():
    return sum(sum(getrusage(who)[:2]) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))


def _in_a_process(function, *arguments):
    """What a function of this module prints, in a process of its own: only that has a peak of its own."""
    code = f"import sys; from scripts.bench_quality import {function.__name__} as f; f(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def bench_pass(work: str, count: int, workers: int) -> str:
    """The CPU time and memory of a pass over generated images by its steps, and whether it finds the planted copies."""
    source, own = os.path.join(work, f"pictures-{count}"), os.path.join(work, "own")
    if not os.path.exists(os.path.join(source, "copies.json")):
        make_source(source, count, workers)
    with open(os.path.join(source, "copies.json"), encoding="utf-8") as file:
        copies = {tuple(sorted(pair)) for pair in json.load(file).items()}
    bare = _in_a_process(decode_all, os.path.join(source, "hyper-kvasir-unlabeled-images.zip"))
    say(f"bare decoding: {bare:,.1f} CPU seconds")
    shutil.rmtree(own, ignore_errors=True)
    told = _in_a_process(pass_by_steps, source, own, str(workers))
    shutil.rmtree(own, ignore_errors=True)
    found = {(one, other): kind for one, other, kind in told["pairs"]}
    lines = [("bare decoding", f"{bare:,.0f}", *_each(bare, count, told["pixels"]), "1.00", "", "")]
    for name in ("looking", "searching", "searching and comparing"):
        cpu, peaks = told[name]["cpu"], [f"{told[name][who] / 2**20:,.0f}" for who in ("parent", "worker")]
        lines.append((name, f"{cpu:,.0f}", *_each(cpu, count, told["pixels"]), f"{cpu / bare:.2f}", *peaks))
    header = ("step", "CPU seconds", "ms an image", "ms a megapixel", "of decoding", "peak MiB", "of a worker")
    same = sum(found.get(pair) == pairs.SAME_FRAME for pair in copies)
    for pair in sorted(copies ^ set(found)) if count <= 5000 else ():
        say(f"{'missed' if pair in copies else 'also found'}: {' '.join(pair)}")
    scenes = sum(found.get(pair) == pairs.SAME_SCENE for pair in copies)
    return "\n".join(
        [
            f"{count:,} images, {told['pixels'] / count / 1e6:.2f} megapixels each, {workers} workers",
            table(header, lines),
            f"candidates: {told['candidates']:,} pairs of {told['images']:,} images",
            f"copies planted: {len(copies):,}; found as the same frame: {same:,}, as the same scene: {scenes:,}",
            f"other pairs found: {len(set(found) - copies):,}",
        ]
    )


def _each(seconds, count, pixels):
    return f"{1000 * seconds / count:.2f}", f"{1e9 * seconds / pixels:.2f}"


# ------------------------------------------------------------------------------------------------------------- folds


class Judged(NamedTuple):
    """Grouped folds, judged."""

    what: str
    split: int  # groups
    moved: int  # images that are not in their official fold
    changed: int  # images whose fold is not that of the version before
    error: float  # the largest difference between the share of a class in a fold, and in all
    where_allowed: float  # the same, of classes of which no group is too large
    absent: int  # classes in folds


def bench_folds(folders: list[str]) -> list[Judged]:
    """Grouped folds of the official labels, with groups planted at random: few small ones, and many large ones."""
    lines = []
    for k in (2, 5):
        official = _official(folders, k)
        for name, groups, images_, largest in (("few", 254, 589, 6), ("many", 1_498, 6_790, 20)):
            rows = plant_groups(official, groups, images_, largest, mixed=name == "many")
            grouped = folds.group_folds(rows, k, {})
            hidden = set(random.Random(SEED).sample(sorted(row.image_id for row in rows), len(rows) // 20))
            before = folds.group_folds([row for row in rows if row.image_id not in hidden], k, {})
            after = folds.group_folds(rows, k, before.folds)
            for what, of in (("at once", grouped), ("5% added", after)):
                lines.append(_judged(f"{k} folds, {name} groups, {what}", rows, of, k))
    return lines


def folds_table(lines: list[Judged]) -> str:
    """What `bench_folds` gives, as a table."""
    header = ("folds", "groups split", "not in official fold", "changed", "largest error", "where allowed", "absent")
    return table(
        header, [(*line[:4], *(f"{100 * share:.2f} pp" for share in line[4:6]), line.absent) for line in lines]
    )


def _official(folders, k):
    """[(image id, class, fold)] of a split csv."""
    names = [os.path.join(folder, f"{k}_fold_split.csv") for folder in folders]
    with open(next(name for name in names if os.path.exists(name)), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    labels = sorted({row["class-name"] for row in rows})
    return [
        (row["file-name"].removesuffix(".jpg"), labels.index(row["class-name"]), int(row["split-index"]))
        for row in rows
    ]


def plant_groups(official: list[tuple], groups: int, rows: int, largest: int, *, mixed: bool) -> list[folds.Row]:
    """Rows, so many of them in so many groups of 2 to `largest`; if `mixed`, a tenth of these have two classes."""
    rng = random.Random(SEED)
    sizes = [2] * groups
    while sum(sizes) < rows:
        i = int(groups * rng.random() ** (3 if mixed else 1))
        sizes[i] += sizes[i] < largest
    by_label: dict[int, list] = {}
    for image_id, label, _ in sorted(official, key=lambda row: rng.random()):
        by_label.setdefault(label, []).append(image_id)
    group: dict[str, str] = {}
    for size in sizes:
        enough = [label for label, ids in by_label.items() if len(ids) >= size]
        label = rng.choices(enough, [len(by_label[label]) for label in enough])[0]
        members = [by_label[label].pop() for _ in range(size)]
        if mixed and rng.random() < 0.1:
            other = rng.choices(list(by_label), [len(ids) for ids in by_label.values()])[0]
            by_label[label].append(members.pop())
            members.append(by_label[other].pop())
        group |= dict.fromkeys(members, min(members))
    return [folds.Row(image_id, label, fold, group.get(image_id)) for image_id, label, fold in official]


def _judged(what, rows, grouped, k):
    cells = Counter((row.label, grouped.folds[row.image_id]) for row in rows)
    sizes, labels = Counter(grouped.folds.values()), Counter(row.label for row in rows)
    members: dict[str, set] = {}
    for row in rows:
        members.setdefault(row.group or row.image_id, set()).add(grouped.folds[row.image_id])
    error = max(abs(cells[label, f] / sizes[f] - labels[label] / len(rows)) for label in labels for f in range(k))
    most = Counter()  # rows of one group that a class has to put into one fold
    for (label, _), images_ in Counter((row.label, row.group or row.image_id) for row in rows).items():
        most[label] = max(most[label], images_)
    free = [label for label in labels if most[label] / sizes[0] <= labels[label] / len(rows) + 0.003]
    allowed = max(abs(cells[label, f] / sizes[f] - labels[label] / len(rows)) for label in free for f in range(k))
    absent = sum(not cells[label, fold] for label in labels for fold in range(k))
    split = sum(len(found) > 1 for found in members.values())
    return Judged(what, split, len(grouped.moved), len(grouped.changed), error, allowed, absent)


def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.bench_quality", __doc__)
    parser.add_argument("what", choices=["copies", "pass", "folds"])
    parser.add_argument("--source", action="append", metavar="DIR", help="of copies and folds: where archives are")
    parser.add_argument("--images", type=number, default=110_079, help="of pass (default: %(default)s)")
    parser.add_argument("--workers", type=number, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument(
        "--work", metavar="DIR", default="dist/bench", help="of pass: where to write (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    if args.what != "pass" and not args.source:
        parser.error(f"{args.what} needs --source")
    if args.what == "pass":
        claim(parser, args.work)
        print(bench_pass(args.work, args.images, args.workers))
    else:
        copies = args.what == "copies"
        print(bench_copies(args.source, args.workers) if copies else folds_table(bench_folds(args.source)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
