"""Routes of pull requests. The real Hub has discussions beside them, under the same addresses."""

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import pulls
from .hub import hub_of
from .repo_routes import API, repo_url
from .store import HubError, Repo, now

PAGE = 50
STATUS_FILTERS = {"open": ("open", "draft"), "closed": ("closed", "merged")}  # by which clients ask


def ref_of(request: Request) -> str:
    return f"refs/pr/{request.path_params['number']}"


def pull_request_url(request: Request, repo: Repo, number: int) -> str:
    return f"{repo_url(request, repo.id)}/discussions/{number}"


def render(repo: Repo, ref: str) -> dict:
    entry = pulls.pull_request(repo, ref)
    about = {"num": int(ref.removeprefix("refs/pr/")), "title": entry["title"], "status": entry["status"]}
    about |= {"author": {"name": entry["author"]}, "createdAt": entry["created"], "isPullRequest": True}
    return {**about, "repo": {"name": repo.id, "type": "dataset"}}


def list_pull_requests(request: Request) -> JSONResponse:
    """The newest first, in numbered pages."""
    hub, query = hub_of(request), request.query_params
    repo = hub.repo(request)
    found = [render(repo, ref) for ref in reversed(pulls.pull_requests(repo))]
    if query.get("status") in STATUS_FILTERS:
        found = [pull for pull in found if pull["status"] in STATUS_FILTERS[query["status"]]]
    if "author" in query:
        found = [pull for pull in found if pull["author"]["name"] == query["author"]]
    if query.get("type") == "discussion":
        found = []
    size = min(PAGE, hub.page_size)
    start = size * int(query.get("p", 0))
    return JSONResponse({"count": len(found), "start": start, "discussions": found[start : start + size]})


async def create_pull_request(request: Request) -> JSONResponse:
    hub, body = hub_of(request), await request.json()
    repo = hub.repo_to_change(request, None)
    if not body.get("pullRequest"):
        raise HubError(400, "This Hub has pull requests, but no discussions")
    number = pulls.open_draft(repo, body["title"], hub.user(request).name)
    return JSONResponse({"num": number, "url": pull_request_url(request, repo, number), "pullRequest": True})


def show_pull_request(request: Request) -> JSONResponse:
    """As much of a pull request as the clients read; its changes are the commits of its ref."""
    repo, ref = hub_of(request).repo(request), ref_of(request)
    entry = pulls.pull_request(repo, ref)
    conflicts = pulls.merged_files(repo, ref)[1] if entry["status"] in STATUS_FILTERS["open"] else []
    changes = {"base": pulls.MAIN} | ({"mergeCommitId": entry["merge_commit"]} if "merge_commit" in entry else {})
    return JSONResponse({**render(repo, ref), "changes": changes, "filesWithConflicts": conflicts, "events": []})


async def change_status(request: Request) -> JSONResponse:
    hub, status = hub_of(request), (await request.json())["status"]
    if status not in ("open", "closed"):
        raise HubError(400, f"Invalid status: {status!r}")
    pulls.set_status(hub.repo(request, write=True), ref_of(request), status)
    event = {"id": uuid.uuid4().hex, "type": "status-change", "createdAt": now(), "data": {"status": status}}
    return JSONResponse({"newStatus": {**event, "author": {"name": hub.user(request).name}}})


def merge_pull_request(request: Request) -> JSONResponse:
    hub = hub_of(request)
    pulls.merge(hub.repo(request, write=True), ref_of(request), hub.user(request).name)
    return JSONResponse({})


ONE = f"{API}/discussions/{{number:int}}"
routes = [
    Route(f"{API}/discussions", list_pull_requests, name="pull_requests"),
    Route(f"{API}/discussions", create_pull_request, methods=["POST"], name="create_pull_request"),
    Route(ONE, show_pull_request, name="pull_request"),
    Route(f"{ONE}/status", change_status, methods=["POST"], name="pull_request_status"),
    Route(f"{ONE}/merge", merge_pull_request, methods=["POST"], name="merge_pull_request"),
]
