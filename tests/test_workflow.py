"""Keyless publishing from CI: what of the workflow can be checked without GitHub and the Hub."""

import shlex
import subprocess
import sys

import pytest
import yaml

from hyper_kvasir import SOURCES
from scripts.loopback_hub import LoopbackHub
from scripts.publish import parse
from tests.conftest import ROOT

WORKFLOW = ROOT / ".github/workflows/publish.yaml"


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def test_no_secret_is_stored_and_the_identity_may_be_asked_for(workflow):
    assert "secrets." not in WORKFLOW.read_text()
    assert workflow["permissions"] == {"contents": "read", "id-token": "write"}
    assert workflow["jobs"]["publish"]["env"]["HF_OIDC_RESOURCE"].startswith("datasets/")


def test_its_commands_are_ones_that_there_are(workflow, tmp_path, monkeypatch):
    (tmp_path / "archives").mkdir()
    monkeypatch.chdir(tmp_path)
    runs = [step["run"] for step in workflow["jobs"]["publish"]["steps"] if "run" in step]
    for file in shlex.split(runs[0])[3::2]:
        assert (ROOT / file).exists()
    download = shlex.split(runs[1])
    assert {SOURCES["labeled"].file, SOURCES["segmented"].file} <= set(download)
    publish = shlex.split(runs[2].replace("$REPO_ID", "ns/hyper-kvasir").replace("${VERSION#v}", "1.0.0"))
    assert publish[:3] == ["python", "-m", "scripts.publish"]
    args = parse(publish[3:])
    assert args.build_and_upload and args.version == "1.0.0" and "unlabeled" not in args.config


def test_the_client_exchanges_a_ci_identity_for_a_token_that_publishes(tmp_path):
    """huggingface_hub finds HF_OIDC_RESOURCE, as the workflow sets it, and asks the Hub for a token by itself."""
    from scripts.loopback_hub.client import WRITE_TOKEN

    code = (
        "from huggingface_hub import HfApi, get_token; from scripts.pipeline.hub import check_token; "
        "token = get_token(); print(check_token(HfApi(token=token)), token[-6:])"
    )
    with LoopbackHub(str(tmp_path / "hub")) as hub:
        env = hub.env(token=None, home=str(tmp_path / "home"))
        env |= {"HF_OIDC_RESOURCE": "datasets/ns/hyper-kvasir", "HF_OIDC_ID_TOKEN": "loopback.ci.identity"}
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.split() == ["writer", WRITE_TOKEN[-6:]], done.stderr
        env["HF_OIDC_ID_TOKEN"] = "of.somebody.else"
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and "invalid_grant" in done.stderr
