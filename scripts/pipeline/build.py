"""Makes a plan into a folder that is a Hub dataset repository, shard by shard, in parallel.

Shards are written to a hidden folder inside the output and moved to their places only when all are there and good, the
manifest last. So a kill leaves nothing that looks finished, and the journal there tells the next run what is done.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from hyper_kvasir import Expected, Part, Problems, SourceError, listed
from scripts.pipeline import leaks
from scripts.pipeline.card import write_card
from scripts.pipeline.configs import METADATA, VIEWS, looked_parts
from scripts.pipeline.console import Progress, say
from scripts.pipeline.files import (
    absolute,
    below,
    check_no_password,
    exists,
    file_sha256,
    move,
    opened,
    read,
    remove,
    remove_all,
    sizes,
    sync,
    write_file,
)
from scripts.pipeline.manifest import (
    FILE,
    edition_of,
    make_manifest,
    manifest_text,
    part_of_path,
    read_manifest,
    splits_of,
)
from scripts.pipeline.output import (
    STAGING,
    BuildError,
    Journal,
    check_disk,
    check_ours,
    only_builder_of,
    remove_leftovers,
    staged_name,
)
from scripts.pipeline.parquet import write_shard
from scripts.pipeline.plan import SCHEMA, Plan, PlannedShard, file_bytes, make_plan
from scripts.pipeline.pool import Workers, check_workers, finished, worker_pool


def build(
    folders: list[str],
    out: str,
    configs: list[str],
    *,
    workers: Workers,
    checks: bool,
    expected: Expected,
    looked: Sequence[str] = (),
    folds_from: str | None = None,
    max_side: int | None = None,
) -> None:
    """Builds `configs` from the archives in `folders` into `out`, keeping what is built already.

    With `max_side`, the small edition: images of at most so many pixels a side. Configs that `out` holds from earlier
    builds stay. `metadata` is of the parts `looked`, by default those that `out` then holds; its grouped folds stay as
    they are in `out`, or in the file `folds_from`. Raises SourceError listing all problems of the source, and
    BuildError where `out` or `workers` cannot be used.
    """
    try:
        with only_builder_of(out, folders) as lock:
            out = absolute(out)  # pyarrow takes relative names for addresses, and expands ~
            folders = check_workers(workers, folders, lock)
            given = None
            if folds_from:
                check_no_password(folds_from)
                from scripts.pipeline.quality import metadata

                given = metadata.earlier_of(absolute(folds_from))  # now, and not after the pass
            manifest = read_manifest(out) or read_manifest(os.path.join(out, STAGING))  # there, if a kill came then
            held = list(manifest["configs"]) if manifest else [METADATA]
            if list(configs) == [METADATA] and (max_side is None or held == [METADATA]):
                max_side = (manifest or {}).get("max_side")  # of what is there: metadata is the same in all editions
            _check_edition(out, manifest, max_side)
            parts = looked or looked_parts(configs, manifest)
            plan = make_plan(folders, configs, expected, checks, looked=parts, max_side=max_side)
            _build(plan, out, workers, checks, expected, given=given)
    except OSError as error:
        what = error.strerror or str(error)
        kept = "what is built so far is kept; " if _has_begun(out) else ""
        raise BuildError(f"{error.filename2 or error.filename or out}: {what}; {kept}fix that and run again") from error


def _has_begun(out):
    with contextlib.suppress(OSError):
        return exists(os.path.join(out, STAGING))
    return False


def _build(plan: Plan, out: str, workers: Workers, checks: bool, expected: Expected, *, given: Any) -> None:
    """`given`: `metadata.Earlier`, or None; its module loads OpenCV, so it is not named here."""
    remove_leftovers(out)
    staging = os.path.join(out, STAGING)
    old, moved = read_manifest(out), set()
    if old is None:
        moved, old = Journal(staging).moved(out), read_manifest(staging)  # moved there while files change places
    old = old or {"files": {}, "sources": {}, "configs": {}, "complete": True}
    _check_cut_off(plan, out, moved)
    names = {path: staged_name(path, planned.key) for path, planned in plan.shards.items()}
    kept, staged, todo = _sort_out(plan, out, old["files"], names, workers)
    _remove_stale(staging, {names[path] for path in staged})
    check_disk(out, sum(file_bytes(planned.shard, plan.max_side) for planned in todo.values()))
    with ThreadPoolExecutor(1) as disk:  # beside the work, as the disk takes nearly as long as that
        written = [
            *(os.path.join(staging, names[path]) for path in staged),
            *(os.path.join(out, path) for path in moved),
        ]
        synced = [disk.submit(sync, place) for place in written]  # a run that was cut off may not have come to that

        def made_one(place):
            synced.append(disk.submit(sync, place))

        built = build_shards(plan, todo, staging, old["sources"], workers, names=names, made_one=made_one)
        for job in synced:
            job.result()
    pa.default_memory_pool().release_unused()  # what a worker that is a thread has read; the card takes as much
    sources, made = built.sources, built.entries
    plan.problems.extend(built.problems)
    check_sources(plan, sources, expected, plan.problems)
    waived = plan.problems.settle(checks)
    if plan.looked:
        ours, theirs = _metadata(plan, out, old["files"], workers, given)
        kept, made = kept | ours, made | theirs
        waived += plan.problems.settle(checks)[len(waived) :]
    parts = {VIEWS[config].part for config in plan.configs}
    known = {part: source for part, source in old["sources"].items() if part not in parts}
    if plan.looked:  # of parts that are only looked at, files that there are stay of the source they were built from
        filed = {part_of_path(path) for path in old["files"]}
        known = {part: source for part, source in known.items() if part in filed}
    sources = {part: {**source, "complete": not waived} for part, source in sources.items()} | known
    files = kept | staged | made
    there = _with_rows(plan.configs, files, waived)
    files |= {path: entry for path, entry in old["files"].items() if part_of_path(path) not in parts}
    configs = [*there, *(config for config in old["configs"] if config not in plan.configs)]
    manifest = make_manifest(configs, sources, files, SCHEMA, max_side=plan.max_side)
    if "versions" in old and not made and not staged:
        manifest["versions"] = old["versions"]  # that made the files
    waiting = {names.get(path, path): path for path in [*staged, *made]}
    _put_in_place(out, waiting, old["files"], (set(old["files"]) | moved) - set(files))
    _report(files, len(made), waived)
    _finish(out, {**manifest, **({"card": old["card"]} if "card" in old else {})}, built.summaries)


def _check_edition(out, manifest, max_side):
    """Refuses to mix images of one size with those of another."""
    if manifest and manifest.get("max_side") != max_side:
        flag = f"give --max-side {manifest['max_side']}" if "max_side" in manifest else "leave --max-side out"
        raise BuildError(f"{out}: holds {edition_of(manifest)}; {flag}, or choose another folder")


def _remove_stale(staging, staged):
    """Removes what an earlier run has staged, and this one has no use for."""
    remove(staging, [path for path in below(staging, hidden=True) if path.startswith("data/") and path not in staged])


def _metadata(plan, out, old_files, workers, given):
    """The file of `metadata` as ({path: entry} if it is there, {path: entry} if it is made)."""
    from scripts.pipeline.quality import metadata  # loads OpenCV, which a plain build does not need

    path, staging = leaks.METADATA_FILE, os.path.join(out, STAGING)
    entries = [old_files[path]] if path in old_files else []
    # It may be in its place, and a kill have left the manifest as it was.
    there = _whole(out, {path: [*entries, *Journal(staging).entries().get(path, [])]}, 1)
    before = os.path.join(out, path) if there else None
    up_to_date = before and there[path]["key"] == metadata.metadata_key(plan.looked)
    if up_to_date and (given is None or metadata.has_folds(before, given)):
        say("metadata is up to date")
        say(leaks.report(leaks.read_rows(opened(before))))
        return there, {}
    if path in old_files and not there and given is None:
        text = "its grouped folds cannot be kept (but see --folds-from)"
        say(f"{path}: missing, or changed since it was written: {text}")
    Journal(staging).open()  # marks the folder as ours
    place = os.path.join(staging, path)
    found = metadata.make_metadata(plan.looked, out, place, workers=workers, before=before, given=given)
    for text in found.problems:
        plan.problems.add(text, waivable=True)
    Journal(staging).add(path, found.entry)
    sync(place)
    say(leaks.report(leaks.read_rows(opened(place))))
    return {}, {path: found.entry}


def _check_cut_off(plan, out, moved):
    """Refuses to go on without a part of which some files are new already, and others not: nothing tells which."""
    others = {part_of_path(path) for path in moved} - {VIEWS[config].part for config in plan.configs}
    if others:
        flags = " ".join(f"--config {part}" for part in sorted(others))
        text = "an earlier build was cut off while its files changed places; finish it first: python -m scripts.build"
        raise BuildError(f"{out}: {text} ... {flags}")


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
    for line in listed(waived).splitlines():
        say(f"waived: {line.removeprefix('- ')}")
    if waived:
        say("so this build is incomplete: it does not verify, and cannot be published")
    rows, size = (sum(entry[what] for entry in files.values()) for what in ("rows", "bytes"))
    kept = f"{len(files) - made:,} already there"
    say(f"Parquet files: {len(files):,} ({made:,} built, {kept}); rows: {rows:,}; {size / 1e6:,.1f} MB")


def check_sources(plan: Plan, sources: dict, expected: Expected, problems: Problems) -> None:
    """The fingerprints of a plan's sources against what is known of the official files."""
    for part in plan.parts:
        expected.check_fingerprint(part.archive, sources[part.name], problems)


