"""What commands have in common: options, errors, a progress bar on a terminal or plain lines in a log."""

import argparse
import functools
import os
import sys
import time

from tqdm import tqdm


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
    parser.add_argument("--workers", type=number, default=os.cpu_count(), help="processes (default: one per core)")


def add_expect(parser: argparse.ArgumentParser) -> None:
    """Adds --expect, a path for `Expected.load`."""
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON of numbers to check against instead of the official ones"
    )


def refusing(*errors: type[Exception]):
    """Decorates a command's `main`: where it raises one of `errors`, says its text and returns 1."""

    def decorate(main):
        @functools.wraps(main)
        def checked(arguments=None) -> int:
            try:
                return main(arguments)
            except errors as error:
                say(f"error: {error}")
                return 1

        return checked

    return decorate


def run(main) -> None:
    """Runs a command's `main` and ends the program with what it returns; Ctrl-C ends it without a traceback."""
    try:
        code = main()
    except KeyboardInterrupt:
        say("stopped; run the same command again to continue")
        code = 130
    sys.stdout.flush()
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
