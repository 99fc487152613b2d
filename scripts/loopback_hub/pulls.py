"""Pull requests: each has a ref of its own, and an entry under that ref in the state of its repository."""

from .store import Commit, File, HubError, Repo, apply_changes, now

MAIN = "refs/heads/main"


def pull_requests(repo: Repo) -> dict[str, dict]:
    """`title`, `author`, `status`, `base`, `created` and, once merged, `merge_commit` of each, by its ref."""
    return repo.state.get("pull_requests", {})


def pull_request(repo: Repo, ref: str) -> dict:
    if ref not in pull_requests(repo):
        raise HubError(404, f"There is no pull request {ref}")
    return pull_requests(repo)[ref]


def _open(repo: Repo, base: Commit, head: Commit, **about: str) -> int:
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
    ref, entry = f"refs/pr/{number}", {**about, "base": base.id, "created": now()}
    repo.save(refs={**repo.refs, ref: head.id}, pull_requests={**pull_requests(repo), ref: entry})
    return number


def open_draft(repo: Repo, title: str, author: str) -> int:
    with repo.lock:
        main = repo.load_commit(repo.refs[MAIN])
        return _open(repo, main, main, title=title, author=author, status="draft")


def open_with_commit(
    repo: Repo, changes: list, *, parent: str | None, title: str, message: str, author: str
) -> tuple[int, Commit]:
    """A pull request of one commit, from the `parent` that it names, or else from main's head."""
    with repo.lock:
        commits = repo.history(repo.load_commit(repo.refs[MAIN]))
        base = next((commit for commit in commits if commit.id.startswith(parent or "")), None)
        if base is None:
            raise HubError(404, f"Invalid rev id: {parent}", "RevisionNotFound")
        commit = repo.write_commit(base.id, title, message, author, apply_changes(base.files, changes))
        return _open(repo, base, commit, title=title, author=author, status="open"), commit


def _change(repo: Repo, ref: str, **changes: str) -> dict[str, dict]:
    return {**pull_requests(repo), ref: {**pull_request(repo, ref), **changes}}


def set_status(repo: Repo, ref: str, status: str) -> None:
    """Close, open again, or publish a draft."""
    with repo.lock:
        if pull_request(repo, ref)["status"] == "merged":
            raise HubError(400, f"{ref} is merged")
        repo.save(pull_requests=_change(repo, ref, status=status))


def merged_files(repo: Repo, ref: str) -> tuple[dict[str, File], list[str]]:
    """Main's files with the changes of a pull request, and the paths that main has changed otherwise meanwhile."""
    commits = (pull_request(repo, ref)["base"], repo.refs[ref], repo.refs[MAIN])
    base, head, main = (repo.load_commit(commit).files for commit in commits)
    changed = {path for path in base | head if base.get(path) != head.get(path)}
    conflicts = [path for path in changed if main.get(path) not in (base.get(path), head.get(path))]
    files = {path: file for path, file in main.items() if path not in changed}
    return files | {path: head[path] for path in changed if path in head}, sorted(conflicts)


def merge(repo: Repo, ref: str, author: str) -> None:
    """Main moves on by one commit, whatever the number of the pull request's own: the real Hub squashes them too."""
    with repo.lock:
        about = pull_request(repo, ref)
        if about["status"] != "open":
            raise HubError(400, f"{ref} cannot be merged: it is {about['status']}")
        files, conflicts = merged_files(repo, ref)
        if conflicts:
            raise HubError(409, f"{ref} cannot be merged: main has changed {', '.join(conflicts)} too")
        commit = repo.write_commit(repo.refs[MAIN], about["title"], "", author, files)
        merged = _change(repo, ref, status="merged", merge_commit=commit.id)
        repo.save(refs={**repo.refs, MAIN: commit.id}, pull_requests=merged)
