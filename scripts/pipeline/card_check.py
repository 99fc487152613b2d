"""Checks of a card against the files of its repository: its configs lead to them, and its numbers are theirs."""

import fnmatch
import os
import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from hyper_kvasir import TAXONOMY
from scripts.pipeline.files import opened
from scripts.pipeline.manifest import matching, part_of_path


def _split_card(text):
    """(metadata, text below) of a card. Raises ValueError where there is no readable metadata."""
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise ValueError("README.md: does not begin with metadata between two lines of ---")
    try:
        metadata = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"README.md: its metadata is not YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError("README.md: its metadata is not a mapping")
    return metadata, parts[2]


def lint_card(text: str, paths: list[str]) -> list[str]:
    """What in a card would not load, in a repository of the files `paths`; empty if all is well.

    Looks for metadata that cannot be read, and for configs that are listed twice or have no files or no entry. Whether
    the Hub knows the license and tasks is for the Hub to say: publication asks it before the commit.
    """
    try:
        metadata, _ = _split_card(text)
    except ValueError as error:
        return [str(error)]
    return [f"README.md: {problem}" for problem in _lint_configs(metadata, paths)]


def _listed(metadata, key):
    value = metadata.get(key, [])
    return value if isinstance(value, list) else [value]


def _lint_configs(metadata, paths):
    problems = []
    for key in ("configs", "dataset_info"):
        names = Counter(entry.get("config_name") for entry in _listed(metadata, key))
        problems += [f"{key}: {name!r} is listed {times} times" for name, times in names.items() if times > 1]
    configs = _listed(metadata, "configs")
    defaults = [config["config_name"] for config in configs if config.get("default")]
    if len(defaults) > 1:
        problems.append(f"configs: more than one default: {', '.join(defaults)}")
    for config in configs:
        for files in config.get("data_files", []):
            if not any(fnmatch.fnmatch(path, files["path"]) for path in paths):
                problems.append(f"configs: {config['config_name']} / {files['split']}: no file at {files['path']}")
    described = {info.get("config_name") for info in _listed(metadata, "dataset_info")}
    extra = described - {config["config_name"] for config in configs}
    return problems + [f"dataset_info: {name!r} is not in configs" for name in sorted(map(str, extra))]


def check_card(text: str, manifest: dict, folder: str | None = None) -> list[str]:
    """Numbers of rows in the card that are not those of the manifest, or with `folder` of its Parquet files.

    Looks at the splits in the metadata and in the table of splits; with `folder` also at the taxonomy's images, which
    are counted in the label columns. Reads footers and labels, no image.
    """
    try:
        metadata, body = _split_card(text)
    except ValueError as error:
        return [str(error)]
    rows = {path: entry["rows"] for path, entry in manifest["files"].items()}
    if folder is not None:
        rows = {path: _footer(os.path.join(folder, path)).num_rows for path in rows}
    wanted = {
        (config, split): sum(rows[path] for path in matching(entry["files"], rows))
        for config, splits in manifest["configs"].items()
        for split, entry in splits.items()
    }
    in_metadata = {
        (info["config_name"], split["name"]): split["num_examples"]
        for info in _listed(metadata, "dataset_info")
        for split in info["splits"]
    }
    in_table = {
        (config, split): int(number.replace(",", ""))
        for config, split, number in re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([\d,]+) \|", body, re.MULTILINE)
    }
    problems = _differing("metadata", in_metadata, wanted) + _differing("table of splits", in_table, wanted)
    labeled = [path for path in rows if part_of_path(path) == "labeled"]
    if folder is not None and labeled:
        found = re.findall(r"^\| \d+ \| `([\w-]+)` \|.*?\| ([\d,]+) \|", body, re.MULTILINE)
        in_taxonomy = {(name,): int(number.replace(",", "")) for name, number in found}
        problems += _differing("taxonomy", in_taxonomy, _count_labels(folder, labeled))
    return problems


def _footer(path):
    """A file's footer. Raises OSError, naming the file, if there is none."""
    try:
        return pq.read_metadata(opened(path))
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{path}: missing, or not a whole Parquet file; run python -m scripts.build again") from error


def _count_labels(folder, paths):
    counts = Counter({(finding.name,): 0 for finding in TAXONOMY})
    for path in paths:
        labels = pq.read_table(opened(os.path.join(folder, path)), columns=["label"])["label"]
        values = pc.value_counts(labels).to_pylist()
        counts.update({(TAXONOMY[value["values"]].name,): value["counts"] for value in values})
    return counts


def _differing(where, found, wanted):
    return [
        f"README.md: {where}: {' / '.join(name)}: {found.get(name)}, in the files {wanted.get(name)}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
