"""Miniature official HyperKvasir archives: seeded, official in layout and quirks, with a switch for every defect.

The same arguments give the same bytes. What an image shows depends on the seed and its id alone, so an update
(`relabel`, `remove`, `add`) leaves every other image, and its fold numbers, as they were.

    python -m tests.fake_source OUT                                 # a miniature of all parts, drawn images
    python -m tests.fake_source OUT --official DIR --images tiny    # true ids, folds and counts of everything
    python -m tests.fake_source OUT --gigabytes 1 --images photo    # a labeled part for benchmarks
    python -m tests.fake_source OUT --defect bad_crc                # with one thing wrong

Top to bottom: rows, members, files, defects, `write_source`, command line. The pictures are in `fake_pictures.py`.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections import ChainMap, deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from hyper_kvasir import KVASIR_SEG_SETS, PARTS, TAXONOMY, read_kvasir_seg
from tests.fake_pictures import BY_NAME, LAYOUTS, Art, boxes, encode, mask, new_id, number, picture, stamp

CSV_NAME = {finding.name: (*finding.spellings, finding.name)[0] for finding in TAXONOMY}
FULL_ZIP = "hyper-kvasir.zip"
LABELS_FILE, BOX_FILE = "labeled-images/image-labels.csv", "segmented-images/bounding-boxes.json"
TWO_FOLDS, FIVE_FOLDS = "2_fold_split.csv", "5_fold_split.csv"
LICENSE = (
    "The license for the Hyper-Kvasir dataset is Creative Commons Attribution 4.0 International (CC BY 4.0)\n\n"
    "More information can be found here: \nhttps://creativecommons.org/licenses/by/4.0/\n\n" + "=" * 88
).encode()


# -------------------------------------------------------------------------------------------------------------- rows


class Row(NamedTuple):
    """One distinct image. `art` keeps what it shows when an update moves it to another finding."""

    id: str
    finding: str | None  # None: unlabeled
    folds: tuple
    segmented: bool
    art: Art


def fold_number(position, count, folds):
    """The official cut: equal pieces of the directory order, the last one taking what is left over."""
    return min(position // max(1, count // folds), folds - 1)


def kvasir_seg_ids(seed):
    """The ids of Kvasir-SEG's images, shuffled; every third, as long as they last, is in its validation set."""
    sets = {name: [] for name in KVASIR_SEG_SETS}
    for image_id, row in read_kvasir_seg().items():
        sets[row.kvasir_seg_set].append(image_id)
    train, validation = (sorted(ids, key=lambda id: number("kvasir-seg", seed, id)) for ids in sets.values())
    return [id for three in itertools.zip_longest(validation, train[::2], train[1::2]) for id in three if id]


def invented(seed, findings):
    """(id, finding, folds) of invented labeled images, in the order of the fold csvs.

    Polyps have ids of Kvasir-SEG's images, of which there are 1,000: the segmented ones are known by them.
    """
    for finding in sorted(findings, key=lambda name: number("class", name)):
        count = findings[finding]
        known = kvasir_seg_ids(seed)[:count] if finding == "polyps" else []
        ids = [*known, *(new_id(seed, finding, index) for index in range(len(known), count))]
        ids.sort(key=lambda name: number("place", name))
        for position, image_id in enumerate(ids):
            yield image_id, finding, tuple(fold_number(position, count, folds) for folds in (2, 5))


def official(folder):
    """(id, finding, folds) of the true labeled images, in the order of the fold csvs."""
    folder = Path(folder)
    with open(folder / "labeled-sample/labeled-images/image-labels.csv", newline="") as file:
        finding = {row["Video file"]: row["Finding"] for row in csv.DictReader(file)}
    tables = [(folder / name).read_text().splitlines()[1:] for name in (TWO_FOLDS, FIVE_FOLDS)]
    for two, five in zip(*tables, strict=True):
        image_id = two.split(".")[0]
        yield image_id, finding[image_id], (int(two.rsplit(";", 1)[1]), int(five.rsplit(";", 1)[1]))


def official_segmented(folder):
    with zipfile.ZipFile(Path(folder) / "hyper-kvasir-segmented-images.zip") as archive:
        return sorted(Path(name).stem for name in archive.namelist() if "/images/" in name and name.endswith(".jpg"))


def make_rows(seed, images, labeled, segmented, unlabeled):
    """All rows: the labeled ones in the order of the fold csvs, then the unlabeled."""
    segmented = set(segmented)
    polyps = sorted((id for id, finding, _ in labeled if finding == "polyps"), key=lambda id: (id not in segmented, id))
    layout = {id: index % len(LAYOUTS) for index, id in enumerate(polyps)}
    rows = [
        Row(id, finding, folds, id in segmented, Art(seed, id, finding, layout.get(id, -1), images))
        for id, finding, folds in labeled
    ]
    for index in range(unlabeled):
        id = new_id(seed, "unlabeled", index)
        rows.append(Row(id, None, (), False, Art(seed, id, TAXONOMY[number(id) % len(TAXONOMY)].name, -1, images)))
    return rows


def in_fold_order(rows):
    """Rows with each class together again, classes in the order in which they first came."""
    rank = {finding: index for index, finding in enumerate(dict.fromkeys(row.finding for row in rows))}
    return sorted(rows, key=lambda row: (row.finding is None, rank[row.finding]))


