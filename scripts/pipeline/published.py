"""Checks a published version: by the Hub's digests, footers and columns, or by every byte."""

import hashlib
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from hyper_kvasir import Expected
from scripts.pipeline.card_check import check_card, lint_card
from scripts.pipeline.configs import METADATA
from scripts.pipeline.console import Progress
from scripts.pipeline.hub import PublishError, RemoteFile, Repository, patiently
from scripts.pipeline.manifest import FILE, VERSION, parse_manifest, part_of_path
from scripts.pipeline.parquet import entry_of
from scripts.pipeline.pool import worker_pool
from scripts.pipeline.readers import stream_problems
from scripts.pipeline.verify import (
    FileContent,
    Verified,
    check_contents,
    check_file,
    check_loading,
    check_schema,
    comparable,
    metadata_content,
    row_line,
)


def verify_published(
    repository: Repository, revision: str, expected: Expected, workers: int, *, full: bool = False
) -> Verified:
    """Checks a published version as `verify` does a folder.

    The Hub's digests are compared with the manifest, footers and columns are read; with `full` every file is, whole and
    without being stored. Raises PublishError where there is no such version.
    """
    commit = repository.commit_of(revision)
    there, where = repository.files(commit), f"{repository.repo_id}@{revision}"
    if FILE not in there:
        raise PublishError(f"{where}: holds no {FILE}, so this project did not publish it")
    manifest = parse_at(repository, commit, f"{where}/{FILE}")
    result = Verified(configs=list(manifest["configs"]), complete=manifest["complete"])
    if re.fullmatch(f"v{VERSION}", revision) and revision != f"v{manifest.get('version')}":
        result.problems.append(f"{revision}: {FILE} there is of version {manifest.get('version')}; the tag was moved")
    result.problems += differing_files(manifest, there)
    paths = [path for path in manifest["files"] if path in there]
    if full:
        contents = _read_whole(repository, commit, manifest, paths, workers=workers)
    else:
        contents = _read_all_columns(repository, commit, manifest, paths)
    check_contents(manifest, contents, expected, result)
    _check_published_card(repository, commit, manifest, there, result)
    small = "max_side" in manifest
    check_loading(manifest, result, lambda *config: stream_patiently(repository.repo_id, *config, commit, small=small))
    return result


def parse_at(repository: Repository, revision: str, where: str) -> dict:
    """The manifest at a revision. Raises ValueError, naming `where`, for one of something else."""
    return parse_manifest(repository.read(FILE, revision).decode("utf-8", "replace"), where)


def stream_patiently(repo_id: str, config: str, splits: list[str], revision: str, *, small: bool) -> list[str]:
    """As `readers.stream_problems`, while the Hub is busy or the connection is cut again."""
    return patiently(f"streaming {config}", lambda: stream_problems(repo_id, config, splits, revision, small=small))


def differing_files(manifest: dict, there: dict[str, RemoteFile]) -> list[str]:
    """How the data files that the Hub lists differ from those of a manifest."""
    files = manifest["files"]
    problems = [f"{path} is not there" for path in files if path not in there]
    problems += [f"{p} has other content" for p, e in files.items() if p in there and there[p].sha256 != e["sha256"]]
    stray = [path for path in there if path.startswith("data/") and path not in files]
    return problems + [f"{path} is there, but not in {FILE}" for path in stray]


def _read_all_columns(repository, commit, manifest, paths):
    """{path: what a published file holds, without its images}"""
    with ThreadPoolExecutor(4) as threads, Progress(len(paths), "reading columns", unit=" files") as bar:
        jobs = {p: threads.submit(read_columns, repository, commit, p, manifest) for p in paths}
        contents = {}
        for path, job in jobs.items():
            try:
                contents[path] = job.result()
            except Exception as error:  # of the connection, of what the Hub answers, of what is not a Parquet file
                text = f"{path}: cannot be read: {type(error).__name__}: {error}"
                contents[path] = FileContent.unreadable(manifest["files"][path]["sha256"], [text])
            bar.update(1)
    return contents


def read_columns(repository: Repository, commit: str, path: str, manifest: dict) -> FileContent:
    """What a published file holds, without its images: its footer and columns."""
    sha256 = manifest["files"][path]["sha256"]

    def read(parquet):
        schema, problems, boxes = parquet.schema_arrow, [], 0
        check_schema(path, schema, part_of_path(path), problems, "max_side" in manifest)
        if problems:  # of another form, so nothing in it has a meaning
            return FileContent.unreadable(sha256, problems)
        if part_of_path(path) == METADATA:
            return metadata_content(parquet, sha256, path)
        names = [name for name in schema.names if not pa.types.is_nested(schema.field(name).type)]
        if "objects" in schema.names:
            objects = parquet.read(columns=["objects"], use_threads=False)["objects"].to_pylist()
            boxes = sum(len(row["id"]) for row in objects)
        columns = parquet.read(columns=names, use_threads=False).to_pydict()
        lines = None
        if part_of_path(path) == "labeled":
            lines = [row_line(dict(zip(columns, row)), {}) for row in zip(*columns.values())]
        return FileContent(sha256, comparable(columns), [], None, boxes, problems, lines, entry_of(parquet.metadata))

    return repository.read_parquet(path, commit, read, "reading the columns of")


def _read_whole(repository, commit, manifest, paths, *, workers):
    """{path: what a published file holds}, each file read whole; a few at a time are in memory."""
    contents, jobs = {}, deque()
    total = sum(manifest["files"][path]["bytes"] for path in paths)
    with worker_pool(workers) as pool, Progress(total, "verifying") as bar:

        def settle():
            path, size, job = jobs.popleft()
            contents[path] = job.result()
            bar.update(size)

        for path in paths:
            data = repository.read_large(path, commit)
            job = pool.submit(check_file, data, path, manifest.get("max_side"))
            jobs.append((path, manifest["files"][path]["bytes"], job))
            if len(jobs) > workers:
                settle()
        while jobs:
            settle()
    return contents


def _check_published_card(repository, commit, manifest, there, result):
    """The card's files have the content that the manifest gives them, and the card's numbers are those of the files."""
    for path, entry in manifest.get("card", {}).get("files", {}).items():
        if path not in there:
            result.problems.append(f"{path} is not there")
        elif hashlib.sha256(repository.read(path, commit)).hexdigest() != entry["sha256"]:
            result.problems.append(f"{path} has other content than was published: it was edited on the Hub")
    if "README.md" in there:
        text = repository.read("README.md", commit).decode("utf-8", "replace")
        result.problems += lint_card(text, list(manifest["files"])) + check_card(text, manifest)
