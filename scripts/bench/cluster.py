"""A cluster, and an S3, against the local pool: on this machine, where a network takes no time. What both cost more."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter

import fsspec

from scripts.bench.sources import expectations
from scripts.pipeline.console import say, table
from scripts.pipeline.files import below, file_sha256
from scripts.pipeline.measure import run
from scripts.pipeline.pool import finished, worker_pool

WORKERS = 2
TASKS = 2000  # of nothing, by which a task is measured


def bench_cluster(work: str, archive: str) -> str:
    """Builds of the labeled part by two local processes and by two workers of a cluster, onto the disk and into an S3.

    All from the same archive on the disk, once each, by the commands: this S3 reads an object whole for each range of
    it. Requests are those that it has answered.
    """
    source = os.path.dirname(archive)
    flags = ["--config", "labeled", *expectations(source)]
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    with _servers(work) as (address, requests):
        fsspec.filesystem("s3").mkdir("bench")
        here, there = ["--workers", str(WORKERS)], ["--cluster", address]
        ways = {
            "local processes": (os.path.join(work, "out"), here),
            "cluster": (os.path.join(work, "by-cluster"), there),
            "local processes, to S3": ("s3://bench/out", here),
            "cluster, to S3": ("s3://bench/by-cluster", there),
            "cluster, to S3 again, nothing changed": ("s3://bench/by-cluster", there),
        }
        lines, wanted = [], None
        for name, (out, workers) in ways.items():
            before = requests()
            command = [sys.executable, "-m", "scripts.build", "--source", source, "--out", out, *flags, *workers]
            seconds = run(command).seconds
            asked = requests() - before
            say(f"{name}: {seconds:.2f} s; {dict(asked)}")
            made = {path: file_sha256(os.path.join(out, path)) for path in below(out)}
            wanted = wanted or made
            counts = [asked[method] for method in ("GET", "HEAD", "PUT", "POST")]
            lines.append((name, f"{seconds:.2f}", "yes" if made == wanted else "NO", *counts))
        task = _seconds_of_a_task(address)
    files = [path for path in wanted if path.endswith(".parquet")]
    header = ("build", "seconds", "the same files", "GET", "HEAD", "PUT", "POST")
    size = f"{os.path.getsize(archive) / 1e9:.2f} GB into {len(files)} files"
    task = f"a task of nothing: {1000 * task:.2f} ms"
    return f"{size}, {WORKERS} workers, {os.cpu_count()} cores\n{table(header, lines)}\n{task}"


def _seconds_of_a_task(address):
    """What the scheduler, and the connections to it, take of a task."""
    with worker_pool(address) as pool:
        started = time.monotonic()
        jobs = {pool.submit(abs, -i): i for i in range(TASKS)}
        assert len(list(finished(pool, jobs))) == TASKS
        return (time.monotonic() - started) / TASKS


@contextlib.contextmanager
def _servers(work):
    """(the address of a scheduler with workers, what counts the requests that an S3 has answered), all on 127.0.0.1."""
    scheduler, s3 = _free_port(), _free_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{s3}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "bench"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    address, log = f"tcp://127.0.0.1:{scheduler}", os.path.join(work, "s3.log")
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    commands = [["moto.server", "-H", "127.0.0.1", "-p", str(s3)]]
    commands += [["distributed.cli.dask_scheduler", *where, "--port", str(scheduler), "--no-show"]]
    commands += [["distributed.cli.dask_worker", address, *where, "--nthreads", "1", "--no-nanny"]] * WORKERS
    with contextlib.ExitStack() as ended, open(log, "w") as into:
        for command in commands:
            output = into if command[0] == "moto.server" else subprocess.DEVNULL
            process = subprocess.Popen([sys.executable, "-m", *command], stdout=output, stderr=output)
            ended.callback(process.wait)
            ended.callback(process.kill)
        end = time.monotonic() + 60
        while not _answers(s3) or not _answers(scheduler):
            if time.monotonic() > end:
                raise RuntimeError("the servers do not answer")
            time.sleep(0.1)
        yield address, lambda: _requests(log)


def _requests(log):
    """{method: requests} out of the log of the S3."""
    with open(log) as file:
        return Counter(re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+) /', file.read()))


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
