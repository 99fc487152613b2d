"""A repository on the Hub: what is tried again, tags, access, and branches that are made."""

import io
import os

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import logging
from huggingface_hub.utils._http import default_client_factory

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline import hub as hub_module
from scripts.pipeline.hub import (
    FIRST_CHUNK,
    PublishError,
    Repository,
    State,
    check_branch,
    explain,
    patiently,
    prepare_clients,
)
from tests.publisher import REPO


@pytest.fixture
def waits(monkeypatch):
    """The seconds that `patiently` waits, without waiting."""
    seconds = []
    monkeypatch.setattr(hub_module.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(tmp_path):
    with LoopbackHub(tmp_path) as hub:
        yield hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)


def answer(status, **headers):
    request = httpx2.Request("GET", "http://127.0.0.1/")
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError(f"Server error {status} for http://127.0.0.1/", response=response, server_message="no way")


@pytest.mark.parametrize(
    "error, waited, said",
    [
        (httpx2.ReadTimeout(""), [1, 2, 4, 8], "reading: ReadTimeout, 5 times; run the same command again"),
        (httpx2.ConnectError("refused"), [1, 2, 4, 8], "reading: ConnectError: refused, 5 times; run the same command"),
        (httpx2.RemoteProtocolError("cut"), [1, 2, 4, 8], "reading: RemoteProtocolError: cut, 5 times; run the same"),
        (RuntimeError("xet"), [1, 2, 4, 8], "reading: RuntimeError: xet, 5 times; run the same command again"),
        (answer(500), [1, 2, 4, 8], "reading: the Hub answered 500, 5 times; run the same command again"),
        (answer(429, ratelimit='"api";r=0;t=7'), [8] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429, retry_after="7"), [7] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429), [1, 2, 4, 8], "reading: the Hub answered 429, 5 times"),
        (answer(503, retry_after="9"), [9] * 4, "reading: the Hub answered 503, 5 times"),
        (answer(429, retry_after="Fri, 01 Jan 2100 00:00:00 GMT"), [300] * 4, "reading: the Hub answered 429, 5 times"),
        (answer(429, retry_after="Fri, 01 Jan 2010 00:00:00 GMT"), [1] * 4, "reading: the Hub answered 429, 5 times"),
        (httpx2.UnsupportedProtocol("no scheme"), [], "no scheme"),
        (answer(403), [], "the Hub answered 403: no way"),
        (ValueError("wrong"), [], "wrong"),
    ],
)
def test_what_is_tried_again_and_how_it_ends(error, waited, said, waits):
    def fail():
        raise error

    with pytest.raises(Exception) as failed:
        patiently("reading", fail)
    assert waits == waited and explain(failed.value).startswith(said)


class CutOnce(Repository):
    """A repository of local files; the connection of the first that is opened is cut for good."""

    def __init__(self, folder):
        self.folder, self.opened = folder, 0

    def open(self, path, revision):
        self.opened += 1
        return Broken(self.folder / path) if self.opened == 1 else open(self.folder / path, "rb")


class Broken(io.FileIO):
    def read(self, size=-1):
        raise httpx2.ReadError("cut")


def test_a_file_is_opened_anew_for_each_try(waits, tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    repository = CutOnce(tmp_path)
    assert repository.read_parquet("a.parquet", "head", lambda parquet: parquet.metadata.num_rows) == 2
    assert repository.opened == 2 and waits == [1]
    repository = CutOnce(tmp_path)
    assert repository._first_chunk("a.parquet", "head") == (tmp_path / "a.parquet").read_bytes()
    assert repository.opened == 2 and waits == [1, 1]


def test_tagging(hub, api, waits):
    """A tag whose answer was lost is found at once; one at another commit is refused; a busy Hub is waited for."""
    repository = Repository(api, REPO)
    first = repository.make(State(REPO, None))
    hub.faults("cut", method="POST", path="/tag/", when="after")
    repository.tag("v1.0.0", first, "one")
    assert waits == [1]
    second = api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, repo_type="dataset").oid
    with pytest.raises(PublishError, match=f"somebody else tagged v1.0.0 .* at commit {first}, not at {second}"):
        repository.tag("v1.0.0", second, "two")
    hub.faults(409, method="POST", path="/tag/")
    repository.tag("v2.0.0", second, "two")
    assert waits == [1, 1]
    assert repository.state().tags == {"v1.0.0": first, "v2.0.0": second}


