"""Writes files so that they are whole, or not there, even after a power failure."""

import hashlib
import os
from pathlib import Path


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


def sync(folder: str | Path) -> None:
    """Puts the names in a folder on the disk: else a file that was moved there may not be after a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
