"""Every defect of a source is refused by name, says what was expected and what to do, and leaves nothing finished."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hyper_kvasir
from hyper_kvasir import FINDINGS, VIEWS, Expected, SourceError, listed
from scripts.build import main
from scripts.verify import main as verify
from tests.conftest import ROOT, build, config_flags, sha256_of, tree
from tests.fake_source import DEFECTS, UNDECODABLE, ZIP_ONLY_DEFECTS, write_source

# defect: (the part it is done to, what the message must say)
REFUSED = {
    "archive_missing": ("labeled", r"labeled part is missing: no hyper-kvasir-labeled-images.zip.* Download https://"),
    "archive_truncated": ("labeled", r"labeled-images.zip: truncated or damaged zip .* has [\d,]+ bytes.*again"),
    "not_a_zip": ("labeled", r"labeled-images.zip: is not a zip file; expected an official archive, download it again"),
    "html_instead_of_zip": ("labeled", r"labeled-images.zip: is an HTML page instead of a zip file"),
    "wrong_sha256": ("labeled", r"not the official .*: [\d,]+ bytes with sha256 \w{64}, expected .* \w{64}; download"),
    "content_changed": ("segmented", r"not the official hyper-kvasir-segmented-images.zip: content digest \w{64}, exp"),
    "not_in_kvasir_seg": (
        "segmented",
        r"not among the images of Kvasir-SEG that kvasir_seg.csv lists: 1 \(\w{8}-\S+\)",
    ),
    "other_kvasir_seg_set": ("segmented", r"sets of Kvasir-SEG of \[\d, \d\] images, expected \[\d, \d\]"),
    "bad_crc": ("labeled", r"labeled-images/\S+\.jpg: CRC is \w{8}, expected \w{8}; the file is damaged"),
    "zero_byte_image": (
        "labeled",
        r"\.jpg: expected a whole JPEG image: it has zero bytes; download the archive again",
    ),
    "not_a_jpeg": ("labeled", r"\.jpg: expected a whole JPEG image: it is not a JPEG"),
    "truncated_jpeg": ("labeled", r"\.jpg: expected a whole JPEG image: image file is truncated"),
    "unknown_finding_folder": ("labeled", r"unknown finding folder 'upper-gi-tract/pathological-findings/angiectasia'"),
    "listed_image_missing": (
        "labeled",
        r": 7 found, expected 8 images; listed in image-labels.csv but missing: 1 \(\w{8}-",
    ),
    "unlisted_image": ("labeled", r"9 found, expected 8 images; not listed in image-labels.csv: 1 \(\w{8}-"),
    "csv_folder_disagree": ("labeled", r"is in folder \S+, but \S+ in image-labels.csv; correct one of them"),
    "id_in_two_findings": ("labeled", r"\w{12} is in two findings, \S+ and \S+; keep one"),
    "labels_csv_missing": ("labeled", r"labeled-images/image-labels.csv is missing"),
    "labels_csv_malformed": ("labeled", r"image-labels.csv, line \d+: unknown finding"),
    "not_a_uuid": ("labeled", r"photo1.jpg: not an image name; expected <uuid>.jpg"),
    "fold_csv_missing": (
        "labeled",
        r"2_fold_split.csv could not be downloaded: https://\S+5ae933b\S+.*\(looked for in",
    ),
    "fold_csv_unknown_class": ("labeled", r"2_fold_split.csv, line \d+: unknown class name 'normal-colon'; expected"),
    "fold_csv_lacks_ids": ("labeled", r"2_fold_split.csv: missing images of \S+: 3 \(\w{8}-"),
    "fold_csv_disagrees": ("labeled", r"the two fold csvs disagree: \S+ and \S+"),
    "fold_bad_index": ("labeled", r"2_fold_split.csv, line \d+: split index '7'; expected 0 to 1"),
    "mask_missing": ("segmented", r"segmented-images/images/\S+\.jpg: its mask masks/\S+\.jpg is missing"),
    "mask_other_size": ("segmented", r"masks/\S+\.jpg: mask of \d+ x \d+ pixels, its image has \d+ x \d+"),
    "mask_empty": ("segmented", r"masks/\S+\.jpg: empty mask; expected at least one polyp"),
    "mask_without_image": ("segmented", r"masks without an image: 1 \(\w{8}-"),
    "box_file_missing": ("segmented", r"segmented-images/bounding-boxes.json is missing; download the archive again"),
    "box_file_malformed": ("segmented", r"bounding-boxes.json: malformed \(.*\); expected \{id: "),
    "box_out_of_bounds": ("segmented", r"box \[\d+, \d+, \d+, \d+\] is empty or out of bounds of \d+ x \d+ pixels"),
    "box_missing_for_image": ("segmented", r"bounding-boxes.json: \S+: no box for this image; expected"),
    "name_with_dotdot": (
        "labeled",
        r"member 'labeled-images/\.\./\.\./\S+' has '\.\.' in its name; the archive is ref",
    ),
    "name_absolute": ("labeled", r"member '/tmp/\S+' has an absolute name; the archive is refused, download it again"),
    "name_duplicate": ("labeled", r"member 'labeled-images/\S+' appears twice in the archive; the archive is refused"),
    "name_symlink": ("labeled", r"member 'labeled-images/\S+' is a symbolic link; the archive is refused"),
    "member_encrypted": ("labeled", r"member 'labeled-images/\S+' is encrypted; the archive is refused"),
    "member_claims_huge_size": ("labeled", r"claims 50,000,000,000 bytes, more than any file of this dataset"),
    "exif_orientation": ("labeled", r"\.jpg: expected a whole JPEG image: its EXIF orientation turns it"),
    "mask_grey": ("segmented", r"masks/\S+\.jpg: [\d,]+ pixels are neither black nor white; expected a mask in black"),
    "mask_turned": ("segmented", r"masks/\S+\.jpg: expected a whole JPEG image: its EXIF orientation turns it"),
    "box_moved": ("segmented", r"not the official bounding-boxes.json: sha256 \w{64}, expected \w{64}; download the"),
    "boxes_swapped": ("segmented", r"not the official bounding-boxes.json: sha256 \w{64}, expected \w{64}"),
    "box_file_key_twice": ("segmented", r"bounding-boxes.json: malformed \(the key '\w{8}-\S+' is there twice\)"),
    "box_file_latin1": ("segmented", r"bounding-boxes.json: malformed \(byte \d+ is not UTF-8\)"),
    "box_not_a_number": ("segmented", r"boxes.json: \w{8}-\S+: malformed \('12' is not a whole number of pixels\)"),
    "box_without_label": ("segmented", r"boxes.json: \w{8}-\S+: malformed \('label' is missing\); expected \{"),
    "newline_in_name": ("labeled", r"\w{12}\\n\.jpg: not an image name; expected <uuid>.jpg"),
    "wrapped_twice": (
        "labeled",
        r"no image of the labeled part; it holds \d+ files, such as 'a/b/labeled-images/.*'; exp",
    ),
    "folder_in_capitals": (
        "labeled",
        r"no image of the labeled part; .* such as 'Labeled-images/.*'; expected labeled-im",
    ),
    "archive_in_archive": (
        "labeled",
        r"no image of the labeled part; it holds another zip, 'download/.*': extract that",
    ),
    "segmented_id_not_polyp": ("segmented", r"is polyps, but \S+ in the fold csvs; correct one of them"),
}
IN_A_FOLDER = [name for name in REFUSED if name not in ZIP_ONLY_DEFECTS]
# Of these, "no_checks" builds what is true all the same, and says what is missing.
WAIVED = [
    "not_in_kvasir_seg",
    "other_kvasir_seg_set",
    "wrong_sha256",
    "content_changed",
    "listed_image_missing",
    "unlisted_image",
    "labels_csv_missing",
    "fold_csv_missing",
    "fold_csv_lacks_ids",
    "mask_without_image",
    "box_moved",
    "boxes_swapped",
    "wrapped_twice",
    "folder_in_capitals",
    "archive_in_archive",
]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """So that a fold csv that is missing here is not downloaded, wherever the tests run."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def parts_with(part):
    """Generated parts so that a defect is done to `part`."""
    return ("segmented",) if part == "segmented" else ("labeled", "segmented")


