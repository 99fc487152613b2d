"""Publication on the Hub: one commit, one tag, only what changed.

Compare with the published manifest, refuse what is wrong, upload what is new, make one commit on the head that was
compared with, read back at that commit, tag. Readers pin tags, and `main` moves from one whole version to the next.
"""

import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from hyper_kvasir import listed
from scripts.pipeline.configs import features_of
from scripts.pipeline.console import Progress, say, table
from scripts.pipeline.hub import (
    PublishError,
    RemoteFile,
    Repository,
    State,
    explain,
    patiently,
    tagged_elsewhere,
)
from scripts.pipeline.manifest import FILE, VERSION, edition_of, is_own_file, matching, part_of_path
from scripts.pipeline.parquet import ROWS, entry_of, features_metadata
from scripts.pipeline.published import differing_files, parse_at, stream_patiently
from scripts.pipeline.readers import does_not_load, loaded_rows

# How the titles of commits begin that take an unfinished version back.
PUT_BACK, REMOVED = "Put HyperKvasir", "Remove HyperKvasir"
VERSION_TITLE = re.compile(rf"HyperKvasir ({VERSION})\b")  # of a commit, or of one that merged it
VERSION_TAG = re.compile(f"v{VERSION}")
HUBS_README = re.compile(r"\s*(---\s*(license: *[\w.-]+\s*)?---\s*)?")  # as the Hub makes one for a new repository
ROUNDS = 3  # of drafting, if somebody else commits meanwhile
LOAD_BYTES = 128 << 20  # of a part: larger ones are read back by streaming and by their footers only
MOST_FILES, MOST_IN_FOLDER = 100_000, 10_000  # https://huggingface.co/docs/hub/storage-limits

Send = Callable[[list[str], str], None]  # uploads files, by their paths, of a folder; they may be removed afterwards


@dataclass(frozen=True)
class Published(State):
    """What is published: a repository's state with its manifest, None if there is none."""

    manifest: dict | None = None

    @property
    def version(self) -> str | None:
        return (self.manifest or {}).get("version")

    @property
    def entries(self) -> dict:
        """The manifest's data files that are there, with that content."""
        entries = self.manifest["files"] if self.manifest else {}
        there = self.files
        return {
            path: entry for path, entry in entries.items() if path in there and there[path].sha256 == entry["sha256"]
        }

    @property
    def lost(self) -> list[str]:
        """The manifest's data files that are not there any more, or have other content."""
        return sorted(set(self.manifest["files"] if self.manifest else ()) - set(self.entries))

    @property
    def texts(self) -> dict:
        """{path: {"bytes", "sha256"}} of the files beside the data: the card and its figures."""
        return (self.manifest or {}).get("card", {}).get("files", {})


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What is known of a release before it is built.

    Files to be built have "sha256" None in the manifest, and about their size as "bytes". `rows` is {path: what
    `row_digests` would return} of the files that cannot be read in `folder`.
    """

    version: str
    folder: str
    manifest: dict
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    @property
    def files(self) -> dict:
        """{path: manifest entry} of the data files."""
        return self.manifest["files"]

    @property
    def paths(self) -> list[str]:
        """Of all that is known of the release: the data files."""
        return list(self.files)

    def size(self, path: str) -> int:
        return self.files[path]["bytes"]

    def is_there(self, path: str, there: dict[str, RemoteFile]) -> bool:
        """Whether the Hub has the release's content at this path."""
        return path in there and there[path].sha256 is not None and there[path].sha256 == self.files[path]["sha256"]

    def replaces(self, published: Published) -> set[str]:
        """Paths of the earlier release: the release deletes those that it does not have itself."""
        return set(published.manifest["files"]) if published.manifest else set()


