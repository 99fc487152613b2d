"""Trains an encoder on streamed unlabeled images, by SimSiam: two views of an image are to get like features.

    python -m scripts.examples.pretrain dist/hyper-kvasir --steps 500 --save encoder.pt
    python -m scripts.examples.pretrain ns/hyper-kvasir --probe       # nothing is downloaded first

--probe says what that gained: a linear classifier of the 23 findings, trained on each of the official two folds and
scored on the other, on the features of the encoder before the first step and after the last.

It was tried on generated images. Figures on these say that the program works, and nothing about the dataset.

To go on from the weights: encoder().load_state_dict(torch.load("encoder.pt")), with encoder out of common.py.
"""

import itertools
import os
import sys
import time

import torch
from datasets import Image, IterableDataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from scripts.examples.classify import TURNS, load, scores
from scripts.examples.common import FEATURES, encoder, floats, loaded, parser_of, pixels, times

BUFFER = 600  # images that are shuffled, as the card says
EVERY = 50  # steps between lines


def images_of(stream: IterableDataset, side: int):
    """Each image as bytes, 3 x side x side, again and again, in another order in each epoch."""
    stream = stream.select_columns(["image"]).cast_column("image", Image(decode=False))
    stream = stream.shuffle(seed=0, buffer_size=BUFFER)
    for epoch in itertools.count():
        stream.set_epoch(epoch)
        for row in stream:
            yield pixels(row["image"], side)


def view(images: torch.Tensor) -> torch.Tensor:
    """A random part of each image, at least a third of its area, mirrored or not, in other light and color; floats."""
    n = len(images)
    scale, (flip, x, y) = torch.empty(n).uniform_(0.6, 1), torch.rand(3, n) * 2 - 1
    frame = torch.zeros(n, 2, 3)
    frame[:, 0, 0], frame[:, 1, 1] = scale * flip.sign(), scale
    frame[:, 0, 2], frame[:, 1, 2] = x * (1 - scale), y * (1 - scale)
    images = F.grid_sample(floats(images), F.affine_grid(frame, images.shape, align_corners=False), align_corners=False)
    color = torch.empty(n, 3, 1, 1).uniform_(0.8, 1.2) * torch.empty(n, 1, 1, 1).uniform_(0.7, 1.3)
    return images * color + torch.empty(n, 1, 1, 1).uniform_(-0.2, 0.2)


def mlp(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, FEATURES)
    )


def train(model: nn.Module, images, args) -> None:
    """SimSiam (Chen and He, 2021): `predictor` tells one view's projection from the other's, which learns nothing."""
    projector = nn.Sequential(mlp(FEATURES), nn.BatchNorm1d(FEATURES, affine=False))
    predictor = mlp(FEATURES // 4)
    optimizer = torch.optim.AdamW([*model.parameters(), *projector.parameters(), *predictor.parameters()], 1e-3)
    started, losses = time.monotonic(), []
    for step in range(1, args.steps + 1):
        batch = torch.stack(list(itertools.islice(images, args.batch)))
        one, other = (projector(model(view(batch))) for _ in range(2))
        alike = [F.cosine_similarity(predictor(a), b.detach()).mean() for a, b in ((one, other), (other, one))]
        loss = -sum(alike) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % EVERY == 0 or step == args.steps:
            # Of projections that are all the same, which must not happen, the spread is 0; of random ones it is 1.
            spread = F.normalize(one.detach(), dim=1).std(0).mean() * FEATURES**0.5
            mean, seconds = sum(losses) / len(losses), time.monotonic() - started
            print(f"step {step:5}: loss {mean:.3f} (at best -1), spread {spread:.2f}, {seconds:.0f} s", flush=True)
            losses.clear()


@torch.no_grad()
def features(model: nn.Module, images: torch.Tensor):
    """n x FEATURES, as an array."""
    return torch.cat([model(floats(batch)) for batch in images.split(256)]).numpy()


def probe(model: nn.Module, folds: dict) -> list[float]:
    """Macro-F1 and MCC of a linear classifier on the features, means of both turns."""
    data, found = {fold: (features(model, images), labels) for fold, (images, labels) in folds.items()}, []
    for train_on, score_on in TURNS:
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        seen, labels = data[score_on]
        found.append(scores(labels, linear.fit(*data[train_on]).predict(seen)))
    return torch.tensor(found).mean(0).tolist()


def main(arguments=None):
    parser = parser_of("scripts.examples.pretrain", __doc__)
    parser.add_argument("--steps", type=times(1), default=500, help="batches to train on (default: %(default)s)")
    parser.add_argument("--save", metavar="PT", help="where the encoder's weights go")
    parser.add_argument("--probe", action="store_true", help="score the features, too; needs the labeled images")
    args = parser.parse_args(arguments)
    if args.save and not os.path.isdir(os.path.dirname(os.path.abspath(args.save))):
        parser.error(f"--save {args.save}: there is no such folder")

    torch.manual_seed(0)
    model, probed = encoder(), {}
    folds = loaded(args.data, "fold_2") if args.probe else {}
    folds = {fold: load(rows, args.side) for fold, rows in folds.items()}
    if args.probe:
        probed["random weights"] = probe(model, folds)
    stream = loaded(args.data, "unlabeled", split="train", streaming=True)
    train(model, images_of(stream, args.side), args)
    if args.save:
        torch.save(model.state_dict(), args.save)
    if args.probe:
        probed["pretrained"] = probe(model, folds)
        print(f"\n{'linear probe, mean of both folds':36}{'macro-F1':>9}{'MCC':>9}")
        for name, (macro_f1, mcc) in probed.items():
            print(f"{name:36}{macro_f1:9.3f}{mcc:9.3f}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads of a stream can abort the interpreter's own end (apache/arrow#45214)
