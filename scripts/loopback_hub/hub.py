"""What all routes share: settings, tokens and their roles, signed addresses, file contents and paging."""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from .cas import Cas
from .pulls import pull_requests
from .store import Disk, File, HubError, Repo, Store, read_range

ROLES = ("none", "read", "pr", "write")
XET_TOKEN_SECONDS = 3600
CI_TOKEN = "hf_loopback_ci."
Reader = Callable[[int, int], Iterator[bytes]]


@dataclass(frozen=True)
class User:
    """The owner of a token: `repo_id` is set where the token is for one repository only, as those of CI jobs are."""

    name: str
    role: str
    orgs: tuple[str, ...] = ()
    repo_id: str | None = None

    def may_write(self, repo_id: str) -> bool:
        if self.repo_id is not None:
            return repo_id == self.repo_id
        return self.role == "write" and repo_id.split("/")[0] in {self.name, *self.orgs}

    def may_propose(self, repo_id: str) -> bool:
        """Pull requests need no rights to their repository."""
        return self.role in ("pr", "write") and self.repo_id in (None, repo_id)


ANONYMOUS = User("", "none")


class RepoMoved(Exception):
    """The repository that an address names has another name now."""

    def __init__(self, old: str, new: str):
        super().__init__(f"{old} is {new} now")
        self.old, self.new = old, new


class Hub:
    """The state behind the routes; `request.app.state.hub`."""

    def __init__(
        self, folder: Path, tokens: dict[str, User], page_size: int, lfs_part_size: int, commit_operations: int
    ):
        self.disk = Disk(folder)
        self.store, self.cas = Store(self.disk), Cas(self.disk)
        self.tokens, self.page_size, self.lfs_part_size = tokens, page_size, lfs_part_size
        self.commit_operations = commit_operations
        secret = folder / "secret"
        if not secret.exists():
            self.disk.write(secret, secrets.token_bytes(32))
        self.secret = secret.read_bytes()

    def sign(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:32]

    def check_signature(self, text: str, signature: str) -> None:
        if not hmac.compare_digest(self.sign(text), signature):
            raise HubError(403, "Invalid signature")

    def xet_token(self, role: str) -> tuple[str, int]:
        expiry = int(time.time()) + XET_TOKEN_SECONDS
        return f"xet.{role}.{expiry}.{self.sign(f'{role}.{expiry}')}", expiry

    def check_xet_token(self, request: Request, role: str) -> None:
        fields = bearer(request).split(".")
        if len(fields) != 4 or not hmac.compare_digest(self.sign(f"{fields[1]}.{fields[2]}"), fields[3]):
            raise HubError(401, "Invalid Xet token")
        if int(fields[2]) < time.time():
            raise HubError(401, "Expired Xet token")
        if ROLES.index(fields[1]) < ROLES.index(role):
            raise HubError(403, f"This Xet token has no {role} scope")

    def user(self, request: Request) -> User:
        token = bearer(request)
        if not token:
            return ANONYMOUS
        if token.startswith(CI_TOKEN):
            return self.ci_user(token)
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def ci_token(self, repo_id: str) -> str:
        """A token that may write to one repository."""
        return f"{CI_TOKEN}{base64.urlsafe_b64encode(repo_id.encode()).decode()}.{self.sign(f'ci {repo_id}')}"

    def ci_user(self, token: str) -> User:
        encoded, _, signature = token.removeprefix(CI_TOKEN).partition(".")
        repo_id = base64.urlsafe_b64decode(encoded).decode()
        self.check_signature(f"ci {repo_id}", signature)
        return User("trusted-publisher", "write", repo_id=repo_id)

    def writer(self, request: Request, repo_id: str) -> User:
        user = self.user(request)
        if user is ANONYMOUS:
            raise HubError(401, "Invalid username or password.")
        if user.role != "write":
            allowed = "open pull requests" if user.role == "pr" else "read"
            raise HubError(403, f"You must use a write token for this: the token given can only {allowed}")
        if not user.may_write(repo_id):
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return user

    def repo(self, request: Request, write: bool = False) -> Repo:
        """The repository that the address names, if the request may see it (or write to it)."""
        asked = "{ns}/{name}".format(**request.path_params)
        repo = self.visible(request, self.store.find(asked))
        if repo.id != asked:
            raise RepoMoved(asked, repo.id)
        if write:
            self.writer(request, repo.id)
        return repo

    def repo_to_change(self, request: Request, revision: str | None) -> Repo:
        """The repository, if the request may change this revision; None is a pull request that is yet to be opened.

        Whoever may only open pull requests may also add to those that they have opened.
        """
        repo, user = self.repo(request), self.user(request)
        own = revision is None or pull_requests(repo).get(revision, {}).get("author") == user.name
        if not (own and user.may_propose(repo.id)):
            self.writer(request, repo.id)
        return repo

    def repo_by_id(self, request: Request, repo_id: str) -> Repo:
        """The repository that a body names, if the request may write to it."""
        repo = self.visible(request, self.store.repos.get(repo_id))
        self.writer(request, repo.id)
        return repo

    def visible(self, request: Request, repo: Repo | None) -> Repo:
        user = self.user(request)
        if repo is None or (repo.state["private"] and user.role == "none"):
            # As the real Hub: who has not logged in is not told whether a repository exists.
            raise HubError(401 if user is ANONYMOUS else 404, "Repository not found", "RepoNotFound")
        return repo

    def known_size(self, sha256: str) -> int | None:
        """The size of a stored large file, None when it is not here."""
        if sha256 in self.cas.by_sha256:
            return self.cas.files[self.cas.by_sha256[sha256]].size
        path = self.disk.lfs(sha256)
        return path.stat().st_size if path.exists() else None

    def reader(self, file: File) -> Reader:
        """Reads [start, stop) of a file, wherever its content is stored."""
        if file.sha256 is None:
            path = self.disk.blob(file.oid)
        elif xet_hash := self.cas.by_sha256.get(file.sha256):
            return lambda start, stop: self.cas.read(self.cas.files[xet_hash], start, stop)
        else:
            path = self.disk.lfs(file.sha256)
        return lambda start, stop: read_range(path, start, stop)

    def read_text(self, file: File | None) -> str:
        return b"".join(self.reader(file)(0, file.size)).decode(errors="replace") if file else ""


