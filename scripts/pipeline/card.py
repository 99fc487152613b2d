"""The repository's README.md and the files that go with it, from `dataset_card/` and what is in the data files.

    manifest = write_card(folder, manifest)       the files, written where they differ (`update_card` says which)
    stale(folder, manifest)                       what of them is not as it would be written now

Every number is counted (`scripts.pipeline.stats`). Texts are in `dataset_card/`, which marks others' numbers as theirs.
"""

import hashlib
import io
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
import yaml
from PIL import Image

from hyper_kvasir import CITATION, HOMEPAGE, PARTS, TAXONOMY, Expected, HyperKvasir
from scripts.pipeline import croissant, leaks, small, stats
from scripts.pipeline.configs import KINDS, METADATA, VIEWS
from scripts.pipeline.console import say
from scripts.pipeline.files import opened, read, remove, sizes, write_file
from scripts.pipeline.manifest import matching, part_of_path
from scripts.pipeline.output import Journal, check_ours
from scripts.pipeline.parquet import features_metadata, find_rows
from scripts.pipeline.stats import Examples

VERSION = str(HyperKvasir.VERSION)
OFFICIAL = Expected.load(None)
SCHEMA = 7  # of the card's files but stats.json; increment it when the same data and texts are to give others
PROJECT = Path(__file__).parents[2]
TEXTS = PROJECT / "dataset_card"
PLACEHOLDER = "ns/hyper-kvasir"  # for the Hub repository, until publication knows it; see `repo_of`
COMMON_SIZES = 5  # of each part, named in the card
BUFFER = 600  # images, to shuffle a stream by; what it gives is measured by `scripts.bench streams`: see `mixed`
TRAINED = 224  # pixels a side, that the card's code for training takes
INPUTS = 10  # files that datasets fills a buffer from at a time
ENCODERS = 4  # kinds of JPEG files, named in the card
# {config: split}; of the first that is there the leaks are told
TOLD = {"fold_5": "fold_5", "fold_2": "fold_2", "kvasir_seg": "kvasir_seg_set"}
SHORTCUT = 0.5  # by how much more common a kind of file is among a finding than among all others, to be told
NO_TEXTS = (".png", ".jpg", ".json", ".csv")  # made by this project alone: nobody edits them
EDITED = ".edited-"  # after the name of a text that was edited by hand, and before a number
OTHER, UNKNOWN = "other than the official archive", "of unknown digest"
KNOWN = PROVEN, SAME_CONTENT = "the official archive", "the official content in another container"
FIGURES = ("findings", "class_balance", "quality", "sizes", "polyps", "objects", "heat_maps", "unfit", "pairs")


# ------------------------------------------------------------------------------------------------------------- files


def repo_of(manifest: dict, repo_id: str | None) -> str:
    """A repository's id, where it is known, or what stands for that of an edition."""
    return repo_id or PLACEHOLDER + (f"-{manifest['max_side']}" if "max_side" in manifest else "")


