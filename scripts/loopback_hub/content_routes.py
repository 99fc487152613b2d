"""Routes of what is in a repository: commits, listings and files."""

import base64
import hashlib
import json
from urllib.parse import parse_qs

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .card import card_metadata
from .hub import ANONYMOUS, Hub, base_url, changed_revision, content_response, hub_of, paged, param
from .pull_routes import pull_request_url
from .pulls import open_with_commit
from .repo_routes import API, repo_url
from .store import Commit, File, HubError, Repo, git_blob_id

EXPANDED_PAGE = 100
COMMITS_PAGE = 50
XET_INFO = "application/vnd.xet-fileinfo+json"


def change_of(hub: Hub, key: str, value: dict) -> tuple[str, str, File | None]:
    """One NDJSON line of a commit as a change for the store; the content of small files is stored on the way."""
    path = value["path"]
    if key == "file":
        data = base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()
        oid = git_blob_id(data)
        if not hub.disk.blob(oid).exists():
            hub.disk.write(hub.disk.blob(oid), data)
        return "add", path, File(oid, len(data))
    if key == "lfsFile":
        size = hub.known_size(value["oid"])
        if size is None or size != value.get("size", size):
            raise HubError(400, f"The content of {path!r} ({value['oid']}) was not uploaded")
        return "add", path, File.lfs(value["oid"], size)
    kinds = {"deletedFile": "delete", "deletedFolder": "delete_folder", "deletedEntry": "delete"}
    if key not in kinds:
        raise HubError(400, f"Unknown operation {key!r}")
    return kinds[key], path, None


async def commit(request: Request) -> JSONResponse:
    hub = hub_of(request)
    repo, user = hub.repo_to_change(request, changed_revision(request)), hub.user(request)
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if not header:
        raise HubError(400, "A commit needs a header with a summary")
    if 0 < hub.commit_operations < len(lines) - 1:
        raise HubError(504, "The commit took too long: commit fewer files at a time")
    changes = [change_of(hub, line["key"], line["value"]) for line in lines if line["key"] != "header"]
    branch, answer = param(request, "rev"), {}
    repo.branch(branch)
    about = {"title": header["summary"], "message": header.get("description") or "", "author": user.name}
    about["parent"] = header.get("parentCommit")
    if request.query_params.get("create_pr"):
        number, made = open_with_commit(repo, changes, **about)
        answer["pullRequestUrl"] = pull_request_url(request, repo, number)
    else:
        made = repo.commit(branch, changes, **about)
    url = f"{repo_url(request, repo.id)}/commit/{made.id}"
    return JSONResponse({"success": True, "commitOid": made.id, "commitUrl": url, **answer})


def list_commits(request: Request) -> JSONResponse:
    hub = hub_of(request)
    repo = hub.repo(request)

    def render(commit: Commit) -> dict:
        about = {"id": commit.id, "title": commit.title, "message": commit.message, "date": commit.date}
        return {**about, "authors": [{"user": commit.author}]}

    history = list(repo.history(repo.resolve(param(request, "rev"))))
    return paged(request, history, min(COMMITS_PAGE, hub.page_size), render)


def tree_entry(hub: Hub, repo: Repo, commit: Commit, path: str, expand: bool) -> dict:
    file = commit.files.get(path)
    entry = {"type": "file" if file else "directory", "oid": commit.entry_id(path), "path": path}
    entry["size"] = file.size if file else 0
    if file and file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        if file.sha256 in hub.cas.by_sha256:
            entry["xetHash"] = hub.cas.by_sha256[file.sha256]
    if expand:
        last = repo.last_change(commit, path)
        entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return entry


def entries_under(commit: Commit, folder: str, recursive: bool) -> list[str]:
    """The files and folders of a tree, sorted."""
    prefix = f"{folder}/" if folder else ""
    found = set()
    for path in commit.files:
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            depths = range(1, len(parts) + 1) if recursive else [1]
            found.update(prefix + "/".join(parts[:depth]) for depth in depths)
    return sorted(found)


