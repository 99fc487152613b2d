"""Routes of the Xet storage, under /cas. Without /v2/shards and xorb grants the clients fall back to what is here."""

import re

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .hub import base_url, content_response, hub_of, receive_file, requested_range
from .store import HubError, read_range


def checked_hash(request: Request) -> str:
    if not re.fullmatch("[0-9a-f]{64}", request.path_params["hash"]):
        raise HubError(400, "A hash has 64 hexadecimal digits")
    return request.path_params["hash"]


def query_chunk(request: Request) -> Response:
    hub_of(request).check_xet_token(request, "read")
    answer = hub_of(request).cas.dedup_answer(checked_hash(request))
    if answer is None:
        raise HubError(404, "Chunk not tracked")
    return Response(answer, media_type="application/octet-stream")


async def post_xorb(request: Request) -> JSONResponse:
    hub, xorb = hub_of(request), checked_hash(request)
    hub.check_xet_token(request, "write")
    temporary, _ = await receive_file(request)
    inserted = await run_in_threadpool(hub.cas.add_xorb, xorb, temporary)
    return JSONResponse({"was_inserted": inserted})


async def post_shard(request: Request) -> JSONResponse:
    hub_of(request).check_xet_token(request, "write")
    await run_in_threadpool(hub_of(request).cas.add_shard, await request.body())
    return JSONResponse({"result": 1})


def get_reconstruction(request: Request) -> JSONResponse:
    hub = hub_of(request)
    hub.check_xet_token(request, "read")
    if request.path_params["version"] not in ("v1", "v2"):
        raise HubError(404, "Not Found")
    file = hub.cas.files.get(checked_hash(request))
    if file is None:
        raise HubError(404, "No such file")

    def address(xorb: str) -> str:
        return f"{base_url(request)}/cas/xorbs/{xorb}?sig={hub.sign(f'xorb {xorb}')}"

    start, stop = requested_range(request, file.size) or (0, file.size)
    return JSONResponse(hub.cas.reconstruction(file, start, stop, address, request.path_params["version"]))


def get_xorb(request: Request) -> Response:
    """What a presigned storage address gives: the packed bytes, to whoever has the address."""
    hub, xorb = hub_of(request), checked_hash(request)
    hub.check_signature(f"xorb {xorb}", request.query_params.get("sig", ""))
    path = hub.cas.xorb_path(xorb)
    return content_response(request, path.stat().st_size, lambda start, stop: read_range(path, start, stop), {})


routes = [
    Route("/cas/v1/chunks/{prefix}/{hash}", query_chunk, name="cas_chunk"),
    Route("/cas/v1/xorbs/{prefix}/{hash}", post_xorb, methods=["POST"], name="cas_xorb"),
    Route("/cas/v1/shards", post_shard, methods=["POST"], name="cas_shard"),
    Route("/cas/{version}/reconstructions/{hash}", get_reconstruction, name="cas_reconstruction"),
    Route("/cas/xorbs/{hash}", get_xorb, name="cas_fetch"),
]
