"""A dataset repository on the Hub. Passing failures are retried inside each method, by `patiently` alone."""

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple
from urllib.request import getproxies

import httpx2
import pyarrow.parquet as pq
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    get_session,
    get_token,
    set_client_factory,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    disable_progress_bars,
    hf_raise_for_status,
    logging,
    parse_ratelimit_headers,
)
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils._runtime import is_xet_available

from scripts.pipeline.console import Progress, reason, say

TRIES = 5  # of one request, before giving up
CONNECT_SECONDS = 10
ANSWER_SECONDS = 120  # to wait for an answer, or for more of it; the Hub itself ends a commit after 60
MOST_SECONDS = 300  # to wait between tries: the Hub counts requests in windows of five minutes
HEARTBEAT_SECONDS = 30  # between lines that say that a request still waits
BUSY = (408, 409, 429, 500, 502, 503, 504)  # statuses that pass; 409: another commit is being made
COMMIT_OPERATIONS = 100  # at most, of commits in pieces: https://huggingface.co/docs/hub/storage-limits
FIRST_CHUNK = 128 << 10  # bytes; no chunk of Xet is larger
BATCH_BYTES = 128 << 20  # uploaded in one go: at most this is sent again after a kill
AGAIN = "run the same command again: it picks up where it left off"  # as every command here does
DATASET = {"repo_type": "dataset"}
UNFINISHED = "Made in several commits, and merged by the publication when it is whole: not to be merged by hand."
REPO_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"  # a pattern: the id of a repository in a namespace


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


class _Client(httpx2.Client):
    """huggingface_hub's HTTP client with time-outs, and without its retries: `patiently` retries, and says so.

    huggingface_hub retries what its client answers with a busy status or raises of httpx2. So both are raised as other
    errors here, which it passes on.
    """

    def send(self, request, **settings):
        limits = {"connect": CONNECT_SECONDS, **dict.fromkeys(("read", "write", "pool"), ANSWER_SECONDS)}
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {name: given.get(name) or seconds for name, seconds in limits.items()}
        try:
            response = super().send(request, **settings)
        except httpx2.TimeoutException as error:
            raise TimeoutError(f"no answer of {request.url.host}: {type(error).__name__}") from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            raise ConnectionError(f"{request.url.host}: {error or type(error).__name__}") from error
        if response.status_code in BUSY and response.status_code != 409:  # which it does not retry, and means more
            response.read()
            hf_raise_for_status(response)
        return response


def _make_client() -> _Client:
    default = default_client_factory()
    return _Client(event_hooks=default.event_hooks, follow_redirects=True, timeout=None)


def prepare_clients() -> None:
    """Gives huggingface_hub's requests time-outs, and leaves it to this project to say what they do."""
    set_client_factory(_make_client)
    disable_progress_bars()
    logging.set_verbosity_error()


@contextlib.contextmanager
def _heartbeat(what):
    """Says now and then that something still runs, so that one can tell a stalled upload from a slow one."""
    done, started = threading.Event(), time.monotonic()

    def beat():
        while not done.wait(HEARTBEAT_SECONDS):
            say(f"{what}: at it for {time.monotonic() - started:.0f} s")

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def patiently(what: str, action: Callable[[], Any]) -> Any:
    """The result of `action`, retried while the Hub is busy or the connection is cut. Retries are few, and announced.

    Raises PublishError after the last try. An error that a retry cannot mend is raised at once.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with _heartbeat(what):
                return action()
        except Exception as error:
            wait = _wait(error, attempt)
            if wait is None:
                error.add_note(what)
                raise
            if attempt == TRIES:
                raise PublishError(f"{what}: {_reason(error)}, {TRIES} times; {AGAIN}{_endpoint(error)}") from error
            say(f"{what}: {_reason(error)}; trying again in {wait:.0f} s ({attempt} of {TRIES - 1})")
            time.sleep(wait)


def _endpoint(error):
    """Where the Hub is looked for, if nothing answers there."""
    proxy = ", and a proxy is set" if getproxies() else ""
    return f" (HF_ENDPOINT is {constants.ENDPOINT}{proxy})" if _status(error) is None else ""


def _answered(error):
    """The error of a request that the Hub answered: `error` itself or, of an upload, one that it was raised from."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    return error


