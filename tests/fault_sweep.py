"""A fault at every request of a publication, one at a time: after running again, all is as if there had been none.

    python -m tests.fault_sweep --mode xet                # every request, every fault; half an hour on two cores
    python -m tests.fault_sweep --mode lfs --every 5      # a fifth of them
    python -m tests.fault_sweep --mode xet --archives     # published by --source and --build-and-upload
    python -m tests.fault_sweep --mode xet --races 20     # instead: two publishers at once

Version 1.1.0 is published onto 1.0.0 of the loopback Hub, by the unmodified clients. In each trial one request gets one
fault, and the publisher is run until it succeeds. A trial survives when
- every commit of the branch is a whole version: readers see commits, and nothing between them;
- in the end the tree is that of an undisturbed publication, with one commit and one tag;
- all runs together sent no more bytes than the undisturbed one. The exception: where the answer to an upload, or to the
  question whether the Hub has a chunk, was lost, or the upload not yet registered, the clients cannot know that the Hub
  has the content, and send it again. Those trials are counted.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.build import main as build
from scripts.loopback_hub import LoopbackHub
from tests.fake_source import write_source
from tests.publisher import REPO, Publisher

FAULTS = ("412", "409", "429", "500", "cut", "cut after", "kill")
CONFIGS = ("--config", "segmented", "--config", "unlabeled")
UPLOADS = ("cas_xorb", "lfs_put", "lfs_put_part")
REGISTERS = "cas_shard"  # what was uploaded to the Xet storage; before, the Hub does not know that it has it
ASKS = "cas_chunk"  # whether the Hub has a chunk; hf_xet takes an error for "no", and sends it


@dataclass(frozen=True)
class Course:
    """How version 1.1.0 is published in a sweep, and what an undisturbed publication makes and leaves."""

    work: Path
    mode: str
    archives: bool
    requests: int = 0
    sent: int = 0
    tree: dict | None = None

    def publisher(self, hub, name) -> Publisher:
        return Publisher(hub, self.work / name / "home", self.mode == "xet")

    def start(self, publisher):
        """The publisher's process."""
        if not self.archives:
            return publisher.start(self.work / "folder-two", "1.1.0")
        source = self.work / "two"
        flags = ["--source", source, *CONFIGS, "--expect", source / "expected.json", "--build-and-upload"]
        return publisher.start(publisher.home / "work", "1.1.0", *flags, expect=False)


def prepare(work: Path, mode: str, archives: bool = False) -> Course:
    """Two versions of a small dataset, a Hub with the first, and the course of the second, undisturbed."""
    for name, more in (("one", {}), ("two", {"add_segmented": 1, "unlabeled": 15})):
        make_folder(work, name, more)
    with LoopbackHub(work / "base/hub") as hub:
        Publisher(hub, work / "base/home", mode == "xet").ok(work / "folder-one", "1.0.0")
    course = Course(work, mode, archives)
    with trial_hub(work, "undisturbed") as hub:
        publisher = course.publisher(hub, "undisturbed")
        hub.reset()
        code, said = publisher.end(course.start(publisher))
        assert code == 0, said
        requests, sent = hub.counters()["requests"], sent_bytes(hub)
        return Course(work, mode, archives, requests, sent, publisher.published()[0])


def make_folder(work, name, more):
    write_source(work / name, images="tiny", **more)
    flags = [*CONFIGS, "--expect", f"{work / name}/expected.json"]
    assert build(["--source", str(work / name), "--out", str(work / f"folder-{name}"), *flags]) == 0
    shutil.copy(work / name / "expected.json", work / f"folder-{name}.expected.json")


def trial_hub(work, name):
    shutil.copytree(work / "base", work / name)
    return LoopbackHub(work / name / "hub")


def run_trial(course: Course, number: int, fault: str) -> tuple[list[str], list[str]]:
    """(what went wrong with one fault at one request, what was sent again and could not be helped)"""
    name, problems, struck = f"{number}-{fault.replace(' ', '-')}", [], None
    with trial_hub(course.work, name) as hub:
        publisher = course.publisher(hub, name)
        hub.reset()
        set_fault(hub, number, fault)
        for _ in range(3):
            process = course.start(publisher)
            if fault == "kill":
                kill_when_held(hub, process)
            code, said = publisher.end(process)
            problems += ["a traceback"] if "Traceback" in said else []
            struck = struck or hub.log()
            if code == 0:
                break
        else:
            problems.append(f"did not succeed: {said[-600:]}")
        hub.clear_faults()
        problems += half_seen(publisher)
        files, head, tags, titles = publisher.published()
        if files != course.tree:
            problems.append("another tree than that of an undisturbed publication")
        if tags.get("v1.1.0") != head or titles.count("HyperKvasir 1.1.0") != 1:
            problems.append(f"tags {tags}, head {head}, commits {titles}")
        more = sent_bytes(hub) - course.sent
    shutil.rmtree(course.work / name)
    again = [f"sent {more:,} bytes more than the {course.sent:,} of an undisturbed publication"] if more > 0 else []
    return (problems, again) if is_unknown_to_the_hub(struck) else (problems + again, [])


