"""Each promise of publication, one at a time, against doctored states of a repository."""

import copy
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace

import httpx2
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hyper_kvasir import Expected
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline import build as build_module
from scripts.pipeline import hub as hub_module
from scripts.pipeline import release as release_module
from scripts.pipeline.hub import PublishError, Remote, RemoteFile, Target
from scripts.pipeline.release import Edition, FolderMaker, SourceMaker, Sources
from tests.publisher import REPO


def edition(version):
    return Edition(version, REPO, f"# Changelog\n\n## {version}\n")


def as_published(release, head="head"):
    """What `read_remote` gives of a repository that has this release."""
    files = {path: RemoteFile(entry["bytes"], entry["sha256"], "") for path, entry in release.files.items()}
    for path, text in release.texts.items():
        files[path] = RemoteFile(len(text), None, hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest())
    return Remote(head, files, copy.deepcopy(release.manifest), {release.tag: head}, True)


@pytest.fixture(scope="module")
def released(small):
    expected = Expected.load(f"{small}.expected.json")
    return FolderMaker(str(small), edition("1.0.0"), expected, 1).plan(Remote(None))


@pytest.fixture
def at_home(released, monkeypatch):
    """Published files are opened in the built folder."""
    opened = lambda path: open(f"{released.folder}/{path}", "rb")  # noqa: E731, SIM115
    monkeypatch.setattr(hub_module, "opener", lambda api, repo_id, revision: opened)
    return opened


SEGMENTED, UNLABELED = "data/segmented/00.parquet", "data/unlabeled/00.parquet"


def other_rows(released, change):
    """The release with other rows in one file."""
    rows = hub_module.read_rows(SEGMENTED, lambda: io.FileIO(f"{released.folder}/{SEGMENTED}"))
    manifest = copy.deepcopy(released.manifest)
    manifest["files"][SEGMENTED] |= {"content": "other", "key": "other"}
    return replace(released, manifest=manifest, rows={SEGMENTED: dict(change(sorted(rows.items())))})


def without(manifest, config):
    return {**manifest, "configs": {name: views for name, views in manifest["configs"].items() if name != config}}


def rewritten(released):
    manifest = copy.deepcopy(released.manifest)
    manifest["files"][SEGMENTED]["key"] = "other"
    return replace(released, manifest=manifest)


def empty_split(released):
    manifest = {**released.manifest, "configs": {**released.manifest["configs"], "unlabeled": {}}}
    return replace(released, manifest=manifest)