def other_finding(row, same_category):
    """Another finding of the row's tract, inside or outside of its category."""
    old = BY_NAME[row.finding]
    choice = [new for new in TAXONOMY if new.tract == old.tract and new != old]
    choice = [new.name for new in choice if (new.category == old.category) == same_category]
    return choice[number(row.id) % len(choice)]


def update(rows, *, seed, images, relabel, remove, add, add_segmented):
    """The next edition of the data: some images moved (every other one to another category), removed and added."""
    free = [row for row in rows if row.finding and not row.segmented]
    free.sort(key=lambda row: number("update", row.id))
    if relabel + remove > len(free):
        raise ValueError(
            f"{relabel} to relabel and {remove} to remove, but only {len(free)} labeled, unsegmented images"
        )
    moved = {row.id: other_finding(row, index % 2 == 0) for index, row in enumerate(free[:relabel])}
    removed = {row.id for row in free[len(free) - remove :]}
    looks = sorted({row.finding for row in rows if row.finding})
    known = iter(sorted(set(kvasir_seg_ids(seed)) - {row.id for row in rows}, key=lambda id: number("added", id)))
    rows = [row._replace(finding=moved.get(row.id, row.finding)) for row in rows if row.id not in removed]
    for index in range(add + add_segmented):
        segmented = index >= add
        id = next(known) if segmented else new_id(seed, "added", False, index)
        look = "polyps" if segmented else looks[number(id) % len(looks)]
        layout = number(id) % len(LAYOUTS) if look == "polyps" else -1
        rows.append(Row(id, look, (number(id) % 2, number(id) % 5), segmented, Art(seed, id, look, layout, images)))
    return in_fold_order(rows)


# ----------------------------------------------------------------------------------------------------------- members
# A part is a dict: name inside the archive -> bytes, or (function, Art) to be called when it is written.


def labels_line(row):
    finding = BY_NAME[row.finding]
    return f"{row.id},{finding.tract[:5].title()} GI,{finding.name},{finding.category}"


def labels_csv(rows):
    order = {finding.name: index for index, finding in enumerate(TAXONOMY)}
    lines = map(labels_line, sorted(rows, key=lambda row: (order[row.finding], row.id)))
    return "\r\n".join(["Video file,Organ,Finding,Classification", *lines]).encode()


def labeled_name(row, spelling):
    finding = BY_NAME[row.finding]
    folder = CSV_NAME[row.finding] if spelling == "csv" else row.finding
    return f"labeled-images/{finding.tract}/{finding.category}/{folder}/{row.id}.jpg"


def make_parts(rows, spelling):
    """The members of all three parts."""
    labeled = [row for row in rows if row.finding]
    segmented = sorted((row for row in labeled if row.segmented), key=lambda row: row.id)
    shuffled = sorted(segmented, key=lambda row: number("json", row.id))
    return {
        "labeled": {
            LABELS_FILE: labels_csv(labeled),
            "labeled-images/license.txt": LICENSE,
            **dict(sorted((labeled_name(row, spelling), (picture, row.art)) for row in labeled)),
        },
        "segmented": {
            BOX_FILE: json.dumps({r.id: boxes(r.art) for r in shuffled}, indent=4).encode(),
            "segmented-images/license.txt": LICENSE,
            **{f"segmented-images/images/{row.id}.jpg": (picture, row.art) for row in segmented},
            **{f"segmented-images/masks/{row.id}.jpg": (mask, row.art) for row in segmented},
        },
        "unlabeled": {
            f"unlabeled-images/images/{row.id}.jpg": (picture, row.art)
            for row in sorted(rows, key=lambda row: row.id)
            if row.finding is None
        },
    }


def make_fold_csvs(rows):
    tables = {}
    for index, name in enumerate((TWO_FOLDS, FIVE_FOLDS)):
        lines = [f"{row.id}.jpg;{CSV_NAME[row.finding]};{row.folds[index]}\n" for row in rows if row.finding]
        tables[name] = "".join(["file-name;class-name;split-index\n", *lines]).encode()
    return tables


def expected_numbers(rows):
    """What the source holds, counted on the rows."""
    labeled = [row for row in rows if row.finding]
    layouts = [LAYOUTS[row.art.layout] for row in labeled if row.segmented]
    kvasir_seg = read_kvasir_seg()
    sets = [kvasir_seg[row.id].kvasir_seg_set for row in labeled if row.segmented]
    return {
        "findings": {finding.name: sum(row.finding == finding.name for row in labeled) for finding in TAXONOMY},
        "unlabeled": len(rows) - len(labeled),
        "segmented": len(layouts),
        "instances": sum(instances for instances, _ in layouts),
        "boxes": sum(boxes for _, boxes in layouts),
        "fold_2": [sum(row.folds[0] == fold for row in labeled) for fold in range(2)],
        "fold_5": [sum(row.folds[1] == fold for row in labeled) for fold in range(5)],
        "kvasir_seg_set": [sets.count(name) for name in KVASIR_SEG_SETS],
        "sources": {},
    }


