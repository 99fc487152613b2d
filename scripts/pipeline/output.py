"""The folder that a command writes to: that it can be meant, that it is ours, and that nobody else writes to it."""

import contextlib
import glob
import json
import os
import re
from collections.abc import Sequence

from filelock import FileLock, Timeout

from scripts.pipeline.files import file_sha256, sync
from scripts.pipeline.manifest import FILE, read_manifest

STAGING = ".building"
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
        self.open()
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps([path, entry]) + "\n")

    def entries(self) -> dict[str, list[dict]]:
        """{path: entries, the last one last}"""
        found: dict[str, list[dict]] = {}
        if os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as file:
                for line in file:
                    with contextlib.suppress(ValueError):  # the last line of a run that was killed
                        path, entry = json.loads(line)
                        found.setdefault(path, []).append(entry)
        return found


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
    if glob.has_magic(out) or "::" in out:
        raise BuildError(f"{out}: datasets takes []*? and :: in a path for a pattern; choose another name")
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
    """Refuses an output that is not ours to write, and a second build into the same one."""
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
    names = [name for name in names if not name.endswith(LOCK)]
    if names:
        raise BuildError(
            f"{out}: holds {names[0]!r} and no {FILE}: it belongs to something else; choose a new or empty folder"
        )
    lock = FileLock(_lock_file(out))
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise BuildError(f"{out}: another build is writing to it; wait for it, or choose another folder") from None
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(lock.lock_file)  # whoever waits for it sees that it is another one, and locks anew
        lock.release()


def _lock_file(out):
    """Beside the output, where every machine and container that writes to it sees it.

    Not inside, since a run with nothing to do writes nothing there; but for a mounted folder, around which each has its
    own, or where only the folder itself can be written to.
    """
    above, name = os.path.split(os.path.realpath(out))
    is_there = os.path.isdir(out)
    if is_there and (os.path.ismount(out) or not os.access(above, os.W_OK)):
        above = out
    os.makedirs(above, exist_ok=True)
    return os.path.join(above, f".{name}{LOCK}")


def check_ours(out: str, path: str, known: dict, journal: Journal) -> None:
    """Refuses to replace a file that is in the way: `known` has the paths that were ours to write before."""
    place = os.path.join(out, path)
    if path in known or not os.path.lexists(place):
        return
    ours = {entry["sha256"] for entry in journal.entries().get(path, [])}
    if not os.path.isfile(place) or file_sha256(place) not in ours:
        raise BuildError(f"{place}: is in the way, and not of this project; move it away, and run again")


def put(staging: str, out: str, paths: list[str]) -> None:
    """Moves files from one folder to another, for good."""
    folders = set()
    for path in paths:
        place = os.path.join(out, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.replace(os.path.join(staging, path), place)
        folders.add(os.path.dirname(place))
    for folder in folders:
        sync(folder)