STEPS = {  # name: (what is published, what is new, columns that come or go, step, why)
    "config gone": (
        None,
        lambda r: replace(r, manifest=without(r.manifest, "unlabeled")),
        (),
        "MAJOR",
        "'unlabeled' is",
    ),
    "split gone": (None, empty_split, (), "MAJOR", "split 'train' of 'unlabeled' is gone"),
    "rows gone": (None, lambda r: other_rows(r, lambda rows: rows[1:]), (), "MAJOR", "1 rows are gone"),
    "rows changed": (
        *(None, lambda r: other_rows(r, lambda rows: [(rows[0][0], "00000000"), *rows[1:]]), ()),
        *("MAJOR", "1 rows changed"),
    ),
    "rows new": (
        None,
        lambda r: other_rows(r, lambda rows: [*rows, ("segmented x", "0")]),
        (),
        "MINOR",
        "1 rows are new",
    ),
    "configs new": ("unlabeled", lambda r: r, (), "MINOR", "configs are new"),
    "columns new": (None, rewritten, ("+",), "MINOR", "columns are new"),
    "columns gone": (None, rewritten, ("-",), "MAJOR", "columns of .* are gone or changed"),
    "columns gone, rows new": (
        *(None, lambda r: other_rows(r, lambda rows: [*rows, ("segmented x", "0")]), ("-",)),
        *("MAJOR", "columns of .* are gone or changed"),
    ),
    "written anew": (None, rewritten, (), "PATCH", "files are written anew"),
    "the card": (None, lambda r: r, (), "PATCH", "only the card changed"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_that_a_change_demands(name, released, at_home, monkeypatch):
    unpublished, change, columns, step, why = STEPS[name]
    remote, now = as_published(released), hub_module.features_metadata("segmented")
    if unpublished:
        remote = replace(remote, manifest=without(remote.manifest, unpublished))
    if columns:
        now = {**now, "new": now["label"]} if columns == ("+",) else {k: v for k, v in now.items() if k != "fold_2"}
        monkeypatch.setattr(hub_module, "features_metadata", lambda part: now)
    new = change(released)
    found = hub_module.demanded_step(None, REPO, new, remote)
    assert found[0] == step and re.search(why, found[1]), found
    for version, least in (("1.0.1", "PATCH"), ("1.1.0", "MINOR"), ("2.0.0", "MAJOR")):
        order = ["PATCH", "MINOR", "MAJOR"]
        new = replace(new, version=version)
        if order.index(least) >= order.index(step):
            hub_module.check_version(None, REPO, new, remote)
        else:
            with pytest.raises(PublishError, match=f"too small a step: .*{why}"):
                hub_module.check_version(None, REPO, new, remote)


def test_files_that_the_head_has_lost_are_read_at_the_tag(released, monkeypatch):
    remote = replace(as_published(released), head="moved", tags={"v1.0.0": "tagged"})
    assert hub_module._whole_revision(REPO, remote) == "moved"
    del remote.files[SEGMENTED]
    assert hub_module._whole_revision(REPO, remote) == "tagged"
    with pytest.raises(PublishError, match=f"{SEGMENTED} of 1.0.0: removed .* v1.0.0 is not tagged"):
        hub_module._whole_revision(REPO, replace(remote, tags={}))


def test_what_is_new_and_what_is_not(released, monkeypatch):
    monkeypatch.setattr(hub_module, "download", lambda api, repo_id, path, revision: b"x" * len(released.texts[path]))

    def is_new(remote, release=released):
        return hub_module.is_new(None, REPO, release, remote, hub_module.find_changes(release, remote))

    assert not is_new(as_published(released)) and is_new(Remote("head"))
    for key, new in (("versions", False), ("schema", True), ("sources", True)):
        assert is_new(as_published(replace(released, manifest={**released.manifest, key: {}}))) == new
    for path in ("README.md", "stats.json"):
        gone, edited = as_published(released), as_published(released)
        del gone.files[path]
        edited.files[path] = edited.files[path]._replace(blob_id="other")
        assert is_new(gone) and is_new(edited)
    stray = as_published(released)
    stray.manifest["files"]["data/old.parquet"] = {"sha256": "old"}
    stray.files["data/old.parquet"] = RemoteFile(1, "old", "")
    assert is_new(stray)
    other = copy.deepcopy(released.manifest)
    other["card"]["key"] = "other"
    assert is_new(as_published(released), replace(released, manifest=other))


def test_a_version_with_nothing_but_its_changelog_entry_is_no_change(released, small, monkeypatch):
    expected = Expected.load(f"{small}.expected.json")
    later = FolderMaker(str(small), edition("1.0.1"), expected, 1).plan(Remote(None))
    remote = as_published(released)
    monkeypatch.setattr(hub_module, "download", lambda api, repo_id, path, revision: released.texts[path])
    changes = hub_module.find_changes(later, remote)
    assert {"CHANGELOG.md", "README.md"} <= set(changes.add)
    assert not hub_module.is_new(None, REPO, later, remote, changes)
    said = hub_module._nothing_new(None, REPO, later, remote, changes, False)
    assert said.startswith("nothing changed since v1.0.0")
    with pytest.raises(PublishError, match="run again with --version 1.0.0 to finish"):
        hub_module._nothing_new(None, REPO, later, replace(remote, tags={}), changes, False)


def test_a_tag_is_not_trusted_by_its_name(released, monkeypatch):
    remote = replace(as_published(released), tags={"v1.0.0": "elsewhere"})
    changes = hub_module.find_changes(released, remote)
    text = json.dumps(released.manifest).encode()  # the branch has moved on since, by other files than ours
    monkeypatch.setattr(hub_module, "download", lambda *arguments: text)
    assert "nothing changed" in hub_module._nothing_new(None, REPO, released, remote, changes, False)
    monkeypatch.setattr(hub_module, "download", lambda *arguments: b"{}")
    with pytest.raises(PublishError, match="somebody else tagged v1.0.0 .* at commit elsewhere, .* remove the tag"):
        hub_module._nothing_new(None, REPO, released, remote, changes, False)


def test_the_card_of_a_folder_is_checked_before_it_is_published(small, tmp_path, monkeypatch):
    expected = Expected.load(f"{small}.expected.json")
    edited = shutil.copytree(small, tmp_path / "edited")
    with open(edited / "README.md", "a", encoding="utf-8") as card:
        card.write("An edit by hand.\n")
    with pytest.raises(PublishError, match="verification is not green:\n- README.md: changed since it was made"):
        release_module.folder_release(str(edited), edition("1.0.0"), expected, 1)
    for name, what in (("check_card", "card is wrong"), ("lint_card", "would not take")):
        with monkeypatch.context() as patch, pytest.raises(PublishError, match=f"{what}.*:\n- as it is"):
            patch.setattr(release_module, name, lambda *arguments: ["as it is"])
            release_module.folder_release(str(small), edition("1.0.0"), expected, 1)


def test_more_files_than_the_hub_takes(released, monkeypatch):
    hub_module.check_limits(released)
    monkeypatch.setattr(hub_module, "MOST_IN_FOLDER", 0)
    with pytest.raises(PublishError, match="2 files, 1 of them in data/"):
        hub_module.check_limits(released)


def smaller(file, change):
    table, data = pq.read_table(file), io.BytesIO()
    pq.write_table(change(table), data)
    return io.BytesIO(data.getvalue())


READ_BACKS = {  # name: (files as the Hub lists them, a file as it opens, a config as it loads, what is wrong)
    "all well": (None, None, None, None),
    "other data": ({SEGMENTED: RemoteFile(1, "f" * 64, "")}, None, None, f"{SEGMENTED} has other content"),
    "other card": ({"README.md": RemoteFile(1, None, "f" * 40)}, None, None, "README.md has other content"),
    "a file gone": ({SEGMENTED: None}, None, None, f"{SEGMENTED} is not there"),
    "a text gone": ({"stats.json": None}, None, None, "stats.json is not there"),
    "a stray file": (
        {"data/x.parquet": RemoteFile(1, "f" * 64, "")},
        None,
        None,
        "data/x.parquet is there, but not in",
    ),
    "fewer rows": (
        *(None, lambda file: smaller(file, lambda table: table.slice(0, 1)), None),
        "segmented / train: 1 rows in the files, expected 6",
    ),
    "fewer columns": (
        *(None, lambda file: smaller(file, lambda table: table.drop_columns(["fold_5"])), None),
        f"{SEGMENTED} has other columns",
    ),
    "cut off": (None, lambda file: io.BytesIO(file.read()[:-9]), None, f"{SEGMENTED} cannot be read"),
    "no such config": (None, None, lambda rows: {}[0], "segmented does not load: KeyError"),
    "another split": (None, None, lambda rows: {**rows, "test": rows["train"]}, "has the splits train, test, expected"),
    "other features": (
        *(None, None, lambda rows: {"train": rows["train"].rename_column("fold_2", "fold")}),
        "segmented / train: other features",
    ),
    "fewer loaded": (
        *(
            None,
            None,
            lambda rows: {"train": rows["train"].take(1) if hasattr(rows["train"], "num_rows") else rows["train"]},
        ),
        "segmented / train: 1 rows loaded, expected 6",
    ),
}


@pytest.mark.parametrize("name", READ_BACKS)
def test_what_read_back_finds(name, released, at_home, monkeypatch, tmp_path):
    import datasets

    files, opened, loaded, wrong = READ_BACKS[name]
    there = {path: file for path, file in (as_published(released).files | (files or {})).items() if file}
    monkeypatch.setattr(hub_module, "list_files", lambda api, repo_id, revision: there)
    open_it = lambda path: opened(at_home(path)) if opened and path == SEGMENTED else at_home(path)  # noqa: E731
    monkeypatch.setattr(hub_module, "opener", lambda api, repo_id, revision: open_it)
    load_dataset = datasets.load_dataset

    def load_locally(repo_id, config, revision, **flags):
        rows = load_dataset(released.folder, config, **{"cache_dir": str(tmp_path), **flags})
        return loaded(rows) if loaded and config == "segmented" else rows

    monkeypatch.setattr(datasets, "load_dataset", load_locally)
    problems = hub_module.read_back(None, REPO, "sha", released)
    assert problems == [] if wrong is None else any(wrong in problem for problem in problems), problems


@pytest.fixture
def waits(monkeypatch):
    """The seconds that `patiently` waits, without waiting."""
    seconds = []
    monkeypatch.setattr(hub_module.time, "sleep", seconds.append)
    return seconds


def answer(status, **headers):
    request = httpx2.Request("GET", "http://127.0.0.1/")
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError(f"Server error {status} for http://127.0.0.1/", response=response, server_message="no way")


@pytest.mark.parametrize(
    "error, waited, said",
    [
        (httpx2.ReadTimeout(""), [1, 2, 4, 8], "reading: ReadTimeout, 5 times; run the same command again"),
        (answer(500), [1, 2, 4, 8], "reading: the Hub answered 500, 5 times; run the same command again"),
        (answer(429, ratelimit='"api";r=0;t=7'), [8] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429, retry_after="7"), [7] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429), [1, 2, 4, 8], "reading: the Hub answered 429, 5 times"),
        (answer(403), [], "the Hub answered 403: no way"),
        (ValueError("wrong"), [], "wrong"),
    ],
)
def test_what_is_tried_again_and_how_it_ends(error, waited, said, waits):
    def fail():
        raise error

    with pytest.raises(Exception) as failed:
        hub_module.patiently("reading", fail)
    assert waits == waited and hub_module.explain(failed.value).startswith(said)