def _status(error) -> int | None:
    answered = _answered(error)
    if answered is not None:
        return answered.response.status_code
    told = re.search(r"\b([45]\d\d) [A-Z][a-z]+", str(error))  # in the words of hf_xet, which has a client of its own
    return int(told[1]) if told else None


def _wait(error, attempt):
    """Seconds to wait before the next try; None if a retry would not help."""
    never = OfflineModeIsEnabled, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError
    if isinstance(error, (PublishError, *never)):
        return None
    status, answered = _status(error), _answered(error)
    if status is not None and status not in BUSY:
        return None
    network = isinstance(error, HTTPError | ConnectionError | TimeoutError)
    if status is None and not network and type(error) is not RuntimeError:  # which hf_xet raises for its network errors
        return None
    headers = answered.response.headers if answered else {}
    limit = parse_ratelimit_headers(headers) if status == 429 else None
    wanted = limit.reset_in_seconds + 1 if limit else _retry_after(headers)
    return 2 ** (attempt - 1) if wanted is None else min(max(wanted, 1), MOST_SECONDS)


def _retry_after(headers):
    """Seconds that a Retry-After header asks for, as a number or a date; None without one."""
    text = headers.get("retry-after", "")
    if text.isdigit():
        return int(text)
    with contextlib.suppress(ValueError):
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    return None


def _reason(error):
    """What went wrong, in a line."""
    if _answered(error) is not None:
        return f"the Hub answered {_status(error)}"
    lines = str(error).splitlines()  # a timeout has none
    return ": ".join([type(error).__name__, *(line[:300] for line in lines[:1])])


def explain(error: Exception) -> str:
    """An error as a line for the user: what the Hub said if it answered a request, else the error's message."""
    if isinstance(error, OSError) and error.strerror:
        return reason(error)
    if isinstance(error, FileNotFoundError):  # of huggingface_hub's file system
        return f"{error}: no such file on the Hub"
    answered = _answered(error)
    if isinstance(error, PublishError) or (answered is None and str(error)):
        return str(error)
    words = getattr(answered, "server_message", None)
    notes = [f" ({note})" for note in getattr(error, "__notes__", ())[:1]]
    return ": ".join([_reason(error), *([words[:1000]] if words else [])]) + "".join(notes)


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


class PullRequest(NamedTuple):
    """A pull request: its number, the commit that it ends with, and where it is shown."""

    number: int
    head: str
    address: str


def _was_slow(error):
    """Whether the Hub took too long, to the end."""
    return _status(error.__cause__) == 504 or isinstance(error.__cause__, TimeoutError)


def check_branch(name: str) -> None:
    """Refuses what is no name of a branch, or would be taken for something else. Raises PublishError."""
    wrong = None
    if not name:
        wrong = "the name of the branch is empty (a variable that is not set?)"
    elif name.startswith("refs/"):
        wrong = f"{name!r} is a full reference; give a branch's name, or --create-pr for a pull request"
    elif re.fullmatch("[0-9a-fA-F]{40}", name):
        wrong = f"{name!r} would be taken for a commit; choose another name"
    elif re.fullmatch(r"v\d+(\.\d+)*", name):
        wrong = f"{name!r} would be taken for the tag of a version; choose another name"
    elif (
        not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", name)
        or name == "HEAD"
        or re.search(r"\.\.|//|/\.|[./]$|\.lock(/|$)", name)
    ):
        wrong = f"{name!r} is no name of a branch; use letters, digits, '-', '_', '.' and '/'"
    if wrong:
        raise PublishError(f"--branch: {wrong}")


