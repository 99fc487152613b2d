"""A release: a built folder as it lies there, or straight from the archives.

From the archives, only parts whose inputs changed since the published version are built. Unchanged parts are neither
built nor downloaded: their rows are known from the archives, their files from the published manifest.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, HfApi

from hyper_kvasir import CATEGORIES, TAXONOMY, TRACTS, Expected, Part, part_of, read_examples, settle
from scripts.pipeline import stats
from scripts.pipeline.build import STAGING, build_parts, built_parts, source_bytes, source_problems
from scripts.pipeline.card import folder_examples, make_card
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.hub import (
    PublishError,
    Release,
    Remote,
    batches,
    check_lost,
    download,
    opener,
    patiently,
    published_entries,
)
from scripts.pipeline.manifest import FILE, make_manifest, manifest_text, read_manifest
from scripts.pipeline.parquet import find_row
from scripts.pipeline.plan import SCHEMA, Plan, PlannedPart, make_plan
from scripts.pipeline.verify import FileContent, Verified, check_contents, read_contents, verify


class Edition(NamedTuple):
    """What a release is called, and where it goes."""

    version: str
    repo_id: str
    changelog: str  # the text of CHANGELOG.md


class FolderMaker:
    """Makes the release of a built folder."""

    def __init__(self, folder: str, edition: Edition, expected: Expected, workers: int):
        self.repo_id = edition.repo_id
        self.release = functools.cache(lambda: folder_release(folder, edition, expected, workers))

    def plan(self, remote: Remote) -> Release:
        """The whole release. Raises PublishError where the folder, its card included, does not verify."""
        release = self.release()
        check_lost(self.repo_id, remote, {path.split("/")[1] for path in release.files})
        return release

    def build(self, remote: Remote, planned: Release, send: Callable[[list[str], str], dict]) -> Release:
        return planned


def folder_release(folder: str, edition: Edition, expected: Expected, workers: int) -> Release:
    """The release of a built folder. Raises PublishError where it, its card included, does not verify."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise PublishError(f"{folder}: no {FILE}: not a built folder, or its build was cut off; run scripts.build")
    _refuse("the verification is not green", verify(folder, expected, workers).listed())
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


class Sources(NamedTuple):
    """What a release is built from, and where."""

    folders: list[str]
    work: str
    configs: list[str]
    expected: Expected
    workers: int
    part_by_part: bool  # uploaded and removed before the next is built, so that `work` stays small


