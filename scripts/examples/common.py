"""What the examples share: their options, pixels out of image files, and a small encoder. Copy it along."""

import argparse
import io

import torch
from PIL import Image
from torch import nn

FEATURES = 128  # that the encoder gives for an image


def parser_of(text: str) -> argparse.ArgumentParser:
    """A parser with what all examples take; its help is `text`, the docstring of one."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="a built folder, or the dataset's id on the Hub")
    parser.add_argument("--side", type=int, default=64, help="pixels, a multiple of 16 (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default: %(default)s)")
    return parser


def pixels(image: dict, side: int, mode: str = "RGB") -> torch.Tensor:
    """A file, as `Image(decode=False)` gives it, as bytes: channels x side x side. The whole picture, squeezed."""
    picture = Image.open(io.BytesIO(image["bytes"]))
    picture.draft("RGB", (side, side))  # a JPEG can be decoded to a half, a quarter or an eighth, which is quicker
    picture = picture.convert(mode).resize((side, side), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(side, side, -1).permute(2, 0, 1)


def floats(batch: torch.Tensor) -> torch.Tensor:
    """Bytes as floats around 0, in the order that convolutions on a CPU are quick with."""
    return batch.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def encoder() -> nn.Sequential:
    """Four convolutions of 97,000 weights: n x 3 x side x side floats to n x FEATURES.

    It normalizes groups of channels, not batches, so that an untrained one gives features that can be compared.
    """
    layers, widths = [], (3, 16, 32, 64, FEATURES)
    for below, above in zip(widths, widths[1:]):
        layers += [nn.Conv2d(below, above, 3, padding=1), nn.GroupNorm(8, above), nn.ReLU(), nn.MaxPool2d(2)]
    layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return layers.to(memory_format=torch.channels_last)
