"""Publication on the Hub: one commit, one tag, only what changed.

Plan against the published manifest, refuse what is wrong, upload what is new, one commit on the planned parent, read
back at that commit, tag. Readers pin tags, and `main` moves from one whole version to the next.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import httpx2
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from hyper_kvasir import features_of
from scripts.pipeline.console import Progress, say, table
from scripts.pipeline.manifest import FILE, matching, parse_manifest
from scripts.pipeline.parquet import ROWS, features_metadata

TRIES = 5  # of one request, before giving up
ROUNDS = 3  # of planning, where somebody else commits meanwhile
BATCH_BYTES = 128 << 20  # uploaded in one go: at most this is sent again after a kill
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

    `folder` has the data files that the Hub may lack; those in `uploaded` were sent already and may be gone.
    """

    version: str
    folder: str
    manifest: dict
    texts: dict[str, bytes]
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


# ---------------------------------------------------------------------------------------------------------- requests


def patiently(what: str, action: Callable[[], Any]) -> Any:
    """The result of `action`, tried again where the Hub is busy or the connection is cut: bounded, and announced."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:
            wait = _wait(error, attempt)
            if wait is None or attempt == TRIES:
                raise
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
    return f"the Hub answered {status}" if status else f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


# -------------------------------------------------------------------------------------------------------- repository


def check_token(api: HfApi) -> str:
    """The name of the token's owner. Raises PublishError without a token that may write."""
    if not get_token():
        raise PublishError("no token: set HF_TOKEN to one with write permission, or run `hf auth login`")
    try:
        who = patiently("whoami", api.whoami)
    except HfHubHTTPError as error:
        raise PublishError(f"the Hub does not accept the token ({_reason(error)}); make a new one") from error
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PublishError(f"the token of {who['name']} may only read; use one with write permission")
    return who["name"]


def read_remote(api: HfApi, repo_id: str, branch: str) -> Remote:
    """The repository at the head of `branch`, with its files, manifest and tags."""
    try:
        refs = patiently("reading branches", lambda: api.list_repo_refs(repo_id, **DATASET))
    except RepositoryNotFoundError:
        return Remote(None)
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


def opener(api: HfApi, repo_id: str, remote: Remote) -> Callable[[str], Any]:
    """A function that opens a published file by its path, to be read by Range requests."""
    files = HfFileSystem(endpoint=api.endpoint)
    return lambda path: files.open(f"datasets/{repo_id}@{remote.head}/{path}")


def ensure_branch(api: HfApi, repo_id: str, branch: str, private: bool) -> None:
    """Makes the repository and the branch where they are not there."""
    try:
        create = lambda: api.create_repo(repo_id, private=private or None, exist_ok=True, **DATASET)  # noqa: E731
        patiently("making the repository", create)
        if branch != "main":
            make = lambda: api.create_branch(repo_id, branch=branch, exist_ok=True, **DATASET)  # noqa: E731
            patiently("making the branch", make)
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            raise PublishError(f"{repo_id}: the token may not write there; use one with write permission") from error
        raise


# -------------------------------------------------------------------------------------------------------------- plan


def same_file(path: str, release: Release, remote: RemoteFile) -> bool:
    """Whether the Hub has this content at this path."""
    if path in release.files:
        return remote.sha256 == release.files[path]["sha256"]
    content = release.texts[path]
    if remote.sha256:
        return remote.sha256 == hashlib.sha256(content).hexdigest()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def find_changes(release: Release, remote: Remote) -> Changes:
    """What to add, keep and delete. Only files of an earlier release are deleted, nothing that people put there."""
    ours = [*release.files, *release.texts]
    keep = [path for path in ours if path in remote.files and same_file(path, release, remote.files[path])]
    earlier = {FILE, "README.md"}
    if remote.manifest:
        earlier |= {*remote.manifest["files"], *remote.manifest.get("card", {}).get("files", {})}
    delete = sorted(earlier & set(remote.files) - set(ours))
    return Changes(sorted(set(ours) - set(keep)), sorted(keep), delete)


