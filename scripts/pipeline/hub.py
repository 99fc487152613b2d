"""Publication on the Hub: one commit, one tag, only what changed.

Plan against the published manifest, refuse what is wrong, upload what is new, one commit on the planned parent, read
back at that commit, tag. Readers pin tags, and `main` moves from one whole version to the next.
"""

import functools
import hashlib
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import datasets
import httpx2
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
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from hyper_kvasir import features_of
from scripts.pipeline.console import Progress, say, table
from scripts.pipeline.manifest import FILE, matching, parse_manifest
from scripts.pipeline.parquet import ROWS, features_metadata

TRIES = 5  # of one request, before giving up
ROUNDS = 3  # of planning, where somebody else commits meanwhile
FIRST_CHUNK = 128 << 10  # bytes; no chunk of Xet is larger
BATCH_BYTES = 128 << 20  # uploaded in one go: at most this is sent again after a kill
LOAD_BYTES = 128 << 20  # of a part: larger ones are read back by streaming and by their footers only
MOST_FILES, MOST_IN_FOLDER = 100_000, 10_000  # https://huggingface.co/docs/hub/storage-limits
AGAIN = "run the same command again: it goes on where it was"
DATASET = {"repo_type": "dataset"}


class PublishError(RuntimeError):
    """The publication is refused or failed; the message says why and what to do."""


class RemoteFile(NamedTuple):
    """A file as the Hub lists it: sha256 of a large file, git's blob id of a small one."""

    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True)
class Remote:
    """A repository at the head of a branch, or of main where there is no such branch; `head` None: no repository."""

    head: str | None
    files: dict[str, RemoteFile] = field(default_factory=dict)
    manifest: dict | None = None
    tags: dict[str, str] = field(default_factory=dict)
    has_branch: bool = False


@dataclass(frozen=True)
class Release:
    """What is to be published: the manifest with its version, and the content of each small file.

    `folder` has the data files that the Hub may lack; those in `uploaded` were sent already and may be gone. A release
    that is only planned has files to be built, whose "sha256" in the manifest is None (and "bytes" those of their
    images), and no texts yet: None. `rows` tells what `read_rows` would, of files that are not there to be read.
    """

    version: str
    folder: str
    manifest: dict
    texts: dict[str, bytes] | None
    uploaded: dict[str, CommitOperationAdd] = field(default_factory=dict)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    @property
    def files(self) -> dict:
        return self.manifest["files"]


class Changes(NamedTuple):
    """Paths of a release against a repository's head."""

    add: list[str]
    keep: list[str]
    delete: list[str]


class Maker(Protocol):
    """Makes a release: first the plan, which may be refused, then all of it. Both may be asked for more than once."""

    def plan(self, remote: Remote) -> Release:
        """The release that shall replace a repository's state. Builds and sends nothing."""

    def build(self, remote: Remote, planned: Release, send: Callable[[list[str], str], dict]) -> Release:
        """The whole release; `send` uploads files of a folder, and returns {path: CommitOperationAdd}."""


class Target(NamedTuple):
    """Where to publish."""

    repo_id: str
    branch: str = "main"
    private: bool = False


# ---------------------------------------------------------------------------------------------------------- requests