def labeled_digest(rows):
    """The digest of the labeled rows, as `part_digest` of scripts/pipeline/verify.py defines it."""
    numbers = {finding.name: number for number, finding in enumerate(TAXONOMY)}
    lines = [f"{row.id} {numbers[row.finding]} {row.folds[0]} {row.folds[1]}\n" for row in rows if row.finding]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def content_digest(members):
    """The content digest of the segmented part, as `Part.fingerprint` defines it."""
    digest = hashlib.sha256()
    for folder in ("images/", "masks/"):
        prefix = "segmented-images/" + folder
        for name in sorted(name for name in members if name.startswith(prefix)):
            line = f"{name[len('segmented-images/') :]} {hashlib.sha256(content(members[name])).hexdigest()}\n"
            digest.update(line.encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- files


def content(member):
    """The bytes of a member."""
    return member if isinstance(member, bytes) else member[0](member[1])


def contents(members, workers):
    """(name, bytes) in order. Photos are made by a pool, never more than a few ahead of the writer."""
    if workers < 2 or not any(
        not isinstance(member, bytes) and member[1].images == "photo" for member in members.values()
    ):
        yield from ((name, content(member)) for name, member in members.items())
        return
    with ProcessPoolExecutor(workers) as pool:
        ahead = deque()
        for name, member in members.items():
            ahead.append((name, pool.submit(content, member)))
            if len(ahead) > 16 * workers:
                name, future = ahead.popleft()
                yield name, future.result()
        yield from ((name, future.result()) for name, future in ahead)


def zip_info(name, compression=zipfile.ZIP_DEFLATED):
    """A member's header with nothing in it that differs from run to run."""
    info = zipfile.ZipInfo(name, (2020, 12, 15, 12, 0, 0))
    info.compress_type, info.create_system, info.external_attr = compression, 3, 0o100644 << 16
    return info


def write_zip(path, members, workers):
    """Deflated, as the official ones; of more than 50,000 members stored, which takes half the time."""
    compression = zipfile.ZIP_STORED if len(members) > 50_000 else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents(members, workers):
            archive.writestr(zip_info(name, compression), data)


def write_folder(root, members, workers):
    for name, data in contents(members, workers):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def archive_name(part, form):
    return FULL_ZIP if form == "full-zip" else f"hyper-kvasir-{part}-images.zip"


def fingerprint(path):
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class Source:
    """A source on disk: its rows, the members and fold csvs made of them, and the means by which defects change it."""

    def __init__(self, root, rows, *, parts, form, spelling, workers):
        self.root, self.parts, self.form, self.spelling, self.workers = root, parts, form, spelling, workers
        self.set_rows(rows)

    def set_rows(self, rows):
        self.rows = in_fold_order(rows)
        made = make_parts(self.rows, self.spelling)
        self.members = {part: made[part] for part in self.parts}
        self.fold_csvs = make_fold_csvs(self.rows)

    def write(self):
        """Write everything, in place of what an earlier call wrote."""
        self.root.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            shutil.rmtree(self.root / f"{part}-images", ignore_errors=True)
        for name in (FULL_ZIP, TWO_FOLDS, FIVE_FOLDS, *(archive_name(part, "zip") for part in PARTS)):
            (self.root / name).unlink(missing_ok=True)
        write_folder(self.root, self.fold_csvs, 1)
        if self.form == "full-zip":
            write_zip(self.root / FULL_ZIP, dict(ChainMap(*reversed(self.members.values()))), self.workers)
            return
        for part, members in self.members.items():
            if self.form == "folder":
                write_folder(self.root, members, self.workers)
            else:
                write_zip(self.root / archive_name(part, "zip"), members, self.workers)

    def archive(self):
        """The archive that defects are done to."""
        return self.root / archive_name(self.parts[0], self.form)

    def part(self, part):
        if part not in self.members:
            raise ValueError(f"this defect needs the part {part!r}, but only {', '.join(self.parts)} are written")
        return self.members[part]

    def victim(self):
        """The row that defects are done to: in the first of the parts, and segmented only if that part is."""
        wanted = (self.parts[0] != "unlabeled", self.parts[0] == "segmented")
        return min(row for row in self.rows if (row.finding is not None, row.segmented) == wanted)

    def labeled_row(self):
        """The victim, or the first labeled image when that is unlabeled."""
        return min(row for row in self.rows if row.finding and row.segmented == (self.parts[0] == "segmented"))

    def segmented_row(self):
        return min(row for row in self.rows if row.segmented)

    def victim_name(self):
        """The name of the victim's image inside the archive."""
        row, part = self.victim(), self.parts[0]
        return labeled_name(row, self.spelling) if part == "labeled" else f"{part}-images/images/{row.id}.jpg"

    def mask_name(self, id=None):
        return f"segmented-images/masks/{id or self.segmented_row().id}.jpg"

    def image(self):
        """The bytes of the victim's image."""
        return content(self.members[self.parts[0]][self.victim_name()])

    def set_image(self, data):
        self.members[self.parts[0]][self.victim_name()] = data

    def edit_mask(self, change):
        """Put what `change` makes of a mask's picture in its place."""
        members, name = self.part("segmented"), self.mask_name()
        members[name] = encode(change(Image.open(io.BytesIO(content(members[name])))), 95)

    def edit_text(self, part, name, change):
        self.part(part)[name] = change(self.part(part)[name].decode()).encode()

    def edit_label(self, change):
        """Replace a line of image-labels.csv by what `change` makes of its row."""
        row = self.labeled_row()
        self.edit_text("labeled", LABELS_FILE, lambda text: text.replace(labels_line(row), change(row)))

    def edit_fold(self, change):
        """Replace class and fold of a line of 2_fold_split.csv by what `change` makes of its row and fold."""
        row = self.labeled_row()
        old = f"{row.id}.jpg;{CSV_NAME[row.finding]};{row.folds[0]}\n"
        name, fold = change(row, row.folds[0])
        text = self.fold_csvs[TWO_FOLDS].decode().replace(old, f"{row.id}.jpg;{name};{fold}\n")
        self.fold_csvs[TWO_FOLDS] = text.encode()

    def edit_boxes(self, change):
        """Let `change` work on bounding-boxes.json and the id of a segmented image."""
        table = json.loads(self.part("segmented")[BOX_FILE])
        change(table, self.segmented_row().id)
        self.members["segmented"][BOX_FILE] = json.dumps(table, indent=4).encode()


# ----------------------------------------------------------------------------------------------------------- defects
# Tables of name: (what is wrong, how it is done to a Source). Defects of rows give new rows, with which everything
# else agrees; those of members change files before, those of the archive the zip after it has been written.


def rename_segmented(source, id):
    """The rows, the first of the segmented ones under another id."""
    return [row._replace(id=id) if row == source.segmented_row() else row for row in source.rows]


def of_the_other_set(source):
    """An id of a Kvasir-SEG image that is not there, in another set than the first segmented image."""
    known, there = read_kvasir_seg(), {row.id for row in source.rows}
    wrong = known[source.segmented_row().id].kvasir_seg_set
    return next(id for id, row in known.items() if id not in there and row.kvasir_seg_set != wrong)


ROW_DEFECTS = {
    "not_in_kvasir_seg": (
        "One segmented image has an id that no image of Kvasir-SEG has.",
        lambda s: rename_segmented(s, new_id("not in kvasir-seg")),
    ),
    "other_kvasir_seg_set": (
        "One segmented image is another one of Kvasir-SEG, of its other set.",
        lambda s: rename_segmented(s, of_the_other_set(s)),
    ),
    "not_a_uuid": (
        "One image is called photo1.jpg, in every place where it is named.",
        lambda s: [row._replace(id="photo1") if row == s.victim() else row for row in s.rows],
    ),
    "segmented_id_not_polyp": (
        "One segmented image is labeled as something else than polyps, in folder, csv and folds.",
        lambda s: [
            row._replace(finding=other_finding(row, True)) if row == s.segmented_row() else row for row in s.rows
        ],
    ),
}


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 90, 70)).save(buffer, "PNG")
    return buffer.getvalue()


