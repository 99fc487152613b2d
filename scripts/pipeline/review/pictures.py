"""The pictures of a review page: how they are made small, and where they are kept."""

import base64
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from scripts.pipeline.output import BuildError

TILE, ACROSS = 96, 10  # pixels of a tile's longer side; a sheet has ACROSS x ACROSS tiles
SIDE = 400  # pixels of the longer side of a larger picture
EMBEDDED_BYTES = 20 << 20  # of all pictures: a page of more would open slowly, so they are put into a folder beside it
# A quicker method makes tiles and pictures a tenth larger; a slower one takes twice the time for a tenth less.
ENCODING = {"format": "WEBP", "quality": 50, "method": 2}

MARK = ".hyper-kvasir-review"  # in the folder of a page: it is ours, and may be replaced with the page that it names
_NAMED = re.compile(r"^Page: (.+)$", re.MULTILINE)
_OURS = re.compile(rf"({re.escape(MARK)}|(sheets|pictures)/[a-z0-9-]+\.(webp|jpg))")


# ------------------------------------------------------------------------------------------------------------ making


def decoded(data: bytes, size: tuple[int, int]) -> Image.Image:
    """A JPEG in color, at the smallest of libjpeg's scales that has at least the (width, height) `size`.

    Raises ValueError for an image that is damaged.
    """
    return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=size[1], min_width=size[0]))


def size_at(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The (width, height) of a picture with a longer side of `side` pixels, or of its own where that is less.

    Tiles have that of the original image; page.js finds them by the same formula.
    """
    scale = min(side / max(size), 1)
    return tuple(max(int(pixels * scale + 0.5), 1) for pixels in size)


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of another (width, height)."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def encoded(image: Image.Image) -> bytes:
    """A picture as WebP: at this size JPEG takes about twice the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, **ENCODING)
    return buffer.getvalue()


class Sheets:
    """Tiles of a part, put on sheets that go to `store` once they are full: row by row, from the upper left."""

    def __init__(self, part: str, store: "Store"):
        self.part, self.store, self.tiles = part, store, 0
        self._clear()

    def _clear(self):
        self.sheet = Image.new("RGB", (TILE * ACROSS, TILE * ACROSS))

    def add(self, tile: np.ndarray | None) -> None:
        """Puts a tile at the upper left of the next place, which stays black for None."""
        down, across = divmod(self.tiles % ACROSS**2, ACROSS)
        if tile is not None:
            self.sheet.paste(Image.fromarray(tile), (across * TILE, down * TILE))
        self.tiles += 1
        if self.tiles % ACROSS**2 == 0:
            self._keep(ACROSS)

    def close(self) -> None:
        """Keeps the last sheet, as far as it is filled."""
        rows = -(-(self.tiles % ACROSS**2) // ACROSS)
        if rows:
            self._keep(rows)

    def _keep(self, rows):
        number = (self.tiles - 1) // ACROSS**2
        sheet = self.sheet.crop((0, 0, TILE * ACROSS, TILE * rows))
        self.store.add(f"sheets/{self.part}-{number}.webp", encoded(sheet))
        self._clear()


# ----------------------------------------------------------------------------------------------------------- keeping


class Store:
    """Keeps the pictures of the page at `page` in a folder beside it; if they are few bytes, they are for the page.

    `with Store(page) as store`: what is not put into its place by `replace` is gone at the end. Raises BuildError where
    the folder's name is taken by something else. Pictures are not synced to the disk: they can be made again.
    """

    def __init__(self, page: str):
        self.page = Path(page)
        self.folder = self.page.with_name(f"{self.page.stem}_files")
        self.beside = self.folder.with_name(f"{self.folder.name}.{os.getpid()}.incomplete")
        self.bytes = 0
        for folder in (self.folder, *self._leftovers()):
            _check_ours(folder)
        other = _page_of(self.folder)
        if other not in (None, self.page.name):
            raise BuildError(
                f"{self.folder}: holds the pictures of {other}; give {self.page.name} a name that differs in more than "
                f"its ending, or delete {other} and that folder"
            )

    def _leftovers(self):
        """Folders that runs for this page which were killed left behind."""
        pattern = re.compile(rf"{re.escape(self.folder.name)}\.\d+\.incomplete")
        found = [path for path in self.page.absolute().parent.glob("*.incomplete") if pattern.fullmatch(path.name)]
        return [path for path in found if _page_of(path) in (None, self.page.name)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        shutil.rmtree(self.beside, ignore_errors=True)

    def add(self, name: str, data: bytes) -> None:
        """Keeps a picture, e.g. "sheets/labeled-0.webp"."""
        if not self.bytes:
            text = "Made by scripts.review of hyper-kvasir, which replaces this folder with its page.\n"
            self._write(MARK, os.fsencode(f"{text}Page: {self.page.name}\n"))
        self.bytes += len(data)
        self._write(name, data)

    def _write(self, name, data):
        path = self.beside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    @property
    def is_embedded(self) -> bool:
        """Whether all pictures go into the page."""
        return self.bytes <= EMBEDDED_BYTES

    @property
    def embedded(self) -> dict[str, str] | None:
        """{name: base64} of all pictures where they go into the page; None where they stay in the folder."""
        if not self.is_embedded:
            return None
        files = sorted(path for path in self.beside.glob("*/*"))
        return {
            path.relative_to(self.beside).as_posix(): base64.b64encode(path.read_bytes()).decode() for path in files
        }

    @property
    def bytes_beside(self) -> int:
        """Bytes of the pictures in the folder."""
        return 0 if self.is_embedded else self.bytes

    def replace(self) -> None:
        """Puts the folder into its place, and removes those of earlier runs.

        The old page goes first: it never stands beside pictures of another.
        """
        for folder in self._leftovers():
            if folder.name != self.beside.name:
                shutil.rmtree(folder)
        if self.folder.exists() or not self.is_embedded:
            self.page.unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        if not self.is_embedded:
            self.beside.rename(self.folder)


def _page_of(folder):
    """The name of the page whose pictures a folder holds, if it says so."""
    mark = folder / MARK
    named = _NAMED.search(os.fsdecode(mark.read_bytes())) if mark.is_file() else None
    return named and named[1]


def _check_ours(folder):
    """Refuses a folder that is not of a review page, or in which somebody put something."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BuildError(f"{folder}: is in the way of the page's pictures; give the page another name, or move it away")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    strange = [name for name in files if not _OURS.fullmatch(name)]
    if strange or (files and MARK not in files):
        what = f"holds {strange[0]!r}" if strange else f"has no {MARK}"
        raise BuildError(
            f"{folder}: {what}, so it is not only of a review page; give the page another name, or move that away"
        )
