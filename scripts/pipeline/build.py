"""A plan made into a folder that is a Hub dataset repository, part by part, in parallel.

Parts are written to a hidden folder inside the output and moved to their places only when all are there and good, the
manifest last. So a kill leaves nothing that looks finished, and the next run finds what is done by the keys in the
files' footers.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

import pyarrow as pa
from filelock import FileLock, Timeout

from hyper_kvasir import Expected, Part, Problem, check_fingerprint, fingerprint, part_of, settle
from scripts.pipeline.console import Progress, say
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest
from scripts.pipeline.parquet import image_crcs, read_entry, read_key, write_part
from scripts.pipeline.plan import SCHEMA, Plan, PlannedPart, make_plan
from scripts.pipeline.pool import worker_pool

STAGING = ".building"


class BuildError(RuntimeError):
    """The output cannot be written; the message says why and what to do."""


def build(folders: list[str], out: str, configs: list[str], workers: int, checks: bool, expected: Expected) -> None:
    """Builds `configs` from the archives in `folders` into `out`, keeping what is built already.

    Configs that `out` holds from earlier builds stay. Raises SourceError listing all problems of the source, and
    BuildError where `out` cannot be used.
    """
    try:
        with _only_builder_of(out):
            plan = make_plan(folders, configs, expected)
            _build(plan, out, workers, checks, expected)
    except OSError as error:
        what = error.strerror or str(error)
        advice = "what is built so far is kept: put that right and run again"
        raise BuildError(f"{error.filename or out}: {what}; {advice}") from error


@contextlib.contextmanager
def _only_builder_of(out):
    """Refuses a folder of something else, and a second build into the same one."""
    if glob.has_magic(out):
        raise BuildError(f"{out}: datasets takes []*? in a path for a pattern; choose another name for the folder")
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
    files = kept | staged | made
    built = {part_of(config) for config in plan.configs}
    others = [config for config in old["configs"] if part_of(config) not in built]
    files |= {path: entry for path, entry in old["files"].items() if path.split("/")[1] not in built}
    complete = not waived and (old["complete"] or not others)
    same_files = [config for config in old["configs"] if part_of(config) in built]
    configs = list(dict.fromkeys([*plan.configs, *same_files, *others]))
    manifest = make_manifest(configs, {**old["sources"], **sources}, files, complete, SCHEMA)
    _put_in_place(out, files, old["files"])
    _report(files, len(made), waived)
    _finish(out, {**manifest, **({"card": old["card"]} if "card" in old else {})})


def _report(files, made, waived):
    for text in waived:
        say(f"missing: {text}")
    rows, size = (sum(entry[what] for entry in files.values()) for what in ("rows", "bytes"))
    kept = len(files) - made
    say(f"Parquet files: {len(files):,} ({made:,} built, {kept:,} already there); rows: {rows:,}; {size / 1e6:,.1f} MB")


def source_problems(plan: Plan, sources: dict, expected: Expected) -> list[Problem]:
    """The fingerprints of a plan's sources against what is known of the official files."""
    return [p for s in plan.sources for p in check_fingerprint(s.archive, sources[s.part], expected)]


def source_bytes(part: Part) -> int:
    """Bytes of a part's images, which nearly are its file's."""
    return sum(row.image.size for row in part.rows)


def _sort_out(plan, out, old_files):
    """Parts as (entries in place, entries staged by a run that was cut off, planned parts to build)."""
    kept, staged, todo = {}, {}, {}
    for path, planned in plan.parts.items():
        place, beside = os.path.join(out, path), os.path.join(out, STAGING, path)
        entry = old_files.get(path, {})
        if entry.get("key") == planned.key and os.path.isfile(place) and os.path.getsize(place) == entry["bytes"]:
            kept[path] = entry
        elif is_built(place, planned):  # moved, but cut off before the manifest was written
            kept[path] = read_entry(place)
        elif is_built(beside, planned):
            staged[path] = read_entry(beside)
        else:
            todo[path] = planned
    return kept, staged, todo


def is_built(path: str, planned: PlannedPart) -> bool:
    """Whether a file that no manifest vouches for is this part: by its key, and the CRC of each image in it."""
    if read_key(path) != planned.key:
        return False
    try:
        return image_crcs(path) == [row.image.crc for row in planned.part.rows]
    except (OSError, pa.ArrowException):
        return False


def _check_disk(out, needed):
    above = os.path.abspath(out)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    if needed and not os.access(above, os.W_OK):
        raise BuildError(f"{out}: cannot be written to; choose another output folder")
    if needed * 1.02 > free:
        sizes = f"{needed / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free on its disk"
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
        if old_sources.get(source.part, {}).get("directory") == source.directory:
            sources[source.part] = old_sources[source.part]
        else:
            unknown.append(source)
    if not unknown and not todo:
        return sources, made, problems
    total = sum(source_bytes(planned.part) for planned in todo.values())
    with worker_pool(workers) as pool, Progress(total, "building") as bar:
        jobs = {pool.submit(fingerprint, s.archive, s.part, s.members): s for s in unknown}
        for path, planned in sorted(todo.items(), key=lambda item: -source_bytes(item[1].part)):  # large ones first
            jobs[pool.submit(write_part, *planned, os.path.join(into, path))] = path
        try:
            for job in as_completed(jobs):
                _collect(jobs[job], job.result(), sources, made, problems)
                if jobs[job] in todo:
                    bar.update(source_bytes(todo[jobs[job]].part))
        except BrokenProcessPool as error:
            raise BuildError("a worker was killed (out of memory?); run again, with fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return sources, made, problems


def _collect(job, result, sources, made, problems):
    if not isinstance(job, str):
        sources[job.part] = {**result, "directory": job.directory}
    elif "problems" in result:
        problems += [Problem(text) for text in result["problems"]]
    else:
        made[job] = result


def _put_in_place(out, files, old_files):
    """Moves staged files to their places and removes stale ones. From here on, until all is done, no manifest."""
    stale = sorted(set(old_files) - set(files))
    staged = [path for path in files if os.path.isfile(os.path.join(out, STAGING, path))]
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
    from scripts.pipeline.card import write_card  # loads matplotlib, which the start of a build need not wait for

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
