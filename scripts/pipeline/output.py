"""The folder that a command writes to: that it can be meant, that it is ours, and that nobody else writes to it."""

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from scripts.pipeline.files import file_sha256, sync
from scripts.pipeline.manifest import FILE, is_own_file, read_manifest

STAGING = ".building"
LOOKED = ".quality"  # what a pass over all images found, for the next one
LOCK = ".hyper-kvasir.lock"
LOCK_SECONDS = 10  # to wait for another build: the workers of a killed one end within a second or two


class BuildError(RuntimeError):
    """The output cannot be written; the message says why and what to do."""


class Journal:
    """What was written into a folder that has no manifest yet: a line of JSON for each file, [path, entry].

    It lies in the folder's STAGING, which it marks as ours. An entry has at least a "sha256".
    """

    def __init__(self, staging: str):
        self.staging, self.file = staging, os.path.join(staging, "journal")

    def open(self) -> None:
        """Makes the folder and the journal, if they are not there."""
        os.makedirs(self.staging, exist_ok=True)
        with open(self.file, "a", encoding="utf-8"):
            pass

    def add(self, path: str, entry: dict) -> None:
        """Notes a file that is written, or is about to be."""
        os.makedirs(self.staging, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([path, entry]))  # on a line of its own, whatever a kill left before it

    def entries(self) -> dict[str, list[dict]]:
        """{path: entries, the last one last}; lines that a kill or a power failure spoiled are passed over."""
        found: dict[str, list[dict]] = {}
        if os.path.exists(self.file):
            with open(self.file, encoding="utf-8", errors="replace") as file:
                for line in file:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        path, entry = json.loads(line)
                        if isinstance(entry["sha256"], str):
                            found.setdefault(path, []).append(entry)
        return found

    def moved(self, out: str) -> set[str]:
        """The data files that a build which was cut off has moved to their places in `out`."""
        data = {path: entries for path, entries in self.entries().items() if path.startswith("data/")}
        return {path for path, entries in data.items() if _has_bytes(os.path.join(out, path), entries)}

    def wrote(self, path: str, place: str) -> bool:
        """Whether the file at `place` has the bytes that were noted for `path`."""
        return _has_bytes(place, self.entries().get(path, []))


def _has_bytes(place, entries):
    """Whether there is a file that has the bytes of one of its entries."""
    return os.path.isfile(place) and file_sha256(place) in {entry["sha256"] for entry in entries}


def check_name(path: str) -> None:
    """Refuses a name that cannot be meant as one of a file or folder to write. Raises BuildError."""
    if not path.strip():
        raise BuildError("the name of the output is empty (a variable that is not set?); give one")
    if path.startswith("~"):
        raise BuildError(f"{path}: the shell did not expand ~ here; write the whole path, or $HOME")
    if re.match(r"[A-Za-z][\w+.-]+:/", path):
        raise BuildError(f"{path}: is an address; give a place on this machine, then publish or copy it")
    if not path.isprintable():
        raise BuildError(f"{path!a}: has characters that are not UTF-8, or not printable; choose another name")


def check_output(out: str) -> None:
    """Refuses a folder that cannot be meant to be written to. Raises BuildError."""
    check_name(out)
    whole = os.path.abspath(out)
    check_name(whole)
    if glob.has_magic(whole) or "::" in whole:
        raise BuildError(f"{whole}: datasets takes []*? and :: in a path for a pattern; choose another name")
    if os.path.lexists(out) and not os.path.isdir(out):
        what = "is a file" if os.path.exists(out) else "is a link to nothing"
        raise BuildError(f"{out}: {what}; give a folder for the output")


def check_beside(out: str, sources: Sequence[str]) -> None:
    """Refuses a folder that lies around or inside a source, which would then be something else. Raises BuildError."""
    place = os.path.realpath(out)
    for source in sources:
        around = os.path.realpath(source)
        if os.path.commonpath([place, around]) == place:
            raise BuildError(f"{out}: the source {source} lies in it; choose a folder beside the source")
        if os.path.commonpath([place, around]) == around:
            raise BuildError(f"{out}: lies in the source {source}; choose a folder beside it")


