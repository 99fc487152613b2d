"""Sources and built folders that the tests share. Real data is in ../shared/source where there is any."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Before datasets is imported anywhere, as fixtures do: nothing leaves the machine, nothing comes from a user's cache.
os.environ.update(HF_UPDATE_DOWNLOAD_COUNTS="0", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1")

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "source"
# What PyTorch and scikit-learn need beyond this environment.
UNDER_TORCH = ("sympy==1.14.0", "mpmath==1.3.0", "networkx==3.6.1", "joblib==1.6.0", "narwhals==2.29.0")
# What the card says of the official masks and boxes.
OBJECT_FACTS = (
    "- Instances in an image: 1 in 952 images, 2 in 41 images, 3 in 5 images, 4 in 1 image, 10 in 1 image.",
    "- Boxes in an image: 1 in 945 images, 2 in 47 images, 3 in 6 images, 4 in 1 image, 10 in 1 image.",
    "- 974 of 1,071 boxes start one pixel left of and above their instance and end where it ends.",
    "- Boxes that end exactly at the right or lower edge of the image: 116.",
    "- Boxes that match no instance to within 2 pixels at each edge: 28 (stretched to the upper left corner: 20; "
    "otherwise off: 8).",
    "1,043 of 1,071 do",
    "Of the others, 20 reach to the upper left corner of the image, and 8 are off otherwise.",
    "- **28 of 1,071 boxes are off by more than 2 pixels**: 20 stretched to the upper left corner (IoU ",
    "- Segmented images that are JPEG files of quality 75 with a JFIF marker: 982.",
)


def pytest_collection_modifyitems(items):
    """Long groups first, so that no worker is left with one at the end."""
    first = ["full", "torch", "versions", "readme", "readers", "quality", "real", "card", "cluster", "review", "small"]

    def rank(item):
        group = item.get_closest_marker("xdist_group")
        return first.index(group.args[0]) if group and group.args[0] in first else len(first)

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A datasets cache of this run's own, for this process and its children."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    os.environ["HF_HOME"] = str(folder)
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    datasets.config.DOWNLOADED_DATASETS_PATH = folder / "downloads"
    datasets.disable_progress_bars()


@pytest.fixture(scope="session", autouse=True)
def sketched():
    """The card's figures are sketches. What is about figures takes `drawn`."""
    from scripts.pipeline import figures
    from tests.processes import sketch

    draw, figures.draw = figures.draw, sketch
    yield draw
    figures.draw = draw


@pytest.fixture(scope="module")
def drawn(sketched):
    """The card's figures are drawn, in this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.pipeline.figures.draw", sketched)
        patch.setenv("DRAW_FIGURES", "1")
        yield


@pytest.fixture(scope="session")
def real():
    if not (REAL / "hyper-kvasir-segmented-images.zip").exists():
        pytest.skip(f"no real data at {REAL}")
    return REAL


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A miniature of all parts as zips, all good."""
    from tests.fake_source import write_source

    folder = tmp_path_factory.mktemp("source")
    write_source(folder, images="tiny")
    return folder


@pytest.fixture(scope="session")
def expected(source):
    return json.loads((source / "expected.json").read_text())


@pytest.fixture(scope="session")
def built(source, tmp_path_factory):
    """The miniature built whole. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("built") / "hyper-kvasir"
    build(source, folder)
    return folder


def build(source, out, *arguments, expect=True):
    """Builds by the command, in this process; `source` brings its expected numbers."""
    from scripts.build import main

    flags = ["--expect", f"{source}/expected.json"] if expect else []
    assert main(["--source", str(source), "--out", str(out), "--workers", "1", *flags, *arguments]) == 0


def install(packages, place):
    """Why packages could not be installed, None if they were. uv is quicker than pip, and keeps the wheel of Spark."""
    uv, options = Path(sys.executable).with_name("uv"), ["--quiet", "--no-deps", "--target", place, *packages]
    ways = [[uv, "pip", "install", "--python", sys.executable]] if uv.exists() else []
    for way in [*ways, [sys.executable, "-m", "pip", "install", "--no-compile"]]:
        try:
            done = subprocess.run([*way, *options], capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return "it took more than 2 minutes"
        if not done.returncode:
            return None
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def torch_for_cpus(tmp_path_factory):
    """(a folder for PYTHONPATH with what scripts/examples needs, 800 MB; why it is not there, or None)

    Of PyTorch only the build for processors alone, where pip finds it: the one that PyPI has for Linux brings several
    GB for GPUs. Only for the xdist group "torch", where it is installed once.
    """
    place = tmp_path_factory.mktemp("torch")
    lines = (ROOT / "scripts/examples/requirements.txt").read_text().splitlines()
    packages = [f"{line}+cpu" if line.startswith("torch==") else line for line in lines if not line.startswith("#")]
    yield place, install([*packages, *UNDER_TORCH], place)
    shutil.rmtree(place)


def config_flags(configs):
    return [flag for config in configs for flag in ("--config", config)]


def block_in_card(folder, words):
    """The Python of a built folder's card that has these words, reading from that folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if words in block)
    block = re.sub(r"hf://datasets/ns/hyper-kvasir(@v[\d.]+)?", str(folder), block)
    return block.replace("ns/hyper-kvasir", str(folder))


def rows_of(folder, part):
    """The stored rows of a built folder's part, in the order of its files."""
    import pyarrow.parquet as pq

    paths = sorted((folder / "data" / part).rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def sha256_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def tree(folder):
    """{path: bytes} of every file of a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(params=["xet", "lfs"])
def publisher(request, tmp_path):
    from scripts.loopback_hub import LoopbackHub
    from tests.publisher import Publisher

    with LoopbackHub(str(tmp_path / "hub")) as hub:
        yield Publisher(hub, tmp_path / "home", request.param == "xet")


@pytest.fixture
def xet_publisher(tmp_path):
    from scripts.loopback_hub import LoopbackHub
    from scripts.loopback_hub.client import TOKENS
    from tests.publisher import STRANGER_TOKEN, Publisher

    tokens = TOKENS | {"stranger": (STRANGER_TOKEN, "write")}
    with LoopbackHub(str(tmp_path / "hub"), tokens=tokens) as hub:
        yield Publisher(hub, tmp_path / "home", True)


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    return publishable(tmp_path_factory, "everything")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return publishable(tmp_path_factory, "small", configs=["segmented", "unlabeled"])


# Three versions of a few labeled images.


@pytest.fixture(scope="session")
def v1(tmp_path_factory):
    return publishable(tmp_path_factory, "v1", few=True)


@pytest.fixture(scope="session")
def relabeled(tmp_path_factory):
    return publishable(tmp_path_factory, "relabeled", few=True, relabel=2)


@pytest.fixture(scope="session")
def added(tmp_path_factory):
    return publishable(tmp_path_factory, "added", few=True, relabel=2, add=3)


def publishable(tmp_path_factory, name, few=False, **settings):
    from tests.publisher import FEW, SOME, folder_of

    return folder_of(tmp_path_factory, name, **({"configs": SOME, "findings": FEW} if few else {}), **settings)


@pytest.fixture
def web(tmp_path):
    """A web server of the folder tmp_path/web that knows Range: (address, folder, list of requests)."""
    folder = tmp_path / "web"
    folder.mkdir()
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            requests.append((self.path, self.headers.get("Range")))
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            path = folder / self.path.lstrip("/")
            if not wanted or not path.is_file():
                return super().do_GET()
            data = path.read_bytes()
            piece = data[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {wanted[1]}-{int(wanted[1]) + len(piece) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece)

        def end_headers(self):
            self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder, requests
        server.shutdown()
