"""Streaming from a remote archive: what is asked of its server, and servers that cannot do what is needed."""

import copy
import itertools
import logging
import signal
import struct
import subprocess
import sys
import threading
import time

import datasets
import pytest

import hyper_kvasir
from hyper_kvasir import HyperKvasir, OfficialFile, SourceError
from scripts.bench.origin import FILE, Handler, Origin, VirtualZip
from scripts.loopback_hub.client import WRITE_TOKEN
from tests.conftest import ROOT

IMAGES = 700
SENT = 32 << 20  # more than is on its way to someone who hangs up, and far less than the large archive


@pytest.fixture(scope="module")
def archive():
    """Of a directory that is longer than what is read to find it."""
    return VirtualZip(IMAGES, 3000)


@pytest.fixture(scope="module")
def large():
    return VirtualZip(IMAGES, 1_000_000)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)


@pytest.fixture
def stream(monkeypatch):
    """A function that streams the unlabeled part from some addresses."""

    def of(*addresses):
        monkeypatch.setitem(hyper_kvasir.OFFICIAL_FILES, "unlabeled", OfficialFile(FILE, addresses))
        return HyperKvasir(config_name="unlabeled").as_streaming_dataset(split="train").decode(False)

    return of


def asked(origin):
    """(method, first byte or None, bytes) of each answer since the last call."""
    found = [(a.method, int(a.span[6:].split("-")[0]) if a.span else None, a.bytes) for a in origin.answers]
    origin.answers.clear()
    return found


def test_the_directory_is_read_once(archive, stream):
    with Origin(archive) as origin:
        rows = stream(origin.address)
        head, *reads = asked(origin)
        (end, _), (directory, _) = spans = [(start, sent) for method, start, sent in reads if method == "GET"]
        assert head[0] == "HEAD" and sum(sent for _, sent in spans) == len(archive.end) == archive.size - directory
        assert directory < end
        for again in (rows, rows, stream(origin.address)):
            next(iter(again))
            assert all(start is None or start < directory for _, start, _ in asked(origin))
        origin.version = 2
        stream(origin.address)
        assert directory in [start for _, start, _ in asked(origin)]


def test_an_image_is_one_request_and_the_first_waits_for_no_other(archive, stream):
    with Origin(archive) as origin:
        rows = stream(origin.address)
        asked(origin)
        images = iter(rows)
        assert next(images)["image"]["bytes"] == archive.image and len(asked(origin)) == 1
        others = list(images)
        assert {row["image"]["bytes"] for row in others} == {archive.image}
        assert len({row["image_id"] for row in others}) == len(asked(origin)) == IMAGES - 1


class Waits(Handler):
    """Answers a GET when another one comes, or after a while."""

    def do_GET(self):
        with self.origin.another:
            self.origin.open += 1
            self.origin.most = max(self.origin.most, self.origin.open)
            self.origin.another.notify_all()
            self.origin.another.wait(0.01)
            self.origin.open -= 1
        super().do_GET()


def test_images_after_the_first_are_asked_for_at_once(archive, stream):
    with Origin(archive, handler=Waits) as origin:
        origin.another, origin.open, origin.most = threading.Condition(), 0, 0
        rows = iter(stream(origin.address))
        next(rows)
        assert origin.most == 1
        assert len(list(itertools.islice(rows, 32))) == 32 and 1 < origin.most <= 8


class Ignores(Handler):
    """Says that it knows Range, and gives all."""

    def do_GET(self):
        self.reply(200, {"Content-Length": self.origin.archive.size}, 0, self.origin.archive.size)


class KnowsNoRange(Ignores):
    def do_HEAD(self):
        self.reply(200, {"Accept-Ranges": "none", "Content-Length": self.origin.archive.size})


class Unsized(Handler):
    def do_HEAD(self):
        self.reply(200, {})

    def do_GET(self):
        self.close_connection = True
        self.reply(200, {"Connection": "close"}, 0, self.origin.archive.size)


class NotSatisfiable(Handler):
    def do_GET(self):
        self.reply(416, {"Content-Length": 0})


