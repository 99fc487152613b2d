"""Versions that are committed and not tagged: how they come about, the ways out. Pull requests. Odd repositories."""

import json
import re
import shutil

import httpx2
import pytest
from huggingface_hub import HfApi

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import TOKENS, WRITE_TOKEN
from tests.conftest import tree
from tests.publisher import REPO, SOME, Publisher, load, local, upload_file

pytestmark = pytest.mark.slow
one_worker = pytest.mark.xdist_group("halfway")  # so that it is made once
REQUESTER_TOKEN = "hf_loopback_requester"  # may only open pull requests
LFS_BUT_PARQUET = b"*.png filter=lfs diff=lfs merge=lfs -text\n*.jpg filter=lfs diff=lfs merge=lfs -text\n"


@pytest.fixture(scope="module")
def halfway(v1, relabeled, tmp_path_factory):
    """The state of a Hub where 1.0.0 is published, and 2.0.0 committed: every try to tag it failed."""
    folder = tmp_path_factory.mktemp("halfway")
    with LoopbackHub(folder / "hub") as hub:
        publisher = Publisher(hub, folder / "home", True)
        publisher.ok(v1, "1.0.0")
        upload_file(publisher, "notes.txt", b"of somebody else")
        hub.faults(500, method="POST", path="/tag/", times=0)
        publisher.refused("tagging: the Hub answered 500, 5 times; run the same command again", relabeled, "2.0.0")
    return folder / "hub"


@pytest.fixture
def publisher(halfway, tmp_path):
    with LoopbackHub(shutil.copytree(halfway, tmp_path / "hub")) as hub:
        yield Publisher(hub, tmp_path / "home", True)


def put(path, content):
    return lambda publisher: upload_file(publisher, path, content)


def gone(path):
    return lambda publisher: publisher.api.delete_file(path, REPO, repo_type="dataset")


# What has become of the committed version, and what --finish says of it.
STATES = {
    "as it was committed": (lambda publisher: None, None),
    "the card was edited": (put("README.md", b"edited"), "README.md is gone, or was edited since"),
    "data were replaced": (
        put("data/segmented/train_00.parquet", b"PAR1"),
        "data/segmented/train_00.parquet has other content",
    ),
    "data are there that nobody knows": (put("data/x.parquet", b"PAR1"), "data/x.parquet is there, but not in"),
    "the manifest was edited": (put("manifest.json", b"{}"), "manifest.json: not a manifest of this builder"),
    "the manifest is gone": (gone("manifest.json"), "no version is committed to main; publish one"),
}


@one_worker
@pytest.mark.parametrize("state", STATES)
def test_a_version_that_is_committed_and_not_tagged(state, publisher):
    """It is tagged if it is whole. Otherwise the version before it is put back, and nothing else is touched."""
    change, why_not = STATES[state]
    before, _, tags, _ = publisher.published("v1.0.0")
    change(publisher)
    if why_not is None:
        said = publisher.way_out("--finish")
        files, head, tags, _ = publisher.published()
        assert tags["v2.0.0"] == head and f"published v2.0.0 of {REPO} as commit {head}" in said
        assert f'load_dataset("{REPO}", "labeled", revision="v2.0.0")' in said and f"/commit/{head}" in said
        assert "v2.0.0 of ns/hyper-kvasir is tagged already: nothing to finish" in publisher.way_out("--finish")
        publisher.way_out("--abandon", reason="v2.0.0 is tagged: nothing to abandon")
        return
    publisher.way_out("--finish", reason=why_not)
    publisher.hub.reset()
    assert "main is as in v1.0.0, by commit" in publisher.way_out("--abandon")
    files, _, after, titles = publisher.published()
    strangers = {"notes.txt"} | ({"data/x.parquet"} & set(files))
    assert {path: content for path, content in files.items() if path not in strangers} == before and after == tags
    assert "notes.txt" in files and titles[0] == "Put HyperKvasir v1.0.0 back"
    sent = publisher.hub.counters()["uploaded"]
    assert sent["xorbs"] == sent["lfs"] == 0


@one_worker
def test_after_an_abandoned_version_another_is_published(publisher, relabeled):
    publisher.way_out("--abandon")
    said = publisher.ok(relabeled, "2.0.0")
    assert "note:" not in said and load(publisher, "v2.0.0", SOME) == local(relabeled, SOME)
    commits = publisher.api.list_repo_commits(REPO, repo_type="dataset")
    assert commits[0].title == "HyperKvasir 2.0.0" and commits[0].message.strip() == "Changes."


