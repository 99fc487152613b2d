"""The card's code for training at 224 px: what it gives, and what it does to the pixels."""

import io
import random
import zipfile

import numpy as np
import pytest
from PIL import Image

from scripts.bench import __main__ as bench
from scripts.bench import feed
from scripts.bench.feed import SIDE, decoded_whole, difference, run_snippet
from tests.conftest import build

WHOLE = Image.Resampling.BILINEAR


@pytest.fixture(scope="module")
def code(built):
    return run_snippet(str(built))


def picture(width, height, mode="RGB", orientation=None):
    """A JPEG of some colors that change slowly, each quarter another, so that no turn looks like the next."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 40 + y / 60)]
    image = Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8)).convert(mode)
    exif, file = Image.Exif(), io.BytesIO()
    if orientation:
        exif[274] = orientation
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def check(pixels, data, decibels=40):
    """That pixels are bytes, of the right shape, and near those of the whole picture."""
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert difference(pixels, decoded_whole(data, WHOLE))[0] > decibels


def test_map_style_and_streaming(code, built):
    from datasets import Image as Undecoded
    from datasets import load_dataset

    rows = load_dataset(str(built), "labeled", split="train").cast_column("image", Undecoded(decode=False))
    given = code["ds"]
    assert len(given) == len(rows) and set(given[0]) == {"pixels", "label"}
    batch = given[: len(rows)]
    for pixels, image in zip(batch["pixels"], rows["image"]):
        check(pixels, image["bytes"])
    assert batch["label"] == list(rows["label"])
    check(given[1]["pixels"], rows[1]["image"]["bytes"])
    streamed = list(code["stream"])
    assert [row["label"] for row in streamed] == batch["label"]
    assert all(set(row) == {"pixels", "label"} for row in streamed)
    assert np.array_equal([row["pixels"] for row in streamed], batch["pixels"])


@pytest.mark.parametrize("part", ["segmented", "unlabeled"])
def test_a_card_of_one_part(part, source, tmp_path):
    build(source, tmp_path / "built", "--config", part)
    code = run_snippet(str(tmp_path / "built"))
    names = {"pixels"} if part == "unlabeled" else {"pixels", "label"}
    streamed = list(code["stream"])
    assert len(streamed) == len(code["ds"]) > 0
    for row in (streamed[0], code["ds"][0]):
        assert set(row) == names and row["pixels"].shape == (SIDE, SIDE, 3)


SIZES = [
    *((1, 1), (30, 40), (223, 300), (224, 224), (225, 600)),  # whole
    *((448, 448), (529, 622), (893, 1225), (895, 2000)),  # at a half
    *((896, 900), (1013, 1225), (1070, 1349), (1080, 1920)),  # at a quarter
    (1792, 1800),  # at an eighth
]


@pytest.mark.parametrize("short, long", SIZES)
def test_every_scale_and_shape(code, short, long):
    for size in ((short, long), (long, short)):
        data = picture(*size)
        check(code["cropped"]({"bytes": data}, *size), data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(300, 240), (1013, 1225)])
def test_pictures_are_turned_upright(code, size, orientation):
    """By EXIF, whichever way round the width and height of the row are."""
    data = picture(*size, orientation=orientation)
    for width, height in (size, size[::-1]):
        check(code["cropped"]({"bytes": data}, width, height), data, 30)  # a turned crop may be half a pixel off


def test_gray_pictures_are_rgb(code):
    for size in ((300, 240), (1013, 1225)):
        data = picture(*size, mode="L")
        pixels = code["cropped"]({"bytes": data}, *size)
        check(pixels, data)
        assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


def test_real_pictures_differ_by_what_the_card_says(code, real):
    with zipfile.ZipFile(real / "hyper-kvasir-segmented-images.zip") as archive:
        names = [name for name in archive.namelist() if "/images/" in name and name.endswith(".jpg")]
        found = []
        for name in random.Random(0).sample(names, 60):
            data = archive.read(name)
            with Image.open(io.BytesIO(data)) as image:
                pixels = code["cropped"]({"bytes": data}, *image.size)
            found.append(difference(pixels, decoded_whole(data, WHOLE)))
    psnr, apart = np.transpose(found)
    assert psnr.mean() > 44 and psnr.min() > 39 and apart.mean() < 0.75


def test_the_bench_says_what_it_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feed, "RIVALS", ("no_such_rival",))
    with pytest.raises(SystemExit):
        bench.main(["feed", "--work", str(tmp_path / "work")])
    assert "pip install -r scripts/bench/requirements.txt" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
