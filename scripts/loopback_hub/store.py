"""Disk state of the loopback Hub: objects, commits, refs and repositories.

Everything is written beside its final name and renamed. Objects and commits are immutable; `repo.json`, which holds
the refs, is the only file that is ever replaced. So a reader, and a server started again after kill -9, sees whole
commits only.
"""

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

PIECE = 1 << 20
LFS_KINDS = "7z arrow bin bz2 gif gz jpeg jpg mp3 mp4 npy npz ogg parquet pickle png tar tiff wav webp zip zst"
GITATTRIBUTES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in LFS_KINDS.split()).encode()


class HubError(Exception):
    """An error that is answered as the real Hub does: JSON body and X-Error-* headers."""

    def __init__(self, status: int, message: str, code: str = "Error", headers: dict | None = None, **body: str):
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.body = status, message, code, headers or {}, body


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def read_range(path: Path, start: int, stop: int) -> Iterator[bytes]:
    """The bytes [start, stop) of a file, in pieces."""
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (piece := file.read(min(PIECE, stop - start))):
            start += len(piece)
            yield piece


class Disk:
    """A folder with a place for unfinished files, which is emptied at every start."""

    def __init__(self, root: Path):
        self.root, self.tmp = root, root / "tmp"
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(parents=True)

    def temporary(self) -> Path:
        return self.tmp / uuid.uuid4().hex

    def publish(self, temporary: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)

    def write(self, path: Path, data: bytes) -> None:
        temporary = self.temporary()
        temporary.write_bytes(data)
        self.publish(temporary, path)

    def blob(self, oid: str) -> Path:
        return self.root / "blobs" / oid[:2] / oid

    def lfs(self, sha256: str) -> Path:
        return self.root / "lfs" / sha256[:2] / sha256

    def lfs_part(self, sha256: str, number: int) -> Path:
        return self.root / "lfs-parts" / f"{sha256}.{number}"


@dataclass(frozen=True)
class File:
    """A file of a commit: `oid` is its git blob id, `sha256` is set when it is stored as LFS or Xet."""

    oid: str
    size: int
    sha256: str | None = None

    @classmethod
    def lfs(cls, sha256: str, size: int) -> "File":
        return cls(git_blob_id(lfs_pointer(sha256, size)), size, sha256)

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]

    def entry_id(self, path: str) -> str | None:
        """The git-like id of a file or folder, None when there is no such entry."""
        if path in self.files:
            return self.files[path].oid
        inside = [f"{name} {file.oid}" for name, file in sorted(self.files.items()) if name.startswith(path + "/")]
        return hashlib.sha1("\n".join(inside).encode()).hexdigest() if inside else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def checked_path(path: str) -> str:
    if not path or path.startswith("/") or set(path.split("/")) & {"", ".", "..", ".git"}:
        raise HubError(400, f"Invalid path in repo: {path!r}")
    return path


def apply_changes(files: dict[str, File], changes: Iterable[tuple[str, str, File | None]]) -> dict[str, File]:
    """The files after ("add" | "delete" | "delete_folder", path, file) changes."""
    files = dict(files)
    for kind, path, file in changes:
        if kind == "add":
            files[checked_path(path)] = file
            continue
        prefix = path.rstrip("/") + "/"
        gone = [path] if kind == "delete" else [name for name in files if prefix == "/" or name.startswith(prefix)]
        if not gone or any(name not in files for name in gone):
            raise HubError(404, f"Cannot delete {path!r}: no such entry", "EntryNotFound")
        for name in gone:
            del files[name]
    return files