def card_key(manifest: dict, repo_id: str | None = None) -> str:
    """sha256 of all that the card is made from: the files' digests, the texts, and the SCHEMA of what makes it.

    Without the changelog: every version adds to it, and publication brings its own.
    """
    inputs = {name: manifest[name] for name in ("complete", "configs", "sources", "versions")}
    inputs["files"] = {path: entry["sha256"] for path, entry in manifest["files"].items()}
    inputs["schema"] = [SCHEMA, stats.SCHEMA]
    inputs["dataset"] = [repo_of(manifest, repo_id), VERSION, TAXONOMY, CITATION, HOMEPAGE]
    scaled = "max_side" in manifest
    inputs["views"] = {
        config: [VIEWS[config].description, features_metadata(config, scaled)] for config in manifest["configs"]
    }
    if scaled:
        inputs["max_side"] = manifest["max_side"]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    for path in sorted(set(TEXTS.iterdir()) - {TEXTS / "CHANGELOG.md"}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def version_of(manifest: dict) -> str:
    """The version that is published, or the builder's own before that."""
    return manifest.get("version", VERSION)


def builder_commit() -> str | None:
    """The commit of this project's code, with "-dirty" where files differ from it; None outside a git work tree."""
    if not (PROJECT / ".git").exists():  # else git would give the commit of a repository around it
        return None
    command = ["git", "--no-optional-locks", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a work tree that it refuses
        return None


def card_files(
    manifest: dict,
    summaries: dict,
    examples: Examples,
    *,
    repo_id: str | None = None,
    changelog: str | None = None,
    commit: str | None = None,
    pairs: Sequence[dict] = (),
) -> dict[str, bytes]:
    """{path: content} of README.md and the files that go with it.

    `summaries` comes from `stats.collect`, `commit` from `builder_commit`, `pairs` from `leaks.all_pairs`; `examples`
    gives stored rows by part and image ids (`stats.paths_of` says in which files); `changelog` replaces
    dataset_card/CHANGELOG.md. The same arguments give the same bytes.
    """
    from scripts.pipeline import figures  # loads matplotlib, which an up-to-date card need not wait for

    repo_id = repo_of(manifest, repo_id)
    parts = stats.by_part(summaries)
    drawn = figures.draw(parts, examples, pairs)
    context = _context(manifest, parts, drawn, examples, repo_id=repo_id, commit=commit)
    card = f"---\n{_yaml(front_matter(manifest))}---\n\n{_render('card.md.j2', context)}"
    texts = {
        "README.md": card,
        stats.FILE: stats.stats_text(summaries),
        "croissant.json": croissant.croissant_text(
            manifest, _metadata(), _rai(context), repo_id=repo_id, version=version_of(manifest)
        ),
        "CITATION.bib": CITATION + "\n",
        "CITATION.cff": re.sub(r"(?m)^version: .*", f"version: {version_of(manifest)}", _text("CITATION.cff")),
        "CHANGELOG.md": changelog or _text("CHANGELOG.md"),
        "datasheet.md": _render("datasheet.md", context),
    }
    if METADATA in parts:
        texts[leaks.FILE] = leaks.csv_text(pairs)
    if "segmented" in parts:
        texts[stats.OBJECTS_FILE] = stats.objects_text(parts["segmented"])
    return {path: text.encode() for path, text in texts.items()} | {figure.path: figure.data for figure in drawn}


def write_card(
    folder: str,
    manifest: dict,
    repo_id: str | None = None,
    journal: Journal | None = None,
    *,
    summaries: dict[str, dict] | None = None,
) -> dict:
    """Writes the card's files into `folder` where they differ; returns the manifest with its "card" entry.

    That is {"key": of `card_key`, "commit": of `builder_commit`, "files": {path: {"bytes", "sha256"}}}. Nothing is made
    or written where `stale` finds nothing. Files whose `summaries` are given are not read again. Raises OSError where a
    stored file is missing or damaged.
    """
    before = manifest.get("card", {}).get("files", {})
    spoiled = [path for path, entry in before.items() if _sha256(folder, path) not in (entry["sha256"], None)]
    manifest, changed = update_card(folder, manifest, repo_id, journal, summaries=summaries)
    for path in changed:
        if EDITED in path:
            say(f"{path.rpartition(EDITED)[0]} had been edited by hand: that text is now {path}")
        elif path in spoiled and path.endswith(NO_TEXTS):
            say(f"{path} had other bytes than were written: it is written anew")
    return manifest


def update_card(
    folder: str,
    manifest: dict,
    repo_id: str | None = None,
    journal: Journal | None = None,
    *,
    summaries: dict[str, dict] | None = None,
) -> tuple[dict, list[str]]:
    """As `write_card`; returns the manifest and the paths that were written, removed, or kept under another name.

    A build notes what it writes in its `journal`, which tells what is ours while the manifest is away, and raises
    BuildError for a file that is not. Otherwise that, or a text that was edited by hand, is kept beside its place.
    """
    if not stale(folder, manifest, repo_id):
        return manifest, []
    old = manifest.get("card", {}).get("files", {})
    as_written = _sha256(folder, stats.FILE) == old.get(stats.FILE, {}).get("sha256")
    known = (stats.read_stats(folder) if as_written else {}) | (summaries or {})
    summaries = stats.collect(folder, manifest, known)
    pairs = stored_pairs(manifest, lambda path: opened(os.path.join(folder, path)))
    manifest, files = make_card(manifest, summaries, folder_examples(folder, summaries), repo_id, pairs=pairs)
    removed = sorted(sizes(folder, set(old) - set(files)))
    written = [path for path, data in files.items() if _content(folder, path) != data]
    noted = journal.entries() if journal else {}
    check_ours(folder, written, old if journal else files, journal)
    kept = []
    for path in [*written, *removed]:
        ours = {entry["sha256"] for entry in [*noted.get(path, []), *([old[path]] if path in old else [])]}
        if path not in old or not path.endswith(NO_TEXTS):
            kept += _keep_edited(folder, path, ours)
    for path in written if journal else ():
        journal.add(path, {"sha256": hashlib.sha256(files[path]).hexdigest()})
    remove(folder, removed)
    for path in written:
        write_file(os.path.join(folder, path), files[path])
    return manifest, sorted([*written, *removed, *kept])


def _keep_edited(folder, path, ours):
    """Keeps a file that is not as this project wrote it aside: an edit by hand may be all that there is of it."""
    if _sha256(folder, path) in (None, *ours):
        return []
    aside = next(name for i in range(1, 1000) if _content(folder, name := f"{path}{EDITED}{i}") is None)
    write_file(os.path.join(folder, aside), _content(folder, path))
    return [aside]


def make_card(
    manifest: dict, summaries: dict, examples: Examples, repo_id: str | None, changelog: str | None = None, **data
) -> tuple[dict, dict[str, bytes]]:
    """(the manifest with its "card" entry, the files of `card_files`). An unchanged key keeps its commit."""
    key, old = card_key(manifest, repo_id), manifest.get("card", {})
    commit = old["commit"] if old.get("key") == key and "commit" in old else builder_commit()
    files = card_files(manifest, summaries, examples, repo_id=repo_id, changelog=changelog, commit=commit, **data)
    entries = {path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()}
    card = {"key": key, "commit": commit, "files": dict(sorted(entries.items()))}
    return {**manifest, "card": card}, files


def stale(folder: str, manifest: dict, repo_id: str | None = None) -> list[str]:
    """How the card in `folder` differs from what `write_card` would leave there; empty if it does not."""
    if "card" not in manifest:
        return ["README.md: the manifest has no card; run python -m scripts.card on the folder"]
    problems = []
    if manifest["card"]["key"] != card_key(manifest, repo_id):
        made = "made from other data or texts, or by another version"
        problems.append(f"README.md: {made}; run python -m scripts.card on the folder")
    for path, entry in manifest["card"]["files"].items():
        found = _sha256(folder, path)
        if found is None:
            problems.append(f"{path}: not in the folder; run python -m scripts.card on it")
        elif found != entry["sha256"]:
            edit = "" if path.endswith(NO_TEXTS) else " (to keep an edit, make it in dataset_card/)"
            problems.append(f"{path}: changed since it was made; run python -m scripts.card on the folder{edit}")
    return problems


def folder_examples(folder: str, summaries: dict) -> Examples:
    """Rows out of the Parquet files in a folder."""

    def examples(part, image_ids):
        paths = stats.paths_of(summaries, part, image_ids)
        return find_rows([opened(os.path.join(folder, path)) for path in paths], image_ids)

    return examples


def stored_pairs(manifest: dict, opened: Callable) -> list[dict]:
    """The pairs that `metadata` has, if it is there; `opened` gives a file, by path or open, by its path."""
    paths = [path for path in manifest["files"] if part_of_path(path) == METADATA]
    return leaks.all_pairs(row for path in paths for row in leaks.read_rows(opened(path)))


def _content(folder, path):
    """The bytes of a file of a folder, None where there is none."""
    place = os.path.join(folder, path)
    return None if os.path.isdir(place) else read(place)


def _sha256(folder, path):
    data = _content(folder, path)
    return None if data is None else hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------------------- texts


def _text(name):
    return (TEXTS / name).read_text(encoding="utf-8")


def _metadata():
    return yaml.safe_load(_text("metadata.yaml"))


def _rai(context):
    """rai.yaml with the texts in it rendered; what renders empty is left out of lists."""

    def rendered(value):
        if isinstance(value, dict):
            return {key: rendered(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [text for text in map(rendered, value) if text]
        return " ".join(_template(value).render(context).split())

    return rendered(yaml.safe_load(_text("rai.yaml")))


def _render(name, context):
    """A text of `dataset_card/`, without the empty lines and trailing spaces that its conditions leave."""
    text = _template(_text(name)).render(context)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE)).rstrip() + "\n"


@cache  # a build renders the card several times, and compiling it takes most of that
def _template(text):
    return _environment().from_string(text)


@cache
def _environment():
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "n": lambda number: f"{number:,}",
        "size": _in_bytes,
        "percent": stats.in_percent,
        "words": _in_words,
        "encoder": _encoder_in_words,
        "figure": _in_markdown,
    }
    return environment


def _in_bytes(number):
    """Bytes in the largest unit that leaves a whole digit, e.g. "43.6 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:,.1f} {unit}" if unit != "bytes" else f"{number:,} bytes"
        number /= 1000


def _encoder_in_words(file):
    """A kind of image files, with "quality" and "jfif"."""
    return f"JPEG files of quality {file['quality']} {'with' if file['jfif'] else 'without'} a JFIF marker"


def _in_words(texts):
    """Texts as a sentence lists them: "a", "a and b", "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _in_markdown(figure):
    return f"![{figure.alt}]({figure.path})"


def _yaml(data):
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def front_matter(manifest: dict) -> dict:
    """The card's metadata. Configs and `dataset_info` are spelled so that datasets from 2.21 on reads them."""
    metadata, parts = _metadata(), {VIEWS[config].part for config in manifest["configs"]}
    tasks = [metadata["tasks"][part] for part in PARTS if part in parts]
    counted = {"labeled" if "labeled" in parts else "segmented", "unlabeled"}  # segmented images are labeled ones
    counted = counted if counted & parts else {METADATA}
    images = sum(entry["rows"] for path, entry in manifest["files"].items() if part_of_path(path) in counted)
    return {
        "language": metadata["language"],
        "license": metadata["license"],
        "pretty_name": croissant.pretty_name(metadata, manifest),
        "task_categories": [category for task in tasks for category in task["task_categories"]],
        "task_ids": [task_id for task in tasks for task_id in task["task_ids"]],
        "size_categories": [_size_category(images)],
        "tags": metadata["tags"],
        "annotations_creators": metadata["annotations_creators"],
        "source_datasets": metadata["source_datasets"],
        "configs": [_config_yaml(config, splits) for config, splits in manifest["configs"].items()],
        "dataset_info": [_info_yaml(config, splits, manifest) for config, splits in manifest["configs"].items()],
    }


def _size_category(rows):
    steps = ("1K", "10K", "100K", "1M")
    for i, step in enumerate(steps):
        if rows < 10 ** (i + 3):
            return f"{steps[i - 1]}<n<{step}" if i else "n<1K"
    raise ValueError(f"{rows:,} images: more than this dataset can have")


def _config_yaml(config, splits):
    files = [{"split": split, "path": entry["files"]} for split, entry in splits.items()]
    return {
        "config_name": config,
        "data_files": files,
        **({"default": True} if config == HyperKvasir.DEFAULT_CONFIG_NAME else {}),
    }


def _info_yaml(config, splits, manifest):
    files, scaled = manifest["files"], "max_side" in manifest
    rows = []
    for split, entry in splits.items():
        data_bytes = sum(files[path]["data_bytes"] for path in matching(entry["files"], files))
        rows.append({"name": split, "num_bytes": data_bytes, "num_examples": entry["rows"]})
    paths = {path for entry in splits.values() for path in matching(entry["files"], files)}
    return {
        "config_name": config,
        "features": [{"name": name, **_feature_yaml(f)} for name, f in features_metadata(config, scaled).items()],
        "splits": rows,
        "download_size": sum(files[path]["bytes"] for path in paths),
        "dataset_size": sum(row["num_bytes"] for row in rows),
    }


def _feature_yaml(feature):
    """A feature as the Hub's `dataset_info` writes it, in the spelling that all versions of datasets read."""
    kind = feature.get("_type")
    if kind == "Value":
        return {"dtype": feature["dtype"]}
    if kind == "ClassLabel":
        return {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(feature["names"])}}}}
    if kind == "Image":
        return {"dtype": "image"}
    inner = feature["feature"]
    if "_type" in inner:
        length = {"length": feature["length"]} if feature.get("length", -1) != -1 else {}
        return {"sequence": _feature_yaml(inner)["dtype"], **length}
    return {"sequence": [{"name": name, **_feature_yaml(f)} for name, f in inner.items()]}