@pytest.mark.parametrize(
    "handler, said",
    [
        (Ignores, "answers with the whole file"),
        (KnowsNoRange, "answers with the whole file"),
        (Unsized, "does not tell the size of the file"),
        (NotSatisfiable, "gives 0 of the 65,536 bytes"),
    ],
)
def test_a_server_that_cannot_stream_is_left_for_another(handler, said, archive, large, stream):
    """And is not read: an archive of 29 GB must not be downloaded unasked."""
    advice = "expected one that answers HTTP Range requests, .* download the file, and give its folder as data_dir"
    with Origin(large, handler=handler) as unfit, Origin(archive) as fit:
        with pytest.raises(SourceError, match=f"{unfit.address}: the server {said}.*; {advice}"):
            stream(unfit.address)
        assert next(iter(stream(unfit.address, fit.address)))["image"]["bytes"] == archive.image
        assert sum(sent for *_, sent in asked(unfit)) < SENT


def test_a_directory_that_cannot_be_is_not_read(large, stream):
    """Here one that claims to be nearly all of the archive."""
    damaged, place = copy.copy(large), len(large.heads) * large.stride
    length = large.end.index(b"PK\6\6")
    claims = [struct.pack("<QQ", *claim) for claim in ((length, place), (place + length, 0))]
    damaged.end = large.end.replace(*claims)
    with Origin(damaged) as origin:
        with pytest.raises(SourceError, match="truncated or damaged zip .a directory of .* bytes, more than any file"):
            stream(origin.address)
        assert damaged.end != large.end and sum(sent for *_, sent in asked(origin)) < SENT


class Page:
    """In place of an archive."""

    size = 6

    def read(self, start, end):
        return b"<html>"[start:end]


def test_a_page_is_no_archive(archive, stream):
    with Origin(Page()) as page, Origin(archive) as origin:
        with pytest.raises(SourceError, match=f"{page.address}: is an HTML page instead of a zip file"):
            stream(page.address)
        assert next(iter(stream(page.address, origin.address)))["image"]["bytes"] == archive.image


class Forgets(Handler):
    """Ignores Range from some time on, as another server behind the same address may."""

    def do_GET(self):
        if getattr(self.origin, "forgets", False):
            return self.reply(200, {"Content-Length": self.origin.archive.size}, 0, self.origin.archive.size)
        return super().do_GET()


def test_a_server_that_stops_streaming_is_not_read(large, stream):
    with Origin(large, handler=Forgets) as origin:
        rows = iter(stream(origin.address))
        next(rows)
        asked(origin)
        origin.forgets = True
        with pytest.raises(OSError, match=f"^{origin.address}: the server answers with the whole file"):
            list(rows)
        assert sum(sent for *_, sent in asked(origin)) < 8 * SENT < large.size / 2


class Cuts(Handler):
    """Ends every other answer in its middle, and the connection with it."""

    def send(self, start, end):
        if sum(answer.span == self.answer.span for answer in self.origin.answers) % 2 and end:
            self.close_connection = True
            end = (start + end) // 2
        super().send(start, end)


def test_a_connection_that_was_cut_is_tried_again(archive, stream, impatient, caplog):
    with Origin(archive, handler=Cuts) as origin, caplog.at_level(logging.WARNING):
        rows = list(itertools.islice(stream(origin.address), 40))
        assert {row["image"]["bytes"] for row in rows} == {archive.image}
    assert "trying again in 0 s (1 of 2)" in caplog.text


class Breaks(Handler):
    def do_GET(self):
        self.reply(self.origin.broken, {"Content-Length": 0})


@pytest.mark.parametrize("status, times", [(503, 3), (429, 3), (403, 1)])
def test_a_server_that_stays_broken_is_named(status, times, archive, stream, impatient):
    """What may pass is tried as often as datasets does."""
    with Origin(archive, handler=Breaks) as origin:
        origin.broken = status
        with pytest.raises(SourceError, match=f"{origin.address}: .*{status}"):
            stream(origin.address)
        assert sum(method == "GET" for method, *_ in asked(origin)) == times


class Busy(Handler):
    """Answers its first two requests by 503: a HEAD that fails is followed by a GET."""

    def busy(self, answer):
        return answer() if len(self.origin.answers) > 1 else self.reply(503, {"Content-Length": 0})

    def do_HEAD(self):
        self.busy(super().do_HEAD)

    def do_GET(self):
        self.busy(super().do_GET)