def list_tree(request: Request) -> JSONResponse:
    hub = hub_of(request)
    repo = hub.repo(request)
    revision_commit = repo.resolve(param(request, "rev"))
    folder = param(request, "path").strip("/") if "path" in request.path_params else ""
    flags = {name: request.query_params.get(name, "").lower() in ("true", "1") for name in ("recursive", "expand")}
    entries = entries_under(revision_commit, folder, flags["recursive"])
    if folder and not entries:
        raise HubError(404, f"{folder} does not exist on {param(request, 'rev')!r}", "EntryNotFound")
    size = min(EXPANDED_PAGE, hub.page_size) if flags["expand"] else hub.page_size
    return paged(request, entries, size, lambda path: tree_entry(hub, repo, revision_commit, path, flags["expand"]))


async def paths_info(request: Request) -> JSONResponse:
    hub = hub_of(request)
    repo, body = hub.repo(request), await request.body()
    found = repo.resolve(param(request, "rev"))
    if request.headers.get("content-type", "").startswith("application/json"):
        form = json.loads(body)
    else:
        fields = parse_qs(body.decode())
        form = {"paths": fields.get("paths", []), "expand": fields.get("expand", [""])[0].lower() == "true"}
    paths = [path.strip("/") for path in form["paths"]]
    expand = bool(form.get("expand"))
    return JSONResponse([tree_entry(hub, repo, found, path, expand) for path in paths if found.entry_id(path)])


def dataset_info(request: Request) -> JSONResponse:
    hub = hub_of(request)
    repo = hub.repo(request)
    head = repo.resolve(param(request, "rev") if "rev" in request.path_params else "main")
    try:
        metadata = card_metadata(hub.read_text(head.files.get("README.md")))
    except yaml.YAMLError:
        metadata = {}
    info = {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": head.id,
        "createdAt": repo.state["created"],
        "lastModified": head.date,
        "private": repo.state["private"],
        "gated": repo.state["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": metadata,
        "siblings": [sibling(path, file, "blobs" in request.query_params) for path, file in sorted(head.files.items())],
    }
    return Response(json.dumps(info, default=str), media_type="application/json")  # dates in YAML become text


def sibling(path: str, file: File, with_blobs: bool) -> dict:
    if not with_blobs:
        return {"rfilename": path}
    about = {"rfilename": path, "blobId": file.oid, "size": file.size}
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size} if file.sha256 else None
    return {**about, "lfs": lfs} if lfs else about


def resolve(request: Request) -> Response:
    """A file's bytes, for GET and HEAD, with and without Range."""
    hub = hub_of(request)
    repo = hub.repo(request)
    if repo.state["gated"] and hub.user(request) is ANONYMOUS:
        raise HubError(401, f"Access to dataset {repo.id} is restricted", "GatedRepo")
    found, path = repo.resolve(param(request, "rev")), param(request, "path")
    file = found.files.get(path)
    headers = {"X-Repo-Commit": found.id}
    if file is None:
        raise HubError(404, f"Entry not found: {path}", "EntryNotFound", headers)
    headers["ETag"] = f'"{file.sha256 or file.oid}"'
    if file.sha256:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
    xet_hash = hub.cas.by_sha256.get(file.sha256)
    if xet_hash:
        refresh = f"{base_url(request)}/api/datasets/{repo.id}/xet-read-token/{found.id}"
        reconstruction = f"{base_url(request)}/cas/v2/reconstructions/{xet_hash}"
        links = {"xet-auth": refresh, "xet-reconstruction-info": reconstruction}
        headers["X-Xet-Hash"] = xet_hash
        headers["Link"] = ", ".join(f'<{url}>; rel="{name}"' for name, url in links.items())
        if XET_INFO in request.headers.get("accept", ""):
            about = {"hash": xet_hash, "refreshUrl": refresh, "reconstructionUrl": reconstruction}
            return JSONResponse(about, headers=headers, media_type=XET_INFO)
    return content_response(request, file.size, hub.reader(file), headers)


routes = [
    Route(API, dataset_info, name="info"),
    Route(f"{API}/revision/{{rev}}", dataset_info, name="info"),
    Route(f"{API}/commit/{{rev}}", commit, methods=["POST"], name="commit"),
    Route(f"{API}/commits/{{rev}}", list_commits, name="commits"),
    Route(f"{API}/tree/{{rev}}", list_tree, name="tree"),
    Route(f"{API}/tree/{{rev}}/{{path:path}}", list_tree, name="tree"),
    Route(f"{API}/paths-info/{{rev}}", paths_info, methods=["POST"], name="paths_info"),
    Route("/datasets/{ns}/{name}/resolve/{rev}/{path:path}", resolve, name="resolve"),
]
