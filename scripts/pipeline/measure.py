"""What the commands that measure have in common: running a command, and a folder to work in."""

import os
import subprocess
import time
from typing import NamedTuple

from scripts.pipeline.output import BuildError, check_output


class Run(NamedTuple):
    seconds: float
    parquet_seconds: float | None  # until the Parquet files were in place, of a build
    cpu_seconds: float
    peak_bytes: int  # of the largest process


def run(command: list[str]) -> Run:
    """Runs a command to its end and measures it with its children. Raises RuntimeError if it fails."""
    started, parquet_at, said = time.monotonic(), None, []
    # Where this is set, every run would compile all modules again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
    for line in process.stderr:
        said.append(line)
        if line.startswith("Parquet files:"):
            parquet_at = time.monotonic() - started
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {''.join(said)[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(time.monotonic() - started, parquet_at, cpu, usage.ru_maxrss * 1024)


def claim(parser, work):
    """Makes the folder to work in; refuses one that is not empty and not of an earlier run, since it is emptied."""
    marker = os.path.join(work, ".hyper-kvasir-bench")
    try:
        check_output(work)
    except BuildError as error:
        parser.error(f"--work: {error}")
    if os.path.isdir(work) and os.listdir(work) and not os.path.exists(marker):
        parser.error(f"--work {work}: not empty, and not of an earlier run; give a new folder")
    os.makedirs(work, exist_ok=True)
    open(marker, "w").close()