# ------------------------------------------------------------------------------------------- what the templates say


def _context(manifest, parts, drawn, examples, *, repo_id, commit):
    """The names that the texts of `dataset_card/` use."""
    metadata = _metadata()
    configs = [_config_context(config, splits, manifest) for config, splits in manifest["configs"].items()]
    sources = {part: _source_context(part, source) for part, source in manifest["sources"].items()}
    differences = _differences(parts)
    proven = [part for part, source in sources.items() if source["known"] in KNOWN]
    # Of the unlabeled archive nobody has published a digest.
    others = [f"`{part}`" for part, source in sources.items() if part not in (*proven, "unlabeled")]
    labeled, segmented, unlabeled = map(parts.get, PARTS)
    main = next((config for config in configs if config["default"]), configs[0])
    described = [_part_context(part, parts[part], manifest, metadata, examples) for part in parts]
    return {
        "meta": metadata,
        "repo_id": repo_id,
        "version": version_of(manifest),
        "commit": commit,
        "homepage": HOMEPAGE,
        "citation": CITATION,
        "complete": manifest["complete"],
        "official": manifest["complete"] and not differences and set(sources) <= set(proven),
        "others": others,
        "proven": proven,
        "differences": differences,
        "configs": configs,
        "config_names": list(manifest["configs"]),
        "uses": list(
            dict.fromkeys(use for part in (*PARTS, METADATA) if part in parts for use in metadata["uses"][part])
        ),
        "main": main,
        "stream": _stream_context(main["splits"][0], manifest),
        "folds": next((config for config in configs if config["name"].startswith("fold_")), None),
        "parts": described,
        "bytes": {part["name"]: part["bytes"] for part in described},
        "labeled": _labeled_context(labeled, metadata) if labeled else None,
        "segmented": _segmented_context(segmented) if segmented else None,
        "unlabeled": unlabeled,
        "shared": len(set(labeled["polyps"]) & set(segmented["polyps"])) if labeled and segmented else 0,
        "shortcut": _shortcut(labeled["encoders"]) if labeled else None,
        "unlike": _unlike(segmented["encoders"], labeled["encoders"] if labeled else [])
        if segmented and "max_side" not in manifest
        else None,
        "small": _small_context(manifest["max_side"], parts, repo_id) if "max_side" in manifest else None,
        "leaks": _leaks_context(parts[METADATA], list(manifest["configs"])) if METADATA in parts else None,
        "figures": dict.fromkeys(FIGURES) | {figure.name: figure for figure in drawn},
        "spellings": [(finding.name, finding.spellings[0]) for finding in TAXONOMY if finding.spellings],
        "claims": _claims(metadata["claims"], parts, proven),
        "sources": list(sources.values()),
        "versions": manifest["versions"],
    }


