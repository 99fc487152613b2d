"""A fault at every request of a publication, one at a time: after running again, all is as if there had been none.

    python -m tests.fault_sweep --mode xet                # every request, every fault; an hour on two cores
    python -m tests.fault_sweep --mode lfs --every 5      # a fifth of them
    python -m tests.fault_sweep --mode xet --races 20     # instead: two publishers at once

Version 1.1.0 is published onto 1.0.0 of the loopback Hub, by the unmodified clients. In each trial one request gets one
fault; the publisher is run until it succeeds, and a reader looks at the branch after each run. A trial survives when
the reader only ever saw a whole version, and in the end the tree is that of an undisturbed publication, with one commit
and one tag. Where the answer to an upload itself was lost, or the upload could not be registered, the clients cannot
know that the Hub has the content, and send it again: those trials are counted, and are to be a few.
"""

import argparse
import collections
import itertools
import json
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.build import main as build
from scripts.loopback_hub import LoopbackHub
from tests.fake_source import write_source
from tests.test_publish import REPO, Publisher

FAULTS = ("412", "409", "429", "500", "cut", "cut after", "kill")
UPLOADS = ("cas_xorb", "lfs_put", "lfs_put_part")


def prepare(work: Path, mode: str):
    """Two versions of a small dataset, a Hub with the first, and what an undisturbed publication of the second gives.

    Returns (number of requests of that publication, the tree that it leaves).
    """
    for name, more in (("one", {}), ("two", {"add_segmented": 1, "unlabeled": 15})):
        write_source(work / name, images="tiny", **more)
        flags = ["--config", "segmented", "--config", "unlabeled", "--expect", f"{work / name}/expected.json"]
        assert build(["--source", str(work / name), "--out", str(work / f"folder-{name}"), *flags]) == 0
        shutil.copy(work / name / "expected.json", work / f"folder-{name}.expected.json")
    with LoopbackHub(str(work / "base/hub")) as hub:
        Publisher(hub, work / "base/home", mode == "xet").ok(work / "folder-one", "1.0.0")
    with trial_hub(work, "undisturbed") as hub:
        publisher = Publisher(hub, work / "undisturbed/home", mode == "xet")
        hub.reset()
        publisher.ok(work / "folder-two", "1.1.0")
        requests = hub.counters()["requests"]
        return requests, publisher.published()[0]


def trial_hub(work, name):
    shutil.copytree(work / "base", work / name)
    return LoopbackHub(str(work / name / "hub"))


def run_trial(work: Path, mode: str, number: int, fault: str, wanted: dict) -> tuple[list[str], list[str]]:
    """(what went wrong with one fault at one request, contents that were sent again)"""
    name, problems = f"{number}-{fault.replace(' ', '-')}", []
    with trial_hub(work, name) as hub:
        publisher = Publisher(hub, work / name / "home", mode == "xet")
        hub.reset()
        set_fault(hub, number, fault)
        for _ in range(3):
            process = publisher.start(work / "folder-two", "1.1.0")
            if fault == "kill":
                kill_when_held(hub, process)
            said = "".join(process.communicate(timeout=240))
            problems += ["a traceback"] if "Traceback" in said else []
            problems += half_seen(publisher)
            if process.returncode == 0:
                break
        else:
            problems.append(f"did not succeed: {said[-600:]}")
        files, head, tags, titles = publisher.published()
        if {p: files.get(p) for p in wanted} != wanted:
            problems.append("another tree than that of an undisturbed publication")
        if tags.get("v1.1.0") != head or titles.count("HyperKvasir 1.1.0") != 1:
            problems.append(f"tags {tags}, head {head}, commits {titles}")
        again = sent_twice(hub)
    shutil.rmtree(work / name)
    return problems, again


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
            process.send_signal(signal.SIGKILL)
            hub.clear_faults()
            return
        time.sleep(0.05)


def half_seen(publisher) -> list[str]:
    """What a reader of the branch sees of a version that is not whole."""
    files, _, _, _ = publisher.published()
    code = f"""
import json
from huggingface_hub import hf_hub_download
print(json.dumps(json.load(open(hf_hub_download({REPO!r}, "manifest.json", repo_type="dataset")))))"""
    manifest = publisher.python(code)
    lacking = [p for p, entry in manifest["files"].items() if files.get(p) != entry["sha256"]]
    return [f"version {manifest['version']} seen half, without {lacking}"] if lacking else []


def sent_twice(hub) -> list[str]:
    """File contents that the Hub took more than once."""
    taken = collections.Counter(
        line["path"] for line in hub.log() if line["route"] in UPLOADS and line["accepted"] and line["bytes_in"]
    )
    return [f"sent {times} times: {path}" for path, times in taken.items() if times > 1]


def sweep(work: Path, mode: str, every: int, start: int) -> tuple[int, int]:
    """(trials, survived); says what went wrong with each that was not."""
    requests, wanted = prepare(work, mode)
    trials = list(itertools.product(range(1, requests + 1), FAULTS))[start::every]
    print(f"{mode}: {requests} requests, {len(trials)} trials", flush=True)
    survived = resent = 0
    with ThreadPoolExecutor(2) as threads:
        results = threads.map(lambda trial: (trial, run_trial(work, mode, *trial, wanted)), trials)
        for done, ((number, fault), (problems, again)) in enumerate(results, start=1):
            survived += not problems
            resent += bool(again)
            for problem in [*problems, *again]:
                print(f"request {number}, {fault}: {problem}", flush=True)
            if done % 20 == 0:
                print(f"{mode}: {done} of {len(trials)} tried, {survived} survived", flush=True)
    print(f"{mode}: faults tried: {len(trials)}, survived: {survived}; a content sent again in: {resent}", flush=True)
    return len(trials), survived


def races(work: Path, mode: str, times: int) -> tuple[int, int]:
    """(races, won cleanly): two publishers of the same new version with other content start at once."""
    prepare(work, mode)
    write_source(work / "three", images="tiny", unlabeled=20)
    flags = ["--config", "segmented", "--config", "unlabeled", "--expect", f"{work}/three/expected.json"]
    assert build(["--source", str(work / "three"), "--out", str(work / "folder-three"), *flags]) == 0
    shutil.copy(work / "three/expected.json", work / "folder-three.expected.json")
    clean = 0
    for number in range(times):
        with trial_hub(work, f"race-{number}") as hub:
            publisher = Publisher(hub, work / f"race-{number}" / "home", mode == "xet")
            processes = [publisher.start(work / folder, "1.1.0") for folder in ("folder-two", "folder-three")]
            said = ["".join(process.communicate(timeout=240)) for process in processes]
            codes = [process.returncode for process in processes]
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
    parser.add_argument("--races", type=int, metavar="N", help="instead: N times two publishers at once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if args.races:
            tried, survived = races(Path(work), args.mode, args.races)
        else:
            tried, survived = sweep(Path(work), args.mode, args.every, args.start)
    print(json.dumps({"mode": args.mode, "tried": tried, "survived": survived}))
    return 0 if tried == survived else 1


if __name__ == "__main__":
    sys.exit(main())