def _sort_out(plan, out, old_files, names, workers):
    """Shards as (entries in place, entries staged by a run that was cut off, planned shards to build).

    `names` has those below STAGING. What is in place is read: bytes that changed since they were built are built again.
    """
    staging = os.path.join(out, STAGING)
    there = {p: old_files[p] for p, planned in plan.shards.items() if old_files.get(p, {}).get("key") == planned.key}
    kept = {path: there[path] for path in _whole(out, {path: [entry] for path, entry in there.items()}, workers)}
    changed = sorted(sizes(out, there.keys() - kept))
    if changed:
        say(f"built again, as their bytes changed since they were built:\n{listed(changed)}")
    todo = {path: planned for path, planned in plan.shards.items() if path not in kept}
    # Moved, but cut off before the manifest was written.
    kept |= built_shards(staging, out, todo, plan.decoded, workers)
    todo = {path: planned for path, planned in todo.items() if path not in kept}
    staged = built_shards(staging, staging, todo, plan.decoded, workers, names=names)
    return kept, staged, {path: planned for path, planned in todo.items() if path not in staged}


def built_shards(
    staging: str,
    folder: str,
    todo: dict[str, PlannedShard],
    decoded: Collection[str],
    workers: Workers,
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, dict]:
    """{path: manifest entry} of the shards `todo` that lie whole in `folder`, by the journal of an earlier run.

    They lie there under their paths, or under `names`, {path: name}.

    Those of the parts `decoded` only if their images were decoded then, too: a digest may have vouched for them, which
    counts for nothing in a build without checks.
    """
    entries, mine = Journal(staging).entries(), {}
    for path, planned in todo.items():
        good = [entry for entry in entries.get(path, []) if entry.get("key") == planned.key]
        mine[path] = [entry for entry in good if entry.get("decoded") or planned.shard.part not in decoded]
    paths = {(names or {}).get(path, path): path for path in todo}
    whole = _whole(folder, {name: mine[path] for name, path in paths.items()}, workers)
    return {paths[name]: {n: value for n, value in entry.items() if n != "decoded"} for name, entry in whole.items()}