def patiently(what: str, action: Callable[[], Any]) -> Any:
    """The result of `action`, tried again where the Hub is busy or the connection is cut: bounded, and announced.

    Raises PublishError after the last try, and at once what no other try would put right.
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
    """Seconds to wait before another try, None where none would help."""
    status = _status(error)
    if status is not None and status not in (408, 409, 429) and status < 500:
        return None
    network = isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError)
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
    lines = str(error).splitlines()  # none of a timeout
    return ": ".join([type(error).__name__, *(line[:200] for line in lines[:1])])


def explain(error: Exception) -> str:
    """An error as a line for the user: of a request what the Hub said, of all others their message."""
    if isinstance(error, HfHubHTTPError):
        return ": ".join([_reason(error), *([error.server_message] if error.server_message else [])])
    return str(error) or _reason(error)


# -------------------------------------------------------------------------------------------------------- repository


def read_remote(api: HfApi, repo_id: str, branch: str) -> Remote:
    """The repository at the head of `branch`, with its files, manifest and tags."""
    try:
        refs = patiently("reading branches", lambda: api.list_repo_refs(repo_id, **DATASET))
    except RepositoryNotFoundError:
        return Remote(None)
    except HfHubHTTPError as error:
        if _status(error) == 401:
            raise PublishError(f"the Hub does not accept the token ({_reason(error)}); make a new one") from error
        raise
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    heads = {b.name: b.target_commit for b in refs.branches}
    head = heads.get(branch, heads.get("main"))  # a new branch will start from main
    if head is None:
        return Remote(None, tags=tags)
    files = patiently("reading the list of files", lambda: list_files(api, repo_id, head))
    manifest, has_branch = None, branch in heads
    if FILE in files:
        text = patiently("reading the manifest", lambda: download(api, repo_id, FILE, head))
        try:
            manifest = parse_manifest(text.decode(), f"{repo_id}/{FILE}")
        except ValueError as error:
            raise PublishError(str(error)) from error
    return Remote(head, files, manifest, tags, has_branch)


def list_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RemoteFile]:
    """All files of a repository at a revision."""
    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision, **DATASET)
    return {
        entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in entries
        if hasattr(entry, "blob_id")
    }


def download(api: HfApi, repo_id: str, path: str, revision: str) -> bytes:
    """The content of a small file."""
    with open(api.hf_hub_download(repo_id, path, revision=revision, **DATASET), "rb") as file:
        return file.read()


def opener(api: HfApi, repo_id: str, revision: str | None) -> Callable[[str], Any]:
    """A function that opens a published file by its path, to be read by Range requests."""
    files = HfFileSystem(endpoint=api.endpoint)
    return lambda path: files.open(f"datasets/{repo_id}@{revision}/{path}")


def published_entries(remote: Remote) -> dict:
    """The published manifest's data files that are really there, with that content."""
    files = remote.manifest["files"] if remote.manifest else {}
    there = remote.files
    return {path: entry for path, entry in files.items() if path in there and there[path].sha256 == entry["sha256"]}


def lost_files(remote: Remote) -> list[str]:
    """The published manifest's data files that are not there any more, or with other content."""
    return sorted(set(remote.manifest["files"] if remote.manifest else ()) - set(published_entries(remote)))


# -------------------------------------------------------------------------------------------------------------- plan


def same_file(path: str, release: Release, remote: RemoteFile) -> bool:
    """Whether the Hub has this content at this path."""
    if path in release.files:
        return remote.sha256 is not None and remote.sha256 == release.files[path]["sha256"]
    content = release.texts[path]
    if remote.sha256:
        return remote.sha256 == hashlib.sha256(content).hexdigest()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def find_changes(release: Release, remote: Remote) -> Changes:
    """What to add, keep and delete. Only files of an earlier release are deleted, nothing that people put there.

    Of a release that is only planned: of its data files.
    """
    ours = [*release.files, *(release.texts or {})]
    keep = [path for path in ours if path in remote.files and same_file(path, release, remote.files[path])]
    earlier = set(remote.manifest["files"]) if remote.manifest else set()
    if release.texts is not None:
        earlier |= {FILE, "README.md", *_published_texts(remote)}
    delete = sorted(earlier & set(remote.files) - set(ours))
    return Changes(sorted(set(ours) - set(keep)), sorted(keep), delete)


def _published_texts(remote):
    """{path: {"bytes", "sha256"}} of the published card's files."""
    return (remote.manifest or {}).get("card", {}).get("files", {})


def is_new(api: HfApi, repo_id: str, release: Release, remote: Remote, changes: Changes) -> bool:
    """Whether anything but the version, its changelog entry and the packages differs from what is published."""
    if remote.manifest is None or "version" not in remote.manifest:
        return True
    if set(changes.add) & set(release.files) or changes.delete:
        return True
    if _without_version(release.manifest) != _without_version(remote.manifest):
        return True
    return any(_is_edited(api, repo_id, remote, path) for path in _published_texts(remote) if path in changes.add)


def _without_version(manifest):
    """A manifest with the card's key, which is of all that the card depends on but the version, for its files."""
    return {**manifest, "version": None, "versions": None, "card": manifest.get("card", {}).get("key")}


