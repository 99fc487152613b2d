"""Writes files so that they are whole, or not there."""

import os
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
