"""What each format makes of a row, and of all rows at the end. Image bytes stay those of the dataset wherever a format
takes JPEG files.

Masks and boxes do not always agree in the source: a box is that of the source, and an instance that of the mask, with
the box around it. Formats that have room for one kind say which they take.
"""

import importlib.util
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jinja2
import numpy as np
import yaml
from datasets import ClassLabel
from PIL import Image

from hyper_kvasir import PARTS
from scripts.pipeline.configs import features_of
from scripts.pipeline.export.choose import CONFIGS, PICTURES

CLASSES = features_of("segmented")["objects"]["category"].feature.names  # of what is segmented and in boxes
LICENSE = {"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}
DOI = "https://doi.org/10.1038/s41597-020-00622-y"
SOURCE = f"HyperKvasir, {DOI}"
MASKS = ("segmented",)  # the part that has masks and boxes

Files = Iterable[tuple[str, bytes]]  # (path in the export, content)
Notes = dict[str, list]  # what is kept of each row for the end, by split


class Export(NamedTuple):
    """What an export is of. `images`: their number by split."""

    format: str
    config: str
    part: str
    of: str  # the name of the version
    digest: str  # of what tells it from other exports
    name: str  # of its folder
    images: dict[str, int]


class Format(NamedTuple):
    """A layout of files that another tool reads.

    `files` gives those of a row in a split, or `pack` those of all rows of a data file, the n-th of its split. `note`
    is what `index` needs to know of a row, as JSON; `index` gives the files that are about all rows.
    """

    parts: tuple[str, ...]
    files: Callable[[str, dict], Files] | None
    index: Callable[[Export, Notes], Files] = lambda about, notes: ()
    note: Callable[[dict], Any] = lambda row: row["image_id"]
    pack: Callable[[str, int, list[dict]], Files] | None = None
    room: float = 1  # bytes that it takes for one of the dataset
    folder: str = ".*"  # what the name of its folder must match
    needs: str | None = None  # a package of scripts/export-requirements.txt


def check(name: str, config: str, to: str) -> None:
    """Raises ValueError for a config that a format has no place for, a folder of a name that it does not know, or a
    package that is not installed.
    """
    part, form = CONFIGS[config], FORMATS[name]
    if part not in form.parts:
        some = ", ".join(other for other, of in CONFIGS.items() if of in form.parts)
        others = ", ".join(other for other, form in FORMATS.items() if part in form.parts)
        lacks = "no masks and boxes" if form.parts == MASKS else "neither masks nor labels"
        raise ValueError(f"{name} is not for {config}, which has {lacks}; give {some}; or {others} for it")
    if form.needs and not importlib.util.find_spec(form.needs):
        raise ValueError(f"{name} needs {form.needs}: pip install -r scripts/export-requirements.txt")
    if not re.fullmatch(form.folder, folder_name(to)):
        raise ValueError(f"{to}: {name} knows a dataset by the name of its folder; expected e.g. Dataset501_KvasirSEG")


def folder_name(to: str) -> str:
    """The name of the folder that an export is written to."""
    return os.path.basename(os.path.abspath(to))


# ------------------------------------------------------------------------------------------------- what a row holds


def jpeg(row: dict) -> bytes:
    """The image file of a row."""
    return row["image"]["bytes"]


def boxes_of(row: dict) -> list[list[float]]:
    """The boxes of the source: [x, y, width, height] in pixels."""
    return [list(map(float, box)) for box in row["objects"]["bbox"]]


def masks_of(row: dict) -> list[np.ndarray]:
    """The instances of a row, each as a mask: bool, height x width."""
    with Image.open(io.BytesIO(row["instances"]["bytes"])) as image:
        numbers = np.asarray(image)
    return [numbers == number for number in np.unique(numbers[numbers > 0])]


def classes_png(row: dict, palette: bool = False) -> bytes:
    """The mask of a row as a PNG of class numbers: 0 background, 1 polyp. With a palette, viewers show it."""
    with Image.open(io.BytesIO(row["mask"]["bytes"])) as image:
        numbers = Image.fromarray((np.asarray(image) > 0).astype(np.uint8))
    if palette:
        numbers.putpalette([0, 0, 0, 128, 0, 0])  # as Pascal VOC colors its first class
    return _encoded(numbers)


def plain(row: dict) -> dict:
    """A row without its pictures, with the names of its classes."""
    part = "segmented" if "objects" in row else "labeled" if "label" in row else "unlabeled"
    features = features_of(part)
    values = {name: value for name, value in row.items() if name not in PICTURES}
    for name, value in values.items():
        if isinstance(features.get(name), ClassLabel) and value is not None:
            values[name] = features[name].int2str(value)
    if "objects" in values:
        values["objects"] = values["objects"] | {"category": [CLASSES[i] for i in values["objects"]["category"]]}
    return values


def _encoded(image, **how):
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    return file.getvalue()


def _json(value) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


# -------------------------------------------------------------------------------------------------- COCO, FiftyOne


def _coco_note(row):
    """The image, its boxes, and of each instance (box, area, RLE)."""
    from pycocotools import mask as coco

    codes = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks_of(row)]
    instances = [(coco.toBbox(code).tolist(), int(coco.area(code)), code["counts"].decode()) for code in codes]
    return {name: row[name] for name in ("image_id", "width", "height")} | {
        "boxes": boxes_of(row),
        "instances": instances,
    }