def _is_edited(api, repo_id, remote, path):
    """Whether a file of the card is gone on the Hub, or changed there by hand, since it was published."""
    entry = _published_texts(remote)[path]
    if path not in remote.files or remote.files[path].size != entry["bytes"]:
        return True
    content = patiently(f"reading {path}", lambda: download(api, repo_id, path, remote.head))
    return hashlib.sha256(content).hexdigest() != entry["sha256"]


def changes_table(release: Release, changes: Changes) -> str:
    """The plan as text: a line for each config, whose files may be shared, and for all together."""

    def size(path):
        return release.files[path]["bytes"] if path in release.files else len(release.texts[path])

    def line(what, paths):
        kept, added = [sum(path in group for path in paths) for group in (set(changes.keep), set(changes.add))]
        gone = sum(path in changes.delete for path in paths)
        sent = sum(size(path) for path in paths if path in changes.add)
        return (what, kept, added, gone, sent)

    rows = []
    for config, splits in release.manifest["configs"].items():
        everywhere = [*release.files, *(path for path in changes.delete if path.endswith(".parquet"))]
        rows.append(line(config, {p for view in splits.values() for p in matching(view["files"], everywhere)}))
    if release.texts is not None:
        rows.append(line("card and manifest", {p for group in changes for p in group if not p.endswith(".parquet")}))
    rows.append(line("all together", {path for group in changes for path in group}))
    return table(("config", "kept", "added", "deleted", "bytes to add"), rows)


# ------------------------------------------------------------------------------------------------------------ refuse


def check_repo(repo_id: str, remote: Remote) -> None:
    """Refuses a repository of something else, and what `datasets` would take for a loading script."""
    name = repo_id.split("/")[-1]
    if name.endswith(".py"):
        raise PublishError(f"{repo_id}: datasets takes a name ending in .py for a script; choose another name")
    scripts = sorted(path for path in remote.files if path == f"{name}.py")
    if scripts:
        raise PublishError(f"{repo_id} holds {scripts[0]}: datasets refuses to load it as a script; delete that file")
    others = sorted(set(remote.files) - {".gitattributes", "README.md"})
    if remote.manifest is None and others:
        raise PublishError(f"{repo_id} holds something else ({others[0]}, no {FILE}); choose another repository")


def check_token() -> None:
    """Refuses to go on without a token, or with one that cannot be sent. Asks nobody."""
    token = get_token()
    if not token:
        raise PublishError("no token: set HF_TOKEN to one with write permission, or run `hf auth login`")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise PublishError("the token has characters that no token has, perhaps from pasting; set HF_TOKEN again")


def check_access(api: HfApi, target: Target, remote: Remote) -> None:
    """Refuses a token that may not write to the repository, as far as can be told before it is there."""
    repo_id = target.repo_id
    try:
        if remote.head is None:
            _check_owner(patiently("asking whose token it is", api.whoami), repo_id)
        else:
            patiently("asking for permission", lambda: api.auth_check(repo_id, write=True, **DATASET))
    except HfHubHTTPError as error:
        if _status(error) == 401 and remote.head is None:
            raise PublishError(
                f"{repo_id} is not there, and the Hub does not say whose the token is ({_reason(error)}); make a new "
                "token, or the repository by hand where the token is of a trusted publisher, which cannot make it"
            ) from error
        raise _no_permission(repo_id, error) from error
    if target.private and remote.head and not patiently("reading settings", lambda: api.dataset_info(repo_id)).private:
        raise PublishError(f"{repo_id} is public; leave --private out, or make it private in its settings first")


def _check_owner(who, repo_id):
    """Of fine-grained tokens only creation will tell: `whoami` need not list all that they are for."""
    role, name = who.get("auth", {}).get("accessToken", {}).get("role"), who["name"]
    if role == "read":
        raise PublishError(f"the token of {name} may only read; use one with write permission")
    if role == "write" and repo_id.split("/")[0] not in {name, *(org["name"] for org in who.get("orgs", []))}:
        raise PublishError(f"{repo_id}: {name} is not a member of {repo_id.split('/')[0]}; choose another name")


def _no_permission(repo_id, error):
    """The error to raise for a refused request: of permission, or `error` itself."""
    if _status(error) in (401, 403, 404):
        return PublishError(f"{repo_id}: the token may not write there ({_reason(error)}); use one that may")
    return error


