"""Routes that take file contents in: upload modes, LFS transfers, and tokens for the Xet storage."""

import hashlib
from pathlib import Path

from pathspec import GitIgnoreSpec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .hub import Hub, base_url, changed_revision, hub_of, param, receive_file
from .repo_routes import API
from .store import PIECE, HubError

REGULAR_LIMIT = 10 * 2**20
LFS = "/datasets/{ns}/{name}.git/info/lfs/objects"


def lfs_paths(attributes: str) -> GitIgnoreSpec:
    """What `.gitattributes` stores as LFS: its patterns are those of `.gitignore`, and the last that fits counts."""
    patterns = []
    for line in attributes.splitlines():
        pattern, *settings = line.split() or [""]
        if "filter=lfs" in settings:
            patterns.append(pattern)
        elif {"-filter", "!filter"} & {*settings}:
            patterns.append(f"!{pattern}")
    return GitIgnoreSpec.from_lines(patterns)


async def preupload(request: Request) -> JSONResponse:
    """The upload mode of each file, whether to leave it out, and the id of what the repository has at its path."""
    hub, body = hub_of(request), await request.json()
    head = hub.repo_to_change(request, changed_revision(request)).resolve(param(request, "rev"))
    lfs = lfs_paths(hub.read_text(head.files.get(".gitattributes")))
    ignore = body.get("gitIgnore")  # the one in the commit, which may be empty
    if ignore is None:
        ignore = hub.read_text(head.files.get(".gitignore"))
    ignored = GitIgnoreSpec.from_lines(ignore.splitlines())

    def describe(file: dict) -> dict:
        path, present = file["path"], head.files.get(file["path"])
        mode = "lfs" if file["size"] > REGULAR_LIMIT or lfs.match_file(path) else "regular"
        about = {"path": path, "uploadMode": mode, "shouldIgnore": ignored.match_file(path)}
        return {**about, "oid": present.sha256 or present.oid} if present else about

    return JSONResponse({"files": [describe(file) for file in body["files"]]})


def xet_token(request: Request) -> JSONResponse:
    hub = hub_of(request)
    role = request.path_params["role"]
    if role not in ("read", "write"):
        raise HubError(404, "Not Found")
    if role == "write":
        hub.repo_to_change(request, changed_revision(request))
    else:
        hub.repo(request)
    token, expiry = hub.xet_token(role)
    url = f"{base_url(request)}/cas"
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Token-Expiration": str(expiry), "X-Xet-Access-Token": token}
    return JSONResponse({"casUrl": url, "exp": expiry, "accessToken": token}, headers=headers)


async def lfs_batch(request: Request) -> JSONResponse:
    hub, body = hub_of(request), await request.json()
    hub.repo_to_change(request, body["ref"]["name"] if "ref" in body else None)  # as clients do for a pull request
    if body["operation"] != "upload":
        raise HubError(400, "Only uploads go through LFS here; files are read by resolve")
    multipart = "multipart" in body.get("transfers", [])
    objects = [lfs_object(request, entry["oid"], entry["size"], multipart) for entry in body["objects"]]
    answer = {"transfer": "multipart" if multipart else "basic", "objects": objects}
    return JSONResponse(answer, media_type="application/vnd.git-lfs+json")


def lfs_object(request: Request, oid: str, size: int, multipart: bool) -> dict:
    """An LFS object and what to do with it: nothing when it is here already."""
    hub, entry = hub_of(request), {"oid": oid, "size": size}
    if hub.known_size(oid) is not None:
        return entry
    place, signature = f"{base_url(request)}/lfs/{oid}", f"sig={hub.sign(f'lfs {oid}')}"
    upload: dict = {"href": f"{place}?{signature}"}
    if multipart and size > hub.lfs_part_size:
        parts = -(-size // hub.lfs_part_size)
        urls = {str(number): f"{place}/parts/{number}?{signature}" for number in range(1, parts + 1)}
        upload["header"] = {"chunk_size": str(hub.lfs_part_size), **urls}
    verify = {"href": f"{base_url(request)}{LFS.format(**request.path_params)}/verify"}
    return {**entry, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def checked_oid(request: Request) -> str:
    """The object that a presigned upload address names: these addresses are used without a token."""
    oid = request.path_params["oid"]
    hub_of(request).check_signature(f"lfs {oid}", request.query_params.get("sig", ""))
    return oid


async def lfs_put(request: Request) -> Response:
    hub, oid = hub_of(request), checked_oid(request)
    path, sha256 = await receive_file(request)
    publish_lfs(hub, path, sha256, oid)
    return Response(headers={"ETag": f'"{oid}"'})


async def lfs_put_part(request: Request) -> Response:
    hub, oid = hub_of(request), checked_oid(request)
    path, sha256 = await receive_file(request)
    hub.disk.publish(path, hub.disk.lfs_part(oid, request.path_params["part"]))
    return Response(headers={"ETag": f'"{sha256}"'})


async def lfs_complete(request: Request) -> JSONResponse:
    hub, oid = hub_of(request), checked_oid(request)
    numbers = [part["partNumber"] for part in (await request.json())["parts"]]
    if hub.known_size(oid) is None:  # else the answer to an earlier completion was lost
        await run_in_threadpool(join_parts, hub, oid, numbers)
    return JSONResponse({})


def join_parts(hub: Hub, oid: str, numbers: list[int]) -> None:
    parts = [hub.disk.lfs_part(oid, number) for number in sorted(numbers)]
    if not all(part.exists() for part in parts):
        raise HubError(400, "A part was not uploaded")
    path, digest = hub.disk.temporary(), hashlib.sha256()
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
                    whole.write(piece)
    publish_lfs(hub, path, digest.hexdigest(), oid)
    for part in parts:
        part.unlink()


def publish_lfs(hub: Hub, path: Path, sha256: str, oid: str) -> None:
    if sha256 != oid:
        path.unlink()
        raise HubError(400, f"The content has the sha256 {sha256}, not {oid}")
    hub.disk.publish(path, hub.disk.lfs(oid))


async def lfs_verify(request: Request) -> JSONResponse:
    hub, body = hub_of(request), await request.json()
    hub.repo_to_change(request, None)
    if hub.known_size(body["oid"]) != body["size"]:
        raise HubError(404, "No object of this size was uploaded")
    return JSONResponse({})


routes = [
    Route(f"{API}/preupload/{{rev}}", preupload, methods=["POST"], name="preupload"),
    Route(f"{API}/xet-{{role}}-token/{{rev}}", xet_token, name="xet_token"),
    Route(f"{LFS}/batch", lfs_batch, methods=["POST"], name="lfs_batch"),
    Route(f"{LFS}/verify", lfs_verify, methods=["POST"], name="lfs_verify"),
    Route("/lfs/{oid}", lfs_put, methods=["PUT"], name="lfs_put"),
    Route("/lfs/{oid}", lfs_complete, methods=["POST"], name="lfs_complete"),
    Route("/lfs/{oid}/parts/{part:int}", lfs_put_part, methods=["PUT"], name="lfs_put_part"),
]
