"""scripts.bench runs. What it measures is for scripts/README.md, and not for a test."""

import json
import os
import re
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from scripts import bench_quality
from scripts.bench import __main__ as bench
from scripts.bench import build as bench_build
from scripts.bench import growth, origin, small, sources, streams, unchanged, updates
from scripts.loopback_hub import LoopbackHub
from scripts.pipeline import measure
from scripts.pipeline.card import BUFFER
from tests.conftest import ROOT, sha256_of
from tests.fake_source import write_source
from tests.processes import Process

PUSH = """
import sys
from datasets import load_dataset
load_dataset("imagefolder", data_dir=sys.argv[1], split="train").push_to_hub("ns/pushed")
"""


@pytest.fixture
def forked(monkeypatch):
    """Python commands that are measured are forked, as `tests.processes` does: they need not import it all again."""

    def run(command):
        if command[0] != sys.executable:
            return measure.run(command)
        flag, what, *rest = command[1:]
        code = f"import sys\nsys.argv = {['-c', *map(str, rest)]!r}\n{what}" if flag == "-c" else None
        status, _, said = Process(dict(os.environ), None if code else [what, *rest], code=code).end()
        assert status == 0, said
        return measure.Run(0.2, 0.1 if "Parquet files:" in said else None, 0.2, 10**8)

    def child(function, *arguments, env):
        code = f"import json, os, sys\nfrom scripts.bench.streams import {function}\nprint(json.dumps({function}"
        code += f"(*json.loads({json.dumps(arguments)!r}))))\nsys.stdout.flush(); os._exit(0)"
        status, printed, said = Process(env, code=code).end()
        assert status == 0, said
        return json.loads(printed.splitlines()[-1])

    for module in (bench_build, growth, small, sources, unchanged, updates):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(streams, "child", child)