def refuse(api: HfApi, repo_id: str, release: Release, remote: Remote, changes: Changes) -> None:
    """Refuses a release that is new, but must not be published there; it need not be built yet."""
    check_stray(repo_id, release, remote, changes)
    check_limits(release)
    check_version(api, repo_id, release, remote)


def check_limits(release: Release) -> None:
    """Refuses more files than the Hub takes."""
    folder, most = Counter(os.path.dirname(path) for path in release.files).most_common(1)[0]
    if len(release.files) > MOST_FILES or most > MOST_IN_FOLDER:
        raise PublishError(
            f"{len(release.files):,} files, {most:,} of them in {folder}; the Hub takes {MOST_FILES:,} in all and "
            f"{MOST_IN_FOLDER:,} in a folder: make larger ones"
        )


def check_stray(repo_id: str, release: Release, remote: Remote, changes: Changes) -> None:
    """Refuses a repository with files below data/ that are not of this dataset: readers would get their rows."""
    ours = {*release.files, *changes.delete}
    stray = sorted(path for path in remote.files if path.startswith("data/") and path not in ours)
    if stray:
        raise PublishError(f"{repo_id} holds {stray[0]}, which is not of this dataset; remove it, then try again")


def check_metadata(release: Release) -> None:
    """Refuses a card whose metadata the Hub does not take; a commit would be refused, but after all was sent."""
    card = DatasetCard(release.texts["README.md"].decode())
    try:
        patiently("asking whether the Hub takes the card", card.validate)
    except ValueError as error:
        raise PublishError(f"the Hub does not take the card: {error}") from error


def check_changelog(version: str, changelog: str, where: str) -> None:
    """Refuses a version without an entry "## X.Y.Z" in the changelog, which is the file `where`."""
    headings = [
        line.split()[1].strip("[]v") for line in changelog.splitlines() if line.startswith("## ") and line[3:].strip()
    ]
    if version not in headings:
        raise PublishError(f"{where} has no entry '## {version}'; write what changed, then try again")


def check_tag(api: HfApi, repo_id: str, name: str, remote: Remote) -> None:
    """Refuses to take a tag for the published version that is at a commit of something else."""
    commit = remote.tags[name]
    if commit == remote.head:
        return
    try:
        text = patiently(f"reading {FILE} at {name}", lambda: download(api, repo_id, FILE, commit))
    except EntryNotFoundError:
        text = b"null"
    if json.loads(text) != remote.manifest:
        raise PublishError(
            f"{_elsewhere(repo_id, name, commit)}, which is not that version; remove the tag, and run again"
        )


