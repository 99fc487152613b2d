"""The loopback Hub against the real clients, in LFS and Xet mode.

The clients read HF_ENDPOINT when they are imported, so each `client_*` function below runs in a process of its own.
"""

import http.client
import io
import json
import random
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import READ_TOKEN, WRITE_TOKEN
from tests.processes import Process

ROOT = Path(__file__).resolve().parents[1]
MODES = ["xet", "lfs"]
STRANGER_TOKEN, PROPOSER_TOKEN = "hf_loopback_stranger", "hf_loopback_proposer"
CARD = """---
license: cc-by-4.0
configs:
- config_name: first
  data_files: data/first.parquet
  default: true
- config_name: second
  data_files:
  - split: train
    path: data/second.parquet
---
# A test
"""


def run(hub, client, *arguments, token=WRITE_TOKEN, mode="xet", home=None):
    """Run one of the client functions in a child process and give back what it returned."""
    code = f"import json; from tests.test_loopback_hub import {client.__name__} as client; "
    code += f"print('RESULT' + json.dumps(client(*{arguments!r})))"
    environment = hub.env(token=token, xet=mode == "xet", home=home or hub.folder / f"home-{mode}")
    status, *said = Process(environment, code=code).end()
    assert status == 0, f"{client.__name__}: {said[0][-2000:]}{said[1][-6000:]}"
    with (hub.folder / "client-output.txt").open("a") as output:
        output.write("".join(said))
    return json.loads(said[0].rpartition("RESULT")[2])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    tokens = {"writer": (WRITE_TOKEN, "write", "team,raw"), "reader": (READ_TOKEN, "read")}
    tokens |= {"stranger": (STRANGER_TOKEN, "write"), "proposer": (PROPOSER_TOKEN, "pr", "team")}
    limits = dict(page_size=5, lfs_part_size=1 << 20, commit_operations=15)
    with LoopbackHub(tmp_path_factory.mktemp("hub"), tokens=tokens, **limits) as hub:
        yield hub


def parquet(rows, seed):
    """A few MB with numbers and text, so that Xet packs chunks in more than one way."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = random.Random(seed)
    table = pa.table(
        {
            "id": range(rows),
            "value": [numbers.random() for _ in range(rows)],
            "text": [f"row {i} " + "word " * numbers.randrange(9) for i in range(rows)],
            "noise": [numbers.randbytes(40) for _ in range(rows)],
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=rows)
    return file.getvalue()


def adding(files):
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(path, data) for path, data in files.items()]


def refusal(call, *arguments, **options):
    """The name and status of the error that a client's call ends in."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]
    return None


def first_version(repo):
    """What is published first, and again unchanged; other bytes in each repository."""
    tables = {"data/first.parquet": parquet(30_000, repo), "data/second.parquet": parquet(100, repo)}
    return adding({"README.md": CARD.encode(), **tables})


def client_publish(repo):
    from huggingface_hub import HfApi

    api, dataset = HfApi(), {"repo_type": "dataset"}
    onto_main = {"commit_message": "one", **dataset}
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    api.create_repo(repo, repo_type="dataset")
    assert api.create_repo(repo, repo_type="dataset", exist_ok=True).repo_id == repo
    start = api.dataset_info(repo).sha
    done = api.create_commit(repo, first_version(repo), parent_commit=start, **onto_main)
    api.create_tag(repo, tag="v1.0.0", revision=done.oid, **dataset)
    assert refusal(api.create_tag, repo, tag="v1.0.0", **dataset) == ["HfHubHTTPError", 409]
    stale = refusal(api.create_commit, repo, adding({"a.txt": b"a"}), parent_commit=start, **onto_main)
    assert stale == ["HfHubHTTPError", 412]
    bad_card = adding({"README.md": CARD.replace("second", "first").encode()})
    assert refusal(api.create_commit, repo, bad_card, **onto_main)[0] == "ValueError"
    return done.oid


def client_publish_again(repo):
    """The same files in a new process: nothing to commit."""
    from huggingface_hub import HfApi

    return HfApi().create_commit(repo, first_version(repo), commit_message="again", repo_type="dataset").oid


