"""All that is supported, tested with each other: `nox`, in the environment of the tests (.venv-test/bin/nox).

    nox -s versions     # reading, on each Python with each datasets; ends with a table
    nox -s scripts      # the demo and every command, on each Python
    nox -s readers      # the card's blocks, with torchvision, transformers, albumentations and Spark
    nox -s exports      # exports, read by the programs that they are for
    nox -s docs         # the API of hyper_kvasir.py as pages, into dist/api

`nox -l` lists all sessions. CI runs a sample of the first. A Python that nox neither finds on PATH nor can download is
skipped.
"""

import re
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.options.default_venv_backend = "uv|virtualenv"

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]  # of readers; what scripts/ pins needs 3.11
# Oldest first, with the versions of its time of what it works closely with. Of all else it gets the newest there is.
DATASETS = {
    "2.21.0": [
        *("huggingface_hub==0.24.6", "fsspec==2024.6.1", "dill==0.3.8", "multiprocess==0.70.16"),
        "pyarrow==17.0.0; python_version < '3.13'",  # has no wheel for later ones
    ],
    "3.6.0": [
        *("huggingface_hub==0.31.4", "fsspec==2025.3.0", "dill==0.3.8", "multiprocess==0.70.16"),
        "pyarrow==20.0.0",
    ],
    "4.0.0": [
        *("huggingface_hub==0.33.4", "fsspec==2025.3.0", "dill==0.3.8", "multiprocess==0.70.16"),
        "pyarrow==21.0.0",
    ],
    "4.8.5": [],
    "5.2.0": [],
}
ASKED = "import huggingface_hub, pyarrow; print(pyarrow.__version__, huggingface_hub.__version__, sep=', ')"
cells = {}  # {(python, datasets): what came out}


@nox.session(python=PYTHONS)
@nox.parametrize("datasets", list(DATASETS))
def versions(session, datasets):
    """tests/test_versions.py, with the session's environment as the reader."""
    session.notify("table")
    cell = session.python, datasets
    cells[cell] = "not installed"
    session.install(f"datasets=={datasets}", "pillow", *DATASETS[datasets])
    cells[cell] = "stopped"
    asked, start = session.run("python", "-c", ASKED, silent=True).strip(), time.monotonic()
    report = Path(session.create_tmp(), "report.xml")
    pytest = [sys.executable, "-m", "pytest", "-n", "0", f"--junitxml={report}", "tests/test_versions.py"]
    reader = {"READER": f"{session.bin}/python", "READER_DATASETS": datasets}
    session.run(*pytest, env=reader, external=True, success_codes=[0, 1])
    tests = ElementTree.parse(report).iter("testcase")
    failed = [re.sub(r"test_|\[.*", "", test.get("name")) for test in tests if len(test)]
    cells[cell] = f"{', '.join(failed) or 'ok'} {time.monotonic() - start:.0f} s ({asked})"
    if failed:
        session.error(f"{len(failed)} failed")


@nox.session(python=False, default=False)
def table(session):
    """What came out of `versions`."""
    rows = [[python, *(cells.get((python, version), "not run") for version in DATASETS)] for python in PYTHONS]
    rows.insert(0, ["Python", *(f"datasets {version}" for version in DATASETS)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    print("In parentheses: pyarrow, huggingface_hub")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


@nox.session(python=PYTHONS[1:])
def scripts(session):
    """The demo (build, verify, publish), the pass over its images, and the help of every command."""
    for layer in ("", "scripts/", "scripts/loopback_hub/", "scripts/export-"):
        session.install("-r", f"{layer}requirements.txt")
    demo = f"{session.create_tmp()}/demo"
    session.run("python", "-m", "scripts.walkthrough", "--to", demo)
    folder, expect = f"{demo}/hyper-kvasir", ("--expect", f"{demo}/source/expected.json")
    session.run("python", "-m", "scripts.quality", "--source", f"{demo}/source", "--out", folder, *expect)
    session.run("python", "-m", "scripts.verify", folder, *expect)
    export = ("scripts.export", folder, "coco", "--config", "kvasir_seg_clean", "--to", f"{demo}/coco")
    session.run("python", "-m", *export)
    commands = [path.stem for path in Path("scripts").glob("[!_]*.py")]
    for command in [*commands, "bench", "loopback_hub"]:
        session.run("python", "-m", f"scripts.{command}", "--help", silent=True)


# With pip, which finds smaller builds of torch where it is told of them: uv downloads 3 GB.
@nox.session(venv_backend="virtualenv", default=False)
def readers(session):
    """The card's blocks with all that they import, Spark's too: 7 GB."""
    for layer in ("", "scripts/", "tests/", "tests/readers-"):
        session.install("-r", f"{layer}requirements.txt")
    blocks = ["tests/test_blocks.py", "tests/test_readers.py"]
    session.run("python", "-m", "pytest", "-n", "0", "-rs", *blocks, env={"ALL_READERS": "1"})


@nox.session(venv_backend="virtualenv", default=False)
def exports(session):
    """tests/test_export.py, with nnU-Net, MONAI, FiftyOne and Ultralytics as readers: 8 GB."""
    session.install("-r", "tests/programs-requirements.txt")
    command = [sys.executable, "-m", "pytest", "-n", "0", "tests/test_export.py", "-k", "own_program"]
    session.run(*command, env={"EXPORT_READERS": f"{session.bin}/python"}, external=True)


@nox.session(default=False)
def docs(session):
    """The API reference, dist/api/hyper_kvasir.html."""
    session.install("-r", "requirements.txt", "pdoc==16.0.0")
    session.run("pdoc", "hyper_kvasir", "-o", "dist/api", env={"PYTHONPATH": "."})
