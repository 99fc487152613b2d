"""A plan made into a folder that is a Hub dataset repository, part by part, in parallel.

Parts are written to a hidden folder inside the output and moved to their places only when all are there and good, the
manifest last. So a kill leaves nothing that looks finished, and the next run finds what is done by the journal there.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from filelock import FileLock, Timeout

from hyper_kvasir import (
    Expected,
    Part,
    Problem,
    SourceError,
    check_fingerprint,
    file_sha256,
    fingerprint,
    part_of,
    settle,
)
from scripts.pipeline.card import write_card
from scripts.pipeline.console import Progress, say
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest, views_of
from scripts.pipeline.parquet import write_part
from scripts.pipeline.plan import SCHEMA, Plan, PlannedPart, make_plan
from scripts.pipeline.pool import worker_pool

STAGING = ".building"
JOURNAL = "journal"  # in STAGING: a line of JSON for each part that was built there, [path, manifest entry]


class BuildError(RuntimeError):
    """The output cannot be written; the message says why and what to do."""


def build(folders: list[str], out: str, configs: list[str], workers: int, checks: bool, expected: Expected) -> None:
    """Builds `configs` from the archives in `folders` into `out`, keeping what is built already.

    Configs that `out` holds from earlier builds stay. Raises SourceError listing all problems of the source, and
    BuildError where `out` cannot be used.
    """
    try:
        with only_builder_of(out):
            plan = make_plan(folders, configs, expected, checks)
            _build(plan, out, workers, checks, expected)
    except OSError as error:
        what = error.strerror or str(error)
        kept = "what is built so far is kept: " if os.path.isdir(os.path.join(out, STAGING)) else ""
        raise BuildError(f"{error.filename or out}: {what}; {kept}put that right and run again") from error


@contextlib.contextmanager
def only_builder_of(out: str):
    """Refuses a folder of something else, and a second build into the same one."""
    if glob.has_magic(out) or "::" in out:
        raise BuildError(f"{out}: datasets takes []*? and :: in a path for a pattern; choose another name")
    if os.path.exists(out) and not os.path.isdir(out):
        raise BuildError(f"{out}: is a file; give a folder for the output")
    try:
        manifest = read_manifest(out)
    except ValueError as error:
        raise BuildError(f"{error}; choose another output folder") from error
    others = [name for name in os.listdir(out) if name != STAGING] if os.path.isdir(out) else []
    if manifest is None and others and not os.path.isdir(os.path.join(out, STAGING)):
        raise BuildError(
            f"{out}: holds {others[0]!r} and no {FILE}: it belongs to something else; choose a new or empty folder"
        )
    # Outside of `out`, so that a run with nothing to do writes nothing there.
    name = hashlib.sha256(os.path.realpath(out).encode()).hexdigest()[:16]
    lock = FileLock(os.path.join(tempfile.gettempdir(), f"hyper-kvasir-{name}.lock"))
    try:
        lock.acquire(timeout=10)  # the workers of a killed build end within a second or two
    except Timeout:
        raise BuildError(f"{out}: another build is writing to it; wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def _build(plan: Plan, out: str, workers: int, checks: bool, expected: Expected) -> None:
    old = read_manifest(out) or read_manifest(os.path.join(out, STAGING))  # moved there while files change places
    old = old or {"files": {}, "sources": {}, "configs": {}, "complete": True}
    kept, staged, todo = _sort_out(plan, out, old["files"])
    _check_disk(out, sum(source_bytes(planned.part) for planned in todo.values()))
    sources, made, problems = build_parts(plan, todo, os.path.join(out, STAGING), old["sources"], workers)
    problems += source_problems(plan, sources, expected)
    waived = settle(list(dict.fromkeys([*plan.problems, *problems])), checks)
    sources = {part: {**source, "complete": not waived} for part, source in sources.items()}
    files = kept | staged | made
    there = _with_rows(plan.configs, files, waived)
    built = {part_of(config) for config in plan.configs}
    files |= {path: entry for path, entry in old["files"].items() if path.split("/")[1] not in built}
    configs = [*there, *(config for config in old["configs"] if config not in plan.configs)]
    manifest = make_manifest(configs, {**old["sources"], **sources}, files, SCHEMA)
    if "versions" in old and not made and not staged:
        manifest["versions"] = old["versions"]  # that made the files
    _put_in_place(out, [*staged, *made], set(old["files"]) - set(files))
    _report(files, len(made), waived)
    _finish(out, {**manifest, **({"card": old["card"]} if "card" in old else {})})


def _with_rows(configs, files, waived):
    """The configs that have rows. Without checks, a source may be so partial that nothing is left of one."""
    empty = [config for config in configs if not views_of(config, files)]
    text = f"no image for any split of {', '.join(empty)}"
    if empty == configs:
        raise SourceError([*waived, f"{text}; give the missing files, or build other configs (--config)"])
    if empty:
        say(f"left out: {text}")
    return [config for config in configs if config not in empty]


def _report(files, made, waived):
    for text in waived:
        say(f"waived: {text}")
    rows, size = (sum(entry[what] for entry in files.values()) for what in ("rows", "bytes"))
    kept = f"{len(files) - made:,} already there"
    say(f"Parquet files: {len(files):,} ({made:,} built, {kept}); rows: {rows:,}; {size / 1e6:,.1f} MB")


def source_problems(plan: Plan, sources: dict, expected: Expected) -> list[Problem]:
    """The fingerprints of a plan's sources against what is known of the official files."""
    return [p for s in plan.sources for p in check_fingerprint(s.archive, sources[s.part], expected)]