def test_the_slower_of_two_that_make_a_repository_or_branch_does_not_build_on_the_others(api):
    def make(repo_id, head, branch="main"):
        return Repository(api, repo_id, branch).make(State(repo_id, head))

    first = make(REPO, None)
    assert first == api.dataset_info(REPO).sha
    second = api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, repo_type="dataset").oid
    assert make(REPO, None) is None
    assert make(REPO, first, "next") == first
    assert make(REPO, second, "next") is None
    assert make("ns/new", None) == api.dataset_info("ns/new").sha


# ------------------------------------------------------------------------------------------------- time-outs, retries


@pytest.fixture
def prepared():
    """huggingface_hub with this project's client, as in the commands; afterwards as it was."""
    prepare_clients()
    yield
    set_client_factory(default_client_factory)
    logging.set_verbosity_warning()


def test_a_hub_that_does_not_answer(hub, api, prepared, waits, monkeypatch, capsys):
    """It is waited for, with a line now and then, and given up on."""
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(hub_module, "HEARTBEAT_SECONDS", 0.1)
    hub.faults(path="refs", times=0, delay=30)
    with pytest.raises(
        PublishError, match=r"reading branches: TimeoutError: no answer of 127.0.0.1: ReadTimeout, 5 tim"
    ):
        Repository(api, REPO).state()
    said = capsys.readouterr().err
    assert said.count("trying again in") == 4 and "reading branches: at it for 0 s" in said


def test_a_hub_that_is_not_there(hub, prepared, waits):
    hub.stop()
    with pytest.raises(PublishError, match=r"ConnectionError: 127.0.0.1: .*5 times; .* \(HF_ENDPOINT is "):
        Repository(HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN), REPO).state()
    hub.start()


def test_a_request_is_tried_again_by_one_layer(hub, api, prepared, waits, capsys):
    """huggingface_hub tries five times itself, and warns of each in its own words."""
    Repository(api, REPO).make(State(REPO, None))
    for path in ("/tree/", "/resolve/", "/preupload/"):
        hub.faults(503, path=path, times=0)
    hub.reset()
    repository = Repository(api, REPO)
    for request in (
        lambda: repository.files("main"),
        lambda: repository.read(".gitattributes", "main"),
        lambda: repository.read_large(".gitattributes", "main"),
        lambda: repository.prepare({"README.md": b"text"}),
    ):
        with pytest.raises(PublishError, match="the Hub answered 503, 5 times"):
            request()
    routes = hub.counters()["routes"]
    # The file system looks a file up in the tree, and by its address.
    assert [routes[name]["requests"] for name in ("tree", "resolve", "preupload")] == [10, 10, 5]
    said = capsys.readouterr().err
    assert "thrown while" not in said and "Retrying" not in said and said.count("trying again in") == 16


@pytest.mark.parametrize("status", [403, 404, 413])
@pytest.mark.parametrize("xet", [False, True])
def test_what_no_retry_mends_ends_at_once(status, xet, hub, api, prepared, waits, tmp_path, monkeypatch):
    """In the Hub's own words, of an upload too, whose error huggingface_hub wraps in another."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    repository = Repository(api, REPO)
    repository.make(State(REPO, None))
    (tmp_path / "a.parquet").write_bytes(os.urandom(99_999))
    hub.faults(status, method="POST" if xet else "PUT", path="/xorbs/" if xet else "/lfs/", times=0)
    with pytest.raises(Exception) as failed:
        repository.upload(["a.parquet"], str(tmp_path))
    said = explain(failed.value)
    assert (
        not waits
        and str(status) in said
        and (xet or said == f"the Hub answered {status}: Injected fault {status} (uploading a.parquet)")
    )


def test_a_commit_that_is_refused_though_nobody_else_committed(hub, api, prepared, waits):
    """The Hub answers 412 for other reasons, too: huggingface/datasets#7777."""
    repository = Repository(api, REPO)
    head = repository.make(State(REPO, None))
    additions = repository.prepare({"a.txt": b"a"})
    hub.faults(412, method="POST", path="/commit/")
    with pytest.raises(PublishError, match="the commit was refused: the Hub answered 412: Injected fault 412"):
        repository.commit(additions, [], "one", head)
    assert repository.commit(repository.prepare({"a.txt": b"a"}), [], "one", head) and not waits
    assert repository.commit(repository.prepare({"b.txt": b"b"}), [], "two", head) is None