def arguments_for(tmp_path, part):
    configs = [config for config, view in VIEWS.items() if view.part in parts_with(part)]
    flags = config_flags(configs)
    source = str(tmp_path / "source")
    flags += ["--expect", f"{source}/expected.json", "--workers", "1"]
    return ["--source", source, "--out", str(tmp_path / "out"), *flags]


def nothing_finished(out):
    assert not out.exists() or os.listdir(out) in ([], [".building"])


def test_every_defect_is_tested():
    assert set(DEFECTS) == set(REFUSED) | set(UNDECODABLE) | {"system_clutter"}


@pytest.mark.parametrize("form, defect", [("zip", d) for d in REFUSED] + [("folder", d) for d in IN_A_FOLDER])
def test_a_defect(form, defect, tmp_path, capsys):
    """It is refused by name. Without checks, damage is refused as well; of the rest it is said that it is missing."""
    part, message = REFUSED[defect]
    write_source(tmp_path / "source", images="tiny", form=form, parts=parts_with(part), defects=[defect])
    arguments = arguments_for(tmp_path, part)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    if form == "folder":  # messages name the folder there
        message = message.replace("hyper-kvasir-segmented-images.zip", "segmented-images/")
    assert re.search(message, said), said
    assert "Traceback" not in said
    nothing_finished(tmp_path / "out")
    if form == "folder" or defect == "archive_missing":  # see test_parts_whose_archive_is_not_there
        return
    if defect in WAIVED:
        assert main([*arguments, "--no-verify"]) == 0
        assert "waived: " in capsys.readouterr().err
        assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"] is False
    else:
        assert main([*arguments, "--no-verify"]) == 1
        nothing_finished(tmp_path / "out")