def _small_context(max_side, parts, repo_id):
    """What the small edition loses, and what of its files still tells findings."""
    pictures = [parts[part] for part in PARTS if part in parts]
    masks = parts["segmented"]["mask_ious"] if "segmented" in parts else []
    lost = parts["segmented"]["lost"] if "segmented" in parts else []
    told = stats.told_by_files(parts["labeled"]) if "labeled" in parts else []
    suffix = f"-{max_side}"
    shorter = [(min(width, height), images) for part in pictures for width, height, images in part["sizes"]]
    return {
        "images": sum(images for _, images in shorter),
        "narrow": sum(images for side, images in shorter if side < TRAINED),
        "least": min(side for side, _ in shorter),
        "max_side": max_side,
        "quality": small.QUALITY,
        "subsampling": small.SUBSAMPLING,
        "full": repo_id.removesuffix(suffix) if repo_id.endswith(suffix) else None,
        "sampled": small.SAMPLED,
        "psnr": _spread_of(stats.merged("psnr", pictures)),
        "masks": _spread_of(masks) if masks else None,
        "lost": len(lost),
        "lost_pixels": max((pixels for *_, pixels in lost), default=0),
        "told": [{**entry, "finding": TAXONOMY[entry["label"]].name} for entry in told],
    }


def _spread_of(counted):
    """How many values there are, and their spread, of [[value, times]]."""
    values = [value for value, times in counted for _ in range(times)]
    return {"number": len(values), **_spread(values)}


