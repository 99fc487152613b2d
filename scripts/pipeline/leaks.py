"""What the pairs in `metadata` say about splits: which leak, how the copies of a frame are annotated, and the rest.

A pair *leaks* in a split if its images are on different sides of it. All numbers are counted from rows of `metadata`.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from math import hypot, isfinite
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hyper_kvasir import TAXONOMY, read_kvasir_seg
from scripts.pipeline.configs import KINDS
from scripts.pipeline.console import table
from scripts.pipeline.quality.folds import without_leaks

FILE = "leakage.csv"
METADATA_FILE = "data/metadata/00.parquet"  # the rows that are counted
SPLITS = {  # columns of `metadata`, in words
    "fold_2": "official, 2 folds",
    "fold_5": "official, 5 folds",
    "kvasir_seg_set": "Kvasir-SEG",
    "fold_2_grouped": "2 folds, grouped",
    "fold_5_grouped": "5 folds, grouped",
    "kvasir_seg_clean": "Kvasir-SEG, clean",
}
OFFICIAL_SPLITS = tuple(SPLITS)[:3]  # the others are the same, without leaks
FOLDS = {"fold_2": 2, "fold_5": 5}  # how many folds the official splits have
GROUPS = dict(zip(KINDS, ("same_frame_group", "scene_group")))  # a scene holds the pairs of both kinds
PLACES = ("segmented", "labeled", "unlabeled")  # of an image: the first of them that is among its parts
KVASIR_SEG_COLUMNS = ("kvasir_seg_id", "kvasir_seg_set", "kvasir_seg_clean")
COLUMNS = ["image_id", "parts", "label", *SPLITS, "kvasir_seg_id", *GROUPS.values()]
COLUMNS += ["width", "height", "jfif", "quality", "subsampling"]
FEW = 20  # images of a finding, and of all others: of fewer, an AUC says nothing
EVIDENCE = ("matches", "inliers", "log10_chance", "correlation", "scale", "transform", "mask_iou")


def read_rows(source) -> list[dict]:
    """The rows of `metadata` out of a Parquet file, by path or open: what this module counts."""
    return rows_of(pq.read_table(source, columns=[*COLUMNS, "pairs"], partitioning=None))


def rows_of(table: pa.Table) -> list[dict]:
    """The same out of a table that has these columns."""
    rows, pairs = table.select(COLUMNS).to_pylist(), table["pairs"].combine_chunks()
    none = {field.name: [] for field in pairs.type}
    has = pc.greater(pc.list_value_length(pc.struct_field(pairs, "image_id")), 0).to_pylist()
    for i, row in enumerate(rows):  # most have none, and a dict of lists for each would take more than all else
        row["pairs"] = pairs[i].as_py() if has[i] else none
    return rows


def all_pairs(rows: Iterable[dict]) -> list[dict]:
    """The pairs of the rows of `metadata`: {"one", "other": rows, "kind": of KINDS, and EVIDENCE}, sorted."""
    by_id = {row["image_id"]: row for row in rows}
    found = []
    for row in by_id.values():
        pairs = row["pairs"]
        for i, image_id in enumerate(pairs["image_id"]):
            evidence = {name: pairs[name][i] for name in EVIDENCE}
            found.append({"one": row, "other": by_id[image_id], "kind": KINDS[pairs["kind"][i]], **evidence})
    return sorted(found, key=lambda pair: (pair["one"]["image_id"], pair["other"]["image_id"]))


def kvasir_seg_columns(rows: Iterable[dict]) -> dict[str, dict]:
    """{image id: values of KVASIR_SEG_COLUMNS}, from "image_id", "parts" and "scene_group" of rows of `metadata`."""
    there = {row["image_id"]: row for row in rows if "segmented" in row["parts"]}
    known = {image_id: row._asdict() for image_id, row in read_kvasir_seg().items() if image_id in there}
    scenes = {image_id: there[image_id]["scene_group"] for image_id in known}
    clean = without_leaks(scenes, {image_id: row["kvasir_seg_set"] for image_id, row in known.items()})
    return {image_id: {**row, "kvasir_seg_clean": clean.get(image_id)} for image_id, row in known.items()}


def groups(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The group of each image that is in a pair: images that a chain of pairs joins, named by the smallest id there."""
    of: dict[str, str] = {}

    def first(image_id):
        while of.setdefault(image_id, image_id) != image_id:
            of[image_id] = image_id = of[of[image_id]]
        return image_id

    for one, other in pairs:
        one, other = sorted((first(one), first(other)))
        of[other] = one
    return {image_id: first(image_id) for image_id in of}