def is_new(release: Release, remote: Remote, changes: Changes) -> bool:
    """Whether anything but the version differs from what is published."""
    if remote.manifest is None or set(changes.add) & set(release.files) or changes.delete:
        return True
    return _without_version(release.manifest) != _without_version(remote.manifest)


def _without_version(manifest):
    """A manifest with the card's key, which is of all that the card depends on but the version, for its files."""
    return {**manifest, "version": None, "card": manifest.get("card", {}).get("key")}


def changes_table(release: Release, remote: Remote, changes: Changes) -> str:
    """The plan as text: a line for each config, whose files may be shared, and for all together."""

    def size(path):
        if path in release.files:
            return release.files[path]["bytes"]
        return len(release.texts[path]) if path in release.texts else remote.files[path].size

    def line(what, paths):
        kept, added = [sum(path in group for path in paths) for group in (set(changes.keep), set(changes.add))]
        gone = sum(path in changes.delete for path in paths)
        sent = sum(size(path) for path in paths if path in changes.add)
        return (what, kept, added, gone, sent)

    rows = []
    for config, splits in release.manifest["configs"].items():
        everywhere = [*release.files, *(path for path in changes.delete if path.endswith(".parquet"))]
        rows.append(line(config, {p for view in splits.values() for p in matching(view["files"], everywhere)}))
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


def check_stray(repo_id: str, release: Release, remote: Remote, changes: Changes) -> None:
    """Refuses a repository with files below data/ that are not of this dataset: readers would get their rows."""
    ours = {*release.files, *changes.delete}
    stray = sorted(path for path in remote.files if path.startswith("data/") and path not in ours)
    if stray:
        raise PublishError(f"{repo_id} holds {stray[0]}, which is not of this dataset; remove it, then try again")


def check_changelog(version: str, changelog: str) -> None:
    """Refuses a version without an entry "## X.Y.Z" in the changelog."""
    headings = [
        line.split()[1].strip("[]v") for line in changelog.splitlines() if line.startswith("## ") and line[3:].strip()
    ]
    if version not in headings:
        raise PublishError(f"dataset_card/CHANGELOG.md has no entry '## {version}'; write what changed, then try again")


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
        raise PublishError(
            f"{release.version} is committed in {repo_id} with other content (by another publication, or an earlier "
            "try that failed its read-back); choose a higher version"
        )
    if new < old:
        raise PublishError(f"{release.version} is older than the published {remote.manifest['version']}")
    step, why = demanded_step(api, repo_id, release, remote)
    if (step == "MAJOR" and new[0] == old[0]) or (step == "MINOR" and new[:2] == old[:2]):
        least = f"{old[0] + 1}.0.0" if step == "MAJOR" else f"{old[0]}.{old[1] + 1}.0"
        raise PublishError(f"{release.version} is too small a step: {why}, which is {step}; at least {least}")


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
    changed_old, changed_new = _other_rows(old["files"], new["files"]), _other_rows(new["files"], old["files"])
    before: dict[str, str] = {}
    opened = opener(api, repo_id, remote)
    for path in changed_old:
        before |= patiently(f"reading the rows of {path}", lambda path=path: read_rows(lambda: opened(path)))
    after: dict[str, str] = {}
    for path in changed_new:
        after |= release.rows.get(path) or read_rows(lambda path=path: io.FileIO(os.path.join(release.folder, path)))
    missing, other = set(before) - set(after), [i for i in before if i in after and after[i] != before[i]]
    if missing:
        return "MAJOR", f"{len(missing):,} rows are gone (e.g. {min(missing)})"
    if other:
        return "MAJOR", f"{len(other):,} rows changed (e.g. {min(other)})"
    added = set(after) - set(before)
    if added:
        return "MINOR", f"{len(added):,} rows are new"
    if list(old["configs"]) != list(new["configs"]):
        return "MINOR", "configs are new"
    rewritten = [p for p, entry in old["files"].items() if p in new["files"] and new["files"][p]["key"] != entry["key"]]
    for part, path in {path.split("/")[1]: path for path in rewritten}.items():  # a part's files have the same columns
        columns = patiently(f"reading the columns of {path}", lambda path=path: _features(opened(path)))
        if not columns.items() <= features_metadata(part).items():
            return "MAJOR", f"columns of {path} are gone or changed"
    if rewritten:
        return "MINOR", "columns are new"
    return "PATCH", "only the card changed"