def _claims(claims, parts, proven):
    """{kind: texts} of what was not counted here: about the parts whose archive is proven to be the official one."""
    about = [part for part in parts if part in proven]
    about += [METADATA] if METADATA in parts and "segmented" in proven else []
    about += ["all"] if proven else []
    found = [claim for name in about for claim in claims.get(name, []) if claim.get("unless") not in parts]
    return {kind: [claim["text"] for claim in found if claim["kind"] == kind] for kind in ("measured", "reported")}


def _shortcut(encoders):
    """The finding that the kind of its JPEG files tells best from all others, if one is told well.

    {"finding", "jfif", "quality", "images", "of": those of the finding, "others", "of_others": those of all others}
    """
    images = Counter({(label, jfif, value): count for label, jfif, value, count in encoders})
    of_label, of_kind = Counter(), Counter()
    for (label, *kind), count in images.items():
        of_label[label] += count
        of_kind[tuple(kind)] += count
    total, found = of_label.total(), []
    for (label, *kind), count in images.items():
        of, of_others, others = of_label[label], total - of_label[label], of_kind[tuple(kind)] - count
        if min(of, of_others) >= leaks.FEW and count / of - others / of_others >= SHORTCUT:
            found.append((count / of - others / of_others, label, *kind, count, of, others, of_others))
    if not found:
        return None
    _, label, *numbers = max(found)
    names = ("jfif", "quality", "images", "of", "others", "of_others")
    return {"finding": TAXONOMY[label].name, **dict(zip(names, numbers))}


