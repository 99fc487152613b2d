"""A cluster of dask.distributed as an executor. Its workers must be as this process is: else they give other bytes."""

import functools
import hashlib
import logging
import platform
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from scripts.pipeline.files import exists
from scripts.pipeline.manifest import PACKAGES, QUALITY
from scripts.pipeline.output import BuildError

CONNECT_SECONDS = 10
PROJECT = Path(__file__).parents[2]


class ClusterPool(Executor):
    """The workers of the scheduler at an address. Raises BuildError where none answers there, or a package is missing.

    Each job is refused by a worker that is not as this process is: some may come while others work.
    """

    def __init__(self, address: str):
        try:
            import distributed
        except ImportError as error:
            text = "pip install -r scripts/cluster-requirements.txt"
            raise BuildError(f"--cluster needs distributed: {text}") from error
        for name in ("distributed", "distributed.client", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log is told here, in one line
        self.address = address
        try:
            self.client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except ValueError as error:
            text = f"is not the address of a scheduler, as tcp://10.0.0.1:8786 ({error})"
            raise BuildError(f"--cluster {address!r}: {text}") from error
        except OSError as error:
            text = "no scheduler answers there; start one with: dask scheduler"
            raise BuildError(f"--cluster {address}: {text} ({str(error).splitlines()[0]})") from error
        self.executor = self.client.get_executor(pure=False)

    def submit(self, function, /, *arguments, **settings) -> Future:
        return self.executor.submit(_as_here, environment(), function, arguments, settings)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.executor.shutdown(wait=wait and not cancel_futures)
        self.client.close()

    def check(self, places: Sequence[str]) -> None:
        """Asks each worker for its versions, and for `places` that it does not see. Raises BuildError with all.

        The scheduler is asked, too: it reads what is sent to them.
        """
        try:
            self.client.run_on_scheduler(_other, {})
            asked = self.client.run(_answer, environment(), list(places), on_error="return")
        except OSError as error:
            raise BuildError(f"--cluster {self.address}: the scheduler was lost ({error})") from error
        except Exception as error:  # of a class that does not tell
            raise BuildError(f"--cluster {self.address}: the scheduler {_told(error)}") from error
        if not asked:
            raise BuildError(f"--cluster {self.address}: has no workers; start some with: dask worker {self.address}")
        wrong = [f"- {worker}: {_told(answer)}" for worker, answer in sorted(asked.items()) if answer]
        if wrong:
            text = (
                "workers that cannot do this work; start them again in a checkout like this one, with its requirements:"
            )
            raise BuildError("\n".join([f"--cluster {self.address}: {text}", *wrong]))


def _told(answer):
    if isinstance(answer, Exception):  # of a class that does not tell: the question itself could not be imported
        advice = "start it in a checkout of this project, with its requirements, and with PYTHONPATH=$PWD"
        return f"cannot run this project ({answer}); {advice}"
    return answer


@functools.cache
def environment() -> dict[str, str | None]:
    """What the bytes of a file depend on, beside its inputs: {name: version}, of this process."""
    found = {"Python": platform.python_version(), "the project": _code()}
    for package in (*PACKAGES, *QUALITY):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _code():
    """A digest of the code that workers run."""
    digest = hashlib.sha256()
    for path in sorted([PROJECT / "hyper_kvasir.py", *(PROJECT / "scripts/pipeline").rglob("*.py")]):
        digest.update(path.relative_to(PROJECT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _other(wanted):
    """In a worker: how it differs from the process that it works for."""
    here = environment()
    differing = [name for name, own in wanted.items() if here[name] != own]
    return "; ".join(f"has {name} {here[name]}, this process has {wanted[name]}" for name in differing)


def _answer(wanted, places):
    """In a worker: why it cannot do the work, if it cannot."""
    return _other(wanted) or "; ".join(filter(None, map(_unseen, places)))


def _unseen(place):
    try:
        return "" if exists(place) else f"does not see {place}; use a folder that all machines share, or an address"
    except OSError as error:
        return f"does not see {place} ({error.strerror or error})"


def _as_here(wanted, function, arguments, settings):
    """In a worker: what a function gives, if it is as in the process that it works for. Raises BuildError if not."""
    other = _other(wanted)
    if other:
        raise BuildError(f"a worker that came later {other}; start it again in a checkout like this one, and run again")
    return function(*arguments, **settings)
