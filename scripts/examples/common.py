"""What the examples share: options, pixels out of image files, training, and a small encoder. Copy it along."""

import argparse
import io
import os
import time

import torch
from datasets import load_dataset
from PIL import Image
from torch import nn

FEATURES = 128  # that the encoder gives for an image


def parser_of(name: str, text: str) -> argparse.ArgumentParser:
    """A parser with what all examples take, for the program `name`; its help is `text`, the docstring of that."""
    how = {"prog": f"python -m {name}", "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=text, **how)
    parser.add_argument("data", metavar="DATA", help="a built folder, or NS/NAME[@REVISION] on the Hub")
    parser.add_argument("--side", type=times(16), default=64, help="pixels, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--batch", type=times(2), default=64, help="images in a batch, even (default: %(default)s)")
    return parser


def times(unit: int):
    """The type of an option that is a multiple of a number, at least that number."""

    def number(text):
        if int(text) < unit or int(text) % unit:
            raise argparse.ArgumentTypeError(f"{text} is no multiple of {unit}" if unit > 1 else "must be at least 1")
        return int(text)

    return number


def loaded(data: str, config: str, **how):
    """A config of the dataset, as load_dataset gives it, of the revision that is named."""
    name, _, revision = (data, "", "") if os.path.isdir(data) else data.partition("@")
    return load_dataset(name, config, revision=revision or None, **how)


def pixels(image: dict, side: int, mode: str = "RGB") -> torch.Tensor:
    """A file, as `Image(decode=False)` gives it, as bytes: channels x side x side. The whole picture, squeezed."""
    picture = Image.open(io.BytesIO(image["bytes"]))
    picture.draft("RGB", (side, side))  # a JPEG can be decoded to a half, a quarter or an eighth, which is quicker
    picture = picture.convert(mode).resize((side, side), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side, -1).permute(2, 0, 1)


def floats(batch: torch.Tensor) -> torch.Tensor:
    """Bytes as floats around 0, in the order that convolutions on a CPU are quick with."""
    return batch.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def fit(model: nn.Module, rate: float, epochs: int, steps: int, *, batches, loss_of) -> nn.Module:
    """Trains a model for some epochs, a line for each. `batches()` gives the `steps` batches of one, `loss_of(batch)` a
    loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * epochs)
    for epoch in range(epochs):
        started, losses = time.monotonic(), []
        for batch in batches():
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.monotonic() - started
        print(f"  epoch {epoch + 1:2}: loss {sum(losses) / len(losses):.3f}, {seconds:.1f} s", flush=True)
    return model.eval()


def encoder() -> nn.Sequential:
    """Four convolutions of 97,000 weights: n x 3 x side x side floats to n x FEATURES.

    It normalizes groups of channels, not batches, so that an untrained one gives features that can be compared.
    """
    layers, widths = [], (3, 16, 32, 64, FEATURES)
    for below, above in zip(widths, widths[1:]):
        layers += [nn.Conv2d(below, above, 3, padding=1), nn.GroupNorm(8, above), nn.ReLU(), nn.MaxPool2d(2)]
    layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return layers.to(memory_format=torch.channels_last)