def _unlike(encoders, of_labeled):
    """The kind of JPEG files that most segmented images are, unless those of other findings are, too."""
    _, *kind, images = max(encoders, key=lambda encoder: encoder[3])
    others = [encoder for encoder in of_labeled if encoder[0] != stats.POLYPS]
    alike = sum(count for _, *other, count in others if other == kind)
    if 2 * alike >= sum(count for *_, count in others) > 0:
        return None
    return dict(zip(("jfif", "quality", "images"), (*kind, images)))


def _differences(parts):
    """Numbers of the dataset that are not the official ones, totals first: [{"what", "here", "official"}]."""
    rows = [(f"{part} images", parts[part]["rows"], getattr(OFFICIAL, part)) for part in PARTS if part in parts]
    if "segmented" in parts:
        for what, kind in (("instances", stats.INSTANCE), ("boxes", stats.BOX)):
            rows.append((what, len(stats.objects_of(parts["segmented"], kind)), getattr(OFFICIAL, what)))
    if "labeled" in parts:
        counts = stats.label_counts(parts["labeled"])
        rows += [(f.name, counts[label], OFFICIAL.findings[f.name]) for label, f in enumerate(TAXONOMY)]
    return [dict(zip(("what", "here", "official"), row)) for row in rows if row[1] != row[2]]


def _config_context(config, splits, manifest):
    return {
        "name": config,
        "default": config == HyperKvasir.DEFAULT_CONFIG_NAME,
        "description": VIEWS[config].description,
        "bytes": sum(
            manifest["files"][path]["bytes"]
            for entry in splits.values()
            for path in matching(entry["files"], manifest["files"])
        ),
        "splits": [
            {"name": split, **entry, "count": len(matching(entry["files"], manifest["files"]))}
            for split, entry in splits.items()
        ],
    }


def _stream_context(split, manifest):
    """A buffer to shuffle the stream of a split by, and about what is asked for before the first row comes out of it.

    By then, datasets 5.2 has read about three buffers of rows, and half of the last file of each of the INPUTS that it
    reads at a time.
    """
    files = [manifest["files"][path] for path in matching(split["files"], manifest["files"])]
    rows, size = sum(entry["rows"] for entry in files), sum(entry["bytes"] for entry in files)
    share = min(1, 3 * BUFFER / rows + INPUTS / len(files) / 2)
    return {"buffer": BUFFER, "bytes": round(share * size), "share": share}


def _part_context(part, summary, manifest, metadata, examples):
    views = [config for config in manifest["configs"] if VIEWS[config].part == part and config != part]
    files = [path for path in manifest["files"] if part_of_path(path) == part]
    meanings = croissant.meanings_of(part, metadata, "max_side" in manifest)
    features = features_metadata(part, "max_side" in manifest)
    return {
        "name": part,
        "views": [f"`{view}`" for view in views],
        "columns": [{"name": name, "type": kind, "meaning": meanings[name]} for name, kind in _columns(features)],
        "example": _row_text(examples(part, [summary["first"]])[summary["first"]], features),
        "files": len(files),
        "bytes": sum(manifest["files"][path]["bytes"] for path in files),
        "sizes": len(summary["sizes"]),
        "range": stats.size_range(summary),
        "common": stats.common_sizes(summary, COMMON_SIZES),
    }


def _columns(features):
    """(column, type in words) of features; those of a struct as struct.column."""
    for name, feature in features.items():
        inner = feature.get("feature", {})
        if feature["_type"] == "Sequence" and "_type" not in inner:
            yield from ((f"{name}.{column}", f"list of {kind}") for column, kind in _columns(inner))
        elif feature["_type"] == "Sequence":
            yield name, f"{feature.get('length', 'list of')} {inner['dtype']}"
        elif feature["_type"] == "ClassLabel":
            count = len(feature["names"])
            yield name, f"class label, {count} {'classes' if count > 1 else 'class'}"
        else:
            yield name, feature.get("dtype") or "image"


