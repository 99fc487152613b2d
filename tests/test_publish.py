"""Publication against the loopback Hub, by the unmodified clients, through LFS and through Xet."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from hyper_kvasir import CONFIGS
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN, WRITE_TOKEN
from tests.conftest import ROOT, build, tree
from tests.fake_source import write_source

REPO = "ns/hyper-kvasir"
VERSIONS = ["1.0.0", "1.0.1", "1.1.0", "1.1.1", "2.0.0", "2.0.1", "3.0.0"]


class Publisher:
    """Runs scripts.publish and readers as a user would, in processes of their own."""

    def __init__(self, hub, home, xet):
        self.hub, self.home, self.xet = hub, home, xet
        self.changelog = home / "CHANGELOG.md"
        home.mkdir(parents=True, exist_ok=True)
        self.changelog.write_text("# Changelog\n" + "".join(f"\n## {version}\n\nChanges.\n" for version in VERSIONS))
        self.said = []

    def env(self, token=WRITE_TOKEN):
        return self.hub.env(token=token, home=str(self.home), xet=self.xet)

    def start(self, folder, version, *flags, token=WRITE_TOKEN, expect=True):
        command = [sys.executable, "-m", "scripts.publish", folder, "--repo-id", REPO, "--version", version]
        command += ["--changelog", self.changelog, *flags]
        command += ["--expect", f"{folder}.expected.json"] if expect else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(c) for c in command], cwd=ROOT, env=self.env(token), **pipes)

    def run(self, *arguments, **settings):
        """(exit code, all that was said)"""
        process = self.start(*arguments, **settings)
        said = "".join(process.communicate(timeout=180))
        self.said.append(said)
        return process.returncode, said

    def ok(self, *arguments, **settings):
        code, said = self.run(*arguments, **settings)
        assert code == 0, said
        return said

    def refused(self, reason, *arguments, **settings):
        code, said = self.run(*arguments, **settings)
        assert code == 1 and "error: " in said and "Traceback" not in said, said
        assert re.search(reason, said), said

    def python(self, code, token=READ_TOKEN):
        """The JSON that `code` prints, run with this Hub as the Hub."""
        # Ended at once: after streaming, the interpreter's own end aborts now and then (apache/arrow#45214).
        code += "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.env(token), capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        self.said += [done.stdout, done.stderr]
        return json.loads(done.stdout.splitlines()[-1])

    def published(self, revision="main"):
        """({path: content id}, head, {tag: commit}, titles of the branch's commits)"""
        return self.python(f"""
import json
from huggingface_hub import HfApi
api = HfApi()
files = {{f.path: f.lfs.sha256 if f.lfs else f.blob_id
          for f in api.list_repo_tree({REPO!r}, recursive=True, repo_type="dataset", revision={revision!r})
          if hasattr(f, "blob_id")}}
refs = api.list_repo_refs({REPO!r}, repo_type="dataset")
titles = [c.title for c in api.list_repo_commits({REPO!r}, repo_type="dataset", revision={revision!r})]
print(json.dumps([files, refs.branches[0].target_commit, {{t.name: t.target_commit for t in refs.tags}}, titles]))
""")


@pytest.fixture(params=["xet", "lfs"])
def publisher(request, tmp_path):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        yield Publisher(hub, tmp_path / "home", request.param == "xet")


@pytest.fixture
def xet_publisher(tmp_path):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        yield Publisher(hub, tmp_path / "home", True)


def folder_of(tmp_path_factory, name, configs=(), **changes):
    """A built folder of a generated source; its expected numbers lie beside it as <folder>.expected.json."""
    work = tmp_path_factory.mktemp(name)
    write_source(work / "source", images="tiny", **changes)
    build(work / "source", work / "folder", *[flag for config in configs for flag in ("--config", config)])
    shutil.copy(work / "source/expected.json", work / "folder.expected.json")
    return work / "folder"


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    return folder_of(tmp_path_factory, "v1")


@pytest.fixture(scope="module")
def relabeled(tmp_path_factory):
    return folder_of(tmp_path_factory, "relabeled", relabel=2)


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    return folder_of(tmp_path_factory, "added", relabel=2, add=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return folder_of(tmp_path_factory, "small", configs=["segmented", "unlabeled"])


LOAD = """
import json, sys
from datasets import load_dataset
found = {{}}
for config in {configs!r}:
    rows = load_dataset({repo!r}, config, revision={revision!r})
    found[config] = {{split: sorted(zip(part["image_id"], part["label"] if "label" in part.features else part["width"]))
                     for split, part in rows.items()}}
    split = list(rows)[0]
    row = next(iter(load_dataset({repo!r}, config, split=split, streaming=True, revision={revision!r})))
    assert row["image"].size == (row["width"], row["height"])
print(json.dumps(found))
"""


def load(publisher, revision, configs=CONFIGS):
    return publisher.python(LOAD.format(repo=REPO, revision=revision, configs=list(configs)))


def local(folder, configs=CONFIGS):
    from datasets import load_dataset

    found = {}
    for config in configs:
        rows = load_dataset(str(folder), config)
        found[config] = {
            split: sorted(map(list, zip(p["image_id"], p["label"] if "label" in p.features else p["width"])))
            for split, p in rows.items()
        }
    return found


def test_publish_load_pin_and_update_twice(publisher, v1, relabeled, added):
    said = publisher.ok(v1, "1.0.0")
    assert "published v1.0.0" in said
    files, head, tags, titles = publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1
    assert set(files) == {".gitattributes", *(str(p) for p in tree(v1))}
    assert load(publisher, "main") == load(publisher, "v1.0.0") == local(v1)

    publisher.hub.reset()
    assert "nothing changed since v1.0.0" in publisher.ok(v1, "1.0.1")
    uploaded = publisher.hub.counters()["uploaded"]
    assert not any(uploaded.values()), uploaded

    said = publisher.ok(relabeled, "2.0.0")
    assert re.search(r"all together +\d+ +[2-9] +[0-9] ", said), said
    publisher.ok(added, "3.0.0")
    assert load(publisher, "v1.0.0") == local(v1)
    assert load(publisher, "v2.0.0") == local(relabeled)
    assert load(publisher, "v3.0.0") == load(publisher, "main") == local(added)
    _, _, _, titles = publisher.published()
    assert titles[:3] == ["HyperKvasir 3.0.0", "HyperKvasir 2.0.0", "HyperKvasir 1.0.0"]

    for said in publisher.said:
        assert WRITE_TOKEN not in said and READ_TOKEN not in said
    for path in publisher.home.parent.rglob("*"):  # every log and file of the run, the clients' caches too
        if path.is_file():
            assert WRITE_TOKEN.encode() not in path.read_bytes(), path


def test_only_files_that_changed_are_sent(publisher, v1, relabeled):
    publisher.ok(v1, "1.0.0")
    before, _, _, _ = publisher.published()
    publisher.hub.reset()
    publisher.ok(relabeled, "2.0.0")
    after, _, _, _ = publisher.published()
    changed = [path for path in after if after[path] != before.get(path)]
    assert 1 <= len([path for path in changed if path.endswith(".parquet")]) <= 4
    uploaded = publisher.hub.counters()["uploaded"]
    assert uploaded["xorbs"] + uploaded["lfs"] <= sum((relabeled / path).stat().st_size for path in changed)


def test_refusals(xet_publisher, v1, relabeled, added, tmp_path):
    p = xet_publisher
    p.refused("no token: set HF_TOKEN", v1, "1.0.0", token=None)
    p.refused("may only read; use one with write permission", v1, "1.0.0", token=READ_TOKEN)
    p.refused("does not accept the token", v1, "1.0.0", token="hf_nobody_knows_it")
    p.refused("has no entry '## 9.9.9'", v1, "9.9.9")
    p.refused("'1.0' is no version; expected X.Y.Z", v1, "1.0")
    p.refused("verification is not green:\n- labeled / train: 137, expected 10,662", v1, "1.0.0", expect=False)
    p.refused("not a built folder, or its build was cut off", tmp_path, "1.0.0", expect=False)
    assert not p.hub.counters()["uploaded"]["commits"]
    said = p.ok(relabeled, "1.1.0", "--dry-run")
    assert "dry run: nothing was sent" in said and not p.hub.counters()["uploaded"]["commits"]
    p.ok(relabeled, "1.1.0")
    p.refused(r"too small a step: 2 rows changed \(e.g. .*MAJOR; at least 2.0.0", v1, "1.1.1")
    p.refused(r"too small a step: 3 rows are new, which is MINOR; at least 1.2.0", added, "1.1.1")
    p.refused("v1.1.0 is tagged in ns/hyper-kvasir, and tags never move", v1, "1.1.0")
    p.refused("1.0.0 is older than the published 1.1.0", v1, "1.0.0")


def test_repositories_of_something_else(xet_publisher, small):
    p = xet_publisher
    p.python(
        f"""
from huggingface_hub import HfApi
api = HfApi()
api.create_repo({REPO!r}, repo_type="dataset")
api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id={REPO!r}, repo_type="dataset")
print("null")""",
        token=WRITE_TOKEN,
    )
    p.refused(r"holds something else \(notes.txt, no manifest.json\)", small, "1.0.0")
    p.python(
        f"""
from huggingface_hub import HfApi
HfApi().upload_file(path_or_fileobj=b"", path_in_repo="hyper-kvasir.py", repo_id={REPO!r}, repo_type="dataset")
print("null")""",
        token=WRITE_TOKEN,
    )
    p.refused("hyper-kvasir.py: datasets refuses to load it as a script", small, "1.0.0")


def test_a_branch_and_a_private_repository(xet_publisher, small):
    p = xet_publisher
    p.ok(small, "1.0.0", "--private", "--branch", "next")
    code = f"""
import json
from huggingface_hub import HfApi
info = HfApi().dataset_info({REPO!r}, revision="next")
print(json.dumps([info.private, "manifest.json" in [s.rfilename for s in info.siblings]]))"""
    assert p.python(code, token=WRITE_TOKEN) == [True, True]


@pytest.mark.parametrize(
    "fault", [{"action": 429, "retry_after": 1}, {"action": 409}, {"action": 503}, {"action": "cut"}]
)
def test_a_busy_hub_is_waited_for(xet_publisher, small, fault):
    fault = dict(fault)
    action = fault.pop("action")
    xet_publisher.hub.faults(action, method="POST", path="/commit/", times=2, **fault)
    said = xet_publisher.ok(small, "1.0.0")
    assert said.count("committing: ") == 2 and "trying again in" in said, said
    _, _, _, titles = xet_publisher.published()
    assert titles.count("HyperKvasir 1.0.0") == 1


def test_a_hub_that_stays_busy_is_given_up_on(xet_publisher, small):
    xet_publisher.hub.faults(500, method="POST", path="/commit/", times=0)
    code, said = xet_publisher.run(small, "1.0.0")
    assert code == 1 and said.count("trying again in") == 4 and "Traceback" not in said
    xet_publisher.hub.clear_faults()
    xet_publisher.ok(small, "1.0.0")


def test_a_commit_whose_answer_was_lost_is_found_again(xet_publisher, small):
    xet_publisher.hub.faults("cut", method="POST", path="/commit/", when="after")
    said = xet_publisher.ok(small, "1.0.0")
    _, head, tags, titles = xet_publisher.published()
    assert titles.count("HyperKvasir 1.0.0") == 1 and tags == {"v1.0.0": head}, said


def test_a_failed_read_back_is_not_tagged(xet_publisher, small):
    """Reading a file back fails for good: the version is not tagged, and a later run tags it."""
    xet_publisher.hub.faults(404, path="/resolve/.*parquet", times=0)
    xet_publisher.refused("reading back commit .* failed, so v1.0.0 is not tagged", small, "1.0.0")
    assert xet_publisher.published()[2] == {}
    xet_publisher.hub.clear_faults()
    said = xet_publisher.ok(small, "1.0.0")
    assert "an earlier try was cut off" in said
    _, head, tags, titles = xet_publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1


def test_two_publishers_at_once(publisher, small, tmp_path_factory):
    """Of two that publish the same version with other content, one wins; nothing is mixed."""
    other = folder_of(tmp_path_factory, "other", configs=["segmented", "unlabeled"], unlabeled=9)
    processes = [publisher.start(folder, "1.0.0") for folder in (small, other)]
    said = ["".join(process.communicate(timeout=180)) for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1], said
    winner, loser = (small, other) if codes[0] == 0 else (other, small)
    assert re.search("error: .*(is committed in|is tagged in)", said[codes.index(1)]), said
    files, head, tags, titles = publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1
    manifest = json.loads((winner / "manifest.json").read_text())
    assert {p: files[p] for p in manifest["files"]} == {p: e["sha256"] for p, e in manifest["files"].items()}


def test_a_killed_publication_goes_on_and_sends_nothing_twice(publisher, v1):
    held = publisher.hub.faults(method="POST", path="/commit/", delay=60)  # noqa: F841
    process = publisher.start(v1, "1.0.0")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not any(f["hits"] for f in publisher.hub.active_faults()):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    publisher.hub.clear_faults()
    sent = publisher.hub.counters()["uploaded"]
    shutil.rmtree(publisher.home / "xet", ignore_errors=True)
    publisher.ok(v1, "1.0.0")
    after = publisher.hub.counters()["uploaded"]
    assert (after["xorbs"], after["lfs"]) == (sent["xorbs"], sent["lfs"]) != (0, 0)


# --------------------------------------------------------------------------------------------------- from the archive


def test_from_the_archive_only_changed_parts_are_built(publisher, v1, relabeled, tmp_path):
    publisher.ok(v1, "1.0.0")
    source = relabeled.parent / "source"
    flags = ["--source", source, "--build-and-upload", "--expect", source / "expected.json"]
    work = tmp_path / "work"
    publisher.hub.reset()
    said = publisher.ok(work, "2.0.0", *flags, expect=False)
    assert re.search(r"all together +\d+ +[2-9] +[0-9] ", said), said
    assert not [path for path in work.rglob("*") if path.is_file()]
    reads = [line["path"] for line in publisher.hub.log() if "/resolve/" in line["path"] and ".parquet" in line["path"]]
    assert load(publisher, "v2.0.0") == local(relabeled)
    files, _, _, _ = publisher.published()
    wanted = json.loads((relabeled / "manifest.json").read_text())["files"]
    assert {path: files[path] for path in wanted} == {path: entry["sha256"] for path, entry in wanted.items()}
    assert reads  # the rows of changed files, and the first rows at read-back


def test_from_the_archive_into_a_new_repository(xet_publisher, v1, tmp_path):
    source = v1.parent / "source"
    flags = ["--source", source, "--build-and-upload", "--expect", source / "expected.json"]
    xet_publisher.ok(tmp_path / "work", "1.0.0", *flags, expect=False)
    assert load(xet_publisher, "v1.0.0") == local(v1)
    assert "nothing changed" in xet_publisher.ok(tmp_path / "work", "1.0.1", *flags, expect=False)


@pytest.mark.parametrize("mode, every, start", [("xet", 41, 3), ("lfs", 41, 5)])
def test_a_fault_at_any_request_is_survived(mode, every, start, tmp_path, capsys):
    """A sample; `python -m tests.fault_sweep` tries every fault at every request."""
    from tests.fault_sweep import sweep

    tried, survived = sweep(tmp_path, mode, every, start)
    with capsys.disabled():
        print(f"\n{mode}: faults tried: {tried}, survived: {survived}")
    assert tried == survived >= 5


# --------------------------------------------------------------------------------------- repositories in odd states


def test_one_part_from_the_archive_beside_another_that_is_published(xet_publisher, tmp_path_factory, tmp_path):
    """The archives of the other part are not at hand: its files stay, and the card is of both."""
    p, source = xet_publisher, tmp_path_factory.mktemp("parts") / "source"
    p.ok(folder_of(tmp_path_factory, "seg", configs=["segmented"]), "1.0.0")
    write_source(source, images="tiny")
    (source / "hyper-kvasir-segmented-images.zip").unlink()
    flags = ["--source", source, "--config", "unlabeled", "--expect", source / "expected.json", "--build-and-upload"]
    p.ok(tmp_path / "work", "1.1.0", *flags, expect=False)
    found = load(p, "v1.1.0", ["segmented", "unlabeled"])
    assert len(found["segmented"]["train"]) == 6 and len(found["unlabeled"]["train"]) == 12


def test_a_part_that_would_contradict_a_published_one_is_refused(xet_publisher, v1, tmp_path):
    p, source = xet_publisher, tmp_path / "source"
    p.ok(v1, "1.0.0")
    shutil.copytree(v1.parent / "source", source)
    lines = (source / "2_fold_split.csv").read_text().splitlines()
    ids = pq.read_table(v1 / "data/segmented/00.parquet", columns=["image_id"])["image_id"].to_pylist()
    rows = [i for i, line in enumerate(lines) if line.split(".")[0] in ids]
    one, other = next((i, j) for i in rows for j in range(1, len(lines)) if lines[i][-1] != lines[j][-1])
    lines[one], lines[other] = lines[one][:-1] + lines[other][-1], lines[other][:-1] + lines[one][-1]
    (source / "2_fold_split.csv").write_text("\n".join(lines) + "\n")
    flags = ["--source", source, "--config", "labeled", "--expect", source / "expected.json"]
    p.refused("has another fold_2 in data/labeled", tmp_path / "work", "2.0.0", *flags, expect=False)


def upload_file(publisher, path):
    publisher.python(
        f"""
from huggingface_hub import HfApi
api = HfApi()
api.create_repo({REPO!r}, repo_type="dataset", exist_ok=True)
api.upload_file(path_or_fileobj=b"theirs", path_in_repo={path!r}, repo_id={REPO!r}, repo_type="dataset")
print("null")""",
        token=WRITE_TOKEN,
    )


def test_a_new_branch_of_a_repository_of_something_else(xet_publisher, small):
    upload_file(xet_publisher, "train.csv")
    xet_publisher.refused("holds something else", small, "1.0.0", "--branch", "next")


def test_a_stray_file_among_the_data_is_refused_before_anything_is_sent(xet_publisher, small, v1):
    xet_publisher.ok(small, "1.0.0")
    upload_file(xet_publisher, "data/unlabeled/more.parquet")
    xet_publisher.hub.reset()
    xet_publisher.refused("more.parquet, which is not of this dataset; remove it", v1, "1.1.0")
    assert not any(xet_publisher.hub.counters()["uploaded"].values())


def test_no_hub_at_all_is_an_error_without_a_traceback(tmp_path, small):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        publisher = Publisher(hub, tmp_path / "home", True)
        hub.stop()
        code, said = publisher.run(small, "1.0.0", "--dry-run")
        assert code == 1 and "error: " in said and "Traceback" not in said, said
        hub.start()


def test_the_card_tells_its_own_version(xet_publisher, small):
    xet_publisher.ok(small, "1.1.0")
    code = f"""
import json
from huggingface_hub import hf_hub_download
read = lambda name: open(hf_hub_download({REPO!r}, name, repo_type="dataset", revision="v1.1.0")).read()
print(json.dumps([read("README.md"), json.loads(read("croissant.json"))["version"], read("CHANGELOG.md")]))"""
    card, version, changelog = xet_publisher.python(code)
    assert f'load_dataset("{REPO}"' in card and 'revision="v1.1.0"' in card and "v1.0.0" not in card
    assert version == "1.1.0" and "## 1.1.0" in changelog