def test_tagging(tmp_path, waits):
    """A tag whose answer was lost is found at once; one at another commit is refused; a busy Hub is waited for."""
    with LoopbackHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        api.create_repo(REPO, repo_type="dataset")
        first = api.dataset_info(REPO).sha
        hub.faults("cut", method="POST", path="/tag/", when="after")
        hub_module.tag(api, REPO, "v1.0.0", first, "one")
        assert waits == [1]
        second = api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, repo_type="dataset").oid
        with pytest.raises(PublishError, match=f"somebody else tagged v1.0.0 .* at commit {first}, not at {second}"):
            hub_module.tag(api, REPO, "v1.0.0", second, "two")
        hub.faults(409, method="POST", path="/tag/")
        hub_module.tag(api, REPO, "v2.0.0", second, "two")
        assert waits == [1, 1]
        # Two publishers of a new repository, or of a new branch: the slower one must not build on what the other did.
        assert hub_module.make_branch(api, Target(REPO), Remote(None)) is None
        assert hub_module.make_branch(api, Target(REPO, "next"), Remote(first)) == first
        assert hub_module.make_branch(api, Target(REPO, "next"), Remote(second)) is None
        assert hub_module.make_branch(api, Target("ns/new"), Remote(None)) == api.dataset_info("ns/new").sha