FEW = dict.fromkeys(FINDINGS, 0) | {"cecum": 2, "polyps": 2}


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_images_that_cannot_be_decoded(form, tmp_path, capsys):
    """One of each kind, where no digest vouches for them; CRCs are right. Without checks, too."""
    write_source(
        tmp_path / "source",
        images="drawn",
        unlabeled=len(UNDECODABLE) + 1,
        form=form,
        parts=("unlabeled",),
        defects=list(UNDECODABLE),
    )
    expected = json.loads((tmp_path / "source/expected.json").read_text())
    (tmp_path / "source/expected.json").write_text(json.dumps({**expected, "sources": {}}))
    arguments = ["--source", f"{tmp_path}/source", "--out", f"{tmp_path}/out", "--config", "unlabeled"]
    arguments += ["--expect", f"{tmp_path}/source/expected.json"]
    for more in ([], ["--no-verify"]):
        assert main([*arguments, *more]) == 1
        said = capsys.readouterr().err
        found = re.findall(r"(\S+)\.jpg: expected a whole JPEG image: it (?:cannot be decoded|is not coded)", said)
        hidden = re.search(r"- and (\d+) more", said)
        assert len(set(found)) + (int(hidden[1]) if hidden else 0) == len(UNDECODABLE), said
        nothing_finished(tmp_path / "out")


def test_what_a_digest_vouched_for_is_decoded_without_checks(tmp_path, capsys):
    """Though it was built before, by a run that was refused in the end."""
    write_source(tmp_path / "source", images="drawn", parts=("segmented",), defects=["jpeg_zeroed_scan"])
    arguments = [*arguments_for(tmp_path, "segmented")[:4], "--config", "segmented", "--workers", "1"]
    arguments += ["--expect", f"{tmp_path}/source/expected.json"]
    for more, message in (([], "not the official"), (["--no-verify"], "it cannot be decoded: Corrupt JPEG data")):
        assert main([*arguments, *more]) == 1
        assert message in capsys.readouterr().err
        nothing_finished(tmp_path / "out")


def test_an_archive_of_a_known_digest_is_not_decoded(tmp_path, monkeypatch):
    """Its digest is checked, which takes a fraction of the time; without checks that counts for nothing."""
    write_source(tmp_path / "source", images="tiny", findings=FEW, segmented=0, parts=("labeled",))
    decoded = []
    check_jpeg = hyper_kvasir.check_jpeg
    monkeypatch.setattr(hyper_kvasir, "check_jpeg", lambda data: decoded.append(data) or check_jpeg(data))
    build(tmp_path / "source", tmp_path / "out", "--config", "labeled")
    assert not decoded
    build(tmp_path / "source", tmp_path / "other", "--config", "labeled", "--no-verify")
    assert len(decoded) == 4


