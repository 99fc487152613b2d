"""What commands have in common: options, errors, a progress bar on a terminal or plain lines in a log."""

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from scripts.pipeline.files import check_address, exists, is_address

LEAST_SIDE, MOST_SIDE = 32, 1024  # of images, in pixels: below, masks vanish; above, little is saved


class Progress:
    """Counts `total` units of work, e.g. bytes. `with Progress(...) as bar: bar.update(n)`."""

    def __init__(self, total: int, text: str, unit: str = "B"):
        self.total, self.text, self.unit = total, text, unit
        self.done, self.said_at = 0, time.monotonic()
        self.bar = tqdm(total=total, desc=text, unit=unit, unit_scale=unit == "B", disable=not sys.stderr.isatty())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def update(self, units: int):
        self.done += units
        self.bar.update(units)
        now = time.monotonic()
        if self.bar.disable and (now - self.said_at > 10 or self.done == self.total):
            self.said_at = now
            count = f"{tqdm.format_sizeof(self.done)}B" if self.unit == "B" else f"{self.done:,}{self.unit}"
            say(f"{self.text}: {100 * self.done // max(self.total, 1)}% ({count})")


def say(text: str):
    """A line on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def command_parser(prog: str, text: str) -> argparse.ArgumentParser:
    """A parser whose help shows `text`, the docstring of a command, as it is typed."""
    return argparse.ArgumentParser(prog=prog, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def number(text: str) -> int:
    """The type of an option that is a number of things, at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds --workers, a number of processes."""
    cores = str(os.cpu_count())  # as text, or argparse takes the same number, given beside --cluster, for the default
    about = "processes (default: one per core, by which figures are drawn in any case)"
    parser.add_argument("--workers", type=number, default=cores, help=about)


def add_max_side(parser: argparse.ArgumentParser, about: str) -> None:
    """Adds --max-side, a number of pixels."""

    def side(text):
        if not text.isdecimal() or not LEAST_SIDE <= int(text) <= MOST_SIDE:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels from {LEAST_SIDE} to {MOST_SIDE:,}")
        return int(text)

    parser.add_argument("--max-side", type=side, metavar="N", help=about)


def add_building(parser: argparse.ArgumentParser) -> None:
    """Adds what every build takes: --source, a list of places where archives are, --out, --workers and --expect."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="DIR",
        help="a folder or address with archives, or a zip; repeatable: the first that has a part is used",
    )
    about = "the folder or address to write: new, or one built before"
    parser.add_argument("--out", required=True, metavar="DIR", help=about)
    pool = parser.add_mutually_exclusive_group()
    add_workers(pool)
    about = "work on this cluster: the address of a dask scheduler, as tcp://10.0.0.1:8786"
    pool.add_argument("--cluster", metavar="ADDRESS", dest="workers", default=argparse.SUPPRESS, help=about)
    add_expect(parser)


def add_expect(parser: argparse.ArgumentParser) -> None:
    """Adds --expect, a path for `Expected.load`."""
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON of numbers to check against instead of the official ones"
    )


def check_sources_exist(parser: argparse.ArgumentParser, sources: list[str]) -> None:
    """Ends the program for a source that is not there."""
    for source in sources:
        try:
            if is_address(source):
                check_address(source)
        except ValueError as error:
            parser.error(f"--source {error}")
        if not exists(source):
            parser.error(f"--source {source}: no such folder")


def reason(error: Exception) -> str:
    """An error's text; of one of the system with the file that it is about first."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def refusing(*errors: type[Exception], explained: Callable[[Exception], str] = reason):
    """Decorates a command's `main`: where it raises one of `errors`, says what `explained` makes of it, returns 1."""

    def decorate(main):
        @functools.wraps(main)
        def checked(arguments=None) -> int:
            try:
                return main(arguments)
            except BrokenPipeError:
                raise
            except errors as error:
                say(f"error: {explained(error)}")
                return 1

        return checked

    return decorate


def run(main) -> None:
    """Runs a command's `main` and ends the program with what it returns; Ctrl-C ends it without a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")  # a locale may not have all letters
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("stopped; run the same command again to continue")
        code = 130
    except BrokenPipeError:
        code = 141  # whoever reads the output has seen enough, as `| head` has; as if SIGPIPE had ended it
    except OSError as error:
        say(f"error: the output cannot be written: {reason(error)}")
        code = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # threads of a stream that was read can abort the interpreter's own end (apache/arrow#45214)


def table(header: tuple, rows: list) -> str:
    """Rows as columns of plain text; numbers are set to the right, with thousands separators."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [any(isinstance(row[i], int) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