@pytest.fixture
def slow_hub(tmp_path, prepared, waits, monkeypatch):
    """(hub, api, repository, head of `main`): a commit of more than four changes takes too long."""
    monkeypatch.setattr(hub_module, "COMMIT_OPERATIONS", 4)
    with LoopbackHub(tmp_path / "slow", commit_operations=4) as hub:
        api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
        repository = Repository(api, REPO)
        head = repository.make(State(REPO, None))
        head = repository.commit(repository.prepare({"old.txt": b"old"}), [], "HyperKvasir 1.0.0", head)
        yield hub, api, repository, head


TEXTS = {f"{i}.txt": b"%d" % i for i in range(10)}


def requests_of(api):
    return sorted((r.num, r.status) for r in api.get_repo_discussions(REPO, repo_type="dataset"))


def test_a_commit_that_takes_too_long_is_made_in_pieces(slow_hub):
    """In a pull request: `main` moves once, to the whole. A branch cannot be moved so."""
    _, api, repository, head = slow_hub
    made = repository.commit(repository.prepare(TEXTS), ["old.txt"], "HyperKvasir 2.0.0", head, description="Why")
    assert set(repository.files(made)) == {".gitattributes", *TEXTS} and repository.state().head == made
    assert [title for _, title in repository.titles(made)][:2] == ["HyperKvasir 2.0.0", "HyperKvasir 1.0.0"]
    assert requests_of(api) == [(1, "merged")]
    api.create_branch(REPO, branch="next", repo_type="dataset")
    other = Repository(api, REPO, "next")
    with pytest.raises(PublishError, match="504, 5 times"):
        other.commit(other.prepare({f"{name}x": b"x" for name in TEXTS}), [], "three", made)


@pytest.mark.parametrize("path", ["/commit/refs%2Fpr", "/merge"])
def test_the_answer_to_a_piece_or_merge_is_lost(path, slow_hub):
    hub, api, repository, head = slow_hub
    hub.faults("cut", method="POST", path=path, when="after")
    made = repository.commit(repository.prepare(TEXTS), ["old.txt"], "HyperKvasir 2.0.0", head)
    assert set(repository.files(made)) == {".gitattributes", *TEXTS} and requests_of(api) == [(1, "merged")]


def test_pieces_that_come_to_nothing(slow_hub, monkeypatch):
    """Of an earlier try: they are closed. Because `main` has moved: the same additions are committed anew."""
    hub, api, repository, head = slow_hub
    additions = repository.prepare(TEXTS)
    hub.faults(403, method="POST", path="/commit/refs%2Fpr")
    with pytest.raises(PublishError, match="discussions/1: a commit was refused: the Hub answered 403: Injected"):
        repository.commit(additions, ["old.txt"], "HyperKvasir 2.0.0", head)
    in_pieces = repository._in_pieces

    def and_somebody_commits(*arguments):
        made = in_pieces(*arguments)
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, repo_type="dataset")
        return made

    monkeypatch.setattr(repository, "_in_pieces", and_somebody_commits)
    assert repository.commit(additions, ["old.txt"], "HyperKvasir 2.0.0", head) is None
    assert requests_of(api) == [(1, "closed"), (2, "closed")]
    monkeypatch.setattr(repository, "_in_pieces", in_pieces)
    made = repository.commit(additions, ["old.txt"], "HyperKvasir 2.0.0", repository.state().head)
    assert set(repository.files(made)) == {".gitattributes", "x.txt", *TEXTS}


def test_a_whole_pull_request_of_an_earlier_try_is_merged(slow_hub):
    hub, api, repository, head = slow_hub
    additions = repository.prepare(TEXTS)
    hub.faults(403, method="POST", path="/merge")
    with pytest.raises(PublishError, match="discussions/1 cannot be merged: the Hub answered 403"):
        repository.commit(additions, ["old.txt"], "HyperKvasir 2.0.0", head)
    assert repository.state().head == head
    whole = {".gitattributes", *TEXTS}
    made = repository.commit(
        additions, ["old.txt"], "HyperKvasir 2.0.0", head, is_same=lambda files: set(files) == whole
    )
    assert set(repository.files(made)) == whole and requests_of(api) == [(1, "merged")]


