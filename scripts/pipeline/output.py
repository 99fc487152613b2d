"""The folder that a command writes to: that it can be meant, that it is ours, and that nobody else writes to it."""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from scripts.pipeline.files import (
    append,
    below,
    check_address,
    check_no_password,
    create,
    exists,
    file_sha256,
    is_address,
    lines,
    names,
    one_name,
    read,
    remove,
    sizes,
)
from scripts.pipeline.manifest import FILE, is_own_file, read_manifest

STAGING = ".building"
NO_CONTAINER = "pid:[4026531836]"  # as Linux calls the processes of a machine itself
LOOKED = ".quality"  # what a pass over all images found, for the next one
LOCK = ".hyper-kvasir.lock"
LOCK_SECONDS = 10  # to wait for another build: the workers of a killed one end within a second or two


class BuildError(RuntimeError):
    """The output cannot be written; the message says why and what to do."""


def staged_name(path: str, key: str) -> str:
    """Where below STAGING a data file waits for its place.

    By its key: what a worker of a cluster still writes for a build that was cut off is in no other's way.
    """
    return f"{path.removesuffix('.parquet')}-{key[:16]}.parquet"


class Journal:
    """What was written into a folder that has no manifest yet: a line of JSON for each file, [path, entry].

    It lies in the folder's STAGING, which it marks as ours. An entry has at least a "sha256".
    """

    def __init__(self, staging: str):
        self.staging, self.file = staging, os.path.join(staging, "journal")

    def open(self) -> None:
        """Makes the folder and the journal, if they are not there."""
        append(self.file, "")

    def add(self, path: str, entry: dict) -> None:
        """Notes a file that is written, or is about to be."""
        append(self.file, json.dumps([path, entry]))

    def entries(self) -> dict[str, list[dict]]:
        """{path: entries, the last one last}; lines that a kill or a power failure spoiled are passed over."""
        found: dict[str, list[dict]] = {}
        for line in lines(self.file):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                path, entry = json.loads(line)
                if isinstance(entry["sha256"], str):
                    found.setdefault(path, []).append(entry)
        return found

    def moved(self, out: str) -> set[str]:
        """The data files that a build which was cut off has moved to their places in `out`."""
        return self.wrote(out, [path for path in self.entries() if path.startswith("data/")])

    def wrote(self, out: str, paths: Collection[str]) -> set[str]:
        """Those of the files `paths` in `out` that have the bytes that were noted for them."""
        noted = {path: {entry["sha256"] for entry in entries} for path, entries in self.entries().items()}
        there = sizes(out, [path for path in paths if path in noted])
        return {path for path in there if file_sha256(os.path.join(out, path)) in noted[path]}


_LIKE_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # or one that was mistyped


def check_name(path: str) -> None:
    """Refuses a name that cannot be meant as one of a file or folder to write. Raises BuildError."""
    if not path.strip():
        raise BuildError("the name of the output is empty (a variable that is not set?); give one")
    if path.startswith("~"):
        raise BuildError(f"{path}: the shell did not expand ~ here; write the whole path, or $HOME")
    if _LIKE_ADDRESS.match(path):
        raise BuildError(f"{path}: is an address; give a place on this machine, then publish or copy it")
    if not path.isprintable():
        raise BuildError(f"{path!a}: has characters that are not UTF-8, or not printable; choose another name")


def check_output(out: str) -> None:
    """Refuses a folder that cannot be meant to be written to. Raises BuildError."""
    check_name(out)
    whole = os.path.abspath(out)
    check_name(whole)
    _check_no_pattern(whole)
    if os.path.lexists(out) and not os.path.isdir(out):
        what = "is a file" if os.path.exists(out) else "is a link to nothing"
        raise BuildError(f"{out}: {what}; give a folder for the output")


def _check_no_pattern(whole):
    if glob.has_magic(whole) or "::" in whole:
        raise BuildError(f"{whole}: datasets takes []*? and :: in a path for a pattern; choose another name")