class Repository:
    """A dataset repository, and the branch of it to commit to. Neither needs to exist before `make`.

    With `create_pr` the commit becomes a pull request. Every method retries, and says so, while the Hub is busy or the
    connection is cut; it raises PublishError after the last try. Other errors are raised as huggingface_hub has them,
    unless a method says otherwise.
    """

    def __init__(self, api: HfApi, repo_id: str, branch: str = "main", *, create_pr: bool = False):
        self.api, self.repo_id, self.branch, self.create_pr = api, repo_id, branch, create_pr
        self._file_system = HfFileSystem(endpoint=api.endpoint, token=api.token)

    # ------------------------------------------------------------------------------------------------------- read

    def follow_rename(self) -> None:
        """Takes the name that the repository has now: from the old name of a renamed one the Hub redirects."""
        try:
            name = patiently("asking for the repository", lambda: self.api.dataset_info(self.repo_id)).id
        except HfHubHTTPError:  # not there, or not to be seen: `state` says so
            return
        if name != self.repo_id:
            say(f"{self.repo_id} is now called {name}: that name is used")
            self.repo_id = name

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
        if self.branch in tags:
            raise PublishError(f"--branch: {self.branch!r} is a tag of {self.repo_id}; choose another name")
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

    def titles(self, revision: str) -> list[tuple[str, str]]:
        """(commit, title) of all commits up to a revision, the last one first."""
        listed = patiently(
            "reading the list of commits",
            lambda: self.api.list_repo_commits(self.repo_id, revision=revision, **DATASET),
        )
        return [(commit.commit_id, commit.title) for commit in listed]

    def address_of(self, commit: str) -> str:
        """Where a commit is shown."""
        return f"{self.api.endpoint}/datasets/{self.repo_id}/commit/{commit}"

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
        # No read-ahead, which would be of 5 MiB: of most files a footer and some columns are read.
        return self._file_system.open(f"datasets/{self.repo_id}@{revision}/{path}", cache_type="none")

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
        if self.create_pr:
            if state.head is None:
                raise PublishError(f"{self.repo_id} is not there: a pull request needs a repository; publish without")
            return  # everybody may open one, and no request tells
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
            if _status(error) != 404 or state.head is None:
                raise _no_permission(self.repo_id, error) from error
            say("the Hub does not say whether the token may write: the upload will tell")
        if private and state.head and not self._is_private():
            raise PublishError(
                f"{self.repo_id} is public; leave --private out, or make it private in its settings first"
            )

    def _is_private(self):
        return patiently("reading settings", lambda: self.api.dataset_info(self.repo_id)).private

    def check_card(self, text: str) -> None:
        """Refuses a card whose metadata the Hub does not accept. So would the commit, but with less to say."""

        def ask():  # as DatasetCard.validate does, which fails in other ways where the Hub is busy
            body = {"repoType": "dataset", "content": text}
            response = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=body)
            if response.status_code != 400:
                hf_raise_for_status(response)
            return None if response.status_code != 400 else response.text

        wrong = patiently("asking whether the Hub accepts the card", ask)
        if wrong:
            raise PublishError(f"the Hub does not accept the card: {_card_errors(wrong)}")

    # ------------------------------------------------------------------------------------------------------ write

    def make(self, state: State, private: bool = False) -> str | None:
        """The commit to build on; makes the repository and the branch if there are none. None if somebody was faster.

        Raises PublishError if the token may not make them.
        """
        if state.has_branch or self.create_pr:
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
        patiently(doing, lambda: self._preupload(additions))
        ignored = [addition.path_in_repo for addition in additions if addition._should_ignore]
        if ignored:
            raise PublishError(
                f"{self.repo_id}: the .gitignore there leaves out {_few(ignored)}; take those lines out of it, or "
                f"remove it, and {AGAIN}"
            )
        small = [a.path_in_repo for a in additions if a.path_in_repo.endswith(".parquet") and a._upload_mode != "lfs"]
        if small:
            raise PublishError(
                f"{self.repo_id}: its .gitattributes do not put {_few(small)} into the storage of large files; add the "
                f"line '*.parquet filter=lfs diff=lfs merge=lfs -text' there, and {AGAIN}"
            )

    def _preupload(self, additions):
        where = {"revision": self.branch, "create_pr": self.create_pr, **DATASET}
        self.api.preupload_lfs_files(self.repo_id, additions, **where)

    def recall(self, state: State, files: dict[str, str]) -> None:
        """Tells the Xet client what the Hub has of the files that `files` ({path: local file}) will replace.

        The client asks the Hub about the first chunk of a file, and then knows of the storage block that holds it. If
        the first image differs, it learns nothing, and sends the whole file again: 42 MB of an update of 10 labels. So
        the first bytes of the published files are sent first. The Hub has them already, and they are never committed.

        The public documentation (hub-docs, xet/deduplication.md) promises that the first chunk of every file can be
        asked for, and that the answer describes blocks that hold it. That it describes the rest of the file is what
        was seen, and not promised. So this only saves bytes: where it fails, the publication goes on without.
        """
        try:
            firsts = self._first_chunks(state, files) if is_xet_available() else []
            if firsts:
                self._preupload(firsts)
        except Exception as error:  # whatever a connection, the Hub or hf_xet makes of it
            say(f"not asked what the Hub already has, so more may be sent: {_reason(error)}")

    def _first_chunks(self, state, files):
        firsts = []
        for path in sorted(set(files) & set(state.files)):
            with open(files[path], "rb") as file:
                new = file.read(FIRST_CHUNK)
            old = self._first_chunk(path, state.head)
            if old != new:
                firsts.append(CommitOperationAdd(f"{path}.first-chunk.parquet", old))
        return firsts

    def _first_chunk(self, path, revision):
        def open_and_read():
            with self.open(path, revision) as file:
                return file.read(FIRST_CHUNK)

        return patiently(f"reading the first bytes of {path}", open_and_read)

    def prepare(self, texts: dict[str, bytes]) -> list[CommitOperationAdd]:
        """Small files as they are to be committed. Raises PublishError for one that the commit would leave out."""
        additions = [CommitOperationAdd(path, text) for path, text in texts.items()]
        if additions:
            self._send(additions, "asking how to send the card")
        return additions

    def restore(self, paths: list[str], files: dict[str, RemoteFile], revision: str) -> list:
        """What to commit so that `paths` are as at another revision, whose `files` these are. Sends no large file."""
        small = {path: self.read(path, revision) for path in paths if files[path].sha256 is None}
        large = [CommitOperationCopy(path, path, revision) for path in paths if path not in small]
        return [*self.prepare(small), *large]

    def commit(
        self,
        additions: list,
        deletions: list[str],
        message: str,
        parent: str,
        *,
        description: str = "",
        is_same: Callable[[dict[str, RemoteFile]], bool] = lambda files: False,
    ) -> str | None:
        """One commit of all changes on `parent`; its id, or None if the branch has moved on since.

        Where the Hub takes too long for one commit, several are made in a pull request, which is merged when it is
        whole: `main` still moves in one step. No other branch can be moved so. `is_same` tells, by its files, whether a
        pull request of an earlier try is whole.
        """
        operations = [*additions, *(CommitOperationDelete(path) for path in deletions)]
        say(f"committing {len(operations):,} changes")
        try:
            about = {"commit_message": message, "commit_description": description, "revision": self.branch}
            return self._create_commit("committing", operations, parent, **about).oid
        except HfHubHTTPError as error:
            if _status(error) == 412 and self._head() != parent:
                return None
            raise PublishError(f"{self.repo_id}: the commit was refused: {explain(error)}") from error
        except PublishError as error:
            if not _was_slow(error) or self.branch != "main" or len(operations) <= COMMIT_OPERATIONS:
                raise
            if self._head() != parent:
                return None  # it was made after all, or another one
            found = self._find_pull_request(message, is_same) or self._in_pieces(
                operations, parent, message, description
            )
            return self._merge(found, parent)

    def _head(self):
        refs = patiently("reading branches", lambda: self.api.list_repo_refs(self.repo_id, **DATASET))
        return next((ref.target_commit for ref in refs.branches if ref.name == self.branch), None)

    def _create_commit(self, doing, operations, parent, **settings) -> CommitInfo:
        return patiently(doing, lambda: self._commit_once(operations, parent, **settings))

    def _commit_once(self, operations, parent, **settings) -> CommitInfo:
        for operation in operations:
            operation._is_committed = False  # to a pull request that came to nothing: it may be committed again
        return self.api.create_commit(self.repo_id, operations, parent_commit=parent, **settings, **DATASET)

    def _in_pieces(self, operations, parent, message, description) -> PullRequest:
        """A pull request of all changes, made in several commits. Closes what is left of earlier tries."""
        for request in self._open_requests(message):
            say(f"closing {request.address}, which is of an earlier try")
            self._close(request)
        pieces = [operations[i : i + COMMIT_OPERATIONS] for i in range(0, len(operations), COMMIT_OPERATIONS)]
        say(f"the Hub takes too long for one commit: making {len(pieces)} in a pull request")
        about = {"commit_message": message, "commit_description": f"{description}\n\n{UNFINISHED}".strip()}
        made = self._create_commit("opening a pull request", pieces[0], parent, create_pr=True, **about)
        head = made.oid
        for number, piece in enumerate(pieces[1:], start=2):
            head = self._add_piece(f"committing, {number} of {len(pieces)}", piece, head, made, about)
        return PullRequest(made.pr_num, head, made.pr_url)

    def _add_piece(self, doing, piece, head, request, about):
        try:
            return self._create_commit(doing, piece, head, revision=request.pr_revision, **about).oid
        except HfHubHTTPError as error:
            now = self._pull_request_heads().get(request.pr_revision)
            if _status(error) != 412 or now in (head, None):
                raise PublishError(f"{request.pr_url}: a commit was refused: {explain(error)}; {AGAIN}") from error
            return now  # the answer to an earlier try was lost, and nobody else commits there

    def _merge(self, request, parent):
        """The head after a merge, None if it has moved on since `parent`."""
        if self._head() != parent:
            say(f"closing {request.address}: it is out of date")
            self._close(request)
            return None
        try:
            patiently("merging", lambda: self.api.merge_pull_request(self.repo_id, request.number, **DATASET))
        except (HfHubHTTPError, PublishError) as error:
            if self._head() == parent:  # else the answer to an earlier try was lost
                raise PublishError(f"{request.address} cannot be merged: {explain(error)}; {AGAIN}") from error
        return self._head()

    def _close(self, request):
        patiently(
            "closing a pull request",
            lambda: self.api.change_discussion_status(self.repo_id, request.number, "closed", **DATASET),
        )

    def open_pull_request(
        self,
        additions: list,
        deletions: list[str],
        message: str,
        parent: str,
        *,
        description: str,
        is_same: Callable[[dict[str, RemoteFile]], bool],
    ) -> tuple[str, str]:
        """(commit, address) of a pull request of all changes; of an open one, if its files are the same already."""
        operations = [*additions, *(CommitOperationDelete(path) for path in deletions)]
        about = {"commit_message": message, "commit_description": description, "create_pr": True}

        def find_or_open():  # if the answer to an earlier try was lost, it is found
            found = self._find_pull_request(message, is_same)
            if found:
                return found
            made = self._commit_once(operations, parent, **about)
            return PullRequest(made.pr_num, made.oid, made.pr_url)

        try:
            request = patiently("opening the pull request", find_or_open)
        except HfHubHTTPError as error:
            raise PublishError(f"{self.repo_id}: the pull request was refused: {explain(error)}") from error
        except PublishError as error:
            if not _was_slow(error) or len(operations) <= COMMIT_OPERATIONS:
                raise
            request = self._in_pieces(operations, parent, message, description)
        return request.head, request.address

    def _pull_request_heads(self):
        """{"refs/pr/1": commit}"""
        refs = patiently(
            "reading pull requests",
            lambda: self.api.list_repo_refs(self.repo_id, include_pull_requests=True, **DATASET),
        )
        return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}

    def _open_requests(self, title) -> list[PullRequest]:
        about = {"discussion_type": "pull_request", "discussion_status": "open", **DATASET}
        listed = patiently("reading pull requests", lambda: list(self.api.get_repo_discussions(self.repo_id, **about)))
        heads = self._pull_request_heads()
        mine = [request for request in listed if request.title == title and f"refs/pr/{request.num}" in heads]
        return [PullRequest(r.num, heads[f"refs/pr/{r.num}"], r.url) for r in mine]

    def _find_pull_request(self, title, is_same) -> PullRequest | None:
        return next((r for r in self._open_requests(title) if is_same(self.files(r.head))), None)

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


def _few(paths):
    """Some paths as a sentence lists them."""
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def _card_errors(text):
    """What is wrong with a card, out of the JSON that the Hub answers."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        errors = json.loads(found[0])["errors"]
        return "; ".join(str(error["message"]) for error in errors)[:1000]
    return text[:1000]


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
