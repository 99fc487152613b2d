"""Makes an export: reads the files of a version one by one, writes what the format makes of their rows."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from scripts.pipeline.console import Progress
from scripts.pipeline.export.choose import choose
from scripts.pipeline.export.folder import staged
from scripts.pipeline.export.formats import FORMATS, Export, Format, check, folder_name, readme
from scripts.pipeline.versions import Version

SCHEMA = 1  # increment it when the same rows are to give other files: an export that was begun is begun anew


class Exported(NamedTuple):
    """Images by split; `new` is False where the export was there already."""

    images: dict[str, int]
    new: bool


def export(version: Version, name: str, config: str, to: str, *, split: str | None = None) -> Exported:
    """Writes a config of a version, or one split of it, into the folder `to` in the format of a name.

    After a kill, the same call goes on. Raises ValueError for what the version or the format does not have, BuildError
    for a folder that cannot be written.
    """
    form = FORMATS[name]
    check(name, config, to)
    chosen = choose(version, config, split)
    entries = {path: version.manifest["files"][path] for path in chosen.files}
    identity = {
        **{"format": name, "config": config, "splits": chosen.splits, "of": version.name, "schema": SCHEMA},
        "files": {path: version.manifest["files"][path]["sha256"] for path in (*entries, *chosen.others)},
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    needed = form.room * sum(chosen.bytes(path, entry["bytes"]) for path, entry in entries.items())
    with staged(to, identity, int(needed)) as made:
        if made.finished:
            return Exported(made.images, False)
        with (
            Progress(sum(e["rows"] for e in entries.values()), f"exporting to {name}", unit=" images") as bar,
            ThreadPoolExecutor() as threads,
        ):
            numbers = dict.fromkeys(chosen.splits, 0)  # of the data files so far that have rows of a split
            for path in chosen.files:
                if path not in made.done:
                    made.add(path, *_export_file(form, made.files, chosen.rows(version, path), numbers, threads))
                for of in made.done[path].notes:
                    numbers[of] += 1
                bar.update(entries[path]["rows"])
        notes = {of: [n for path in chosen.files for n in made.done[path].notes.get(of, ())] for of in chosen.splits}
        made.images = {of: len(some) for of, some in notes.items()}
        about = Export(name, config, chosen.part, version.name, digest, folder_name(to), made.images)
        for path, data in (*form.index(about, notes), ("README.md", readme(about))):
            _write(made.files, path, data)
    return Exported(made.images, True)


def _export_file(form: Format, folder: Path, rows: Iterable[tuple[str, list[dict]]], numbers: dict, threads):
    """({path: bytes} of the files made of a data file, what is to be remembered of its rows by split)"""
    sizes, notes = {}, {}
    for split, some in rows:
        if form.pack:
            files = form.pack(split, numbers[split], some)
        else:
            files = chain.from_iterable(threads.map(lambda row, of=split: list(form.files(of, row)), some))
        sizes |= {path: _write(folder, path, data) for path, data in files}
        notes[split] = [form.note(row) for row in some]
    return sizes, notes


def _write(folder, path, data):
    """Writes a file of an export, and returns its size."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place.write_bytes(data)