def _check_output_address(out):
    """Refuses an address that cannot be meant, or cannot be used here. Raises BuildError."""
    try:
        check_no_password(out)
    except ValueError as error:
        raise BuildError(str(error)) from error
    kind, _, rest = out.partition("://")
    if kind in OTHER_WAYS:
        raise BuildError(f"{out}: cannot be built into; {OTHER_WAYS[kind]}")
    if not out.isprintable() or not all(rest.rstrip("/").split("/")):
        raise BuildError(f"{out!a}: not the address of a folder; expected e.g. s3://bucket/folder")
    _check_no_pattern(out)
    try:
        check_address(out)
    except ValueError as error:
        raise BuildError(str(error)) from error


OTHER_WAYS = {  # for addresses that fsspec knows
    "file": "give the path alone",
    "local": "give the path alone",
    "memory": "no other process sees it",
    "hf": "build into a folder, and give that to scripts.publish",
}


def check_beside(out: str, sources: Sequence[str]) -> None:
    """Refuses a folder that lies around or inside a source, which would then be something else. Raises BuildError."""
    place = _whole(out)
    for source in sources:
        around = _whole(source)
        if around.startswith(place):
            raise BuildError(f"{out}: the source {source} lies in it; choose a folder beside the source")
        if place.startswith(around):
            raise BuildError(f"{out}: lies in the source {source}; choose a folder beside it")


def _whole(place):
    """A place as all that lies in it begins."""
    return (one_name(place) if is_address(place) else os.path.realpath(place)).rstrip("/") + "/"


@contextlib.contextmanager
def only_builder_of(out: str, sources: Sequence[str] = ()):
    """Keeps an output folder to the code inside. Raises BuildError for one that is not ours, or is being written to.

    Gives the place of the lock, if there is one: whoever can write to the output sees it.
    """
    if is_address(out):
        _check_output_address(out)
    elif _LIKE_ADDRESS.match(out):
        raise BuildError(f"{out}: is neither a path nor an address; expected e.g. {out.replace(':/', '://', 1)}")
    else:
        check_output(out)
    check_beside(out, sources)
    try:
        manifest = read_manifest(out)
    except ValueError as error:
        raise BuildError(f"{error}; choose another output folder") from error
    staging = os.path.join(out, STAGING)
    begun = exists(Journal(staging).file)  # by a build that was cut off
    if not begun and names(staging) and not _is_late(staging):
        raise BuildError(f"{staging}: is not of this project; move it away, or choose another output folder")
    others = names(out) if manifest is None and not begun else []
    others = [name for name in others if name not in (LOOKED, STAGING) and not name.endswith(LOCK)]
    if others:
        raise BuildError(
            f"{out}: holds {others[0]!r} and no {FILE}: it belongs to something else; choose a new or empty folder"
        )
    with _lock_object(out) if is_address(out) else lock(out, manifest) as place:
        yield place


def _is_late(staging):
    """Whether all in STAGING is what workers have written after their build had ended."""
    found = [re.sub(r"\.[0-9a-f]{32}\.incomplete\Z", "", path) for path in below(staging, hidden=True)]
    return all(is_own_file(path) and re.search(r"-[0-9a-f]{16}\.parquet\Z", path) for path in found) and bool(found)


@contextlib.contextmanager
def lock(out: str, manifest: dict | None = None):
    """Locks a folder by a file, which ends with the process that holds it; gives its place.

    Of a folder with a manifest, nothing may be needed but to read: where it cannot be locked, None. Raises BuildError.
    """
    place = _lock_file(out)
    if place is None:
        if manifest is None:
            raise BuildError(f"{out}: cannot be written to; choose another output folder")
        yield None  # to find out that there is nothing to do, or that it cannot be written
        return
    lock = FileLock(place)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise BuildError(f"{out}: another command is writing to it; wait for it, or choose another folder") from None
    except OSError as error:
        raise BuildError(
            f"{place}: cannot be locked ({error.strerror}); if no other command runs, remove that file"
        ) from error
    try:
        yield place
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


