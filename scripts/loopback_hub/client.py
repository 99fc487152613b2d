"""Start and steer a loopback Hub from tests and the demo. Standard library only: the Hub is a process of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
WRITE_TOKEN, READ_TOKEN = "hf_loopback_write", "hf_loopback_read"
TOKENS = {"writer": (WRITE_TOKEN, "write", "ns"), "reader": (READ_TOKEN, "read", "")}
READY = "Loopback Hub ready at "


def client_settings(endpoint: str, token: str | None, home: str | Path | None, xet: bool = True) -> dict[str, str]:
    """The environment variables that send the clients to a loopback Hub, and keep them from calling anything else."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_XET_TELEMETRY_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    settings |= {"HF_TOKEN": token} if token else {}
    settings |= {"HF_HOME": str(home)} if home else {}
    return settings if xet else settings | {"HF_HUB_DISABLE_XET": "1"}


class LoopbackHub:
    """A Hub on a free port of 127.0.0.1 with its state in `folder`; started and stopped as a context manager.

    `tokens` maps user names to (token, role, "organization,organization"), whose repositories they write to;
    `page_size`, `lfs_part_size` and `commit_operations` are the server's settings, see its `--help`.
    After `kill()` or `stop()`, `start()` starts it again on the same folder and port.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tokens=TOKENS,
        page_size: int = 1000,
        lfs_part_size: int = 64 << 20,
        commit_operations: int = 0,
    ):
        self.folder = Path(folder)
        self.settings = ["--page-size", str(page_size), "--lfs-part-size", str(lfs_part_size)]
        self.settings += ["--commit-operations", str(commit_operations)]
        for name, fields in tokens.items():
            self.settings += ["--token", f"{name}={':'.join(fields)}"]
        self.port, self.process = 0, None

    def __enter__(self) -> "LoopbackHub":
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = ["--port", str(self.port), "--dir", str(self.folder.resolve())]
        with (self.folder / "server.log").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scripts.loopback_hub", *place, *self.settings],
                cwd=PROJECT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        for line in self.process.stdout:
            if line.startswith(READY):
                self.port = int(line.rsplit(":", 1)[1])
                return
        self.stop()
        raise RuntimeError(f"The loopback Hub did not start, see {self.folder / 'server.log'}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def env(self, token: str | None = WRITE_TOKEN, home: str | Path | None = None, xet: bool = True) -> dict[str, str]:
        """A whole environment for a child process that runs clients; `token=None` is nobody."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return inherited | client_settings(self.endpoint, token, home or self.folder / "home", xet)

    def faults(self, action: int | str | None = None, **fault) -> None:
        """Set a fault, see `Fault` in traffic.py; `faults(500, nth=k)` hits the k-th request from now on."""
        self._admin("POST", "faults", {"action": action, **fault})

    def active_faults(self) -> list[dict]:
        """The faults, each with how many requests it has seen and hit."""
        return self._admin("GET", "faults")

    def clear_faults(self) -> None:
        self._admin("DELETE", "faults")

    def limit_bandwidth(self, bytes_per_second: float) -> None:
        """For all connections together; 0 is no limit."""
        self._admin("PUT", "bandwidth", {"bytes_per_second": bytes_per_second})

    def counters(self) -> dict:
        """`requests`, `routes` (requests, bytes_in and bytes_out of each), and `uploaded` (accepted body bytes)."""
        return self._admin("GET", "counters")

    def log(self) -> list[dict]:
        """The requests since the last reset, in order of arrival."""
        return self._admin("GET", "log")

    def reset(self) -> None:
        """Forget the request log and the counters; repositories and faults stay."""
        self._admin("POST", "reset")

    def _admin(self, method: str, route: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_loopback/{route}", data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            return json.load(response)