@dataclass(frozen=True, kw_only=True)
class Release(Draft):
    """A whole release: its data files are built, and its small files are made.

    The data files that the Hub may lack are in `folder`, unless they were sent already. `texts` is {path: content}.
    """

    texts: dict[str, bytes]

    @property
    def paths(self) -> list[str]:
        return [*self.files, *self.texts]

    def size(self, path: str) -> int:
        return super().size(path) if path in self.files else len(self.texts[path])

    def is_there(self, path: str, there: dict[str, RemoteFile]) -> bool:
        if path in self.files:
            return super().is_there(path, there)
        return path in there and there[path].holds(self.texts[path])

    def replaces(self, published: Published) -> set[str]:
        return super().replaces(published) | {FILE, "README.md", *published.texts}


class Maker(Protocol):
    """Makes a release: first a draft, which may be refused, then the whole. Either may be asked for more than once."""

    def draft(self, published: Published) -> Draft:
        """What is to replace the published state; a Release if nothing needs building. Builds and sends nothing."""

    def build(self, published: Published, draft: Draft, send: Send) -> Release:
        """The whole release of a draft. May send what it builds."""


class Changes(NamedTuple):
    """Paths of a release compared with what is published."""

    add: list[str]
    keep: list[str]
    delete: list[str]


# ----------------------------------------------------------------------------------------------------------- publish


