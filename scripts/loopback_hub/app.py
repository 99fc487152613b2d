"""The ASGI application: all routes, errors as the Hub answers them, and the admin routes of `/_loopback/`."""

import re
from dataclasses import asdict
from json import JSONDecodeError

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import cas_routes, content_routes, pull_routes, repo_routes, upload_routes
from .hub import Hub, RepoMoved, error_response, moved_response
from .store import HubError
from .traffic import Fault, RequestLog, Traffic


def traffic_of(request: Request) -> Traffic:
    return request.app.state.traffic


async def faults(request: Request) -> JSONResponse:
    """GET lists the faults with what they have hit, POST adds one, DELETE removes all."""
    traffic = traffic_of(request)
    if request.method == "POST":
        try:
            traffic.faults.append(Fault(**await request.json()))
        except (TypeError, ValueError, re.error) as error:
            raise HubError(400, f"Not a fault: {error}") from error
    if request.method == "DELETE":
        traffic.faults.clear()
    return JSONResponse([asdict(fault) for fault in traffic.faults])


async def bandwidth(request: Request) -> JSONResponse:
    traffic_of(request).bandwidth.limit = (await request.json())["bytes_per_second"]
    return JSONResponse({})


async def counters(request: Request) -> JSONResponse:
    return JSONResponse(traffic_of(request).log.counters)


async def log(request: Request) -> JSONResponse:
    return JSONResponse(sorted(traffic_of(request).log.entries, key=lambda entry: entry["index"]))


async def reset(request: Request) -> JSONResponse:
    traffic_of(request).log.reset()
    return JSONResponse({})


ADMIN_ROUTES = [
    Route("/_loopback/faults", faults, methods=["GET", "POST", "DELETE"]),
    Route("/_loopback/bandwidth", bandwidth, methods=["PUT"]),
    Route("/_loopback/counters", counters),
    Route("/_loopback/log", log),
    Route("/_loopback/reset", reset, methods=["POST"]),
]


def http_error(request: Request, error: HTTPException) -> JSONResponse:
    return error_response(request, HubError(error.status_code, error.detail))


def client_error(request: Request, error: Exception) -> JSONResponse:
    """The body was no JSON, or the client went away within it."""
    return error_response(request, HubError(400, f"Bad request: {error}"))


def server_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(request, HubError(500, "Internal error of the loopback Hub, see its server.log"))


def build_app(hub: Hub, log: RequestLog, find_connection) -> Traffic:
    handlers = {
        HubError: error_response,
        RepoMoved: moved_response,
        HTTPException: http_error,
        ClientDisconnect: client_error,
        JSONDecodeError: client_error,
        Exception: server_error,
    }
    modules = (cas_routes, upload_routes, repo_routes, pull_routes, content_routes)
    routes = [route for module in modules for route in module.routes]
    app = Starlette(routes=[*ADMIN_ROUTES, *routes], exception_handlers=handlers)
    app.state.hub = hub
    app.state.traffic = Traffic(app, log, find_connection)
    return app.state.traffic
