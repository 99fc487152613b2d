"""A dataset repository on the Hub. Passing failures are retried inside each method."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    HfFileSystem,
    constants,
    get_token,
)

# HTTPError is that of the HTTP client which huggingface_hub is built on, whichever that is, and the base of its own.
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from scripts.pipeline.console import Progress, say

TRIES = 5  # of one request, before giving up
FIRST_CHUNK = 128 << 10  # bytes; no chunk of Xet is larger
BATCH_BYTES = 128 << 20  # uploaded in one go: at most this is sent again after a kill
AGAIN = "run the same command again: it picks up where it left off"
DATASET = {"repo_type": "dataset"}


class PublishError(RuntimeError):
    """The publication is refused or failed; the message says why and what to do."""


class RemoteFile(NamedTuple):
    """A file as the Hub lists it: sha256 of a large file, git's blob id of a small one."""

    size: int
    sha256: str | None
    blob_id: str

    def holds(self, content: bytes) -> bool:
        """Whether `content` is what the file holds."""
        if self.sha256:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        return self.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class State:
    """A repository at the head of a branch, or of main if there is no such branch; `head` None: no repository."""

    repo_id: str
    head: str | None
    files: dict[str, RemoteFile] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # name: commit
    has_branch: bool = False


# ---------------------------------------------------------------------------------------------------------- patience


def patiently(what: str, action: Callable[[], Any]) -> Any:
    """The result of `action`, retried while the Hub is busy or the connection is cut. Retries are few, and announced.

    Raises PublishError after the last try. An error that a retry cannot mend is raised at once.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:
            wait = _wait(error, attempt)
            if wait is None:
                raise
            if attempt == TRIES:
                raise PublishError(f"{what}: {_reason(error)}, {TRIES} times; {AGAIN}") from error
            say(f"{what}: {_reason(error)}; trying again in {wait:.0f} s ({attempt} of {TRIES - 1})")
            time.sleep(wait)


def _status(error) -> int | None:
    response = getattr(error, "response", None)
    return response.status_code if response is not None else None


def _wait(error, attempt):
    """Seconds to wait before the next try; None if a retry would not help."""
    status = _status(error)
    if status is not None and status not in (408, 409, 429) and status < 500:
        return None
    network = isinstance(error, HTTPError | ConnectionError | TimeoutError)
    if status is None and not network and type(error) is not RuntimeError:  # which hf_xet raises for its network errors
        return None
    limit = parse_ratelimit_headers(error.response.headers) if status == 429 else None
    if limit is not None:
        return min(limit.reset_in_seconds + 1, 300)
    if status == 429 and error.response.headers.get("retry-after", "").isdigit():
        return min(int(error.response.headers["retry-after"]), 300)
    return 2 ** (attempt - 1)


def _reason(error):
    status = _status(error)
    if status:
        return f"the Hub answered {status}"
    lines = str(error).splitlines()  # a timeout has none
    return ": ".join([type(error).__name__, *(line[:200] for line in lines[:1])])


def explain(error: Exception) -> str:
    """An error as a line for the user: what the Hub said if it answered a request, else the error's message."""
    if isinstance(error, HfHubHTTPError):
        return ": ".join([_reason(error), *([error.server_message] if error.server_message else [])])
    return str(error) or _reason(error)


# ------------------------------------------------------------------------------------------------------------- token


def check_token() -> None:
    """Refuses to go on without a token, or with one that cannot be sent. Makes no request."""
    token = get_token()
    if not token:
        raise PublishError("no token: set HF_TOKEN to one with write permission, or run `hf auth login`")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise PublishError("the token has characters that no token has, perhaps from pasting; set HF_TOKEN again")


def _check_owner(who, repo_id):
    """Refuses a token that cannot make the repository. Of a fine-grained token `whoami` need not list all it may do."""
    role, name = who.get("auth", {}).get("accessToken", {}).get("role"), who["name"]
    if role == "read":
        raise PublishError(f"the token of {name} may only read; use one with write permission")
    if role == "write" and repo_id.split("/")[0] not in {name, *(org["name"] for org in who.get("orgs", []))}:
        raise PublishError(
            f"{repo_id}: {name} is not a member of {repo_id.split('/')[0]}; use your own namespace, or one of your "
            "organizations"
        )


def _no_permission(repo_id, error):
    """The error to raise for a refused request: one about permission, or `error` itself."""
    if _status(error) in (401, 403, 404):
        return PublishError(f"{repo_id}: the token may not write there ({_reason(error)}); use one that may")
    return error


# -------------------------------------------------------------------------------------------------------- repository