def publish(
    repository: Repository,
    maker: Maker,
    *,
    notes: str = "",
    private: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> str:
    """Publishes what `maker` makes of the published state, and returns lines on how it ended.

    `notes` describe the version in its commit. `overwrite`: texts that were edited on the Hub may be replaced.
    Everything that can be refused from the draft alone is refused before anything is built, made on the Hub or sent.
    Raises PublishError if the publication is refused or fails.
    """
    sent: dict[str, CommitOperationAdd] = {}  # kept for another round
    for _ in range(ROUNDS):
        say(f"reading what is published in {repository.repo_id}")
        published = read_published(repository)
        check_repository(published, repository)
        _check_access(repository, published, private, dry_run)
        tell_tags(repository, published)
        draft = maker.draft(published)
        changes = find_changes(draft, published)
        if not is_new(repository, draft, published, changes):
            nothing = Changes([], sorted({*changes.add, *changes.keep}), [])
            print(changes_table(draft, nothing), flush=True)
            return _nothing_new(repository, draft, published, changes, dry_run=dry_run)
        print(changes_table(draft, changes), flush=True)
        refuse(repository, draft, published, changes)
        check_edits(repository, draft, published, overwrite=overwrite)
        if dry_run:
            return f"dry run: nothing was sent to {repository.repo_id}"
        delivery = Delivery(repository, published, private, sent)
        release = maker.build(published, draft, delivery.send)
        if repository.create_pr:
            return delivery.open_pull_request(release, notes)
        sha = delivery.commit(release, notes)
        if sha:
            return read_back_and_tag(repository, release, sha)
        say("somebody else committed to the branch meanwhile; comparing again")
    raise PublishError(
        f"{repository.repo_id}: somebody else committed to {repository.branch} during each of {ROUNDS} tries; "
        "try again later"
    )


class Delivery:
    """Sends a release's data files and commits the release, onto the published state that it was compared with.

    The repository is made when there is something to send, and not before. `sent` is what earlier rounds have sent.
    """

    def __init__(
        self, repository: Repository, published: Published, private: bool, sent: dict[str, CommitOperationAdd]
    ):
        self.repository, self.published, self.sent = repository, published, sent
        self._parent = functools.cache(lambda: repository.make(published, private))

    def send(self, paths: list[str], folder: str) -> None:
        """Uploads data files of a folder. Commits nothing."""
        self._parent()
        self.repository.recall(self.published, {path: os.path.join(folder, path) for path in paths})
        self.sent.update(self.repository.upload(paths, folder))

    def commit(self, release: Release, notes: str) -> str | None:
        """Sends what was not sent yet, and commits. Returns the commit; None if somebody else was faster."""
        additions, deletions = self._operations(release)
        parent, title, is_same = self._parent(), title_of(release.version), self._sameness(release, deletions)
        about = {"description": notes, "is_same": is_same}
        return parent and self.repository.commit(additions, deletions, title, parent, **about)

    def open_pull_request(self, release: Release, notes: str) -> str:
        """Sends what was not sent yet, opens a pull request, reads it back, and returns lines on how it ended."""
        additions, deletions = self._operations(release)
        about = {"description": notes, "is_same": self._sameness(release, deletions)}
        title = title_of(release.version)
        sha, address = self.repository.open_pull_request(additions, deletions, title, self._parent(), **about)
        _check_read_back(self.repository, sha, release, "close that pull request, and open another")
        return (
            f"{release.version} is a pull request: {address}\n"
            f"when it is merged: python -m scripts.publish --repo-id {self.repository.repo_id} --finish"
        )

    def _sameness(self, release, deletions):
        """A function that tells whether files on the Hub are those of a release."""

        def is_same(there):
            return all(release.is_there(path, there) for path in release.paths) and not set(deletions) & set(there)

        return is_same

    def _operations(self, release):
        """(what to add, paths to delete), everything sent."""
        self.repository.check_card(release.texts["README.md"].decode())
        changes = find_changes(release, self.published)
        self.send([path for path in changes.add if path in release.files and path not in self.sent], release.folder)
        texts = self.repository.prepare({path: release.texts[path] for path in changes.add if path in release.texts})
        return [*(self.sent[path] for path in changes.add if path in release.files), *texts], changes.delete


def _check_access(repository, published, private, dry_run):
    """Refuses a token that may not publish; a dry run needs none, and only says what it cannot see."""
    if not dry_run:
        repository.check_access(published, private)
    elif published.head is None:
        made = "made, private" if private else "made"
        say(f"{repository.repo_id} does not exist, or this token cannot see it: it would be {made}")


def _nothing_new(repository, draft, published, changes, *, dry_run):
    """How it ends if nothing changed: with the tag, if an earlier publication was cut off before it."""
    name = f"v{published.version}"
    if name in published.tags:
        check_tag(repository, name, published)
        untagged = "" if draft.version == published.version else f"; so there is no v{draft.version}"
        return f"nothing changed since {name}: nothing uploaded, nothing committed{untagged}"
    if dry_run:
        return f"nothing changed since {published.version}, which is committed, but not tagged"
    if published.version != draft.version:
        raise PublishError(
            f"{published.version} is committed, but not tagged; run again with --version {published.version} to "
            "finish it, or with --finish"
        )
    if changes.add:
        texts = f"to tag it as it is, without the changes of {', '.join(changes.add)}: --finish"
        raise PublishError(f"{_other_content(published, draft)}; {texts}")
    say(f"{draft.version} is committed, but not tagged: an earlier try was cut off")
    return read_back_and_tag(repository, draft, published.head)  # whole: with nothing new there is nothing to build


def read_back_and_tag(repository: Repository, release: Release, sha: str) -> str:
    """Reads a release back at its commit and tags it; returns lines on how it ended. Raises PublishError otherwise."""
    _check_read_back(repository, sha, release, "--finish tries again; --abandon puts the last tagged version back")
    say(f"tagging {release.tag}")
    try:
        repository.tag(release.tag, sha, title_of(release.version))
    except HfHubHTTPError as error:
        raise PublishError(
            f"{release.version} is committed as {sha}, and cannot be tagged: {explain(error)}; with a token "
            "that may: --finish"
        ) from error
    config = next(iter(release.manifest["configs"]))
    return (
        f"published {release.tag} of {repository.repo_id} as commit {sha}\n"
        f"{repository.address_of(sha)}\n"
        f'load_dataset("{repository.repo_id}", "{config}", revision="{release.tag}")'
    )


def _check_read_back(repository, sha, release, way_out):
    say(f"reading back commit {sha}")
    problems = read_back(repository, sha, release)
    if problems:
        raise PublishError(
            f"{repository.repo_id}: reading back commit {sha} failed, so {release.tag} is not tagged:\n"
            f"{listed(problems)}\n{way_out}"
        )


def title_of(version: str) -> str:
    """The title of a version's commit, and its tag's message."""
    return f"HyperKvasir {version}"


def manifest_at(repository: Repository, revision: str) -> dict | None:
    """The manifest at a revision; None where there is none, or none of this project."""
    try:
        return parse_at(repository, revision, FILE)
    except (EntryNotFoundError, ValueError):
        return None


def tell_tags(repository: Repository, published: Published) -> None:
    """Says which versions that were published are not tagged any more, or elsewhere than at their commit."""
    if published.manifest is None:
        return
    commits: dict[str, list[str]] = {}
    was_abandoned = False
    try:
        titles = repository.titles(published.head)
    except Exception as error:  # whatever the Hub answers: this only informs
        say(f"note: whether earlier tags are where they were is not known: {explain(error)}")
        return
    for commit, title in titles:
        found = VERSION_TITLE.match(title)
        if title.startswith((PUT_BACK, REMOVED)):
            was_abandoned = True
        elif found:
            if not was_abandoned:
                commits.setdefault(found[1], []).append(commit)
            was_abandoned = False
    for version, made in commits.items():
        name, where = f"v{version}", published.tags.get(f"v{version}")
        if where is None:
            say(f"note: {name} is not tagged; its commit is {made[0]}")
        elif where not in made:
            say(f"note: the tag {name} is at {where}, and not at the commit of that version, {made[0]}")
    others = [name for name in published.tags if VERSION_TAG.fullmatch(name) and name[1:] not in commits]
    newer = [name for name in others if parse_version(name[1:]) > parse_version(published.version or "0.0.0")]
    if newer:
        say(f"note: {', '.join(newer)} is tagged, but not part of {repository.branch}")


# ----------------------------------------------------------------------------------------------------------- compare


def read_published(repository: Repository) -> Published:
    """What is published at the head of the branch. Raises PublishError for a manifest of something else."""
    state = repository.state()
    if FILE not in state.files:
        return Published(**vars(state))
    try:
        return Published(**vars(state), manifest=parse_at(repository, state.head, f"{repository.repo_id}/{FILE}"))
    except ValueError as error:
        raise PublishError(f"{error}; put a right one there, or the last tagged version by --abandon") from error


def find_changes(draft: Draft, published: Published) -> Changes:
    """What to add, keep and delete. Only files of an earlier release are deleted, nothing that people put there.

    Of a release that is not whole yet: of its data files.
    """
    ours = set(draft.paths)
    keep = {path for path in ours if draft.is_there(path, published.files)}
    delete = {path for path in draft.replaces(published) & set(published.files) - ours if is_own_file(path)}
    return Changes(sorted(ours - keep), sorted(keep), sorted(delete))


def is_new(repository: Repository, draft: Draft, published: Published, changes: Changes) -> bool:
    """Whether more than the version, its changelog entry and the packages differs from what is published."""
    if published.version is None:
        return True
    if set(changes.add) & set(draft.files) or changes.delete:
        return True
    if _without_version(draft.manifest) != _without_version(published.manifest):
        return True
    return any(_is_edited(repository, published, path) for path in published.texts if path in changes.add)


def _without_version(manifest):
    """A manifest with the card's key in place of its files: the key is of all that they depend on but the version."""
    return {**manifest, "version": None, "versions": None, "card": manifest.get("card", {}).get("key")}


def _is_edited(repository, published, path):
    """Whether a file of the card is gone on the Hub, or changed there by hand, since it was published."""
    entry = published.texts[path]
    file = published.files.get(path)
    if file is None or file.size != entry["bytes"]:
        return True
    if file.sha256 is not None:  # of a large file the Hub tells it
        return file.sha256 != entry["sha256"]
    return hashlib.sha256(repository.read(path, published.head)).hexdigest() != entry["sha256"]


def check_edits(repository: Repository, draft: Draft, published: Published, *, overwrite: bool) -> None:
    """Names the texts that were edited on the Hub since they were published; refuses if they may not be replaced."""
    edited = edited_texts(repository, published)
    if isinstance(draft, Release):  # else they are not made yet
        theirs = [path for path in draft.texts if path in published.files and path not in published.texts]
        edited += [path for path in theirs if path not in ("README.md", FILE)]
        edited = [path for path in edited if not draft.is_there(path, published.files)]
    since = f"was edited on the Hub since {published.version}" if published.version else "is not of this project"
    if edited and not overwrite:
        raise PublishError(
            f"{published.repo_id}: {', '.join(edited)} {since}; take that over into dataset_card/, then give "
            "--overwrite"
        )
    for path in edited:
        say(f"{path} {since}: it will be replaced")


def edited_texts(repository: Repository, published: Published) -> list[str]:
    """The texts that are on the Hub with other content than was published."""
    if published.manifest is None and "README.md" in published.files:
        text = repository.read("README.md", published.head).decode("utf-8", "replace")
        return [] if HUBS_README.fullmatch(text) else ["README.md"]
    return [path for path in published.texts if path in published.files and _is_edited(repository, published, path)]


def changes_table(draft: Draft, changes: Changes) -> str:
    """The changes as text: a line for each config, which may share files, and for all together."""

    def line(what, paths):
        counts = [
            sum(path in group for path in paths) for group in map(set, (changes.keep, changes.add, changes.delete))
        ]
        return (what, *counts, sum(draft.size(path) for path in paths if path in changes.add))

    everything = {path for group in changes for path in group}
    data = {path for path in everything if path.endswith(".parquet")}
    rows = [
        line(config, {path for entry in splits.values() for path in matching(entry["files"], data)})
        for config, splits in draft.manifest["configs"].items()
    ]
    if everything - data:
        rows.append(line("card and manifest", everything - data))
    rows.append(line("all together", everything))
    return table(("config", "kept", "added", "deleted", "bytes to add"), rows)


# ------------------------------------------------------------------------------------------------------------ refuse


def check_repository(published: Published, repository: Repository | None = None) -> None:
    """Refuses a repository of something else, and names that `datasets` would take for a loading script.

    Other files in a `repository` do not matter if a version was published there, and abandoned.
    """
    repo_id = published.repo_id
    name = repo_id.split("/")[-1]
    if name.endswith(".py"):
        raise PublishError(f"{repo_id}: datasets takes a name ending in .py for a script; choose another name")
    if f"{name}.py" in published.files:
        raise PublishError(f"{repo_id} holds {name}.py: datasets refuses to load it as a script; delete that file")
    others = sorted(set(published.files) - {".gitattributes", ".gitignore", "README.md"})
    was_ours = others and repository and any(t.startswith(REMOVED) for _, t in repository.titles(published.head))
    if published.manifest is None and others and not was_ours:
        raise PublishError(f"{repo_id} holds something else ({others[0]}, no {FILE}); choose another repository")


def check_lost(published: Published, parts: set[str]) -> None:
    """Says which published files are gone; refuses if one is of a part that is not in `parts`, to be put back."""
    if not published.lost:
        return
    others = [path for path in published.lost if part_of_path(path) not in parts]
    if others:
        raise PublishError(f"{_lost(published, others)}: revert that commit, or publish those parts too")
    say(f"{_lost(published, published.lost)}: they will be restored")


def _lost(published, lost):
    others = f" and {len(lost) - 1:,} more files" if len(lost) > 1 else ""
    where = f"removed from {published.repo_id}, or changed there, since it was published"
    return f"{lost[0]}{others} of {published.version}: {where}"


def refuse(repository: Repository, draft: Draft, published: Published, changes: Changes) -> None:
    """Refuses to publish what is new onto what is published. Works on a draft too."""
    check_stray(draft, published, changes)
    check_limits(draft)
    check_version(repository, draft, published)


def check_stray(draft: Draft, published: Published, changes: Changes) -> None:
    """Refuses a repository with files below data/ that are not of this dataset: readers would get their rows."""
    ours = {*draft.files, *changes.delete}
    stray = sorted(path for path in published.files if path.startswith("data/") and path not in ours)
    if stray:
        raise PublishError(
            f"{published.repo_id} holds {stray[0]}, which is not of this dataset; remove it, then try again"
        )


def check_limits(draft: Draft) -> None:
    """Refuses more files than the Hub accepts."""
    folder, most = Counter(os.path.dirname(path) for path in draft.files).most_common(1)[0]
    if len(draft.files) > MOST_FILES or most > MOST_IN_FOLDER:
        raise PublishError(
            f"{len(draft.files):,} files, {most:,} of them in {folder}; the Hub accepts {MOST_FILES:,} in all and "
            f"{MOST_IN_FOLDER:,} in a folder; make larger ones"
        )


def changelog_entry(version: str, changelog: str, where: str) -> str:
    """What a changelog says of a version. Refuses one that it has no entry "## X.Y.Z" for; `where` names the file."""
    entries: dict[str, list[str]] = {}
    lines: list[str] = []  # of the entry that is read
    for line in changelog.splitlines():
        if line.startswith("## ") and line[3:].strip():
            lines = entries.setdefault(line.split()[1].strip("[]v"), [])
        else:
            lines.append(line)
    if version not in entries:
        raise PublishError(f"{where} has no entry '## {version}'; write what changed, then try again")
    return "\n".join(entries[version]).strip()


def check_tag(repository: Repository, name: str, published: Published) -> None:
    """Refuses a tag of the published version that is at a commit of something else."""
    commit = published.tags[name]
    if commit == published.head:
        return
    if manifest_at(repository, commit) != published.manifest:
        elsewhere = tagged_elsewhere(published.repo_id, name, commit)
        raise PublishError(f"{elsewhere}, which is not that version; remove the tag, and run again")


# ----------------------------------------------------------------------------------------------------------- version


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch). Raises PublishError for anything but X.Y.Z."""
    if not re.fullmatch(VERSION, text):
        raise PublishError(f"{text[:100]!r} is not a version; expected X.Y.Z, e.g. 1.0.0")
    return tuple(map(int, text.split(".")))


def check_untagged(version: str, published: Published) -> None:
    """Refuses a version that is tagged."""
    if f"v{version}" in published.tags:
        raise PublishError(f"v{version} is tagged in {published.repo_id}, and tags never move; choose a higher version")


def check_version(repository: Repository, draft: Draft, published: Published) -> None:
    """Refuses a version that is tagged, older than the published one, or a smaller step than the change demands."""
    check_untagged(draft.version, published)
    if published.version is None:
        return
    new, old = parse_version(draft.version), parse_version(published.version)
    if new == old:
        raise _other_content(published, draft)
    if new < old:
        raise PublishError(f"{draft.version} is older than the published {published.version}")
    step, why = demanded_step(repository, draft, published)
    if (step == "MAJOR" and new[0] == old[0]) or (step == "MINOR" and new[:2] == old[:2]):
        least = f"{old[0] + 1}.0.0" if step == "MAJOR" else f"{old[0]}.{old[1] + 1}.0"
        raise PublishError(f"{draft.version} is too small a step: {why}, which is {step}; at least {least}")


def check_edition(published: Published, given: dict) -> None:
    """Refuses to put images of one size in the place of those of another: each edition has a repository of its own.

    `given`: a manifest of what is to be published, or its "max_side" alone.
    """
    if published.manifest is None or published.manifest.get("max_side") == given.get("max_side"):
        return
    other = published.repo_id.removesuffix(f"-{published.manifest.get('max_side')}")
    other += f"-{given['max_side']}" if "max_side" in given else ""
    other += "-full" if other == published.repo_id else ""
    text = f"{published.repo_id} holds {edition_of(published.manifest)}, and this is of {edition_of(given)}"
    raise PublishError(f"{text}; publish to another repository, e.g. {other}")


def _other_content(published, draft):
    return PublishError(
        f"{draft.version} is committed in {published.repo_id} with other content (by another publication, by hand, or "
        "by an earlier try that failed its read-back); choose a higher version, or put the last tagged one back by "
        "--abandon"
    )


def demanded_step(repository: Repository, draft: Draft, published: Published) -> tuple[str, str]:
    """("MAJOR" | "MINOR" | "PATCH", why): by the digests of the rows in files that differ; no image is read."""
    old, new = published.manifest, draft.manifest
    gone = _gone_splits(old["configs"], new["configs"])
    if gone:
        return "MAJOR", gone[0]
    revision = _whole_revision(published)
    before = _published_rows(repository, revision, _other_rows(old["files"], new["files"]))
    after = _rows_to_be(draft, _other_rows(new["files"], old["files"]))
    missing, other = set(before) - set(after), [i for i in before if i in after and after[i] != before[i]]
    if missing:
        return "MAJOR", f"{len(missing):,} rows are gone (e.g. {min(missing)})"
    if other:
        return "MAJOR", f"{len(other):,} rows changed (e.g. {min(other)})"
    rewritten = [p for p, entry in old["files"].items() if p in new["files"] and new["files"][p]["key"] != entry["key"]]
    changed, new_columns = _compare_columns(repository, revision, rewritten, "max_side" in new)
    if changed:
        return "MAJOR", f"columns of {changed} are gone or changed"
    added = set(after) - set(before)
    if added:
        return "MINOR", f"{len(added):,} rows are new"
    if set(old["configs"]) != set(new["configs"]):
        return "MINOR", "configs are new"
    if new_columns:
        return "MINOR", "columns are new"
    return "PATCH", "files are rewritten" if rewritten else "only the card changed"


def _gone_splits(old, new):
    gone = [f"config {config!r} is gone" for config in old if config not in new]
    for config, splits in old.items():
        gone += [f"split {split!r} of {config!r} is gone" for split in splits if split not in new.get(config, splits)]
    return gone


def _whole_revision(published):
    """Where all files of the published manifest can be read: the head, or the tag if the head has lost some."""
    name, lost = f"v{published.version}", published.lost
    if lost and name not in published.tags:
        raise PublishError(
            f"{_lost(published, lost)}, and {name} is not tagged: put the last tagged version back by --abandon"
        )
    return published.tags[name] if lost else published.head


def _other_rows(files, others):
    """Files whose rows are not those of the file of the same path in `others`."""
    return [p for p, entry in files.items() if p not in others or others[p]["content"] != entry["content"]]


def _published_rows(repository, revision, paths):
    rows: dict[str, str] = {}
    for path in paths:
        digests = functools.partial(row_digests, path)
        try:
            rows |= repository.read_parquet(path, revision, digests, "reading the rows of")
        except (ValueError, LookupError, pa.ArrowException) as error:
            raise PublishError(f"{repository.repo_id}: {path} is no file of this project ({error})") from error
    return rows


def _rows_to_be(draft, paths):
    rows: dict[str, str] = {}
    for path in paths:
        rows |= draft.rows.get(path) or read_row_digests(draft.folder, path)
    return rows


def read_row_digests(folder: str, path: str) -> dict[str, str]:
    """The `row_digests` of a file in a folder."""
    with pq.ParquetFile(os.path.join(folder, path), pre_buffer=False) as parquet:
        return row_digests(path, parquet)


def row_digests(path: str, parquet: pq.ParquetFile) -> dict[str, str]:
    """{"<part> <image id>": digest of its inputs} of the Parquet file `path`; reads the footer and one column."""
    entry_of(parquet.metadata)  # that it is ours
    digests = parquet.metadata.metadata[ROWS].decode()
    ids = parquet.read(columns=["image_id"], use_threads=False)["image_id"].to_pylist()
    return {f"{part_of_path(path)} {image_id}": digests[8 * i : 8 * i + 8] for i, image_id in enumerate(ids)}


def _compare_columns(repository, revision, paths, small):
    """(a file with columns that are gone or changed now, or None; whether others are new). `paths` are published."""
    new_columns = False
    for part, path in {part_of_path(path): path for path in paths}.items():  # a part's files have the same columns
        columns = repository.read_parquet(path, revision, _columns, "reading the columns of")
        now = features_metadata(part, small)
        if not columns.items() <= now.items():
            return path, new_columns
        new_columns |= columns != now
    return None, new_columns


def _columns(parquet):
    """{column: its feature} of a Parquet file."""
    return json.loads(parquet.schema_arrow.metadata[b"huggingface"])["info"]["features"]


# --------------------------------------------------------------------------------------------------------- read back


def read_back(repository: Repository, sha: str, release: Release) -> list[str]:
    """What is wrong with a commit, seen as a reader would.

    The Hub's digest of every file proves its content. The footer of every Parquet file, read at the commit, gives the
    rows of every split, and the columns. Streaming each config shows that the card leads to them: its splits,
    their features, and a first row whose image opens. A part of at most LOAD_BYTES is also loaded whole.
    """
    problems = _compare_files(release, repository.files(sha))
    if problems:
        return problems  # reading them would only repeat it, less clearly
    configs = release.manifest["configs"]
    with Progress(len(release.files) + len(configs), "reading back", unit=" files and configs") as bar:
        rows, problems = _read_footers(repository, sha, release, bar)
        for config in configs:
            try:
                problems += _read_config(repository.repo_id, sha, release, config, rows)
            except Exception as error:  # whatever load_dataset raises is what a reader would see
                problems.append(does_not_load(config, error))
            bar.update(1)
    return problems


def _compare_files(release, there):
    """The release's files against those of a commit."""
    problems = [f"{path} is not there" for path in release.texts if path not in there]
    texts = (path for path in release.texts if path in there)
    problems += [f"{path} has other content" for path in texts if not release.is_there(path, there)]
    return problems + differing_files(release.manifest, there)


