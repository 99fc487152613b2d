"""A release: a built folder as it lies there, or straight from the archives.

From the archives, only parts whose inputs changed since the published version are built. Unchanged parts are neither
built nor downloaded: their rows are known from the archives, their files from the published manifest.
"""

import json
import os
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from hyper_kvasir import CATEGORIES, TAXONOMY, TRACTS, Expected, Part, part_of, read_examples, settle
from scripts.pipeline import stats
from scripts.pipeline.build import STAGING, build_parts, built_parts, source_bytes, source_problems
from scripts.pipeline.card import check_card, find_row, folder_examples, lint_card, make_card, stale
from scripts.pipeline.hub import (
    PublishError,
    Release,
    Remote,
    batches,
    download,
    opener,
    patiently,
    published_entries,
    upload,
)
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest
from scripts.pipeline.plan import SCHEMA, Plan, PlannedPart, make_plan
from scripts.pipeline.verify import FileContent, Verified, check_contents, read_contents, verify


class Edition(NamedTuple):
    """What a release is called, and where it goes."""

    version: str
    repo_id: str
    changelog: str  # the text of CHANGELOG.md


def folder_release(folder: str, edition: Edition, expected: Expected, workers: int) -> Release:
    """The release of a built folder. Raises PublishError where it does not verify or its card is stale."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise PublishError(f"{folder}: no {FILE}: not a built folder, or its build was cut off; run scripts.build")
    _refuse("the verification is not green", verify(folder, expected, workers).listed())
    _refuse("the card is stale", stale(folder, manifest))
    summaries = stats.collect(folder, manifest, stats.read_stats(folder))
    manifest, texts = _with_card(manifest, edition, summaries, folder_examples(folder, summaries))
    _refuse("the card is wrong", check_card(texts["README.md"].decode(), manifest, folder))
    return Release(edition.version, folder, manifest, texts)


def _refuse(what, problems):
    if problems:
        raise PublishError(f"{what}:\n" + "\n".join(f"- {problem}" for problem in problems))


def _with_card(manifest, edition, summaries, example):
    """(the manifest as it is published, the small files that go along with it)"""
    manifest = {"version": edition.version, **manifest}
    manifest, texts = make_card(manifest, summaries, example, edition.repo_id, edition.changelog)
    _refuse("the Hub would not take the card", lint_card(texts["README.md"].decode(), list(manifest["files"])))
    return manifest, {**texts, FILE: manifest_text(manifest).encode()}


def changed_parts(plan: Plan, remote: Remote) -> dict[str, PlannedPart]:
    """The parts of a plan that are not published with the same key."""
    published = published_entries(remote)
    return {path: p for path, p in plan.parts.items() if published.get(path, {}).get("key") != p.key}


class Sources(NamedTuple):
    """What a release is built from, and where."""

    folders: list[str]
    work: str
    configs: list[str]
    expected: Expected
    workers: int
    part_by_part: bool  # uploaded and removed before the next is built, so that `work` stays small


def source_release(api: HfApi, edition: Edition, branch: str, remote: Remote, sources: Sources) -> Release:
    """Builds and verifies what is not published yet; returns the release of it and what is kept.

    Raises SourceError with all problems of the source, PublishError where the result does not verify.
    """
    repo_id = edition.repo_id
    plan = make_plan(sources.folders, sources.configs, sources.expected)
    settle(plan.problems, checks=True)
    published, old = published_entries(remote), remote.manifest or {"sources": {}, "configs": {}}
    todo = changed_parts(plan, remote)
    entries = {path: published[path] for path in plan.parts if path not in todo}
    contents = {path: planned_content(plan.parts[path].part, entry) for path, entry in entries.items()}
    summaries = _published_stats(api, repo_id, remote)
    staging, known, uploaded = os.path.join(sources.work, STAGING), dict(old["sources"]), {}
    for batch in batches({path: source_bytes(p.part) for path, p in todo.items()}) or [[]]:
        made = built_parts(staging, staging, {path: todo[path] for path in batch})
        missing = {path: todo[path] for path in batch if path not in made}
        found, new, problems = build_parts(plan, missing, staging, known, sources.workers)
        settle([*problems, *source_problems(plan, found, sources.expected)], checks=True)
        known |= {part: {**source, "complete": True} for part, source in found.items()}
        made |= new
        contents |= read_contents(staging, sorted(made), sources.workers)
        summaries |= stats.collect(staging, {"files": made}, summaries)
        entries |= made
        if sources.part_by_part:
            uploaded |= upload(api, repo_id, branch, sorted(made), staging)
            for path in made:
                os.remove(os.path.join(staging, path))
    built = {part_of(config) for config in sources.configs}
    others = {path: entry for path, entry in published.items() if path.split("/")[1] not in built}
    opened = opener(api, repo_id, remote)
    contents |= {path: _published_content(path, entry, opened) for path, entry in others.items()}
    entries |= others
    manifest = make_manifest([*sources.configs, *old["configs"]], known, entries, SCHEMA)
    result = Verified(configs=list(manifest["configs"]))
    check_contents(manifest, contents, sources.expected, result)
    _refuse("the verification is not green", result.listed())
    summaries = stats.collect(staging, manifest, summaries, opened)
    example = _example_finder(plan, summaries, opened)
    manifest, texts = _with_card(manifest, edition, summaries, example)
    rows = {path: _rows(plan.parts[path]) for path in todo}
    return Release(edition.version, staging, manifest, texts, uploaded, rows)


def _published_stats(api, repo_id, remote):
    """The summaries of the published files; none where none were published."""
    if stats.FILE not in remote.files:
        return {}
    return json.loads(patiently("reading stats.json", lambda: download(api, repo_id, stats.FILE, remote.head)))


def _published_content(path, entry, opened):
    """What a published file of a part that is not built here holds: its columns, without the images."""

    def read():
        # No threads, see hub.read_rows.
        with opened(path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            names = [
                n for n in parquet.schema_arrow.names if not pa.types.is_nested(parquet.schema_arrow.field(n).type)
            ]
            boxes = 0
            if "objects" in parquet.schema_arrow.names:
                objects = parquet.read(columns=["objects"], use_threads=False)["objects"].to_pylist()
                boxes = sum(len(row["id"]) for row in objects)
            columns = parquet.read(columns=names, use_threads=False).to_pydict()
            return FileContent(entry["sha256"], columns, [], None, boxes, [])

    return patiently(f"reading the columns of {path}", read)


def _example_finder(plan, summaries, opened):
    """Rows for the card: from the archives, and from the Hub those of parts that are not built here."""
    rows = {(p.part.config, row.image_id): (p.part, row) for p in plan.parts.values() for row in p.part.rows}

    def example(part, image_id):
        if (part, image_id) in rows:
            planned, row = rows[part, image_id]
            return read_examples(planned, [row], []).to_pylist()[0]
        return find_row(opened(stats.path_of(summaries, part, image_id)), image_id)

    return example


def planned_content(part: Part, entry: dict) -> FileContent:
    """What a published file holds, from the rows that it was planned of; its masks are not read again."""
    columns: dict[str, list] = {"image_id": [row.image_id for row in part.rows]}
    if part.config != "unlabeled":
        columns["label"] = [row.label for row in part.rows]
        columns["fold_2"] = [row.fold_2 for row in part.rows]
        columns["fold_5"] = [row.fold_5 for row in part.rows]
    if part.config == "labeled":
        columns["category"] = [CATEGORIES.index(TAXONOMY[row.label].category) for row in part.rows]
        columns["tract"] = [TRACTS.index(TAXONOMY[row.label].tract) for row in part.rows]
    boxes = sum(len(row.boxes) for row in part.rows)
    return FileContent(entry["sha256"], columns, [row.image.crc for row in part.rows], None, boxes, [])


def _rows(planned):
    ids = [f"{planned.part.config} {row.image_id}" for row in planned.part.rows]
    return {image_id: planned.row_digests[8 * i : 8 * i + 8] for i, image_id in enumerate(ids)}
