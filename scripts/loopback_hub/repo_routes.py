"""Routes of users and repositories: their life, settings and refs."""

import hashlib
import json
import re

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .card import validate_card
from .hub import ANONYMOUS, base_url, hub_of, param
from .store import HubError

API = "/api/datasets/{ns}/{name}"
CI_IDENTITY = "loopback.ci.identity"  # the one identity token that is exchanged


def whoami(request: Request) -> JSONResponse:
    user = hub_of(request).user(request)
    if user is ANONYMOUS or user.repo_id:  # a CI job is nobody, and nothing public says that the Hub names it
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "loopback", "role": "fineGrained" if user.role == "pr" else user.role}
    return JSONResponse(
        {
            "type": "user",
            "id": hashlib.sha1(user.name.encode()).hexdigest()[:24],
            "name": user.name,
            "fullname": user.name,
            "orgs": [{"type": "org", "name": org} for org in user.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def repo_url(request: Request, repo_id: str) -> str:
    return f"{base_url(request)}/datasets/{repo_id}"


async def exchange_token(request: Request) -> JSONResponse:
    """Trusted publishers: the identity token of a CI job against a token that may write to one repository."""
    body = await request.json()
    kind, _, repo_id = str(body.get("resource")).partition("/")
    if body.get("subject_token") != CI_IDENTITY or kind != "datasets":
        raise HubError(400, "invalid_grant: no trusted publisher of this repository has this identity")
    token = hub_of(request).ci_token(repo_id)
    return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": 3600})


def named_repo(request: Request, body: dict) -> str:
    """The repository that a body names; without an organization it is the user's own."""
    return f"{body.get('organization') or hub_of(request).user(request).name}/{body['name']}"


def check_name(repo_id: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id):
        raise HubError(400, f"Invalid repository name: {repo_id!r}")


async def create_repo(request: Request) -> JSONResponse:
    hub, body = hub_of(request), await request.json()
    if body.get("type") != "dataset":
        raise HubError(400, "This Hub has datasets only")
    repo_id = named_repo(request, body)
    user = hub.writer(request, repo_id)
    if user.repo_id:
        raise HubError(403, "This token is for a repository that is there")
    check_name(repo_id)
    private = body.get("visibility") == "private" or body.get("private") is True
    url = repo_url(request, repo_id)
    hub.store.create(repo_id, user.name, private, url)
    return JSONResponse({"url": url, "name": repo_id})


async def delete_repo(request: Request) -> JSONResponse:
    hub, body = hub_of(request), await request.json()
    hub.store.delete(hub.repo_by_id(request, named_repo(request, body)))
    return JSONResponse({})


async def move_repo(request: Request) -> JSONResponse:
    """Rename a repository; its old name leads to it until that is given to another one."""
    hub, body = hub_of(request), await request.json()
    repo, name = hub.repo_by_id(request, body["fromRepo"]), body["toRepo"]
    hub.writer(request, name)
    check_name(name)
    hub.store.move(repo, name)
    return JSONResponse({})


async def update_settings(request: Request) -> JSONResponse:
    repo, body = hub_of(request).repo(request, write=True), await request.json()
    changes = {name: body[name] for name in ("private", "gated") if name in body}
    if "visibility" in body:
        changes["private"] = body["visibility"] == "private"
    with repo.lock:
        repo.save(**changes)
    return JSONResponse(changes)


def auth_check(request: Request) -> JSONResponse:
    hub_of(request).repo(request, write=request.url.path.endswith("/write"))
    return JSONResponse({})


async def validate_yaml(request: Request) -> JSONResponse:
    errors, warnings = validate_card((await request.json())["content"])
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return JSONResponse(body, 400 if errors else 200, {"X-Error-Code": "InvalidMetadata"} if errors else {})


def list_refs(request: Request) -> JSONResponse:
    repo = hub_of(request).repo(request)
    groups: dict[str, list] = {"refs/heads/": [], "refs/tags/": [], "refs/pr/": []}
    for ref, target in sorted(repo.refs.items()):
        prefix = next(prefix for prefix in groups if ref.startswith(prefix))
        groups[prefix].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": target})
    answer = {"branches": groups["refs/heads/"], "converts": [], "tags": groups["refs/tags/"]}
    if request.query_params.get("include_prs"):
        answer["pullRequests"] = groups["refs/pr/"]
    return JSONResponse(answer)


async def create_tag(request: Request) -> JSONResponse:
    repo, body = hub_of(request).repo(request, write=True), await request.json()
    repo.create_ref(f"refs/tags/{body['tag']}", repo.resolve(param(request, "rev")).id)
    return JSONResponse({})


def delete_tag(request: Request) -> JSONResponse:
    hub_of(request).repo(request, write=True).delete_ref(f"refs/tags/{param(request, 'rev')}")
    return JSONResponse({})


async def create_branch(request: Request) -> JSONResponse:
    repo, body = hub_of(request).repo(request, write=True), await request.body()
    start = (json.loads(body) if body else {}).get("startingPoint") or "main"
    repo.create_ref(f"refs/heads/{param(request, 'rev')}", repo.resolve(start).id)
    return JSONResponse({})


def delete_branch(request: Request) -> JSONResponse:
    repo, name = hub_of(request).repo(request, write=True), param(request, "rev")
    if name == "main":
        raise HubError(403, "The main branch cannot be deleted")
    repo.delete_ref(f"refs/heads/{name}")
    return JSONResponse({})


routes = [
    Route("/api/whoami-v2", whoami, name="whoami"),
    Route("/oauth/token", exchange_token, methods=["POST"], name="oauth_token"),
    Route("/api/repos/create", create_repo, methods=["POST"], name="create_repo"),
    Route("/api/repos/delete", delete_repo, methods=["DELETE"], name="delete_repo"),
    Route("/api/repos/move", move_repo, methods=["POST"], name="move_repo"),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"], name="validate_yaml"),
    Route(f"{API}/settings", update_settings, methods=["PUT"], name="settings"),
    Route(f"{API}/auth-check", auth_check, name="auth_check"),
    Route(f"{API}/auth-check/write", auth_check, name="auth_check"),
    Route(f"{API}/refs", list_refs, name="refs"),
    Route(f"{API}/tag/{{rev}}", create_tag, methods=["POST"], name="create_tag"),
    Route(f"{API}/tag/{{rev}}", delete_tag, methods=["DELETE"], name="delete_tag"),
    Route(f"{API}/branch/{{rev}}", create_branch, methods=["POST"], name="create_branch"),
    Route(f"{API}/branch/{{rev}}", delete_branch, methods=["DELETE"], name="delete_branch"),
]