def _features(file):
    with file:
        return json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]


def _other_rows(files, others):
    """Files whose rows are not those of the file of the same path in `others`."""
    return [p for p, entry in files.items() if p not in others or others[p]["content"] != entry["content"]]


def read_rows(opened: Callable[[], Any]) -> dict[str, str]:
    """{"<part> <image id>": digest of its inputs} of a Parquet file; reads the footer and one column."""
    # No threads: of reads from Python files they outlive the program's end, which then aborts (apache/arrow#45214).
    with opened() as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        digests = parquet.metadata.metadata[ROWS].decode()
        ids = parquet.read(columns=["image_id"], use_threads=False)["image_id"].to_pylist()
        part = "unlabeled labeled segmented".split()[
            ("label" in parquet.schema_arrow.names) + ("mask" in parquet.schema_arrow.names)
        ]
    return {f"{part} {image_id}": digests[8 * i : 8 * i + 8] for i, image_id in enumerate(ids)}


# ------------------------------------------------------------------------------------------------------------ upload


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


def read_back(api: HfApi, repo_id: str, sha: str, manifest: dict, texts: dict[str, bytes]) -> list[str]:
    """What is wrong with a commit, as a reader sees it: file list, rows and features of every split, its first row."""
    problems = []
    there = patiently("reading back the list of files", lambda: list_files(api, repo_id, sha))
    for path, entry in manifest["files"].items():
        if path not in there:
            problems.append(f"{path} is not there")
        elif there[path].sha256 != entry["sha256"]:
            problems.append(f"{path} has sha256 {there[path].sha256}, expected {entry['sha256']}")
    problems += [f"{path} is not there" for path in texts if path not in there]
    stray = [path for path in there if path.startswith("data/") and path not in manifest["files"]]
    problems += [f"{path} is there, but not in {FILE}" for path in stray]
    with Progress(len(manifest["configs"]), "reading back", unit=" configs") as bar:
        for config, views in manifest["configs"].items():
            try:
                found = patiently(f"reading back {config}", lambda c=config: _read_config(api, repo_id, sha, c))
                problems += _differing(config, views, found)
            except Exception as error:  # whatever load_dataset raises is what a reader would see
                problems.append(f"{config} does not load: {type(error).__name__}: {error}")
            bar.update(1)
    return problems


def _read_config(api, repo_id, sha, config):
    """{split: (rows, features)} of a config, the first row of each read."""
    streams = datasets.load_dataset(repo_id, config, streaming=True, revision=sha)
    for stream in streams.values():
        next(iter(stream))["image"].load()
    return {split: (stream.info.splits[split].num_examples, stream.features) for split, stream in streams.items()}


def _differing(config, views, found):
    wanted = {split: (view["rows"], features_of(config)) for split, view in views.items()}
    for split in sorted(set(wanted) | set(found)):
        if split not in found or split not in wanted:
            yield f"{config} / {split}: {'is not there' if split not in found else 'is there, but not in the manifest'}"
        elif found[split][0] != wanted[split][0]:
            yield f"{config} / {split}: {found[split][0]:,} rows, expected {wanted[split][0]:,}"
        elif found[split][1] != wanted[split][1]:
            yield f"{config} / {split}: other features"


