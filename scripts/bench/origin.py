"""Streaming from the origin: what the first image of a remote archive of 29 GB costs, and those after it."""

import dataclasses
import io
import json
import random
import struct
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from zlib import crc32

from PIL import Image

from scripts.pipeline.console import say, table

IMAGES, BYTES = 99_417, 29_000_000_000  # of the official archive
FILE = "hyper-kvasir-unlabeled-images.zip"
DELAYS = (0, 0.05)  # seconds, of each answer
SOME, WORKERS = 100, 2
STEPS = ("opened", "first image", f"{SOME} images", "first of a second pass", "first of a second dataset")
STEPS += (f"{SOME} images by {WORKERS} workers",)

# What a user does, in a process of its own. Prints when it began, and when each of the steps was done.
USE = """
import itertools, json, multiprocessing, os, sys, time
import hyper_kvasir
from hyper_kvasir import HyperKvasir, OfficialFile

address, some, workers = sys.argv[1], *map(int, sys.argv[2:])
hyper_kvasir.OFFICIAL_FILES["unlabeled"] = OfficialFile(os.path.basename(address), (address,))

def stream():
    return HyperKvasir(config_name="unlabeled").as_streaming_dataset(split="train")

def take(rows, count):
    assert sum(row["image"].size == (64, 64) for row in itertools.islice(rows, count)) == count
    moments.append(time.time())

def work(rows):
    shards = [rows.shard(workers, i) for i in range(workers)]
    processes = [multiprocessing.Process(target=take, args=(shard, some // workers)) for shard in shards]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes)
    moments.append(time.time())

moments = [time.time()]
rows = stream()
moments.append(time.time())
first = iter(rows)
take(first, 1)
take(first, some - 1)
take(rows, 1)
take(stream(), 1)
work(rows)
print(json.dumps(moments))
sys.stdout.flush()
os._exit(0)
"""


def bench_origin(images: int = IMAGES, size: int = BYTES) -> str:
    """A table of what is asked of the server of an archive of so many images and bytes, and how long that takes."""
    archive = VirtualZip(images, size // images)
    lines = [[step] for step in STEPS]
    for delay in DELAYS:
        say(f"{1000 * delay:.0f} ms a request")
        with Origin(archive, delay) as origin:
            command = [sys.executable, "-c", USE, origin.address, str(SOME), str(WORKERS)]
            done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        moments = json.loads(done.stdout)
        for line, (start, end) in zip(lines, pairwise(moments), strict=True):
            sent = [answer.bytes for answer in origin.answers if start <= answer.time < end]
            line += [f"{end - start:.2f}", len(sent), sum(sent)]
    header = ["", *(name for delay in DELAYS for name in (f"s at {1000 * delay:.0f} ms", "requests", "bytes"))]
    return f"an archive of {archive.size:,} bytes, {images:,} images, streamed from its address\n{table(header, lines)}"


class VirtualZip:
    """The bytes of an unlabeled archive that is nowhere: images of `each` bytes, alike but for their names, stored."""

    def __init__(self, images: int, each: int):
        chance, self.image = random.Random(0), jpeg(each)
        about = struct.pack("<HHHHHLLL", 20, 0, 0, 0, 33, crc32(self.image), each, each)
        ids = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(images)]
        names = [f"unlabeled-images/images/{image_id}.jpg".encode() for image_id in ids]
        self.heads = [b"PK\x03\x04" + about + struct.pack("<HH", len(name), 0) + name for name in names]
        self.stride = len(self.heads[0]) + each
        start = images * self.stride
        directory = b"".join(directory_entry(about, name, i * self.stride) for i, name in enumerate(names))
        end = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, images, images, len(directory), start)
        end += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(directory), 1)
        end += struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        self.end = directory + end
        self.size = start + len(self.end)

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the zip."""
        first, last = start // self.stride, min(end // self.stride + 1, len(self.heads))
        data = b"".join(head + self.image for head in self.heads[first:last])
        if end > len(self.heads) * self.stride:
            data += self.end
        from_ = min(first, len(self.heads)) * self.stride
        return data[start - from_ : end - from_]


def jpeg(size):
    """A JPEG of so many bytes, filled up by comments."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG")
    data, comments = buffer.getvalue(), b""
    while (missing := size - len(data) - len(comments)) > 0:
        length = min(missing, 65_000) - 2
        comments += b"\xff\xfe" + length.to_bytes(2, "big") + bytes(length - 2)
    return data[:2] + comments + data[2:]


def directory_entry(about, name, offset):
    extra = struct.pack("<HHQ", 1, 8, offset) if offset >= 0xFFFFFFFF else b""
    place = struct.pack("<HHHHHLL", len(name), len(extra), 0, 0, 0, 0, min(offset, 0xFFFFFFFF))
    return b"PK\x01\x02" + struct.pack("<H", 45) + about + place + name + extra


@dataclasses.dataclass
class Answer:
    time: float  # when it was asked for
    method: str
    span: str | None  # the Range header
    bytes: int = 0  # of the body, sent so far


class Handler(BaseHTTPRequestHandler):
    """Answers like a server that knows Range. Tests derive from it servers that do not."""

    origin: "Origin"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.reply(200, {"Accept-Ranges": "bytes", "Content-Length": self.origin.archive.size})

    def do_GET(self):
        size, span = self.origin.archive.size, self.headers.get("Range")
        if not span:
            return self.reply(200, {"Content-Length": size}, 0, size)
        start, last = map(int, span.removeprefix("bytes=").split("-"))
        headers = {"Content-Length": last + 1 - start, "Content-Range": f"bytes {start}-{last}/{size}"}
        return self.reply(206, headers, start, last + 1)

    def reply(self, status, headers, start=0, end=0):
        """Answers with the bytes of the archive from `start` to `end`."""
        self.answer = Answer(time.time(), self.command, self.headers.get("Range"))
        self.origin.answers.append(self.answer)
        time.sleep(self.origin.delay)
        if self.path != f"/{FILE}":
            status, headers, end = 404, {"Content-Length": 0}, 0
        self.send_response(status)
        for name, value in {"Content-Type": "application/zip", "ETag": f'"{self.origin.version}"', **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            self.send(start, end)
        except OSError:  # whoever asked has heard enough
            self.close_connection = True

    def send(self, start, end):
        for at in range(start, end, 1 << 20):
            self.answer.bytes += self.wfile.write(self.origin.archive.read(at, min(at + (1 << 20), end)))

    def log_message(self, *arguments):
        pass


class Origin:
    """A web server of an archive on 127.0.0.1, as a context manager. `answers` is its log, `version` the archive's."""

    def __init__(self, archive: VirtualZip, delay: float = 0, handler: type[Handler] = Handler):
        self.archive, self.delay, self.answers, self.version = archive, delay, [], 1
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"origin": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}/{FILE}"

    def __enter__(self) -> "Origin":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.server.shutdown()
        self.server.server_close()
