"""Makes a plan into a folder that is a Hub dataset repository, shard by shard, in parallel.

Shards are written to a hidden folder inside the output and moved to their places only when all are there and good, the
manifest last. So a kill leaves nothing that looks finished, and the journal there tells the next run what is done.
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

from hyper_kvasir import VIEWS, Expected, Part, Problems, SourceError
from scripts.pipeline.card import write_card
from scripts.pipeline.console import Progress, say
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, part_of_path, read_manifest, splits_of
from scripts.pipeline.parquet import write_shard
from scripts.pipeline.plan import SCHEMA, Plan, PlannedShard, make_plan
from scripts.pipeline.pool import worker_pool

STAGING = ".building"
JOURNAL = "journal"  # in STAGING: a line of JSON for each shard that was built there, [path, manifest entry]


class BuildError(RuntimeError):
    """The output cannot be written; the message says why and what to do."""


def build(folders: list[str], out: str, configs: list[str], *, workers: int, checks: bool, expected: Expected) -> None:
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
        kept = "what is built so far is kept; " if os.path.isdir(os.path.join(out, STAGING)) else ""
        raise BuildError(f"{error.filename or out}: {what}; {kept}fix that and run again") from error


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
    # Outside `out`, so that a run with nothing to do writes nothing there.
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
    _check_disk(out, sum(planned.shard.image_bytes for planned in todo.values()))
    sources, made, damaged = build_shards(plan, todo, os.path.join(out, STAGING), old["sources"], workers)
    plan.problems.extend(damaged)
    check_sources(plan, sources, expected, plan.problems)
    waived = plan.problems.settle(checks)
    sources = {part: {**source, "complete": not waived} for part, source in sources.items()}
    files = kept | staged | made
    there = _with_rows(plan.configs, files, waived)
    built = {VIEWS[config].part for config in plan.configs}
    files |= {path: entry for path, entry in old["files"].items() if part_of_path(path) not in built}
    configs = [*there, *(config for config in old["configs"] if config not in plan.configs)]
    manifest = make_manifest(configs, {**old["sources"], **sources}, files, SCHEMA)
    if "versions" in old and not made and not staged:
        manifest["versions"] = old["versions"]  # that made the files
    _put_in_place(out, [*staged, *made], set(old["files"]) - set(files))
    _report(files, len(made), waived)
    _finish(out, {**manifest, **({"card": old["card"]} if "card" in old else {})})


def _with_rows(configs, files, waived):
    """The configs that have rows. Without checks, a source may be so partial that nothing is left of one."""
    empty = [config for config in configs if not splits_of(config, files)]
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


def check_sources(plan: Plan, sources: dict, expected: Expected, problems: Problems) -> None:
    """The fingerprints of a plan's sources against what is known of the official files."""
    for part in plan.parts:
        expected.check_fingerprint(part.archive, sources[part.name], problems)


def _sort_out(plan, out, old_files):
    """Shards as (entries in place, entries staged by a run that was cut off, planned shards to build)."""
    kept, todo = {}, {}
    for path, planned in plan.shards.items():
        place, entry = os.path.join(out, path), old_files.get(path, {})
        if entry.get("key") == planned.key and os.path.isfile(place) and os.path.getsize(place) == entry["bytes"]:
            kept[path] = entry
        else:
            todo[path] = planned
    staging = os.path.join(out, STAGING)
    kept |= built_shards(staging, out, todo)  # moved, but cut off before the manifest was written
    staged = built_shards(staging, staging, {path: p for path, p in todo.items() if path not in kept})
    return kept, staged, {path: p for path, p in todo.items() if path not in kept and path not in staged}


def built_shards(staging: str, folder: str, todo: dict[str, PlannedShard]) -> dict[str, dict]:
    """{path: manifest entry} of the shards `todo` that lie whole in `folder`, by the journal of an earlier run."""
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
        return os.path.isfile(file) and _file_sha256(file) == journal[path]["sha256"]

    mine = [path for path, planned in todo.items() if journal.get(path, {}).get("key") == planned.key]
    return {path: journal[path] for path in mine if is_whole(path)}


def _file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def build_shards(
    plan: Plan, todo: dict[str, PlannedShard], into: str, old_sources: dict, workers: int
) -> tuple[dict, dict, list[str]]:
    """Builds the shards `todo` below the folder `into`, and takes the fingerprints that `old_sources` lacks.

    Returns ({part: source}, {path: manifest entry}, problems). Runs in `workers` processes.
    """
    known = {part.name: {**part.archive.known(), "directory": plan.directories[part.name]} for part in plan.parts}
    sources = {name: old_sources[name] for name in known if known[name].items() <= old_sources.get(name, {}).items()}
    unknown = [part for part in plan.parts if part.name not in sources]
    made, problems = {}, []
    if not unknown and not todo:
        return sources, made, problems
    total = sum(planned.shard.image_bytes for planned in todo.values())
    os.makedirs(into, exist_ok=True)
    with worker_pool(workers) as pool, Progress(total, "building") as bar:
        jobs = {pool.submit(Part.fingerprint, part._replace(rows=[])): part.name for part in unknown}
        for path, planned in sorted(todo.items(), key=lambda item: -item[1].shard.image_bytes):  # large ones first
            jobs[pool.submit(write_shard, *planned, os.path.join(into, path))] = path
        try:
            for job in as_completed(jobs):
                name, result = jobs[job], job.result()
                if name in known:
                    sources[name] = {**result, "directory": plan.directories[name]}
                elif "problems" in result:
                    problems += result["problems"]
                else:
                    made[name] = result
                    _note(into, name, result)
                    bar.update(todo[name].shard.image_bytes)
        except BrokenProcessPool as error:
            raise BuildError("a worker was killed (out of memory?); run again, with fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return sources, made, problems


def _note(staging, path, entry):
    with open(os.path.join(staging, JOURNAL), "a", encoding="utf-8") as file:
        file.write(json.dumps([path, entry]) + "\n")


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
