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
