"""Worker processes that start quickly and end with their parent."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from scripts.pipeline.console import say
from scripts.pipeline.output import BuildError


def worker_pool(workers: int) -> Executor:
    """A pool of `workers` processes. A single worker is a thread of this one, which needs no process."""
    if workers == 1:
        return ThreadPoolExecutor(1)
    # Forked, the workers need not import datasets again, which takes longer than some builds.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(os.getpid(),))


def finished(pool: Executor, jobs: Mapping[Future, Any]) -> Iterator[tuple[Any, Any]]:
    """(name, result) of the jobs {job: name} of a pool, as they are done; the first that fails cancels the others.

    Raises what that job raised, or BuildError where a worker was killed.
    """
    try:
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    except KeyboardInterrupt:
        say("stopping; the files in hand are finished first (Ctrl-C again: at once)")
        raise
    except BrokenProcessPool as error:
        raise BuildError("a worker was killed (out of memory?); run again, with fewer --workers") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent(parent):
    """In a worker: leaves Ctrl-C to the parent, and ends when the parent was killed, as nobody else would end it."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    gc.freeze()  # what the parent made is not looked through again
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
