"""Publication against the loopback Hub, by the unmodified clients, through LFS and through Xet."""

import copy
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import httpx2
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hyper_kvasir import CONFIGS, Expected
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN, TOKENS, WRITE_TOKEN
from scripts.pipeline import build as build_module
from scripts.pipeline import hub as hub_module
from scripts.pipeline import release as release_module
from scripts.pipeline.hub import PublishError, Remote, RemoteFile, Target
from scripts.pipeline.release import Edition, FolderMaker, SourceMaker, Sources
from scripts.publish import main, parse
from tests.conftest import ROOT, build, tree
from tests.fake_source import write_source

REPO = "ns/hyper-kvasir"
STRANGER_TOKEN = "hf_loopback_stranger"  # may write, but not to repositories of "ns"
VERSIONS = ["1.0.0", "1.0.1", "1.1.0", "1.1.1", "2.0.0", "2.0.1", "3.0.0"]


class Publisher:
    """Runs scripts.publish and readers as a user would, in processes of their own."""

    def __init__(self, hub, home, xet):
        self.hub, self.home, self.xet = hub, home, xet
        self.changelog = home / "CHANGELOG.md"
        home.mkdir(parents=True, exist_ok=True)
        self.changelog.write_text("# Changelog\n" + "".join(f"\n## {version}\n\nChanges.\n" for version in VERSIONS))
        self.said, self.settings = [], {}  # more environment variables

    def env(self, token=WRITE_TOKEN):
        return self.hub.env(token=token, home=str(self.home), xet=self.xet) | self.settings

    def start(self, folder, version, *flags, token=WRITE_TOKEN, expect=True):
        command = [sys.executable, "-m", "scripts.publish", folder, "--repo-id", REPO, "--version", version]
        command += ["--changelog", self.changelog, *flags]
        command += ["--expect", f"{folder}.expected.json"] if expect else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(c) for c in command], cwd=ROOT, env=self.env(token), **pipes)

    def run(self, *arguments, **settings):
        """(exit code, all that was said)"""
        return self.end(self.start(*arguments, **settings))

    def end(self, process):
        """(exit code, all that was said) of a process that was started"""
        said = "".join(process.communicate(timeout=180))
        self.said.append(said)
        return process.returncode, said

    def start_and_kill(self, *arguments, **settings):
        """Kills the publisher, without a warning, while its commit is held up."""
        self.hub.faults(method="POST", path="/commit/", delay=60)
        process = self.start(*arguments, **settings)
        while process.poll() is None and not any(fault["hits"] for fault in self.hub.active_faults()):
            time.sleep(0.1)
        assert process.poll() is None, self.end(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.hub.clear_faults()

    def ok(self, *arguments, **settings):
        code, said = self.run(*arguments, **settings)
        assert code == 0, said
        return said

    def refused(self, reason, *arguments, **settings):
        code, said = self.run(*arguments, **settings)
        assert code == 1 and "error: " in said and "Traceback" not in said, said
        assert re.search(reason, said), said

    @property
    def api(self):
        """Of the owner, in this process: to look at a repository, and to do by hand what the publisher does not."""
        return HfApi(endpoint=self.hub.endpoint, token=WRITE_TOKEN)

    def read(self, path, revision="main"):
        """The content of a published file."""
        place = f"{self.hub.endpoint}/datasets/{REPO}/resolve/{revision}/{path}"
        return httpx2.get(place, headers={"Authorization": f"Bearer {READ_TOKEN}"}).content

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
        tree = self.api.list_repo_tree(REPO, recursive=True, repo_type="dataset", revision=revision)
        files = {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in tree if hasattr(f, "blob_id")}
        refs = self.api.list_repo_refs(REPO, repo_type="dataset")
        titles = [c.title for c in self.api.list_repo_commits(REPO, repo_type="dataset", revision=revision)]
        head = next(ref.target_commit for ref in refs.branches if ref.name == "main")
        return files, head, {tag.name: tag.target_commit for tag in refs.tags}, titles


@pytest.fixture(params=["xet", "lfs"])
def publisher(request, tmp_path):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        yield Publisher(hub, tmp_path / "home", request.param == "xet")


@pytest.fixture
def xet_publisher(tmp_path):
    tokens = TOKENS | {"stranger": (STRANGER_TOKEN, "write")}
    with LoopbackHub(str(tmp_path / "hub"), tokens=tokens) as hub:
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


def upload_file(publisher, path, content=b"theirs"):
    publisher.api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    publisher.api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPO, repo_type="dataset")


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