def _coco(about, split, notes, kind):
    """A COCO file of a split, with the "boxes" of the source, or with the "instances" of the masks."""
    notes = sorted(notes, key=lambda note: note["image_id"])
    images, annotations = [], []
    for i, note in enumerate(notes, 1):
        size = {"width": note["width"], "height": note["height"]}
        images.append({"id": i, "file_name": f"{note['image_id']}.jpg", **size, "license": LICENSE["id"]})
        for thing in note[kind]:
            if kind == "boxes":
                found = {"bbox": thing, "area": thing[2] * thing[3]}
            else:
                rle = {"size": [note["height"], note["width"]], "counts": thing[2]}
                found = {"bbox": thing[0], "area": thing[1], "segmentation": rle}
            number = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            annotations.append(number | found)
    categories = [{"id": 1, "name": CLASSES[0], "supercategory": CLASSES[0]}]
    info = {"description": f"{kind} of {about.config}, {split}, of {about.of}", "url": DOI}
    whole = {
        "info": info,
        "licenses": [LICENSE],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    return json.dumps(whole).encode()


def _coco_files(split, row):
    yield f"{split}/{row['image_id']}.jpg", jpeg(row)


def _coco_index(about, notes):
    for split, some in notes.items():
        for kind in ("instances", "boxes"):
            yield f"annotations/{kind}_{split}.json", _coco(about, split, some, kind)


def _fiftyone_files(split, row):
    yield f"{split}/data/{row['image_id']}.jpg", jpeg(row)


def _fiftyone_index(about, notes):
    for split, some in notes.items():
        yield f"{split}/labels.json", _coco(about, split, some, "instances")
        yield f"{split}/boxes.json", _coco(about, split, some, "boxes")


# -------------------------------------------------------------------------------------------------- YOLO, Pascal VOC


def _yolo_files(split, row):
    from supervision.dataset.formats.yolo import object_to_yolo

    shape = row["height"], row["width"]
    boxes = [np.array([x, y, x + w, y + h]) for x, y, w, h in boxes_of(row)]
    yield f"images/{split}/{row['image_id']}.jpg", jpeg(row)
    yield f"labels/{split}/{row['image_id']}.txt", _lines(object_to_yolo(box, 0, shape) for box in boxes)


def _yolo_seg_files(split, row):
    from supervision.dataset.formats.yolo import object_to_yolo

    shape = row["height"], row["width"]
    polygons = [polygon for mask in masks_of(row) for polygon in _polygons(mask)]
    yield f"images/{split}/{row['image_id']}.jpg", jpeg(row)
    yield (
        f"labels/{split}/{row['image_id']}.txt",
        _lines(object_to_yolo(None, 0, shape, polygon=polygon) for polygon in polygons),
    )


def _polygons(mask):
    """An instance as polygons through the middle of its outermost pixels; holes are joined to the outside by a seam."""
    from supervision.dataset.utils import approximate_mask_with_polygons

    found = approximate_mask_with_polygons(mask, bridge_holes=True)
    if found:
        return found
    y, x = np.nonzero(mask)  # a straight line of pixels, or a single one: there and back
    return [np.array([[x[0], y[0]], [x[-1], y[-1]], [x[-1], y[-1]]])]


def _yolo_index(about, notes):
    """Without "path", it is that of the file itself."""
    keys = {split: {"validation": "val"}.get(split, split) for split in notes}
    data = {keys[split]: f"images/{split}" for split in notes}
    yield "data.yaml", yaml.safe_dump(data | {"nc": len(CLASSES), "names": CLASSES}, sort_keys=False).encode()


def _voc_files(split, row):
    from supervision.dataset.formats.pascal_voc import object_to_pascal_voc

    name = row["image_id"]
    root = ElementTree.Element("annotation")
    for tag, text in (("folder", "JPEGImages"), ("filename", f"{name}.jpg")):
        ElementTree.SubElement(root, tag).text = text
    ElementTree.SubElement(ElementTree.SubElement(root, "source"), "database").text = SOURCE
    size = ElementTree.SubElement(root, "size")
    for tag, number in (("width", row["width"]), ("height", row["height"]), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(number)
    ElementTree.SubElement(root, "segmented").text = "1"
    for x, y, width, height in boxes_of(row):
        left, right = _whole(x, x + width, row["width"])
        top, bottom = _whole(y, y + height, row["height"])
        root.append(object_to_pascal_voc(np.array([left, top, right, bottom]), CLASSES[0]))
    ElementTree.indent(root)
    yield f"JPEGImages/{name}.jpg", jpeg(row)
    yield f"Annotations/{name}.xml", ElementTree.tostring(root, encoding="utf-8") + b"\n"
    yield f"SegmentationClass/{name}.png", classes_png(row, palette=True)
    yield f"SegmentationObject/{name}.png", row["instances"]["bytes"]


def _whole(start, end, side):
    """The nearest whole pixels: at least one, inside the image. In the small edition, boxes are of fractions."""
    start = min(round(start), side - 1)
    return start, min(max(round(end), start + 1), side)


def _voc_index(about, notes):
    for split, ids in notes.items():
        for kind in ("Main", "Segmentation"):
            yield f"ImageSets/{kind}/{'val' if split == 'validation' else split}.txt", _lines(sorted(ids))


# --------------------------------------------------------------------------------- PNG masks, nnU-Net, MONAI


def _png_files(split, row):
    name = row["image_id"]
    yield f"{split}/images/{name}.jpg", jpeg(row)
    yield f"{split}/masks/{name}.png", row["mask"]["bytes"]
    yield f"{split}/instances/{name}.png", row["instances"]["bytes"]


def _nnunet_files(split, row):
    with Image.open(io.BytesIO(jpeg(row))) as image:  # nnU-Net takes no JPEG
        yield f"imagesTr/{row['image_id']}_0000.png", _encoded(image.convert("RGB"), compress_level=1)
    yield f"labelsTr/{row['image_id']}.png", classes_png(row)


def _nnunet_index(about, notes):
    """One fold, of training and validation; of a single split, nnU-Net makes folds of its own."""
    dataset = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, **{name: i for i, name in enumerate(CLASSES, 1)}},
        "numTraining": sum(about.images.values()),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "name": about.config,
        "reference": SOURCE,
        "licence": LICENSE["name"],
    }
    yield "dataset.json", _json(dataset)
    sets = {split: sorted(ids) for split, ids in notes.items()}
    if len(sets) > 1:  # those of Kvasir-SEG
        yield "splits_final.json", _json([{"train": sets["train"], "val": sets["validation"]}])