def problems_of(rows: Sequence[dict]) -> list[str]:
    """What is wrong with the rows of `metadata`, seen alone: parts, pairs, groups, folds, Kvasir-SEG's sets."""
    by_id = {row["image_id"]: row for row in rows}
    wrong = [text for row in rows for text in _wrong_row(row, by_id)]
    return wrong or [*_wrong_groups(rows), *_wrong_splits(rows), *_wrong_sets(rows)]


def _wrong_row(row, by_id):
    image_id, parts, pairs = row["image_id"], row["parts"] or [], row["pairs"] or {}
    if not parts or sorted(set(parts)) != sorted(parts) or not set(parts) <= set(PLACES):
        yield f"{image_id}: parts {row['parts']}, expected some of {', '.join(PLACES)}"
    others = pairs.get("image_id") or []
    if any(len(values or ()) != len(others) for values in pairs.values()) or len(set(others)) != len(others):
        yield f"{image_id}: pairs of differing lengths, or twice the same"
        return
    for i, other in enumerate(others):
        if other not in by_id or not other > image_id:
            yield f"{image_id}: a pair with {other}, expected a greater id that has a row"
        evidence = {name: pairs[name][i] for name in EVIDENCE}
        if pairs["kind"][i] not in range(len(KINDS)) or not _possible(**evidence):
            yield f"{image_id}: a pair with {other} of no kind, or whose evidence is impossible: {evidence}"


def _possible(*, matches, inliers, log10_chance, correlation, scale, transform, mask_iou):
    """Whether the evidence for a pair can be true."""
    values = [matches, inliers, log10_chance, correlation, scale, *(transform or [None])]
    if None in values or not all(map(isfinite, values)):
        return False
    if abs(hypot(transform[0], transform[3]) - scale) > 0.01 or log10_chance >= 0:
        return False
    return 0 <= inliers <= matches and abs(correlation) <= 1 < 1 + scale and 0 <= (mask_iou or 0) <= 1


def _wrong_groups(rows):
    pairs = all_pairs(rows)
    for kind, column in GROUPS.items():
        found = groups((p["one"]["image_id"], p["other"]["image_id"]) for p in pairs if p["kind"] in (KINDS[0], kind))
        differ = [row["image_id"] for row in rows if row[column] != found.get(row["image_id"])]
        yield from (f"{image_id}: its {column} is not the one that the pairs make" for image_id in differ)


def _wrong_splits(rows):
    for official, number in FOLDS.items():
        made = f"{official}_grouped"
        sides: dict[str, set] = {}
        for row in rows:
            fold = row[made]
            if (fold is None) != (row[official] is None) or fold not in (None, *range(number)):
                yield f"{row['image_id']}: {made} is {fold}, {official} is {row[official]}"
            if row["scene_group"] and fold is not None:
                sides.setdefault(row["scene_group"], set()).add(fold)
        yield from (
            f"the scene {group} is in several folds of {made}" for group, some in sides.items() if len(some) > 1
        )


def _wrong_sets(rows):
    wanted = kvasir_seg_columns(rows)
    for row in rows:
        for name in KVASIR_SEG_COLUMNS:
            expected = wanted.get(row["image_id"], {}).get(name)
            if row[name] != expected:
                yield f"{row['image_id']}: {name} is {row[name]}, expected {expected}"


def place_of(row: dict) -> str:
    """Where a row of `metadata` belongs: of PLACES."""
    return next(place for place in PLACES if place in row["parts"])


def is_across(pair: dict, split: str) -> bool:
    """Whether a pair leaks in a split: both its images are in it, on different sides."""
    sides = pair["one"][split], pair["other"][split]
    return None not in sides and sides[0] != sides[1]