def test_all_problems_are_listed_at_once(tmp_path, capsys):
    write_source(tmp_path / "source", images="tiny", defects=["truncated_jpeg", "wrong_sha256"])
    write_source(tmp_path / "other", images="tiny", parts=("segmented",), defects=["mask_empty", "box_file_malformed"])
    os.replace(
        tmp_path / "other/hyper-kvasir-segmented-images.zip", tmp_path / "source/hyper-kvasir-segmented-images.zip"
    )
    flags = [
        "--source",
        f"{tmp_path}/source",
        "--out",
        f"{tmp_path}/out",
        "--expect",
        f"{tmp_path}/source/expected.json",
    ]
    assert main(flags) == 1
    said = capsys.readouterr().err
    for text in ("image file is truncated", "malformed", "hyper-kvasir-labeled-images.zip: not the"):
        assert text in said


@pytest.mark.parametrize("form", ["zip", "folder", "full-zip"])
@pytest.mark.parametrize("spelling", ["folder", "csv"])
def test_every_form_and_spelling_gives_the_same_files(form, spelling, tmp_path, built):
    write_source(tmp_path / "source", images="tiny", form=form, spelling=spelling)
    build(tmp_path / "source", tmp_path / "out")
    assert tree(tmp_path / "out/data") == tree(built / "data")


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_clutter_is_passed_over(form, tmp_path, built):
    write_source(tmp_path / "source", images="tiny", form=form, defects=["system_clutter"])
    build(tmp_path / "source", tmp_path / "out", *(["--no-verify"] if form == "zip" else []))  # of another sha256 then
    assert tree(tmp_path / "out/data") == tree(built / "data")


@pytest.mark.parametrize("inner", ["hyper-kvasir-labeled-images", "hyper-kvasir"])
def test_folders_as_archive_managers_extract_them(inner, tmp_path):
    write_source(tmp_path / "source", images="tiny", form="folder", parts=("labeled",))
    (tmp_path / "source" / inner).mkdir()
    shutil.move(tmp_path / "source/labeled-images", tmp_path / "source" / inner)
    build(tmp_path / "source", tmp_path / "out", "--config", "labeled")


def test_several_sources(tmp_path, built):
    write_source(tmp_path / "one", images="tiny", parts=("labeled", "unlabeled"))
    write_source(tmp_path / "two", images="tiny", parts=("segmented",), form="folder")
    build(tmp_path / "one", tmp_path / "out", "--source", str(tmp_path / "two"))
    assert tree(tmp_path / "out/data") == tree(built / "data")


@pytest.mark.parametrize("belongings", ["notes.txt", "manifest.json"])
def test_a_folder_of_something_else_is_not_written_to(belongings, tmp_path, source, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / belongings).write_text("{}")
    flags = ["--source", str(source), "--out", str(out), "--expect", f"{source}/expected.json"]
    assert main(flags) == 1
    assert "belongs to something else; choose" in capsys.readouterr().err
    assert tree(out) == {belongings: b"{}"}


