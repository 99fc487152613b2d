"""What README.md says to run, run as it stands: on a miniature, with a Hub on this machine, in a folder of its own."""

import re
import shlex

import pytest

from scripts.loopback_hub import LoopbackHub
from tests.conftest import ROOT
from tests.fake_source import write_source
from tests.processes import Process
from tests.publisher import Publisher

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("readme")]  # each step needs those before it

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# In the order in which they can be run.
SECTIONS = ["Build", "Look at every image", "The small edition", "Publish", "Export", "Publish an update"]
ELSEWHERE = ["On a cluster", "Train on the official folds"]  # see tests/test_cluster.py and tests/test_examples.py
PLACES = [
    "archives",
    "dist/hyper-kvasir-256",
    "dist/hyper-kvasir",
    "review.html",
    "kvasir-seg-coco",
    "folds",
    "tour.png",
    "work",
]
COUNTED = ("build", "quality", "verify", "review", "publish")  # against the numbers of the miniature
FEW = {"polyps": 9, "cecum": 6, "ileum": 3, "z-line": 6, "pylorus": 5}


def section(title):
    """The text of a section, without those below it."""
    return re.search(rf"^##+ {title}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


def commands(text):
    """The commands of this project in a text, without what is said of them."""
    text = text.replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in re.findall(r"^    (python -m scripts\..*)$", text, re.MULTILINE)]


class Reader:
    """Follows README.md, in a folder."""

    def __init__(self, publisher, folder):
        self.publisher, self.folder, self.said = publisher, folder, {}

    def placed(self, text):
        """A text with its places in the folder."""
        places = "|".join(map(re.escape, PLACES))
        return re.sub(rf"(?<=[ \"])({places})(?=[\" ]|$)", lambda match: str(self.folder / match[1]), text)

    def run(self, command):
        """(exit code, all that was said)"""
        module, *arguments = shlex.split(self.placed(command))[2:]
        way_out = "--finish" in command or "--abandon" in command
        counted = module.split(".")[1] in COUNTED and not way_out
        more = ["--expect", self.folder / "archives/expected.json"] if counted else []
        more += ["--changelog", self.publisher.changelog] if module == "scripts.publish" and counted else []
        code, said = self.publisher.end(Process(self.publisher.env(), [module, *arguments, *more]))
        self.said[command] = said
        return code, said


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Has done all that README.md says."""
    folder = tmp_path_factory.mktemp("readme")
    few = {"images": "tiny", "findings": FEW, "segmented": 6, "unlabeled": 6}
    write_source(folder / "archives", **few)
    with LoopbackHub(folder / "hub") as hub:
        reader = Reader(Publisher(hub, folder / "home", True), folder)
        for title in SECTIONS:
            for command in commands(section(title)):
                if "update" in title and "--source" in command and "quality" not in command:  # labels change
                    write_source(folder / "archives", **few, relabel=len(reader.said))
                code, said = reader.run(command)
                assert code == 0 or ("--abandon" in command and "is tagged" in said), f"{command}\n{said}"
        yield reader


def test_no_command_is_left_out(reader):
    known = {command for title in [*SECTIONS, *ELSEWHERE] for command in commands(section(title))}
    assert set(commands(TEXT)) == known and len(reader.said) > 12


def test_what_the_commands_make(reader):
    made = {path.name for path in reader.folder.iterdir()}
    assert {"dist", "review.html", "kvasir-seg-coco", "folds"} <= made
    assert (reader.folder / "dist/hyper-kvasir-256/manifest.json").exists()
    files, _, tags, _ = reader.publisher.published()
    assert {"v1.0.0", "v2.0.0", "v3.0.0"} == set(tags) and "data/metadata/00.parquet" in files


def test_the_code(reader):
    """All of it in one program, as one who reads on would type it."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    archives = f'data_dir="{reader.folder}/archives"'
    numbers = f'{archives}, expected="{reader.folder}/archives/expected.json"'
    code = reader.placed("\n".join(blocks)).replace(archives, numbers)
    said = reader.publisher.python(f"{code}\nimport json\nprint(json.dumps([builder.name, len(ds)]))")
    assert len(blocks) >= 7 and said == ["hyper_kvasir", 6]