def _row_text(row, features):
    """A stored row as Python shows it once loaded, class names beside numbers."""
    lines = []
    for name, value in row.items():
        note = ""
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            value = _shown(Image.open(io.BytesIO(value["bytes"])))
        elif features[name]["_type"] == "ClassLabel" and value is not None:
            value, note = repr(value), f"  # {features[name]['names'][value]}"
        else:
            value = repr(value)
        lines.append(f"    {name!r}: {value},{note}\n")
    return "{\n" + "".join(lines) + "}"


def _shown(image):
    """An image as Python shows it, without its address in memory."""
    kind = type(image)
    return f"<{kind.__module__}.{kind.__name__} image mode={image.mode} size={image.width}x{image.height}>"


def _labeled_context(labeled, metadata):
    counts = stats.label_counts(labeled)
    by_category, by_tract = Counter(), Counter()
    for label, images in counts.items():
        by_category[TAXONOMY[label].category] += images
        by_tract[TAXONOMY[label].tract] += images
    return {
        "rows": labeled["rows"],
        "in_folds": _in_folds(labeled),
        "findings": sorted(counts),
        "categories": [
            (name, by_category[name], metadata["categories"][name])
            for name in VIEWS["category"].values
            if by_category[name]
        ],
        "tracts": [(name, by_tract[name]) for name in VIEWS["tract"].values if by_tract[name]],
        "ratio": round(max(counts.values()) / min(counts.values())),
        "least": min(counts.values()),
        "most": max(counts.values()),
        "folds": _fold_table(labeled),
        "uneven": _most_uneven(labeled),
        "taxonomy": [
            {**finding._asdict(), "number": i, "images": counts[i], "meaning": metadata["findings"][finding.name]}
            for i, finding in enumerate(TAXONOMY)
        ],
    }


def _in_folds(summary):
    """The images of which a fold is known."""
    return sum(images for _, *folds, images in summary["cells"] if folds != [None, None])


def _fold_table(labeled):
    """{"columns": [(folds of the split, fold)], "rows": [(finding, images in each)]}"""
    counts = {k: stats.label_counts(labeled, column) for column, k in enumerate((2, 5), start=1)}
    columns = [(k, fold) for k in counts for fold in _sorted({fold for _, fold in counts[k]})]
    labels = sorted(stats.label_counts(labeled))
    rows = [(TAXONOMY[label].name, [counts[k][label, fold] for k, fold in columns]) for label in labels]
    return {"columns": columns, "rows": rows}


def _sorted(folds):
    return sorted(folds, key=lambda fold: (fold is None, fold))


def _most_uneven(labeled):
    """Where a fold is farthest above an even share of a finding: {"finding", "split", "fold", "images", "of", "ratio"}.

    None without folds.
    """
    totals, cells = stats.label_counts(labeled), []
    for folds, column in ((2, 1), (5, 2)):
        for (label, fold), images in stats.label_counts(labeled, column).items():
            if fold is not None:
                cells.append((images * folds / totals[label], label, folds, fold, images))
    if not cells:
        return None
    ratio, label, folds, fold, images = max(cells)
    names = {"finding": TAXONOMY[label].name, "split": f"fold_{folds}", "fold": f"fold_{fold}"}
    return {**names, "images": images, "of": totals[label], "ratio": ratio}