def count(rows: Sequence[dict]) -> dict:
    """The summary of `metadata`, in JSON's types: {
    "groups": {kind: [groups, images, images of the largest]},     of images of one frame, and of one scene
    "leaks": [[split, kind, pairs, pairs across]],
    "sides": [[split, side, images]],
    "between": [[place, place, kind, pairs]],                      of PLACES
    "findings": [[label, label, kind, pairs]],
    "moved": [[split, images in another fold than the official one]],
    "absent": {split: [label]},                                    of findings that are not in every grouped fold
    "mask_ious": [IoU],                                            of two copies of a frame, sorted
    "encoders": [[label, JFIF marker, quality, subsampling, images]]}

    A pair of kind same_scene is of different frames.
    """
    pairs = all_pairs(rows)
    sizes = {kind: Counter(row[column] for row in rows if row[column]) for kind, column in GROUPS.items()}
    return {
        "groups": {
            kind: [len(found), sum(found.values()), max(found.values(), default=0)] for kind, found in sizes.items()
        },
        "leaks": [_leak(split, kind, pairs) for split in SPLITS for kind in KINDS],
        "sides": _counted((split, row[split]) for split in SPLITS for row in rows if row[split] is not None),
        "between": _counted((*sorted(map(place_of, _ends(pair)), key=PLACES.index), pair["kind"]) for pair in pairs),
        "findings": _counted(
            (*sorted(row["label"] for row in _ends(pair)), pair["kind"])
            for pair in pairs
            if all(row["label"] is not None for row in _ends(pair))
        ),
        "moved": [[f"{split}_grouped", sum(row[split] != row[f"{split}_grouped"] for row in rows)] for split in FOLDS],
        "absent": {f"{split}_grouped": _absent(rows, f"{split}_grouped", number) for split, number in FOLDS.items()},
        "mask_ious": sorted(pair["mask_iou"] for pair in pairs if pair["mask_iou"] is not None),
        "encoders": _counted(
            (row["label"], row["jfif"], row["quality"], row["subsampling"]) for row in rows if row["label"] is not None
        ),
    }


def _ends(pair):
    return pair["one"], pair["other"]


def _leak(split, kind, pairs):
    some = [pair for pair in pairs if pair["kind"] == kind and all(row[split] is not None for row in _ends(pair))]
    return [split, kind, len(some), sum(is_across(pair, split) for pair in some)]


def _absent(rows, split, number):
    folds = Counter(label for _, label in {(row[split], row["label"]) for row in rows if row[split] is not None})
    return sorted(label for label, found in folds.items() if found < number)


def _counted(values):
    counts = Counter(values)
    return [[*value, counts[value]] for value in sorted(counts, key=str)]


def absent_findings(counted: dict) -> dict[str, list[str]]:
    """{grouped split: findings that are not in every fold of it} of what `count` gives."""
    return {split: [TAXONOMY[label].name for label in labels] for split, labels in counted["absent"].items() if labels}


def csv_text(pairs: Sequence[dict]) -> str:
    """leakage.csv: a line for each pair, with where its images are, the splits that it leaks in, and the evidence."""
    about = ("place", "finding", *OFFICIAL_SPLITS)
    header = ["image_id", "other_image_id", "kind", "leaks_in", *about, *(f"other_{name}" for name in about), *EVIDENCE]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    for pair in pairs:
        leaks = " ".join(split for split in OFFICIAL_SPLITS if is_across(pair, split))
        evidence = [" ".join(f"{v:g}" for v in pair[n]) if n == "transform" else _short(pair[n]) for n in EVIDENCE]
        ids = [row["image_id"] for row in _ends(pair)]
        lines.writerow([*ids, pair["kind"], leaks, *_about(pair["one"]), *_about(pair["other"]), *evidence])
    return text.getvalue()


def _about(row):
    finding = "" if row["label"] is None else TAXONOMY[row["label"]].name
    return [place_of(row), finding, *("" if row[split] is None else row[split] for split in OFFICIAL_SPLITS)]