def test_a_pull_request_in_pieces(slow_hub):
    _, api, repository, head = slow_hub
    about = {"description": "Why", "is_same": lambda files: set(TEXTS) <= set(files)}
    for _ in range(2):  # the second finds it
        made, address = repository.open_pull_request(repository.prepare(TEXTS), ["old.txt"], "two", head, **about)
        assert set(repository.files(made)) == {".gitattributes", *TEXTS} and address.endswith("/discussions/1")
    assert repository.state().head == head and requests_of(api) == [(1, "open")]


@pytest.mark.parametrize("fault", ["none", "chunks", "resolve", "no hf_xet"])
def test_what_the_hub_has_is_asked_at_best(fault, hub, api, prepared, waits, tmp_path, monkeypatch, capsys):
    """128 KiB of a file are read for it. It never fails a publication."""
    repository = Repository(api, REPO)
    head = repository.make(State(REPO, None))
    (tmp_path / "a.parquet").write_bytes(os.urandom(3 << 20))
    sent = repository.upload(["a.parquet"], str(tmp_path))
    head = repository.commit(list(sent.values()), [], "one", head)
    state = repository.state()
    (tmp_path / "a.parquet").write_bytes(b"other" + (tmp_path / "a.parquet").read_bytes())
    hub.reset()
    if fault == "no hf_xet":
        monkeypatch.setattr(hub_module, "is_xet_available", lambda: False)
    elif fault != "none":
        hub.faults(403, path="preupload" if fault == "chunks" else "/resolve/", times=0)
    repository.recall(state, {"a.parquet": str(tmp_path / "a.parquet")})
    said, counters = capsys.readouterr().err, hub.counters()
    assert ("not asked what the Hub already has" in said) == (fault in ("chunks", "resolve"))
    read = sum(route["bytes_out"] for name, route in counters["routes"].items() if name in ("resolve", "cas_fetch"))
    assert read <= FIRST_CHUNK + 1000 and (fault != "no hf_xet" or not counters["requests"])
    assert counters["uploaded"]["lfs"] == 0


@pytest.mark.parametrize(
    "name, why",
    [
        ("", "is empty"),
        ("v1.0.0", "would be taken for the tag of a version"),
        ("refs/pr/1", "is a full reference"),
        ("refs/heads/main", "is a full reference"),
        ("0123456789abcdef0123456789ABCDEF01234567", "would be taken for a commit"),
        *(
            (name, "is no name of a branch")
            for name in ("a b", "a?", "-a", "/a", "a/", "a..b", "a.lock", "a//b", "@{u}")
        ),
        *((name, "is no name of a branch") for name in ("HEAD", "a/.b", "a.", "a~1", "a^", "a:b", "a\\b", "\x1b", "ä")),
    ],
)
def test_no_name_of_a_branch(name, why):
    with pytest.raises(PublishError, match=f"--branch: .*{why}"):
        check_branch(name)
    for good in ("main", "next", "release/1.x", "feature_2"):
        check_branch(good)


def test_a_branch_of_the_name_of_a_tag(api):
    repository = Repository(api, REPO)
    repository.tag("latest", repository.make(State(REPO, None)), "a tag")
    with pytest.raises(PublishError, match="--branch: 'latest' is a tag of ns/hyper-kvasir; choose another name"):
        Repository(api, REPO, "latest").state()


def test_a_hub_that_does_not_say_who_may_write(hub, api, waits, capsys):
    repository = Repository(api, REPO)
    repository.make(State(REPO, None))
    hub.faults(404, path="auth-check")
    repository.check_access(repository.state())
    assert "the Hub does not say whether the token may write" in capsys.readouterr().err


def test_what_is_wrong_with_a_card_is_said_in_words(hub, api, prepared, waits):
    """The Hub answers in JSON. A busy one is asked again."""
    card = "---\nconfigs:\n- config_name: a\n  data_files: x\n- config_name: a\n  data_files: x\n---\n"
    hub.faults(503, path="validate-yaml", times=2)
    with pytest.raises(PublishError, match="^the Hub does not accept the card: [^{]*'a'[^{]*$"):
        Repository(api, REPO).check_card(card)
    assert waits == [1, 2]


def test_a_busy_hub_is_no_wrong_token(hub, api, waits):
    hub.faults(500, path="whoami", times=0)
    with pytest.raises(PublishError, match="asking whose token it is: the Hub answered 500, 5 times; run the same"):
        Repository(api, REPO).check_access(State(REPO, None))