def test_a_first_version_that_is_abandoned(xet_publisher, small):
    p = xet_publisher
    p.hub.faults(500, method="POST", path="/tag/", times=0)
    p.refused("tagging", small, "1.0.0")
    p.hub.clear_faults()
    upload_file(p, "notes.txt")
    assert "main is without the version that was not finished" in p.way_out("--abandon")
    assert set(p.published()[0]) == {".gitattributes", "notes.txt"}
    p.way_out("--abandon", reason="nothing to abandon")
    p.way_out("--finish", reason="no version is committed to main")
    p.way_out("--finish", "--branch", "nosuch", reason="ns/hyper-kvasir has no branch 'nosuch'")
    p.ok(small, "1.0.0")


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize(
    "name, content, message",
    [
        (".gitignore", b"*.parquet\n", "the .gitignore there leaves out data/(segmented/train_|unlabeled/)00.parquet"),
        (".gitignore", b"*.md\nassets/\n", "the .gitignore there leaves out CHANGELOG.md, README.md, assets/.* more"),
        (".gitattributes", LFS_BUT_PARQUET, "its .gitattributes do not put data/.* into the storage of large files"),
    ],
)
def test_files_that_the_commit_would_leave_out(name, content, message, archives, xet_publisher, small, tmp_path):
    """They are named before it is made. Once that is put right, the publication is made as if nothing had been."""
    p = xet_publisher
    upload_file(p, name, content)
    _, head, _, _ = p.published()
    place, flags, expect = small, [], True
    if archives:
        place, expect, flags = tmp_path / "work", False, ["--source", small.parent / "source", "--build-and-upload"]
        flags += ["--expect", f"{small}.expected.json", "--config", "segmented", "--config", "unlabeled"]
    p.refused(message, place, "1.0.0", *flags, expect=expect)
    assert p.published()[1] == head
    if archives == (name == ".gitignore"):  # of the two ways, one each
        return
    p.api.delete_file(name, REPO, repo_type="dataset") if name == ".gitignore" else upload_file(
        p, name, b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
    )
    p.ok(place, "1.0.0", *flags, expect=expect)


def tag_at(name, commit):
    """Puts a tag elsewhere: at the initial commit, or the head."""

    def change(publisher):
        commits = [commit.commit_id for commit in publisher.api.list_repo_commits(REPO, repo_type="dataset")]
        if name in publisher.published()[2]:
            publisher.api.delete_tag(REPO, tag=name, repo_type="dataset")
        publisher.api.create_tag(REPO, tag=name, revision=commits[commit], repo_type="dataset")

    return change


def without_tag(publisher):
    publisher.api.delete_tag(REPO, tag="v1.0.0", repo_type="dataset")


NO_TAG = "no version is tagged at a commit of main, so none can be put back, but there were HyperKvasir 1.0.0; tag"


@one_worker
@pytest.mark.parametrize(
    "change, reason",
    [
        (tag_at("v1.0.0", -1), NO_TAG),  # the initial commit
        (tag_at("v1.0.0", 0), NO_TAG),
        (without_tag, NO_TAG),
        (tag_at("v9.0.0", -1), None),
        (tag_at("v2.0.0", 0), "v2.0.0 is tagged: nothing to abandon"),
    ],
)
def test_tags_that_are_not_what_they_say(change, reason, publisher):
    """No version is put back that was not published under its tag."""
    before = publisher.published("v1.0.0")[0]
    change(publisher)
    head = publisher.published()[1]
    publisher.way_out("--abandon", reason=reason)
    assert (publisher.published()[1] == head) == bool(reason)
    assert reason or {path: c for path, c in publisher.published()[0].items() if path != "notes.txt"} == before


@one_worker
def test_abandoning_says_what_it_did(publisher):
    """It keeps what people put there. If the answer to its commit is lost, it sees that it is done."""
    upload_file(publisher, "assets/theirs.png", b"theirs")
    publisher.hub.faults("cut", method="POST", path="/commit/", when="after")
    said = publisher.way_out("--abandon")
    assert "put back as in v1.0.0: manifest.json" in said and "main is as in v1.0.0, by commit" in said
    assert publisher.read("assets/theirs.png") == b"theirs"