def source_bytes(part: Part) -> int:
    """Bytes of a part's images, which nearly are its file's."""
    return sum(row.image.size for row in part.rows)


def _sort_out(plan, out, old_files):
    """Parts as (entries in place, entries staged by a run that was cut off, planned parts to build)."""
    kept, todo = {}, {}
    for path, planned in plan.parts.items():
        place, entry = os.path.join(out, path), old_files.get(path, {})
        if entry.get("key") == planned.key and os.path.isfile(place) and os.path.getsize(place) == entry["bytes"]:
            kept[path] = entry
        else:
            todo[path] = planned
    staging = os.path.join(out, STAGING)
    kept |= built_parts(staging, out, todo)  # moved, but cut off before the manifest was written
    staged = built_parts(staging, staging, {path: p for path, p in todo.items() if path not in kept})
    return kept, staged, {path: p for path, p in todo.items() if path not in kept and path not in staged}


def built_parts(staging: str, folder: str, todo: dict[str, PlannedPart]) -> dict[str, dict]:
    """{path: manifest entry} of the parts `todo` that lie whole in `folder`, by the journal of an earlier run."""
    journal = {}
    try:
        with open(os.path.join(staging, JOURNAL), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a run that was killed
            path, entry = json.loads(line)
            journal[path] = entry

    def is_whole(path):
        file = os.path.join(folder, path)
        return os.path.isfile(file) and file_sha256(file) == journal[path]["sha256"]

    mine = [path for path, planned in todo.items() if journal.get(path, {}).get("key") == planned.key]
    return {path: journal[path] for path in mine if is_whole(path)}


def _check_disk(out, needed):
    above = os.path.abspath(out)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    if needed and not os.access(above, os.W_OK):
        raise BuildError(f"{out}: cannot be written to; choose another output folder")
    if needed * 1.02 > free:
        sizes = f"{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free on its disk"
        raise BuildError(f"{out}: {sizes}; free some space or choose another folder")


def build_parts(
    plan: Plan, todo: dict[str, PlannedPart], into: str, old_sources: dict, workers: int
) -> tuple[dict, dict, list[Problem]]:
    """Builds the parts `todo` below the folder `into`, and takes the fingerprints that `old_sources` lacks.

    Returns ({part: source}, {path: entry}, problems). Runs in `workers` processes.
    """
    sources, made, problems = {}, {}, []
    unknown = []
    for source in plan.sources:
        if _same_source(old_sources.get(source.part, {}), source):
            sources[source.part] = old_sources[source.part]
        else:
            unknown.append(source)
    if not unknown and not todo:
        return sources, made, problems
    total = sum(source_bytes(planned.part) for planned in todo.values())
    os.makedirs(into, exist_ok=True)
    with worker_pool(workers) as pool, Progress(total, "building") as bar:
        jobs = {pool.submit(fingerprint, s.archive, s.part, s.members): s for s in unknown}
        for path, planned in sorted(todo.items(), key=lambda item: -source_bytes(item[1].part)):  # large ones first
            jobs[pool.submit(write_part, *planned, os.path.join(into, path))] = path
        try:
            for job in as_completed(jobs):
                _collect(jobs[job], job.result(), sources, made, problems)
                if jobs[job] in made:
                    _note(into, jobs[job], made[jobs[job]])
                    bar.update(source_bytes(todo[jobs[job]].part))
        except BrokenProcessPool as error:
            raise BuildError("a worker was killed (out of memory?); run again, with fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return sources, made, problems


def _same_source(old, source):
    """Whether an earlier run took the fingerprint of this source: a zip of the same size and members, or a folder."""
    size = os.path.getsize(source.archive.path) if source.archive.zipped else None
    same = {"file": source.archive.file, "directory": source.directory, **({"bytes": size} if size is not None else {})}
    return same.items() <= old.items()


def _note(staging, path, entry):
    with open(os.path.join(staging, JOURNAL), "a", encoding="utf-8") as file:
        file.write(json.dumps([path, entry]) + "\n")


def _collect(job, result, sources, made, problems):
    if not isinstance(job, str):
        sources[job.part] = {**result, "directory": job.directory}
    elif "problems" in result:
        problems += [Problem(text) for text in result["problems"]]
    else:
        made[job] = result


def _put_in_place(out, staged, stale):
    """Moves staged files to their places and removes stale ones. From here on, until all is done, no manifest."""
    if not stale and not staged:
        return
    os.makedirs(os.path.join(out, STAGING), exist_ok=True)  # marks the folder as ours while the manifest is away
    with contextlib.suppress(FileNotFoundError):
        os.replace(os.path.join(out, FILE), os.path.join(out, STAGING, FILE))
    for path in staged:
        os.makedirs(os.path.dirname(os.path.join(out, path)), exist_ok=True)
        os.replace(os.path.join(out, STAGING, path), os.path.join(out, path))
    for path in stale:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(out, path))


def _finish(out, manifest):
    """Writes the card where it differs, and the manifest last."""
    text = manifest_text(write_card(out, manifest))
    if _read(os.path.join(out, FILE)) != text:
        beside = os.path.join(out, STAGING, f"new-{FILE}")
        os.makedirs(os.path.dirname(beside), exist_ok=True)
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, os.path.join(out, FILE))
    shutil.rmtree(os.path.join(out, STAGING), ignore_errors=True)


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