def _elsewhere(repo_id, name, commit):
    return f"somebody else tagged {name} in {repo_id}, at commit {commit}"


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch). Raises PublishError for anything but X.Y.Z."""
    numbers = text.split(".")
    if len(numbers) != 3 or not all(n.isdigit() and str(int(n)) == n for n in numbers):
        raise PublishError(f"{text!r} is no version; expected X.Y.Z, e.g. 1.0.0")
    return tuple(map(int, numbers))


def check_version(api: HfApi, repo_id: str, release: Release, remote: Remote) -> None:
    """Refuses a version that is tagged, older than the published one, or a smaller step than the change demands."""
    if release.tag in remote.tags:
        raise PublishError(f"{release.tag} is tagged in {repo_id}, and tags never move; choose a higher version")
    if remote.manifest is None or "version" not in remote.manifest:
        return
    new, old = parse_version(release.version), parse_version(remote.manifest["version"])
    if new == old:
        raise _other_content(repo_id, release)
    if new < old:
        raise PublishError(f"{release.version} is older than the published {remote.manifest['version']}")
    step, why = demanded_step(api, repo_id, release, remote)
    if (step == "MAJOR" and new[0] == old[0]) or (step == "MINOR" and new[:2] == old[:2]):
        least = f"{old[0] + 1}.0.0" if step == "MAJOR" else f"{old[0]}.{old[1] + 1}.0"
        raise PublishError(f"{release.version} is too small a step: {why}, which is {step}; at least {least}")


def _other_content(repo_id, release):
    return PublishError(
        f"{release.version} is committed in {repo_id} with other content (by another publication, by hand, or by an "
        "earlier try that failed its read-back); choose a higher version"
    )


def demanded_step(api: HfApi, repo_id: str, release: Release, remote: Remote) -> tuple[str, str]:
    """("MAJOR" | "MINOR" | "PATCH", why): by the digests of the rows in files that differ; no image is read."""
    old, new = remote.manifest, release.manifest
    gone = [f"config {c!r} is gone" for c in old["configs"] if c not in new["configs"]]
    gone += [
        f"split {s!r} of {c!r} is gone"
        for c, splits in old["configs"].items()
        for s in splits
        if s not in new["configs"].get(c, splits)
    ]
    if gone:
        return "MAJOR", gone[0]
    opened = opener(api, repo_id, _whole_revision(repo_id, remote))
    before: dict[str, str] = {}
    for path in _other_rows(old["files"], new["files"]):
        before |= patiently(f"reading the rows of {path}", lambda path=path: read_rows(path, lambda: opened(path)))
    after: dict[str, str] = {}
    for path in _other_rows(new["files"], old["files"]):
        here = os.path.join(release.folder, path)
        after |= release.rows.get(path) or read_rows(path, lambda here=here: io.FileIO(here))
    missing, other = set(before) - set(after), [i for i in before if i in after and after[i] != before[i]]
    if missing:
        return "MAJOR", f"{len(missing):,} rows are gone (e.g. {min(missing)})"
    if other:
        return "MAJOR", f"{len(other):,} rows changed (e.g. {min(other)})"
    rewritten = [p for p, entry in old["files"].items() if p in new["files"] and new["files"][p]["key"] != entry["key"]]
    new_columns = False
    for part, path in {path.split("/")[1]: path for path in rewritten}.items():  # a part's files have the same columns
        columns = patiently(f"reading the columns of {path}", lambda path=path: _columns(opened(path)))
        if not columns.items() <= features_metadata(part).items():
            return "MAJOR", f"columns of {path} are gone or changed"
        new_columns |= columns != features_metadata(part)
    added = set(after) - set(before)
    if added:
        return "MINOR", f"{len(added):,} rows are new"
    if set(old["configs"]) != set(new["configs"]):
        return "MINOR", "configs are new"
    if new_columns:
        return "MINOR", "columns are new"
    return "PATCH", "files are written anew" if rewritten else "only the card changed"


def _whole_revision(repo_id, remote):
    """Where all files of the published manifest can be read: the head, or the tag where the head has lost some."""
    lost, name = lost_files(remote), f"v{remote.manifest['version']}"
    if lost and name not in remote.tags:
        raise PublishError(f"{_lost(repo_id, remote, lost)}, and {name} is not tagged: take that commit back first")
    return remote.tags[name] if lost else remote.head


def _lost(repo_id, remote, lost):
    others = f" and {len(lost) - 1:,} more files" if len(lost) > 1 else ""
    published = remote.manifest.get("version")
    return f"{lost[0]}{others} of {published}: removed from {repo_id}, or changed there, since it was published"


def check_lost(repo_id: str, remote: Remote, parts: set[str]) -> None:
    """Says which published files are gone; refuses where one is of a part that is not in `parts`, to be put back."""
    lost = lost_files(remote)
    if not lost:
        return
    others = [path for path in lost if path.split("/")[1] not in parts]
    if others:
        raise PublishError(f"{_lost(repo_id, remote, others)}: take that commit back, or publish those parts too")
    say(f"{_lost(repo_id, remote, lost)}: they are put back")


def _columns(file):
    """{column: its feature} of a Parquet file."""
    with file:
        return json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]


def _other_rows(files, others):
    """Files whose rows are not those of the file of the same path in `others`."""
    return [p for p, entry in files.items() if p not in others or others[p]["content"] != entry["content"]]


def read_rows(path: str, opened: Callable[[], Any]) -> dict[str, str]:
    """{"<part> <image id>": digest of its inputs} of the Parquet file `path`; reads the footer and one column."""
    # No threads: of reads from Python files they outlive the program's end, which then aborts (apache/arrow#45214).
    with opened() as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        digests = parquet.metadata.metadata[ROWS].decode()
        ids = parquet.read(columns=["image_id"], use_threads=False)["image_id"].to_pylist()
    return {f"{path.split('/')[1]} {image_id}": digests[8 * i : 8 * i + 8] for i, image_id in enumerate(ids)}


# ------------------------------------------------------------------------------------------------------------ upload


def make_branch(api: HfApi, target: Target, remote: Remote) -> str | None:
    """The commit to build on, of a repository and branch made where there are none; None where others were faster.

    Raises PublishError where the token may not make them.
    """
    if remote.has_branch:
        return remote.head
    repo_id, branch = target.repo_id, target.branch
    try:
        create = lambda: api.create_repo(repo_id, private=target.private or None, exist_ok=True, **DATASET)  # noqa: E731
        patiently("making the repository", create)
        if branch != "main":
            make = lambda: api.create_branch(repo_id, branch=branch, revision=remote.head, exist_ok=True, **DATASET)  # noqa: E731
            patiently("making the branch", make)
    except HfHubHTTPError as error:
        raise _no_permission(repo_id, error) from error
    made = read_remote(api, repo_id, branch)
    if made.head is None:
        raise PublishError(f"{repo_id} is there, but not visible to this token; use one of its owner")
    is_first = remote.head is None and set(made.files) <= {".gitattributes"}
    return made.head if is_first or made.head == remote.head else None


def upload(api: HfApi, repo_id: str, branch: str, paths: list[str], folder: str) -> dict[str, CommitOperationAdd]:
    """Sends data files to the Hub's storage, some at a time; what it has already is not sent. Commits nothing."""
    disable_progress_bars()  # ours says the same in one line
    sent: dict[str, CommitOperationAdd] = {}
    sizes = {path: os.path.getsize(os.path.join(folder, path)) for path in paths}
    with Progress(sum(sizes.values()), "uploading") as bar:
        for batch in batches(sizes):
            additions = [CommitOperationAdd(path, os.path.join(folder, path)) for path in batch]
            send = lambda additions=additions: api.preupload_lfs_files(  # noqa: E731
                repo_id, additions, revision=branch, **DATASET
            )
            patiently(f"uploading {batch[0]}", send)
            sent |= {addition.path_in_repo: addition for addition in additions}
            bar.update(sum(sizes[path] for path in batch))
    return sent