def test_only_files_that_changed_are_sent(xet_publisher, v1, relabeled):
    xet_publisher.ok(v1, "1.0.0")
    before, _, _, _ = xet_publisher.published()
    xet_publisher.hub.reset()
    xet_publisher.ok(relabeled, "2.0.0")
    after, _, _, _ = xet_publisher.published()
    changed = [path for path in after if after[path] != before.get(path)]
    assert 1 <= len([path for path in changed if path.endswith(".parquet")]) <= 4
    uploaded = xet_publisher.hub.counters()["uploaded"]
    assert uploaded["xorbs"] + uploaded["lfs"] <= sum((relabeled / path).stat().st_size for path in changed)


def test_refusals(xet_publisher, v1, relabeled, added, tmp_path):
    p = xet_publisher
    p.refused("no token: set HF_TOKEN", v1, "1.0.0", token=None)
    p.refused("may only read; use one with write permission", v1, "1.0.0", token=READ_TOKEN)
    p.refused("does not accept the token", v1, "1.0.0", token="hf_nobody_knows_it")
    p.refused("stranger is not a member of ns", v1, "1.0.0", token=STRANGER_TOKEN)
    p.refused("home/CHANGELOG.md has no entry '## 9.9.9'", v1, "9.9.9")
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
    p.refused("the token may not write there .*403", added, "2.0.0", token=STRANGER_TOKEN)
    p.refused("ns/hyper-kvasir is public; leave --private out", added, "2.0.0", "--private")


def test_repositories_of_something_else(xet_publisher, small):
    p = xet_publisher
    upload_file(p, "notes.txt")
    p.refused(r"holds something else \(notes.txt, no manifest.json\)", small, "1.0.0")
    p.refused("holds something else", small, "1.0.0", "--branch", "next")
    upload_file(p, "hyper-kvasir.py")
    p.refused("hyper-kvasir.py: datasets refuses to load it as a script", small, "1.0.0")
    with pytest.raises(PublishError, match="a name ending in .py"):
        hub_module.check_repo("ns/hyper.py", Remote(None))


def test_a_branch_and_a_private_repository(xet_publisher, small):
    p = xet_publisher
    p.ok(small, "1.0.0", "--private", "--branch", "next")
    info = p.api.dataset_info(REPO, revision="next")
    assert info.private and "manifest.json" in [file.rfilename for file in info.siblings]
    assert set(p.published()[0]) == {".gitattributes"}


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
    xet_publisher.hub.faults(400, path="validate-yaml")
    xet_publisher.refused("the Hub does not take the card: .*Injected fault 400", small, "1.0.0")
    assert not xet_publisher.api.repo_exists(REPO, repo_type="dataset")
    xet_publisher.hub.faults(404, path="/resolve/.*parquet", times=0)
    xet_publisher.refused("reading back commit .* failed, so v1.0.0 is not tagged", small, "1.0.0")
    assert xet_publisher.published()[2] == {}
    xet_publisher.hub.clear_faults()
    whole = xet_publisher.published()[1]
    upload_file(xet_publisher, "README.md")
    xet_publisher.refused("1.0.0 is committed in ns/hyper-kvasir with other content .*by hand", small, "1.0.0")
    upload_file(xet_publisher, "README.md", xet_publisher.read("README.md", whole))
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
    publisher.start_and_kill(v1, "1.0.0")
    sent = publisher.hub.counters()["uploaded"]
    shutil.rmtree(publisher.home / "xet", ignore_errors=True)
    publisher.ok(v1, "1.0.0")
    after = publisher.hub.counters()["uploaded"]
    assert (after["xorbs"], after["lfs"]) == (sent["xorbs"], sent["lfs"]) != (0, 0)


# --------------------------------------------------------------------------------------------------- from the archive


