"""Writes files so that they are whole, or not there, even after a power failure."""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096  # bytes: the unit of a disk, of which direct writes are multiples
AT_ONCE = 8 << 20  # bytes of one such write


def write_file(path: Path, data: bytes) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


_memory = threading.local()


@contextlib.contextmanager
def memory_for(size: int) -> Iterator[mmap.mmap]:
    """Memory of at least `size` bytes, at the start of a page, to make a file in; the same again for the next one.

    Its content is lost at the end. Fresh memory would be given page by page, at a tenth of the speed.
    """
    memory = getattr(_memory, "map", None)
    if memory is None or len(memory) < size:
        memory = _memory.map = mmap.mmap(-1, -(-size // AT_ONCE) * AT_ONCE)
    yield memory


def write_direct(path: str, memory: mmap.mmap, size: int) -> None:
    """Writes the first `size` bytes of memory, which is overwritten up to the next BLOCK, to a new file.

    Past the page cache, where system and file system know how: copying all into fresh pages of it takes more of the
    processor than all the rest of a build, and pushes out what others read.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags, 0o666)
    end = -(-size // BLOCK) * BLOCK
    try:
        with memoryview(memory) as view:
            at = 0
            while at < end:
                with view[at : min(at + AT_ONCE, end)] as some:
                    at += _write_some(descriptor, some)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _write_some(descriptor, some):
    try:
        return os.write(descriptor, some)
    except OSError as error:
        direct = getattr(os, "O_DIRECT", 0)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if error.errno != errno.EINVAL or not flags & direct:
            raise
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~direct)  # it was opened so, but cannot be written so
        return os.write(descriptor, some)


def sync(path: str | Path) -> None:
    """Puts a file's bytes on the disk, or the names in a folder: else a power failure may take them back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
