"""Each promise of publication, one at a time, against doctored states of a repository."""

import copy
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import datasets
import pyarrow.parquet as pq
import pytest

from hyper_kvasir import Expected, Problems
from scripts.pipeline import build as build_module
from scripts.pipeline import hub as hub_module
from scripts.pipeline import publish as publish_module
from scripts.pipeline import release as release_module
from scripts.pipeline import stats
from scripts.pipeline.hub import PublishError, RemoteFile, Repository
from scripts.pipeline.plan import Plan
from scripts.pipeline.publish import (
    Draft,
    Published,
    Release,
    check_limits,
    check_version,
    demanded_step,
    find_changes,
    read_back,
    read_row_digests,
)
from scripts.pipeline.release import BuildOptions, FolderMaker, ReleaseInfo, SourceMaker, folder_release
from tests.publisher import REPO

SEGMENTED, UNLABELED = "data/segmented/train_00.parquet", "data/unlabeled/00.parquet"
DATA = [SEGMENTED, "data/segmented/validation_00.parquet", UNLABELED]
NOTHING = Published(REPO, None)  # no such repository


class FakeRepository(Repository):
    """A repository that has a release, without a Hub: its data files are those of the built folder."""

    def __init__(self, release):
        self.repo_id, self.branch, self.release = REPO, "main", release

    def files(self, revision):
        return as_published(self.release).files

    def read(self, path, revision):
        return self.release.texts[path]

    def open(self, path, revision):
        return open(f"{self.release.folder}/{path}", "rb")


def as_published(release, head="head"):
    """What `read_published` gives of a repository that has this release."""
    files = {path: RemoteFile(entry["bytes"], entry["sha256"], "") for path, entry in release.files.items()}
    for path, text in release.texts.items():
        files[path] = RemoteFile(len(text), None, hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest())
    manifest = copy.deepcopy(release.manifest)
    return Published(REPO, head, files, {release.tag: head}, has_branch=True, manifest=manifest)


def edition(version):
    return ReleaseInfo(version, REPO, f"# Changelog\n\n## {version}\n")


def folder_maker(small, version):
    return FolderMaker(str(small), edition(version), Expected.load(f"{small}.expected.json"), 1)


@pytest.fixture(scope="module")
def released(small):
    return folder_maker(small, "1.0.0").draft(NOTHING)


@pytest.fixture
def repository(released):
    return FakeRepository(released)


# ----------------------------------------------------------------------------------------------------------- version


def other_rows(change):
    """Gives a release other rows in one file; `change` is of the list of (image id, digest)."""

    def changed(release):
        rows = sorted(read_row_digests(release.folder, SEGMENTED).items())
        manifest = copy.deepcopy(release.manifest)
        manifest["files"][SEGMENTED] |= {"content": "other", "key": "other"}
        return replace(release, manifest=manifest, rows={SEGMENTED: dict(change(rows))})

    return changed


def without(manifest, config):
    return {**manifest, "configs": {name: views for name, views in manifest["configs"].items() if name != config}}


def no_unlabeled(release):
    return replace(release, manifest=without(release.manifest, "unlabeled"))


def empty_split(release):
    manifest = {**release.manifest, "configs": {**release.manifest["configs"], "unlabeled": {}}}
    return replace(release, manifest=manifest)


def rewritten(release):
    manifest = copy.deepcopy(release.manifest)
    manifest["files"][SEGMENTED]["key"] = "other"
    return replace(release, manifest=manifest)


class Step(NamedTuple):
    """A step that a change demands, and a part of what is said of it."""

    step: str
    why: str
    change: Callable = lambda release: release  # of the published release, to get the new one
    not_published: str | None = None  # a config
    columns: str = ""  # of the segmented files: "new" or "gone"


one_row_more = other_rows(lambda rows: [*rows, ("segmented x", "0")])
one_row_less = other_rows(lambda rows: rows[1:])
one_row_changed = other_rows(lambda rows: [(rows[0][0], "00000000"), *rows[1:]])
COLUMNS_GONE = "columns of .* are gone or changed"

