"""Start a loopback Hub by hand, or as the child process of `LoopbackHub`."""

import argparse
import contextlib
import shlex
import socket
from pathlib import Path

import uvicorn

from .app import build_app
from .client import READY, TOKENS, client_settings
from .hub import ROLES, Hub, User
from .traffic import RequestLog

KEEP_ALIVE_SECONDS = 60


def token_flag(text: str) -> tuple[str, User]:
    name, _, rest = text.partition("=")
    token, role, orgs = [*rest.split(":"), "", ""][:3]
    if not name or not token or role not in ROLES:
        raise argparse.ArgumentTypeError("write it as NAME=TOKEN:ROLE[:ORG,...], with a role of " + ", ".join(ROLES))
    return token, User(name, role, tuple(org for org in orgs.split(",") if org))


def parse_arguments() -> argparse.Namespace:
    defaults = [f"{name}={':'.join(fields)}" for name, fields in TOKENS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m scripts.loopback_hub",
        description="An embedded Hugging Face Hub on 127.0.0.1, for trying publication without the network.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default)")
    parser.add_argument("--dir", type=Path, required=True, help="where the state is, or will be, kept")
    parser.add_argument(
        "--token",
        type=token_flag,
        action="append",
        metavar="NAME=TOKEN:ROLE[:ORG,...]",
        help="a user's token; roles: write, pr (opens pull requests only), read, none (sees public "
        "repositories only). May be repeated. "
        "A repository can be written to by the user with the name of its namespace, and by members of its ORG. "
        f"Without this flag: {' '.join(defaults)}",
    )
    parser.add_argument("--page-size", type=int, default=1000, help="entries per page of a listing (default: 1000)")
    parts = "LFS files larger than this are uploaded in pieces of this many bytes (default: 64 MiB)"
    parser.add_argument("--lfs-part-size", type=int, default=64 << 20, help=parts)
    limit = "a commit of more operations than this times out: it is answered 504 and not made (default: 0, no limit)"
    parser.add_argument("--commit-operations", type=int, default=0, metavar="N", help=limit)
    arguments = parser.parse_args()
    arguments.token = dict(arguments.token or map(token_flag, defaults))
    return arguments


def listen(port: int) -> socket.socket:
    # With the protocol said, asyncio sets TCP_NODELAY; without, the second packet of an answer waits 40 ms for an ACK.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


def announce(endpoint: str, folder: Path, tokens: dict[str, User]) -> None:
    for token, user in tokens.items():
        print(f"token of {user.name} ({user.role}): {token}")
    writer = next((token for token, user in tokens.items() if user.role == "write"), None)
    for name, value in client_settings(endpoint, writer, folder / "home").items():
        print(f"export {name}={shlex.quote(value)}")
    print("export HF_HUB_DISABLE_XET=1   # only to upload by LFS instead of Xet")
    print(f"{READY}{endpoint}", flush=True)


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.dir.resolve()
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {"server.log"} and "secret" not in names:  # tmp/ would be emptied
        raise SystemExit(f"--dir {arguments.dir}: not empty, and not of a loopback Hub; give a new folder")
    hub = Hub(folder, arguments.token, arguments.page_size, arguments.lfs_part_size, arguments.commit_operations)

    def find_connection(client: tuple[str, int]):
        """The open connection of a client, for faults that cut it."""
        return next((open_ for open_ in server.server_state.connections if open_.client == tuple(client)), None)

    app = build_app(hub, RequestLog(folder / "requests.jsonl", list(arguments.token)), find_connection)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
    listener = listen(arguments.port)
    announce(f"http://127.0.0.1:{listener.getsockname()[1]}", folder, arguments.token)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