@contextlib.contextmanager
def _lock_object(out):
    """Locks an address by an object in it, which says who holds it: nothing removes it when that is killed."""
    place = os.path.join(out, LOCK)
    mine = {**_here(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    try:
        holder = _take(place, mine)
    except OSError as error:
        raise BuildError(f"{out}: cannot be written to ({error.strerror}); choose another address") from error
    if holder != mine:
        by = f"since {holder.get('since')} by process {holder.get('pid')} on {holder.get('host')}"
        raise BuildError(
            f"{out}: another command is writing to it, {by}; wait for it, or if none runs any more, remove {place}"
        )
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):  # what the code inside raised says more
            if _holder(place) == mine:
                remove(out, [LOCK])


def _take(place, mine):
    """Who holds the lock at an address now: `mine`, or somebody else who is not known to be dead."""
    name = hashlib.sha256(place.encode()).hexdigest()
    with FileLock(os.path.join(tempfile.gettempdir(), f".{name}{LOCK}")) as one:  # of those who see it dead, takes it
        try:
            if not create(place, json.dumps(mine).encode()) and _is_dead(_holder(place)):
                remove(os.path.dirname(place), [LOCK])
                create(place, json.dumps(mine).encode())
        finally:
            os.remove(one.lock_file)
    return _holder(place)  # where an answer was lost, and the request sent again, it may be mine all the same


def _holder(place):
    try:
        return dict(json.loads(read(place) or b""))
    except (ValueError, TypeError):  # it is gone, or not one of this project
        return {}


def _here():
    """Where the number of a process means something: containers may have one host name, but count on their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"host": socket.gethostname(), "boot": boot, "processes": os.readlink("/proc/self/ns/pid")}
    except OSError:  # not on Linux
        return {"host": socket.gethostname()}


def _is_dead(holder):
    """Whether the process that holds a lock was on this machine, and is there no more."""
    here = _here()
    same = all(holder.get(name) == here.get(name) for name in ("host", "processes"))
    if not same or not isinstance(holder.get("pid"), int):
        return False
    if holder.get("boot") != here.get("boot"):
        return here["processes"] == NO_CONTAINER  # several containers may have one name, and be on several machines
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def check_disk(out: str, needed: int) -> None:
    """Raises BuildError where a folder cannot be written to, or its disk has no room for `needed` bytes."""
    if is_address(out):
        return
    above = _nearest_folder(os.path.abspath(out))
    free = shutil.disk_usage(above).free
    if needed and not os.access(above, os.W_OK):
        raise BuildError(f"{out}: cannot be written to; choose another output folder")
    if needed * 1.02 > free:
        sizes = f"{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free on its disk"
        raise BuildError(f"{out}: {sizes}; free some space or choose another folder")


def _nearest_folder(path):
    return path if os.path.lexists(path) else _nearest_folder(os.path.dirname(path))


def remove_leftovers(out: str) -> None:
    """Removes files of ours that a kill left before they got their names. The folder must be locked."""
    if is_address(out):  # where none appears before it is whole
        return
    for path in Path(out).rglob("*.incomplete"):
        name = re.fullmatch(r"(.*)\.[0-9a-f]+\.incomplete", path.relative_to(out).as_posix())
        if name and is_own_file(name[1]):
            path.unlink()


def check_ours(out: str, paths: Collection[str], known: Collection[str], journal: Journal | None) -> None:
    """Refuses to replace what is in the way of files: a folder, or a file that was not written here.

    `known` has the paths that were ours to write before. Raises BuildError.
    """
    files = sizes(out, paths)
    there = files if is_address(out) else [path for path in paths if os.path.lexists(os.path.join(out, path))]
    unknown = [path for path in there if path not in known or path not in files]
    ours = journal.wrote(out, unknown) if journal and unknown else ()
    for path in unknown:
        if path not in ours:
            place = os.path.join(out, path)
            raise BuildError(f"{place}: is in the way, and not of this project; move it away, and run again")