def client_update(repo):
    """Change one config, delete a file, look at everything that can be listed."""
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi

    api, dataset = HfApi(), {"repo_type": "dataset"}
    head = api.dataset_info(repo).sha
    many = {f"many/sub/{i:02}.txt": b"%d" % i for i in range(12)}
    changes = adding({"data/second.parquet": parquet(200, repo), **many})
    api.create_commit(repo, changes, commit_message="two", **dataset, parent_commit=head)
    listed = api.list_repo_tree(repo, recursive=True, expand=True, **dataset)
    tree = {entry.path: entry for entry in listed}
    assert {"README.md", ".gitattributes", "data", "many/sub", *many, "data/first.parquet"} <= tree.keys()
    assert tree["data/second.parquet"].last_commit.title == "two"
    assert tree["README.md"].last_commit.title == "one"
    assert len(list(api.list_repo_tree(repo, "many/sub", **dataset))) == 12
    assert refusal(lambda: list(api.list_repo_tree(repo, "no", **dataset))) == ["RemoteEntryNotFoundError", 404]
    assert [f.path for f in api.get_paths_info(repo, ["README.md", "no"], **dataset)] == ["README.md"]
    assert [commit.title for commit in api.list_repo_commits(repo, **dataset)] == ["two", "one", "initial commit"]
    changes = [CommitOperationCopy("data/first.parquet", "copy.parquet")]
    changes += [CommitOperationDelete("many/", is_folder=True)]
    done = api.create_commit(repo, changes, commit_message="three", **dataset)
    names = api.list_repo_files(repo, **dataset)
    assert names == [".gitattributes", "README.md", "copy.parquet", "data/first.parquet", "data/second.parquet"]
    api.create_branch(repo, branch="try/it", revision="v1.0.0", **dataset)
    api.delete_file("copy.parquet", repo, **dataset)
    refs = api.list_repo_refs(repo, **dataset)
    assert [ref.name for ref in refs.branches] == ["main", "try/it"] and [ref.name for ref in refs.tags] == ["v1.0.0"]
    api.delete_branch(repo, branch="try/it", **dataset)
    request = api.create_commit(repo, adding({"note.txt": b"n"}), commit_message="pr", create_pr=True, **dataset)
    assert request.pr_num == 1 and "note.txt" in api.list_repo_files(repo, revision="refs/pr/1", **dataset)
    info = api.dataset_info(repo, files_metadata=True)
    assert info.card_data.license == "cc-by-4.0" and {s.rfilename for s in info.siblings} == {*names} - {"copy.parquet"}
    return done.oid