def _segmented_context(segmented):
    kinds = {"instances": stats.INSTANCE, "boxes": stats.BOX}
    objects = {name: stats.objects_of(segmented, kind) for name, kind in kinds.items()}
    fits = Counter(box.fit for box in objects["boxes"])
    encoders = sorted(segmented["encoders"], key=lambda encoder: -encoder[3])
    return {
        "rows": segmented["rows"],
        "in_folds": _in_folds(segmented),
        **{name: len(some) for name, some in objects.items()},
        "in_all": len(objects["instances"]) + len(segmented.get("lost", ())),  # with those that the small edition lost
        "in_kvasir_seg": sum(images for name, images in segmented["kvasir_seg"] if name),
        "offset": segmented["boxes_offset"],
        "at_edge": segmented["boxes_at_edge"],
        **{fit: fits[fit] for fit in stats.FITS},
        "unfit": fits.total() - fits[stats.MATCHED],
        "unboxed": sum(thing.match is None for thing in objects["instances"]),
        "kinds": [_sizes_context(name, some, segmented["rows"]) for name, some in objects.items()],
        "covered": sum(thing.share for thing in objects["instances"]) / segmented["rows"],
        "in_an_image": {name: segmented[name] for name in objects},
        "overlap": float(np.median([box.iou for box in objects["boxes"]] or [0])),
        "densest": {name: stats.densest(segmented, name) for name in ("mask_map", "box_map")},
        "match": stats.MATCH,
        "off": _off(segmented),
        "shown": stats.MOST_UNFIT,
        "encoders": [dict(zip(("jfif", "quality", "images"), encoder)) for _, *encoder in encoders[:ENCODERS]],
    }


def _off(segmented):
    """The boxes that match nothing, by how they do not: [{"number", "how", "range" of their IoU, in words}]"""
    ways = {stats.STRETCHED: "stretched to the upper left corner", stats.UNMATCHED: "elsewhere"}
    found, unfit = [], stats.unfit_boxes(segmented)
    for fit, how in ways.items():
        ious = [box.iou for box in unfit if box.fit == fit]
        if ious:
            some = f"{min(ious):.2f}" if len(ious) == 1 else f"{min(ious):.2f} to {max(ious):.2f}"
            found.append({"number": len(ious), "how": how, "range": some})
    return found


def _sizes_context(name, objects, images):
    """A line of the table of objects."""
    sizes = {
        column: _spread([round(getattr(thing, column), digits) for thing in objects] or [0])
        for column, digits in (("width", 1), ("height", 1), ("share", 6))
    }
    return {"name": name.capitalize(), "number": len(objects), "in_an_image": len(objects) / images, **sizes}


def _leaks_context(metadata, configs):
    """What the pairs of images in `metadata` say, with what is 0 or unknown left out."""
    sides, splits = {}, {}
    for split, side, images in metadata["sides"]:
        sides.setdefault(split, []).append((side, images))
    for split, kind, pairs, across in metadata["leaks"]:
        if split in sides:
            splits.setdefault(split, {})[kind] = {"pairs": pairs, "across": across}
    groups = {kind: dict(zip(("groups", "images", "largest"), numbers)) for kind, numbers in metadata["groups"].items()}
    between = {}
    for one, other, kind, pairs in metadata["between"]:
        between.setdefault((one, other), dict.fromkeys(KINDS, 0))[kind] = pairs
    findings = {}
    for one, other, kind, pairs in metadata["findings"]:
        names = TAXONOMY[one].name, TAXONOMY[other].name
        findings.setdefault(names, dict.fromkeys(KINDS, 0))[kind] = pairs
    ious = metadata["mask_ious"]
    return {
        "names": leaks.SPLITS,
        "told": next((split for config, split in TOLD.items() if config in configs and split in splits), None),
        "leaking": {split: sum(numbers["across"] for numbers in kinds.values()) for split, kinds in splits.items()},
        "rows": metadata["rows"],
        "groups": groups,
        "splits": splits,
        "sides": sides,
        "between": between,
        "labeled_between": any("labeled" in places for places in between),
        "findings": dict(sorted(findings.items(), key=lambda item: -sum(item[1].values()))),
        "moved": {split: moved for split, moved in metadata["moved"] if split in sides},
        "absent": leaks.absent_findings(metadata),
        "masks": {"pairs": len(ious), **_spread(ious)} if ious else None,
        "headers": leaks.told_by_header(metadata["encoders"]),
    }


def _spread(values):
    return {
        **{"least": min(values), "most": max(values)},
        **{"median": float(np.median(values)), "mean": float(np.mean(values))},
    }


def _source_context(part, source):
    """A source. Of an extracted folder nothing but its name, and the content of `segmented`, is known."""
    official = OFFICIAL.sources.get(source["file"], {}).get("sha256")
    known = UNKNOWN if official is None and "content" not in source else OTHER
    if source.get("sha256") == official is not None:
        known = PROVEN
    elif source.get("content") == OFFICIAL.segmented_content:
        known = SAME_CONTENT
    return {
        "part": part,
        "file": source["file"],
        "bytes": f"{source['bytes']:,}" if "bytes" in source else "",
        "sha256": source.get("sha256", ""),
        "content": source.get("content", ""),
        "known": known,
    }
