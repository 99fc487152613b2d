"""Wide inputs: components of any mask, shards of any rows, members of any zip."""

import io
import zipfile

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from hyper_kvasir import Member, Part, Problems, Row, SourceError, ZipArchive, label_components

IDS = st.uuids(version=4).map(str)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=300, deadline=None)
def test_components_are_those_of_scipy(mask):
    wanted, number = ndimage.label(mask, np.ones((3, 3)))
    found = label_components(mask)
    assert found.shape == mask.shape and found.max(initial=0) == number
    assert np.array_equal(found, wanted)


@given(st.dictionaries(IDS, st.integers(1, 40), min_size=1, max_size=60), IDS, st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_shards_hold_every_row_once_and_are_small(sizes, new, images):
    ids = {*sizes, new}
    assume(len({image_id[:4] for image_id in ids}) == len(ids))  # by 16 bits, ranges are not cut any further
    rows = [Row(image_id, Member(f"{image_id}.jpg", size)) for image_id, size in sorted(sizes.items())]
    archive, limits = ZipArchive("a.zip", "a.zip"), (100, images)
    shards = Part("unlabeled", archive, {}, rows).shards(limits)
    assert [row for shard in shards for row in shard.rows] == rows
    assert len({shard.path for shard in shards}) == len(shards)
    for shard in shards:
        assert len(shard.rows) == 1 or shard.image_bytes <= 100 and len(shard.rows) <= images
    # One more image touches one shard, unless the ranges must be halved for it.
    more = sorted([*rows, Row(new, Member("new.jpg", 1))])
    after = {shard.path: shard.rows for shard in Part("unlabeled", archive, {}, more).shards(limits)}
    old = {shard.path: shard.rows for shard in shards}
    if new not in sizes and _bits(after) == _bits(old):
        assert len([path for path in after if after[path] != old.get(path)]) == 1


def _bits(shards):
    """The number of leading bits by which these shards can have been cut: the least that tells them apart."""
    for bits in range(17):
        ranges = [{int(row.image_id[:8], 16) >> (32 - bits) for row in rows} for rows in shards.values()]
        if all(len(r) == 1 for r in ranges) and len(set(map(frozenset, ranges))) == len(ranges):
            return bits


MEMBERS = st.dictionaries(
    IDS.map(lambda image_id: f"unlabeled-images/images/{image_id}.jpg"), st.binary(max_size=300), max_size=8
)


# zipfile takes the last PK\5\6 for the end of a zip, also in a comment.
COMMENTS = st.binary(max_size=20).filter(lambda comment: b"PK\5\6" not in comment)


@given(MEMBERS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), COMMENTS)
@settings(max_examples=150, deadline=None)
def test_members_are_read_as_zipfile_reads_them(tmp_path_factory, files, method, comment):
    path = tmp_path_factory.mktemp("zip") / "hyper-kvasir-unlabeled-images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = comment
        for name, data in files.items():
            archive.writestr(name, data)
    source, problems = ZipArchive(str(path), path.name), Problems()
    members = source.list("unlabeled", problems) if files else {}
    assert not problems.found
    assert {f"unlabeled-images/{name}": source.read(member) for name, member in members.items()} == files


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_zip_never_gives_other_bytes(tmp_path_factory, data):
    """Whatever byte is flipped: the member is read right, or refused by name; never other bytes."""
    name, content = "unlabeled-images/images/00000000-0000-4000-8000-000000000000.jpg", b"pixel " * 40
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    damaged = bytearray(buffer.getvalue())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("zip") / "hyper-kvasir-unlabeled-images.zip"
    path.write_bytes(bytes(damaged))
    source, problems = ZipArchive(str(path), path.name), Problems()
    try:
        members = source.list("unlabeled", problems)
        for found in members.values():
            if found.name == name:
                assert source.read(found) == content
    except SourceError as error:
        assert str(path) in str(error)