def change_content(source):
    members = source.part("segmented")
    name = min(name for name in members if "/images/" in name)
    members[name] = stamp(content(members[name]), "changed")


def unknown_folder(source):
    members, row = source.part("labeled"), source.labeled_row()
    name = PurePosixPath(labeled_name(row, source.spelling))
    members[str(name.parent.parent / "angiectasia" / name.name)] = members.pop(str(name))


def unlisted_image(source):
    row = source.labeled_row()
    name = labeled_name(row._replace(id=new_id("unlisted")), source.spelling)
    source.part("labeled")[name] = stamp(picture(row.art), "unlisted")


def image_twice(source):
    row = source.labeled_row()
    twin = row._replace(finding=other_finding(row, True))
    source.part("labeled")[labeled_name(twin, source.spelling)] = (picture, row.art)
    source.edit_text("labeled", LABELS_FILE, lambda text: f"{text}\r\n{labels_line(twin)}")


def clutter(source):
    for part, members in source.members.items():
        folder, _, file = next(name for name in members if name.endswith(".jpg")).rpartition("/")
        members[f"__MACOSX/{folder}/._{file}"] = b"\0\5\x16\7\0\2\0\0Mac OS X        "
        members[f"{part}-images/.DS_Store"] = members[f"{folder}/.DS_Store"] = b"\0\0\0\1Bud1"
        members[f"{folder}/Thumbs.db"] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def scan_start(jpeg):
    """Where the entropy-coded data of a JPEG begin."""
    header = jpeg.index(b"\xff\xda") + 2
    return header + int.from_bytes(jpeg[header : header + 2], "big")


def without_segments(jpeg, marker):
    """A JPEG without its segments of a marker."""
    place = jpeg.find(marker, 0, jpeg.index(b"\xff\xda"))
    if place < 0:
        return jpeg
    end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return without_segments(jpeg[:place] + jpeg[end:], marker)


def with_frame(jpeg, change):
    """A JPEG whose frame header (marker, length, precision, height, width, ...) is what `change` makes of it."""
    place = jpeg.index(b"\xff\xc0")
    return jpeg[:place] + change(jpeg[place : place + 9]) + jpeg[place + 9 :]


