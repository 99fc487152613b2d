"""A version of the dataset, to be read from: a built folder, or a revision on the Hub."""

import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from scripts.pipeline.files import file_sha256
from scripts.pipeline.hub import REPO_ID, PublishError, Repository, explain, patiently, prepare_clients
from scripts.pipeline.manifest import FILE, built_manifest
from scripts.pipeline.parquet import find_rows
from scripts.pipeline.published import parse_at

PUBLISHED = re.compile(rf"({REPO_ID})(?:@([\w./-]+))?")


class Version(NamedTuple):
    """A built folder, or a revision on the Hub: its name in words, its manifest, and how a data file is opened."""

    name: str
    manifest: dict
    opened: Callable[[str], object]  # path -> what pq.ParquetFile takes
    read: Callable[[str], bytes]  # path -> a file, whole
    rows: Callable[[str, Iterable[str]], dict[str, dict]]  # (path, image ids) -> {image id: row}
    digest: Callable[[str], str | None]  # path -> sha256 of a file, None where it is missing; raises OSError


def named_version(place: str) -> Version:
    """The version that an argument names: a built folder, or NS/NAME[@REVISION]. Raises ValueError for any other."""
    published = PUBLISHED.fullmatch(place)
    if os.path.isdir(place) or not published:
        return folder_version(place)
    prepare_clients()
    try:
        return published_version(Repository(HfApi(), published[1]), published[2] or "main")
    except (PublishError, HTTPError) as error:
        text = f"{place}: no such folder, so taken for a repository on the Hub: {explain(error)}"
        raise PublishError(text) from error


def folder_version(folder: str, name: str | None = None) -> Version:
    """A built folder. Raises ValueError for any other."""
    folder = os.path.abspath(folder)

    def opened(path):
        return os.path.join(folder, path)

    def read(path):
        return Path(opened(path)).read_bytes()

    def rows(path, image_ids):
        return find_rows([opened(path)], image_ids)

    def digest(path):
        return file_sha256(opened(path)) if os.path.lexists(opened(path)) else None

    return Version(name or os.path.basename(folder), built_manifest(folder), opened, read, rows, digest)


def published_version(repository: Repository, revision: str) -> Version:
    """A revision on the Hub. Raises PublishError where there is none, or something else."""
    commit, where = repository.commit_of(revision), f"{repository.repo_id}@{revision}"
    files = set(repository.files(commit))
    if FILE not in files:
        raise PublishError(f"{where}: holds no {FILE}, so this project did not publish it")

    def read(path):
        return repository.read_large(path, commit)

    def opened(path):
        return io.BytesIO(read(path))

    def rows(path, image_ids):
        return patiently(f"reading rows of {path}", lambda: find_rows([repository.open(path, commit)], image_ids))

    manifest = parse_at(repository, commit, f"{where}/{FILE}")

    def digest(path):
        return manifest["files"][path]["sha256"] if path in files else None

    return Version(where, manifest, opened, read, rows, digest)