def _read_footers(repository, sha, release, bar):
    """({path: rows}, problems) of all Parquet files at a commit."""

    def footer(path):
        found = repository.read_parquet(path, sha, lambda p: (p.metadata.num_rows, p.schema_arrow), "reading back")
        bar.update(1)
        return found

    rows, problems = {}, []
    with ThreadPoolExecutor(4) as threads:
        jobs = {path: threads.submit(footer, path) for path in release.files}
    for path, job in jobs.items():
        try:
            rows[path], schema = job.result()
        except Exception as error:  # of the connection, of what the Hub answers, of what is not a Parquet file
            problems.append(f"{path} cannot be read: {type(error).__name__}: {error}")
            continue
        if not schema.equals(features_of(part_of_path(path), "max_side" in release.manifest).arrow_schema):
            problems.append(f"{path} has other columns: {', '.join(schema.names)}")
    return rows, problems


def _read_config(repo_id, sha, release, config, rows):
    """What a reader of one config would find wrong. `rows` is {path: rows}, as the files' footers have them."""
    views = release.manifest["configs"][config]
    wanted = {split: entry["rows"] for split, entry in views.items()}
    counted = {split: sum(rows[path] for path in matching(entry["files"], rows)) for split, entry in views.items()}
    problems = _differing(config, "in the files", counted, wanted)
    problems += stream_patiently(repo_id, config, list(views), sha, small="max_side" in release.manifest)
    size = sum(entry["bytes"] for path, entry in release.files.items() if part_of_path(path) == config)
    if 0 < size <= LOAD_BYTES:  # a part itself; its other configs are the same files
        loaded = patiently(f"loading {config}", lambda: loaded_rows(repo_id, config, sha))
        problems += _differing(config, "loaded", loaded, wanted)
    return problems


def _differing(config, where, found, wanted):
    """Lines on the splits whose rows are not as wanted, both {split: rows}."""
    return [
        f"{config} / {split}: {found.get(split, 0):,} rows {where}, expected {wanted.get(split, 0):,}"
        for split in sorted({*found, *wanted})
        if found.get(split) != wanted.get(split)
    ]