def _whole(folder, entries, workers):
    """{path: entry} of the files of `folder` that have the bytes of one of their `entries`, {path: entries}.

    Threads read them, or a cluster, where all would have to come to this machine.
    """
    there, whole = sizes(folder, [path for path, some in entries.items() if some]), {}
    if not there:
        return whole
    threads = isinstance(workers, int)
    with (
        ThreadPoolExecutor(os.cpu_count()) if threads else worker_pool(workers) as pool,
        Progress(sum(there.values()), "reading what is built") as bar,
    ):
        jobs = {pool.submit(file_sha256, os.path.join(folder, path)): path for path in there}
        for path, sha256 in finished(pool, jobs):
            match = [entry for entry in entries[path] if entry["sha256"] == sha256]
            whole |= {path: match[0]} if match else {}
            bar.update(there[path])
    return {path: whole[path] for path in there if path in whole}


class Built(NamedTuple):
    """What `build_shards` gives."""

    sources: dict[str, dict]  # by part
    entries: dict[str, dict]  # of the manifest, by path
    summaries: dict[str, dict]  # by path
    problems: list[str]


def build_shards(
    plan: Plan,
    todo: dict[str, PlannedShard],
    into: str,
    old_sources: dict,
    workers: Workers,
    *,
    names: Mapping[str, str] | None = None,
    made_one: Callable[[str], Any] = lambda place: None,
) -> "Built":
    """Builds the shards `todo` below the folder `into`, and takes the fingerprints that `old_sources` lacks.

    They lie there under their paths, or under `names`, {path: name}. Calls `made_one` with the place of each file.
    """
    known = {part.name: {**part.archive.known(), "directory": plan.directories[part.name]} for part in plan.parts}
    sources = {name: old_sources[name] for name in known if known[name].items() <= old_sources.get(name, {}).items()}
    unknown = [part for part in plan.parts if part.name not in sources]
    made, summaries, problems, journal = {}, {}, [], Journal(into)
    if not unknown and not todo:
        return Built(sources, made, summaries, problems)
    total = sum(planned.shard.image_bytes for planned in todo.values())
    places = {path: os.path.join(into, (names or {}).get(path, path)) for path in todo}
    journal.open()
    with worker_pool(workers, len(unknown) + len(todo)) as pool, Progress(total, "reading images") as bar:
        jobs = {pool.submit(Part.fingerprint, part._replace(rows=[])): part.name for part in unknown}
        for path, planned in sorted(todo.items(), key=lambda item: -item[1].shard.image_bytes):  # large ones first
            decode = planned.shard.part in plan.decoded
            jobs[pool.submit(write_shard, *planned, places[path], decode=decode, max_side=plan.max_side)] = path
        for name, result in finished(pool, jobs):
            if name in known:
                sources[name] = {**result, "directory": plan.directories[name]}
            elif result.problems:
                problems += result.problems
            else:
                made[name], summaries[name] = result.entry, result.summary
                journal.add(name, {**result.entry, "decoded": todo[name].shard.part in plan.decoded})
                made_one(places[name])
                bar.update(todo[name].shard.image_bytes)
    return Built(sources, made, summaries, problems)


def _put_in_place(out, staged, old, stale):
    """Moves staged files, {name: path}, to their places and removes stale ones.

    From here on, until all is done, there is no manifest.
    """
    if not stale and not staged:
        return
    staging = os.path.join(out, STAGING)
    journal = Journal(staging)
    check_ours(out, staged.values(), old, journal)
    journal.open()  # marks the folder as ours while the manifest is away
    if exists(os.path.join(out, FILE)):
        move({FILE: FILE}, out, staging)
    move(staged, staging, out)
    remove(out, stale)


def _finish(out, manifest, summaries):
    """Writes the card where it differs, and the manifest last."""
    staging = os.path.join(out, STAGING)
    manifest = write_card(out, manifest, journal=Journal(staging), summaries=summaries)
    data = manifest_text(manifest).encode()
    if read(os.path.join(out, FILE)) != data:
        write_file(os.path.join(out, FILE), data)
    remove_all(staging)
