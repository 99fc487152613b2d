"""Images of 224 x 224 pixels into a training loop: the card's code against torchvision's ImageFolder and WebDataset."""

import io
import itertools
import math
import multiprocessing
import os
import re
import shutil
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from datasets import load_dataset
from PIL import Image, ImageOps

from scripts.bench.sources import expectations
from scripts.pipeline.card import PLACEHOLDER
from scripts.pipeline.console import say, table
from scripts.pipeline.measure import run

RIVALS = ("torch", "torchvision", "webdataset")  # packages that no other command and no test needs
SIDE = 224
WORKERS = (0, 2, 4)
BATCH = 32
BATCHES = 12  # of a run; every worker makes as many
COMPARED = 1000  # images whose pixels are compared


class Images(NamedTuple):
    """The same images as each feed reads them."""

    built: str
    config: str
    loose: str  # a folder for each class
    tars: list[str]


def bench_feed(work: str, archive: str, runs: int) -> str:
    """Images per second of each feed, the quickest run of each, and what the card's code does to the pixels."""
    be_quiet(work)
    images, what = prepare(work, archive)
    snippet = run_snippet(images.built)
    feeds = make_feeds(images, snippet)
    seconds, cpu = {}, {}
    for _ in range(runs):
        for workers, (name, loader) in itertools.product(WORKERS, feeds.items()):
            taken = measure(loader(workers), workers)
            say(f"{name}, {workers} workers: {1 / taken[0]:.0f} images/s, {1000 * taken[1]:.2f} ms of CPU an image")
            for least, value in zip((seconds, cpu), taken):
                least[name, workers] = min(value, least.get((name, workers), value))
    rates, costs = [], []
    for name in feeds:
        times, spent = ([least[name, n] for n in WORKERS] for least in (seconds, cpu))
        rates.append((name, *(round(1 / t) for t in times), *ratios(seconds, name)))
        costs.append((name, *(f"{1000 * t:.2f}" for t in spent), *ratios(cpu, name)))
    columns = [*map(str, WORKERS), *(f"{n}: times ImageFolder" for n in WORKERS)]
    return "\n".join(
        [
            f"{what}; {os.cpu_count()} cores, quickest of {runs}",
            table(("images a second, by workers", *columns), rates),
            table(("ms of CPU an image, by workers", *columns), costs),
            *differences(images, snippet["cropped"]),
        ]
    )


def be_quiet(work: str) -> None:
    """Settings of the libraries for all that is measured in this process."""
    import torch

    torch.set_num_threads(1)  # as workers do: what is small enough waits for its threads where others use the cores
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
    datasets.config.HF_DATASETS_CACHE = Path(os.path.abspath(work), "cache")
    datasets.disable_progress_bars()


def ratios(taken: dict, name: str) -> list[str]:
    """How many times ImageFolder's speed a feed has, for each number of workers."""
    return [f"{taken['ImageFolder', n] / taken[name, n]:.2f}" for n in WORKERS]


# ------------------------------------------------------------------------------------------------------- what is read


def prepare(work: str, archive: str) -> tuple[Images, str]:
    """Builds the part of an archive, writes its images loose and into tars, and says what they are."""
    source, config = os.path.dirname(archive), "segmented" if "segmented" in os.path.basename(archive) else "labeled"
    built, loose, tars = (os.path.join(work, name) for name in ("out", "loose", "tars"))
    for folder in (built, loose, tars, os.path.join(work, "cache")):
        shutil.rmtree(folder, ignore_errors=True)
    flags = expectations(source)
    run([sys.executable, "-m", "scripts.build", "--source", source, "--config", config, "--out", built, *flags])
    rows = load_dataset(built, config, split="train").cast_column("image", datasets.Image(decode=False))
    names = rows.features["label"].names
    rows, sizes = rows.shuffle(seed=0), []  # in no order of classes
    os.makedirs(tars)
    paths = [os.path.join(tars, f"{i}.tar") for i in range(2 * max(WORKERS))]
    for i, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for row in rows.shard(len(paths), i):
                data, label = row["image"]["bytes"], row["label"]
                os.makedirs(os.path.join(loose, names[label]), exist_ok=True)
                Path(loose, names[label], f"{row['image_id']}.jpg").write_bytes(data)
                for ending, content in (("jpg", data), ("cls", b"%d" % label)):
                    member = tarfile.TarInfo(f"{row['image_id']}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                sizes.append((row["width"], row["height"], len(data)))
    width, height, size = np.mean(sizes, axis=0)
    kind = f"{'generated' if flags else 'real'} {config} images"
    what = f"{len(sizes):,} {kind}, on average {width:.0f} x {height:.0f} pixels and {size / 1000:.0f} kB"
    return Images(built, config, loose, paths), what


def run_snippet(built: str) -> dict:
    """The names that the card's own code for training defines, run on a built folder."""
    text = Path(built, "README.md").read_text(encoding="utf-8")
    code = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "IMREAD_REDUCED" in code)
    names = {"__name__": "card", "load_dataset": load_dataset}
    exec(compile(re.sub(rf'"{PLACEHOLDER}(-\d+)?"', repr(built), code), "card", "exec"), names)
    return names


# --------------------------------------------------------------------------------------------------------- the feeds