def client_load(repo, first_commit):
    import hashlib

    from datasets import load_dataset
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download

    assert load_dataset(repo, "first", split="train").num_rows == 30_000
    assert load_dataset(repo, split="train").num_rows == 30_000
    assert load_dataset(repo, "second", split="train").num_rows == 200
    assert load_dataset(repo, "second", split="train", revision="v1.0.0").num_rows == 100
    assert load_dataset(repo, "second", split="train", revision=first_commit).num_rows == 100
    assert next(iter(load_dataset(repo, "first", split="train", streaming=True)))["id"] == 0
    path = hf_hub_download(repo, "data/first.parquet", repo_type="dataset", revision="v1.0.0", force_download=True)
    expected = HfApi().get_paths_info(repo, "data/first.parquet", repo_type="dataset", revision="v1.0.0")[0].lfs.sha256
    content = Path(path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == expected
    middle = HfFileSystem().cat_file(f"datasets/{repo}@v1.0.0/data/first.parquet", start=500_000, end=500_100)
    assert middle == content[500_000:500_100]
    return len(content)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_publish_update_and_load(hub, mode):
    repo = f"team/{mode}"
    hub.reset()
    first = run(hub, client_publish, repo, mode=mode)
    uploaded = hub.counters()["uploaded"]
    assert uploaded["xorbs" if mode == "xet" else "lfs"] > 1 << 20
    assert uploaded["lfs" if mode == "xet" else "xorbs"] == 0
    hub.reset()
    # Another machine: in Xet mode only the answers of the deduplication query can tell it that all is here.
    assert run(hub, client_publish_again, repo, mode=mode, home=hub.folder / f"other-{mode}") == first
    assert hub.counters()["uploaded"]["xorbs"] == hub.counters()["uploaded"]["lfs"] == 0
    run(hub, client_update, repo, mode=mode)
    hub.reset()
    size = run(hub, client_load, repo, first, mode=mode)
    routes = hub.counters()["routes"]
    assert routes["cas_fetch" if mode == "xet" else "resolve"]["bytes_out"] > size / 2


def client_roles(repo):
    from huggingface_hub import HfApi, hf_hub_download

    api, nobody, wrong = HfApi(token=WRITE_TOKEN), HfApi(token=False), HfApi(token="hf_wrong")
    reader = HfApi(token=READ_TOKEN)
    api.create_repo(repo, repo_type="dataset", private=True)
    api.create_commit(repo, adding({"a.parquet": b"PAR1" * 100}), commit_message="x", repo_type="dataset")
    assert reader.dataset_info(repo).private and not nobody.repo_exists(repo, repo_type="dataset")
    assert refusal(nobody.dataset_info, repo) == ["RepositoryNotFoundError", 401]
    assert refusal(wrong.dataset_info, repo) == ["HfHubHTTPError", 401]
    assert refusal(wrong.whoami)[1] == 401
    assert refusal(api.dataset_info, "team/missing") == ["RepositoryNotFoundError", 404]
    assert refusal(api.dataset_info, repo, revision="none") == ["RevisionNotFoundError", 404]
    assert refusal(hf_hub_download, repo, "none.txt", repo_type="dataset", token=READ_TOKEN)[1] == 404
    write = dict(commit_message="x", repo_type="dataset")
    assert refusal(reader.create_commit, repo, adding({"b.txt": b"b"}), **write) == ["HfHubHTTPError", 403]
    assert refusal(reader.create_repo, "team/other", repo_type="dataset") == ["HfHubHTTPError", 403]
    assert refusal(reader.create_tag, repo, tag="t", repo_type="dataset") == ["HfHubHTTPError", 403]
    stranger = HfApi(token=STRANGER_TOKEN)  # may write, but not here
    assert [org["name"] for org in api.whoami()["orgs"]] == ["team", "raw"] and not stranger.whoami()["orgs"]
    assert refusal(stranger.create_repo, "team/other", repo_type="dataset") == ["HfHubHTTPError", 403]
    assert refusal(stranger.create_commit, repo, adding({"b.txt": b"b"}), **write) == ["HfHubHTTPError", 403]
    for one, allowed in ((api, True), (reader, False), (stranger, False)):
        assert (refusal(one.auth_check, repo, repo_type="dataset", write=True) is None) == allowed
    stranger.create_repo("stranger/own", repo_type="dataset")
    api.update_repo_settings(repo, private=False, gated="auto", repo_type="dataset")
    refused = refusal(hf_hub_download, repo, "a.parquet", repo_type="dataset", token=False)
    assert refused[0] == "GatedRepoError"
    api.update_repo_settings(repo, gated=False, repo_type="dataset")
    assert hf_hub_download(repo, "a.parquet", repo_type="dataset", token=False)
    api.delete_repo(repo, repo_type="dataset")
    assert not api.repo_exists(repo, repo_type="dataset")


def test_roles_private_and_missing(hub):
    run(hub, client_roles, "team/secret", token=None)


def client_ignore(repo):
    from huggingface_hub import HfApi

    api, write = HfApi(), dict(commit_message="x", repo_type="dataset")
    api.create_repo(repo, repo_type="dataset")

    def committed(*paths, **files):
        """What of the paths, and of files with this content, is in the repository after a commit of them."""
        api.create_commit(repo, adding({**files, **dict.fromkeys(paths, b"x")}), **write)
        return [path for path in paths if api.file_exists(repo, path, repo_type="dataset")]

    rules = b"# a comment\n\n*.parquet\nassets/\n*.md\n!README.md\n/data\n"
    kept = ["README.md", "sub/README.md", "sub/data", "assets.txt", "note.txt"]
    ignored = ["a.parquet", "sub/b.parquet", "assets/c.png", "sub/assets/d.png", "e.md", "data/f.txt"]
    assert committed(*kept, *ignored, **{".gitignore": rules}) == kept
    assert committed("new.txt", "new.parquet") == ["new.txt"]  # by the one that is there
    assert committed("new.parquet", **{".gitignore": b""}) == ["new.parquet"]  # by the one of the commit


def test_ignored_files_are_left_out(hub):
    run(hub, client_ignore, "team/ignore")


def client_upload_modes(repo):
    from huggingface_hub import HfApi

    api, write = HfApi(), dict(commit_message="x", repo_type="dataset")
    api.create_repo(repo, repo_type="dataset")

    def stored_as_lfs(*paths):
        api.create_commit(repo, adding({path: path.encode() for path in paths}), **write)
        return [file.path for file in api.get_paths_info(repo, list(paths), repo_type="dataset") if file.lfs]

    assert stored_as_lfs("a.parquet", "a.txt") == ["a.parquet"]
    attributes = b"# a comment\n*.bin filter=lfs diff=lfs merge=lfs -text\ndata/*.txt filter=lfs\nsmall.bin -filter\n"
    api.create_commit(repo, adding({".gitattributes": attributes}), **write)
    assert stored_as_lfs("b.parquet", "sub/b.bin", "b.txt", "data/b.txt", "small.bin") == ["sub/b.bin", "data/b.txt"]


def test_upload_modes_follow_the_attributes(hub):
    run(hub, client_upload_modes, "team/modes", mode="lfs")


def client_copy(repo):
    """Goes back to files of an older version, of which only their names are sent if they are large."""
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download

    api, write = HfApi(), dict(commit_message="x", repo_type="dataset")
    api.create_repo(repo, repo_type="dataset")
    old = {"a.parquet": b"old a" * 99, "b.parquet": b"old b" * 99, "sub/a b.txt": b"old text", "same.txt": b"same"}
    api.create_commit(repo, adding(old), **write)
    api.create_tag(repo, tag="v1/old", repo_type="dataset")
    changes = [*adding({"a.parquet": b"new" * 99, "sub/a b.txt": b"new"}), CommitOperationDelete("b.parquet")]
    api.create_commit(repo, changes, **write)
    names = {"a.parquet": "a.parquet", "b.parquet": "c.parquet", "sub/a b.txt": "sub/a b.txt", "same.txt": "same.txt"}
    copies = [CommitOperationCopy(path, name, src_revision="v1/old") for path, name in names.items()]
    api.create_commit(repo, copies, **write)
    for path, name in names.items():
        assert Path(hf_hub_download(repo, name, repo_type="dataset")).read_bytes() == old[path]
    files = {f.path: f for f in api.get_paths_info(repo, [*names.values()], repo_type="dataset")}
    assert [bool(files[name].lfs) for name in names.values()] == [True, True, False, False]
    assert files["c.parquet"].size == len(old["b.parquet"])
    missing = [CommitOperationCopy("none.parquet", "d.parquet", src_revision="v1/old")]
    assert refusal(api.create_commit, repo, missing, **write)[0] == "EntryNotFoundError"


@pytest.mark.parametrize("mode", MODES)
def test_copies_from_an_older_version(hub, mode):
    hub.reset()
    run(hub, client_copy, f"team/{mode}-copy", mode=mode)
    assert hub.counters()["routes"]["preupload"]["requests"] == 2  # and none for the copies


def client_commit_too_much(repo):
    from huggingface_hub import CommitOperationDelete, HfApi

    api, write = HfApi(), dict(commit_message="x", repo_type="dataset")
    api.create_repo(repo, repo_type="dataset")
    start = api.dataset_info(repo).sha
    files = {f"{number:02}.txt": b"%d" % number for number in range(15)}
    too_many = [*adding(files), CommitOperationDelete(".gitattributes")]
    for onto in ({}, {"create_pr": True}):
        assert refusal(api.create_commit, repo, too_many, **write, **onto) == ["HfHubHTTPError", 504]
    assert api.dataset_info(repo).sha == start
    assert not list(api.get_repo_discussions(repo, repo_type="dataset"))
    api.create_commit(repo, adding(files), **write)
    assert api.list_repo_files(repo, repo_type="dataset") == [".gitattributes", *files]


def test_a_commit_of_too_many_operations_times_out(hub):
    run(hub, client_commit_too_much, "team/many")


def client_pull_requests(repo):
    from huggingface_hub import HfApi

    api, dataset = HfApi(), {"repo_type": "dataset"}
    api.create_repo(repo, **dataset)
    files = {"a.txt": b"a", "b.txt": b"b", "c.txt": b"c", "gone.txt": b"g"}
    start = api.create_commit(repo, adding(files), commit_message="files", **dataset).oid

    def propose(title, files, **options):
        about = dict(commit_message=title, create_pr=True, **dataset, **options)
        return api.create_commit(repo, adding(files), **about).pr_num

    def listed(**options):
        found = api.get_repo_discussions(repo, discussion_type="pull_request", **dataset, **options)
        return [(pull.num, pull.title, pull.status) for pull in found]

    def content(path, revision="main"):
        return Path(api.hf_hub_download(repo, path, revision=revision, **dataset)).read_bytes()

    draft = api.create_pull_request(repo, "  A draft ", description="of it", **dataset)
    assert (draft.num, draft.title, draft.status, draft.author) == (1, "A draft", "draft", "writer")
    assert draft.target_branch == "refs/heads/main" and draft.conflicting_files == []
    onto_draft = dict(revision=draft.git_reference, **dataset)
    api.create_commit(repo, adding({"a.txt": b"A"}), commit_message="first", **onto_draft)
    api.delete_file("gone.txt", repo, commit_message="second", **onto_draft)
    assert propose("Change b", {"b.txt": b"B"}) == 2
    assert listed() == [(2, "Change b", "open"), (1, "A draft", "draft")]

    assert refusal(api.merge_pull_request, repo, 1, **dataset) == ["BadRequestError", 400]  # still a draft
    assert api.change_discussion_status(repo, 1, "open", **dataset).new_status == "open"
    api.merge_pull_request(repo, 1, comment="good", **dataset)  # main has not moved
    head, done = api.dataset_info(repo).sha, api.get_discussion_details(repo, 1, **dataset)
    assert (done.status, done.merge_commit_oid) == ("merged", head)
    assert content("a.txt") == b"A" and not api.file_exists(repo, "gone.txt", **dataset)
    titles = [commit.title for commit in api.list_repo_commits(repo, **dataset)]
    assert titles == ["A draft", "files", "initial commit"]  # the two commits in one
    assert refusal(api.merge_pull_request, repo, 1, **dataset) == ["BadRequestError", 400]
    assert refusal(api.change_discussion_status, repo, 1, "open", **dataset) == ["BadRequestError", 400]

    api.merge_pull_request(repo, 2, **dataset)  # main has moved, but elsewhere
    assert (content("a.txt"), content("b.txt"), content("c.txt")) == (b"A", b"B", b"c")
    assert propose("Change a and c", {"a.txt": b"x", "c.txt": b"C"}, parent_commit=start) == 3
    assert content("b.txt", "refs/pr/3") == b"b"
    head = api.dataset_info(repo).sha
    assert api.get_discussion_details(repo, 3, **dataset).conflicting_files == ["a.txt"]
    assert refusal(api.merge_pull_request, repo, 3, **dataset) == ["HfHubHTTPError", 409]
    assert api.dataset_info(repo).sha == head and content("c.txt") == b"c"
    api.change_discussion_status(repo, 3, "closed", comment="no", **dataset)
    assert refusal(api.merge_pull_request, repo, 3, **dataset) == ["BadRequestError", 400]

    for number in range(4, 8):
        assert propose(f"Number {number}", {"n.txt": b"%d" % number}) == number
    assert [number for number, *_ in listed()] == [7, 6, 5, 4, 3, 2, 1]
    closed = [(3, "Change a and c", "closed"), (2, "Change b", "merged"), (1, "A draft", "merged")]
    assert listed(discussion_status="closed") == closed and len(listed(discussion_status="open")) == 4
    assert len(listed(author="writer")) == 7 and not listed(author="reader")
    assert not list(api.get_repo_discussions(repo, discussion_type="discussion", **dataset))
    api.change_discussion_status(repo, 3, "open", **dataset)
    assert (3, "Change a and c", "open") in listed()
    refs = api.list_repo_refs(repo, include_pull_requests=True, **dataset).pull_requests
    assert [ref.ref for ref in refs] == [f"refs/pr/{number}" for number in range(1, 8)]
    missing = [refusal(call, repo, 8, **dataset) for call in (api.get_discussion_details, api.merge_pull_request)]
    assert missing == [["HfHubHTTPError", 404]] * 2
    by_reader = HfApi(token=READ_TOKEN)
    assert refusal(by_reader.merge_pull_request, repo, 4, **dataset) == ["HfHubHTTPError", 403]
    assert refusal(by_reader.create_pull_request, repo, "No", **dataset) == ["HfHubHTTPError", 403]


def test_pull_requests(hub):
    run(hub, client_pull_requests, "team/pulls")


def client_propose(repo, folder):
    """What a token does that may open pull requests alone, and what it is refused."""
    from huggingface_hub import CommitOperationAdd, HfApi

    owner, api, dataset = HfApi(token=WRITE_TOKEN), HfApi(token=PROPOSER_TOKEN), {"repo_type": "dataset"}
    owner.create_repo(repo, private=True, **dataset)
    assert api.whoami()["auth"]["accessToken"]["role"] == "fineGrained"
    start, table = api.dataset_info(repo).sha, parquet(100, repo)

    def commit(api, name, **options):
        files = {f"{name}.txt": b"x", f"{name}.parquet": table + name.encode()}
        return api.create_commit(repo, adding(files), commit_message=name, **dataset, **options)

    assert commit(api, "one", create_pr=True).pr_num == 1
    commit(api, "more", revision="refs/pr/1")
    assert api.create_pull_request(repo, "Two", **dataset).git_reference == "refs/pr/2"
    Path(folder).mkdir()
    Path(folder, "three.parquet").write_bytes(table + b"3")
    options = dict(folder_path=folder, commit_message="three", create_pr=True, **dataset)
    assert api.upload_folder(repo_id=repo, **options).oid == api.dataset_info(repo, revision="refs/pr/3").sha
    assert commit(owner, "four", create_pr=True).pr_num == 4
    refused = {
        "commit": lambda: commit(api, "no"),
        "commit without an upload": lambda: api.delete_file(".gitattributes", repo, **dataset),
        "commit to another's": lambda: commit(api, "no", revision="refs/pr/4"),
        "merge": lambda: api.merge_pull_request(repo, 1, **dataset),
        "close": lambda: api.change_discussion_status(repo, 1, "closed", **dataset),
        "tag": lambda: api.create_tag(repo, tag="no", **dataset),
        "branch": lambda: api.create_branch(repo, branch="no", **dataset),
        "settings": lambda: api.update_repo_settings(repo, private=False, **dataset),
        "move": lambda: api.move_repo(repo, "proposer/no", **dataset),
        "create": lambda: api.create_repo("proposer/no", **dataset),
        "delete": lambda: api.delete_repo(repo, **dataset),
        "auth-check": lambda: api.auth_check(repo, write=True, **dataset),
    }
    assert {name: refusal(call) for name, call in refused.items()} == dict.fromkeys(refused, ["HfHubHTTPError", 403])
    uploaded = CommitOperationAdd("no.parquet", table + b"no")
    uploaded._upload_mode = "lfs"  # a client that does not ask before it uploads
    assert refusal(api.preupload_lfs_files, repo, [uploaded], **dataset)
    assert api.dataset_info(repo).sha == start
    owner.merge_pull_request(repo, 1, **dataset)
    names = [".gitattributes", *(f"{name}.{kind}" for name in ("more", "one") for kind in ("parquet", "txt"))]
    assert api.list_repo_files(repo, **dataset) == names
    reader, stranger = HfApi(token=READ_TOKEN), HfApi(token=STRANGER_TOKEN)
    assert refusal(commit, reader, "no", create_pr=True) == ["HfHubHTTPError", 403]
    assert commit(stranger, "five", create_pr=True).pr_num == 5  # pull requests need no rights to the repository


@pytest.mark.parametrize("mode", MODES)
def test_a_token_for_pull_requests_alone(hub, mode, tmp_path):
    hub.reset()
    run(hub, client_propose, f"team/{mode}-propose", str(tmp_path / "folder"), token=None, mode=mode)
    route = "xet_token" if mode == "xet" else "lfs_batch"
    assert {entry["status"] for entry in hub.log() if entry["route"] == route} == {200, 403}


def client_move(old, new):
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download

    api, write = HfApi(), dict(commit_message="x", repo_type="dataset")
    api.create_repo(old, repo_type="dataset")
    api.create_commit(old, adding({"a.txt": b"a"}), **write)
    assert refusal(HfApi(token=STRANGER_TOKEN).move_repo, old, "stranger/taken", repo_type="dataset")[1] == 403
    assert refusal(api.move_repo, old, "stranger/given", repo_type="dataset")[1] == 403
    api.move_repo(old, f"{new}-first", repo_type="dataset")
    api.move_repo(f"{new}-first", new, repo_type="dataset")
    addresses = [("GET", f"/api/datasets/{old}/tree/a%2Fb?recursive=true"), ("HEAD", f"/datasets/{old}/resolve/main/a")]
    for method, path in [*addresses, ("POST", f"/datasets/{old}.git/info/lfs/objects/batch?x=%2F")]:
        answer = httpx2.request(method, api.endpoint + path, json={})
        assert (answer.status_code, answer.headers["Location"]) == (307, path.replace(old, new))
    for name in (old, f"{new}-first"):
        assert api.dataset_info(name).id == new
        assert Path(hf_hub_download(name, "a.txt", repo_type="dataset")).read_bytes() == b"a"
    api.create_commit(old, adding({"b.parquet": b"b" * 99, "README.md": CARD.encode()}), **write)
    api.create_tag(old, tag="v1", repo_type="dataset")
    assert api.file_exists(new, "b.parquet", revision="v1", repo_type="dataset")
    api.create_repo(old, repo_type="dataset")
    assert api.dataset_info(old).id == old and not api.file_exists(old, "a.txt", repo_type="dataset")
    assert refusal(api.move_repo, old, new, repo_type="dataset")[1] == 409
    api.delete_repo(old, repo_type="dataset")
    assert refusal(api.dataset_info, old)[1] == 404
    api.move_repo(new, f"{new}-first", repo_type="dataset")  # back again
    assert api.dataset_info(new).id == api.dataset_info(f"{new}-first").id == f"{new}-first"


@pytest.mark.parametrize("mode", MODES)
def test_an_old_name_leads_to_a_renamed_repository(hub, mode):
    hub.reset()
    run(hub, client_move, f"team/{mode}-old", f"team/{mode}-new", mode=mode)
    redirected = [entry for entry in hub.log() if entry["status"] == 307]
    assert redirected and not any(entry["accepted"] for entry in redirected)


def ask(hub, method, path, data=None, token=WRITE_TOKEN, **headers):
    """A plain request without any retry: status, body and headers, or None when the connection was cut."""
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(hub.endpoint + path, data, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers
    except (OSError, http.client.HTTPException):
        return None


def create(hub, name):
    body = {"organization": "raw", "name": name, "type": "dataset"}
    return ask(hub, "POST", "/api/repos/create", json.dumps(body).encode())


def commit_body(text, parent=None):
    header = {"key": "header", "value": {"summary": text, "parentCommit": parent}}
    file = {"key": "file", "value": {"path": "note.txt", "content": text, "encoding": "utf-8"}}
    return "\n".join(map(json.dumps, [header, file])).encode()


def commit(hub, name, text, parent=None):
    return ask(hub, "POST", f"/api/datasets/raw/{name}/commit/main", commit_body(text, parent))


def head(hub, name):
    return json.loads(ask(hub, "GET", f"/api/datasets/raw/{name}")[1])["sha"]


def test_faults(hub):
    create(hub, "faults")
    before = head(hub, "faults")
    hub.reset()
    hub.faults(429, method="POST", path="/commit/", retry_after=7)
    status, _, headers = commit(hub, "faults", "a")
    assert (status, headers["ratelimit"], headers["Retry-After"]) == (429, '"api";r=0;t=7', "7")
    hub.faults(429, method="POST", path="/commit/", retry_after=7, ratelimit=False)
    status, _, headers = commit(hub, "faults", "a")
    assert (status, headers["ratelimit"], headers["Retry-After"]) == (429, None, "7")
    for action in (412, 409, 500, 503):
        hub.faults(action, path="/commit/")
        assert commit(hub, "faults", "a")[0] == action
    hub.faults("cut", nth=2, times=2)
    assert commit(hub, "faults", "a")[0] == 200
    assert commit(hub, "faults", "b") is None and commit(hub, "faults", "b") is None
    after = head(hub, "faults")
    assert after != before
    hub.faults("cut", path="/commit/", when="after")
    assert commit(hub, "faults", "done though cut off", parent=after) is None
    assert commit(hub, "faults", "x", parent=after)[0] == 412
    hub.faults("cut", path="/resolve/", body_bytes=4)
    assert ask(hub, "GET", "/datasets/raw/faults/resolve/main/note.txt") is None
    hub.faults(path="/refs", delay=0.3)
    start = time.monotonic()
    assert ask(hub, "GET", "/api/datasets/raw/faults/refs")[0] == 200 and time.monotonic() - start > 0.3
    assert all(fault["hits"] == fault["times"] for fault in hub.active_faults())
    check_client_gone(hub)
    hub.clear_faults()
    applied = [(entry["fault"], entry["status"], entry["accepted"]) for entry in hub.log() if entry["fault"]]
    assert applied[0] == ("before 429", 429, False) and ("after cut", None, True) in applied
    assert [entry["index"] for entry in hub.log()] == list(range(1, len(hub.log()) + 1))
    hub.limit_bandwidth(100_000)
    start = time.monotonic()
    commit(hub, "faults", "x" * 30_000)
    hub.limit_bandwidth(0)
    assert time.monotonic() - start > 0.25
    with pytest.raises(urllib.error.HTTPError):
        hub.faults("nonsense")


def check_client_gone(hub):
    """A client that dies while its request is held up: the work is not done after all."""
    before = head(hub, "faults")
    hub.faults(path="/commit/", delay=0.2)
    connection = http.client.HTTPConnection("127.0.0.1", hub.port)
    headers = {"Authorization": f"Bearer {WRITE_TOKEN}"}
    connection.request("POST", "/api/datasets/raw/faults/commit/main", commit_body("late"), headers)
    while not hub.active_faults()[-1]["hits"]:
        time.sleep(0.02)
    connection.close()
    time.sleep(0.4)
    assert head(hub, "faults") == before


def test_one_of_several_writers_wins(hub):
    create(hub, "race")
    for turn in range(3):
        parent, results = head(hub, "race"), []

        def write(number, turn=turn, parent=parent, results=results):
            results.append(commit(hub, "race", f"{turn} {number}", parent)[0])

        writers = [threading.Thread(target=write, args=[number]) for number in range(6)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(results) == [200] + [412] * 5


def test_range_requests(hub):
    create(hub, "range")
    commit(hub, "range", "0123456789")
    address = "/datasets/raw/range/resolve/main/note.txt"
    for asked, expected in [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")]:
        status, body, headers = ask(hub, "GET", address, Range=asked)
        assert (status, body, headers["Content-Range"].endswith("/10")) == (206, expected, True)
    assert ask(hub, "GET", address, Range="bytes=10-")[0] == 416
    status, body, headers = ask(hub, "HEAD", address)
    assert (status, body, headers["Content-Length"], len(headers["X-Repo-Commit"])) == (200, b"", "10", 40)
    assert ask(hub, "GET", "/datasets/raw/range/resolve/main/none")[2]["X-Error-Code"] == "EntryNotFound"


def held_commit(hub, text, when):
    """The thread of a commit that is held up for longer than any client waits."""
    hub.faults(path="/commit/", when=when, delay=60)
    writer = threading.Thread(target=commit, args=(hub, "kept", text))
    writer.start()
    while not hub.active_faults()[0]["hits"]:
        time.sleep(0.02)
    return writer


def test_killed_and_started_again(tmp_path):
    with LoopbackHub(tmp_path, tokens={"raw": (WRITE_TOKEN, "write")}) as hub:
        create(hub, "kept")
        commit(hub, "kept", "kept")
        create(hub, "old")
        ask(hub, "POST", "/api/repos/move", json.dumps({"fromRepo": "raw/old", "toRepo": "raw/new"}).encode())
        kept, requests = head(hub, "kept"), hub.counters()["requests"]
        writer = held_commit(hub, "done, but not answered", when="after")
        time.sleep(0.2)
        hub.kill()
        writer.join()
        hub.start()
        assert hub.counters()["requests"] == requests
        commits = json.loads(ask(hub, "GET", "/api/datasets/raw/kept/commits/main")[1])
        assert [entry["title"] for entry in commits] == ["done, but not answered", "kept", "initial commit"]
        assert commits[1]["id"] == kept
        assert json.loads(ask(hub, "GET", "/api/datasets/raw/old")[1])["id"] == "raw/new"
        writer = held_commit(hub, "neither done nor answered", when="before")
        start = time.monotonic()
        hub.stop()
        assert time.monotonic() - start < 2
        writer.join()


def test_no_token_in_any_log(hub):
    ask(hub, "GET", f"/api/datasets/raw/faults?token={WRITE_TOKEN}&x={READ_TOKEN}")
    logs = [hub.folder / name for name in ("requests.jsonl", "server.log", "client-output.txt")]
    assert not [path for path in logs if path.exists() and "hf_loopback" in path.read_text()]
