"""Builds on a cluster, and at addresses: a dask scheduler with workers, and an S3, all on this machine."""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from scripts.build import main
from scripts.card import main as card
from scripts.pipeline.cluster import _as_here, environment
from scripts.pipeline.files import check_no_password
from scripts.pipeline.output import LOCK, STAGING, BuildError, _here, staged_name
from scripts.pipeline.pool import finished
from scripts.publish import main as publish
from scripts.quality import main as quality
from scripts.review import main as review
from scripts.verify import main as verify
from tests.conftest import ROOT, tree
from tests.fake_source import write_source
from tests.processes import Process

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]
FILES = 44  # data files of the miniature
COMMANDS, ADDRESS = ("dask scheduler", "dask worker"), "tcp://10.0.0.1:8786"
READ_ONLY = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": ["arn:aws:s3:::read-only/*"]}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Cluster:
    """A scheduler and workers, each a process that can be killed."""

    def __init__(self):
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        where = ["--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]
        self.scheduler = Process(dict(os.environ), ["distributed.cli.dask_scheduler", *where])
        self.workers = []
        self.add()
        self.add()

    def add(self, before=""):
        """Adds a worker, which runs some code before."""
        where = [self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
        code = f"{before}\nimport sys, runpy\nsys.argv = {['dask_worker', *where]}\n"
        code += "runpy.run_module('distributed.cli.dask_worker', run_name='__main__')"
        self.workers.append(Process(dict(os.environ), code=code))

    def wait(self, number):
        """Until it has so many workers."""
        import distributed

        with distributed.Client(self.address, timeout=60, set_as_default=False) as client:
            end = time.monotonic() + 60
            while len(client.scheduler_info(n_workers=-1)["workers"]) != number:
                assert time.monotonic() < end
                time.sleep(0.05)

    def kill(self):
        for process in (self.scheduler, *self.workers):
            process.kill()


@pytest.fixture(scope="module")
def s3():
    """The file system of an S3 of this module's own; processes that are started find it by the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system = fsspec.filesystem("s3", use_listings_cache=False)
        system.mkdir("bucket")
        yield system
    server.stop()


@pytest.fixture(scope="module")
def at_s3(s3, source):
    """The address of the miniature."""
    for file in source.iterdir():
        s3.put_file(str(file), f"bucket/source/{file.name}")
    return "s3://bucket/source"


@pytest.fixture(scope="module")
def cluster(s3):
    found = Cluster()
    found.wait(2)
    yield found
    found.kill()


def objects(s3, folder):
    """{path: bytes} of all below an address."""
    return {path.removeprefix(f"{folder}/"): s3.cat_file(path) for path in s3.find(folder)}


def command(source, out, source_folder, *more):
    return ["--source", source, "--out", out, "--expect", f"{source_folder}/expected.json", *more]


def on(cluster, source, out, source_folder):
    """A build on the cluster, as a process of its own."""
    arguments = command(source, out, source_folder, "--cluster", cluster.address)
    return Process(dict(os.environ), ["scripts.build", *arguments])


def until(process, out, number):
    """Until so many data files are made. Returns how many there are."""
    while process.poll() is None:
        found = len(list(out.rglob("*.parquet")))
        if found >= number:
            return found
        time.sleep(0.002)
    raise AssertionError(process.end())


def test_the_same_files_wherever_they_are_made(cluster, s3, at_s3, source, built, tmp_path, capsys):
    def builds(source_, out, *workers):
        assert main([str(part) for part in command(source_, out, source, *workers)]) == 0
        return capsys.readouterr().err

    there = ("--cluster", cluster.address)
    assert "next: python -m scripts.verify s3://bucket/out\n" in builds(at_s3, "s3://bucket/out", *there)
    assert objects(s3, "bucket/out") == tree(built)
    builds(at_s3, tmp_path / "out", *there)
    assert tree(tmp_path / "out") == tree(built)
    builds(at_s3, "s3://bucket/local", "--workers", "2")
    assert objects(s3, "bucket/local") == tree(built)
    small = ("--config", "segmented", "--max-side", "64")
    builds(at_s3, "s3://bucket/small", *there, *small)
    builds(source, tmp_path / "small", *small)
    assert objects(s3, "bucket/small") == tree(tmp_path / "small")

    written = {path: s3.info(path)["LastModified"] for path in s3.find("bucket/out")}
    assert f"{FILES} (0 built, {FILES} already there)" in builds(source, "s3://bucket/out", *there)
    assert {path: s3.info(path)["LastModified"] for path in s3.find("bucket/out")} == written
    lost = sorted(path for path in written if path.endswith(".parquet"))[:2]
    s3.rm_file(lost[0])
    s3.pipe_file(lost[1], b"other bytes")
    s3.pipe_file("bucket/out/README.md", b"edited by hand")
    assert f"(2 built, {FILES - 2} already there)" in builds(source, "s3://bucket/out", *there)
    assert s3.cat_file("bucket/out/README.md.edited-1") == b"edited by hand"
    s3.rm_file("bucket/out/README.md.edited-1")
    assert objects(s3, "bucket/out") == tree(built)

    expect = ["--expect", f"{source}/expected.json", "--workers", "1"]
    assert verify(["s3://bucket/out", *expect]) == 0
    said = capsys.readouterr().out
    assert "all good" in said and "not checked at an address: that load_dataset takes it" in said
    s3.pipe_file(lost[1], b"other bytes")
    assert verify(["s3://bucket/out", *expect]) == 1
    assert f"{lost[1].removeprefix('bucket/out/')}: " in capsys.readouterr().out


def test_an_extracted_folder_at_an_address(s3, built, tmp_path):
    write_source(tmp_path / "source", images="tiny", form="folder", parts=("unlabeled",))
    s3.put(f"{tmp_path}/source/", "bucket/folder/", recursive=True)
    out = str(tmp_path / "out")
    more = ["--config", "unlabeled", "--workers", "1"]
    assert main(command("s3://bucket/folder", out, f"{tmp_path}/source", *more)) == 0
    assert tree(tmp_path / "out/data/unlabeled") == tree(built / "data/unlabeled")


def test_a_killed_worker_changes_nothing(cluster, at_s3, source, built, tmp_path):
    process = on(cluster, at_s3, tmp_path / "out", source)
    made = until(process, tmp_path / "out", 3)
    cluster.workers.pop().kill()
    code, _, said = process.end()
    assert made < FILES and code == 0, said
    assert tree(tmp_path / "out") == tree(built)  # hidden files too: nothing is left of the one that was killed
    cluster.add()
    cluster.wait(2)


def test_what_a_worker_writes_after_its_build_is_removed(source, built, tmp_path):
    """Under a name that no build of other data takes."""
    out = shutil.copytree(built, tmp_path / "out")
    late = out / STAGING / staged_name("data/unlabeled/00.parquet", "0" * 64)
    late.parent.mkdir(parents=True)
    late.write_bytes(b"late")
    late.with_name(f"{late.name}.{'0' * 32}.incomplete").write_bytes(b"la")
    assert main(command(str(source), str(out), source, "--workers", "1")) == 0
    assert tree(out) == tree(built)
    for name in ("README.md", "data/labeled/mine.parquet"):
        mine = tmp_path / "mine" / STAGING / name
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        assert main(command(str(source), str(tmp_path / "mine"), source, "--workers", "1")) == 1
        assert mine.read_bytes() == b"mine"
        shutil.rmtree(tmp_path / "mine")
    late.parent.mkdir(parents=True)
    late.write_bytes(b"late")
    for path in [path for path in out.iterdir() if path.name != STAGING]:  # emptied before that
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(command(str(source), str(out), source, "--workers", "1")) == 0
    assert tree(out) == tree(built)


def test_a_lost_scheduler_and_another_one(cluster, at_s3, source, built, tmp_path):
    out = tmp_path / "out"
    process = on(cluster, at_s3, out, source)
    until(process, out, 6)
    cluster.kill()
    code, _, said = process.end()
    assert code == 1 and "the scheduler of the cluster was lost; what is done is kept" in said
    assert "Traceback" not in said
    done = len({json.loads(line)[0] for line in (out / ".building/journal").read_text().split("\n") if line})
    assert 1 <= done < FILES
    cluster.__init__()
    cluster.wait(2)
    code, _, said = on(cluster, at_s3, out, source).end()
    assert code == 0 and f"{FILES} ({FILES - done} built, {done} already there)" in said
    assert tree(out) == tree(built)


def test_what_cannot_be_used_is_refused_before_any_work(cluster, s3, at_s3, source, tmp_path, capsys, monkeypatch):
    s3.mkdir("read-only")
    s3.call_s3("put_bucket_policy", Bucket="read-only", Policy=json.dumps({"Statement": [READ_ONLY]}))
    there = ("--cluster", cluster.address)

    def refused(source_, out, *workers):
        assert main([str(part) for part in command(source_, out, source, *workers)]) == 1
        return capsys.readouterr().err

    assert "The specified bucket does not exist" in refused(at_s3, "s3://no-bucket/out")
    assert "s3://read-only/out: cannot be written to (Forbidden)" in refused(at_s3, "s3://read-only/out")
    s3.pipe_file("bucket/other/mine.txt", b"mine")
    assert "s3://bucket/other: holds 'mine.txt' and no manifest" in refused(at_s3, "s3://bucket/other")
    assert "s3://bucket/source/out: lies in the source" in refused(at_s3, f"{at_s3}/out")
    assert "s3a://bucket/source/out: lies in the source" in refused(at_s3, "s3a://bucket/source/out")
    assert "s4://bucket/out: there is no s4://; expected e.g. s3://" in refused(at_s3, "s4://bucket/out")
    assert "s3:/bucket/out: is neither a path nor an address; expected e.g. s3://" in refused(at_s3, "s3:/bucket/out")
    for wrong, text in (
        *(("s3://bucket/nothing", "no such folder"), ("s4://bucket", "there is no s4://; expected e.g. s3://")),
        ("https://me:hunter2@127.0.0.1/a", "--source https://...@127.0.0.1/a: has a password in it"),
        ("simplecache::https://me:hunter2@127.0.0.1/a", "simplecache::https://...@127.0.0.1/a: has a password in it"),
    ):
        with pytest.raises(SystemExit):
            refused(wrong, "s3://bucket/new")
        said = capsys.readouterr().err
        assert text in said and "hunter2" not in said
    said = refused(at_s3, "s3://me:hunter2@bucket//out")
    assert "s3://...@bucket//out: has a password in it" in said and "hunter2" not in said
    for address in ("github://simula:hyper-kvasir@main/a", "s3://bucket/a:b@c", "hf://datasets/ns/x@v1/a"):
        check_no_password(address)
    assert verify(["s4://bucket/out"]) == 1 and "there is no s4://" in capsys.readouterr().err

    monkeypatch.setattr("scripts.pipeline.cluster.CONNECT_SECONDS", 0.2)
    said = refused(at_s3, "s3://bucket/new", "--cluster", "tcp://127.0.0.1:9")
    assert "error: --cluster tcp://127.0.0.1:9: no scheduler answers there; start one with: dask scheduler" in said
    for address in ("nowhere", ""):
        said = refused(at_s3, "s3://bucket/new", "--cluster", address)
        assert f"error: --cluster {address!r}: is not the address of a scheduler, as tcp://10.0.0.1:8786 (" in said
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        here = environment()
        patch.setattr("scripts.pipeline.cluster.environment", lambda: here | {"pyarrow": "1.0"})
        said = refused(at_s3, "s3://bucket/new", *there)
        assert said.count(f": has pyarrow {here['pyarrow']}, this process has 1.0\n") == 2
    folder = tmp_path / "not shared"
    with monkeypatch.context() as patch:  # what a worker on another machine would see of it
        patch.setattr("scripts.pipeline.pool.absolute", lambda place: f"{place}/elsewhere")
        assert f"does not see {folder}/elsewhere" in refused(shutil.copytree(source, folder), tmp_path / "out", *there)
    cluster.add("import sys\nsys.modules['scripts.pipeline.cluster'] = None")
    cluster.wait(3)
    said = refused(at_s3, "s3://bucket/new", *there)
    assert said.count("- tcp://") == 1 and "start it in a checkout of this project, with its requirements" in said
    cluster.workers.pop().kill()
    cluster.wait(2)
    assert not s3.exists("bucket/new") and not s3.exists("read-only/out")


def test_what_is_told_of_a_cluster_that_changes():
    """A worker that comes while others work is asked, too; one job may have killed several."""
    from distributed import KilledWorker

    with pytest.raises(
        BuildError, match=f"a worker that came later has Python {environment()['Python']}, this process has 2"
    ):
        _as_here(environment() | {"Python": "2"}, abs, [1], {})
    assert _as_here(environment(), int, ["11"], {"base": 2}) == 3
    job = Future()
    job.set_exception(KilledWorker("job", None, 3))
    with ThreadPoolExecutor(1) as pool, pytest.raises(BuildError, match="died of one job.*run the same command again"):
        list(finished(pool, {job: "one"}))


@contextlib.contextmanager
def started(*commands, **variables):
    """Commands as README.md has them, ended at the end."""
    folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    with contextlib.ExitStack() as ended:
        for command in commands:
            output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command.split(), cwd=ROOT, env=env, **output)
            ended.callback(process.wait)
            ended.callback(process.terminate)
        yield


def test_the_commands_of_the_readme(source, built, tmp_path, capsys):
    text = (ROOT / "README.md").read_text()
    scheduler, worker = (re.search(rf"^    ({command}.*?)  +#", text, re.MULTILINE)[1] for command in COMMANDS)
    assert "    export PYTHONPATH=$PWD " in text
    for port, variables in ((free_port(), {}), (free_port(), {"PYTHONPATH": str(ROOT)})):
        address, local = f"tcp://127.0.0.1:{port}", "--host 127.0.0.1 --no-dashboard"
        commands = f"{scheduler} {local} --port {port}", f"{worker.replace(ADDRESS, address)} {local}"
        build = command(str(source), str(tmp_path / "out"), source, "--cluster", address)
        with started(*commands, **variables):
            end = time.monotonic() + 60
            while main(build) and variables and time.monotonic() < end:  # until the workers are there
                time.sleep(0.2)
        said = capsys.readouterr().err
        if not variables:
            assert "the scheduler cannot run this project (No module named 'scripts')" in said and "$PWD" in said
    assert tree(tmp_path / "out") == tree(built)


def test_workers_are_of_a_cluster_or_of_this_machine(source, tmp_path, capsys):
    workers = ("--cluster", "tcp://127.0.0.1:9", "--workers", str(os.cpu_count()))
    with pytest.raises(SystemExit):
        main(command(str(source), str(tmp_path / "out"), source, *workers))
    assert "argument --workers: not allowed with argument --cluster" in capsys.readouterr().err


@pytest.mark.parametrize("command", [review, publish, card])
def test_other_commands_take_no_address(command, capsys):
    version = ["--repo-id", "ns/x", "--version", "1.0.0", "--dry-run"]
    arguments = {review: ["--to", "x.html"], publish: version, card: []}
    assert command(["s3://bucket/out", *arguments[command]]) == 1
    assert "s3://bucket/out: is an address; copy the folder to this machine, and give that" in capsys.readouterr().err


def test_the_lock_at_an_address(s3, at_s3, source, built, capsys):
    lock, me = f"bucket/locked/{LOCK}", {"host": socket.gethostname(), "since": "2026-01-01 00:00:00 +0000"}
    dead = Process(dict(os.environ), code="pass")
    dead.end()
    arguments = command(at_s3, "s3://bucket/locked", source, "--config", "unlabeled", "--workers", "1")
    for holder in (
        *({**me, **_here(), "pid": os.getpid()}, {**me, **_here(), "pid": "?"}, {**me, "pid": 1, "host": "other"}),
        {**me, **_here(), "pid": dead.pid, "processes": "of another container"},
    ):
        s3.pipe_file(lock, json.dumps(holder).encode())
        assert main(arguments) == 1
        since = f"since {me['since']} by process {holder['pid']} on {holder['host']}"
        assert f"{since}; wait for it, or if none runs any more, remove s3://{lock}" in capsys.readouterr().err
    s3.pipe_file(lock, json.dumps({**me, **_here(), "pid": dead.pid}).encode())
    assert main(arguments) == 0
    assert not s3.exists(lock) and s3.exists("bucket/locked/manifest.json")


def test_a_pass_over_the_images(cluster, s3, tmp_path):
    """Looks and comparisons are made by workers, and kept at the address."""
    source = tmp_path / "source"
    write_source(source, images="tiny", findings=dict.fromkeys(["polyps", "cecum"], 3), segmented=3, unlabeled=4)
    s3.put(f"{source}/", "bucket/few/", recursive=True)
    local, expect = tmp_path / "out", ["--expect", f"{source}/expected.json"]
    assert quality(["--source", str(source), "--out", str(local), *expect, "--workers", "1"]) == 0
    there = ["--source", "s3://bucket/few", "--out", "s3://bucket/looked", *expect, "--cluster", cluster.address]
    assert quality(there) == 0
    shutil.rmtree(local / ".quality")
    found = objects(s3, "bucket/looked")
    assert {path: data for path, data in found.items() if not path.startswith(".quality/")} == tree(local)
    assert [path for path in found if path.startswith(".quality/")]
    assert quality(there) == 0
    assert objects(s3, "bucket/looked") == found
