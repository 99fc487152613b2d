"""The folder of an export: it gets its name when all is in it, and what a kill left is taken up again.

    .NAME.exporting/journal     a line of JSON for each thing that is done: what it is of, its files, what to remember
    .NAME.exporting/files/...   becomes NAME

A journal that is of another export, or of another version of the dataset, begins anew.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.pipeline.files import append, below, lines, names, remove, sizes, sync
from scripts.pipeline.output import LOCK, BuildError, check_disk, check_output, lock

FILE = "export.json"  # in a finished export: what it is of


class Done(NamedTuple):
    """What is done of an export: a line of the journal."""

    name: str
    files: dict[str, int]  # {path: bytes}
    notes: dict[str, list]  # what the index needs of it, by split


class Staged:
    """An export that is being made: what is done, and where the next files go."""

    def __init__(self, place: Path):
        self.place, self.files = place, place / "files"
        self.done: dict[str, Done] = {}
        self.images: dict[str, int] = {}  # of the whole, by split, as soon as they are known
        self.finished = False  # by an earlier run

    def add(self, name: str, files: dict[str, int], notes: dict[str, list]) -> None:
        """Notes that the files of something are written."""
        self.done[name] = Done(name, files, notes)
        append(str(self.place / "journal"), json.dumps(self.done[name]))

    def take_up(self, identity: dict) -> None:
        """Finds what an earlier run did, if that was the same export; what it left half done is removed.

        Raises BuildError for a folder in its place that is not of this project.
        """
        written = self._journal()
        if written[:1] == [json.dumps(identity)]:
            for line in written[1:]:
                with contextlib.suppress(ValueError, TypeError):  # of a line that a kill spoiled
                    done = Done(*json.loads(line))
                    if sizes(str(self.files), done.files) == done.files:
                        self.done[done.name] = done
            known = {path for done in self.done.values() for path in done.files}
            remove(str(self.files), below(str(self.files), hidden=True).keys() - known)
        else:
            self.discard()

    def discard(self) -> None:
        """Removes what an earlier run left. Raises BuildError for a folder that is not of this project."""
        if not os.path.lexists(self.place):
            return
        written = self._journal()
        if self.place.is_symlink() or not written or '"format"' not in written[0] or '"schema"' not in written[0]:
            raise BuildError(f"{self.place}: is in the way, and not of this project; move it away, and run again")
        shutil.rmtree(self.place)

    def _journal(self):
        return [line for line in lines(str(self.place / "journal")) if line]

    def begin(self, identity: dict) -> None:
        """Makes the folder, where it is not there yet."""
        if not self.files.is_dir():
            self.files.mkdir(parents=True)
            append(str(self.place / "journal"), json.dumps(identity))


@contextlib.contextmanager
def staged(to: str, identity: dict, needed: int) -> Iterator[Staged]:
    """Gives an export to be made, which becomes the folder `to` after the code inside, unless it is `finished`.

    That is what its export.json says; whether all files are still there is not looked at.
    `identity` says what it is of, `needed` is about how many bytes it takes. Raises BuildError for a folder of
    something else.
    """
    check_output(to)
    whole = Path(os.path.realpath(to))
    if os.path.ismount(whole):
        raise BuildError(f"{to}: is a mounted folder, which cannot be replaced as a whole; give a new folder in it")
    made = Staged(whole.with_name(f".{whole.name}.exporting"))
    with lock(str(whole)) as locked:
        found = _read(whole)
        if found and all(found.get(name) == value for name, value in identity.items()):
            made.discard()  # of a run that was killed when all was done
            made.images, made.finished = found["images"], True
            yield made
            return
        if found:
            what = f"{found['format']} of {found.get('config')}, from {found.get('of')}"
            other = ", ".join(name for name, value in identity.items() if found.get(name) != value)
            text = f"holds another export ({what}; other {other})"
            raise BuildError(f"{to}: {text}; move it away, or choose another folder")
        if others := sorted(name for name in names(str(whole)) if not name.endswith(LOCK)):
            raise BuildError(f"{to}: holds {others[0]!r}, and is no export; choose a new or empty folder")
        if Path(locked).parent == whole:
            raise BuildError(f"{to}: the folder that it is in cannot be written to; choose another place")
        made.take_up(identity)
        check_disk(to, needed - sum(sum(done.files.values()) for done in made.done.values()))
        made.begin(identity)
        yield made
        text = json.dumps({**identity, "images": made.images}, indent=1)
        (made.files / FILE).write_text(f"{text}\n", encoding="utf-8")
        os.sync()  # thousands of small files: one by one, that takes longer than all the rest
        os.replace(made.files, whole)
        sync(whole.parent)
        shutil.rmtree(made.place)


def _read(folder):
    """What a finished export says of itself; None for a folder that is none."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and {"format", "images"} <= found.keys() else None
    return None
