"""Keyless publishing from CI: what of the workflow can be checked without GitHub and the Hub."""

import re
import shlex
from importlib.metadata import entry_points

import httpx2
import pytest
import yaml
from huggingface_hub import HfApi

from hyper_kvasir import CONFIGS, OFFICIAL_FILES
from scripts.loopback_hub import LoopbackHub
from scripts.loopback_hub.repo_routes import CI_IDENTITY
from scripts.pipeline.hub import PublishError, Repository, State
from scripts.publish import parse
from tests.conftest import ROOT
from tests.publisher import REPO, Publisher

WORKFLOW = ROOT / ".github/workflows/publish.yaml"
LOCK = ROOT / ".github/workflows/requirements.lock"
REQUIREMENTS = ["requirements.txt", "scripts/requirements.txt"]
BY_HASH = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK.relative_to(ROOT))]


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def commands_of(job):
    return [shlex.split(step["run"]) for step in job["steps"] if "run" in step]


def inputs_of(job, action):
    """What the one step of a job that uses an action hands to it."""
    [inputs] = [step["with"] for step in job["steps"] if step.get("uses", "").startswith(f"actions/{action}@")]
    return inputs


def locked():
    """{the lines of each entry of the lock file: its name and version}, without what stands above them."""
    entries = re.split(r"\n(?=\w)", LOCK.read_text())[1:]
    return {entry: tuple(re.match(r"(\S+)==(\S+)", entry).groups()) for entry in entries}


def test_no_secret_is_stored_and_one_job_has_the_identity(workflow):
    assert "secrets." not in WORKFLOW.read_text()
    assert workflow["permissions"] == {}
    read = {"contents": "read"}
    permissions = {"packages": read, "publish": read | {"id-token": "write"}}
    assert {name: job["permissions"] for name, job in workflow["jobs"].items()} == permissions
    assert workflow["jobs"]["publish"]["environment"] == "hub"  # as the trusted publisher's claim


def test_only_the_publishing_step_asks_for_a_token(workflow):
    places = [workflow, *(place for job in workflow["jobs"].values() for place in (job, *job["steps"]))]
    asking = [place for place in places if "HF_OIDC_RESOURCE" in place.get("env", {})]
    assert [step["name"] for step in asking] == ["Publish what changed"]  # not where others' archives are downloaded
    assert asking[0]["env"]["HF_OIDC_RESOURCE"].startswith("datasets/")
    assert WORKFLOW.read_text().count("HF_OIDC_RESOURCE") == 1  # and no command sets it


def test_actions_are_pinned_by_commit():
    """A tag can be moved to other code; the comment tells a reader, and those who update it, which version it is."""
    uses = [use.strip() for use in re.findall(r"\buses:(.*)", WORKFLOW.read_text())]
    pinned = r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+"
    assert uses and not [use for use in uses if not re.fullmatch(pinned, use)]
    assert len({use.split("@")[0] for use in uses}) == len(set(uses))  # one version of each


def test_packages_are_fetched_by_hash_and_not_beside_the_identity(workflow):
    packages, publish = workflow["jobs"]["packages"], workflow["jobs"]["publish"]
    assert commands_of(packages) == [["pip", "download", "--dest", "wheels", *BY_HASH]]
    install, *_ = commands_of(publish)  # the two others: below
    assert install == ["pip", "install", "--no-index", "--find-links", "wheels", *BY_HASH]
    assert publish["needs"] == "packages"
    handed_on, taken = inputs_of(packages, "upload-artifact"), inputs_of(publish, "download-artifact")
    assert {key: handed_on[key] for key in ("name", "path")} == taken == {"name": "wheels", "path": "wheels"}
    for job in (packages, publish):
        assert inputs_of(job, "setup-python") == {"python-version": "3.11"}  # no cache, which others could fill
        assert inputs_of(job, "checkout") == {"persist-credentials": False}


def test_the_lock_file_agrees_with_the_requirements():
    """It has each requirement at its version, a hash of each entry, and no place to fetch them from.

    That nothing is missing in it is for pip to say, which installs no package without a hash.
    """
    command = LOCK.read_text().splitlines()[1].lstrip("# ")
    assert command.startswith("uv pip compile ") and set(REQUIREMENTS) < set(command.split())
    advice = f"{LOCK.name} does not agree with {' and '.join(REQUIREMENTS)}; make it anew: {command}"
    lines = "".join((ROOT / file).read_text() for file in REQUIREMENTS).splitlines()
    required = {tuple(line.split("==")) for line in lines if not line.startswith("#")}
    required = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in required}
    assert {pin for entry, pin in locked().items() if " -r " in entry} == required, advice
    hashes, why = r"( \\\n    --hash=sha256:[0-9a-f]{64})+", r"(\n    # .+)+\n?"
    assert not [pin for entry, pin in locked().items() if not re.fullmatch(rf"\S+==\S+{hashes}{why}", entry)], advice
    assert "://" not in LOCK.read_text() and "index" not in command


def test_its_commands_are_ones_that_there_are(workflow, tmp_path, monkeypatch):
    (tmp_path / "archives").mkdir()
    monkeypatch.chdir(tmp_path)
    _, download, publish = commands_of(workflow["jobs"]["publish"])
    archives = [OFFICIAL_FILES[part].name for part in ("labeled", "segmented")]
    flags = ["--repo-type", "dataset", "--local-dir", "archives"]
    assert download == ["hf", "download", "SimulaMet-HOST/HyperKvasir", *flags, *archives]
    assert "hf" in [script.name for script in entry_points(group="console_scripts")]
    publish = [word.replace("$REPO_ID", "ns/hyper-kvasir").replace("${VERSION#v}", "1.0.0") for word in publish]
    assert publish[:3] == ["python", "-m", "scripts.publish"]
    args = parse(publish[3:])
    assert args.build_and_upload and args.version == "1.0.0"
    assert set(args.config) == set(CONFIGS) - {"unlabeled"}
    assert args.source == ["archives"]


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