def test_an_output_below_a_file_is_refused(tmp_path, source, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/out"):
        assert main(["--source", str(source), "--out", str(out), "--expect", f"{source}/expected.json"]) == 1
        assert f"error: {tmp_path}/file" in capsys.readouterr().err


def test_too_small_a_disk_is_refused_before_any_work(tmp_path, source, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    flags = ["--source", str(source), "--out", str(tmp_path / "out"), "--expect", f"{source}/expected.json"]
    assert main(flags) == 1
    assert "MB needed, 0.0 MB free on its disk; free some space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_disk_that_runs_full_keeps_what_is_built(tmp_path, source, built):
    """A limit on the size of files stands in for a full disk: a write fails in the middle of a file."""
    command = [sys.executable, "-m", "scripts.build", "--source", source, "--out", tmp_path / "out"]
    command = [str(part) for part in [*command, "--expect", source / "expected.json"]]
    sizes = sorted(path.stat().st_size for path in built.rglob("*.parquet"))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-2], sizes[-2]))

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and "kept; fix that and run again" in done.stderr, done.stderr
    nothing_finished(tmp_path / "out")
    assert not list(Path(tmp_path / "out").rglob("*.incomplete"))
    build(source, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(built)


WRONG_NUMBERS = {
    "no object": (lambda n: [], "expected an object"),
    "a finding alone": (
        lambda n: {"findings": {"cecum": 1}},
        "'findings' must be a number of images for each of the 23",
    ),
    "findings as a list": (lambda n: {**n, "findings": [1]}, "'findings' must be"),
    "a number as text": (lambda n: {**n, "boxes": "7"}, "'boxes' must be a whole number, at least 0"),
    "true": (lambda n: {**n, "boxes": True}, "'boxes' must be a whole number"),
    "a fold less": (lambda n: {**n, "fold_5": [1, 2]}, "'fold_5' must be a list of 5 numbers of images"),
    "no sources": (lambda n: {**n, "sources": None}, "'sources' must be"),
    "a source without digest": (lambda n: {**n, "sources": {"a.zip": {}}}, "'sources' must be"),
    "a source of text": (lambda n: {**n, "sources": {"a.zip": "x"}}, "'sources' must be"),
    "an unknown name": (lambda n: {**n, "videos": 1}, "unknown field 'videos'"),
    "a name less": (
        lambda n: {k: v for k, v in n.items() if k != "unlabeled"},
        "'unlabeled' is missing; expected a whole",
    ),
    "a part that there is not": (
        lambda n: {**n, "part_digests": {"videos": "0" * 64}},
        "'part_digests' must be {part:",
    ),
    "a digest too short": (lambda n: {**n, "segmented_content": "1f"}, "'segmented_content' must be 64 hex digits"),
}


@pytest.mark.parametrize("wrong", WRONG_NUMBERS)
def test_expected_numbers_of_another_form_are_refused(wrong, tmp_path, expected):
    change, message = WRONG_NUMBERS[wrong]
    (tmp_path / "numbers.json").write_text(json.dumps(change(expected)))
    with pytest.raises(ValueError, match=f"numbers.json: not a file of expected numbers: .*{re.escape(message)}"):
        Expected.load(tmp_path / "numbers.json")


def test_a_file_of_expected_numbers_that_is_none(tmp_path, source, capsys):
    flags = ["--source", str(source), "--out", str(tmp_path / "out"), "--expect", str(tmp_path / "numbers.json")]
    assert main(flags) == 1 and "numbers.json: cannot be read (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "numbers.json").write_text("[" * 99_999)
    assert main(flags) == 1 and "numbers.json: not a file of expected numbers: it is not" in capsys.readouterr().err
    (tmp_path / "numbers.json").write_bytes(b"\xef\xbb\xbf" + (source / "expected.json").read_bytes())
    assert Expected.load(tmp_path / "numbers.json") == Expected.load(source / "expected.json")


def test_a_missing_source_folder_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert "nowhere: no such folder" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- what people's folders look like


def refused(arguments, capsys):
    """What a build says that is refused without a traceback, and without output that looks finished."""
    assert main([str(argument) for argument in arguments]) == 1
    nothing_finished(Path(arguments[arguments.index("--out") + 1]))
    return capsys.readouterr().err


def a_source(tmp_path, *parts, **settings):
    write_source(tmp_path / "source", images="tiny", parts=parts, **settings)
    configs = config_flags(parts)
    flags = ["--workers", "1", "--out", tmp_path / "out", "--expect", tmp_path / "source/expected.json", *configs]
    return tmp_path / "source", ["--source", tmp_path / "source", *flags]


def test_a_local_fold_csv_that_is_not_the_official_one(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "labeled")
    csv = source / "2_fold_split.csv"
    expected = json.loads((source / "expected.json").read_text())
    expected["sources"]["2_fold_split.csv"] = {"bytes": 0, "sha256": sha256_of(csv)}
    (source / "expected.json").write_text(json.dumps(expected))
    good = csv.read_bytes()
    lines = good.decode().splitlines()
    ends = [i for i, line in enumerate(lines) if ";polyp;" in line][:: len([1 for x in lines if ";polyp;" in x]) - 1]
    for i in ends:  # counts and ids stay as they are
        lines[i] = lines[i][:-1] + str(1 - int(lines[i][-1]))
    csv.write_text("\n".join(lines) + "\n")
    assert "2_fold_split.csv: not the official 2_fold_split.csv: sha256" in refused(arguments, capsys)
    csv.write_bytes(good.replace(b"\n", b"\r\n"))
    assert main([str(argument) for argument in arguments]) == 0


def test_empty_lines_of_a_csv_are_passed_over(tmp_path):
    source, arguments = a_source(tmp_path, "labeled", form="folder")
    for csv in (source / "2_fold_split.csv", source / "labeled-images/image-labels.csv"):
        csv.write_bytes(csv.read_bytes().rstrip() + b"\n\n\n")
    assert main([str(argument) for argument in arguments]) == 0


PLACES = ["labeled-images", "unlabeled-images", "unlabeled-images/masks", "segmented-images/extra"]


@pytest.mark.parametrize("place", PLACES)
def test_an_image_outside_of_its_folders_is_not_passed_over(place, tmp_path, capsys):
    source, arguments = a_source(tmp_path, "labeled", "segmented", "unlabeled", form="folder")
    (source / place).mkdir(exist_ok=True)
    image = next((source / "unlabeled-images/images").glob("*.jpg"))
    shutil.copy(image, source / place / "11111111-2222-4333-8444-555555555555.jpg")
    said = refused(arguments, capsys)
    assert "11111111-2222-4333-8444-555555555555.jpg: an image outside the folders of this part; move or" in said


def test_a_part_that_lies_twice_in_a_zip(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "unlabeled")
    with zipfile.ZipFile(source / "hyper-kvasir-unlabeled-images.zip", "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".jpg"))
        archive.writestr(f"copy/{name}", archive.read(name))
    assert f"member 'copy/{name}' is the same file as '{name}'; the archive is refused" in refused(arguments, capsys)


def test_files_of_a_folder_that_are_not_regular(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "unlabeled", form="folder")
    images = source / "unlabeled-images/images"
    names = [f"{i}1111111-2222-4333-8444-555555555555.jpg" for i in range(4)]
    os.mkfifo(images / names[0])
    (images / names[1]).symlink_to(tmp_path / "nowhere.jpg")
    with open(images / names[2], "wb") as file:
        file.truncate(70 << 20)
    (tmp_path / "elsewhere").mkdir()
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    said = refused(arguments, capsys)
    for text in (
        f"{names[0]} is not a regular file; remove it",
        f"{names[1]} is a link to nothing",
        f"{names[2]} has 73,400,320 bytes, more than any file of this dataset",
        "linked is a link to a folder",
    ):
        assert text in said


def test_a_folder_of_links_to_files_as_caches_keep_them(tmp_path):
    source, arguments = a_source(tmp_path, "unlabeled", form="folder")
    for image in (source / "unlabeled-images/images").glob("*.jpg"):
        image.rename(tmp_path / image.name)
        image.symlink_to(tmp_path / image.name)
    assert main([str(argument) for argument in arguments]) == 0


def test_a_zip_whose_outer_folder_is_not_named_in_utf8(tmp_path, monkeypatch):
    source, arguments = a_source(tmp_path, "unlabeled")
    path = source / "hyper-kvasir-unlabeled-images.zip"
    with zipfile.ZipFile(path) as archive:
        members = {f"Übung/{name}": archive.read(name) for name in archive.namelist()}
    monkeypatch.setattr(
        zipfile.ZipInfo, "_encodeFilenameFlags", lambda info: (info.filename.encode("cp437"), info.flag_bits & ~0x800)
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert main([*map(str, arguments), "--no-verify"]) == 0  # zipped anew, so of another sha256


def test_parts_whose_archive_is_not_there(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "segmented")
    everything = arguments[: arguments.index("--config")]
    said = refused(everything, capsys)
    assert "the labeled part is missing" in said and "the unlabeled part is missing" in said
    assert "to use what is there: --config segmented" in said
    assert main([*map(str, everything), "--no-verify"]) == 0
    assert "left out: the unlabeled part is missing" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "out/manifest.json").read_text())["configs"]) == ["segmented", "kvasir_seg"]


def test_the_zip_itself_as_the_source(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "labeled")
    arguments[1] = source / "hyper-kvasir-labeled-images.zip"
    assert "Download" in refused([*arguments[:-2], "--config", "unlabeled"], capsys)
    assert main([str(argument) for argument in arguments]) == 0  # with the fold csvs that lie beside it


def test_a_config_of_which_nothing_is_there(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "labeled")
    for k in (2, 5):
        (source / f"{k}_fold_split.csv").unlink()
    said = refused([*arguments[:-1], "fold_2", "--no-verify"], capsys)
    assert "no image for any split of fold_2; give the missing files, or build other configs (--config)" in said


def test_errors_have_an_end():
    """However many problems there are, of whatever length and with whatever in their names."""
    many = [f"zip: member 'images/{i}.jpg' is no image" for i in range(20_000)]
    text = str(SourceError([*many, "\x1b[31m" + "x" * 99_999, "one more"]))
    assert text.startswith("20,002 problems in the source:\n") and text.endswith("- one more\n- and 19,992 more")
    assert len(text) < 5000 and text.replace("\n", "").isprintable()
    assert listed(["a", "b"]) == "- a\n- b" and len(listed(list(map(str, range(999)))).splitlines()) == 9


LOOKALIKES = {
    "my download.zip": ("There is 'my download.zip': if it is that archive, and whole, rename it to hyper-kv", None),
    "hyper-kvasir-labeled-images (1).zip": (r"There is 'hyper-kvasir-labeled-images \(1\).zip': if it", None),
    "hyper-kvasir-labeled-images.zip.part": ("There is 'hyper-kvasir-labeled-images.zip.part': if it", None),
    "Labeled-Images/": ("There is 'Labeled-Images': rename it to 'labeled-images'", None),
    "hyper-kvasir-labeled-images.zip/": (
        "'hyper-kvasir-labeled-images.zip' is a folder; expected the zip itself",
        None,
    ),
    "some/labeled-images/": ("Give .*/source/some/? as the source", None),
    "some/some/labeled-images/": ("Give .*/source/some/some as the source", None),
    "labeled-images/": ("Give the folder that .*/source/labeled-images lies in, not that one itself", "labeled-images"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_may_be_the_archive_after_all_is_named(name, tmp_path, capsys):
    message, given = LOOKALIKES[name]
    path = tmp_path / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"PK")
    source = tmp_path / "source" / (given or "")
    said = refused(["--source", source, "--out", tmp_path / "out", "--config", "labeled"], capsys)
    assert "the labeled part is missing" in said and re.search(message, said), said


def test_of_two_sources_the_one_that_is_used_is_named(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "unlabeled")
    other = shutil.copytree(source, tmp_path / "other")
    assert main([str(argument) for argument in [*arguments, "--source", other]]) == 0
    said, file = capsys.readouterr().err, "hyper-kvasir-unlabeled-images.zip"
    assert f"unlabeled part: {source}/{file}\nunlabeled part: {other}/{file} is there too, and not read" in said


def test_what_cannot_be_read_is_named(tmp_path, capsys, monkeypatch):
    """Without permission, a folder would seem to be empty. (The tests may run as root, who may read everything.)"""
    source, arguments = a_source(tmp_path, "unlabeled", form="folder")
    images = source / "unlabeled-images/images"
    image, read, scandir = str(min(images.iterdir())), open, os.scandir

    def no_image(path, *arguments, **settings):
        if str(path) == image:
            raise PermissionError(13, "Permission denied", path)
        return read(path, *arguments, **settings)

    def no_folder(path):
        if str(path) == str(images):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", no_image)
        assert f"{os.path.basename(image)}: cannot be read (Permission denied)" in refused(arguments, capsys)
    monkeypatch.setattr(os, "scandir", no_folder)
    assert f"{images}: cannot be listed (Permission denied); give yourself read permission" in refused(
        arguments, capsys
    )


def test_a_name_that_is_not_utf8_is_named(tmp_path, capsys):
    source, arguments = a_source(tmp_path, "unlabeled", form="folder")
    with open(os.fsencode(source / "unlabeled-images/") + b"/gr\xfc\xdfe.txt", "wb"):
        pass
    assert "gr\\udcfc\\udcdfe.txt has a name that is not UTF-8; rename it" in refused(arguments, capsys)


# ---------------------------------------------------------------------------------------------------- the output's name


def user_files(folder):
    """What a user's own folder holds, which no command may touch."""
    folder.mkdir()
    for name in ("README.md", "CITATION.cff", "stats.json"):
        (folder / name).write_text(f"my own {name}")
    (folder / "assets").mkdir()
    (folder / "assets/sizes.png").write_text("my own picture")
    return folder


NOT_MEANT = {
    "": "the name of the output is empty",
    " ": "the name of the output is empty",
    "~/out": "the shell did not expand ~",
    "~": "the shell did not expand ~",
    "nowhere://bucket/out": "there is no nowhere://; expected e.g. s3://bucket/folder",
    "s3://": "not the address of a folder; expected e.g. s3://bucket/folder",
    "s3://bucket//out": "not the address of a folder",
    "s3://bucket/out[1]": "for a pattern; choose another name",
    "hf://datasets/ns/name": "give that to scripts.publish",
    "file:///tmp/out": "give the path alone",
    "s3:/bucket/out": "is neither a path nor an address; expected e.g. s3://bucket/out",
    "out\udcfc": "not UTF-8, or not printable; choose another name",
    "out\x1b[31m": "not printable",
    ".": "the source .* lies in it",
    "./": "the source .* lies in it",
    "assets": "belongs to something else",
    "source": "the source .* lies in it",
    "source/out": "lies in the source",
    "source/unlabeled-images/images/out": "lies in the source",
    "link/out": "lies in the source",
    "nowhere": "is a link to nothing",
    "README.md": "is a file",
}


@pytest.mark.parametrize("out", NOT_MEANT)
def test_an_output_that_cannot_be_meant(out, tmp_path, source, capsys, monkeypatch):
    home = user_files(tmp_path / "home")
    shutil.copytree(source, home / "source")
    (home / "link").symlink_to("source")
    (home / "nowhere").symlink_to("not-there")
    before = tree(home)
    monkeypatch.chdir(home)
    flags = ["--source", "source", "--out", out, "--expect", "source/expected.json", "--config", "unlabeled"]
    assert main(flags) == 1
    said = capsys.readouterr().err
    assert re.search(NOT_MEANT[out], said) and "Traceback" not in said, said
    assert tree(home) == before


def test_the_folder_around_a_source(tmp_path, source, capsys):
    for given in (source, source / "hyper-kvasir-unlabeled-images.zip"):
        arguments = ["--source", str(given), "--out", str(source.parent), "--expect", f"{source}/expected.json"]
        assert main(arguments) == 1
        assert "choose a folder beside the source" in capsys.readouterr().err


@pytest.mark.parametrize("begun", [".building", "a build that failed"])
def test_files_beside_an_unfinished_build_are_kept(begun, tmp_path, source, capsys):
    """An own folder of that name, empty; and a folder that the user has put files into since a build failed."""
    out = tmp_path / "out"
    flags = ["--source", str(source), "--out", str(out), "--expect", f"{source}/expected.json", "--config", "unlabeled"]
    if begun == ".building":
        user_files(out)
        (out / ".building").mkdir()
    else:
        write_source(tmp_path / "bad", images="tiny", parts=("unlabeled",), defects=["truncated_jpeg"])
        assert main(["--source", str(tmp_path / "bad"), *flags[2:]]) == 1
        assert os.listdir(out) == [".building"]
        (out / "README.md").write_text("my own README.md")
    before = {path: data for path, data in tree(out).items() if not path.startswith(".building")}
    assert main(flags) == 1
    assert {".building": "belongs to something"}.get(begun, "is in the way, and not of this") in capsys.readouterr().err
    assert {path: data for path, data in tree(out).items() if path in before} == before


def test_a_folder_of_the_name_that_builds_are_made_in(tmp_path, source, built, capsys):
    out = shutil.copytree(built, tmp_path / "out")
    (out / ".building").mkdir()
    (out / ".building/mine.txt").write_text("mine")
    assert main(["--source", str(source), "--out", str(out), "--expect", f"{source}/expected.json"]) == 1
    assert ".building: is not of this project; move it away" in capsys.readouterr().err
    assert (out / ".building/mine.txt").exists()


def test_a_name_that_pyarrow_would_take_for_an_address(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build(source, "a:b", "--config", "unlabeled")
    assert verify(["a:b", "--expect", f"{source}/expected.json"]) == 0


@pytest.mark.parametrize("name", ["a[1]", "a*", "a::b"])
def test_an_output_that_datasets_would_not_find(name, tmp_path, source, capsys):
    arguments = ["--source", source, "--out", tmp_path / name, "--expect", source / "expected.json"]
    assert "for a pattern; choose another name" in refused(arguments, capsys)


def test_an_output_that_cannot_be_written(tmp_path, source, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    arguments = ["--source", source, "--out", tmp_path / "out", "--expect", source / "expected.json"]
    assert "out: cannot be written to; choose another output folder" in refused(arguments, capsys)