class Forbids(Handler):
    def do_HEAD(self):
        self.reply(403, {"Content-Length": 0})

    do_GET = do_HEAD


def test_a_server_that_is_busy_at_first_is_asked_again(archive, stream, impatient):
    with Origin(archive, handler=Busy) as origin:
        assert next(iter(stream(origin.address)))["image"]["bytes"] == archive.image


def test_a_source_that_may_not_be_read_is_not_called_missing(archive, impatient):
    with Origin(archive, handler=Forbids) as origin, pytest.raises(OSError, match=f"{origin.address}: .*403"):
        HyperKvasir(config_name="unlabeled", data_dir=origin.address)
    with pytest.raises(OSError, match="127.0.0.1:9/x.zip/?.*: ClientConnectorError"):
        HyperKvasir(config_name="unlabeled", data_dir="http://127.0.0.1:9/x.zip")


INTERRUPTED = """
import sys, hyper_kvasir
from hyper_kvasir import HyperKvasir, OfficialFile
hyper_kvasir.OFFICIAL_FILES["unlabeled"] = OfficialFile("x.zip", (sys.argv[1],))
rows = HyperKvasir(config_name="unlabeled").as_streaming_dataset(split="train").decode(False)
for row in rows:
    print(row["image_id"], flush=True)
"""


class FailsLater(Handler):
    """Gives one image, and no more."""

    def do_GET(self):
        if self.origin.given > 2 and self.headers.get("Range"):
            return self.reply(503, {"Content-Length": 0})
        self.origin.given += 1
        return super().do_GET()


def test_ctrl_c_does_not_wait_for_what_is_tried_again(archive):
    with Origin(archive, handler=FailsLater) as origin:
        origin.given = 0
        command = [sys.executable, "-c", INTERRUPTED, origin.address]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout.readline()
        while sum(answer.bytes == 0 for answer in list(origin.answers) if answer.method == "GET") < 8:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=4)  # datasets waits for 5 s before it tries again
        finally:
            process.kill()
            process.stdout.close()


@pytest.mark.parametrize("place", ["zip", "folder/"])
def test_a_source_may_be_an_address(place, archive, tmp_path):
    with Origin(archive) as origin:
        data_dir = origin.address if place == "zip" else origin.address.removesuffix(FILE)
        settings = {"config_name": "unlabeled", "data_dir": data_dir, "cache_dir": str(tmp_path)}
        made = HyperKvasir(**settings)
        assert next(iter(made.as_streaming_dataset(split="train")))["image"].size == (64, 64)
        made.download_and_prepare(verification_mode="no_checks")
        assert len(made.as_dataset(split="train")) == IMAGES
        origin.version = 2
        assert HyperKvasir(**settings).cache_dir != made.cache_dir


MIRRORED = """
import json
from hyper_kvasir import HyperKvasir
from huggingface_hub import HfApi

api, repository = HfApi(), {"repo_id": "SimulaMet-HOST/HyperKvasir", "repo_type": "dataset"}
api.create_repo(**repository)
api.upload_file(path_or_fileobj=ARCHIVE, path_in_repo="hyper-kvasir-unlabeled-images.zip", **repository)
rows = HyperKvasir(config_name="unlabeled").as_streaming_dataset(split="train")
print(json.dumps(sorted(row["image_id"] for row in rows)))
"""


def test_the_mirror_is_streamed_by_range(source, tmp_path):
    """By its official address, hf://, from a Hub."""
    from scripts.loopback_hub import LoopbackHub
    from tests.publisher import Publisher

    tokens = {"owner": (WRITE_TOKEN, "write", "SimulaMet-HOST")}
    with LoopbackHub(str(tmp_path / "hub"), tokens=tokens) as hub:
        code = MIRRORED.replace("ARCHIVE", repr(str(source / FILE)))
        ids = Publisher(hub, tmp_path / "home", True).python(code, token=WRITE_TOKEN)
        reads = [entry for entry in hub.log() if entry["method"] == "GET" and entry["path"].endswith(FILE)]
    assert len(set(ids)) == 12 and [entry["status"] for entry in reads] == [206] * 13  # a short directory is an end
