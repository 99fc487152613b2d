"""An independent client, the npm package @huggingface/hub, reads what was published to the loopback Hub."""

import json
import shutil
import subprocess

import pytest

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN
from tests.publisher import REPO, Publisher

pytestmark = pytest.mark.slow

PACKAGE = "@huggingface/hub@2.17.5"
CHECK = """
import { createHash } from "node:crypto";
import { listFiles, downloadFile } from "@huggingface/hub";
const [hubUrl, name, path, accessToken] = process.argv.slice(2);
const repo = { type: "dataset", name }, files = [];
for await (const file of listFiles({ repo, recursive: true, hubUrl, accessToken })) files.push(file.path);
const found = [];
for (const xet of [true, false]) {
  const blob = await downloadFile({ repo, path, hubUrl, accessToken, xet });
  const bytes = Buffer.from(await blob.arrayBuffer());
  found.push(createHash("sha256").update(bytes).digest("hex"));
}
console.log(JSON.stringify({ files, found }));
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory):
    """A folder with the npm package in it."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("no npm and node to run a JavaScript client with")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "check.mjs").write_text(CHECK)
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", PACKAGE], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm could not install {PACKAGE}: {done.stderr[-300:]}")
    return folder


def test_lists_and_downloads_a_published_file(javascript, small, tmp_path):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        Publisher(hub, tmp_path / "home", True).ok(small, "1.0.0")
        path, entry = next(iter(json.loads((small / "manifest.json").read_text())["files"].items()))
        command = ["node", "check.mjs", hub.endpoint, REPO, path, READ_TOKEN]
        done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert {path, "README.md", "manifest.json"} <= set(said["files"])
        assert said["found"] == [entry["sha256"]] * 2
