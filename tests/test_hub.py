"""A repository on the Hub: what is tried again, tags, access, and branches that are made."""

import io

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.client import WRITE_TOKEN
from scripts.pipeline import hub as hub_module
from scripts.pipeline.hub import PublishError, Repository, State, explain, patiently
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


def test_a_busy_hub_is_no_wrong_token(hub, api, waits):
    hub.faults(500, path="whoami", times=0)
    with pytest.raises(PublishError, match="asking whose token it is: the Hub answered 500, 5 times; run the same"):
        Repository(api, REPO).check_access(State(REPO, None))
