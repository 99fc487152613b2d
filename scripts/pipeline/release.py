"""Makes a release, from a built folder or straight from the archives.

From the archives, only shards whose inputs changed since the published version are built. The others are neither built
nor downloaded: their rows are known from the archives, their files from the published manifest.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hyper_kvasir import Expected, Problems, Shard, SourceError, listed
from scripts.pipeline import leaks, stats
from scripts.pipeline.build import build_shards, built_shards, check_sources
from scripts.pipeline.card import folder_examples, make_card, stored_pairs
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.configs import METADATA, looked_parts, parts_of
from scripts.pipeline.files import write_file
from scripts.pipeline.hub import PublishError, Repository, batches, patiently
from scripts.pipeline.manifest import FILE, built_manifest, make_manifest, manifest_text, part_of_path
from scripts.pipeline.output import STAGING
from scripts.pipeline.parquet import find_rows, read_rows
from scripts.pipeline.plan import SCHEMA, Plan, PlannedShard, file_bytes, make_plan
from scripts.pipeline.publish import Draft, Published, Release, Send, check_edition, check_lost, check_untagged
from scripts.pipeline.published import read_columns
from scripts.pipeline.verify import FileContent, Verified, check_contents, read_content, read_contents, verify

METADATA_BYTES = 170  # of a row, before its file is made: that of the real segmented part has 167


class ReleaseInfo(NamedTuple):
    """What a release is called, and where it goes."""

    version: str
    repo_id: str
    changelog: str  # the text of CHANGELOG.md


# ------------------------------------------------------------------------------------------------------------ folder


class FolderMaker:
    """Makes the release of a built folder."""

    def __init__(self, folder: str, info: ReleaseInfo, expected: Expected, workers: int):
        self.folder, self.info = folder, info
        self.release = functools.cache(lambda: folder_release(folder, info, expected, workers))

    def draft(self, published: Published) -> Release:
        """The whole release. Raises PublishError if the folder, its card included, does not verify."""
        manifest = built_manifest(self.folder)
        check_edition(published, manifest)  # now, and not after minutes of verification
        if published.manifest is None or published.manifest["files"] != manifest["files"]:
            check_untagged(self.info.version, published)
        release = self.release()
        check_lost(published, {part_of_path(path) for path in release.files})
        return release

    def build(self, published: Published, draft: Draft, send: Send) -> Release:
        """The same release: nothing is left to be built."""
        return self.release()


def folder_release(folder: str, info: ReleaseInfo, expected: Expected, workers: int) -> Release:
    """The release of a built folder. Raises PublishError if it, its card included, does not verify."""
    manifest = built_manifest(folder)
    _refuse("the verification failed", verify(folder, expected, workers).listed())
    summaries = stats.collect(folder, manifest, stats.read_stats(folder))
    examples = folder_examples(folder, summaries)
    pairs = stored_pairs(manifest, functools.partial(os.path.join, folder))
    manifest, texts = _with_card(manifest, info, summaries, examples, pairs)
    _refuse("the card is wrong", check_card(texts["README.md"].decode(), manifest, folder))
    return Release(version=info.version, folder=folder, manifest=manifest, texts=texts)


def _refuse(what, problems):
    if problems:
        raise PublishError(f"{what}:\n{listed(problems)}")


def _with_card(manifest, info, summaries, examples, pairs):
    """(the manifest as it is published, the small files that go with it)"""
    manifest = {"version": info.version, **manifest}
    manifest, texts = make_card(manifest, summaries, examples, info.repo_id, info.changelog, pairs=pairs)
    _refuse("the Hub would not accept the card", lint_card(texts["README.md"].decode(), list(manifest["files"])))
    return manifest, {**texts, FILE: manifest_text(manifest).encode()}


# ---------------------------------------------------------------------------------------------------------- archives


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a release is built from, and how."""

    archives: list[str]  # folders
    work: str  # the folder to build in
    configs: list[str]
    expected: Expected
    workers: int
    max_side: int | None  # of images, in the small edition
    send_at_once: bool  # upload and remove shards before others are built, so that `work` stays small


