"""What the card says of streams is so, and nodes that share a dataset see every row once."""

import os
import random
import uuid

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node

from hyper_kvasir import VIEWS, Member, Part, Row, ZipArchive
from scripts.bench import streams
from scripts.pipeline.card import BUFFER, _stream_context
from scripts.pipeline.small import shard_limits
from tests.conftest import block_in_card

BUFFERED = 40  # images, less than a third of the labeled ones
RANKS = 4


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Streams end without the wait that is for a program that ends by itself."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def resume(built, tmp_path, monkeypatch):
    """A function that runs the card's recipe until it has trained on some batches; returns all ids that were given.

    The program is killed in the batch after these: before the state of that one was kept.
    """
    monkeypatch.chdir(tmp_path)
    recipe = block_in_card(built, "load_state_dict")

    class Killed(Exception):
        pass

    def run(batches=None, epoch=0, shuffled=False):
        given = []

        def train(batch):
            if len(given) == batches:
                raise Killed
            given.append(batch["image_id"])

        code = recipe.replace("...  # your training step", "train(batch)")
        change = f".shuffle(seed=0, buffer_size={BUFFERED})" if shuffled else ""
        code = code.replace("streaming=True)", f"streaming=True){change}\nds.set_epoch({epoch})")
        assert code.count("train(batch)") == code.count("set_epoch") == 1
        try:
            exec(code, {"load_dataset": datasets.load_dataset, "train": train})
        except Killed:
            assert batches is not None
        return [image_id for batch in given for image_id in batch]

    return run


def all_ids(built, config):
    rows = datasets.load_dataset(str(built), config, split="train").select_columns("image_id")
    return rows["image_id"][:]


def test_a_stream_goes_on_where_it_was(built, resume, tmp_path):
    ids = all_ids(built, "labeled")
    batches = -(-len(ids) // 32)
    for stop in range(1, batches):
        assert resume(stop) + resume() == ids
        assert not (tmp_path / "checkpoint.json").exists(), "the next run begins anew"
    given = [resume(1) for _ in range(batches)]  # killed in each
    assert [image_id for some in given for image_id in some] == ids


def test_a_state_is_of_its_epoch(built, resume):
    ids = all_ids(built, "labeled")
    before = resume(2, epoch=1)
    after = resume(epoch=1)
    assert sorted(before + after) == sorted(ids) and before + after != ids
    assert len(resume(1, epoch=2)) == 32 and len(resume(epoch=1)) == len(ids), "a state of another epoch is not used"


def test_a_shuffled_stream_does_not(built, resume, tmp_path):
    """What the card warns of. In one of these places datasets 5.2 cuts a batch to a negative length, a SystemError."""
    ids = all_ids(built, "labeled")
    whole = resume(shuffled=True)
    assert sorted(whole) == sorted(ids)
    wrong = 0
    for stop in range(1, -(-len(ids) // 32)):
        (tmp_path / "checkpoint.json").unlink(missing_ok=True)
        before = resume(stop, shuffled=True)
        assert before == whole[: 32 * stop], "the same seed gives the same order"
        try:
            after = resume(shuffled=True)
        except SystemError:
            after = []
        wrong += sorted(before + after) != sorted(ids)
    assert wrong


def test_the_advice_to_shuffle(built):
    code = block_in_card(built, "ds.shuffle(")
    names = {"load_dataset": datasets.load_dataset}
    exec(code, names)
    assert f"buffer_size={BUFFER})" in code
    ids = [row["image_id"] for row in names["ds"].select_columns("image_id")]
    assert sorted(ids) == sorted(all_ids(built, "labeled")) and ids != sorted(ids)


def test_what_is_asked_for_before_the_first_row(tmp_path):
    """The card's number is near to what datasets opens, of files of numbers in place of images."""
    rows = np.random.default_rng(0).integers(4, 60, 200).tolist()
    paths = [f"data/labeled/tract/category/{i:03}.parquet" for i in range(len(rows))]
    os.makedirs(tmp_path / os.path.dirname(paths[0]))
    for path, count in zip(paths, rows):
        pq.write_table(pa.table({"label": [0] * count}), tmp_path / path)
    manifest = {"files": {path: {"rows": count, "bytes": 7 * count} for path, count in zip(paths, rows)}}
    said = _stream_context({"files": VIEWS["labeled"].files}, manifest)
    assert said["share"] == pytest.approx(said["bytes"] / (7 * sum(rows)), abs=0.001)
    passes = streams.child("mix", str(tmp_path), BUFFER, 5, env=os.environ)
    asked = [sum(manifest["files"][path]["rows"] for path in opened) / sum(rows) for _, opened in passes]
    assert 0.2 < said["share"] < 0.5 and np.mean(asked) == pytest.approx(said["share"], abs=0.03)
    few = {"files": dict.fromkeys(paths[:1], {"rows": 9, "bytes": 63})}
    assert _stream_context({"files": VIEWS["labeled"].files}, few) == {"buffer": BUFFER, "bytes": 63, "share": 1}


def test_files_are_within_the_limits_of_their_part():
    """Of a thousand images of one cell."""
    ids = sorted(str(uuid.UUID(int=random.Random(i).getrandbits(128))) for i in range(1000))

    def most(part, size):
        rows = [Row(image_id, Member(f"{image_id}.jpg", size), label=0) for image_id in ids]
        shards = Part(part, ZipArchive("a.zip", "a.zip"), {}, rows).shards()
        return max(len(shard.rows) for shard in shards), max(shard.image_bytes for shard in shards)

    assert [most(part, 1)[0] <= 64 for part in ("labeled", "segmented", "unlabeled")] == [True, False, False]
    assert shard_limits("labeled", 64)[1] == 64  # in the small edition, too
    assert most("segmented", 40_000) == (1000, 40_000_000)
    assert most("labeled", 1 << 20)[1] <= 32 << 20 < most("unlabeled", 1 << 20)[1] <= 64 << 20


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("part", ["labeled", "segmented", "unlabeled"])
def test_nodes_see_every_row_once(built, part, streaming, shuffled):
    rows = datasets.load_dataset(str(built), part, split="train", streaming=streaming)
    if shuffled:
        rows = rows.shuffle(seed=0, **({"buffer_size": BUFFERED} if streaming else {}))
    nodes = [split_dataset_by_node(rows, rank, RANKS).select_columns("image_id") for rank in range(RANKS)]
    seen = [[row["image_id"] for row in node] for node in nodes]
    ids = all_ids(built, part)
    assert sorted(image_id for some in seen for image_id in some) == sorted(ids)
    assert all(seen)