def test_from_the_archive_only_changed_parts_are_built(xet_publisher, v1, relabeled, tmp_path):
    xet_publisher.ok(v1, "1.0.0")
    source = relabeled.parent / "source"
    before = xet_publisher.published()[0]
    flags = ["--source", source, "--build-and-upload", "--expect", source / "expected.json"]
    work = tmp_path / "work"
    xet_publisher.refused("v1.0.0 is tagged", work, "1.0.0", *flags, "--branch", "next", expect=False)
    xet_publisher.refused("too small a step: 2 rows changed", work, "1.0.1", *flags, expect=False)
    assert "building" not in "".join(xet_publisher.said) and not work.exists()
    assert [ref.name for ref in xet_publisher.api.list_repo_refs(REPO, repo_type="dataset").branches] == ["main"]
    xet_publisher.hub.reset()
    said = xet_publisher.ok(work, "2.0.0", *flags, expect=False)
    assert re.search(r"all together +\d+ +[2-9] +[0-9] ", said), said
    assert list(work.iterdir()) == []
    sent = xet_publisher.hub.counters()["uploaded"]
    assert load(xet_publisher, "v2.0.0") == local(relabeled)
    files, _, _, _ = xet_publisher.published()
    wanted = json.loads((relabeled / "manifest.json").read_text())["files"]
    assert {path: files[path] for path in wanted} == {path: entry["sha256"] for path, entry in wanted.items()}
    changed = [path for path, entry in wanted.items() if before.get(path) != entry["sha256"]]
    figures = sum(len(data) for path, data in tree(relabeled).items() if path.endswith(".png"))
    assert 0 < sent["xorbs"] + sent["lfs"] <= sum(wanted[path]["bytes"] for path in changed) + figures


def test_from_the_archive_into_a_new_repository(xet_publisher, v1, tmp_path):
    source = v1.parent / "source"
    flags = ["--source", source, "--build-and-upload", "--expect", source / "expected.json"]
    xet_publisher.start_and_kill(tmp_path / "work", "1.0.0", *flags, expect=False)
    assert not list((tmp_path / "work").rglob("*.parquet"))
    sent = xet_publisher.hub.counters()["uploaded"]
    xet_publisher.ok(tmp_path / "work", "1.0.0", *flags, expect=False)
    assert xet_publisher.hub.counters()["uploaded"]["xorbs"] == sent["xorbs"] > 0
    assert load(xet_publisher, "v1.0.0") == local(v1)
    assert "nothing changed" in xet_publisher.ok(tmp_path / "work", "1.0.1", *flags, expect=False)


@pytest.mark.parametrize(
    "mode, archives, every, start", [("xet", False, 151, 3), ("lfs", False, 151, 5), ("xet", True, 151, 41)]
)
def test_a_fault_at_any_request_is_survived(mode, archives, every, start, tmp_path, capsys):
    """A sample; `python -m tests.fault_sweep` tries every fault at every request."""
    from tests.fault_sweep import sweep

    tried, survived = sweep(tmp_path, mode, every, start, archives)
    with capsys.disabled():
        print(f"\n{mode}: faults tried: {tried}, survived: {survived}")
    assert tried == survived >= 3


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
    names = ("README.md", "croissant.json", "CHANGELOG.md")
    card, croissant, changelog = (xet_publisher.read(name, "v1.1.0").decode() for name in names)
    version = json.loads(croissant)["version"]
    assert f'load_dataset("{REPO}"' in card and 'revision="v1.1.0"' in card and "v1.0.0" not in card
    assert version == "1.1.0" and "## 1.1.0" in changelog


def test_what_was_changed_by_hand_on_the_hub_is_noticed(xet_publisher, small, tmp_path):
    """The card is gone: that is a change. A data file is gone: it is put back, or the publication refused."""
    p = xet_publisher
    p.ok(small, "1.0.0")
    p.api.delete_file("README.md", REPO, repo_type="dataset")
    p.ok(small, "1.0.1")
    assert "README.md" in p.published()[0]
    p.api.delete_file("data/segmented/00.parquet", REPO, repo_type="dataset")
    source = small.parent / "source"
    flags = ["--source", source, "--config", "unlabeled", "--expect", source / "expected.json"]
    p.refused(
        "data/segmented/00.parquet of 1.0.1: removed .*: take that commit back, or publish those parts too",
        *(tmp_path / "work", "1.1.0", *flags),
        expect=False,
    )
    said = p.ok(small, "1.1.0")
    assert ": removed from ns/hyper-kvasir, or changed there, since it was published: they are put back" in said
    assert "data/segmented/00.parquet" in p.published()[0]


