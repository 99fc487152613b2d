"""Segments polyps on Kvasir-SEG's split, and tells what the frames that are in both of its sets are worth.

    python -m scripts.examples.segment dist/hyper-kvasir                   # two trainings
    python -m scripts.examples.segment dist/hyper-kvasir --seeds 0 1 2     # six, which tell how large chance is

The same U-Net is trained twice: on the official training set, and on that of `kvasir_seg_clean`, without the images
whose scene is in the validation set. Both are scored by IoU and Dice (threshold 0.5, mean of the images) on the same
validation images: those whose scene the official training set has, and the others, which tell what else differs
between two trainings. Scores are at the size of training; ± is the standard deviation of the seeds.

The network is small, some 120,000 weights from scratch at 64 pixels, to be trained by two CPU cores in minutes. It
learns less by heart than a large one. Its scores are no baseline.
"""

import torch
from datasets import Dataset, Image
from torch import nn
from torch.nn import functional as F

from scripts.examples.common import fit, floats, loaded, parser_of, pixels, times

WIDTH = 8  # channels of the first level; each level has twice as many as the one above


class UNet(nn.Module):
    """n x 3 x side x side floats to n x 1 x side x side logits of a polyp; side is a multiple of 8."""

    def __init__(self):
        super().__init__()
        widths = [WIDTH << level for level in range(4)]
        self.down = nn.ModuleList(convolutions(*pair) for pair in zip([3, *widths], widths))
        self.up = nn.ModuleList(convolutions(3 * width, width) for width in widths[-2::-1])
        self.last = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x):
        seen = []
        for level, block in enumerate(self.down):
            seen.append(x := block(F.max_pool2d(x, 2) if level else x))
        for block, beside in zip(self.up, seen[-2::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), beside], dim=1))
        return self.last(x)


def convolutions(below: int, above: int) -> nn.Sequential:
    return nn.Sequential(*(layer for width in (below, above) for layer in (
        nn.Conv2d(width, above, 3, padding=1, bias=False), nn.BatchNorm2d(above), nn.ReLU()
    )))  # fmt: skip


def load(rows: Dataset, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (bytes) and masks (bool) of rows, n x channels x side x side: scaled alike, so they stay aligned."""
    rows = rows.select_columns(["image", "mask"])
    for column in rows.column_names:
        rows = rows.cast_column(column, Image(decode=False))
    pairs = [(pixels(row["image"], side), pixels(row["mask"], side, "L") > 127) for row in rows]
    return tuple(map(torch.stack, zip(*pairs)))


def turned(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch, each image at random as it is, mirrored, upside down or both, with its mask."""
    for axis in (2, 3):
        flip = (torch.rand(len(images)) < 0.5).view(-1, 1, 1, 1)
        images, masks = (torch.where(flip, batch.flip(axis), batch) for batch in (images, masks))
    return images, masks


def train(images: torch.Tensor, masks: torch.Tensor, args, seed: int) -> UNet:
    torch.manual_seed(seed)
    model = UNet().to(memory_format=torch.channels_last)
    # Whole batches only: a last one of two images would spoil what is normalized by, and of 866 there is one.
    steps = max(len(images) // args.batch, 1)

    def batches():
        return torch.randperm(len(images)).split(args.batch)[:steps]

    def loss_of(batch):
        some, truth = turned(images[batch], masks[batch])
        logits, truth = model(floats(some)), truth.float()
        shares, axes = logits.sigmoid(), (1, 2, 3)
        dice = 2 * (shares * truth).sum(axes) / (shares.sum(axes) + truth.sum(axes) + 1)
        return F.binary_cross_entropy_with_logits(logits, truth) + 1 - dice.mean()

    return fit(model, 1e-2, args.epochs, steps, batches=batches, loss_of=loss_of)


@torch.no_grad()
def scores(model: UNet, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """IoU and Dice of each image: n x 2."""
    found = torch.cat([model(floats(batch)) > 0 for batch in images.split(64)])  # a logit of 0 is a share of 0.5
    axes = (1, 2, 3)
    both, either = (found & masks).sum(axes), (found | masks).sum(axes)
    return torch.stack([both / either.clamp(min=1), 2 * both / (both + either).clamp(min=1)], dim=1)


def leaks(sets, metadata: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of kvasir_seg: which training and which validation images `kvasir_seg_clean` keeps, and which of the latter leak.

    One leaks if its scene is in the official training set, too. As bools, in the order of the rows.
    """
    clean = dict(zip(metadata["image_id"], metadata["kvasir_seg_clean"]))
    scene = dict(zip(metadata["image_id"], metadata["scene_group"]))
    train, validation = (sets[name]["image_id"] for name in ("train", "validation"))
    trained = {scene[i] for i in train} - {None}
    keep, kept = (torch.tensor([clean[i] is not None for i in ids]) for ids in (train, validation))
    return keep, kept, torch.tensor([scene[i] in trained for i in validation])


def table(found: dict[str, torch.Tensor], kept: torch.Tensor, leaking: torch.Tensor) -> str:
    """A line for each score and group of validation images. `found`: {what it was trained on: seeds x n x 2}."""
    groups = {"official, all": torch.ones_like(kept), "clean, all": kept}
    groups |= {"  scene in training": kept & leaking, "  others": kept & ~leaking}
    lines = [f"{'':5}{'validation images':23}{'trained on all':>16}{'without leaks':>16}{'difference':>16}"]
    for number, score in enumerate(("IoU", "Dice")):
        for group, rows in groups.items():
            one, other = (found[name][:, rows, number].mean(1) for name in ("official", "clean"))
            cells = [of(one), of(other), of(one - other)] if group != "official, all" else [of(one)]
            lines.append(f"{score:5}{group:19}{rows.sum():4}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def of(values: torch.Tensor) -> str:
    """The mean of the seeds, and their standard deviation if there are several."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def main(arguments=None):
    parser = parser_of("scripts.examples.segment", __doc__)
    parser.set_defaults(batch=32)
    parser.add_argument("--epochs", type=times(1), default=30, help="of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a pair of trainings for each (default: 0)")
    parser.add_argument("--save", metavar="CSV", help="a line for each training and validation image, with its scores")
    args = parser.parse_args(arguments)

    sets = loaded(args.data, "kvasir_seg")
    keep, kept, leaking = leaks(sets, loaded(args.data, "metadata", split="train"))
    images, masks = load(sets["train"], args.side)
    validation = load(sets["validation"], args.side)
    found, lines = {"official": [], "clean": []}, []
    for seed in args.seeds:
        for name, rows in (("official", torch.ones_like(keep)), ("clean", keep)):
            print(f"seed {seed}, {name} training set, {rows.sum()} images", flush=True)
            model = train(images[rows], masks[rows], args, seed)
            found[name].append(scores(model, *validation))
            for image_id, (iou, dice) in zip(sets["validation"]["image_id"], found[name][-1].tolist()):
                lines.append({"trained_on": name, "seed": seed, "image_id": image_id, "iou": iou, "dice": dice})
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"\n{weights:,} weights, {args.side} pixels, seeds {args.seeds}\n")
    print(table({name: torch.stack(scored) for name, scored in found.items()}, kept, leaking))
    if args.save:
        Dataset.from_list(lines).to_csv(args.save)


if __name__ == "__main__":
    main()