def _short(value):
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def told_by_header(encoders: Sequence[Sequence]) -> list[dict]:
    """How well each finding is told from all others by JPEG marker, quality and subsampling alone.

    {"finding", "images", "auc", "signature": (JFIF marker, quality, subsampling) that most of its images have,
    "share": of its images that have it, "of_others": of all other images that have it}. AUC: of ranking all images by
    the share of the finding among those of their signature; 0.5 by chance, and None for fewer than FEW images, or
    others, which such a rule always tells. Nothing of fewer than two findings.
    """
    labels, told = sorted({label for label, *_ in encoders}), []
    for label in labels if len(labels) > 1 else ():
        mine, theirs = signatures(encoders, label)
        most = max(sorted(mine), key=mine.get)
        few = min(mine.total(), theirs.total()) < FEW
        told.append(
            {
                "finding": TAXONOMY[label].name,
                "images": mine.total(),
                "auc": None if few else auc_of_header(encoders, label),
                "signature": most,
                "share": mine[most] / mine.total(),
                "of_others": theirs[most] / theirs.total(),
            }
        )
    return told


def auc_of_header(encoders: Sequence[Sequence], label: int) -> float:
    """The "auc" of a finding of `told_by_header`, however few images it has."""
    mine, theirs = signatures(encoders, label)
    telling = {signature: mine[signature] / (mine[signature] + theirs[signature]) for signature in {*mine, *theirs}}
    own, others = Counter(), Counter()
    for signature, share in telling.items():
        own[share] += mine[signature]
        others[share] += theirs[signature]
    return auc(own, others)


def signatures(encoders: Sequence[Sequence], label: int) -> tuple[Counter, Counter]:
    """{(JFIF marker, quality, subsampling): images} of a finding, and of all others."""
    mine, theirs = Counter(), Counter()
    for other, *signature, number in encoders:
        (mine if other == label else theirs)[tuple(signature)] += number
    return mine, theirs


def auc(own: Counter, others: Counter) -> float:
    """The share of pairs of one of `own` and one of `others`, both {value: how many}, of which the first is greater.

    Equal ones count half.
    """
    below, wins = 0, 0.0
    for value in sorted({*own, *others}):
        wins += own[value] * (below + others[value] / 2)
        below += others[value]
    return wins / (own.total() * others.total())


def report(rows: Sequence[dict]) -> str:
    """What `count` says, as plain text."""
    found = count(rows)
    of_kind = Counter({kind: 0 for kind in KINDS})
    for *_, kind, pairs in found["between"]:
        of_kind[kind] += pairs
    (frames, frame_images, _), (scenes, scene_images, most) = (found["groups"][kind] for kind in KINDS)
    texts = [
        f"same frame: {of_kind[KINDS[0]]:,} pairs; {frames:,} groups, {frame_images:,} images\n"
        f"same scene: {of_kind[KINDS[1]]:,} more pairs; {scenes:,} groups, {scene_images:,} images in all, same frames "
        f"included; at most {most:,} in a group"
    ]
    sides: dict[str, list] = {}
    for split, side, images in found["sides"]:
        sides.setdefault(split, []).append(f"{side} {images:,}")
    leaking = [
        (split, kind.replace("_", " "), pairs, across)
        for split, kind, pairs, across in found["leaks"]
        if split in sides
    ]
    texts += [table(("split", "kind", "pairs in it", "leaking"), leaking)] if leaking else []
    between = [
        (f"within {one}" if one == other else f"between {one} and {other}", kind.replace("_", " "), pairs)
        for one, other, kind, pairs in found["between"]
    ]
    texts += [table(("pairs", "kind", "number"), between)] if between else []
    texts += [
        "\n".join(
            f"{split}: {moved:,} images in another fold than the official one"
            for split, moved in found["moved"]
            if split in sides
        )
    ]
    for split, findings in absent_findings(found).items():
        texts.append(f"{split}: not in every fold, as they have few images, or few scenes: {', '.join(findings)}")
    if "kvasir_seg_clean" in sides:
        texts.append(
            f"kvasir_seg_set: {', '.join(sides['kvasir_seg_set'])}; clean: {', '.join(sides['kvasir_seg_clean'])}"
        )
    if ious := found["mask_ious"]:
        spread = f"median {median(ious):.2f}, {ious[0]:.2f} to {ious[-1]:.2f}"
        texts.append(f"IoU of the masks of two images of one frame: {spread}, of {len(ious):,} pairs")
    told = [
        (entry["finding"], entry["images"], "" if entry["auc"] is None else f"{entry['auc']:.2f}")
        for entry in told_by_header(found["encoders"])
    ]
    texts += [table(("finding, from the JPEG header alone", "images", "AUC"), told)] if told else []
    return "\n\n".join(filter(None, texts))
