"""Runs blocks of the card in a process of its own, as datasets asks once whether torch is there.

`python -m tests.run_blocks FILE` takes {name: code} from standard input, pickled, and writes {name: what was found, or
a traceback} to the file, likewise. What is found is said by the function here that the name begins with.
"""

import csv
import importlib.util
import io
import pickle
import random
import sys
import traceback
from pathlib import Path

import numpy as np
from datasets import load_dataset
from PIL import Image


def drawn(folder, config, **settings):
    """As load_dataset, but segmented images are drawings: red where the mask is, green where a matching box is."""
    with open(Path(folder, "objects.csv")) as file:
        good = [row for row in csv.DictReader(file) if (row["kind"], row["fit"]) == ("box", "matched")]

    def draw(row):
        picture = np.zeros((row["height"], row["width"], 3), np.uint8)
        picture[..., 0] = row["mask"]
        for box in good:
            if box["image_id"] == row["image_id"]:
                x, y, width, height = (int(box[name]) for name in ("x", "y", "width", "height"))
                picture[y : y + height, x : x + width, 1] = 255
        return {"image": Image.fromarray(picture)}

    rows = load_dataset(folder, config, **settings)
    return rows.map(draw, features=rows.features) if config == "segmented" else rows


def arrays(batch):
    return {name: np.asarray(value) for name, value in batch.items()}


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


# ----------------------------------------------------------------------------- what is found, of the names of a block


def tables(names):
    return {
        "counts": dict(names["counts"].fetchall()),
        "rows": sorted(names["rows"].rows()),
        "table": sorted(names["table"].itertuples(index=False, name=None)),
    }


def train(names):
    return {"batch": arrays(names["batch"]), "pixels": names["pixels"].numpy(), "rows": arrays(names["ds"][:])}


def classify(names):
    rows, torch = names["ds"][:], names["torch"]
    one_hot = torch.nn.functional.one_hot(torch.tensor(rows["label"]), len(names["weights"])).float()
    # For each image the loss of a guess: no class is likelier than another.
    losses = [names["loss"](0 * scores[None], scores[None]).item() for scores in one_hot]
    return {"rows": arrays(rows), "batches": joined([arrays(batch) for batch in names["loader"]]), "losses": losses}


def segment(names):
    random_crops = joined([arrays(batch) for _ in range(2) for batch in names["loader"]])
    rows = names["ds"].with_format(None)
    return {
        "random": random_crops,
        "middle": arrays(names["prepare"](rows[:])),
        "ready": arrays({name: names[name] for name in ("pixels", "mask")}),
        "cropped": [names["cropped"](encoded(row["image"]), *row["image"].size) for row in rows],
    }


def encoded(image):
    """As an image that is not decoded."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue()}


def detect(names):
    batches = list(names["loader"])
    images, targets = ([item for batch in batches for item in batch[i]] for i in range(2))
    return {"images": [image.numpy() for image in images], "targets": [arrays(target) for target in targets]}


def losses(names):
    """Of a detector of torchvision that has learned nothing, and a batch of which some image has no box."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    images, targets = names["collate"](names["ds"])
    assert 0 in map(len, (target["boxes"] for target in targets))
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=2)
    return {name: loss.item() for name, loss in model(images, targets).items()}


def augment(names):
    names.get("seed_worker", int)(0)  # the same each time
    return [arrays(names["augmented"](row)) for row in names["ds"] for _ in range(4)]


def seeds(names):
    """The sums of pixels of eight copies of a picture, augmented by two workers, in two epochs."""
    from torch.utils.data import DataLoader

    def sums(seed_worker):
        settings = {"batch_size": None, "num_workers": 2, "worker_init_fn": seed_worker}
        loader = DataLoader([names["ds"][0]] * 8, collate_fn=lambda row: names["augmented"](row)["image"], **settings)
        return [float(image.sum()) for _ in range(2) for image in loader]

    return {"seeded": sums(names.get("seed_worker")), "not seeded": sums(None)}


def transformers(names):
    return arrays(names["ds"][:])


def main():
    blocks, found = pickle.load(sys.stdin.buffer), {}
    for name, code in blocks.items():
        names = {"load_dataset": drawn if "drawn" in name else load_dataset}
        random.seed(0)
        if importlib.util.find_spec("torch"):
            importlib.import_module("torch").manual_seed(0)
        try:
            exec(compile(code, name, "exec"), names)
            found[name] = globals()[name.split()[0]](names)
        except Exception:
            found[name] = traceback.format_exc()
    Path(sys.argv[1]).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