def test_a_source_that_is_refused_leaves_no_repository(xet_publisher, tmp_path):
    write_source(tmp_path / "bad", images="tiny", parts=["segmented"], defects=["bad_crc"])
    flags = ["--source", tmp_path / "bad", "--config", "segmented", "--expect", tmp_path / "bad/expected.json"]
    xet_publisher.refused("CRC", tmp_path / "work", "1.0.0", *flags, "--build-and-upload", expect=False)
    assert not xet_publisher.api.repo_exists(REPO, repo_type="dataset")
    said = xet_publisher.run(tmp_path / "work", "1.0.0", *flags, "--dry-run", token=None, expect=False)[1]
    assert "ns/hyper-kvasir is not there, or not visible to this token" in said


def test_what_cannot_be_meant_is_said_at_once(tmp_path, capsys, monkeypatch):
    for repo_id, reason in (("hyper-kvasir", "give the namespace too"), ("ns/hyper kvasir", "--repo-id: ")):
        with pytest.raises(SystemExit):
            parse(["dir", "--repo-id", repo_id, "--version", "1.0.0"])
        assert reason in capsys.readouterr().err
    flags = ["--repo-id", REPO, "--version", "1.0.0", "--changelog", str(tmp_path / "changes.md")]
    assert main([str(tmp_path), *flags]) == 1
    assert "changes.md: no such file; write one with an entry '## 1.0.0'" in capsys.readouterr().err
    (tmp_path / "changes.md").write_text("## 1.0.0\n")
    for token in ("hf_secrettök", "hf_secret\x1b[201~", "hf_secret token"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert main([str(tmp_path), *flags]) == 1
        said = capsys.readouterr().err
        assert "the token has characters that no token has" in said and "secret" not in said
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"builder": "hyper-kvasir", "complete": True, "configs": {}, "sources": {}, "files": {}})
    )
    assert main([str(tmp_path), *flags, "--source", str(tmp_path)]) == 1
    assert "a built folder; with --source, give another one to work in" in capsys.readouterr().err
    work, acquire = str(tmp_path / "work"), FileLock.acquire
    monkeypatch.setattr(FileLock, "acquire", lambda lock, timeout: acquire(lock, timeout=0))
    with build_module.only_builder_of(work):
        assert main([work, *flags, "--source", str(tmp_path)]) == 1
    assert "another build is writing to it" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- the real segmented part


def test_the_real_segmented_part(xet_publisher, real, tmp_path):
    folder = tmp_path / "real"
    build(real, folder, "--config", "segmented", expect=False)
    xet_publisher.ok(folder, "1.0.0", expect=False)
    found = xet_publisher.python(f"""
import json
from datasets import load_dataset
pinned = load_dataset({REPO!r}, "segmented", split="train", revision="v1.0.0")
stream = load_dataset({REPO!r}, "segmented", split="train", streaming=True)
row = next(iter(stream))
same = pinned[0]["image_id"] == row["image_id"]
print(json.dumps([pinned.num_rows, same, row["image"].size == row["mask"].size]))""")
    assert found == [1000, True, True]


# ------------------------------------------------------------------- promises, one at a time, against doctored states


def edition(version):
    return Edition(version, REPO, f"# Changelog\n\n## {version}\n")


def as_published(release, head="head"):
    """What `read_remote` gives of a repository that has this release."""
    files = {path: RemoteFile(entry["bytes"], entry["sha256"], "") for path, entry in release.files.items()}
    for path, text in release.texts.items():
        files[path] = RemoteFile(len(text), None, hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest())
    return Remote(head, files, copy.deepcopy(release.manifest), {release.tag: head}, True)


@pytest.fixture(scope="module")
def released(small):
    expected = Expected.load(f"{small}.expected.json")
    return FolderMaker(str(small), edition("1.0.0"), expected, 1).plan(Remote(None))


@pytest.fixture
def at_home(released, monkeypatch):
    """Published files are opened in the built folder."""
    opened = lambda path: open(f"{released.folder}/{path}", "rb")  # noqa: E731, SIM115
    monkeypatch.setattr(hub_module, "opener", lambda api, repo_id, revision: opened)
    return opened


