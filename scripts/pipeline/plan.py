"""From sources to a plan: which parts there are, each with the key of its inputs, and what was found wrong."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import datasets

from hyper_kvasir import (
    Archive,
    Expected,
    Member,
    Part,
    Problem,
    SourceError,
    find_archive,
    fold_texts,
    list_members,
    missing_archive,
    part_of,
    plan_parts,
    read_folds,
    read_member,
    read_rows,
    zlib,
)
from scripts.pipeline.console import say
from scripts.pipeline.parquet import features_metadata, writer_options

SCHEMA = 1  # of the stored files; counted up when the same inputs are to give other files


class PlannedPart(NamedTuple):
    """A part with the key of all that its file depends on, and a digest of each row's inputs (8 hex digits each)."""

    part: Part
    key: str
    row_digests: str


@dataclass(frozen=True, eq=False)
class SourcePart:
    """A part of the dataset in its archive. `directory`: a digest of its members' names, sizes and CRCs."""

    part: str
    archive: Archive
    members: dict[str, Member]
    directory: str


@dataclass(frozen=True)
class Plan:
    configs: list[str]
    sources: list[SourcePart]
    parts: dict[str, PlannedPart]  # by path in the repository
    problems: list[Problem]


def make_plan(folders: list[str], configs: list[str], expected: Expected, checks: bool = True) -> Plan:
    """What to build from the archives in `folders` for `configs`. Reads directories and small files, no image of a zip.

    Raises SourceError where a part has no archive. With `checks` off its configs are left out, if any others are there.
    """
    wanted = list(dict.fromkeys(part_of(config) for config in configs))
    archives = {part: find_archive(part, folders) for part in wanted}
    absent = [missing_archive(part, folders) for part, archive in archives.items() if archive is None]
    there = [config for config in configs if archives[part_of(config)]]
    if absent and (checks or not there):
        hint = [f"to build what is there: {' '.join(f'--config {config}' for config in there)}"] if there else []
        raise SourceError([*absent, *hint])
    for text in absent:
        say(f"left out: {text}")
    configs, archives = there, {part: archive for part, archive in archives.items() if archive}
    problems: list[Problem] = []
    folds = {}
    if list(archives) != ["unlabeled"]:
        folds = read_folds(fold_texts(datasets.DownloadManager(), folders, expected, problems), expected, problems)
    sources, parts = [], {}
    for part, archive in archives.items():
        try:
            members = list_members(archive, part, problems)
            if not archive.zipped:
                members = _with_crcs(archive, members, problems)
            rows = read_rows(part, archive, members, folds, expected, problems)
        except SourceError as error:  # the archive itself: go on, to say what is wrong with the others too
            problems += [Problem(text) for text in error.problems]
            continue
        sources.append(SourcePart(part, archive, members, _directory_digest(members)))
        parts |= {p.path: plan_part(p) for p in plan_parts(part, archive, rows)}
    return Plan(configs, sources, parts, list(dict.fromkeys(problems)))


def _with_crcs(archive, members, problems):
    """A folder has no directory of CRCs, so its files are read once for it; what cannot be read goes to `problems`."""

    def with_crc(item):
        path, member = item
        try:
            return path, member._replace(crc=zlib.crc32(read_member(archive, member)))
        except (SourceError, OSError) as error:
            problems.append(Problem(str(error)))
            return path, None

    with ThreadPoolExecutor() as threads:
        return {path: member for path, member in threads.map(with_crc, members.items()) if member}


def _directory_digest(members):
    lines = sorted(f"{path} {member.size} {member.crc:08x}\n" for path, member in members.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def plan_part(part: Part) -> PlannedPart:
    """A part with its key, which is known without reading an image of a zip."""

    def inputs(row):
        files = [(member.size, member.crc) for member in (row.image, row.mask) if member]
        return [row.image_id, row.label, row.fold_2, row.fold_5, files, row.boxes, row.size]

    rows = [json.dumps(inputs(row)) for row in part.rows]
    described = json.dumps([SCHEMA, writer_options(part.config), part.config, features_metadata(part.config), rows])
    digests = "".join(f"{zlib.crc32(row.encode()):08x}" for row in rows)
    return PlannedPart(part, hashlib.sha256(described.encode()).hexdigest(), digests)