def with_orientation(jpeg, number):
    """A JPEG with an EXIF orientation."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = number
    Image.open(io.BytesIO(jpeg)).save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def spoil_scan(jpeg, data):
    """A JPEG with `data` in place of as much of its scan, from the middle on."""
    middle = (scan_start(jpeg) + len(jpeg)) // 2
    return jpeg[:middle] + data[: len(jpeg) - 2 - middle] + jpeg[middle + len(data) : -2] + b"\xff\xd9"


# What makes an image one that cannot be decoded, though it begins and ends like a JPEG: name: (what, how).
UNDECODABLE = {
    "jpeg_random_scan": (
        "random bytes in the scan, a marker among them",
        lambda jpeg: spoil_scan(jpeg, random.Random(1).randbytes(200) + b"\xff\x4f" + random.Random(2).randbytes(298)),
    ),
    "jpeg_zeroed_scan": ("zeros in the scan", lambda jpeg: spoil_scan(jpeg, bytes(500))),
    "jpeg_cut_with_end_marker": (
        "the end of the scan is missing, and an end marker is there",
        lambda jpeg: jpeg[: (scan_start(jpeg) + len(jpeg)) // 2] + b"\xff\xd9",
    ),
    "jpeg_empty_scan": ("nothing in the scan", lambda jpeg: jpeg[: scan_start(jpeg)] + b"\xff\xd9"),
    "jpeg_without_scan": ("no scan", lambda jpeg: jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"),
    "jpeg_fourfold_height": (
        "a header that claims four times the height",
        lambda jpeg: with_frame(jpeg, lambda f: f[:5] + (4 * int.from_bytes(f[5:7], "big")).to_bytes(2, "big") + f[7:]),
    ),
    "jpeg_half_height": (
        "a header that claims half the height",
        lambda jpeg: with_frame(
            jpeg, lambda f: f[:5] + (int.from_bytes(f[5:7], "big") // 2).to_bytes(2, "big") + f[7:]
        ),
    ),
    "jpeg_arithmetic": (
        "a header that claims arithmetic coding",
        lambda jpeg: with_frame(jpeg, lambda f: b"\xff\xc9" + f[2:]),
    ),
    "jpeg_lossless": (
        "a header that claims lossless coding",
        lambda jpeg: with_frame(jpeg, lambda f: b"\xff\xc3" + f[2:]),
    ),
    "jpeg_no_huffman_tables": ("no Huffman tables", lambda jpeg: without_segments(jpeg, b"\xff\xc4")),
    "jpeg_no_quantization_tables": ("no quantization tables", lambda jpeg: without_segments(jpeg, b"\xff\xdb")),
}


def undecodable(how):
    """A defect of one image: of another one each time that it is done to the unlabeled part."""

    def spoil(source):
        members, part = source.members[source.parts[0]], source.parts[0]
        if part != "unlabeled":
            return source.set_image(how(source.image()))
        name = next(name for name in sorted(members) if not isinstance(members[name], bytes))
        members[name] = how(content(members[name]))

    return spoil


def swap_boxes(source):
    """Swaps the boxes of two images that have room for each other's."""

    def has_room(entry, other):
        return all(b["xmax"] <= entry["width"] and b["ymax"] <= entry["height"] for b in other["bbox"])

    def swap(table, _):
        pairs = itertools.combinations([table[image_id] for image_id in sorted(table)], 2)
        one, other = next((a, b) for a, b in pairs if has_room(a, b) and has_room(b, a))
        one["bbox"], other["bbox"] = other["bbox"], one["bbox"]

    source.edit_boxes(swap)


def move_box(source):
    """Moves a box by a pixel, inside its image."""

    def move(table, image_id):
        box = table[image_id]["bbox"][0]
        step = -1 if box["xmin"] > 0 else 1
        box.update(xmin=box["xmin"] + step)

    source.edit_boxes(move)


def key_twice(source):
    def change(text):
        table = json.loads(text)
        image_id = min(table)
        return text.replace("{", "{" + json.dumps(image_id) + ": " + json.dumps(table[image_id]) + ",", 1)

    source.edit_text("segmented", BOX_FILE, change)


def rename_members(part, change):
    """A defect that gives the members of a part other names."""

    def renamed(source):
        source.members[part] = {change(name): data for name, data in source.part(part).items()}

    return renamed


def zip_in_zip(source):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in source.members[source.parts[0]].items():
            archive.writestr(zip_info(name), content(data))
    source.members[source.parts[0]] = {f"download/hyper-kvasir-{source.parts[0]}-images.zip": buffer.getvalue()}