def recall(api: HfApi, repo_id: str, branch: str, remote: Remote, files: dict[str, str]) -> None:
    """Tells the Xet client what the Hub has of the files that `files` ({path: local file}) will replace.

    Of a file, the client asks the Hub for the first chunk only, and is told of all that was uploaded with it. Where
    the first image is another, it would find nothing, and send all of the file again: 42 MB of an update of 10 labels.
    So the begins of the published files go first; the Hub has them, and nobody commits them.
    """
    opened, begins = opener(api, repo_id, remote.head), []
    for path in () if constants.HF_HUB_DISABLE_XET else sorted(set(files) & set(remote.files)):
        with open(files[path], "rb") as file:
            new = file.read(FIRST_CHUNK)
        old = patiently(f"reading the begin of {path}", lambda path=path: _begin(opened(path)))
        if old != new:
            begins.append(CommitOperationAdd(f"{path}.begin.parquet", old))
    if begins:
        send = lambda: api.preupload_lfs_files(repo_id, begins, revision=branch, **DATASET)  # noqa: E731
        patiently("asking for what the Hub has", send)


def _begin(file):
    with file:
        return file.read(FIRST_CHUNK)


def batches(sizes: dict[str, int]) -> list[list[str]]:
    """Paths in their order, in groups of at most BATCH_BYTES (or of one that is larger)."""
    groups: list[list[str]] = []
    total = 0
    for path, size in sizes.items():
        if not groups or total + size > BATCH_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(path)
        total += size
    return groups


def commit(api: HfApi, repo_id: str, branch: str, release: Release, changes: Changes, parent: str) -> str | None:
    """One commit of all changes on `parent`; its id, or None where the branch has moved on since."""
    additions = [release.uploaded.get(path) or CommitOperationAdd(path, release.texts[path]) for path in changes.add]
    operations = [*additions, *(CommitOperationDelete(path) for path in changes.delete)]
    message = f"HyperKvasir {release.version}"
    try:
        done = patiently(
            "committing",
            lambda: api.create_commit(
                repo_id, operations, commit_message=message, parent_commit=parent, revision=branch, **DATASET
            ),
        )
        return done.oid
    except HfHubHTTPError as error:
        if _status(error) == 412:
            return None
        raise


# --------------------------------------------------------------------------------------------------------- read back


