"""Independent clients, the npm packages @huggingface/hub and hyparquet, read what was published to the loopback Hub."""

import base64
import json
import re
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN
from tests.publisher import REPO, Publisher

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("javascript")]  # the packages are installed once

PACKAGES = ["@huggingface/hub@2.17.5", "hyparquet@1.33.0"]
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
# After the card's block: what it read, and what it reads without its last option.
SHOW = """
const bytes = rows.map(({ image }) => image.bytes instanceof Uint8Array && Buffer.from(image.bytes).toString("base64"));
const [{ image }] = await parquetReadObjects({ file, ...some });
console.log(JSON.stringify({ ids: rows.map(row => row.image_id), bytes, sizes: images.map(blob => blob.size), path,
  otherwise: typeof image.bytes }));
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory):
    """A folder with the npm packages in it."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("no npm and node to run a JavaScript client with")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "check.mjs").write_text(CHECK)
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", *PACKAGES], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm could not install {' '.join(PACKAGES)}: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def hub(small, tmp_path_factory):
    """Has a miniature published."""
    place = tmp_path_factory.mktemp("hub")
    with LoopbackHub(place / "hub") as hub:
        Publisher(hub, place / "home", True).ok(small, "1.0.0")
        yield hub


def run(folder, *command):
    """The JSON that a script in the folder prints."""
    done = subprocess.run(["node", *command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lists_and_downloads_a_published_file(javascript, small, hub):
    path, entry = next(iter(json.loads((small / "manifest.json").read_text())["files"].items()))
    said = run(javascript, "check.mjs", hub.endpoint, REPO, path, READ_TOKEN)
    assert {path, "README.md", "manifest.json"} <= set(said["files"])
    assert said["found"] == [entry["sha256"]] * 2


def block_of(folder, package):
    """The JavaScript of a built folder's card that imports a package."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```javascript\n(.*?)```", text, re.DOTALL) if f'from "{package}"' in b)
    return block


def test_the_block_for_hyparquet_reads_images(javascript, small, hub):
    """As bytes: by default they come back as text."""
    block = block_of(small, "hyparquet")
    (javascript / "block.mjs").write_text(block.replace("https://huggingface.co", hub.endpoint) + SHOW)
    said = run(javascript, "block.mjs")
    stored = pq.read_table(small / said["path"], columns=["image_id", "image"], partitioning=None).to_pylist()[:10]
    assert said["ids"] == [row["image_id"] for row in stored] and said["otherwise"] == "string"
    found = [base64.b64decode(text) for text in said["bytes"]]
    assert found == [row["image"]["bytes"] for row in stored] and said["sizes"] == list(map(len, found))
    assert all(data.startswith(b"\xff\xd8") for data in found)


def test_the_block_for_the_hub_lists_and_downloads(javascript, small, hub):
    block = block_of(small, "@huggingface/hub").replace("const at = {", f'const at = {{ hubUrl: "{hub.endpoint}",')
    show = 'console.log(JSON.stringify({ paths, data: Buffer.from(await blob.arrayBuffer()).toString("base64") }));'
    (javascript / "hub.mjs").write_text(block + show)
    said = run(javascript, "hub.mjs")
    assert sorted(said["paths"]) == sorted(json.loads((small / "manifest.json").read_text())["files"])
    assert base64.b64decode(said["data"]) == (small / said["paths"][0]).read_bytes()
