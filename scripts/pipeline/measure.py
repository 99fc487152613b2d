"""What the commands that measure have in common: running a command, and a folder to work in."""

import os
import subprocess
import sys
import time
from typing import NamedTuple

from scripts.pipeline.output import BuildError, check_output


class Run(NamedTuple):
    seconds: float
    parquet_seconds: float | None  # until the Parquet files were in place, of a build
    cpu_seconds: float
    peak_bytes: int  # of the largest process


# Starts a command, and writes to a pipe what it used. Started from here, it would count this program's memory, too.
STARTER = """
import os, sys
pipe = int(sys.argv[1])
os.set_inheritable(pipe, False)
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
os.write(pipe, f"{usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}".encode())
sys.exit(status != 0)
"""


def run(command: list[str]) -> Run:
    """Runs a command to its end and measures it with its children. Raises RuntimeError if it fails."""
    # Where this is set, every run would compile all modules again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    used, pipe = os.pipe()
    command_line = [sys.executable, "-I", "-S", "-c", STARTER, str(pipe), *command]
    started, parquet_at, said = time.monotonic(), None, []
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command_line, **streams, env=env, pass_fds=[pipe])
    os.close(pipe)
    for line in process.stderr:
        said.append(line)
        if line.startswith("Parquet files:"):
            parquet_at = time.monotonic() - started
    failed, seconds = process.wait(), time.monotonic() - started
    with os.fdopen(used) as file:
        cpu_seconds, peak_kib = map(float, file.read().split() or (0, 0))
    if failed:
        raise RuntimeError(f"{' '.join(command)} failed: {''.join(said)[-2000:]}")
    return Run(seconds, parquet_at, cpu_seconds, round(peak_kib * 1024))


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