def _monai_files(split, row):
    yield f"images/{row['image_id']}.jpg", jpeg(row)
    if "mask" in row:
        yield f"labels/{row['image_id']}.png", classes_png(row)


def _monai_note(row):
    label = f"labels/{row['image_id']}.png" if "mask" in row else row["label"]
    return {"image": f"images/{row['image_id']}.jpg", "label": label}


def _monai_index(about, notes):
    """As of the Medical Segmentation Decathlon. Folds are told by "fold", as in MONAI's Auto3DSeg."""
    masks = about.part in MASKS
    names = ["background", *CLASSES] if masks else features_of(about.part)["label"].names
    lists: dict[str, list] = {}
    for split, some in notes.items():
        fold = {"fold": int(split.removeprefix("fold_"))} if split.startswith("fold_") else {}
        key = "training" if split == "train" or fold else split
        lists.setdefault(key, []).extend(entry | fold for entry in sorted(some, key=lambda entry: entry["image"]))
    dataset = {
        "name": about.config,
        "description": f"{about.config} of {about.of}",
        "reference": SOURCE,
        "licence": LICENSE["name"],
        "modality": {"0": "RGB"},
        "labels": {str(i): name for i, name in enumerate(names)},
        "numTraining": len(lists.get("training", ())),
    }
    yield "datalist.json", _json(dataset | lists)