SEGMENTED, UNLABELED = "data/segmented/00.parquet", "data/unlabeled/00.parquet"


def other_rows(released, change):
    """The release with other rows in one file."""
    rows = hub_module.read_rows(SEGMENTED, lambda: io.FileIO(f"{released.folder}/{SEGMENTED}"))
    manifest = copy.deepcopy(released.manifest)
    manifest["files"][SEGMENTED] |= {"content": "other", "key": "other"}
    return replace(released, manifest=manifest, rows={SEGMENTED: dict(change(sorted(rows.items())))})


def without(manifest, config):
    return {**manifest, "configs": {name: views for name, views in manifest["configs"].items() if name != config}}


def rewritten(released):
    manifest = copy.deepcopy(released.manifest)
    manifest["files"][SEGMENTED]["key"] = "other"
    return replace(released, manifest=manifest)


def empty_split(released):
    manifest = {**released.manifest, "configs": {**released.manifest["configs"], "unlabeled": {}}}
    return replace(released, manifest=manifest)


STEPS = {  # name: (what is published, what is new, columns that come or go, step, why)
    "config gone": (
        None,
        lambda r: replace(r, manifest=without(r.manifest, "unlabeled")),
        (),
        "MAJOR",
        "'unlabeled' is",
    ),
    "split gone": (None, empty_split, (), "MAJOR", "split 'train' of 'unlabeled' is gone"),
    "rows gone": (None, lambda r: other_rows(r, lambda rows: rows[1:]), (), "MAJOR", "1 rows are gone"),
    "rows changed": (
        *(None, lambda r: other_rows(r, lambda rows: [(rows[0][0], "00000000"), *rows[1:]]), ()),
        *("MAJOR", "1 rows changed"),
    ),
    "rows new": (
        None,
        lambda r: other_rows(r, lambda rows: [*rows, ("segmented x", "0")]),
        (),
        "MINOR",
        "1 rows are new",
    ),
    "configs new": ("unlabeled", lambda r: r, (), "MINOR", "configs are new"),
    "columns new": (None, rewritten, ("+",), "MINOR", "columns are new"),
    "columns gone": (None, rewritten, ("-",), "MAJOR", "columns of .* are gone or changed"),
    "columns gone, rows new": (
        *(None, lambda r: other_rows(r, lambda rows: [*rows, ("segmented x", "0")]), ("-",)),
        *("MAJOR", "columns of .* are gone or changed"),
    ),
    "written anew": (None, rewritten, (), "PATCH", "files are written anew"),
    "the card": (None, lambda r: r, (), "PATCH", "only the card changed"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_that_a_change_demands(name, released, at_home, monkeypatch):
    unpublished, change, columns, step, why = STEPS[name]
    remote, now = as_published(released), hub_module.features_metadata("segmented")
    if unpublished:
        remote = replace(remote, manifest=without(remote.manifest, unpublished))
    if columns:
        now = {**now, "new": now["label"]} if columns == ("+",) else {k: v for k, v in now.items() if k != "fold_2"}
        monkeypatch.setattr(hub_module, "features_metadata", lambda part: now)
    new = change(released)
    found = hub_module.demanded_step(None, REPO, new, remote)
    assert found[0] == step and re.search(why, found[1]), found
    for version, least in (("1.0.1", "PATCH"), ("1.1.0", "MINOR"), ("2.0.0", "MAJOR")):
        order = ["PATCH", "MINOR", "MAJOR"]
        new = replace(new, version=version)
        if order.index(least) >= order.index(step):
            hub_module.check_version(None, REPO, new, remote)
        else:
            with pytest.raises(PublishError, match=f"too small a step: .*{why}"):
                hub_module.check_version(None, REPO, new, remote)


def test_files_that_the_head_has_lost_are_read_at_the_tag(released, monkeypatch):
    remote = replace(as_published(released), head="moved", tags={"v1.0.0": "tagged"})
    assert hub_module._whole_revision(REPO, remote) == "moved"
    del remote.files[SEGMENTED]
    assert hub_module._whole_revision(REPO, remote) == "tagged"
    with pytest.raises(PublishError, match=f"{SEGMENTED} of 1.0.0: removed .* v1.0.0 is not tagged"):
        hub_module._whole_revision(REPO, replace(remote, tags={}))


def test_what_is_new_and_what_is_not(released, monkeypatch):
    monkeypatch.setattr(hub_module, "download", lambda api, repo_id, path, revision: b"x" * len(released.texts[path]))

    def is_new(remote, release=released):
        return hub_module.is_new(None, REPO, release, remote, hub_module.find_changes(release, remote))

    assert not is_new(as_published(released)) and is_new(Remote("head"))
    for key, new in (("versions", False), ("schema", True), ("sources", True)):
        assert is_new(as_published(replace(released, manifest={**released.manifest, key: {}}))) == new
    for path in ("README.md", "stats.json"):
        gone, edited = as_published(released), as_published(released)
        del gone.files[path]
        edited.files[path] = edited.files[path]._replace(blob_id="other")
        assert is_new(gone) and is_new(edited)
    stray = as_published(released)
    stray.manifest["files"]["data/old.parquet"] = {"sha256": "old"}
    stray.files["data/old.parquet"] = RemoteFile(1, "old", "")
    assert is_new(stray)
    other = copy.deepcopy(released.manifest)
    other["card"]["key"] = "other"
    assert is_new(as_published(released), replace(released, manifest=other))


def test_a_version_with_nothing_but_its_changelog_entry_is_no_change(released, small, monkeypatch):
    expected = Expected.load(f"{small}.expected.json")
    later = FolderMaker(str(small), edition("1.0.1"), expected, 1).plan(Remote(None))
    remote = as_published(released)
    monkeypatch.setattr(hub_module, "download", lambda api, repo_id, path, revision: released.texts[path])
    changes = hub_module.find_changes(later, remote)
    assert {"CHANGELOG.md", "README.md"} <= set(changes.add)
    assert not hub_module.is_new(None, REPO, later, remote, changes)
    said = hub_module._nothing_new(None, REPO, later, remote, changes, False)
    assert said.startswith("nothing changed since v1.0.0")
    with pytest.raises(PublishError, match="run again with --version 1.0.0 to finish"):
        hub_module._nothing_new(None, REPO, later, replace(remote, tags={}), changes, False)


def test_a_tag_is_not_trusted_by_its_name(released, monkeypatch):
    remote = replace(as_published(released), tags={"v1.0.0": "elsewhere"})
    changes = hub_module.find_changes(released, remote)
    text = json.dumps(released.manifest).encode()  # the branch has moved on since, by other files than ours
    monkeypatch.setattr(hub_module, "download", lambda *arguments: text)
    assert "nothing changed" in hub_module._nothing_new(None, REPO, released, remote, changes, False)
    monkeypatch.setattr(hub_module, "download", lambda *arguments: b"{}")
    with pytest.raises(PublishError, match="somebody else tagged v1.0.0 .* at commit elsewhere, .* remove the tag"):
        hub_module._nothing_new(None, REPO, released, remote, changes, False)


def test_the_card_of_a_folder_is_checked_before_it_is_published(small, tmp_path, monkeypatch):
    expected = Expected.load(f"{small}.expected.json")
    edited = shutil.copytree(small, tmp_path / "edited")
    with open(edited / "README.md", "a", encoding="utf-8") as card:
        card.write("An edit by hand.\n")
    with pytest.raises(PublishError, match="verification is not green:\n- README.md: changed since it was made"):
        release_module.folder_release(str(edited), edition("1.0.0"), expected, 1)
    for name, what in (("check_card", "card is wrong"), ("lint_card", "would not take")):
        with monkeypatch.context() as patch, pytest.raises(PublishError, match=f"{what}.*:\n- as it is"):
            patch.setattr(release_module, name, lambda *arguments: ["as it is"])
            release_module.folder_release(str(small), edition("1.0.0"), expected, 1)


def test_more_files_than_the_hub_takes(released, monkeypatch):
    hub_module.check_limits(released)
    monkeypatch.setattr(hub_module, "MOST_IN_FOLDER", 0)
    with pytest.raises(PublishError, match="2 files, 1 of them in data/"):
        hub_module.check_limits(released)


def smaller(file, change):
    table, data = pq.read_table(file), io.BytesIO()
    pq.write_table(change(table), data)
    return io.BytesIO(data.getvalue())


READ_BACKS = {  # name: (files as the Hub lists them, a file as it opens, a config as it loads, what is wrong)
    "all well": (None, None, None, None),
    "other data": ({SEGMENTED: RemoteFile(1, "f" * 64, "")}, None, None, f"{SEGMENTED} has other content"),
    "other card": ({"README.md": RemoteFile(1, None, "f" * 40)}, None, None, "README.md has other content"),
    "a file gone": ({SEGMENTED: None}, None, None, f"{SEGMENTED} is not there"),
    "a text gone": ({"stats.json": None}, None, None, "stats.json is not there"),
    "a stray file": (
        {"data/x.parquet": RemoteFile(1, "f" * 64, "")},
        None,
        None,
        "data/x.parquet is there, but not in",
    ),
    "fewer rows": (
        *(None, lambda file: smaller(file, lambda table: table.slice(0, 1)), None),
        "segmented / train: 1 rows in the files, expected 6",
    ),
    "fewer columns": (
        *(None, lambda file: smaller(file, lambda table: table.drop_columns(["fold_5"])), None),
        f"{SEGMENTED} has other columns",
    ),
    "cut off": (None, lambda file: io.BytesIO(file.read()[:-9]), None, f"{SEGMENTED} cannot be read"),
    "no such config": (None, None, lambda rows: {}[0], "segmented does not load: KeyError"),
    "another split": (None, None, lambda rows: {**rows, "test": rows["train"]}, "has the splits train, test, expected"),
    "other features": (
        *(None, None, lambda rows: {"train": rows["train"].rename_column("fold_2", "fold")}),
        "segmented / train: other features",
    ),
    "fewer loaded": (
        *(
            None,
            None,
            lambda rows: {"train": rows["train"].take(1) if hasattr(rows["train"], "num_rows") else rows["train"]},
        ),
        "segmented / train: 1 rows loaded, expected 6",
    ),
}


@pytest.mark.parametrize("name", READ_BACKS)
def test_what_read_back_finds(name, released, at_home, monkeypatch, tmp_path):
    import datasets

    files, opened, loaded, wrong = READ_BACKS[name]
    there = {path: file for path, file in (as_published(released).files | (files or {})).items() if file}
    monkeypatch.setattr(hub_module, "list_files", lambda api, repo_id, revision: there)
    open_it = lambda path: opened(at_home(path)) if opened and path == SEGMENTED else at_home(path)  # noqa: E731
    monkeypatch.setattr(hub_module, "opener", lambda api, repo_id, revision: open_it)
    load_dataset = datasets.load_dataset

    def load_locally(repo_id, config, revision, **flags):
        rows = load_dataset(released.folder, config, **{"cache_dir": str(tmp_path), **flags})
        return loaded(rows) if loaded and config == "segmented" else rows

    monkeypatch.setattr(datasets, "load_dataset", load_locally)
    problems = hub_module.read_back(None, REPO, "sha", released)
    assert problems == [] if wrong is None else any(wrong in problem for problem in problems), problems


@pytest.fixture
def waits(monkeypatch):
    """The seconds that `patiently` waits, without waiting."""
    seconds = []
    monkeypatch.setattr(hub_module.time, "sleep", seconds.append)
    return seconds


def answer(status, **headers):
    request = httpx2.Request("GET", "http://127.0.0.1/")
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError(f"Server error {status} for http://127.0.0.1/", response=response, server_message="no way")


@pytest.mark.parametrize(
    "error, waited, said",
    [
        (httpx2.ReadTimeout(""), [1, 2, 4, 8], "reading: ReadTimeout, 5 times; run the same command again"),
        (answer(500), [1, 2, 4, 8], "reading: the Hub answered 500, 5 times; run the same command again"),
        (answer(429, ratelimit='"api";r=0;t=7'), [8] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429, retry_after="7"), [7] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429), [1, 2, 4, 8], "reading: the Hub answered 429, 5 times"),
        (answer(403), [], "the Hub answered 403: no way"),
        (ValueError("wrong"), [], "wrong"),
    ],
)
def test_what_is_tried_again_and_how_it_ends(error, waited, said, waits):
    def fail():
        raise error

    with pytest.raises(Exception) as failed:
        hub_module.patiently("reading", fail)
    assert waits == waited and hub_module.explain(failed.value).startswith(said)


