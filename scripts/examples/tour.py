"""Draws what exports hold over their images, as readers give it: a row for each export, the same images in each.

    python -m scripts.export ns/hyper-kvasir coco --config kvasir_seg --to coco
    python -m scripts.export ns/hyper-kvasir yolo --config kvasir_seg --to yolo
    python -m scripts.examples.tour coco yolo --to tour.png

Boxes are white; each of several polyps has a color; one polyp, or a mask of all, is green. Images, too, are read from
the export. The code of each reader is in this file, to be copied. scripts/export-requirements.txt has what this needs.
"""

import argparse
import io
import json
from glob import glob
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, MARGIN, TITLE = 240, 6, 18  # pixels
COLORS = ["#55bbff", "#ff7700", "#ffdd00", "#bb55ff", "#bbff77"]  # of polyps
GREEN = "#00c040"

# Readers: (folder, split) -> {image id: (image file, boxes as left, top, right, bottom, masks)}. Masks are bool, height
# x width: one for each polyp, or one of all.


def read_coco(folder, split):
    places = (folder / f"annotations/{kind}_{split}.json" for kind in ("instances", "boxes"))
    return _coco(folder / split, *places)


def read_fiftyone(folder, split):
    """Its files are those of COCO, in other places."""
    return _coco(folder / split / "data", folder / split / "labels.json", folder / split / "boxes.json")


def _coco(images, instances, boxes):
    from pycocotools.coco import COCO

    polyps, boxes = COCO(instances), COCO(boxes)
    found = {}
    for number, image in polyps.imgs.items():
        corners = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in boxes.imgToAnns[number])]
        masks = [polyps.annToMask(one) > 0 for one in polyps.imgToAnns[number]]
        path = images / image["file_name"]
        found[path.stem] = path, corners, masks
    return found


def read_yolo(folder, split):
    import supervision

    places = str(folder / "images" / split), str(folder / "labels" / split), str(folder / "data.yaml")
    return _detections(supervision.DetectionDataset.from_yolo(*places))


def read_pascal_voc(folder, split):
    import supervision

    places = str(folder / "JPEGImages"), str(folder / "Annotations")
    found = _detections(supervision.DetectionDataset.from_pascal_voc(*places))
    name = "val" if split == "validation" else split
    ids = (folder / f"ImageSets/Segmentation/{name}.txt").read_text().split()
    return {i: (*found[i][:2], _numbered(folder / f"SegmentationObject/{i}.png")) for i in ids}


def _detections(ds):
    found = {}
    for path in ds.image_paths:
        one = ds.annotations[path]
        masks = [] if one.mask is None else list(one.mask)
        found[Path(path).stem] = path, one.xyxy.tolist() if one.mask is None else [], masks
    return found


def _numbered(png):
    """A mask for each number in a PNG."""
    with Image.open(png) as image:
        numbers = np.asarray(image)
    return [numbers == number for number in np.unique(numbers[numbers > 0])]


def read_png_masks(folder, split):
    return {
        path.stem: (path, [], _numbered(folder / split / "masks" / f"{path.stem}.png"))
        for path in (folder / split / "images").iterdir()
    }


def read_nnunet(folder, split):
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    return {
        i: (folder / f"imagesTr/{i}_0000.png", [], _numbered(folder / f"labelsTr/{i}.png"))
        for i in fold["val" if split == "validation" else split]
    }


def read_monai(folder, split):
    entries = json.loads((folder / "datalist.json").read_text())["training" if split == "train" else split]
    return {
        Path(entry["image"]).stem: (folder / entry["image"], [], _numbered(folder / entry["label"]))
        for entry in entries
    }


def read_webdataset(folder, split):
    import webdataset

    ds = webdataset.WebDataset(sorted(glob(f"{folder}/{split}-*.tar")), shardshuffle=False)
    found = {}
    for sample in ds:
        boxes = [(x, y, x + w, y + h) for x, y, w, h in json.loads(sample["json"])["objects"]["bbox"]]
        masks = _numbered(io.BytesIO(sample["instances.png"]))
        found[sample["__key__"]] = io.BytesIO(sample["jpg"]), boxes, masks
    return found


def read_imagefolder(folder, split):
    found = {}
    for line in (folder / split / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        boxes = [(x, y, x + w, y + h) for x, y, w, h in row["objects"]["bbox"]]
        masks = _numbered(folder / split / row["instances_file_name"])
        found[row["image_id"]] = folder / split / row["file_name"], boxes, masks
    return found


READERS = {
    **{"coco": read_coco, "fiftyone": read_fiftyone, "yolo": read_yolo, "yolo-seg": read_yolo},
    **{"pascal-voc": read_pascal_voc, "png-masks": read_png_masks, "nnunet": read_nnunet, "monai": read_monai},
    **{"webdataset": read_webdataset, "imagefolder": read_imagefolder},
}


def draw(file, boxes: list, masks: list) -> Image.Image:
    """A picture of at most SIDE pixels, masks and boxes drawn over it."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    for number, mask in enumerate(masks):
        color = COLORS[number % len(COLORS)] if len(masks) > 1 else GREEN
        pixels[mask] = 0.55 * pixels[mask] + 0.45 * np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    scale = SIDE / max(pixels.shape)
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    picture = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        left, top, right, bottom = (scale * side for side in box)
        corner = max(left, right - 1), max(top, bottom - 1)  # the last pixel is inside
        pen.rectangle((left, top, *corner), outline="white", width=2)
    return picture


def sheet(exports: list[str], split: str, images: int) -> Image.Image:
    """A row for each export: of the images with most polyps, and the first by id."""
    read = {}
    for folder in map(Path, exports):
        if not (folder / "export.json").is_file():
            raise SystemExit(f"{folder}: is no export; make one with python -m scripts.export")
        about = json.loads((folder / "export.json").read_text())
        if about["config"] not in ("segmented", "kvasir_seg", "kvasir_seg_clean"):
            raise SystemExit(f"{folder}: is of {about['config']}, which has no masks and boxes to draw")
        if split not in about["images"]:
            raise SystemExit(f"{folder}: has no split {split!r}; there are {', '.join(about['images'])}")
        read[f"{about['format']}, {folder}"] = READERS[about["format"]](folder, split)
    shared = sorted(set.intersection(*(set(found) for found in read.values())))
    first = next(iter(read.values()))
    chosen = sorted(shared, key=lambda image_id: -max(map(len, first[image_id][1:])))[:images]
    page = Image.new("RGB", (images * (SIDE + MARGIN) + MARGIN, len(read) * (SIDE + TITLE + MARGIN)), "#f4f4f4")
    pen = ImageDraw.Draw(page)
    for row, (title, found) in enumerate(read.items()):
        top = row * (SIDE + TITLE + MARGIN)
        pen.text((MARGIN, top + 4), title, fill="#222222")
        for column, image_id in enumerate(chosen):
            page.paste(draw(*found[image_id]), (MARGIN + column * (SIDE + MARGIN), top + TITLE))
    return page


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.examples.tour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("exports", nargs="+", metavar="DIR", help="exports with masks or boxes")
    parser.add_argument("--split", default="validation", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=6, metavar="N", help="default: %(default)s")
    parser.add_argument("--to", required=True, metavar="FILE", help="the PNG to write")
    args = parser.parse_args(arguments)
    sheet(args.exports, args.split, args.images).save(args.to)
    print(f"wrote {args.to}")


if __name__ == "__main__":
    main()
