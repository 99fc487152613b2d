"""manifest.json of a built folder: its files with their digests and input keys, its sources, the versions used.

{"builder": "hyper-kvasir", "schema": 1, "complete": true,
 "configs": {config: {split: {"files": glob, "rows": n}}},
 "sources": {part: {"file", "bytes", "sha256", "content", "directory", "complete"}},
 "versions": {package: version},
 "files": {path: {"rows", "bytes", "data_bytes", "sha256", "key", "content"}}}

`key` is a digest of all that the bytes of a file depend on, `content` of its rows alone. `complete`: built with all
checks. The card adds "card": {"key", "commit", "files": {path: {"bytes", "sha256"}}}, and a release adds "version".

The rule of staleness: a file, a summary in stats.json and the card are each made again when their inputs differ, which
is seen by a digest: `key`, the summary's sha256, the card's "key". Texts in dataset_card/ are inputs. Code is not; its
stand-in is a SCHEMA number in plan.py, stats.py and card.py. Increment it by hand in any change after which the same
inputs give other bytes. A new comment, or code that only moves, leaves everything as it is.
"""

import fnmatch
import json
import os
import re
from importlib.metadata import version

from hyper_kvasir import PARTS, VIEWS

FILE = "manifest.json"
BUILDER = "hyper-kvasir"
ENTRY = {"rows", "bytes", "data_bytes", "sha256", "key", "content"}
DATA_FILE = re.compile(rf"data/({'|'.join(PARTS)})/.*\.parquet")


def make_manifest(configs: list[str], sources: dict, files: dict, schema: int) -> dict:
    """The manifest of a folder of `files` that serves `configs`. Nothing in it depends on time, machine or workers."""
    return {
        "builder": BUILDER,
        "schema": schema,
        "complete": all(source["complete"] for source in sources.values()),
        "configs": {config: splits_of(config, files) for config in VIEWS if config in configs},
        "sources": dict(sorted(sources.items())),
        "versions": {package: version(package) for package in ("datasets", "numpy", "pillow", "pyarrow")},
        "files": dict(sorted(files.items())),
    }


def splits_of(config: str, files: dict) -> dict:
    """The splits of a config that have files: {split: {"files": glob, "rows": n}}."""
    splits = {}
    for split, pattern in VIEWS[config].splits.items():
        rows = sum(files[path]["rows"] for path in matching(pattern, files))
        if rows:
            splits[split] = {"files": pattern, "rows": rows}
    return splits


def matching(pattern: str, files) -> list[str]:
    """The files of a split, sorted."""
    return sorted(path for path in files if fnmatch.fnmatch(path, pattern))


def part_of_path(path: str) -> str:
    """The part that a data file belongs to: "labeled" of "data/labeled/.../00.parquet"."""
    return path.split("/")[1]


def read_manifest(folder: str) -> dict | None:
    """The manifest in `folder`, None without one. Raises ValueError for a manifest.json of something else."""
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return parse_manifest(file.read(), path)
    except FileNotFoundError:
        return None


def built_manifest(folder: str) -> dict:
    """The manifest of a built folder. Raises ValueError for any other folder."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder}: no {FILE} here, so this is not a finished build; run python -m scripts.build")
    return manifest


def parse_manifest(text: str, where: str) -> dict:
    """A manifest from its text. Raises ValueError, naming `where`, for anything else."""
    try:
        manifest = json.loads(text)
        good = manifest["builder"] == BUILDER and {"complete", "configs", "sources", "files"} <= manifest.keys()
        good = good and set(manifest["configs"]) <= set(VIEWS)
        good = good and all(DATA_FILE.fullmatch(path) and e.keys() >= ENTRY for path, e in manifest["files"].items())
        paths = [*manifest["files"], *manifest.get("card", {}).get("files", {})]
    except (ValueError, KeyError, TypeError, AttributeError):
        good, paths = False, []
    if not good:
        raise ValueError(f"{where}: not a manifest of this builder; the folder belongs to something else")
    outside = [path for path in paths if path.startswith("/") or {"..", ""} & set(path.split("/")) or "\\" in path]
    if outside:  # files of a manifest may be removed, but never one outside its folder
        raise ValueError(f"{where}: names {outside[0]!r}, a path outside its folder; the manifest is refused")
    return manifest


def manifest_text(manifest: dict) -> str:
    """manifest.json: a line for each value, so that git shows what changed."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