class Repo:
    """One dataset repository: immutable commits, and the settings and refs in `repo.json`."""

    def __init__(self, disk: Disk, repo_id: str):
        self.disk, self.id = disk, repo_id
        self.folder = disk.root / "repos" / repo_id
        self.lock = threading.Lock()
        # One cache a repository: a deleted and newly created one must not answer with old commits.
        self.load_commit = lru_cache(maxsize=256)(self._load_commit)
        state = self.folder / "repo.json"
        self.state = json.loads(state.read_text()) if state.exists() else {}

    def save(self, **changes) -> None:
        state = {**self.state, **changes}
        self.disk.write(self.folder / "repo.json", json.dumps(state, indent=1).encode())
        self.state = state

    @property
    def refs(self) -> dict[str, str]:
        return self.state["refs"]

    @property
    def former_names(self) -> list[str]:
        return self.state.get("former_names", [])

    def move(self, repo_id: str) -> None:
        with self.lock:
            self.save(former_names=[*self.former_names, self.id])
            folder = self.disk.root / "repos" / repo_id
            self.disk.publish(self.folder, folder)
            self.id, self.folder = repo_id, folder

    def _load_commit(self, commit_id: str) -> Commit:
        fields = json.loads((self.folder / "commits" / f"{commit_id}.json").read_text())
        return Commit(**{**fields, "files": {path: File(**file) for path, file in fields["files"].items()}})

    def write_commit(self, parent: str | None, title: str, message: str, author: str, files: dict) -> Commit:
        fields = dict(parent=parent, title=title, message=message, author=author, date=now())
        body = {**fields, "files": {path: asdict(file) for path, file in sorted(files.items())}}
        commit_id = hashlib.sha1(json.dumps([self.id, time.time_ns(), body]).encode()).hexdigest()
        self.disk.write(self.folder / "commits" / f"{commit_id}.json", json.dumps({"id": commit_id, **body}).encode())
        return self.load_commit(commit_id)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, full ref or commit id names."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.load_commit(self.refs[ref])
        is_id = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
        if is_id and (self.folder / "commits" / f"{revision}.json").exists():
            return self.load_commit(revision)
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def branch(self, name: str) -> str:
        """The full name of a ref that can be committed to."""
        ref = name if name.startswith("refs/pr/") else f"refs/heads/{name}"
        if ref not in self.refs:
            raise HubError(404, f"Invalid branch: {name}", "RevisionNotFound")
        return ref

    def history(self, commit: Commit) -> Iterator[Commit]:
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.load_commit(commit.parent)

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that gave an entry its present content."""
        wanted, found = commit.entry_id(path), commit
        for earlier in self.history(commit):
            if earlier.entry_id(path) != wanted:
                break
            found = earlier
        return found

    def commit(
        self, branch: str, changes: list, *, parent: str | None, title: str, message: str, author: str
    ) -> Commit:
        """Move a branch to a new commit; of several writers with the same `parent` exactly one wins."""
        with self.lock:
            ref = self.branch(branch)
            head = self.load_commit(self.refs[ref])
            if parent and not head.id.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            commit = self.write_commit(head.id, title, message, author, apply_changes(head.files, changes))
            self.save(refs={**self.refs, ref: commit.id})
            return commit

    def create_ref(self, ref: str, commit_id: str) -> None:
        with self.lock:
            if ref in self.refs:
                raise HubError(409, f"Reference already exists: {ref}")
            self.save(refs={**self.refs, ref: commit_id})

    def delete_ref(self, ref: str) -> None:
        with self.lock:
            if ref not in self.refs:
                raise HubError(404, f"No such reference: {ref}", "RevisionNotFound")
            self.save(refs={name: target for name, target in self.refs.items() if name != ref})


class Store:
    """All repositories of a folder."""

    def __init__(self, disk: Disk):
        self.disk, self.lock = disk, threading.Lock()
        found = (disk.root / "repos").glob("*/*/repo.json")
        self.repos = {repo.id: repo for repo in (Repo(disk, "/".join(path.parts[-3:-1])) for path in found)}

    def create(self, repo_id: str, author: str, private: bool, url: str) -> None:
        with self.lock:
            if repo_id in self.repos:
                raise HubError(409, "You already created this dataset repo", url=url)  # clients read the url
            repo = Repo(self.disk, repo_id)
            oid = git_blob_id(GITATTRIBUTES)
            self.disk.write(self.disk.blob(oid), GITATTRIBUTES)
            files = {".gitattributes": File(oid, len(GITATTRIBUTES))}
            first = repo.write_commit(None, "initial commit", "", author, files)
            repo.save(private=private, gated=False, created=now(), refs={"refs/heads/main": first.id})
            self.repos[repo_id] = repo
            self._end_redirects(repo_id)

    def find(self, repo_id: str) -> Repo | None:
        """The repository of this name, or else the one that has left it for another name."""
        moved = (repo for repo in list(self.repos.values()) if repo_id in repo.former_names)
        return self.repos.get(repo_id) or next(moved, None)

    def move(self, repo: Repo, repo_id: str) -> None:
        with self.lock:
            if repo_id in self.repos:
                raise HubError(409, f"There is a repository {repo_id} already")
            del self.repos[repo.id]
            repo.move(repo_id)
            self.repos[repo_id] = repo
            self._end_redirects(repo_id)

    def _end_redirects(self, repo_id: str) -> None:
        """A name that was given again leads to nothing else, not even when its new repository is deleted."""
        for repo in self.repos.values():
            if repo_id in repo.former_names:
                with repo.lock:
                    repo.save(former_names=[name for name in repo.former_names if name != repo_id])

    def delete(self, repo: Repo) -> None:
        with self.lock:
            del self.repos[repo.id]
            trash = self.disk.temporary()
            os.replace(repo.folder, trash)
            shutil.rmtree(trash)
