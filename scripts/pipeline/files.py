"""Writes files so that they are whole, or not there, even after a power failure; reads, lists, moves and removes them.

A place is a path, or an address that fsspec knows, as "s3://bucket/folder"; os.path.join joins both. An object at an
address is written by one call, so that it appears whole, or not at all. It cannot be appended to, and moving it is
copying it there, and removing it here. What goes wrong at an address is an OSError that names it.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import posixpath
import re
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import fsspec

BLOCK = 4096  # bytes: the unit of a disk, of which direct writes are multiples
AT_ONCE = 8 << 20  # bytes of one such write


def is_address(place: str | Path) -> bool:
    """Whether a place is at an address, and not on a disk of this machine."""
    return "://" in str(place)


def absolute(place: str) -> str:
    """A place that means the same wherever it is said."""
    return place.rstrip("/") if is_address(place) else os.path.abspath(place)


def check_address(place: str) -> None:
    """Raises ValueError, saying what to do, for an address that cannot be used here, or that tells a password."""
    check_no_password(place)
    for link in place.split("::"):  # of a chain, as simplecache::s3://
        kind = link.partition("://")[0]
        try:
            fsspec.get_filesystem_class(kind)
        except ValueError as error:
            raise ValueError(f"{place}: there is no {kind}://; expected e.g. s3://bucket/folder") from error
        except ImportError as error:
            advice = "; scripts/cluster-requirements.txt has what it needs" if kind.startswith("s3") else ""
            raise ValueError(f"{place}: {error}{advice}") from error


def check_no_password(place: str) -> None:
    """Raises ValueError for an address that has a password: messages would tell it, and logs."""
    shown = re.sub(r"(?<!github)(?<!git)://[^/]*:[^/]*@", "://...@", place)  # github://owner:name@revision/ has none
    if shown != place:
        raise ValueError(f"{shown}: has a password in it, which messages would tell; give it by the environment")


def one_name(address: str) -> str:
    """An address by one of its names: "s3a://" is another for "s3://"."""
    system, inside = fsspec.core.url_to_fs(address)
    return f"{type(system).__name__}://{inside}"


@contextlib.contextmanager
def _at(place):
    """(file system, the place as it takes that) of an address. What goes wrong inside is an OSError that names it."""
    try:
        yield fsspec.core.url_to_fs(place, use_listings_cache=False)  # others write there, too
    except Exception as error:  # each system has errors of its own, but for these, and some fill in nothing of them
        if isinstance(error, OSError) and error.filename:
            raise
        number = next((number for kind, number in _KINDS.items() if isinstance(error, kind)), errno.EIO)
        text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        if type(error).__name__ == "NoCredentialsError":
            text += "; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        raise OSError(number, text, place) from error


_KINDS = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, PermissionError: errno.EACCES}


# --------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """A name beside a file, under which to write what takes its place; nothing is left of it after an error.

    No other machine that writes there has that name.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    other = f"{path}.{uuid.uuid4().hex}.incomplete"
    try:
        yield other
        os.replace(other, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(other)


def write_file(place: str | Path, data: bytes) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves no half of it."""
    if is_address(place):
        with _at(place) as (system, inside):
            return system.pipe_file(inside, data)
    path = os.path.abspath(place)
    with replacing(path) as other, open(other, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync(os.path.dirname(path))


def create(address: str, data: bytes) -> bool:
    """Writes an object that is not there; False if it is. Of two that try, one succeeds, where the system can tell."""
    with contextlib.suppress(FileExistsError), _at(address) as (system, inside):
        system.pipe_file(inside, data, mode="create")
        return True
    return False


def append(place: str, line: str) -> None:
    """Adds a line to a file, made if it is not there; at an address an object below that, as none can grow."""
    if is_address(place):
        return write_file(f"{place}/{time.time_ns()}", line.encode())
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "a", encoding="utf-8") as file:
        file.write(f"\n{line}")  # on a line of its own, whatever a kill left before it


def lines(place: str) -> list[str]:
    """What was appended, in that order; none where there is no such file. A kill may have spoiled some of it."""
    if is_address(place):
        objects = sorted(below(place))
        with _at(place) as (system, inside):
            found = system.cat([f"{inside}/{name}" for name in objects]) if objects else {}
        data = b"\n".join(line for _, line in sorted(found.items()))
    else:
        data = read(place) or b""
    return data.decode("utf-8", "replace").splitlines()


_memory = threading.local()


def memory_for(size: int) -> mmap.mmap:
    """Memory of at least `size` bytes, at the start of a page, to make a file in. The next call in this thread gives it
    again: fresh memory would come page by page, at a tenth of the speed.
    """
    memory = getattr(_memory, "map", None)
    if memory is None or len(memory) < size:
        own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # else forked workers would make their files in the same memory
        memory = _memory.map = mmap.mmap(-1, -(-size // AT_ONCE) * AT_ONCE, own)
    return memory


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
    if is_address(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(names: Mapping[str, str], source: str, target: str) -> None:
    """Moves files, {path in `source`: path in `target`}, for good: these are on the disk when it returns."""
    if is_address(target):
        with _at(source) as (_, before), _at(target) as (system, after):
            system.copy([f"{before}/{path}" for path in names], [f"{after}/{path}" for path in names.values()])
        return remove(source, names)
    folders = set()
    for name, path in names.items():
        place = os.path.join(target, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.replace(os.path.join(source, name), place)
        folders.add(os.path.dirname(place))
    for folder in folders:
        sync(folder)


def remove(folder: str, paths: Collection[str]) -> None:
    """Removes files of a folder, if they are there."""
    if is_address(folder):
        with contextlib.suppress(FileNotFoundError), _at(folder) as (system, inside):
            if paths:
                system.rm([f"{inside}/{path}" for path in paths])
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, path))


def remove_all(folder: str) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if is_address(folder):
        remove(folder, below(folder, hidden=True))
    else:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- reading


def exists(place: str) -> bool:
    """Whether there is a file or folder."""
    if not is_address(place):
        return os.path.exists(place)
    with _at(place) as (system, inside):
        return system.exists(inside)


def names(folder: str) -> list[str]:
    """The names in a folder; none where there is no such folder."""
    if not is_address(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    with contextlib.suppress(FileNotFoundError), _at(folder) as (system, inside):
        return [posixpath.basename(name.rstrip("/")) for name in system.ls(inside, detail=False)]
    return []


def below(folder: str, *, hidden: bool = False) -> dict[str, int]:
    """{path: bytes} of the files of a folder and of those in it; of hidden ones, too, if asked."""
    found = {}
    if is_address(folder):
        with _at(folder) as (system, inside):
            entries = system.find(inside, detail=True)
        found = {posixpath.relpath(path, inside): entry["size"] for path, entry in entries.items()}
        return {path: size for path, size in found.items() if hidden or "/." not in f"/{path}"}
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        for place in (os.path.join(above, file) for file in files):
            found[os.path.relpath(place, folder).replace(os.sep, "/")] = os.lstat(place).st_size
    return found


def sizes(folder: str, paths: Collection[str]) -> dict[str, int]:
    """{path: bytes} of those files of a folder that are there."""
    if is_address(folder):
        found = below(folder, hidden=True) if paths else {}  # by a request for a thousand, and not one for each
        return {path: found[path] for path in paths if path in found}
    places = {path: os.path.join(folder, path) for path in paths}
    return {path: os.path.getsize(place) for path, place in places.items() if os.path.isfile(place)}


def read(place: str, most: int = -1) -> bytes | None:
    """The bytes of a file, None where there is none; of one on a disk at most so many."""
    with contextlib.suppress(FileNotFoundError):
        if is_address(place):
            with _at(place) as (system, inside):
                return system.cat_file(inside)
        with open(place, "rb") as file:
            return file.read(most)
    return None


def opened(place: str, ahead: int = 4 << 20):
    """What pyarrow reads a file from, as some rows or columns may be enough: its path, or the open object.

    Of an object so many bytes are asked for beyond what is read, as each request takes its time.
    """
    if not is_address(place):
        return place
    with _at(place) as (system, inside):
        return system.open(inside, "rb", block_size=ahead, cache_type="readahead")


def file_sha256(place: str | Path) -> str:
    """The sha256 of a file, in hex."""
    if is_address(place):
        with _at(place) as (system, inside):
            return hashlib.sha256(system.cat_file(inside)).hexdigest()
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