def test_tagging(tmp_path, waits):
    """A tag whose answer was lost is found at once; one at another commit is refused; a busy Hub is waited for."""
    with LoopbackHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        api.create_repo(REPO, repo_type="dataset")
        first = api.dataset_info(REPO).sha
        hub.faults("cut", method="POST", path="/tag/", when="after")
        hub_module.tag(api, REPO, "v1.0.0", first, "one")
        assert waits == [1]
        second = api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, repo_type="dataset").oid
        with pytest.raises(PublishError, match=f"somebody else tagged v1.0.0 .* at commit {first}, not at {second}"):
            hub_module.tag(api, REPO, "v1.0.0", second, "two")
        hub.faults(409, method="POST", path="/tag/")
        hub_module.tag(api, REPO, "v2.0.0", second, "two")
        assert waits == [1, 1]
        # Two publishers of a new repository, or of a new branch: the slower one must not build on what the other did.
        assert hub_module.make_branch(api, Target(REPO), Remote(None)) is None
        assert hub_module.make_branch(api, Target(REPO, "next"), Remote(first)) == first
        assert hub_module.make_branch(api, Target(REPO, "next"), Remote(second)) is None
        assert hub_module.make_branch(api, Target("ns/new"), Remote(None)) == api.dataset_info("ns/new").sha


