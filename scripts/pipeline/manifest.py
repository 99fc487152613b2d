"""manifest.json of a built folder: its files with their digests and input keys, its sources, the versions used.

{"builder": "hyper-kvasir", "schema": 1, "complete": true,
 "configs": {config: {split: {"files": glob, "rows": n}}},
 "sources": {part: {"file", "bytes", "sha256", "content", "directory", "complete"}},
 "versions": {package: version},
 "files": {path: {"rows", "bytes", "data_bytes", "sha256", "key", "content"}}}

The small edition adds "max_side": its images have at most so many pixels a side.

`key` is a digest of all that the bytes of a file depend on, `content` of its rows alone. `complete`: built with all
checks. The card adds "card": {"key", "commit", "files": {path: {"bytes", "sha256"}}}, and a release adds "version".

What makes a file stale, and when to increment a SCHEMA: rule 5 of scripts/README.md.
"""

import fnmatch
import json
import os
import re
from importlib.metadata import version

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from hyper_kvasir import PARTS
from scripts.pipeline.configs import METADATA, VIEWS
from scripts.pipeline.console import LEAST_SIDE, MOST_SIDE
from scripts.pipeline.files import is_address, read

FILE = "manifest.json"
BUILDER = "hyper-kvasir"
VERSION = r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}"
PACKAGES = ("datasets", "numpy", "pillow", "pyarrow")  # whose versions matter to what is in the files
QUALITY = ("faiss-cpu", "opencv-contrib-python-headless", "simplejpeg")  # and to metadata
SMALL = ("simplejpeg",)  # and to images of the small edition; it is one of QUALITY
MOST_BYTES = 32 << 20  # of a manifest; that of the whole dataset has some 600 kB

# Anybody may have edited a manifest, and files that it names may be replaced or removed.
_PIECE = r"(?!\.)[A-Za-z0-9._-]+"  # of a path: neither hidden nor ".."
_DATA_FILE = rf"^data/({'|'.join([*PARTS, METADATA])})/({_PIECE}/){{0,4}}{_PIECE}\.parquet\Z"
_OWN_FILE = re.compile(
    rf"{_DATA_FILE}|^manifest\.json\Z|^(README|CHANGELOG|datasheet)\.md\Z|^CITATION\.(bib|cff)\Z"
    rf"|^(stats|croissant)\.json\Z|^(leakage|objects)\.csv\Z|^assets/{_PIECE}\.(png|jpg)\Z"
)


def _object(required, **others):
    return {"type": "object", "properties": {**required, **others}, "required": list(required)}


def _each(values, **names):
    """An object of values of one form, whose names are as a schema says."""
    return {"type": "object", "additionalProperties": values, "propertyNames": names}


_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**53}
_TEXT = {"type": "string", "maxLength": 1000}
_DIGEST = {"type": "string", "pattern": r"^[0-9a-f]{64}\Z"}
_FORM = Draft202012Validator(
    _object(
        {
            "builder": {"const": BUILDER},
            "complete": {"type": "boolean"},
            "configs": _each(_each(_object({"files": _TEXT, "rows": _COUNT})), enum=list(VIEWS)),
            "sources": _each(
                _object(
                    {"file": _TEXT, "complete": {"type": "boolean"}},
                    bytes=_COUNT,
                    **dict.fromkeys(("sha256", "content", "directory"), _DIGEST),
                ),
                enum=list(PARTS),
            ),
            "files": _each(
                _object(
                    dict.fromkeys(("rows", "bytes", "data_bytes"), _COUNT)
                    | dict.fromkeys(("sha256", "key", "content"), _DIGEST)
                ),
                pattern=_DATA_FILE,
            ),
        },
        card=_object(
            {
                "key": _TEXT,
                "files": _each(_object({"bytes": _COUNT, "sha256": _TEXT}), pattern=rf"^({_PIECE}/)?{_PIECE}\Z"),
            }
        ),
        max_side={"type": "integer", "minimum": LEAST_SIDE, "maximum": MOST_SIDE},
        version={"type": "string", "pattern": rf"^{VERSION}\Z"},
        versions=_each(_TEXT),
    )
)


def make_manifest(configs: list[str], sources: dict, files: dict, schema: int, *, max_side: int | None = None) -> dict:
    """The manifest of a folder of `files` that serves `configs`. Nothing in it depends on time, machine or workers."""
    packages = [*PACKAGES, *(QUALITY if METADATA in configs else SMALL if max_side else ())]
    return {
        "builder": BUILDER,
        "schema": schema,
        **({"max_side": max_side} if max_side else {}),
        "complete": all(source["complete"] for source in sources.values()),
        "configs": {config: splits_of(config, files) for config in VIEWS if config in configs},
        "sources": dict(sorted(sources.items())),
        "versions": {package: version(package) for package in packages},
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
    data = read(path, MOST_BYTES + 1)
    return None if data is None else parse_manifest(data.decode("utf-8", "replace"), path)


def built_manifest(folder: str, *, at_address: bool = False) -> dict:
    """The manifest of a built folder. Raises ValueError for any other, and for an address unless that can be used."""
    if is_address(folder) and not at_address:
        raise ValueError(f"{folder}: is an address; copy the folder to this machine, and give that")
    manifest = read_manifest(folder)
    if manifest is None:
        there = f"no {FILE} here, so this is not a finished build" if os.path.isdir(folder) else "no such folder"
        raise ValueError(f"{folder}: {there}; run python -m scripts.build")
    return manifest


def edition_of(manifest: dict) -> str:
    """What a built folder or repository holds, in words: the full edition, or a small one."""
    return f"images of at most {manifest['max_side']} pixels a side" if "max_side" in manifest else "the full edition"


def parse_manifest(text: str, where: str) -> dict:
    """A manifest from its text. Raises ValueError, naming `where` and what is wrong, for anything else."""
    if len(text) > MOST_BYTES:
        raise _not_ours(where, f"it has {len(text):,} characters, more than any")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_ours(where, f"it is not JSON: {error}") from error
    if isinstance(manifest, dict) and manifest.get("builder") == BUILDER:
        for path in _named(manifest):
            if path.startswith("/") or {"..", ""} & set(path.split("/")) or "\\" in path:
                raise ValueError(f"{where}: names {path[:200]!r}, a path outside its folder; the manifest is refused")
    error = best_match(_FORM.iter_errors(manifest))
    if error:
        place = " / ".join(map(str, error.absolute_path)).encode("unicode_escape").decode()
        raise _not_ours(where, f"{place[:300]}: {error.message[:300]}" if place else error.message[:300])
    for config, splits in manifest["configs"].items():
        if set(splits) - set(VIEWS[config].splits):
            raise _not_ours(where, f"configs / {config}: no splits of it: {ascii(sorted(splits))[:300]}")
    manifest.setdefault("versions", {})
    return manifest


def _named(manifest):
    """The paths that a manifest names, whatever else is wrong with it."""
    card = manifest.get("card")
    for entries in (manifest.get("files"), card.get("files") if isinstance(card, dict) else None):
        yield from entries if isinstance(entries, dict) else ()


def _not_ours(where, why):
    return ValueError(
        f"{where}: not a manifest of this builder ({why}); it was edited by hand, or belongs to something else"
    )


def is_own_file(path: str) -> bool:
    """Whether a path is one that this project writes: no other file of a repository is ever deleted."""
    return _OWN_FILE.match(path) is not None


def manifest_text(manifest: dict) -> str:
    """manifest.json: a line for each value, so that git shows what changed."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