def set_fault(hub, number, fault):
    if fault == "kill":
        hub.faults(nth=number, delay=60)
    elif fault.startswith("cut"):
        hub.faults("cut", nth=number, when="after" if fault == "cut after" else "before")
    else:
        hub.faults(int(fault), nth=number, **({"retry_after": 1} if fault == "429" else {}))


def kill_when_held(hub, process):
    """Kills the publisher while the Hub holds its request; lets it end where there is no such request."""
    while process.poll() is None:
        if any(fault["hits"] for fault in hub.active_faults()):
            process.kill()
            hub.clear_faults()
            return
        time.sleep(0.05)


def half_seen(publisher) -> list[str]:
    """The commits of the branch that are no whole version: what any reader at any time can have seen."""
    problems = []
    for commit in publisher.api.list_repo_commits(REPO, repo_type="dataset"):
        files = publisher.published(commit.commit_id)[0]
        if commit.title == "initial commit" and list(files) == [".gitattributes"]:
            continue
        manifest = json.loads(publisher.read("manifest.json", commit.commit_id))
        wrong = [path for path, entry in manifest["files"].items() if files.get(path) != entry["sha256"]]
        wrong += [path for path in manifest["card"]["files"] if path not in files]
        wrong += [path for path in files if path.startswith("data/") and path not in manifest["files"]]
        if wrong:
            problems.append(f"version {manifest['version']} was half there, with {wrong} missing, other or too much")
    return problems


def sent_bytes(hub) -> int:
    """Bytes of file contents that the Hub took."""
    uploaded = hub.counters()["uploaded"]
    return uploaded["xorbs"] + uploaded["lfs"]


def is_unknown_to_the_hub(log: list[dict]) -> bool:
    """Whether a run ended, or was struck, while the client could not know that the Hub had a content."""
    struck = next((i for i, line in enumerate(log) if line["fault"]), len(log))
    lost = any(line["fault"] and line["route"] in (*UPLOADS, REGISTERS, ASKS) for line in log)
    return lost or is_unregistered(log[:struck]) or is_unregistered(log)


def is_unregistered(log: list[dict]) -> bool:
    """Whether the last content that was uploaded to the Xet storage was not registered after it."""
    routes = [line["route"] for line in log if line["accepted"]]
    uploaded, registered = (
        max((i for i, route in enumerate(routes) if route == what), default=-1) for what in (UPLOADS[0], REGISTERS)
    )
    return uploaded > registered


def sweep(work: Path, mode: str, every: int, start: int, archives: bool = False) -> tuple[int, int]:
    """(trials, survived); says what went wrong with each that was not."""
    course = prepare(work, mode, archives)
    trials = list(itertools.product(range(1, course.requests + 1), FAULTS))[start::every]
    what = f"{mode}{', from the archives' if archives else ''}"
    print(f"{what}: {course.requests} requests, {len(trials)} trials", flush=True)
    survived = resent = 0
    with ThreadPoolExecutor(2) as threads:
        results = threads.map(lambda trial: (trial, run_trial(course, *trial)), trials)
        for done, ((number, fault), (problems, again)) in enumerate(results, start=1):
            survived += not problems
            resent += bool(again)
            for problem in [*problems, *again]:
                print(f"request {number}, {fault}: {problem}", flush=True)
            if done % 20 == 0:
                print(f"{what}: {done} of {len(trials)} tried, {survived} survived", flush=True)
    print(f"{what}: faults tried: {len(trials)}, survived: {survived}; had to send again: {resent}", flush=True)
    return len(trials), survived


def races(work: Path, mode: str, times: int) -> tuple[int, int]:
    """(races, won cleanly): two publishers of the same new version with other content start at once."""
    course = prepare(work, mode)
    make_folder(work, "three", {"unlabeled": 20})
    clean = 0
    for number in range(times):
        with trial_hub(work, f"race-{number}") as hub:
            publisher = course.publisher(hub, f"race-{number}")
            processes = [publisher.start(work / folder, "1.1.0") for folder in ("folder-two", "folder-three")]
            codes, said = zip(*map(publisher.end, processes))
            _, head, tags, titles = publisher.published()
            problems = half_seen(publisher)
            good = sorted(codes) == [0, 1] and tags["v1.1.0"] == head and titles.count("HyperKvasir 1.1.0") == 1
            clean += good and not problems
            if not good or problems:
                print(f"race {number}: exits {codes}, tags {tags}, commits {titles}, {problems}\n{said}", flush=True)
        shutil.rmtree(work / f"race-{number}")
    print(f"{mode}: two publishers at once: {times} times, one winner and no mixture: {clean}", flush=True)
    return times, clean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every N-th of all")
    parser.add_argument("--start", type=int, default=0, metavar="K", help="beginning with the K-th")
    parser.add_argument("--archives", action="store_true", help="publish with --source and --build-and-upload")
    parser.add_argument("--races", type=int, metavar="N", help="instead: N times two publishers at once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if args.races:
            tried, survived = races(Path(work), args.mode, args.races)
        else:
            tried, survived = sweep(Path(work), args.mode, args.every, args.start, args.archives)
    print(json.dumps({"mode": args.mode, "archives": args.archives, "tried": tried, "survived": survived}))
    return 0 if tried == survived else 1


if __name__ == "__main__":
    sys.exit(main())