def test_a_busy_hub_is_no_wrong_token(tmp_path, waits):
    with LoopbackHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        hub.faults(500, path="whoami", times=0)
        with pytest.raises(PublishError, match="asking whose token it is: the Hub answered 500, 5 times; run the same"):
            hub_module.check_access(api, Target(REPO), Remote(None))


class Builds:
    """A SourceMaker of the small source without a Hub; counts what is built and sent."""

    def __init__(self, small, work, monkeypatch, part_by_part=True):
        self.built, self.sent, self.left = [], [], []
        source, expected = str(small.parent / "source"), Expected.load(f"{small}.expected.json")
        sources = Sources([source], str(work), ["segmented", "unlabeled"], expected, 1, part_by_part)
        self.maker, self.work = SourceMaker(HfApi(), edition("1.0.0"), sources), work
        monkeypatch.setattr(release_module, "build_parts", self.build_parts)

    def build_parts(self, plan, todo, *arguments):
        self.built += todo
        return build_module.build_parts(plan, todo, *arguments)

    def send(self, paths, folder):
        self.sent += paths
        self.left.append(sorted(path.relative_to(folder).as_posix() for path in self.work.rglob("*.parquet")))
        return dict.fromkeys(paths)

    def release(self, remote):
        planned = self.maker.plan(remote)
        return planned, self.maker.build(remote, planned, self.send)