def read_back(api: HfApi, repo_id: str, sha: str, release: Release) -> list[str]:
    """What is wrong with a commit, as a reader sees it.

    The Hub's digest of every file proves its content. The footer of every Parquet file, read at the commit, gives the
    rows of every split, and the columns. That each config streams shows that the card leads to them: the splits it
    has, their features, and a first row whose image opens. A part of at most LOAD_BYTES is loaded whole too.
    """
    there = patiently("reading back the list of files", lambda: list_files(api, repo_id, sha))
    ours = [*release.files, *release.texts]
    problems = [f"{path} is not there" for path in ours if path not in there]
    problems += [
        f"{path} has other content" for path in ours if path in there and not same_file(path, release, there[path])
    ]
    stray = [path for path in there if path.startswith("data/") and path not in release.files]
    problems += [f"{path} is there, but not in {FILE}" for path in stray]
    if problems:
        return problems  # reading them would only say it again, less clearly
    configs = release.manifest["configs"]
    with Progress(len(release.files) + len(configs), "reading back", unit=" files and configs") as bar:
        rows, problems = _read_footers(api, repo_id, sha, release, bar)
        for config in configs:
            try:
                problems += _read_config(repo_id, sha, release, config, rows)
            except Exception as error:  # whatever load_dataset raises is what a reader would see
                problems.append(f"{config} does not load: {type(error).__name__}: {error}")
            bar.update(1)
    return problems


