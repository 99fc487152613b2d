"""What passes between clients and the loopback Hub: faults on demand, bandwidth, request log and byte counters.

`Traffic` is the outermost ASGI application. Bytes are those of bodies, headers are not counted. Requests to
`/_loopback/` pass untouched: they are neither counted, nor logged, nor hit by a fault.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.routing import Match

UPLOAD_ROUTES = {
    "cas_xorb": "xorbs",
    "cas_shard": "shards",
    "lfs_put": "lfs",
    "lfs_put_part": "lfs",
    "commit": "commits",
}
SECRET_PARAMETERS = re.compile(r"(?<=[?&])(sig|token)=[^&]*")


@dataclass
class Fault:
    """What goes wrong, and for which requests (counted from the moment the fault is set).

    Of the requests that `method` and `path` (a regular expression, searched in the raw path) match, number `nth` and
    the next ones, `times` in all (0: every one), are hit: after `delay` seconds they get the status `action`, or are
    cut off (`action="cut"`: without a response, or after `body_bytes` of it). `when="after"` first does the work and
    swallows its answer, so the client does not know that it was done. No action: only the delay. A 429 tells
    `retry_after` in `ratelimit`, as the Hub documents it, and in `Retry-After`; `ratelimit=False`: in that one only.
    """

    action: int | str | None = None
    method: str | None = None
    path: str | None = None
    nth: int = 1
    times: int = 1
    when: str = "before"
    delay: float = 0
    retry_after: int = 1
    ratelimit: bool = True
    body_bytes: int | None = None
    seen: int = 0
    hits: int = 0

    def __post_init__(self):
        if self.action not in (None, "cut") and not (isinstance(self.action, int) and 400 <= self.action <= 599):
            raise ValueError("action is a status from 400 to 599, 'cut', or nothing")
        if self.when not in ("before", "after"):
            raise ValueError("when is 'before' or 'after'")
        re.compile(self.path or "")

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in (None, method) or not re.search(self.path or "", path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.seen >= self.nth + self.times):
            return False
        self.hits += 1
        return True

    def __str__(self) -> str:
        return f"{self.when} {self.action or 'delay'}"


class RequestLog:
    """JSON lines on disk, and the counters that are made from them (again after a restart)."""

    def __init__(self, path: Path, tokens: list[str]):
        self.path, self.tokens = path, tokens
        self.entries: list[dict] = []
        self._clear()
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                self._count(json.loads(line))
            except ValueError:
                continue  # the last line before a kill may be cut off
        self.file = path.open("a", buffering=1)
        if self.file.tell() and not path.read_bytes().endswith(b"\n"):
            self.file.write("\n")

    def _clear(self) -> None:
        self.entries, self.index = [], 0
        self.counters = {"requests": 0, "routes": {}, "uploaded": dict.fromkeys(UPLOAD_ROUTES.values(), 0)}

    def _count(self, entry: dict) -> None:
        self.entries.append(entry)
        self.index = max(self.index, entry["index"])
        self.counters["requests"] += 1
        route = self.counters["routes"].setdefault(entry["route"], {"requests": 0, "bytes_in": 0, "bytes_out": 0})
        route["requests"] += 1
        route["bytes_in"] += entry["bytes_in"]
        route["bytes_out"] += entry["bytes_out"]
        if entry["accepted"] and entry["route"] in UPLOAD_ROUTES:
            self.counters["uploaded"][UPLOAD_ROUTES[entry["route"]]] += entry["bytes_in"]

    def next_index(self) -> int:
        self.index += 1
        return self.index

    def safe(self, path: str) -> str:
        """A path without signatures and tokens."""
        path = SECRET_PARAMETERS.sub(r"\1=***", path)
        for token in self.tokens:
            path = path.replace(token, "***")
        return path

    def add(self, entry: dict) -> None:
        self._count(entry)
        self.file.write(json.dumps(entry) + "\n")

    def reset(self) -> None:
        self._clear()
        self.file.truncate(0)


class Bandwidth:
    """One limit in bytes per second for all connections together, both ways; 0 is no limit."""

    def __init__(self):
        self.limit, self.free_at = 0.0, 0.0

    async def pass_bytes(self, count: int) -> None:
        if self.limit and count:
            self.free_at = max(self.free_at, time.monotonic()) + count / self.limit
            await asyncio.sleep(self.free_at - time.monotonic())


class Exchange:
    """One request and its response, with what has passed so far.

    `status` is what the client was told, `work_status` what the Hub's own application answered.
    """

    def __init__(self, traffic: "Traffic", scope: dict, receive, send):
        self.traffic, self.scope, self._receive, self._send = traffic, scope, receive, send
        self.method, self.path = scope["method"], scope["raw_path"].decode()
        self.index, self.started = traffic.log.next_index(), time.time()
        self.status = self.work_status = self.fault = None
        self.bytes_in = self.bytes_out = 0
        self.body_read = self.logged = self.is_cut = False

    async def receive(self) -> dict:
        message = await self._receive()
        size = len(message.get("body", b""))
        self.bytes_in += size
        self.body_read = not message.get("more_body")
        await self.traffic.bandwidth.pass_bytes(size)
        return message

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = self.work_status = message["status"]
        else:
            self.bytes_out += len(message.get("body", b""))
            await self.traffic.bandwidth.pass_bytes(len(message.get("body", b"")))
            if not message.get("more_body"):
                self.write_log()  # before the client can ask for it
        await self._send(message)

    async def swallow(self, message: dict) -> None:
        """Stands in for `send` when the work is done but the client is not to know."""
        if message["type"] == "http.response.start":
            self.work_status = message["status"]

    async def drain(self) -> None:
        """Read the request to its end, as real servers do before they refuse it."""
        while not self.body_read:
            await self.receive()

    async def cut(self) -> None:
        self.status, self.is_cut = None, True
        self.write_log()
        if connection := self.traffic.find_connection(self.scope["client"]):
            connection.transport.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_late(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(self.fault.delay)
        await self.send(message)

    async def send_partly(self, message: dict) -> None:
        """Send `body_bytes` of the response's body, then cut the connection."""
        if self.is_cut:
            return
        if message["type"] == "http.response.start":
            return await self.send(message)
        body = message.get("body", b"")
        left = self.fault.body_bytes - self.bytes_out
        await self.send({"type": "http.response.body", "body": body[:left], "more_body": True})
        if len(body) >= left or not message.get("more_body"):
            await self.cut()

    def write_log(self) -> None:
        if self.logged:
            return
        self.logged = True
        query = self.scope["query_string"].decode()
        self.traffic.log.add(
            {
                "index": self.index,
                "time": round(self.started, 3),
                "seconds": round(time.time() - self.started, 3),
                "method": self.method,
                "path": self.traffic.log.safe(f"{self.path}?{query}" if query else self.path),
                "route": self.traffic.route_name(self.scope),
                "status": self.status,
                "accepted": self.work_status is not None and self.work_status < 300,
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "fault": str(self.fault) if self.fault else None,
            }
        )


