"""Runs scripts.publish and readers against the loopback Hub, for the tests of publication and the fault sweep."""

import json
import re
import shutil
import time

import httpx2
from huggingface_hub import HfApi

from hyper_kvasir import FINDINGS, VIEWS
from scripts.loopback_hub.client import READ_TOKEN, WRITE_TOKEN
from tests.conftest import build, config_flags
from tests.fake_source import write_source
from tests.processes import Process

REPO = "ns/hyper-kvasir"
STRANGER_TOKEN = "hf_loopback_stranger"  # may write, but not to repositories of "ns"
SOME = ["labeled", "segmented"]  # configs
FEW = dict.fromkeys(FINDINGS, 1) | {"polyps": 8}  # labeled images
VERSIONS = ["1.0.0", "1.0.1", "1.1.0", "1.1.1", "2.0.0", "2.0.1", "3.0.0", "3.0.1"]


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

    def start(self, folder, version, *flags, token=WRITE_TOKEN, expect=True) -> Process:
        command = ["scripts.publish", folder, "--repo-id", REPO, "--version", version, "--changelog", self.changelog]
        command += [*flags, *(["--expect", f"{folder}.expected.json"] if expect else [])]
        return Process(self.env(token), command)

    def way_out(self, flag, *more, reason=None):
        """Runs scripts.publish with --finish or --abandon, and returns what it says; `reason`: of a refusal."""
        command = ["scripts.publish", "--repo-id", REPO, flag, *more]
        code, said = self.end(Process(self.env(), command))
        assert code == (1 if reason else 0) and re.search(reason or "", said) and "Traceback" not in said, said
        return said

    def verify(self, *arguments):
        """(exit code, all that was said) of scripts.verify of the repository."""
        return self.end(Process(self.env(READ_TOKEN), ["scripts.verify", REPO, *arguments]))

    def run(self, *arguments, **settings):
        """(exit code, all that was said)"""
        return self.end(self.start(*arguments, **settings))

    def end(self, process):
        """(exit code, all that was said) of a process that was started"""
        code, *said = process.end()
        self.said.append("".join(said))
        return code, self.said[-1]

    def start_and_kill(self, *arguments, **settings):
        """Kills the publisher, without a warning, while its commit is held up."""
        self.hub.faults(method="POST", path="/commit/", delay=60)
        process = self.start(*arguments, **settings)
        while process.poll() is None and not any(fault["hits"] for fault in self.hub.active_faults()):
            time.sleep(0.1)
        assert process.poll() is None, self.end(process)
        process.kill()
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
        status, *said = Process(self.env(token), code=code).end()
        assert status == 0, said
        self.said += said
        return json.loads(said[0].splitlines()[-1])

    def published(self, revision="main"):
        """({path: content id}, head, {tag: commit}, titles of the branch's commits)"""
        tree = self.api.list_repo_tree(REPO, recursive=True, repo_type="dataset", revision=revision)
        files = {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in tree if hasattr(f, "blob_id")}
        refs = self.api.list_repo_refs(REPO, repo_type="dataset")
        titles = [c.title for c in self.api.list_repo_commits(REPO, repo_type="dataset", revision=revision)]
        head = next(ref.target_commit for ref in refs.branches if ref.name == "main")
        return files, head, {tag.name: tag.target_commit for tag in refs.tags}, titles


def folder_of(tmp_path_factory, name, configs=(), **changes):
    """A built folder of a generated source; its expected numbers lie beside it as <folder>.expected.json."""
    work = tmp_path_factory.mktemp(name)
    write_source(work / "source", images="tiny", **changes)
    build(work / "source", work / "folder", *config_flags(configs))
    shutil.copy(work / "source/expected.json", work / "folder.expected.json")
    return work / "folder"


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


def load(publisher, revision, configs=VIEWS):
    return publisher.python(LOAD.format(repo=REPO, revision=revision, configs=list(configs)))


def local(folder, configs=VIEWS):
    """As `load`, of a built folder."""
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