class SourceMaker:
    """Makes the release of what the archives hold: builds what is not published yet, keeps all else that is.

    What was built and sent is kept for a second round, after somebody else's commit.
    """

    def __init__(self, api: HfApi, edition: Edition, sources: Sources):
        self.api, self.edition, self.sources = api, edition, sources
        self.staging = os.path.join(sources.work, STAGING)
        self.built: dict[str, tuple[dict, FileContent]] = {}  # by path: manifest entry, what the file holds
        self.uploaded: dict[str, CommitOperationAdd] = {}
        self.archives: dict[str, dict] = {}  # fingerprints, as "sources" in the manifest
        self.summaries: dict[str, dict] = {}
        self.read: dict[str, FileContent] = {}  # published files by their sha256

    @functools.cached_property
    def archive_plan(self) -> Plan:
        """Of all parts in the archives. Raises SourceError with all that is wrong there."""
        plan = make_plan(self.sources.folders, self.sources.configs, self.sources.expected)
        settle(plan.problems, checks=True)
        return plan

    def plan(self, remote: Remote) -> Release:
        """The release as far as the archives' directories and the published files tell; whole, if none is to be built.

        Raises SourceError with all problems of the archives, PublishError where rows are not as they should be.
        """
        check_lost(self.edition.repo_id, remote, {part_of(config) for config in self.sources.configs})
        planned = Release(self.edition.version, self.staging, self._manifest(remote), None, self.uploaded)
        published = published_entries(remote)
        for path, part in self.archive_plan.parts.items():
            if planned.files[path] != published.get(path):
                planned.rows[path] = _rows(part)
        return planned if _to_build(planned) else self.build(remote, planned, lambda paths, folder: {})

    def build(self, remote: Remote, planned: Release, send: Callable[[list[str], str], dict]) -> Release:
        """The whole release: builds and verifies what is not published yet, and sends it where it is to go at once.

        Raises SourceError with all problems of the source, PublishError where the result does not verify.
        """
        if planned.texts is not None:
            return planned
        old = remote.manifest["sources"] if remote.manifest else {}
        todo = {path: self.archive_plan.parts[path] for path in _to_build(planned)}
        for batch in batches({path: source_bytes(p.part) for path, p in todo.items()}) or [[]]:
            self._build({path: todo[path] for path in batch}, old, send)
        manifest, opened = self._manifest(remote), opener(self.api, self.edition.repo_id, remote.head)
        known = _published_stats(self.api, self.edition.repo_id, remote) | self.summaries
        summaries = stats.collect(self.staging, manifest, known, opened)
        manifest, texts = _with_card(
            manifest, self.edition, summaries, _example_finder(self.archive_plan, summaries, opened)
        )
        return replace(planned, manifest=manifest, texts=texts)

    def _build(self, todo, old_archives, send):
        """Builds some parts, or finds them built by a run that was cut off; without any, takes the fingerprints."""
        plan, expected, workers = self.archive_plan, self.sources.expected, self.sources.workers
        made = built_parts(self.staging, self.staging, todo)
        missing = {path: part for path, part in todo.items() if path not in made}
        found, new, problems = build_parts(plan, missing, self.staging, old_archives | self.archives, workers)
        settle([*problems, *source_problems(plan, found, expected)], checks=True)
        self.archives |= {part: {**source, "complete": True} for part, source in found.items()}
        made |= new
        contents = read_contents(self.staging, sorted(made), workers)
        _refuse("the verification is not green", [p for content in contents.values() for p in content.problems])
        self.summaries |= stats.collect(self.staging, {"files": made}, self.summaries)
        if self.sources.part_by_part and made:
            self.uploaded |= send(sorted(made), self.staging)
            for path in made:
                os.remove(os.path.join(self.staging, path))
        self.built |= {path: (made[path], contents[path]) for path in made}

    def _manifest(self, remote):
        """The manifest with its version, all rows checked; its files are published, built, or to be built."""
        edition, configs = self.edition, self.sources.configs
        old = remote.manifest or {"sources": {}, "configs": {}}
        published, entries, contents = published_entries(remote), {}, {}
        for path, part in self.archive_plan.parts.items():
            entry = published.get(path)
            if entry is None or entry["key"] != part.key:
                entry = _entry_to_build(part)
            entries[path], contents[path] = self.built.get(path, (entry, planned_content(part.part, entry)))
        built = {part_of(config) for config in configs}
        opened = opener(self.api, edition.repo_id, remote.head)
        for path, entry in published.items():
            if path.split("/")[1] not in built:
                if entry["sha256"] not in self.read:
                    self.read[entry["sha256"]] = _published_content(path, entry, opened)
                entries[path], contents[path] = entry, self.read[entry["sha256"]]
        manifest = make_manifest([*configs, *old["configs"]], old["sources"] | self.archives, entries, SCHEMA)
        if not self.built and "versions" in old:
            manifest["versions"] = old["versions"]  # that the files were written with
        result = Verified(configs=list(manifest["configs"]))
        check_contents(manifest, contents, self.sources.expected, result)
        _refuse("the verification is not green", result.listed())
        return {"version": edition.version, **manifest}


def _entry_to_build(planned: PlannedPart) -> dict:
    """A manifest entry as far as it is known before the file is written; see `Release`."""
    content = hashlib.sha256(planned.row_digests.encode()).hexdigest()
    size, rows = source_bytes(planned.part), len(planned.part.rows)
    return {"rows": rows, "bytes": size, "sha256": None, "key": planned.key, "content": content}


def _to_build(release: Release) -> list[str]:
    return [path for path, entry in release.files.items() if entry["sha256"] is None]


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