class SourceMaker:
    """Makes the release of what the archives hold: builds what is not published yet, keeps all else that is.

    What was built is kept for another round, after somebody else's commit.
    """

    def __init__(self, repository: Repository, info: ReleaseInfo, options: BuildOptions):
        self.repository, self.info, self.options = repository, info, options
        self.staging = os.path.join(options.work, STAGING)
        self.built: dict[str, tuple[dict, FileContent]] = {}  # by path: manifest entry, what the file holds
        self.fingerprints: dict[str, dict] = {}  # of archives, as "sources" in the manifest
        self.summaries: dict[str, dict] = {}
        self.read: dict[str, FileContent] = {}  # published files by their sha256
        self.looked: list[str] = []  # the parts that `metadata` is of

    @functools.cached_property
    def plan(self) -> Plan:
        """The shards of all that is in the archives. Raises SourceError with all that is wrong there."""
        options = self.options
        plan = make_plan(
            options.archives, options.configs, options.expected, looked=self.looked, max_side=options.max_side
        )
        plan.problems.settle(checks=True)
        return plan

    def draft(self, published: Published) -> Draft:
        """The release as far as the archives' directories and the published files tell; whole if none is to be built.

        Raises SourceError with all problems of the archives, PublishError if rows are not as they should be.
        """
        check_edition(published, {"max_side": self.options.max_side} if self.options.max_side else {})
        check_lost(published, self._parts())
        self.looked = looked_parts(self.options.configs, published.manifest)
        manifest, there = self._manifest(published), published.entries
        new = {
            path: planned for path, planned in self.plan.shards.items() if manifest["files"][path] != there.get(path)
        }
        rows = {path: _row_digests(planned) for path, planned in new.items()}
        if self.plan.looked:
            rows[leaks.METADATA_FILE] = {f"{METADATA} {i}": image.digest for i, image in self._planned[1].items()}
        draft = Draft(version=self.info.version, folder=self.staging, manifest=manifest, rows=rows)
        if _to_build(draft):
            return draft
        self._build({}, published)  # takes the fingerprints of archives that are new
        return self._whole(draft, published)

    def build(self, published: Published, draft: Draft, send: Send) -> Release:
        """The whole release: builds and verifies what is not published yet; sends it at once if the options say so.

        Raises SourceError with all problems of the source, PublishError if the result does not verify.
        """
        if isinstance(draft, Release):
            return draft
        todo = {path: self.plan.shards[path] for path in _to_build(draft) if path in self.plan.shards}
        for batch in batches({path: draft.files[path]["bytes"] for path in todo}):
            made = self._build({path: todo[path] for path in batch}, published)
            if self.options.send_at_once:
                send(made, self.staging)
                for path in made:
                    os.remove(os.path.join(self.staging, path))
        if set(_to_build(draft)) - set(todo):
            self._look(published)
        return self._whole(draft, published)

    @functools.cached_property
    def _planned(self):
        """(key, {image id: what is known of it}) of the file of `metadata`."""
        from scripts.pipeline.quality import metadata  # loads OpenCV, which other publications do not need

        return metadata.metadata_key(self.plan.looked), metadata.distinct(self.plan.looked)

    def _look(self, published):
        """Makes the file of `metadata`, by a pass over all images; its grouped folds stay as they are published."""
        from scripts.pipeline.quality import metadata

        path, before = leaks.METADATA_FILE, None
        place = os.path.join(self.staging, path)
        if path in published.entries:
            before = os.path.join(self.staging, "metadata-before.parquet")
            write_file(Path(before), self.repository.read_large(path, published.head))
        work, workers = self.options.work, self.options.workers
        found = metadata.make_metadata(self.plan.looked, work, place, workers=workers, before=before)
        if found.problems:
            raise SourceError(found.problems)
        self.built[path] = found.entry, read_content(self.staging, path)
        self.summaries |= stats.collect(self.staging, {"files": {path: found.entry}}, self.summaries)

    def _open(self, path, revision):
        """A file as it was built, if it is still there, or as it is published."""
        place = os.path.join(self.staging, path)
        return place if path in self.built and os.path.isfile(place) else self.repository.open(path, revision=revision)

    def _parts(self):
        return set(parts_of(self.options.configs))

    def _build(self, todo, published):
        """Builds shards, or finds them built by a run that was cut off, and returns their paths.

        Takes the fingerprints of archives that are not known; without any shard, does only that.
        """
        plan, expected, workers = self.plan, self.options.expected, self.options.workers
        known = (published.manifest["sources"] if published.manifest else {}) | self.fingerprints
        made = built_shards(self.staging, self.staging, todo, plan.decoded, workers)
        missing = {path: shard for path, shard in todo.items() if path not in made}
        new = build_shards(plan, missing, self.staging, known, workers)
        problems = Problems()
        problems.extend(new.problems)
        check_sources(plan, new.sources, expected, problems)
        problems.settle(checks=True)
        self.fingerprints |= {part: {**source, "complete": True} for part, source in new.sources.items()}
        made |= new.entries
        contents = read_contents(self.staging, sorted(made), workers, max_side=plan.max_side)
        _refuse("the verification failed", [p for content in contents.values() for p in content.problems])
        self.summaries |= stats.collect(self.staging, {"files": made}, self.summaries | new.summaries)
        self.built |= {path: (made[path], contents[path]) for path in made}
        return sorted(made)

    def _whole(self, draft, published):
        """The release of a draft, all of whose shards are published or built."""
        manifest = self._manifest(published)
        opened = functools.partial(self._open, revision=published.head)

        def with_card(known):
            summaries = patiently(
                "counting what is published", lambda: stats.collect(self.staging, manifest, known, opened)
            )
            examples = _example_finder(self.plan, summaries, opened)
            pairs = patiently("reading metadata", lambda: stored_pairs(manifest, opened))
            return _with_card(manifest, self.info, summaries, examples, pairs)

        try:
            made, texts = with_card(_published_stats(self.repository, published) | self.summaries)
        except (KeyError, TypeError, AttributeError, IndexError):  # of summaries that somebody else wrote
            made, texts = with_card(self.summaries)
        return Release(version=draft.version, folder=draft.folder, manifest=made, rows=draft.rows, texts=texts)

    def _manifest(self, published):
        """The manifest with its version, all rows checked; its files are published, built, or to be built."""
        configs, old = self.options.configs, published.manifest or {"sources": {}, "configs": {}}
        files = self._files(published)
        entries = {path: entry for path, (entry, _) in files.items()}
        contents = {path: content for path, (_, content) in files.items()}
        sources = old["sources"] | self.fingerprints
        configs = [*configs, *old["configs"]]
        manifest = make_manifest(configs, sources, entries, SCHEMA, max_side=self.options.max_side)
        if not self.built and "versions" in old:
            manifest["versions"] = old["versions"]  # that the files were written with
        result = Verified(configs=list(manifest["configs"]))
        check_contents(manifest, contents, self.options.expected, result)
        _refuse("the verification failed", result.listed())
        return {"version": self.info.version, **manifest}

    def _files(self, published):
        """{path: (manifest entry, what the file holds)} of the archives' shards and of the parts that stay."""
        there, files = published.entries, {}
        for path, planned in self.plan.shards.items():
            entry = there.get(path)
            if entry is None or entry["key"] != planned.key:
                entry = _entry_to_build(planned, self.plan.max_side)
            files[path] = self.built.get(path, (entry, planned_content(planned.shard, entry)))
        if self.plan.looked:
            path = leaks.METADATA_FILE
            files[path] = self.built.get(path) or _planned_metadata(*self._planned, there.get(path))
        for path, entry in there.items():
            if part_of_path(path) not in self._parts():
                if entry["sha256"] not in self.read:
                    self.read[entry["sha256"]] = read_columns(self.repository, published.head, path, published.manifest)
                files[path] = entry, self.read[entry["sha256"]]
        return files