@pytest.mark.slow
def test_the_tables_of_a_build_come_out(source, tmp_path, capsys, monkeypatch, forked):
    monkeypatch.setattr(bench_build, "RIVALS", {"generator": "GeneratorBasedBuilder"})
    archive = source / "hyper-kvasir-labeled-images.zip"
    assert bench.main(["build", "--archive", str(archive), "--runs", "1", "--work", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("GeneratorBasedBuilder") == said.count("unzip -q") == 2
    assert [path.name for path in tmp_path.iterdir()] == [".hyper-kvasir-bench"]


@pytest.mark.slow
def test_the_rival_writes_what_push_to_hub_uploads(source, tmp_path):
    out, archive = tmp_path / "out", source / "hyper-kvasir-labeled-images.zip"
    subprocess.run([sys.executable, "-m", "scripts.bench.rivals", "imagefolder", archive, out], cwd=ROOT, check=True)
    with LoopbackHub(tmp_path / "hub") as hub:
        subprocess.run([sys.executable, "-c", PUSH, out / "extracted"], env=hub.env(), check=True)
        uploaded = HfApi(endpoint=hub.endpoint).list_repo_tree("ns/pushed", "data", repo_type="dataset")
        digests = [file.lfs.sha256 for file in uploaded]
    assert digests and digests == [sha256_of(path) for path in sorted(out.glob("*.parquet"))]


@pytest.mark.slow
def test_the_table_of_unchanged_builds_comes_out(tmp_path, forked):
    said = unchanged.bench_unchanged(str(tmp_path / "unchanged"), unlabeled=3)
    assert re.search(r"^again, nothing changed .* 0 +0 +0$", said, re.MULTILINE)
    built, inside, read = map(int, re.search(r"^again, 10 labels changed .* (\d+) +(\d+) +(\d+)$", said, re.M).groups())
    assert 0 < built <= inside == read


@pytest.mark.slow
def test_the_tables_of_growth_come_out(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(growth, "RUNS", 1)
    said = growth.bench_growth(str(tmp_path / "growth"), images=[3], files=[2])
    assert re.search(r"^ +3 +[\d.]+ +\d+ +[\d.]+ +\d+ +[\d.]+$", said, re.MULTILINE)
    assert int(re.search(r"^ +2 +[\d.]+ +(\d+)$", said, re.MULTILINE)[1]) > 0


@pytest.mark.slow
def test_the_table_of_updates_comes_out(source, tmp_path, capsys, monkeypatch):
    """Version 1 and one update are really sent to the Hub, which is what takes long."""
    hub_bytes, sent = updates.hub_bytes, []

    def some_are_sent(*arguments):
        sent.append(hub_bytes(*arguments) if len(sent) < 2 else 1)
        return sent[-1]

    monkeypatch.setattr(updates, "hub_bytes", some_are_sent)
    archive = source / "hyper-kvasir-labeled-images.zip"
    assert bench.main(["updates", "--archive", str(archive), "--work", str(tmp_path)]) == 0
    assert "a column added" in capsys.readouterr().out and sent[0] > sent[1] > 1


@pytest.mark.slow
def test_the_tables_of_streams_come_out(source, real, tmp_path, capsys, monkeypatch, forked):
    """The first is of all official labels: it holds what the card says of files as they are built."""
    settings = {"LIMITS": {"as built": None}, "BUFFERS": (BUFFER,), "SEEDS": 3, "ROUNDS": 1, "DELAY": 0, "IMAGES": 9}
    for name, value in settings.items():
        monkeypatch.setattr(streams, name, value)
    archive = ["--archive", str(source / "hyper-kvasir-labeled-images.zip")]
    assert bench.main(["streams", *archive, "--official", str(real), "--work", str(tmp_path)]) == 0
    by_plan, from_a_hub = capsys.readouterr().out.split("137 photographs")
    ours, pushed = (re.findall(rf"^{name} .*", by_plan, re.MULTILINE)[0] for name in ("as built", streams.PUSHED))
    unshuffled, mixed, read = (float(share) for share in re.findall(r"([\d.]+)%", ours))
    assert unshuffled < 50 and mixed >= 97 and read <= 25 and float(re.findall(r"([\d.]+)%", pushed)[-1]) < 90
    assert "as built" in from_a_hub


@pytest.mark.slow
def test_the_tables_of_the_small_edition_come_out(source, tmp_path, capsys, monkeypatch, forked):
    """The last is of a folder as that of the real images: the header tells nothing in the small edition."""
    labeled = source / "hyper-kvasir-labeled-images.zip"
    (tmp_path / "official/labeled-sample").mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, tmp_path / "official" / ("labeled-sample" if path == labeled else "") / path.name)
    monkeypatch.setattr(streams, "DELAY", 0)
    monkeypatch.setattr(small, "STREAMED", 2)
    flags = ["--official", str(tmp_path / "official"), "--runs", "1", "--work", str(tmp_path / "work")]
    assert bench.main(["small", "--archive", str(labeled), *flags]) == 0
    said = capsys.readouterr().out
    scaled = re.findall(r"^small +([\d.]+) +([\d.]+) +([\d.]+)", said, re.MULTILINE)[-1]
    assert scaled[2] == "0.50" and "of decoding" in said and "first example" in said


@pytest.mark.slow
def test_the_table_of_the_origin_comes_out(monkeypatch):
    """Of each step the requests, of which an image takes one, and a second dataset two to see that nothing changed."""
    monkeypatch.setattr(origin, "DELAYS", (0,))
    said = origin.bench_origin(images=700, size=140_000_000)
    requests = [int(count) for count in re.findall(r"^[\w ]+  [\d.]+ +(\d+) ", said, re.MULTILINE)]
    assert requests[:2] == [4, 1] and requests[3:5] == [1, 3] and min(requests[2], requests[5]) >= 99


CLUSTER = """
from scripts.bench import cluster
from scripts.build import main
from scripts.pipeline.measure import Run

def run(command):  # here, as loading all again for each takes longer than that
    assert main(command[3:]) == 0
    return Run(0.2, 0.1, 0.2, 10**8)

cluster.TASKS, cluster.run = 10, run
print(cluster.bench_cluster(*given))
"""


@pytest.mark.slow
def test_the_table_of_a_cluster_comes_out(tmp_path):
    """In a process of its own, as it sets the environment that an S3 is found by. That S3 is slow: of a few files."""
    write_source(tmp_path / "source", images="tiny", findings={"polyps": 4, "z-line": 2}, segmented=1)
    given = str(tmp_path / "cluster"), str(tmp_path / "source/hyper-kvasir-labeled-images.zip")
    code = f"given = {given!r}\n{CLUSTER}"
    status, table, said = Process(dict(os.environ), code=code).end()
    assert status == 0, said
    lines = re.findall(r"^(?:local|cluster).* (yes|NO) +(\d+) +(\d+) +(\d+) +(\d+)$", table, re.MULTILINE)
    assert [same for same, *_ in lines] == ["yes"] * 5
    local, by_cluster, *_, again = ([*map(int, counts)] for _, *counts in lines[1:])
    assert not any(local) and by_cluster[0] > 0 and by_cluster[2] > again[2] > 0


@pytest.mark.slow
def test_a_commit_is_measured(tmp_path, forked):
    said = updates.bench_commit(str(tmp_path / "commit"), operations=70)
    assert re.fullmatch(r"one commit of 70 files: a request of [\d,]{4,} bytes, answered in [\d.]+ s", said)


@pytest.mark.slow
def test_the_table_of_a_pass_comes_out(tmp_path, capsys):
    assert bench_quality.main(["pass", "--images", "24", "--work", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "24 images, 0.41 megapixels each" in said and "copies planted: 1; found as the same frame: 1" in said