def test_a_busy_hub_is_no_wrong_token(tmp_path, waits):
    with LoopbackHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        hub.faults(500, path="whoami", times=0)
        with pytest.raises(PublishError, match="asking whose token it is: the Hub answered 500, 5 times; run the same"):
            hub_module.check_access(api, Target(REPO), Remote(None))


class Builds:
    """A SourceMaker of the small source without a Hub; counts what is built and sent."""

    def __init__(self, small, work, monkeypatch, part_by_part=True):
        self.built, self.sent, self.left = [], [], []
        source, expected = str(small.parent / "source"), Expected.load(f"{small}.expected.json")
        sources = Sources([source], str(work), ["segmented", "unlabeled"], expected, 1, part_by_part)
        self.maker, self.work = SourceMaker(HfApi(), edition("1.0.0"), sources), work
        monkeypatch.setattr(release_module, "build_parts", self.build_parts)

    def build_parts(self, plan, todo, *arguments):
        self.built += todo
        return build_module.build_parts(plan, todo, *arguments)

    def send(self, paths, folder):
        self.sent += paths
        self.left.append(sorted(path.relative_to(folder).as_posix() for path in self.work.rglob("*.parquet")))
        return dict.fromkeys(paths)

    def release(self, remote):
        planned = self.maker.plan(remote)
        return planned, self.maker.build(remote, planned, self.send)


def test_parts_are_sent_and_removed_before_others_are_built(small, released, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "BATCH_BYTES", 1)
    builds = Builds(small, tmp_path / "work", monkeypatch)
    planned, release = builds.release(Remote(None))
    assert builds.left == [[SEGMENTED], [UNLABELED]] and not list(builds.work.rglob("*.parquet"))
    assert {path: entry["sha256"] for path, entry in planned.files.items()} == {SEGMENTED: None, UNLABELED: None}
    assert release.files == released.files and planned.texts is None
    for path, rows in planned.rows.items():
        assert rows == hub_module.read_rows(path, lambda path=path: io.FileIO(f"{small}/{path}"))
        assert planned.files[path]["content"] == released.files[path]["content"]
    builds.release(Remote(None))  # somebody else committed meanwhile
    assert sorted(builds.built) == builds.sent == [SEGMENTED, UNLABELED]


def test_packages_of_another_version_are_no_change(small, released, tmp_path, monkeypatch, at_home):
    monkeypatch.setattr(release_module, "opener", lambda *arguments: at_home)
    monkeypatch.setattr(release_module, "download", lambda api, repo_id, path, revision: released.texts[path])
    monkeypatch.setattr("scripts.pipeline.manifest.version", lambda package: "99")
    builds = Builds(small, tmp_path / "work", monkeypatch)
    remote = as_published(released)
    planned, release = builds.release(remote)
    assert planned is release and not builds.sent and release.manifest["versions"] == released.manifest["versions"]
    assert release.texts.keys() == released.texts.keys()
    assert not hub_module.is_new(None, REPO, release, remote, hub_module.find_changes(release, remote))