@contextlib.contextmanager
def only_builder_of(out: str, sources: Sequence[str] = ()):
    """Keeps an output folder to the code inside. Raises BuildError for one that is not ours, or is being written to."""
    check_output(out)
    check_beside(out, sources)
    try:
        manifest = read_manifest(out)
    except ValueError as error:
        raise BuildError(f"{error}; choose another output folder") from error
    staging = os.path.join(out, STAGING)
    begun = os.path.exists(Journal(staging).file)  # by a build that was cut off
    if not begun and os.path.isdir(staging) and os.listdir(staging):
        raise BuildError(f"{staging}: is not of this project; move it away, or choose another output folder")
    names = os.listdir(out) if os.path.isdir(out) and manifest is None and not begun else []
    names = [name for name in names if name != LOOKED and not name.endswith(LOCK)]
    if names:
        raise BuildError(
            f"{out}: holds {names[0]!r} and no {FILE}: it belongs to something else; choose a new or empty folder"
        )
    place = _lock_file(out)
    if place is None:
        if manifest is None:
            raise BuildError(f"{out}: cannot be written to; choose another output folder")
        yield  # to find out that there is nothing to do, or that it cannot be written
        return
    lock = FileLock(place)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise BuildError(f"{out}: another build is writing to it; wait for it, or choose another folder") from None
    except OSError as error:
        raise BuildError(
            f"{place}: cannot be locked ({error.strerror}); if no other build runs, remove that file"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(lock.lock_file)  # whoever waits for it sees that it is another one, and locks anew
        lock.release()


def _lock_file(out):
    """Beside the output, where each machine and container that writes to it sees it; None if nothing can be written.

    Not inside, since a run with nothing to do writes nothing there; but for a mounted folder, around which each has its
    own, or where only the folder itself can be written to.
    """
    above, name = os.path.split(os.path.realpath(out))
    name = name if len(os.fsencode(name)) < 200 else hashlib.sha256(os.fsencode(name)).hexdigest()
    if os.path.isdir(out) and (os.path.ismount(out) or not os.access(above, os.W_OK)):
        above = out
    if not os.path.isdir(above) and os.access(_nearest_folder(above), os.W_OK):
        os.makedirs(above, exist_ok=True)
    return os.path.join(above, f".{name}{LOCK}") if os.access(above, os.W_OK) else None


def _nearest_folder(path):
    return path if os.path.lexists(path) else _nearest_folder(os.path.dirname(path))


def remove_leftovers(out: str) -> None:
    """Removes files of ours that a kill left before they got their names. The folder must be locked."""
    for path in Path(out).rglob("*.incomplete"):
        name = re.fullmatch(r"(.*)\.\d+\.incomplete", path.relative_to(out).as_posix())
        if name and is_own_file(name[1]):
            path.unlink()


def check_ours(out: str, path: str, known: dict, journal: Journal | None) -> None:
    """Refuses to replace what is in the way of a file: a folder, or a file that was not written here.

    `known` has the paths that were ours to write before. Raises BuildError.
    """
    place = os.path.join(out, path)
    if not os.path.lexists(place):
        return
    if not os.path.isfile(place) or not (path in known or (journal and journal.wrote(path, place))):
        raise BuildError(f"{place}: is in the way, and not of this project; move it away, and run again")


def move(paths: list[str], source: str, target: str) -> None:
    """Moves files from one folder to another, for good: their names are on the disk when it returns."""
    folders = set()
    for path in paths:
        place = os.path.join(target, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.replace(os.path.join(source, path), place)
        folders.add(os.path.dirname(place))
    for folder in folders:
        sync(folder)