def _read_footers(api, repo_id, sha, release, bar):
    """({path: rows}, problems) of all Parquet files at a commit."""
    opened = opener(api, repo_id, sha)

    def read(path):
        # No threads of Arrow's own, see read_rows.
        with opened(path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            return parquet.metadata.num_rows, parquet.schema_arrow

    def footer(path):
        found = patiently(f"reading back {path}", lambda: read(path))
        bar.update(1)
        return found

    rows, problems = {}, []
    with ThreadPoolExecutor(4) as threads:
        jobs = {path: threads.submit(footer, path) for path in release.files}
    for path, job in jobs.items():
        try:
            rows[path], schema = job.result()
        except Exception as error:  # of the connection, of what the Hub answers, of what is no Parquet file
            problems.append(f"{path} cannot be read: {type(error).__name__}: {error}")
            continue
        if not schema.equals(features_of(path.split("/")[1]).arrow_schema):
            problems.append(f"{path} has other columns: {', '.join(schema.names)}")
    return rows, problems


def _read_config(repo_id, sha, release, config, rows):
    """What a reader of one config would find wrong. `rows` is of `_read_footers`."""
    views = release.manifest["configs"][config]
    wanted = {split: view["rows"] for split, view in views.items()}
    counted = {split: sum(rows[path] for path in matching(view["files"], rows)) for split, view in views.items()}
    problems = _differing(config, "in the files", counted, wanted)
    features = patiently(f"streaming {config}", lambda: _stream(repo_id, sha, config))
    if list(features) != list(wanted):
        problems.append(f"{config} has the splits {', '.join(features)}, expected {', '.join(wanted)}")
    problems += [f"{config} / {split}: other features" for split in features if features[split] != features_of(config)]
    size = sum(entry["bytes"] for path, entry in release.files.items() if path.split("/")[1] == config)
    if 0 < size <= LOAD_BYTES:  # a part itself; its other configs are the same files
        loaded = patiently(f"loading {config}", lambda: _load(repo_id, sha, config))
        problems += _differing(config, "loaded", loaded, wanted)
    return problems


def _stream(repo_id, sha, config):
    """{split: features} of a config's streams, the first image of each opened."""
    streams = datasets.load_dataset(repo_id, config, streaming=True, revision=sha)
    for stream in streams.values():
        next(iter(stream))["image"].load()
    return {split: stream.features for split, stream in streams.items()}


def _load(repo_id, sha, config):
    """{split: rows} of a config that is loaded whole."""
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(repo_id, config, revision=sha, cache_dir=cache)
        return {split: rows.num_rows for split, rows in loaded.items()}


def _differing(config, where, found, wanted):
    """Lines on the splits whose rows are not as wanted, both {split: rows}."""
    return [
        f"{config} / {split}: {found.get(split, 0):,} rows {where}, expected {wanted.get(split, 0):,}"
        for split in sorted({*found, *wanted})
        if found.get(split) != wanted.get(split)
    ]


def tag(api: HfApi, repo_id: str, name: str, sha: str, message: str) -> None:
    """Tags a commit. A tag that is there must be of the same commit."""
    patiently("tagging", lambda: _create_tag(api, repo_id, name, sha, message))


def _create_tag(api, repo_id, name, sha, message):
    try:
        api.create_tag(repo_id, tag=name, revision=sha, tag_message=message, **DATASET)
    except RevisionNotFoundError as error:
        raise PublishError(f"commit {sha} is gone from {repo_id}; was its history rewritten?") from error
    except HfHubHTTPError as error:
        if _status(error) != 409:
            raise
        tags = {t.name: t.target_commit for t in api.list_repo_refs(repo_id, **DATASET).tags}
        if name not in tags:
            raise  # busy, not taken
        if tags[name] != sha:
            raise PublishError(
                f"{_elsewhere(repo_id, name, tags[name])}, not at {sha}; choose a higher version"
            ) from error


# ----------------------------------------------------------------------------------------------------------- publish


def publish(api: HfApi, target: Target, maker: Maker, dry_run: bool) -> str:
    """Publishes what `maker` makes of the repository's state; returns a line that says how it ended.

    Nothing is built, made on the Hub or sent before all was refused that can be told from the plan. Raises PublishError
    where the publication is refused or fails.
    """
    repo_id, branch = target.repo_id, target.branch
    for _ in range(ROUNDS):
        remote = read_remote(api, repo_id, branch)
        check_repo(repo_id, remote)
        if not dry_run:
            check_access(api, target, remote)
        elif remote.head is None:
            say(f"{repo_id} is not there, or not visible to this token")
        planned = maker.plan(remote)
        changes = find_changes(planned, remote)
        print(changes_table(planned, changes), flush=True)
        if not is_new(api, repo_id, planned, remote, changes):
            return _nothing_new(api, repo_id, planned, remote, changes, dry_run)
        refuse(api, repo_id, planned, remote, changes)
        if dry_run:
            return f"dry run: nothing was sent to {repo_id}"
        release, sha = _send(api, target, maker, remote, planned)
        if sha:
            return _finish(api, repo_id, release, sha)
        say("somebody else committed to the branch meanwhile; planning again")
    raise PublishError(f"{repo_id}: the branch {branch} moved on in each of {ROUNDS} tries; try again later")


def _send(api, target, maker, remote, planned):
    """(the whole release, its commit): None for a commit where somebody else's was faster."""
    parent = functools.cache(lambda: make_branch(api, target, remote))

    def send(paths, folder):
        parent()  # the repository is made when there is something to send, and not before
        recall(api, target.repo_id, target.branch, remote, {path: os.path.join(folder, path) for path in paths})
        return upload(api, target.repo_id, target.branch, paths, folder)

    release = maker.build(remote, planned, send)
    check_metadata(release)
    changes = find_changes(release, remote)
    missing = [path for path in changes.add if path in release.files and path not in release.uploaded]
    release.uploaded.update(send(missing, release.folder))
    return release, parent() and commit(api, target.repo_id, target.branch, release, changes, parent())


def _nothing_new(api, repo_id, release, remote, changes, dry_run):
    published = remote.manifest["version"]
    name = f"v{published}"
    if name in remote.tags:
        check_tag(api, repo_id, name, remote)
        return f"nothing changed since {name}: nothing uploaded, nothing committed"
    if dry_run:
        return f"nothing changed since {published}, which is committed, but not tagged"
    if published != release.version:
        raise PublishError(
            f"{published} is committed, but not tagged; run again with --version {published} to finish it"
        )
    if changes.add:
        raise _other_content(repo_id, release)
    say(f"{release.version} is committed, but not tagged: an earlier try was cut off")
    return _finish(api, repo_id, release, remote.head)


def _finish(api, repo_id, release, sha):
    problems = read_back(api, repo_id, sha, release)
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise PublishError(
            f"{repo_id}: reading back commit {sha} failed, so {release.tag} is not tagged:\n{listed}\n"
            "Run the same command again to read back and tag; if it fails again, publish a corrected version"
        )
    tag(api, repo_id, release.tag, sha, f"HyperKvasir {release.version}")
    return f"published {release.tag} of {repo_id} as commit {sha}"