def hub_of(request: Request) -> Hub:
    return request.app.state.hub


def bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


def base_url(request: Request) -> str:
    """Clients insist that addresses in answers have the host they asked."""
    return f"http://{request.headers['host']}"


def param(request: Request, name: str) -> str:
    return unquote(request.path_params[name])


def changed_revision(request: Request) -> str | None:
    """The revision that is, or is to be, committed to; None is a new pull request."""
    return None if request.query_params.get("create_pr") else param(request, "rev")


def error_response(request: Request, error: HubError) -> JSONResponse:
    message = " ".join(error.message.split())
    headers = {"X-Error-Message": message.encode("ascii", "replace").decode(), "X-Error-Code": error.code}
    return JSONResponse({"error": message, **error.body}, error.status, headers | error.headers)


def moved_response(request: Request, error: RepoMoved) -> RedirectResponse:
    """To the same address under the new name."""
    path = request.scope["path"].replace(f"datasets/{error.old}", f"datasets/{error.new}", 1)
    query = request.url.query
    return RedirectResponse(f"{path}?{query}" if query else path, 307)


async def receive_file(request: Request) -> tuple[Path, str]:
    """Write the body to a temporary file; its path and sha256."""
    path, digest = hub_of(request).disk.temporary(), hashlib.sha256()
    try:
        with path.open("wb") as file:
            async for piece in request.stream():
                digest.update(piece)
                file.write(piece)
    except BaseException:
        path.unlink()
        raise
    return path, digest.hexdigest()


def paged(request: Request, items: list, size: int, render: Callable[[object], dict]) -> JSONResponse:
    """One page of a list, with a Link header to the next one."""
    cursor = request.query_params.get("cursor")
    start = int(base64.urlsafe_b64decode(cursor)) if cursor else 0
    headers = {}
    if start + size < len(items):
        query = dict(request.query_params) | {"cursor": base64.urlsafe_b64encode(str(start + size).encode()).decode()}
        headers["Link"] = f'<{base_url(request)}{request.scope["path"]}?{urlencode(query)}>; rel="next"'
    return JSONResponse([render(item) for item in items[start : start + size]], headers=headers)


def requested_range(request: Request, size: int) -> tuple[int, int] | None:
    """The [start, stop) that a Range header asks for, None without one."""
    header = request.headers.get("range")
    if not header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    try:
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
    except ValueError:
        raise HubError(416, f"Cannot serve the range {header!r}") from None
    if not header.startswith("bytes=") or start >= stop:
        raise HubError(416, f"Range {header!r} is outside of the {size} bytes")
    return start, stop


def content_response(request: Request, size: int, read: Reader, headers: dict) -> Response:
    """A file, or the Range of it that is asked for."""
    asked = requested_range(request, size)
    start, stop = asked or (0, size)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start), **headers}
    if asked:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if asked else 200
    if request.method == "HEAD":
        return Response(None, status, headers)
    return StreamingResponse(read(start, stop), status, headers, media_type="application/octet-stream")