def make_feeds(images: Images, snippet: dict) -> dict[str, Callable]:
    """{name: what makes its endless loader for a number of workers}; the rivals' are as their documentation advises."""
    import webdataset
    from torchvision.datasets import ImageFolder

    def tars(n):
        data = webdataset.WebDataset(images.tars, shardshuffle=False).repeat()
        data = data.decode("pil").to_tuple("jpg", "cls").map_tuple(_whole(), int).batched(BATCH)
        return webdataset.WebLoader(data, batch_size=None, **_workers(n))

    ours = {f"ours, {name}": loader for name, loader in own_feeds(images.built, images.config, snippet).items()}
    return {**ours, "ImageFolder": _shuffled(ImageFolder(images.loose, _whole())), "WebDataset": tars}


def own_feeds(built: str, config: str, snippet: dict) -> dict[str, Callable]:
    """The same of a built folder: by the card's transform, which is in its `snippet`, and decoding images whole."""
    columns = ["image", "label"]
    rows = load_dataset(built, config, split="train").select_columns(columns)
    stream = load_dataset(built, config, split="train", streaming=True).select_columns(columns)
    whole = _whole()

    def plain(batch):
        return {"pixels": [whole(image) for image in batch["image"]], "label": batch["label"]}

    return {
        "the card's transform": _shuffled(snippet["ds"]),
        "the card's transform, streaming": _streamed(snippet["stream"]),
        "decoding whole": _shuffled(rows.with_transform(plain)),
        "decoding whole, streaming": _streamed(
            stream.map(plain, batched=True, batch_size=BATCH, remove_columns=columns)
        ),
    }


def _whole():
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    return Compose([Resize(SIDE), CenterCrop(SIDE), ToTensor()])


def _workers(number):
    return {"num_workers": number, "multiprocessing_context": "fork" if number else None}


def _shuffled(data):
    from torch.utils.data import DataLoader, RandomSampler

    return lambda n: DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=10**9), **_workers(n))


def _streamed(data):
    from torch.utils.data import DataLoader

    return lambda n: DataLoader(data.repeat(None), BATCH, **_workers(n))


def measure(loader, workers: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU in all processes, for an image as floats, once every worker is at work."""
    batches = iter(loader)
    for _ in range(workers + 2):
        to_float(next(batches))
    started, spent = time.perf_counter(), cpu_seconds()
    for _ in range(BATCHES):
        to_float(next(batches))
    images = BATCH * BATCHES
    return (time.perf_counter() - started) / images, (cpu_seconds() - spent) / images


def cpu_seconds() -> float:
    """Of this process and its workers, as long as they live; by Linux's numbers for the clocks of other processes."""
    clocks = [time.CLOCK_PROCESS_CPUTIME_ID, *(~child.pid << 3 | 2 for child in multiprocessing.active_children())]
    return sum(map(time.clock_gettime, clocks))


def to_float(batch):
    """What a training loop begins with. The card's transform gives bytes, the others floats."""
    import torch

    pixels = batch["pixels"] if isinstance(batch, dict) else batch[0]
    if pixels.dtype == torch.uint8:
        pixels = pixels.permute(0, 3, 1, 2).float().div_(255)
    assert pixels.shape == (BATCH, 3, SIDE, SIDE) and pixels.dtype == torch.float32


# -------------------------------------------------------------------------------------------------------- the pixels


def differences(images: Images, cropped: Callable) -> list[str]:
    """How far the card's transform is from the same scale and crop of the whole picture; two filters, to compare."""
    rows = load_dataset(images.built, images.config, split="train").cast_column("image", datasets.Image(decode=False))
    found = {"the card's transform": [], "Pillow's bicubic filter": []}
    for row in rows.shuffle(seed=0).select(range(min(COMPARED, len(rows)))):
        whole = decoded_whole(row["image"]["bytes"], Image.Resampling.BILINEAR)
        ours = cropped(row["image"], row["width"], row["height"])
        bicubic = decoded_whole(row["image"]["bytes"], Image.Resampling.BICUBIC)
        for name, pixels in zip(found, (ours, bicubic)):
            found[name].append(difference(pixels, whole))
    lines = [f"pixels of {len(found[name]):,} images, against a whole decoding and Pillow's bilinear filter:"]
    for name, values in found.items():
        psnr, mean = np.transpose(values)
        lines.append(f"  {name}: PSNR {psnr.mean():.1f} dB, at least {psnr.min():.1f}; |difference| {mean.mean():.2f}")
    return lines


def decoded_whole(data: bytes, resample: Image.Resampling) -> np.ndarray:
    """The picture that the card's transform makes, by decoding at full size and a filter that averages."""
    with Image.open(io.BytesIO(data)) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    short = min(image.size)
    by, scale = next(n for n in (8, 4, 2, 1) if n == 1 or short >= n * SIDE), SIDE / short
    # Sides that are decoded at a part of their size are rounded up, which may move the crop by a pixel.
    left, top = ((round(math.ceil(n / by) * by * scale) - SIDE) // 2 / scale for n in image.size)
    box = (left, top, min(image.width, left + short), min(image.height, top + short))
    return np.asarray(image.resize((SIDE, SIDE), resample, box=box))


def difference(pixels: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, mean absolute difference) of two pictures of bytes."""
    apart = pixels.astype(float) - others
    return 10 * math.log10(255**2 / max((apart**2).mean(), 1e-9)), abs(apart).mean()
