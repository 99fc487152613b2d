"""Runs commands as processes of their own that are forked off a server, which has imported what they import.

Such a process has its own environment, caches, sessions and connections, and can be killed. It starts sooner, waits a
tenth as long where it waits for a busy Hub, parses YAML by libyaml, and sketches the card's figures unless
$DRAW_FIGURES is set.
"""

import hashlib
import importlib
import io
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml
from PIL import Image

from scripts.loopback_hub.client import PROJECT

# The clients parse a card many times. Before they are imported, as they derive loaders from it.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

PRELOADED = ["tests.processes", "datasets", "huggingface_hub.hf_api", "scripts.publish", "scripts.pipeline.figures"]
PRELOADED += ["aiohttp", "fsspec.implementations.http", "scipy.io", "PIL.JpegImagePlugin"]  # which come later
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(PRELOADED)


class Process:
    """`python -m <command>`, or `python -c <code>`, as a process of its own with the environment `env`."""

    def __init__(self, env: dict[str, str], command: list[str] | None = None, code: str | None = None):
        self.output = tempfile.TemporaryDirectory()
        self.files = [Path(self.output.name, name) for name in ("stdout", "stderr")]
        arguments = (env, [str(argument) for argument in command or []], code, self.files)
        self.process = forkserver.Process(target=run, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """Ends it without a warning."""
        self.process.kill()
        self.process.join()

    def end(self, timeout: float = 180) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) when it has ended. Raises TimeoutError when it does not."""
        self.process.join(timeout)
        said = [file.read_text() if file.exists() else "" for file in self.files]
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s; it said {''.join(said)}")
        return self.process.exitcode, *said


def run(env, command, code, files):
    """In the process: takes on its environment, and does what `python` would."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # the platform's own, as in a process that was not forked
    os.environ.clear()
    os.environ.update(env)
    os.chdir(PROJECT)
    for name in ("huggingface_hub.constants", "datasets.config"):  # they read the environment when they are imported
        importlib.reload(sys.modules[name])
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 10)
    if "DRAW_FIGURES" not in os.environ:
        sys.modules["scripts.pipeline.figures"].draw = sketch
    if code is not None:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(command)
        sys.modules.pop(command[0], None)  # to be run, not imported
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def sketch(parts: dict, examples, pairs=()) -> list:
    """Stands in for `figures.draw`, which takes seconds: figures of a few pixels, others where the data are others."""
    from scripts.pipeline import figures  # loads matplotlib

    names = ["findings", "class_balance"] if "labeled" in parts else []
    names += ["quality"] if "psnr" not in parts.get("labeled", {"psnr": None}) else []
    names += ["polyps", "objects", "heat_maps", "unfit"] if "segmented" in parts else []
    names += ["pairs"] if pairs and "segmented" in parts else []
    digest = hashlib.sha512(repr(parts).encode()).digest()

    def sketched(name):
        buffer, kind = io.BytesIO(), "jpg" if name in ("findings", "polyps", "unfit", "pairs") else "png"
        image = Image.frombytes("RGB", (5, 4), hashlib.sha512(digest + name.encode()).digest()[:60])
        image.save(buffer, "JPEG" if kind == "jpg" else "PNG", quality=100)
        return figures.Figure(name, f"assets/{name}.{kind}", f"A sketch of {name}", buffer.getvalue())

    return [sketched(name) for name in [*names, "sizes"]]