# --------------------------------------------------------------------------------------- imagefolder, WebDataset


_PNGS = {"mask": "masks", "instances": "instances"}  # column: folder


def _imagefolder_files(split, row):
    name = row["image_id"]
    finding = f"{plain(row)['label']}/" if "tract" in row else ""
    yield f"{split}/{finding}{name}.jpg", jpeg(row)
    for column, folder in _PNGS.items() if "mask" in row else ():
        yield f"{split}/{folder}/{name}.png", row[column]["bytes"]


def _imagefolder_note(row):
    return plain(row) if "mask" in row else row["image_id"]


def _imagefolder_index(about, notes):
    for split, some in notes.items() if about.part in MASKS else ():
        files = (
            {
                **{"file_name": f"{row['image_id']}.jpg"},
                **{f"{kind}_file_name": f"{folder}/{row['image_id']}.png" for kind, folder in _PNGS.items()},
                **row,
            }
            for row in some
        )
        yield f"{split}/metadata.jsonl", _lines(map(json.dumps, files))


def _webdataset_pack(split, number, rows):
    """A tar, in which all times and owners are the same."""
    from webdataset import TarWriter

    file = io.BytesIO()
    with TarWriter(file, mtime=0, user="root", group="root", encoder=False) as tar:
        for row in rows:
            sample = {"jpg": jpeg(row), "json": json.dumps(plain(row)).encode()}
            if "mask" in row:
                sample |= {"mask.png": row["mask"]["bytes"], "instances.png": row["instances"]["bytes"]}
            if "tract" in row:
                sample["cls"] = str(row["label"]).encode()
            tar.write({"__key__": row["image_id"]} | sample)
    yield f"{split}-{number:06}.tar", file.getvalue()


# ------------------------------------------------------------------------------------------------------ the formats

FORMATS = {
    "coco": Format(MASKS, _coco_files, _coco_index, _coco_note, needs="pycocotools"),
    "yolo": Format(MASKS, _yolo_files, _yolo_index, needs="supervision"),
    "yolo-seg": Format(MASKS, _yolo_seg_files, _yolo_index, needs="supervision"),
    "pascal-voc": Format(MASKS, _voc_files, _voc_index, needs="supervision"),
    "png-masks": Format(MASKS, _png_files),
    # 43 MB of JPEG become 387 of PNG.
    "nnunet": Format(MASKS, _nnunet_files, _nnunet_index, room=9, folder=r"Dataset[0-9]{3}_\w+"),
    "monai": Format(("labeled", "segmented"), _monai_files, _monai_index, _monai_note),
    "webdataset": Format(PARTS, None, pack=_webdataset_pack, needs="webdataset"),
    "imagefolder": Format(PARTS, _imagefolder_files, _imagefolder_index, _imagefolder_note),
    "fiftyone": Format(MASKS, _fiftyone_files, _fiftyone_index, _coco_note, needs="pycocotools"),
}
_GLOBS = {"imagefolder": "{}/**", "webdataset": "{}-*.tar"}  # of a split, where `datasets` has a reader


def readme(about: Export) -> bytes:
    """README.md of an export: what it is of, how to read it, license and citation."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("readme.md.j2").read_text(encoding="utf-8"))
    kinds = {"masks": about.part in MASKS, "labeled": about.part == "labeled"}
    folds = all(split.startswith("fold_") for split in about.images)
    text = template.render(
        **about._asdict(),
        **kinds,
        folds=folds,
        globs=_GLOBS.get(about.format),
        license=LICENSE["url"],
        source=DOI,
    )
    return text.encode()
