"""The card's blocks for readers that work on many machines, run as they stand on the published miniature."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from hyper_kvasir import FINDINGS
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN
from tests.conftest import install, rows_of
from tests.publisher import Publisher

# With what they need beyond this environment.
NEEDS = {
    "dask": [],
    "daft": ["daft==0.7.26"],
    "ray": ["ray==2.60.0", "msgpack==1.2.4", "protobuf==7.36.2"],
    "pyspark": ["pyspark==4.3.0", "py4j==0.10.9.9"],
}
# Before a block: what keeps a reader small and to itself. After it: ({label: images}, [(image id, height, width)]).
START = {
    "ray": "import ray\nray.init(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, _temp_dir=HOME)"
}
FOUND = {
    "dask": "dict(counts), [(name, *size[:2]) for name, size in shapes.itertuples(index=False)]",
    "daft": "dict(zip(*counts.to_pydict().values())), list(zip(*shapes.to_pydict().values()))",
    "ray": "{label: n for (label,), n in counts.items()}, "
    "[(name, *size[:2]) for name, size in shapes.itertuples(index=False)]",
    "pyspark": "dict(map(tuple, counts)), [(row.image_id, *row.shape[:2]) for row in shapes]",
}
END = {"ray": "ray.shutdown()", "pyspark": "spark.stop()"}
SPARK = [
    *("--master", "local[1]", "--driver-memory", "512m"),
    *("--driver-java-options", "'-XX:TieredStopAtLevel=1 -XX:+UseSerialGC'"),  # starts in two thirds of the time
    *("--conf", "spark.ui.enabled=false", "--conf", "spark.sql.shuffle.partitions=1"),
    *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.driver.bindAddress=127.0.0.1", "pyspark-shell"),
]
SETTINGS = {
    "daft": {"DAFT_ANALYTICS_ENABLED": "0"},
    # By default 32 processes read the ends of files.
    "ray": {
        **{"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
        **{"RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1"},
    },
    "pyspark": {
        **{"PYSPARK_PYTHON": sys.executable, "PYSPARK_SUBMIT_ARGS": " ".join(SPARK)},
        **{"SPARK_LOCAL_IP": "127.0.0.1"},
    },
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("readers")]  # the miniature is published once


@pytest.fixture(scope="module")
def publisher(built, source, tmp_path_factory):
    """Of a loopback Hub that has the miniature."""
    place = tmp_path_factory.mktemp("readers")
    with LoopbackHub(place / "hub") as hub:
        publisher = Publisher(hub, place / "home", True)
        publisher.ok(built, "1.0.0", "--expect", source / "expected.json", expect=False)
        yield publisher


@pytest.fixture
def installed(request):
    """(a reader, a folder with its packages), which is removed: some have hundreds of MB."""
    reader = request.param
    if reader == "pyspark" and "ALL_READERS" not in os.environ:
        pytest.skip("to unpack its 456 MB takes a twentieth of the whole run: `nox -s readers` runs it")
    if reader == "pyspark" and java() < 17:
        pytest.skip("no Java 17 to run Spark with")
    with tempfile.TemporaryDirectory(prefix=f"{reader}-") as place:
        if NEEDS[reader] and (reason := install(NEEDS[reader], place)):
            pytest.skip(f"{reader} could not be installed: {reason}")
        yield reader, place


def java():
    """The version of Java that is here, 0 if none."""
    if not shutil.which("java"):
        return 0
    said = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', said)
    return int(version[1]) if version else 0


def section(card):
    """The card's blocks for these readers: {what is imported first in them: code}, and "hf" for the download."""
    text = re.search(r"<summary>On many machines.*?</details>", card, re.DOTALL)[0]
    blocks = re.findall(r"```(?:python|bash)\n(.*?)```", text, re.DOTALL)
    return {re.match(r"(?:import |from )?(\w+)", block)[1]: block for block in blocks}


def run(command, publisher, cwd, **settings):
    """What a command prints, with the loopback Hub as the Hub. Nothing that it started is left."""
    env = publisher.env(READ_TOKEN) | settings
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said = process.communicate(timeout=180)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, said[1][-5000:]
    return said[0]


def size_of(row):
    height, width, _ = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).shape
    return row["image_id"], height, width


@pytest.mark.parametrize("installed", NEEDS, indirect=True)
def test_counts_labels_and_decodes_images(installed, built, expected, publisher, tmp_path):
    reader, packages = installed
    blocks = section((built / "README.md").read_text(encoding="utf-8"))
    if "hyper-kvasir/{files}" in blocks[reader]:
        words = [word.strip('"') for word in blocks["hf"].split()]
        run([sys.executable, "-m", "huggingface_hub.cli.hf", *words[1:]], publisher, tmp_path)
    with tempfile.TemporaryDirectory() as home:  # of a short name: a socket of Ray is in it
        code = [f"HOME = {home!r}", START.get(reader, ""), blocks["io"], blocks[reader]]
        code += [f"import json, os, sys\nprint(json.dumps([{FOUND[reader]}], default=int))", END.get(reader, "")]
        # Ended at once: after reading, the interpreter's own end may abort (apache/arrow#45214).
        code += ["sys.stdout.flush()", "os._exit(0)"]
        settings = SETTINGS.get(reader, {}) | {"PYTHONPATH": packages, "SPARK_LOCAL_DIRS": home}
        said = run([sys.executable, "-c", "\n".join(code)], publisher, tmp_path, **settings)
    counts, sizes = json.loads(next(line for line in said.splitlines() if line.startswith("[{")))
    assert {FINDINGS[int(label)]: n for label, n in counts.items()} == +Counter(expected["findings"])
    assert sorted(map(tuple, sizes)) == sorted(map(size_of, rows_of(built, "labeled")))
