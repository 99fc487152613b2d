"""From sources to a plan: which shards there are, each with the key of its inputs, and what is wrong."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

import datasets

from hyper_kvasir import Expected, Part, Problems, Shard, SourceError, locate, read_folds, read_kvasir_seg, read_part
from scripts.pipeline.configs import METADATA, VIEWS, parts_of
from scripts.pipeline.console import say
from scripts.pipeline.parquet import features_metadata, writer_options
from scripts.pipeline.small import image_bytes, shard_limits, small_key

SCHEMA = 2  # of the stored files; increment it when the same inputs are to give other files


class PlannedShard(NamedTuple):
    """A shard with the key of all that its file depends on, and a digest of each row's inputs (8 hex digits each)."""

    shard: Shard
    key: str
    row_digests: str


@dataclass(frozen=True)
class Plan:
    """What to build: for `configs`, from `parts` in their archives."""

    configs: list[str]
    parts: list[Part]
    shards: dict[str, PlannedShard]  # by path in the repository
    problems: Problems
    decoded: frozenset[str] = frozenset()  # the parts whose images are decoded, as no digest vouches for them
    looked: dict[str, PlannedShard] = field(default_factory=dict)  # by path: what `metadata` is of, in the full edition
    max_side: int | None = None  # of images in pixels, in the small edition

    @functools.cached_property
    def directories(self) -> dict[str, str]:
        """{part: `directory_digest`}"""
        return {part.name: directory_digest(part) for part in self.parts}


def make_plan(
    folders: list[str],
    configs: list[str],
    expected: Expected,
    checks: bool = True,
    *,
    looked: Sequence[str] = (),
    max_side: int | None = None,
) -> Plan:
    """What to build from the archives in `folders` for `configs`. Reads directories and small files, no image of a zip.

    `looked`: the parts that `metadata` is of, if that is one of the configs. `max_side`: see `Plan`. Raises SourceError
    where a part has no archive. With `checks` off its configs are left out, if any others are there.
    """
    built = [part for part in parts_of(configs) if part != METADATA]
    located = {part: locate(part, folders) for part in dict.fromkeys([*built, *looked])}
    archives = {part: archive for part, (archive, _) in located.items()}
    absent = [text for archive, notes in located.values() if archive is None for text in notes]
    there = [config for config in configs if archives.get(VIEWS[config].part) or config == METADATA]
    if absent and (checks or not any(archives.values())):
        flags = [f"--config {config}" for config in [*there, *looked] if archives.get(VIEWS[config].part)]
        if flags:
            # That takes the configs to look at, and metadata is what it builds.
            flags += ["(and --config metadata, except in scripts.quality)"] if METADATA in configs else []
            absent[-1] += f"; or, to use what is there: {' '.join(dict.fromkeys(flags))}"
        raise SourceError(absent)
    for text in absent:
        say(f"left out: {text}")
    archives = {part: archive for part, archive in archives.items() if archive}
    for text in (text for part in archives for text in located[part][1]):
        say(text)
    decoded = {part for part, archive in archives.items() if not (checks and expected.vouches_for(part, archive))}
    problems, folds = Problems(), {}
    if set(archives) - {"unlabeled"}:
        folds = read_folds(datasets.DownloadManager(), folders, expected, problems)
    parts = []
    for name, archive in archives.items():
        try:
            kvasir_seg = read_kvasir_seg() if name == "segmented" else {}
            part = read_part(name, archive, folds, expected, problems, kvasir_seg=kvasir_seg, with_crcs=True)
            parts.append(part)
        except SourceError as error:  # the archive itself; the others are still read, to say what is wrong there too
            problems.extend(error.problems)
    # What is looked at is of the full edition, whichever is built.
    full = _plan_shards(part for part in parts if part.name in looked or not max_side)
    shards = _plan_shards((part for part in parts if part.name in built), max_side) if max_side else full
    return Plan(there, parts, _of(built, shards), problems, frozenset(decoded), _of(looked, full), max_side)


def _plan_shards(parts, max_side=None):
    planned = {}
    for part in parts:
        shards = part.shards(shard_limits(part.name, max_side) if max_side else None)
        planned |= {shard.path: plan_shard(shard, max_side) for shard in shards}
    return planned


def _of(parts, shards):
    return {path: planned for path, planned in shards.items() if planned.shard.part in parts}


def file_bytes(shard: Shard, max_side: int | None) -> int:
    """About the bytes of a shard's file, before it is made. `max_side`: see `Plan`.

    Images smaller than that are not enlarged, but may be encoded at a higher quality than they had.
    """
    return min(len(shard.rows) * image_bytes(max_side), 2 * shard.image_bytes) if max_side else shard.image_bytes


def directory_digest(part: Part) -> str:
    """A digest of the names, sizes and CRCs of all members of a part."""
    lines = sorted(f"{path} {member.size} {member.crc:08x}\n" for path, member in part.members.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def plan_shard(shard: Shard, max_side: int | None = None) -> PlannedShard:
    """A shard with its key, which is known without reading an image of a zip. `max_side`: see `Plan`."""

    def inputs(row):
        files = [(member.size, member.crc) for member in (row.image, row.mask) if member]
        names = [row.kvasir_seg_id, row.kvasir_seg_set]
        return [row.image_id, row.label, row.fold_2, row.fold_5, *names, files, row.boxes, row.size]

    rows = [json.dumps(inputs(row)) for row in shard.rows]
    features = features_metadata(shard.part, max_side is not None)
    described = [SCHEMA, writer_options(shard.part), shard.part, features, rows]
    described += [small_key(max_side)] if max_side else []
    digests = "".join(f"{crc32(row.encode()):08x}" for row in rows)
    return PlannedShard(shard, hashlib.sha256(json.dumps(described).encode()).hexdigest(), digests)
