"""One suite for every class of archive: a zip and a folder of the same files behave alike."""

import hashlib
import os
import pickle
import zipfile
from zlib import crc32

import pytest

from hyper_kvasir import FolderArchive, Problems, SourceError, ZipArchive, find_archive

IMAGE = "images/00000000-0000-4000-8000-000000000000.jpg"
FILES = {IMAGE: b"pixel " * 40, "images/empty.jpg": b"", "license.txt": b"CC BY 4.0"}
CLUTTER = {"images/.DS_Store": b"x", "__MACOSX/images/._x.jpg": b"x", "images/._y.jpg": b"x"}


@pytest.fixture(params=["zip", "zip without deflate", "folder"])
def archive(request, tmp_path, monkeypatch):
    """An archive of FILES in the unlabeled part, with clutter and a file of another part."""
    if request.param == "zip without deflate":  # the package, which is optional
        monkeypatch.setattr("hyper_kvasir.deflate", None)
    files = {f"unlabeled-images/{name}": data for name, data in {**FILES, **CLUTTER}.items()}
    files["labeled-images/license.txt"] = b"other"
    if request.param != "folder":
        path = tmp_path / "hyper-kvasir-unlabeled-images.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, data in files.items():
                made.writestr(name, data)
        return ZipArchive(str(path), path.name)
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return FolderArchive(str(tmp_path), "unlabeled-images/")


def listed(archive, **settings):
    problems = Problems()
    members = archive.list("unlabeled", problems, **settings)
    assert not problems.found
    return members


def test_it_is_found_in_its_folder(archive):
    folder = archive.path if isinstance(archive, FolderArchive) else os.path.dirname(archive.path)
    found = find_archive("unlabeled", [folder])
    assert (type(found), found.path, found.file) == (type(archive), archive.path, archive.file)
    assert find_archive("segmented", [folder]) is None


def test_members_are_those_of_the_part_without_clutter(archive):
    members = listed(archive)
    assert {path: member.size for path, member in members.items()} == {p: len(data) for p, data in FILES.items()}
    assert members[IMAGE].name == f"unlabeled-images/{IMAGE}"


def test_members_have_crcs_if_asked(archive):
    members = listed(archive, with_crcs=True)
    assert {path: member.crc for path, member in members.items()} == {p: crc32(data) for p, data in FILES.items()}


@pytest.mark.parametrize("with_crcs", [False, True])
def test_members_are_read_whole(archive, with_crcs):
    for path, member in listed(archive, with_crcs=with_crcs).items():
        assert archive.read(member) == FILES[path]


def test_it_travels_to_a_worker(archive):
    member = listed(archive)[IMAGE]
    assert pickle.loads(pickle.dumps(archive)).read(member) == FILES[IMAGE]


@pytest.mark.parametrize(
    "wrong, said", [({"size": 3}, "bytes, expected 3"), ({"crc": 1}, "CRC is .*, expected 0000000")]
)
def test_a_member_that_is_not_as_listed_is_refused_by_name(archive, wrong, said):
    member = listed(archive, with_crcs=True)[IMAGE]._replace(**wrong)
    with pytest.raises(SourceError, match=f"{archive}: unlabeled-images/{IMAGE}: .*{said}"):
        archive.read(member)


def test_a_fingerprint_begins_with_what_is_known(archive):
    found = archive.fingerprint()
    assert archive.known().items() <= found.items() and found["file"] == archive.file
    if isinstance(archive, ZipArchive):
        with open(archive.path, "rb") as file:
            assert found["sha256"] == hashlib.sha256(file.read()).hexdigest()
        assert found["bytes"] == os.path.getsize(archive.path)


def test_a_state_changes_with_the_files(archive):
    before = archive.state("unlabeled")
    assert archive.state("unlabeled") == before
    path = before[0][0]
    assert os.path.isfile(path)
    os.utime(path, (1, 1))
    assert archive.state("unlabeled") != before


def test_an_error_names_archive_and_file(archive):
    assert str(archive.error("images/x.jpg", "is wrong")) == f"{archive.path}: images/x.jpg: is wrong"


def test_problems_know_their_place_and_are_told_once():
    problems = Problems()
    inside = problems.at("a.zip").at("labels.csv")
    inside.add("is odd", waivable=True)
    inside.add("is odd", waivable=True)
    assert problems.settle(checks=False) == ["a.zip: labels.csv: is odd"]
    with pytest.raises(SourceError, match="^a.zip: labels.csv: is odd$"):
        problems.settle(checks=True)
    problems.extend(["b.zip: x.jpg: is damaged"])
    with pytest.raises(SourceError, match="2 problems in the source:\n- a.zip: .*\n- b.zip: x.jpg: is damaged"):
        problems.settle(checks=False)