@one_worker
def test_a_token_that_may_not_tag(publisher):
    publisher.hub.faults(403, method="POST", path="/tag/", times=0)
    publisher.hub.faults(403, path="/commits/", times=0)
    reason = "2.0.0 is committed as .{40}, and cannot be tagged: the Hub answered 403: .* that may: --finish"
    publisher.way_out("--finish", reason=reason)


@one_worker
@pytest.mark.parametrize(
    "version, reason",
    [
        ("7.0.0", "manifest.json is of 7.0.0, and CITATION.cff of 2.0.0"),
        ("08.0.0", "version: '08.0.0' does not match"),
    ],
)
def test_a_version_that_was_edited(version, reason, publisher):
    manifest = json.loads(publisher.read("manifest.json"))
    upload_file(publisher, "manifest.json", json.dumps({**manifest, "version": version}).encode())
    publisher.way_out("--finish", reason=reason)


@one_worker
def test_a_version_put_back_past_a_gitignore(publisher):
    upload_file(publisher, ".gitignore", b"*.md\n")
    publisher.way_out("--abandon", reason="the .gitignore there leaves out README.md; take those lines out of it")
    publisher.api.delete_file(".gitignore", REPO, repo_type="dataset")
    publisher.way_out("--abandon")


def test_a_pull_request(v1, relabeled, tmp_path):
    """By a token that may do no more. It is read back, and opened once; after the merge it is tagged."""
    tokens = TOKENS | {"requester": (REQUESTER_TOKEN, "pr")}
    with LoopbackHub(tmp_path / "hub", tokens=tokens) as hub:
        p = Publisher(hub, tmp_path / "home", True)
        p.refused("a pull request needs a repository", v1, "1.0.0", "--create-pr", token=REQUESTER_TOKEN)
        p.ok(v1, "1.0.0")
        head = p.published()[1]
        p.refused("the token may not write there", relabeled, "2.0.0", token=REQUESTER_TOKEN)
        p.refused("too small a step", relabeled, "1.0.1", "--create-pr", token=REQUESTER_TOKEN)
        hub.faults("cut", method="POST", path="/commit/", when="after")  # the request is open, and nobody knows
        for _ in range(2):
            said = p.ok(relabeled, "2.0.0", "--create-pr", token=REQUESTER_TOKEN)
            assert re.search(r"2.0.0 is a pull request: http://\S+/discussions/1\n", said), said
            assert f"when it is merged: python -m scripts.publish --repo-id {REPO} --finish" in said
        assert p.published()[1:3] == (head, {"v1.0.0": head})
        assert load(p, "refs/pr/1", SOME) == local(relabeled, SOME)
        p.way_out("--finish")  # of 1.0.0, which is tagged
        p.api.merge_pull_request(REPO, 1, repo_type="dataset")
        p.way_out("--finish")
        files, head, tags, _ = p.published()
        assert tags["v2.0.0"] == head and load(p, "v2.0.0", SOME) == local(relabeled, SOME)
        requests = list(HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN).get_repo_discussions(REPO, repo_type="dataset"))
        assert len(requests) == 1


def test_a_renamed_repository(xet_publisher, v1, relabeled):
    """Under its old name it is found, and the card has the new one."""
    p = xet_publisher
    p.ok(v1, "1.0.0")
    p.api.move_repo(REPO, "ns/polyps", repo_type="dataset")
    said = p.ok(relabeled, "2.0.0")
    assert "ns/hyper-kvasir is now called ns/polyps: that name is used" in said
    assert "published v2.0.0 of ns/polyps" in said and 'load_dataset("ns/polyps"' in said
    place = f"{p.hub.endpoint}/datasets/ns/polyps/resolve/v2.0.0"
    card, croissant = (httpx2.get(f"{place}/{name}").text for name in ("README.md", "croissant.json"))
    assert 'load_dataset("ns/polyps"' in card and REPO not in card + croissant


