"""Validation of a dataset card's metadata, by the Hub's public rules, without its lists of licenses and tasks."""

import re
from collections import Counter

import yaml

FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def card_metadata(text: str) -> dict:
    """The front matter of a card; an empty dict when there is none. Raises yaml.YAMLError."""
    found = FRONT_MATTER.match(text)
    metadata = yaml.safe_load(found[1]) if found else None
    if metadata is not None and not isinstance(metadata, dict):
        raise yaml.YAMLError("The metadata must be a mapping")
    return metadata or {}


def validate_card(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    try:
        metadata = card_metadata(text)
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"], []
    warnings = [] if metadata else ["empty or missing yaml metadata in repo card"]
    return config_errors(metadata.get("configs", [])), warnings


def config_errors(configs: object) -> list[str]:
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        return ['"configs" must be a list of mappings']
    names = [config.get("config_name") for config in configs]
    errors = [
        f'"configs[{place}].config_name" is required and must be a string'
        for place, name in enumerate(names)
        if not isinstance(name, str) or not name
    ]
    counts = Counter(map(str, names)).items()
    errors += [f'"configs" has the config_name {name!r} {count} times' for name, count in counts if count > 1]
    if sum(config.get("default") is True for config in configs) > 1:
        errors.append('"configs" has several defaults')
    return errors + [error for place, config in enumerate(configs) for error in data_files_errors(place, config)]


def data_files_errors(place: int, config: dict) -> list[str]:
    files, where = config.get("data_files"), f'"configs[{place}].data_files"'
    if files is None or isinstance(files, str):
        return []
    if not isinstance(files, list) or not files:
        return [f"{where} must be a path, a list of paths, or a list of split and path"]
    if all(isinstance(entry, str) for entry in files):
        return []
    if not all(isinstance(entry, dict) and {"split", "path"} <= entry.keys() for entry in files):
        return [f"{where}: every entry needs a split and a path"]
    splits = Counter(entry["split"] for entry in files)
    return [f"{where} has the split {split!r} {count} times" for split, count in splits.items() if count > 1]
