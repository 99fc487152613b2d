"""Validation of a dataset card's metadata, as far as the Hub's own rules are public."""

import re
from collections import Counter

import yaml

FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
LICENSES = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail openrail++ osl-3.0 other pddl postgresql
    unknown unlicense wtfpl zlib""".split()
)


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
    return license_errors(metadata) + config_errors(metadata.get("configs", [])), warnings


def license_errors(metadata: dict) -> list[str]:
    given = metadata.get("license", [])
    licenses = given if isinstance(given, list) else [given]
    return [f'"license" must be a licence id of the Hub, not {name!r}' for name in licenses if name not in LICENSES]


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