def test_edits_on_the_hub_are_not_overwritten_in_silence(xet_publisher, small, everything):
    p = xet_publisher
    upload_file(p, "README.md", b"---\nlicense: mit\n---\n\nWhat I know of it.\n")
    p.refused("README.md is not of this project; take that over", small, "1.0.0")
    upload_file(p, "README.md", b"---\nlicense: mit\n---\n")  # as the Hub writes it
    p.ok(small, "1.0.0")
    card = p.read("README.md") + b"A line that somebody added.\n"
    upload_file(p, "README.md", card)
    upload_file(p, "CITATION.bib", b"@misc{mine}\n")
    reason = (
        "CITATION.bib, README.md was edited on the Hub since 1.0.0; take that over into dataset_card/, then give --ov"
    )
    p.refused(reason, everything, "1.1.0", "--dry-run")
    p.refused(reason, small, "1.0.1")
    assert p.read("README.md") == card
    p.api.delete_tag(REPO, tag="v1.0.0", repo_type="dataset")
    p.api.create_tag(REPO, tag="v1.0.0", repo_type="dataset")  # at the edited commit
    upload_file(p, "assets/findings.jpg", b"somebody's own")
    p.refused("CITATION.bib, README.md, assets/findings.jpg was edited on the Hub", everything, "1.1.0", "--dry-run")
    said = p.ok(everything, "1.1.0", "--overwrite")
    assert "README.md was edited on the Hub since 1.0.0: it will be replaced" in said
    assert b"somebody added" not in p.read("README.md")


def test_a_published_version_is_verified(xet_publisher, small):
    p, expect = xet_publisher, ["--expect", f"{small}.expected.json"]
    p.ok(small, "1.0.0")
    size = sum(path.stat().st_size for path in small.rglob("*.parquet"))
    p.hub.reset()
    code, said = p.verify("--revision", "v1.0.0", *expect)
    assert code == 0 and "all good: unlabeled, segmented" in said, said
    code, said = p.verify("--revision", "main", "--full", *expect)
    assert code == 0 and "polyp instances" in said and p.hub.counters()["routes"]["resolve"]["bytes_out"] > size, said
    code, said = p.verify("--revision", "v9.9.9", *expect)
    assert code == 1 and "ns/hyper-kvasir: no revision 'v9.9.9'" in said
    code, said = p.verify("--revision", "v1.0.0")
    assert code == 1 and "unlabeled / train: 12, expected 99,417" in said
    p.hub.faults("cut", path="/resolve/.*parquet", times=2)
    assert p.verify("--revision", "v1.0.0", *expect)[0] == 0
    p.api.create_tag(REPO, tag="v1.0.1", repo_type="dataset")
    assert "v1.0.1: manifest.json there is of version 1.0.0; the tag was moved" in p.verify("--revision", "v1.0.1")[1]
    upload_file(p, "README.md", b"---\n---\nmine")
    p.api.delete_file("data/unlabeled/00.parquet", REPO, repo_type="dataset")
    upload_file(p, "data/segmented/train_00.parquet", (small / "data/unlabeled/00.parquet").read_bytes())
    for full in ([], ["--full"]):
        code, said = p.verify("--revision", "main", *expect, *full)
        for problem in (
            "data/unlabeled/00.parquet is not there",
            "data/segmented/train_00.parquet has other content",
            "README.md has other content than was published: it was edited on the Hub",
            "segmented/train_00.parquet: columns [",
        ):
            assert code == 1 and problem in said, said


def test_the_output_of_an_update(xet_publisher, v1, relabeled):
    """A line for each stage, no foreign progress bars, and where to find it at the end."""
    p = xet_publisher
    p.ok(v1, "1.0.0")
    said = p.ok(relabeled, "2.0.0")
    for line in ("reading what is published in", "uploading: 100%", "committing ", "reading back commit", "tagging v2"):
        assert line in said
    for foreign in ("Processing Files", "New Data Upload", "Generating", "Downloading data", "Validating", "it/s"):
        assert foreign not in said, said
    head = p.published()[1]
    assert f"{p.hub.endpoint}/datasets/{REPO}/commit/{head}\n" in said
    assert f'load_dataset("{REPO}", "labeled", revision="v2.0.0")' in said
    said = p.ok(relabeled, "2.0.1")
    files = len(tree(relabeled))
    assert re.search(rf"all together +{files} +0 +0 +0\n", said) and "so there is no v2.0.1" in said


def test_a_hostile_manifest_on_the_hub(xet_publisher, small):
    """It is refused in a line, whatever is in it."""
    p = xet_publisher
    p.ok(small, "1.0.0")
    manifest = json.loads(p.read("manifest.json"))
    manifest["card"]["files"][".gitattributes"] = {"bytes": 1, "sha256": "0"}
    upload_file(p, "manifest.json", json.dumps(manifest).encode())
    reason = (
        r"ns/hyper-kvasir/manifest.json: not a manifest of this builder \(card / files: '.gitattributes' .*--abandon"
    )
    p.refused(reason, small, "1.0.1")
    p.way_out("--abandon")
    assert ".gitattributes" in p.published()[0] and "nothing changed" in p.ok(small, "1.0.1")
