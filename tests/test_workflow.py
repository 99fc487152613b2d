"""Keyless publishing from CI: what of the workflow can be checked without GitHub and the Hub."""

import re
import shlex

import httpx2
import pytest
import yaml
from huggingface_hub import HfApi

from hyper_kvasir import OFFICIAL_FILES
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.repo_routes import CI_IDENTITY
from scripts.pipeline.hub import PublishError, Repository, State
from scripts.publish import parse
from tests.conftest import ROOT
from tests.publisher import REPO, Publisher

WORKFLOW = ROOT / ".github/workflows/publish.yaml"


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def test_no_secret_is_stored_and_the_identity_may_be_asked_for(workflow):
    assert "secrets." not in WORKFLOW.read_text()
    assert workflow["permissions"] == {"contents": "read", "id-token": "write"}
    job = workflow["jobs"]["publish"]
    asking = [step for step in (job, *job["steps"]) if "HF_OIDC_RESOURCE" in step.get("env", {})]
    assert [step["name"] for step in asking] == ["Publish what changed"]  # not where others' archives are downloaded
    assert asking[0]["env"]["HF_OIDC_RESOURCE"].startswith("datasets/")


def test_actions_are_pinned_by_commit():
    """A tag can be moved to other code; the comment tells a reader, and those who update it, which version it is."""
    uses = [use.strip() for use in re.findall(r"\buses:(.*)", WORKFLOW.read_text())]
    assert uses and not [use for use in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use)]
    assert len({use.split("@")[0] for use in uses}) == len(set(uses))  # one version of each


def test_its_commands_are_ones_that_there_are(workflow, tmp_path, monkeypatch):
    (tmp_path / "archives").mkdir()
    monkeypatch.chdir(tmp_path)
    runs = [step["run"] for step in workflow["jobs"]["publish"]["steps"] if "run" in step]
    for file in shlex.split(runs[0])[3::2]:
        assert (ROOT / file).exists()
    download = shlex.split(runs[1])
    assert {OFFICIAL_FILES["labeled"].name, OFFICIAL_FILES["segmented"].name} <= set(download)
    publish = shlex.split(runs[2].replace("$REPO_ID", "ns/hyper-kvasir").replace("${VERSION#v}", "1.0.0"))
    assert publish[:3] == ["python", "-m", "scripts.publish"]
    args = parse(publish[3:])
    assert args.build_and_upload and args.version == "1.0.0" and "unlabeled" not in args.config


def test_a_ci_identity_publishes_to_its_repository_alone(small, tmp_path):
    """huggingface_hub finds HF_OIDC_RESOURCE, as the workflow sets it, and asks the Hub for a token by itself.

    The Hub need not say whose the token is: whether it may write to the repository is what is asked.
    """
    with LoopbackHub(tmp_path / "hub") as hub:
        publisher = Publisher(hub, tmp_path / "home", True)
        for name in (REPO, "ns/other"):
            publisher.api.create_repo(name, repo_type="dataset")
        publisher.settings = {"HF_OIDC_RESOURCE": f"datasets/{REPO}", "HF_OIDC_ID_TOKEN": CI_IDENTITY}
        assert "published v1.0.0" in publisher.ok(small, "1.0.0", token=None)
        assert not [line for line in hub.log() if line["route"] == "whoami"]
        publisher.settings["HF_OIDC_RESOURCE"] = "datasets/ns/other"
        publisher.refused("ns/hyper-kvasir: the token may not write there", small, "1.0.1", token=None)
        publisher.settings["HF_OIDC_ID_TOKEN"] = "of.somebody.else"
        publisher.refused("invalid_grant", small, "1.0.1", token=None)
        body = {"subject_token": CI_IDENTITY, "resource": "datasets/ns/new"}
        token = httpx2.post(f"{hub.endpoint}/oauth/token", json=body).json()["access_token"]
        with pytest.raises(PublishError, match="ns/new is not there, .* a trusted publisher, which cannot"):
            Repository(HfApi(endpoint=hub.endpoint, token=token), "ns/new").check_access(State("ns/new", None))