STEPS = {
    "config gone": Step("MAJOR", "config 'unlabeled' is gone", no_unlabeled),
    "split gone": Step("MAJOR", "split 'train' of 'unlabeled' is gone", empty_split),
    "rows gone": Step("MAJOR", "1 rows are gone", one_row_less),
    "rows changed": Step("MAJOR", "1 rows changed", one_row_changed),
    "rows new": Step("MINOR", "1 rows are new", one_row_more),
    "configs new": Step("MINOR", "configs are new", not_published="unlabeled"),
    "columns new": Step("MINOR", "columns are new", rewritten, columns="new"),
    "columns gone": Step("MAJOR", COLUMNS_GONE, rewritten, columns="gone"),
    "columns gone, rows new": Step("MAJOR", COLUMNS_GONE, one_row_more, columns="gone"),
    "rewritten": Step("PATCH", "files are rewritten", rewritten),
    "the card": Step("PATCH", "only the card changed"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_that_a_change_demands(name, released, repository, monkeypatch):
    step, why, change, not_published, columns = STEPS[name]
    published, now = as_published(released), publish_module.features_metadata("segmented")
    if not_published:
        published = replace(published, manifest=without(published.manifest, not_published))
    if columns:
        now = {**now, "new": now["label"]} if columns == "new" else {k: v for k, v in now.items() if k != "fold_2"}
        monkeypatch.setattr(publish_module, "features_metadata", lambda part, small: now)
    new = change(released)
    found = demanded_step(repository, new, published)
    assert found[0] == step and re.search(why, found[1]), found
    for version, least in (("1.0.1", "PATCH"), ("1.1.0", "MINOR"), ("2.0.0", "MAJOR")):
        order = ["PATCH", "MINOR", "MAJOR"]
        new = replace(new, version=version)
        if order.index(least) >= order.index(step):
            check_version(repository, new, published)
        else:
            with pytest.raises(PublishError, match=f"too small a step: .*{why}"):
                check_version(repository, new, published)


def test_files_that_the_head_has_lost_are_read_at_the_tag(released):
    published = replace(as_published(released), head="moved", tags={"v1.0.0": "tagged"})
    assert publish_module._whole_revision(published) == "moved"
    del published.files[SEGMENTED]
    assert publish_module._whole_revision(published) == "tagged"
    with pytest.raises(PublishError, match=f"{SEGMENTED} of 1.0.0: removed .* v1.0.0 is not tagged"):
        publish_module._whole_revision(replace(published, tags={}))


def test_a_tagged_version_is_refused_before_the_folder_is_verified(released, small, monkeypatch):
    """Unless nothing changed: then that is what is said."""
    maker, published = folder_maker(small, "1.0.0"), as_published(rewritten(released))
    with monkeypatch.context() as patch, pytest.raises(PublishError, match="v1.0.0 is tagged in ns/hyper-kvasir"):
        patch.setattr(release_module, "verify", None)
        maker.draft(published)
    assert maker.draft(as_published(released)).texts == released.texts


# -------------------------------------------------------------------------------------------------------------- news


def test_what_is_new_and_what_is_not(released, repository, monkeypatch):
    monkeypatch.setattr(repository, "read", lambda path, revision: b"x" * len(released.texts[path]))

    def is_new(published, release=released):
        return publish_module.is_new(repository, release, published, find_changes(release, published))

    assert not is_new(as_published(released)) and is_new(Published(REPO, "head"))
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


def nothing_new(repository, release, published):
    changes = find_changes(release, published)
    return publish_module._nothing_new(repository, release, published, changes, dry_run=False)


def test_a_version_with_nothing_but_its_changelog_entry_is_no_change(released, repository, small):
    later, published = folder_maker(small, "1.0.1").draft(NOTHING), as_published(released)
    changes = find_changes(later, published)
    assert {"CHANGELOG.md", "README.md"} <= set(changes.add)
    assert not publish_module.is_new(repository, later, published, changes)
    assert nothing_new(repository, later, published).startswith("nothing changed since v1.0.0")
    with pytest.raises(PublishError, match="run again with --version 1.0.0 to finish"):
        nothing_new(repository, later, replace(published, tags={}))


def test_a_tag_is_not_trusted_by_its_name(released, repository, monkeypatch):
    published = replace(as_published(released), tags={"v1.0.0": "elsewhere"})
    text = json.dumps(released.manifest).encode()  # the branch has moved on since, by other files than ours
    monkeypatch.setattr(repository, "read", lambda path, revision: text)
    assert "nothing changed" in nothing_new(repository, released, published)
    monkeypatch.setattr(repository, "read", lambda path, revision: b"{}")
    with pytest.raises(PublishError, match="somebody else tagged v1.0.0 .* at commit elsewhere, .* remove the tag"):
        nothing_new(repository, released, published)


TAGS = {
    "all well": ([("c", "HyperKvasir 1.0.0"), ("a", "initial commit")], {"v1.0.0": "c"}, ""),
    "merged": ([("c", "HyperKvasir 1.0.0 (#3)")], {"v1.0.0": "c"}, ""),
    "committed again": ([("d", "HyperKvasir 1.0.0"), ("c", "HyperKvasir 1.0.0")], {"v1.0.0": "c"}, ""),
    "gone": ([("c", "HyperKvasir 1.0.0")], {}, "note: v1.0.0 is not tagged; its commit is c"),
    "moved": (
        [("c", "HyperKvasir 1.0.0")],
        {"v1.0.0": "b"},
        "note: the tag v1.0.0 is at b, and not at the commit of that version, c",
    ),
    "put back": (
        [("c", "HyperKvasir 1.0.0")],
        {"v1.0.0": "c", "v2.0.0": "d"},
        "note: v2.0.0 is tagged, but not part of main",
    ),
    "abandoned": (
        [("f", "Put HyperKvasir v1.0.0 back"), ("e", "notes"), ("d", "HyperKvasir 2.0.0"), ("c", "HyperKvasir 1.0.0")],
        {"v1.0.0": "c"},
        "",
    ),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_that_are_not_where_they_were_are_told(name, released, repository, monkeypatch, capsys):
    titles, tags, note = TAGS[name]
    repository.titles = lambda revision: titles
    publish_module.tell_tags(repository, replace(as_published(released), tags=tags))
    assert capsys.readouterr().err.strip() == note


def test_no_file_but_of_this_project_is_deleted(released):
    """Whatever the published manifest names."""
    published = as_published(released)
    texts, data = ("notes.md", ".gitattributes", "assets/theirs.svg", "assets/old.png"), "data/segmented/99.parquet"
    published.manifest["card"]["files"].update(dict.fromkeys(texts))
    published.manifest["files"][data] = None
    published.files.update(dict.fromkeys((*texts, data), RemoteFile(1, "f" * 64, "")))
    assert find_changes(released, published).delete == ["assets/old.png", data]


def test_the_notes_of_a_version_are_its_entry_in_the_changelog():
    text = "# Changelog\n\n## 2.0.0\n\nNew labels.\n\n### Why\n\nThey were wrong.\n\n## [1.0.0] - 2026\n\nFirst.\n"
    assert publish_module.changelog_entry("2.0.0", text, "it") == "New labels.\n\n### Why\n\nThey were wrong."
    assert publish_module.changelog_entry("1.0.0", text, "it") == "First."


@pytest.mark.parametrize("text", ["1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-rc1", "١.٠.٠", "9" * 5000, "1.0.-1", ""])
def test_no_version(text):
    with pytest.raises(PublishError, match="is not a version; expected X.Y.Z"):
        publish_module.parse_version(text)


def test_the_card_of_a_folder_is_checked_before_it_is_published(small, tmp_path, monkeypatch):
    expected = Expected.load(f"{small}.expected.json")
    edited = shutil.copytree(small, tmp_path / "edited")
    with open(edited / "README.md", "a", encoding="utf-8") as card:
        card.write("An edit by hand.\n")
    with pytest.raises(PublishError, match="verification failed:\n- README.md: changed since it was made"):
        folder_release(str(edited), edition("1.0.0"), expected, 1)
    for name, what in (("check_card", "card is wrong"), ("lint_card", "would not accept")):
        with monkeypatch.context() as patch, pytest.raises(PublishError, match=f"{what}.*:\n- as it is"):
            patch.setattr(release_module, name, lambda *arguments: ["as it is"])
            folder_release(str(small), edition("1.0.0"), expected, 1)


def test_more_files_than_the_hub_takes(released, monkeypatch):
    check_limits(released)
    monkeypatch.setattr(publish_module, "MOST_IN_FOLDER", 0)
    with pytest.raises(PublishError, match="3 files, 2 of them in data/segmented"):
        check_limits(released)


# --------------------------------------------------------------------------------------------------------- read back


class ReadBack(NamedTuple):
    """What is wrong (None: nothing) with a commit of the release that the Hub gives back in another way."""

    wrong: str | None
    files: dict = {}  # as the Hub lists them, None: not there
    opened: Callable[[Any], Any] = lambda file: file  # the segmented file
    loaded: Callable[[Any], Any] = lambda rows: rows  # the config "segmented", both streamed and loaded


def rewrite(change):
    """A Parquet file with another table."""

    def changed(file):
        table, data = pq.read_table(file), io.BytesIO()
        pq.write_table(change(table), data)
        return io.BytesIO(data.getvalue())

    return changed


def cut_off(file):
    return io.BytesIO(file.read()[:-9])


def missing_config(rows):
    raise KeyError(0)


def fewer_loaded(rows):
    """One row, but of a config that is loaded, not of a stream."""
    train = rows["train"]
    return {"train": train.take(1) if hasattr(train, "num_rows") else train}


OTHER_DATA, OTHER_TEXT = RemoteFile(1, "f" * 64, ""), RemoteFile(1, None, "f" * 40)

READ_BACKS = {
    "all well": ReadBack(None),
    "other data": ReadBack(f"{SEGMENTED} has other content", files={SEGMENTED: OTHER_DATA}),
    "other card": ReadBack("README.md has other content", files={"README.md": OTHER_TEXT}),
    "a file gone": ReadBack(f"{SEGMENTED} is not there", files={SEGMENTED: None}),
    "a text gone": ReadBack("stats.json is not there", files={"stats.json": None}),
    "a stray file": ReadBack("data/x.parquet is there, but not in", files={"data/x.parquet": OTHER_DATA}),
    "fewer rows": ReadBack(
        "segmented / train: 3 rows in the files, expected 6",
        opened=rewrite(lambda table: table.slice(0, 1)),
    ),
    "fewer columns": ReadBack(
        f"{SEGMENTED} has other columns",
        opened=rewrite(lambda table: table.drop_columns(["fold_5"])),
    ),
    "cut off": ReadBack(f"{SEGMENTED} cannot be read", opened=cut_off),
    "no such config": ReadBack("segmented: does not load: KeyError", loaded=missing_config),
    "another split": ReadBack(
        "segmented: loads with splits train, test, expected train",
        loaded=lambda rows: {**rows, "test": rows["train"]},
    ),
    "other features": ReadBack(
        "segmented / train: loads with other features: {",
        loaded=lambda rows: {"train": rows["train"].rename_column("fold_2", "fold")},
    ),
    "fewer loaded": ReadBack("segmented / train: 1 rows loaded, expected 6", loaded=fewer_loaded),
}


class GivenBack(FakeRepository):
    """A repository that gives a release back as a `ReadBack` says."""

    def __init__(self, release, case):
        super().__init__(release)
        self.case = case

    def files(self, revision):
        return {path: file for path, file in (super().files(revision) | self.case.files).items() if file}

    def open(self, path, revision):
        file = super().open(path, revision)
        return self.case.opened(file) if path == SEGMENTED else file


@pytest.mark.parametrize("name", READ_BACKS)
def test_what_read_back_finds(name, released, monkeypatch, tmp_path):
    case, load_dataset = READ_BACKS[name], datasets.load_dataset

    def load_locally(repo_id, config, revision, **flags):
        assert (repo_id, revision) == (REPO, "sha")
        rows = load_dataset(released.folder, config, **{"cache_dir": str(tmp_path), **flags})
        return case.loaded(rows) if config == "segmented" else rows

    monkeypatch.setattr(datasets, "load_dataset", load_locally)
    problems = read_back(GivenBack(released, case), "sha", released)
    assert problems == [] if case.wrong is None else any(case.wrong in problem for problem in problems), problems


# ----------------------------------------------------------------------------------------------------- from archives


class Builds:
    """A SourceMaker of the small source without a Hub; counts what is built and sent."""

    def __init__(self, small, repository, work, monkeypatch):
        self.built, self.sent, self.left, self.work = [], [], [], work
        options = BuildOptions(
            archives=[str(small.parent / "source")],
            work=str(work),
            configs=["segmented", "unlabeled"],
            expected=Expected.load(f"{small}.expected.json"),
            workers=1,
            max_side=None,
            send_at_once=True,
        )
        self.maker = SourceMaker(repository, edition("1.0.0"), options)
        monkeypatch.setattr(release_module, "build_shards", self.build_shards)

    def build_shards(self, plan, todo, *arguments):
        self.built += todo
        return build_module.build_shards(plan, todo, *arguments)

    def send(self, paths, folder):
        self.sent += paths
        self.left.append(sorted(path.relative_to(folder).as_posix() for path in self.work.rglob("*.parquet")))

    def release(self, published):
        draft = self.maker.draft(published)
        return draft, self.maker.build(published, draft, self.send)


def test_shards_are_sent_and_removed_before_others_are_built(small, released, repository, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "BATCH_BYTES", 1)
    builds = Builds(small, repository, tmp_path / "work", monkeypatch)
    draft, release = builds.release(NOTHING)
    assert builds.left == [[path] for path in DATA] and not list(builds.work.rglob("*.parquet"))
    assert {path: entry["sha256"] for path, entry in draft.files.items()} == dict.fromkeys(DATA)
    assert release.files == released.files and type(draft) is Draft and type(release) is Release
    assert draft.rows.keys() == set(DATA)
    for path, rows in draft.rows.items():
        assert rows == read_row_digests(str(small), path)
        assert draft.files[path]["content"] == released.files[path]["content"]
    again = builds.release(NOTHING)  # somebody else committed meanwhile
    assert again[0] is again[1] and again[1].files == release.files and again[1].rows == draft.rows
    assert sorted(builds.built) == builds.sent == DATA


def test_packages_of_another_version_are_no_change(small, released, repository, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.pipeline.manifest.version", lambda package: "99")
    builds, published = Builds(small, repository, tmp_path / "work", monkeypatch), as_published(released)
    draft, release = builds.release(published)
    assert draft is release and not builds.sent and release.manifest["versions"] == released.manifest["versions"]
    assert release.texts.keys() == released.texts.keys()
    assert not publish_module.is_new(repository, release, published, find_changes(release, published))


def test_rows_for_the_card_are_read_again_if_the_connection_is_cut(small, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    summaries, opened = stats.read_stats(str(small)), []

    def cut_once(path):
        opened.append(path)
        if len(opened) == 1:
            raise ConnectionError("cut")
        return open(small / path, "rb")

    examples = release_module._example_finder(Plan([], [], {}, Problems()), summaries, cut_once)
    image_id = summaries["data/segmented/train_00.parquet"]["first"]
    assert examples("segmented", [image_id])[image_id]["image_id"] == image_id and len(opened) == 2