class Repository:
    """A dataset repository, and the branch of it to commit to. Neither needs to exist before `make`.

    Every method retries, and says so, while the Hub is busy or the connection is cut; it raises PublishError after the
    last try. Other errors are raised as huggingface_hub has them, unless a method says otherwise.
    """

    def __init__(self, api: HfApi, repo_id: str, branch: str = "main"):
        self.api, self.repo_id, self.branch = api, repo_id, branch
        self._file_system = HfFileSystem(endpoint=api.endpoint, token=api.token)

    # ------------------------------------------------------------------------------------------------------- read

    def state(self) -> State:
        """The head of the branch, with its files, and the tags. Raises PublishError for a token that is not valid."""
        try:
            refs = patiently("reading branches", lambda: self.api.list_repo_refs(self.repo_id, **DATASET))
        except RepositoryNotFoundError:
            return State(self.repo_id, None)
        except HfHubHTTPError as error:
            if _status(error) == 401:
                raise PublishError(f"the Hub does not accept the token ({_reason(error)}); make a new one") from error
            raise
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        head = heads.get(self.branch, heads.get("main"))  # a new branch will start from main
        if head is None:
            return State(self.repo_id, None, tags=tags)
        return State(self.repo_id, head, self.files(head), tags, self.branch in heads)

    def files(self, revision: str) -> dict[str, RemoteFile]:
        """{path: file} of all files at a revision."""

        def read():
            tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, **DATASET)
            return {
                entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in tree
                if hasattr(entry, "blob_id")
            }

        return patiently("reading the list of files", read)

    def read(self, path: str, revision: str) -> bytes:
        """The content of a small file."""

        def download():
            with open(self.api.hf_hub_download(self.repo_id, path, revision=revision, **DATASET), "rb") as file:
                return file.read()

        return patiently(f"reading {path}", download)

    def read_large(self, path: str, revision: str) -> bytes:
        """The content of a large file, which is not stored."""

        def read():
            with self.open(path, revision) as file:
                return file.read()

        return patiently(f"reading {path}", read)

    def commit_of(self, revision: str) -> str:
        """The commit that a branch, tag or commit names. Raises PublishError if there is none."""
        try:
            return patiently("reading the revision", lambda: self.api.dataset_info(self.repo_id, revision=revision)).sha
        except RepositoryNotFoundError as error:
            raise PublishError(f"{self.repo_id}: no such dataset, or this token cannot see it") from error
        except RevisionNotFoundError as error:
            raise PublishError(f"{self.repo_id}: no revision {revision!r}") from error

    def open(self, path: str, revision: str) -> BinaryIO:
        """A file, opened to be read by Range requests. Unlike those of other methods, these are not retried."""
        return self._file_system.open(f"datasets/{self.repo_id}@{revision}/{path}")

    def read_parquet(self, path: str, revision: str, read: Callable[[pq.ParquetFile], Any], doing="reading") -> Any:
        """What `read` returns for a Parquet file, of which it takes what it needs, with `use_threads=False`."""

        # Opened anew for each try: a file whose connection was cut stays broken.
        def open_and_read():
            # No threads: of reads from Python files they outlive the program's end, which then aborts
            # (apache/arrow#45214).
            with self.open(path, revision) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
                return read(parquet)

        return patiently(f"{doing} {path}", open_and_read)

    # ------------------------------------------------------------------------------------------------------ check

    def check_access(self, state: State, private: bool = False) -> None:
        """Refuses a token that may not write to the repository, as far as this can be known before it exists."""
        try:
            if state.head is None:
                _check_owner(patiently("asking whose token it is", self.api.whoami), self.repo_id)
            else:
                patiently("asking for permission", lambda: self.api.auth_check(self.repo_id, write=True, **DATASET))
        except HfHubHTTPError as error:
            if _status(error) == 401 and state.head is None:
                raise PublishError(
                    f"{self.repo_id} is not there, and the Hub does not say whose token it is ({_reason(error)}); "
                    "make a new token or, for a trusted publisher, which cannot make repositories, make the "
                    "repository by hand"
                ) from error
            raise _no_permission(self.repo_id, error) from error
        if private and state.head and not self._is_private():
            raise PublishError(
                f"{self.repo_id} is public; leave --private out, or make it private in its settings first"
            )

    def _is_private(self):
        return patiently("reading settings", lambda: self.api.dataset_info(self.repo_id)).private

    def check_card(self, text: str) -> None:
        """Refuses a card whose metadata the Hub does not accept. So would the commit, but with less to say."""
        try:
            patiently("asking whether the Hub accepts the card", DatasetCard(text).validate)
        except ValueError as error:
            raise PublishError(f"the Hub does not accept the card: {error}") from error

    # ------------------------------------------------------------------------------------------------------ write

    def make(self, state: State, private: bool = False) -> str | None:
        """The commit to build on; makes the repository and the branch if there are none. None if somebody was faster.

        Raises PublishError if the token may not make them.
        """
        if state.has_branch:
            return state.head
        try:
            patiently("making the repository", lambda: self._create(private))
            if self.branch != "main":
                patiently("making the branch", lambda: self._create_branch(state.head))
        except HfHubHTTPError as error:
            raise _no_permission(self.repo_id, error) from error
        made = self.state()
        if made.head is None:
            raise PublishError(f"{self.repo_id} exists, but this token cannot see it; use one of its owner")
        is_first = state.head is None and set(made.files) <= {".gitattributes"}
        return made.head if is_first or made.head == state.head else None

    def _create(self, private):
        self.api.create_repo(self.repo_id, private=private or None, exist_ok=True, **DATASET)

    def _create_branch(self, head):
        self.api.create_branch(self.repo_id, branch=self.branch, revision=head, exist_ok=True, **DATASET)

    def upload(self, paths: list[str], folder: str) -> dict[str, CommitOperationAdd]:
        """Sends files of a folder to the Hub's storage, a batch at a time, except those it has. Commits nothing.

        Returns {path: what to commit}.
        """
        disable_progress_bars()  # ours says the same on one line
        sent: dict[str, CommitOperationAdd] = {}
        sizes = {path: os.path.getsize(os.path.join(folder, path)) for path in paths}
        with Progress(sum(sizes.values()), "uploading") as bar:
            for batch in batches(sizes):
                additions = [CommitOperationAdd(path, os.path.join(folder, path)) for path in batch]
                self._send(additions, f"uploading {batch[0]}")
                sent |= dict(zip(batch, additions))
                bar.update(sum(sizes[path] for path in batch))
        return sent

    def _send(self, additions, doing):
        patiently(
            doing,
            lambda: self.api.preupload_lfs_files(self.repo_id, additions, revision=self.branch, **DATASET),
        )

    def recall(self, state: State, files: dict[str, str]) -> None:
        """Tells the Xet client what the Hub has of the files that `files` ({path: local file}) will replace.

        The client asks the Hub about the first chunk of a file only, and learns of all that was uploaded with it. If
        the first image differs, it learns nothing, and sends the whole file again: 42 MB of an update of 10 labels. So
        the first bytes of the published files are sent first. The Hub has them already, and they are never committed.
        """
        firsts = []
        for path in () if constants.HF_HUB_DISABLE_XET else sorted(set(files) & set(state.files)):
            with open(files[path], "rb") as file:
                new = file.read(FIRST_CHUNK)
            old = self._first_chunk(path, state.head)
            if old != new:
                firsts.append(CommitOperationAdd(f"{path}.first-chunk.parquet", old))
        if firsts:
            self._send(firsts, "asking the Hub what it already has")

    def _first_chunk(self, path, revision):
        def open_and_read():
            with self.open(path, revision) as file:
                return file.read(FIRST_CHUNK)

        return patiently(f"reading the first bytes of {path}", open_and_read)

    def commit(
        self, additions: list[CommitOperationAdd], deletions: list[str], message: str, parent: str
    ) -> str | None:
        """One commit of all changes on `parent`; its id, or None if the branch has moved on since."""
        operations = [*additions, *(CommitOperationDelete(path) for path in deletions)]
        where = {"parent_commit": parent, "revision": self.branch, **DATASET}
        try:
            done = patiently(
                "committing",
                lambda: self.api.create_commit(self.repo_id, operations, commit_message=message, **where),
            )
            return done.oid
        except HfHubHTTPError as error:
            if _status(error) == 412:
                return None
            raise

    def tag(self, name: str, sha: str, message: str) -> None:
        """Tags a commit. Raises PublishError if the tag exists at another commit, or the commit is gone."""
        patiently("tagging", lambda: self._create_tag(name, sha, message))

    def _create_tag(self, name, sha, message):
        # All of it is one try: if the answer to the first was lost, the next finds the tag there, at our commit.
        try:
            self.api.create_tag(self.repo_id, tag=name, revision=sha, tag_message=message, **DATASET)
        except RevisionNotFoundError as error:
            raise PublishError(f"commit {sha} is gone from {self.repo_id}; was its history rewritten?") from error
        except HfHubHTTPError as error:
            if _status(error) != 409:
                raise
            tags = {tag.name: tag.target_commit for tag in self.api.list_repo_refs(self.repo_id, **DATASET).tags}
            if name not in tags:
                raise  # busy, not taken
            if tags[name] != sha:
                raise PublishError(
                    f"{tagged_elsewhere(self.repo_id, name, tags[name])}, not at {sha}; choose a higher version"
                ) from error


def tagged_elsewhere(repo_id: str, name: str, commit: str) -> str:
    """The beginning of a message about a tag that is not ours."""
    return f"somebody else tagged {name} in {repo_id}, at commit {commit}"


def batches(sizes: dict[str, int]) -> list[list[str]]:
    """Paths in their order, in groups of at most BATCH_BYTES (or of one that is larger); `sizes` is {path: bytes}."""
    groups: list[list[str]] = []
    total = 0
    for path, size in sizes.items():
        if not groups or total + size > BATCH_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(path)
        total += size
    return groups
