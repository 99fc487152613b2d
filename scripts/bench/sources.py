"""What is measured on: generated sources, and an archive as it would be without compression."""

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable

from hyper_kvasir import Expected
from scripts.pipeline.console import say
from scripts.pipeline.files import file_sha256
from scripts.pipeline.measure import run

FOLD_FILES = ("2_fold_split.csv", "5_fold_split.csv")

WRITE = """
import json, sys
from tests.fake_source import write_source
write_source(sys.argv[1], **json.loads(sys.argv[2]))
"""


def photographs(work: str, gigabytes: float) -> str:
    """A labeled archive of generated photographs, made if it is not there."""
    source = os.path.join(work, f"source-{gigabytes:g}")
    if not os.path.exists(os.path.join(source, "expected.json")):
        say(f"generating {gigabytes:g} GB of photographs")
        run([sys.executable, "-m", "tests.fake_source", source, "--gigabytes", str(gigabytes), "--images", "photo"])
    return os.path.join(source, "hyper-kvasir-labeled-images.zip")


def tiny(source: str, **settings) -> str:
    """Writes a source of images of some hundred bytes; `settings` are those of write_source in tests/fake_source.py."""
    say(f"generating {source}")
    run([sys.executable, "-c", WRITE, source, json.dumps({"images": "tiny", **settings})])
    return source


def missing(packages: Iterable[str]) -> list[str]:
    """Those of some packages that are not installed."""
    return [package for package in packages if not importlib.util.find_spec(package)]


def expectations(source: str) -> list[str]:
    """The flag that brings a source's own numbers, if it has any: else the official ones count."""
    path = os.path.join(source, "expected.json")
    return ["--expect", path] if os.path.exists(path) else []


def expected_of(source: str) -> Expected:
    """A source's own numbers, if it has any; else the official ones."""
    return Expected.load((expectations(source) or [None])[-1])


def stored(archive: str, source: str) -> str:
    """A copy of a labeled archive, with its fold csvs, in the folder `source`: no member is compressed."""
    path, beside = os.path.join(source, os.path.basename(archive)), os.path.dirname(archive)
    shutil.rmtree(source, ignore_errors=True)
    os.makedirs(source)
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename, info.date_time), old.read(info))
    for file in FOLD_FILES:
        shutil.copy(os.path.join(beside, file), source)
    expected = dataclasses.asdict(expected_of(beside))
    expected["sources"][os.path.basename(path)] = {"bytes": os.path.getsize(path), "sha256": file_sha256(path)}
    with open(os.path.join(source, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file)
    return path


def official(work: str, folder: str) -> str:
    """A source of the true ids, findings and folds in `folder`, with tiny images, made if it is not there."""
    source = os.path.join(work, "source-official")
    if not os.path.exists(os.path.join(source, "expected.json")):
        say("generating tiny images of the official ids")
        few = ["--unlabeled", "12", "--segmented", "6"]
        run([sys.executable, "-m", "tests.fake_source", source, "--official", folder, "--images", "tiny", *few])
    return source