MEMBER_DEFECTS = {
    **{
        name: (f"One image has {what}; its CRC is right.", undecodable(how))
        for name, (what, how) in UNDECODABLE.items()
    },
    "exif_orientation": (
        "One image has an EXIF orientation, by which datasets would turn it.",
        lambda s: s.set_image(with_orientation(s.image(), 6)),
    ),
    "mask_grey": ("One mask is grey.", lambda s: s.edit_mask(lambda image: image.point(lambda _: 150))),
    "mask_turned": (
        "One mask has an EXIF orientation.",
        lambda s: s.part("segmented").update(
            {s.mask_name(): with_orientation(content(s.part("segmented")[s.mask_name()]), 3)}
        ),
    ),
    "box_moved": ("One box is moved by a pixel.", move_box),
    "boxes_swapped": ("Two images have each other's boxes.", swap_boxes),
    "box_file_key_twice": ("bounding-boxes.json names one image twice.", key_twice),
    "box_file_latin1": (
        "bounding-boxes.json has one byte that is not UTF-8.",
        lambda s: s.part("segmented").update(
            {BOX_FILE: s.part("segmented")[BOX_FILE].replace(b"polyp", b"pol\xfdp", 1)}
        ),
    ),
    "box_not_a_number": (
        "One edge of a box is a text.",
        lambda s: s.edit_boxes(lambda table, id: table[id]["bbox"][0].update(xmin="12")),
    ),
    "box_without_label": (
        "One box has no label.",
        lambda s: s.edit_boxes(lambda table, id: table[id]["bbox"][0].pop("label")),
    ),
    "newline_in_name": (
        "One image has a newline in its name.",
        lambda s: s.members[s.parts[0]].update({s.victim_name().replace(".jpg", "\n.jpg"): s.image()}),
    ),
    "wrapped_twice": (
        "All members lie two folders deeper than they should.",
        lambda s: rename_members(s.parts[0], lambda name: f"a/b/{name}")(s),
    ),
    "folder_in_capitals": (
        "The folder of the part is spelled with capitals.",
        lambda s: rename_members(s.parts[0], lambda name: name[0].upper() + name[1:])(s),
    ),
    "archive_in_archive": ("The archive holds nothing but another archive.", zip_in_zip),
    "archive_missing": (
        "The first part is not there, neither archive nor folder.",
        lambda s: s.members.pop(s.parts[0]),
    ),
    "content_changed": (
        "One image of the segmented part has other bytes: a valid JPEG, with a right CRC.",
        change_content,
    ),
    "zero_byte_image": ("One image is empty.", lambda s: s.set_image(b"")),
    "not_a_jpeg": ("One image is a PNG under its old name.", lambda s: s.set_image(png())),
    "truncated_jpeg": (
        "One image ends early; its header is whole.",
        lambda s: s.set_image(s.image()[: (s.image().index(b"\xff\xda") + len(s.image())) // 2]),
    ),
    "unknown_finding_folder": ("One labeled image lies in a folder that is no finding.", unknown_folder),
    "listed_image_missing": (
        "One labeled image that image-labels.csv lists is not there.",
        lambda s: s.part("labeled").pop(labeled_name(s.labeled_row(), s.spelling)),
    ),
    "unlisted_image": ("One labeled image is there that image-labels.csv does not list.", unlisted_image),
    "csv_folder_disagree": (
        "image-labels.csv gives one image another finding than its folder does.",
        lambda s: s.edit_label(lambda row: labels_line(row._replace(finding=other_finding(row, False)))),
    ),
    "id_in_two_findings": ("One image lies in two finding folders, and image-labels.csv lists both.", image_twice),
    "fold_csv_missing": ("2_fold_split.csv is not there.", lambda s: s.fold_csvs.pop(TWO_FOLDS)),
    "fold_csv_unknown_class": (
        "2_fold_split.csv gives one image a class that does not exist.",
        lambda s: s.edit_fold(lambda row, fold: ("normal-colon", fold)),
    ),
    "fold_csv_lacks_ids": (
        "2_fold_split.csv ends three rows early.",
        lambda s: s.fold_csvs.update({TWO_FOLDS: b"".join(s.fold_csvs[TWO_FOLDS].splitlines(keepends=True)[:-3])}),
    ),
    "fold_csv_disagrees": (
        "2_fold_split.csv gives one image another class than its folder does.",
        lambda s: s.edit_fold(lambda row, fold: (CSV_NAME[other_finding(row, True)], fold)),
    ),
    "fold_bad_index": (
        "2_fold_split.csv puts one image in fold 7.",
        lambda s: s.edit_fold(lambda row, fold: (CSV_NAME[row.finding], 7)),
    ),
    "labels_csv_missing": ("image-labels.csv is not there.", lambda s: s.part("labeled").pop(LABELS_FILE)),
    "labels_csv_malformed": (
        "One row of image-labels.csv ends after its id.",
        lambda s: s.edit_label(lambda row: row.id),
    ),
    "mask_missing": ("One segmented image has no mask.", lambda s: s.part("segmented").pop(s.mask_name())),
    "mask_other_size": (
        "One mask is four pixels wider than its image.",
        lambda s: s.edit_mask(lambda image: image.resize((image.width + 4, image.height))),
    ),
    "mask_empty": ("One mask is all black.", lambda s: s.edit_mask(lambda image: image.point(lambda _: 0))),
    "mask_without_image": (
        "There is one mask more than there are images.",
        lambda s: s.part("segmented").update({s.mask_name(new_id("no image")): mask(s.segmented_row().art)}),
    ),
    "box_file_missing": ("bounding-boxes.json is not there.", lambda s: s.part("segmented").pop(BOX_FILE)),
    "box_file_malformed": (
        "bounding-boxes.json ends in the middle.",
        lambda s: s.edit_text("segmented", BOX_FILE, lambda text: text[: len(text) // 2]),
    ),
    "box_out_of_bounds": (
        "One box ends 50 pixels to the right of its image.",
        lambda s: s.edit_boxes(lambda table, id: table[id]["bbox"][0].update(xmax=table[id]["width"] + 50)),
    ),
    "box_missing_for_image": (
        "bounding-boxes.json lacks one segmented image.",
        lambda s: s.edit_boxes(lambda table, id: table.pop(id)),
    ),
    "system_clutter": ("No error: __MACOSX, .DS_Store and Thumbs.db are there, to be ignored.", clutter),
}


def set_comment(source):
    with zipfile.ZipFile(source.archive(), "a") as archive:
        archive.comment = b"zipped anew"


def flip_byte(source):
    data = bytearray(source.image())
    crc = zlib.crc32(data)
    data[len(data) // 2] ^= 1
    source.set_image(bytes(data))
    source.write()
    patch_member(source, CRC=crc)


def append_member(source, name):
    """Add the victim's image once more, under a name that zipfile would not object to."""
    with zipfile.ZipFile(source.archive(), "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Duplicate name": that is the purpose
        archive.writestr(zip_info(name), source.image())


def patch_member(source, **fields):
    """Overwrite fields in the victim's central directory entry; flags and CRC in its local header, too."""
    with zipfile.ZipFile(source.archive(), "a") as archive:
        info = archive.getinfo(source.victim_name())
        for field, value in fields.items():
            setattr(info, field, value)
        archive.comment = archive.comment  # makes zipfile write the central directory anew
    with open(source.archive(), "r+b") as file:
        for field, offset, layout in (("flag_bits", 6, "<H"), ("CRC", 14, "<I")):
            if field in fields:
                file.seek(info.header_offset + offset)
                file.write(struct.pack(layout, fields[field]))


HTML = (
    b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head><body>Try again later.</body></html>\n"
)
ARCHIVE_DEFECTS = {
    "archive_truncated": (
        "The archive ends after two thirds of its bytes, as after a broken download.",
        lambda s: os.truncate(s.archive(), s.archive().stat().st_size * 2 // 3),
    ),
    "not_a_zip": ("The archive is a text file.", lambda s: s.archive().write_bytes(b"This is no zip file.\n" * 1000)),
    "html_instead_of_zip": ("The archive is an HTML page, as servers send.", lambda s: s.archive().write_bytes(HTML)),
    "wrong_sha256": ("The archive has a zip comment, so another sha256 and size; its content is good.", set_comment),
    "bad_crc": ("The data of one image has a flipped byte, so that its CRC is wrong.", flip_byte),
    "name_with_dotdot": (
        "There is an extra member whose name leaves the folder by `..`.",
        lambda s: append_member(s, f"{s.parts[0]}-images/../../{new_id('dotdot')}.jpg"),
    ),
    "name_absolute": (
        "There is an extra member with an absolute name.",
        lambda s: append_member(s, f"/tmp/{new_id('absolute')}.jpg"),
    ),
    "name_duplicate": ("One image is there twice, under the same name.", lambda s: append_member(s, s.victim_name())),
    "name_symlink": (
        "One image is marked as a symbolic link.",
        lambda s: patch_member(s, external_attr=0o120777 << 16),
    ),
    "member_encrypted": ("One image is marked as encrypted, in both headers.", lambda s: patch_member(s, flag_bits=1)),
    "member_claims_huge_size": (
        "The central directory claims 50 GB for one small image.",
        lambda s: patch_member(s, file_size=50 * 10**9),
    ),
}
ZIP_ONLY_DEFECTS = set(ARCHIVE_DEFECTS) | {"wrapped_twice", "folder_in_capitals", "archive_in_archive"}
DEFECTS = {name: text for name, (text, _) in (ARCHIVE_DEFECTS | MEMBER_DEFECTS | ROW_DEFECTS).items()}


# ------------------------------------------------------------------------------------------------------------ source


def default_findings(seed, segmented):
    """3 to 8 images of each finding, and of polyps two more than are segmented."""
    counts = {finding.name: 3 + number(seed, "count", finding.name) % 6 for finding in TAXONOMY}
    return counts | {"polyps": max(counts["polyps"], segmented + 2)}


def write_source(
    root, *, seed=0, findings=None, unlabeled=None, segmented=None, parts=PARTS, form="zip", images="drawn",
    spelling="folder", relabel=0, remove=0, add=0, add_segmented=0, defects=(), true_ids=None, workers=2,
):  # fmt: skip
    """Write a source into the folder `root`, and return what it holds (also written: expected.json).

    findings       {finding: images}; None: 3 to 8 of each; "official": the true counts
    unlabeled      number of unlabeled images (12; with true_ids 99,417)
    segmented      number of polyps that are segmented, too (6; with true_ids all 1,000)
    parts          which of labeled, segmented, unlabeled to write; defects are done to the first of them
    form           "zip": an archive per part; "folder": the same extracted; "full-zip": one hyper-kvasir.zip
    images         "tiny": some hundred bytes; "drawn": about 160x120; "photo": about 1000x1000 and 370 KB
    spelling       "folder": official folder names; "csv": folders named as in the split csv
    relabel, remove, add, add_segmented
                   numbers of images changed against the source that the other arguments describe: moved to another
                   finding of their tract (every other one to another category), dropped, new, new and segmented
    defects        names out of DEFECTS
    true_ids       a folder as ../shared/source: the true labeled ids, findings, folds and segmented ids
    workers        processes that make photos; the bytes do not depend on it

    The numbers returned, and the digest of the segmented content, are those of the source without its defects, and of
    all parts, written or not. `sources` has the archives written, as they were before defects were done to the files,
    and bounding-boxes.json as it was before any defect.
    """
    if unknown := set(defects) - set(DEFECTS):
        raise ValueError(f"unknown defects: {', '.join(sorted(unknown))}; there are: {', '.join(DEFECTS)}")
    if form == "folder" and (wrong := ZIP_ONLY_DEFECTS & set(defects)):
        raise ValueError(f"only a zip can have these defects, not form='folder': {', '.join(sorted(wrong))}")
    if true_ids:
        labeled, segmented_ids = list(official(true_ids)), official_segmented(true_ids)[:segmented]
        unlabeled = 99_417 if unlabeled is None else unlabeled
    else:
        segmented = 6 if segmented is None else segmented
        if findings == "official":
            findings = {finding.name: finding.count for finding in TAXONOMY}
        labeled = list(invented(seed, findings or default_findings(seed, segmented)))
        polyps = sum(finding == "polyps" for _, finding, _ in labeled)
        segmented_ids = kvasir_seg_ids(seed)[: min(segmented, polyps)]
        if len(segmented_ids) < segmented:
            raise ValueError(f"{segmented} segmented images, but only {len(segmented_ids)} polyps")
        unlabeled = 12 if unlabeled is None else unlabeled
    rows = make_rows(seed, images, labeled, segmented_ids, unlabeled)
    changes = dict(relabel=relabel, remove=remove, add=add, add_segmented=add_segmented)
    rows = update(rows, seed=seed, images=images, **changes)
    source = Source(Path(root), rows, parts=tuple(parts), form=form, spelling=spelling, workers=workers)
    expected = expected_numbers(rows)
    expected["part_digests"] = {"labeled": labeled_digest(rows)}
    if "segmented" in parts:
        expected["segmented_content"] = content_digest(source.members["segmented"])
        box_file = source.members["segmented"][BOX_FILE]
    for name in filter(ROW_DEFECTS.get, defects):
        source.set_rows(ROW_DEFECTS[name][1](source))
    for name in filter(MEMBER_DEFECTS.get, defects):
        MEMBER_DEFECTS[name][1](source)
    source.write()
    if form != "folder":
        names = sorted({archive_name(part, form) for part in parts} & set(os.listdir(source.root)))
        expected["sources"] = {name: fingerprint(source.root / name) for name in names}
    if "segmented" in parts:
        sha256 = hashlib.sha256(box_file).hexdigest()
        expected["sources"]["bounding-boxes.json"] = {"bytes": len(box_file), "sha256": sha256}
    for name in filter(ARCHIVE_DEFECTS.get, defects):
        ARCHIVE_DEFECTS[name][1](source)
    (source.root / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    return expected


# ------------------------------------------------------------------------------------------------------ command line


def in_proportion(total):
    """A total shared out over the findings as in the official data."""
    whole = sum(finding.count for finding in TAXONOMY)
    return {finding.name: -(-finding.count * total // whole) for finding in TAXONOMY}


def photos_for(gigabytes, seed):
    """How many photos make that many gigabytes: by the mean of 200 in proportion, with 8 % to spare."""
    looks = random.Random(seed).choices(TAXONOMY, [finding.count for finding in TAXONOMY], k=200)
    sizes = [len(picture(Art(seed, new_id("sample", i), look.name, -1, "photo"))) for i, look in enumerate(looks)]
    return int(gigabytes * 1e9 / (sum(sizes) / len(sizes)) * 1.08) + 1


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.fake_source",
        description="Write a miniature of the official HyperKvasir archives, and expected.json with what it holds.",
        epilog="defects:\n" + "\n".join(f"  {name:26}{text}" for name, text in DEFECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed gives other ids and pictures")
    parser.add_argument("--images", choices=("drawn", "tiny", "photo"), help="default: drawn; with --gigabytes photo")
    parser.add_argument("--form", choices=("zip", "folder", "full-zip"), default="zip")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--per-finding", type=int, metavar="N", help="labeled images of each finding; default 3 to 8")
    how_many.add_argument("--official", metavar="DIR", help="the true ids, findings and folds out of this folder")
    how_many.add_argument(
        "--gigabytes", type=float, metavar="G", help="only a labeled part, of at least G GB of photos"
    )
    parser.add_argument("--unlabeled", type=int, metavar="N", help="default: 12, with --official 99417")
    parser.add_argument("--segmented", type=int, metavar="N", help="default: 6, with --official 1000")
    parser.add_argument("--relabel", type=int, default=0, metavar="N", help="move N images to another finding")
    parser.add_argument("--remove", type=int, default=0, metavar="N", help="leave N images out")
    parser.add_argument("--add", type=int, default=0, metavar="N", help="add N labeled images")
    parser.add_argument(
        "--defect", action="append", default=[], choices=DEFECTS, metavar="NAME", help="see below; may be repeated"
    )
    options = parser.parse_args(argv)

    if os.path.isdir(options.out) and os.listdir(options.out) and not Path(options.out, "expected.json").exists():
        parser.error(f"{options.out}: not empty, and not of this program, which replaces archives; give a new folder")
    start, findings, parts, images = time.monotonic(), None, PARTS, options.images or "drawn"
    if options.per_finding is not None:
        polyps = max(options.per_finding, 6 if options.segmented is None else options.segmented)
        findings = {finding.name: options.per_finding for finding in TAXONOMY} | {"polyps": polyps}
    if options.gigabytes:
        parts, images = ("labeled",), options.images or "photo"
        findings = in_proportion(photos_for(options.gigabytes, options.seed))
    expected = write_source(
        options.out, seed=options.seed, findings=findings, unlabeled=options.unlabeled, segmented=options.segmented,
        parts=parts, form=options.form, images=images, relabel=options.relabel, remove=options.remove,
        add=options.add, defects=options.defect, true_ids=options.official,
    )  # fmt: skip
    spoiled = f", with {', '.join(options.defect)}" if options.defect else ""
    written = (
        f"{sum(s['bytes'] for name, s in expected['sources'].items() if name.endswith('.zip')):,} bytes"
        if any(name.endswith(".zip") for name in expected["sources"])
        else "folders"
    )
    print(f"{options.out}: {' + '.join(parts)} as {written}{spoiled}, in {time.monotonic() - start:.1f} s")
    print(
        f"labeled {sum(expected['findings'].values()):,} · segmented {expected['segmented']:,} with "
        f"{expected['instances']:,} polyps in {expected['boxes']:,} boxes · unlabeled {expected['unlabeled']:,}"
    )


if __name__ == "__main__":
    main()