class Traffic:
    """The ASGI application around the Hub's own; `find_connection` gives the open connection of a client address."""

    def __init__(self, app, log: RequestLog, find_connection):
        self.app, self.log, self.find_connection = app, log, find_connection
        self.bandwidth = Bandwidth()
        self.faults: list[Fault] = []

    def route_name(self, scope: dict) -> str:
        matches = (route.name for route in self.app.routes if route.matches(scope)[0] == Match.FULL)
        return next(matches, "not_found")

    def pick_fault(self, method: str, path: str) -> Fault | None:
        """Every fault counts the request; the first one that strikes is applied."""
        striking = [fault for fault in self.faults if fault.strikes(method, path)]
        return striking[0] if striking else None

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # Revisions and paths come %2F-quoted: route on the raw path, the handlers unquote.
        scope["path"] = scope["raw_path"].decode()
        if scope["path"].startswith("/_loopback/"):
            return await self.app(scope, receive, send)
        exchange = Exchange(self, scope, receive, send)
        exchange.fault = self.pick_fault(exchange.method, exchange.path)
        try:
            await self._answer(exchange)
        finally:
            exchange.write_log()

    async def _answer(self, exchange: Exchange) -> None:
        fault, scope, receive, send = exchange.fault, exchange.scope, exchange.receive, exchange.send
        if fault is None:
            return await self.app(scope, receive, send)
        if fault.when == "before":
            await asyncio.sleep(fault.delay)
        if fault.delay and self.find_connection(scope["client"]) is None:
            return  # a client that was killed meanwhile must not have its work done after all
        if fault.action is None:
            await self.app(scope, receive, exchange.send_late if fault.when == "after" else send)
        elif fault.body_bytes is not None:
            await self.app(scope, receive, exchange.send_partly)
        else:
            await self._strike(exchange)

    async def _strike(self, exchange: Exchange) -> None:
        fault, scope, receive, send = exchange.fault, exchange.scope, exchange.receive, exchange.send
        if fault.when == "after":
            await self.app(scope, receive, exchange.swallow)
            await asyncio.sleep(fault.delay)
        if fault.action == "cut":
            await exchange.cut()
        else:
            await exchange.drain()
            await fault_response(fault)(scope, receive, send)


def fault_response(fault: Fault) -> JSONResponse:
    message = f"Injected fault {fault.action}"
    headers = {"X-Error-Code": "InjectedFault", "X-Error-Message": message}
    if fault.action == 429:
        headers["Retry-After"] = str(fault.retry_after)
        headers |= {"ratelimit": f'"api";r=0;t={fault.retry_after}'} if fault.ratelimit else {}
    return JSONResponse({"error": message}, fault.action, headers)