def tag(api: HfApi, repo_id: str, name: str, sha: str, message: str) -> None:
    """Tags a commit. A tag that is there must be of the same commit."""
    try:
        patiently("tagging", lambda: _create_tag(api, repo_id, name, sha, message))
    except HfHubHTTPError as error:
        if _status(error) != 409:
            raise
        tags = {t.name: t.target_commit for t in api.list_repo_refs(repo_id, **DATASET).tags}
        if tags.get(name) != sha:
            raise PublishError(
                f"{name} is tagged in {repo_id} already, at another commit; choose a higher version"
            ) from error


def _create_tag(api, repo_id, name, sha, message):
    try:
        api.create_tag(repo_id, tag=name, revision=sha, tag_message=message, **DATASET)
    except RevisionNotFoundError as error:
        raise PublishError(f"commit {sha} is gone from {repo_id}; was its history rewritten?") from error


# ----------------------------------------------------------------------------------------------------------- publish


class Target(NamedTuple):
    """Where to publish."""

    repo_id: str
    branch: str = "main"
    private: bool = False


def publish(api: HfApi, target: Target, make_release: Callable[[Remote], Release], dry_run: bool) -> str:
    """Publishes what `make_release` makes of the repository's state; returns a line that says how it ended.

    `make_release` may build and upload data files. Raises PublishError where the publication is refused or fails.
    """
    repo_id, branch = target.repo_id, target.branch
    for _ in range(ROUNDS):
        remote = read_remote(api, repo_id, branch)
        check_repo(repo_id, remote)
        if not remote.has_branch and not dry_run:
            ensure_branch(api, repo_id, branch, target.private)
            remote = read_remote(api, repo_id, branch)
            check_repo(repo_id, remote)
        release = make_release(remote)
        changes = find_changes(release, remote)
        print(changes_table(release, remote, changes), flush=True)
        if not is_new(release, remote, changes):
            return _nothing_new(api, repo_id, release, remote, dry_run)
        check_stray(repo_id, release, remote, changes)
        check_version(api, repo_id, release, remote)
        if dry_run:
            return f"dry run: nothing was sent to {repo_id}"
        missing = [path for path in changes.add if path in release.files and path not in release.uploaded]
        release.uploaded.update(upload(api, repo_id, branch, missing, release.folder))
        sha = commit(api, repo_id, branch, release, changes, remote.head)
        if sha:
            return _finish(api, repo_id, release, sha)
        say("somebody else committed to the branch meanwhile; planning again")
    raise PublishError(f"{repo_id}: the branch {branch} moved on in each of {ROUNDS} tries; try again later")


def _nothing_new(api, repo_id, release, remote, dry_run):
    published = remote.manifest.get("version")
    if f"v{published}" not in remote.tags and published != release.version and not dry_run:
        raise PublishError(
            f"{published} is committed, but not tagged; run again with --version {published} to finish it"
        )
    if release.tag in remote.tags or published != release.version or dry_run:
        return f"nothing changed since v{published}: nothing uploaded, nothing committed"
    say(f"{release.version} is committed, but not tagged: an earlier try was cut off")
    return _finish(api, repo_id, release, remote.head)


def _finish(api, repo_id, release, sha):
    problems = read_back(api, repo_id, sha, release.manifest, release.texts)
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise PublishError(
            f"{repo_id}: reading back commit {sha} failed, so {release.tag} is not tagged:\n{listed}\n"
            "Run the same command again to read back and tag; if it fails again, publish a corrected version"
        )
    tag(api, repo_id, release.tag, sha, f"HyperKvasir {release.version}")
    return f"published {release.tag} of {repo_id} as commit {sha}"


def published_entries(remote: Remote) -> dict:
    """The published manifest's data files that are really there, with that content."""
    files = remote.manifest["files"] if remote.manifest else {}
    there = remote.files
    return {path: entry for path, entry in files.items() if path in there and there[path].sha256 == entry["sha256"]}
