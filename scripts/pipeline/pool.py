"""Who does the work: processes that start quickly and end with their parent, a thread, or a cluster."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from typing import Any

from scripts.pipeline.console import say
from scripts.pipeline.files import absolute
from scripts.pipeline.output import BuildError

Workers = int | str  # processes of this machine, or the address of a cluster's scheduler

# What to tell of errors that are no job's own, by name: those of distributed are not loaded without a cluster.
LOST = {
    "BrokenProcessPool": "a worker was killed (out of memory?); run again, with fewer --workers",
    "KilledWorker": "workers of the cluster died of one job, one after the other (out of memory? see their logs, and "
    "--memory-limit of dask worker); what is done is kept: run the same command again",
    "CancelledError": "the scheduler of the cluster was lost; what is done is kept: start one, and run this again",
}


def worker_pool(workers: Workers, jobs: int | None = None) -> Executor:
    """A pool of `workers`: a cluster, or processes, no more than there are `jobs`.

    A single worker is a thread of this process, which needs no other. Raises BuildError where no cluster answers.
    """
    if isinstance(workers, str):
        from scripts.pipeline.cluster import ClusterPool  # loads distributed

        return ClusterPool(workers)
    workers = min(workers, jobs or workers)
    if workers == 1:
        return ThreadPoolExecutor(1)
    # Forked, the workers need not import datasets again, which takes longer than some builds.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(os.getpid(),))


def finished(pool: Executor, jobs: Mapping[Future, Any]) -> Iterator[tuple[Any, Any]]:
    """(name, result) of the jobs {job: name} of a pool, as they are done; the first that fails cancels the others.

    Raises what that job raised, or BuildError where a worker was killed, or the cluster lost.
    """
    try:
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    except KeyboardInterrupt:
        say("stopping; workers finish the files in hand first (Ctrl-C again: at once)")
        raise
    except Exception as error:
        text = LOST.get(type(error).__name__)
        if text is None:
            raise
        raise BuildError(text) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def check_workers(workers: Workers, folders: list[str], lock: str | None) -> list[str]:
    """The source folders as all workers know them. Raises BuildError, naming those that cannot do the work.

    A cluster's workers must have what gives the same bytes, and see the sources, and the `lock` of the output.
    """
    if isinstance(workers, int):
        return folders
    folders = [absolute(folder) for folder in folders]
    with worker_pool(workers) as pool:
        pool.check([*folders, *([lock] if lock else [])])
    return folders


def _end_with_parent(parent):
    """In a worker: leaves Ctrl-C to the parent, and ends when the parent was killed, as nobody else would end it."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    gc.freeze()  # what the parent made is not looked through again
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
