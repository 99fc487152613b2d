"""Publication against the loopback Hub, by the clients (hurried, see `tests/processes.py`), by LFS and by Xet."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN, WRITE_TOKEN
from scripts.pipeline import build as build_module
from scripts.pipeline.hub import PublishError
from scripts.pipeline.publish import Published, check_repository
from scripts.publish import main, parse
from tests.conftest import config_flags, tree
from tests.fake_source import write_source
from tests.publisher import REPO, SOME, STRANGER_TOKEN, Publisher, folder_of, load, local, upload_file

pytestmark = pytest.mark.slow


def test_every_config_is_published_and_loads(xet_publisher, everything):
    publisher = xet_publisher
    assert "published v1.0.0" in publisher.ok(everything, "1.0.0")
    files, head, tags, titles = publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1
    assert set(files) == {".gitattributes", *tree(everything)}
    assert load(publisher, "main") == local(everything)


def test_update_twice_and_pin(publisher, v1, relabeled, added):
    publisher.ok(v1, "1.0.0")
    before = publisher.published()[0]
    publisher.hub.reset()
    said = publisher.ok(relabeled, "2.0.0")
    assert re.search(r"labeled +\d+ +[2-9] +[0-9] ", said), said
    after, uploaded = publisher.published()[0], publisher.hub.counters()["uploaded"]
    changed = [path for path in after if after[path] != before.get(path)]
    assert 1 <= len([path for path in changed if path.endswith(".parquet")]) <= 4
    assert 0 < uploaded["xorbs"] + uploaded["lfs"] <= sum((relabeled / path).stat().st_size for path in changed)
    publisher.ok(added, "3.0.0")
    publisher.hub.reset()
    assert "nothing changed since v3.0.0" in publisher.ok(added, "3.0.1")
    assert not any(publisher.hub.counters()["uploaded"].values())
    for revision, folder in (("v1.0.0", v1), ("v2.0.0", relabeled), ("v3.0.0", added), ("main", added)):
        assert load(publisher, revision, SOME) == local(folder, SOME)
    assert publisher.published()[3][:3] == ["HyperKvasir 3.0.0", "HyperKvasir 2.0.0", "HyperKvasir 1.0.0"]
    for said in publisher.said:
        assert WRITE_TOKEN not in said and READ_TOKEN not in said
    for path in publisher.home.parent.rglob("*"):  # every log and file of the run, the clients' caches too
        if path.is_file():
            assert WRITE_TOKEN.encode() not in path.read_bytes(), path


def test_refusals(xet_publisher, v1, relabeled, added, tmp_path):
    p = xet_publisher
    p.refused("no token: set HF_TOKEN", v1, "1.0.0", token=None)
    p.refused("may only read; use one with write permission", v1, "1.0.0", token=READ_TOKEN)
    p.refused("does not accept the token", v1, "1.0.0", token="hf_nobody_knows_it")
    p.refused("stranger is not a member of ns", v1, "1.0.0", token=STRANGER_TOKEN)
    p.refused("home/CHANGELOG.md has no entry '## 9.9.9'", v1, "9.9.9")
    p.refused("'1.0' is not a version; expected X.Y.Z", v1, "1.0")
    p.refused("verification failed:\n- labeled / train: 30, expected 10,662", v1, "1.0.0", expect=False)
    p.refused("so this is not a finished build; run python -m scripts.build", tmp_path, "1.0.0", expect=False)
    assert not p.hub.counters()["uploaded"]["commits"]
    said = p.ok(relabeled, "1.1.0", "--dry-run")
    assert "dry run: nothing was sent" in said and not p.hub.counters()["uploaded"]["commits"]
    p.ok(relabeled, "1.1.0")
    p.refused(r"too small a step: 2 rows changed \(e.g. .*MAJOR; at least 2.0.0", v1, "1.1.1")
    p.refused(r"too small a step: 3 rows are new, which is MINOR; at least 1.2.0", added, "1.1.1")
    p.refused("v1.1.0 is tagged in ns/hyper-kvasir, and tags never move", v1, "1.1.0")
    p.refused("1.0.0 is older than the published 1.1.0", v1, "1.0.0")
    p.refused("the token may not write there .*403", added, "2.0.0", token=STRANGER_TOKEN)
    p.refused("ns/hyper-kvasir is public; leave --private out", added, "2.0.0", "--private")


def test_repositories_of_something_else(xet_publisher, small):
    p = xet_publisher
    upload_file(p, "notes.txt")
    p.refused(r"holds something else \(notes.txt, no manifest.json\)", small, "1.0.0")
    p.refused("holds something else", small, "1.0.0", "--branch", "next")
    upload_file(p, "hyper-kvasir.py")
    p.refused("hyper-kvasir.py: datasets refuses to load it as a script", small, "1.0.0")
    with pytest.raises(PublishError, match="a name ending in .py"):
        check_repository(Published("ns/hyper.py", None))


def test_a_branch_and_a_private_repository(xet_publisher, small):
    p = xet_publisher
    p.ok(small, "1.0.0", "--private", "--branch", "next")
    info = p.api.dataset_info(REPO, revision="next")
    assert info.private and "manifest.json" in [file.rfilename for file in info.siblings]
    assert set(p.published()[0]) == {".gitattributes"}


@pytest.mark.parametrize(
    "fault", [{"action": 429, "retry_after": 1}, {"action": 409}, {"action": 503}, {"action": "cut"}]
)
def test_a_busy_hub_is_waited_for(xet_publisher, small, fault):
    fault = dict(fault)
    action = fault.pop("action")
    xet_publisher.hub.faults(action, method="POST", path="/commit/", times=2, **fault)
    said = xet_publisher.ok(small, "1.0.0")
    assert said.count("committing: ") == 2 and "trying again in" in said, said
    _, _, _, titles = xet_publisher.published()
    assert titles.count("HyperKvasir 1.0.0") == 1


def test_a_hub_that_stays_busy_is_given_up_on(xet_publisher, small):
    xet_publisher.hub.faults(500, method="POST", path="/commit/", times=0)
    code, said = xet_publisher.run(small, "1.0.0")
    assert code == 1 and said.count("trying again in") == 4 and "Traceback" not in said
    xet_publisher.hub.clear_faults()
    xet_publisher.ok(small, "1.0.0")


def test_a_commit_whose_answer_was_lost_is_found_again(xet_publisher, small):
    xet_publisher.hub.faults("cut", method="POST", path="/commit/", when="after")
    said = xet_publisher.ok(small, "1.0.0")
    _, head, tags, titles = xet_publisher.published()
    assert titles.count("HyperKvasir 1.0.0") == 1 and tags == {"v1.0.0": head}, said


def test_a_failed_read_back_is_not_tagged(xet_publisher, small):
    """Reading a file back fails for good: the version is not tagged, and a later run tags it."""
    xet_publisher.hub.faults(400, path="validate-yaml")
    xet_publisher.refused("the Hub does not accept the card: .*Injected fault 400", small, "1.0.0")
    assert not xet_publisher.api.repo_exists(REPO, repo_type="dataset")
    xet_publisher.hub.faults(404, path="/resolve/.*parquet", times=0)
    xet_publisher.refused("reading back commit .* failed, so v1.0.0 is not tagged", small, "1.0.0")
    assert xet_publisher.published()[2] == {}
    xet_publisher.hub.clear_faults()
    whole = xet_publisher.published()[1]
    upload_file(xet_publisher, "README.md")
    xet_publisher.refused("1.0.0 is committed in ns/hyper-kvasir with other content .*by hand", small, "1.0.0")
    upload_file(xet_publisher, "README.md", xet_publisher.read("README.md", whole))
    said = xet_publisher.ok(small, "1.0.0")
    assert "an earlier try was cut off" in said
    _, head, tags, titles = xet_publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1


def test_two_publishers_at_once(publisher, small, tmp_path_factory):
    """Of two that publish the same version with other content, one wins; nothing is mixed."""
    other = folder_of(tmp_path_factory, "other", configs=["segmented", "unlabeled"], unlabeled=9)
    processes = [publisher.start(folder, "1.0.0") for folder in (small, other)]
    codes, said = zip(*map(publisher.end, processes))
    assert sorted(codes) == [0, 1], said
    winner = small if codes[0] == 0 else other
    assert re.search("error: .*(is committed in|is tagged in)", said[codes.index(1)]), said
    files, head, tags, titles = publisher.published()
    assert tags == {"v1.0.0": head} and titles.count("HyperKvasir 1.0.0") == 1
    manifest = json.loads((winner / "manifest.json").read_text())
    assert {p: files[p] for p in manifest["files"]} == {p: e["sha256"] for p, e in manifest["files"].items()}


def test_a_killed_publication_goes_on_and_sends_nothing_twice(publisher, v1):
    publisher.start_and_kill(v1, "1.0.0")
    sent = publisher.hub.counters()["uploaded"]
    shutil.rmtree(publisher.home / "xet", ignore_errors=True)
    publisher.ok(v1, "1.0.0")
    after = publisher.hub.counters()["uploaded"]
    assert (after["xorbs"], after["lfs"]) == (sent["xorbs"], sent["lfs"]) != (0, 0)


# --------------------------------------------------------------------------------------------------- from the archive


def flags_for(source, *configs, upload=True):
    """Of a publication straight from the archives."""
    flags = ["--source", source, "--expect", source / "expected.json", *(["--build-and-upload"] if upload else [])]
    return flags + config_flags(configs)


def test_from_the_archive_only_changed_shards_are_built(xet_publisher, v1, relabeled, tmp_path):
    xet_publisher.ok(v1, "1.0.0")
    source = relabeled.parent / "source"
    before = xet_publisher.published()[0]
    flags = flags_for(source, *SOME)
    work = tmp_path / "work"
    xet_publisher.refused("v1.0.0 is tagged", work, "1.0.0", *flags, "--branch", "next", expect=False)
    xet_publisher.refused("too small a step: 2 rows changed", work, "1.0.1", *flags, expect=False)
    assert "reading images" not in "".join(xet_publisher.said) and not work.exists()
    assert [ref.name for ref in xet_publisher.api.list_repo_refs(REPO, repo_type="dataset").branches] == ["main"]
    xet_publisher.hub.reset()
    said = xet_publisher.ok(work, "2.0.0", *flags, expect=False)
    assert re.search(r"all together +\d+ +[2-9] +[0-9] ", said), said
    assert list(work.iterdir()) == []
    sent = xet_publisher.hub.counters()["uploaded"]
    assert load(xet_publisher, "v2.0.0", SOME) == local(relabeled, SOME)
    files, _, _, _ = xet_publisher.published()
    wanted = json.loads((relabeled / "manifest.json").read_text())["files"]
    assert {path: files[path] for path in wanted} == {path: entry["sha256"] for path, entry in wanted.items()}
    changed = [path for path, entry in wanted.items() if before.get(path) != entry["sha256"]]
    figures = sum(len(data) for path, data in tree(relabeled).items() if path.endswith(".png"))
    assert 0 < sent["xorbs"] + sent["lfs"] <= sum(wanted[path]["bytes"] for path in changed) + figures


def test_from_the_archive_into_a_new_repository(xet_publisher, v1, tmp_path):
    flags = flags_for(v1.parent / "source", *SOME)
    xet_publisher.start_and_kill(tmp_path / "work", "1.0.0", *flags, expect=False)
    assert not list((tmp_path / "work").rglob("*.parquet"))
    sent = xet_publisher.hub.counters()["uploaded"]
    xet_publisher.ok(tmp_path / "work", "1.0.0", *flags, expect=False)
    assert xet_publisher.hub.counters()["uploaded"]["xorbs"] == sent["xorbs"] > 0
    assert load(xet_publisher, "v1.0.0", SOME) == local(v1, SOME)
    assert "nothing changed" in xet_publisher.ok(tmp_path / "work", "1.0.1", *flags, expect=False)


@pytest.mark.parametrize(
    "mode, archives, every, start", [("xet", False, 180, 3), ("lfs", False, 151, 5), ("xet", True, 170, 41)]
)
def test_a_fault_at_any_request_is_survived(mode, archives, every, start, tmp_path, capsys):
    """A sample; `python -m tests.fault_sweep` tries every fault at every request."""
    from tests.fault_sweep import sweep

    tried, survived = sweep(tmp_path, mode, every, start, archives)
    with capsys.disabled():
        print(f"\n{mode}: faults tried: {tried}, survived: {survived}")
    assert tried == survived >= 3


# --------------------------------------------------------------------------------------- repositories in odd states


def test_one_part_from_the_archive_beside_another_that_is_published(xet_publisher, tmp_path_factory, tmp_path):
    """The archives of the other part are not at hand: its files stay, and the card is of both."""
    p, source = xet_publisher, tmp_path_factory.mktemp("parts") / "source"
    p.ok(folder_of(tmp_path_factory, "seg", configs=["segmented"]), "1.0.0")
    write_source(source, images="tiny")
    (source / "hyper-kvasir-segmented-images.zip").unlink()
    flags = flags_for(source, "unlabeled")
    p.ok(tmp_path / "work", "1.1.0", *flags, expect=False)
    found = load(p, "v1.1.0", ["segmented", "unlabeled"])
    assert len(found["segmented"]["train"]) == 6 and len(found["unlabeled"]["train"]) == 12


def test_a_part_that_would_contradict_a_published_one_is_refused(xet_publisher, v1, tmp_path):
    p, source = xet_publisher, tmp_path / "source"
    p.ok(v1, "1.0.0")
    shutil.copytree(v1.parent / "source", source)
    lines = (source / "2_fold_split.csv").read_text().splitlines()
    ids = pq.read_table(v1 / "data/segmented/train_00.parquet", columns=["image_id"])["image_id"].to_pylist()
    rows = [i for i, line in enumerate(lines) if line.split(".")[0] in ids]
    one, other = next((i, j) for i in rows for j in range(1, len(lines)) if lines[i][-1] != lines[j][-1])
    lines[one], lines[other] = lines[one][:-1] + lines[other][-1], lines[other][:-1] + lines[one][-1]
    (source / "2_fold_split.csv").write_text("\n".join(lines) + "\n")
    flags = flags_for(source, "labeled", upload=False)
    p.refused("has another fold_2 in data/labeled", tmp_path / "work", "2.0.0", *flags, expect=False)


def test_a_stray_file_among_the_data_is_refused_before_anything_is_sent(xet_publisher, small, everything):
    xet_publisher.ok(small, "1.0.0")
    upload_file(xet_publisher, "data/unlabeled/more.parquet")
    xet_publisher.hub.reset()
    xet_publisher.refused("more.parquet, which is not of this dataset; remove it", everything, "1.1.0")
    assert not any(xet_publisher.hub.counters()["uploaded"].values())


def test_no_hub_at_all_is_an_error_without_a_traceback(tmp_path, small):
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        publisher = Publisher(hub, tmp_path / "home", True)
        hub.stop()
        code, said = publisher.run(small, "1.0.0", "--dry-run")
        assert code == 1 and "error: " in said and "Traceback" not in said, said
        hub.start()


def test_the_card_tells_its_own_version(xet_publisher, small):
    xet_publisher.ok(small, "1.1.0")
    names = ("README.md", "croissant.json", "CHANGELOG.md")
    card, croissant, changelog = (xet_publisher.read(name, "v1.1.0").decode() for name in names)
    version = json.loads(croissant)["version"]
    assert f'load_dataset("{REPO}"' in card and 'revision="v1.1.0"' in card and "v1.0.0" not in card
    assert version == "1.1.0" and "## 1.1.0" in changelog


def test_what_was_changed_by_hand_on_the_hub_is_noticed(xet_publisher, small, tmp_path):
    """The card is gone: that is a change. A data file is gone: it is put back, or the publication refused."""
    p = xet_publisher
    p.ok(small, "1.0.0")
    p.api.delete_file("README.md", REPO, repo_type="dataset")
    p.ok(small, "1.0.1")
    assert "README.md" in p.published()[0]
    p.api.delete_file("data/segmented/train_00.parquet", REPO, repo_type="dataset")
    flags = flags_for(small.parent / "source", "unlabeled", upload=False)
    p.refused(
        "data/segmented/train_00.parquet of 1.0.1: removed .*: revert that commit, or publish those parts too",
        tmp_path / "work",
        "1.1.0",
        *flags,
        expect=False,
    )
    said = p.ok(small, "1.1.0")
    assert ": removed from ns/hyper-kvasir, or changed there, since it was published: they will be restored" in said
    assert "data/segmented/train_00.parquet" in p.published()[0]


def test_a_source_that_is_refused_leaves_no_repository(xet_publisher, tmp_path):
    write_source(tmp_path / "bad", images="tiny", parts=["segmented"], defects=["bad_crc"])
    flags = flags_for(tmp_path / "bad", "segmented", upload=False)
    xet_publisher.refused("CRC", tmp_path / "work", "1.0.0", *flags, "--build-and-upload", expect=False)
    assert not xet_publisher.api.repo_exists(REPO, repo_type="dataset")
    said = xet_publisher.run(tmp_path / "work", "1.0.0", *flags, "--dry-run", token=None, expect=False)[1]
    assert "ns/hyper-kvasir does not exist, or this token cannot see it" in said


def test_what_cannot_be_meant_is_said_at_once(tmp_path, capsys, monkeypatch):
    for repo_id, reason in (("hyper-kvasir", "give the namespace too"), ("ns/hyper kvasir", "--repo-id: ")):
        with pytest.raises(SystemExit):
            parse(["dir", "--repo-id", repo_id, "--version", "1.0.0"])
        assert reason in capsys.readouterr().err
    flags = ["--repo-id", REPO, "--version", "1.0.0", "--changelog", str(tmp_path / "changes.md")]
    assert main([str(tmp_path), *flags]) == 1
    assert "changes.md: no such file; write one with an entry '## 1.0.0'" in capsys.readouterr().err
    (tmp_path / "changes.md").write_text("## 1.0.0\n")
    for token in ("hf_secrettök", "hf_secret\x1b[201~", "hf_secret token"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert main([str(tmp_path), *flags]) == 1
        said = capsys.readouterr().err
        assert "the token has characters that no token has" in said and "secret" not in said
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"builder": "hyper-kvasir", "complete": True, "configs": {}, "sources": {}, "files": {}})
    )
    assert main([str(tmp_path), *flags, "--source", str(tmp_path)]) == 1
    assert (
        "is a built folder (it has a manifest.json); with --source, give a new or empty one" in capsys.readouterr().err
    )
    work, acquire = str(tmp_path / "work"), FileLock.acquire
    monkeypatch.setattr(FileLock, "acquire", lambda lock, timeout: acquire(lock, timeout=0))
    with build_module.only_builder_of(work):
        assert main([work, *flags, "--source", str(tmp_path)]) == 1
    assert "another command is writing to it" in capsys.readouterr().err