def test_parts_are_sent_and_removed_before_others_are_built(small, released, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "BATCH_BYTES", 1)
    builds = Builds(small, tmp_path / "work", monkeypatch)
    planned, release = builds.release(Remote(None))
    assert builds.left == [[SEGMENTED], [UNLABELED]] and not list(builds.work.rglob("*.parquet"))
    assert {path: entry["sha256"] for path, entry in planned.files.items()} == {SEGMENTED: None, UNLABELED: None}
    assert release.files == released.files and planned.texts is None
    for path, rows in planned.rows.items():
        assert rows == hub_module.read_rows(path, lambda path=path: io.FileIO(f"{small}/{path}"))
        assert planned.files[path]["content"] == released.files[path]["content"]
    builds.release(Remote(None))  # somebody else committed meanwhile
    assert sorted(builds.built) == builds.sent == [SEGMENTED, UNLABELED]


def test_packages_of_another_version_are_no_change(small, released, tmp_path, monkeypatch, at_home):
    monkeypatch.setattr(release_module, "opener", lambda *arguments: at_home)
    monkeypatch.setattr(release_module, "download", lambda api, repo_id, path, revision: released.texts[path])
    monkeypatch.setattr("scripts.pipeline.manifest.version", lambda package: "99")
    builds = Builds(small, tmp_path / "work", monkeypatch)
    remote = as_published(released)
    planned, release = builds.release(remote)
    assert planned is release and not builds.sent and release.manifest["versions"] == released.manifest["versions"]
    assert release.texts.keys() == released.texts.keys()
    assert not hub_module.is_new(None, REPO, release, remote, hub_module.find_changes(release, remote))
