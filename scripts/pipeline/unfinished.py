"""The ways out for a version that is committed and not tagged: cut off, not as it should be, or a merged request."""

import hashlib
import re

from hyper_kvasir import listed
from scripts.pipeline.console import say
from scripts.pipeline.hub import AGAIN, PublishError, Repository
from scripts.pipeline.manifest import FILE, is_own_file
from scripts.pipeline.publish import (
    PUT_BACK,
    REMOVED,
    VERSION_TAG,
    VERSION_TITLE,
    Release,
    check_tag,
    manifest_at,
    parse_version,
    read_back_and_tag,
    read_published,
)


def finish(repository: Repository) -> str:
    """Reads back and tags the version that is committed, but not tagged: one cut off, or a merged pull request.

    Returns lines on how it ended. Raises PublishError if there is no such version, or it is not whole.
    """
    say(f"reading what is published in {repository.repo_id}")
    published = read_published(repository)
    _check_there(repository, published)
    tag = f"v{published.version}"
    if tag in published.tags:
        check_tag(repository, tag, published)
        return f"{tag} of {repository.repo_id} is tagged already: nothing to finish"
    release = _committed(repository, published)
    return read_back_and_tag(repository, release, published.head)


def _check_there(repository, state):
    """Refuses a repository or branch that is not there, and a token that may not write."""
    if state.head is None:
        raise PublishError(f"{repository.repo_id} does not exist, or this token cannot see it")
    if not state.has_branch:
        raise PublishError(f"{repository.repo_id} has no branch {repository.branch!r}")
    repository.check_access(state)


def _committed(repository, published):
    """The release that is committed at the head. Raises PublishError if its texts are not those of its manifest."""
    if published.version is None:
        raise PublishError(f"{repository.repo_id}: no version is committed to {repository.branch}; publish one")
    texts, problems = {FILE: repository.read(FILE, published.head)}, []
    if not published.manifest["configs"] or not published.manifest["files"]:
        problems.append(f"{FILE} names no config, or no file")
    for path, entry in published.texts.items():
        texts[path] = repository.read(path, published.head) if path in published.files else b""
        if hashlib.sha256(texts[path]).hexdigest() != entry["sha256"]:
            problems.append(f"{path} is gone, or was edited since")
    cited = re.search(r"(?m)^version: (\S+)$", texts.get("CITATION.cff", b"").decode("utf-8", "replace"))
    if cited and cited[1] != published.version:
        problems.append(f"{FILE} is of {published.version}, and CITATION.cff of {cited[1]}")
    if problems:
        raise PublishError(
            f"{repository.repo_id}: {published.version} is not as it was committed:\n{listed(problems)}\n"
            "publish a corrected version, or put the last tagged one back by --abandon"
        )
    return Release(version=published.version, folder="", manifest=published.manifest, texts=texts)


def abandon(repository: Repository) -> str:
    """Puts the last tagged version back in one commit, in place of one that was committed and cannot be finished.

    That is the highest of those whose tag is at a commit of this branch that holds it. If none was ever published, the
    files that the committed one names are removed. Files that are not of this project stay. Sends no large file.
    Returns a line on how it ended. Raises PublishError if there is nothing to abandon.
    """
    say(f"reading what is published in {repository.repo_id}")
    state = repository.state()
    _check_there(repository, state)
    manifest = manifest_at(repository, state.head) if FILE in state.files else None
    tag, there = _last_tagged(repository, state)
    now = state.tags.get(f"v{manifest.get('version')}") if manifest else None
    if now and manifest_at(repository, now) == manifest:
        version = manifest["version"]
        raise PublishError(
            f"{repository.repo_id}: v{version} is tagged: nothing to abandon; what was edited since is put right by "
            "the next version, with --overwrite"
        )
    mine = {path for path in state.files if is_own_file(path) and path in _named(manifest, state.files)}
    changed = [path for path, file in there.items() if state.files.get(path) != file]
    gone = sorted(mine - set(there))
    if not changed and not gone:
        raise PublishError(f"{repository.repo_id}: {repository.branch} is as {tag or 'before'}: nothing to abandon")
    for path in changed:
        say(f"put back as in {tag}: {path}")
    for path in gone:
        say(f"removed: {path}")
    title = f"{PUT_BACK} {tag} back" if tag else f"{REMOVED}, which was not finished"
    operations = repository.restore(changed, there, state.tags[tag]) if tag else []

    def is_same(files):
        return {path: file for path, file in files.items() if path in there or path in mine} == there

    sha = repository.commit(operations, gone, title, state.head, is_same=is_same)
    sha = sha or repository.state().head  # the answer may have been lost
    if not is_same(repository.files(sha)):
        raise PublishError(f"{repository.repo_id}: commit {sha} is not as {tag or 'before'}; {AGAIN}")
    what = f"as in {tag}" if tag else "without the version that was not finished"
    return f"{repository.repo_id}: {repository.branch} is {what}, by commit {sha}"


def _last_tagged(repository, state):
    """(tag, {path: file}) of the highest version that is tagged at a commit of this branch; (None, {}) without one."""
    titles = repository.titles(state.head)
    commits = {commit for commit, _ in titles}
    tags = [name for name, commit in state.tags.items() if VERSION_TAG.fullmatch(name) and commit in commits]
    for name in sorted(tags, key=lambda name: parse_version(name[1:]), reverse=True):
        manifest = manifest_at(repository, state.tags[name])
        if manifest and f"v{manifest.get('version')}" == name:
            files = repository.files(state.tags[name])
            return name, {path: file for path, file in files.items() if path in _named(manifest, ())}
    versions = [title for _, title in titles if VERSION_TITLE.match(title)]
    if len(set(versions)) > 1:
        raise PublishError(
            f"{repository.repo_id}: no version is tagged at a commit of {repository.branch}, so none can be put back, "
            f"but there were {', '.join(versions[1:4])}; tag the commit of the one to put back, and run again"
        )
    return None, {}


def _named(manifest, there):
    """The paths that are a manifest's; without a readable one, itself and the data in `there`."""
    if manifest is None:
        return {FILE, *(path for path in there if path.startswith("data/"))}
    return {FILE, *manifest["files"], *manifest.get("card", {}).get("files", {})}