def _entry_to_build(planned: PlannedShard, max_side: int | None) -> dict:
    """A manifest entry as far as it is known before the file is written; see `Draft`."""
    content = hashlib.sha256(planned.row_digests.encode()).hexdigest()
    size, rows = file_bytes(planned.shard, max_side), len(planned.shard.rows)
    return {"rows": rows, "bytes": size, "sha256": None, "key": planned.key, "content": content}


def _planned_metadata(key, images, entry):
    """(manifest entry, what the file will hold) of `metadata`; `entry` is the published one."""
    if entry is None or entry["key"] != key:
        content = hashlib.sha256("".join(image.digest for image in images.values()).encode()).hexdigest()
        size = METADATA_BYTES * len(images)
        entry = {"rows": len(images), "bytes": size, "sha256": None, "key": key, "content": content}
    known = [image.columns for image in images.values()]
    columns = {"image_id": list(images), **{name: [row[name] for row in known] for name in known[0]}}
    return entry, FileContent(entry["sha256"], columns, [], None, 0, [])


def _to_build(draft: Draft) -> list[str]:
    return [path for path, entry in draft.files.items() if entry["sha256"] is None]


def _published_stats(repository, published):
    """The summaries of the published files; none if none were published, or others put in their place."""
    entry = published.texts.get(stats.FILE)
    if stats.FILE not in published.files or entry is None:
        return {}
    text = repository.read(stats.FILE, published.head)
    return json.loads(text) if hashlib.sha256(text).hexdigest() == entry["sha256"] else {}


def _example_finder(plan, summaries, opened):
    """Rows for the card: from the archives, and from the Hub those of parts that are not built here."""
    shards = [planned.shard for planned in plan.shards.values()]
    rows = {(shard.part, row.image_id): (shard, row) for shard in shards for row in shard.rows}

    def examples(part, image_ids):
        found = {}
        for image_id in image_ids:
            if (part, image_id) in rows:
                shard, row = rows[part, image_id]
                found[image_id] = read_rows(shard, [row], Problems(), max_side=plan.max_side).to_pylist()[0]
        stored = [image_id for image_id in image_ids if image_id not in found]
        if stored:
            paths = stats.paths_of(summaries, part, stored)
            found |= patiently(f"reading rows of {part}", lambda: find_rows(map(opened, paths), stored))
        return found

    return examples


def planned_content(shard: Shard, entry: dict) -> FileContent:
    """What a published file holds, from the rows that it was planned from; its images are not read again."""
    rows = [row.known_columns(shard.part) for row in shard.rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    boxes = sum(len(row.boxes) for row in shard.rows)
    return FileContent(entry["sha256"], columns, [row.image.crc for row in shard.rows], None, boxes, [])


def _row_digests(planned):
    """The `row_digests` of a shard that is not written yet."""
    ids = [f"{planned.shard.part} {row.image_id}" for row in planned.shard.rows]
    return {image_id: planned.row_digests[8 * i : 8 * i + 8] for i, image_id in enumerate(ids)}
