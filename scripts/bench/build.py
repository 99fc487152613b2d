"""Archive to Parquet against `unzip -q`, `cp`, and the ways that people go today."""

import os
import shutil
import sys

from scripts.bench.sources import FOLD_FILES, expectations, missing, stored
from scripts.pipeline.console import say, table
from scripts.pipeline.measure import Run, run

UNZIP, CP, BUILD, VERIFY = "unzip -q", "cp", "scripts.build", "scripts.verify, decoding"
BY_ONE = "scripts.build --workers 1"
OF_FOLDER = "scripts.build of the extracted folder, decoding"
RIVALS = {
    "imagefolder": "unzip, imagefolder, push_to_hub's writing",
    "generator": "GeneratorBasedBuilder to Parquet",
    "webdataset": "WebDataset tars",
}
OFTEN = (CP, UNZIP, BUILD)
HEADER = ("command", "runs", "seconds", "of unzip", "of cp", "CPU seconds", "peak MB of a process")


def bench_build(work: str, archive: str, runs: int, *, whole: bool) -> str:
    """Archive to Parquet against its rivals, for an archive as it is, and the same one stored.

    All files are in the page cache, as after a download. `OFTEN` runs `runs` times, and what takes longer once;
    of the stored one the slow rivals only with `whole`.
    """
    routes = [route for route in RIVALS if not (route == "webdataset" and missing([route]))]
    commands = _commands(work, archive, routes)
    tables = [_table("as it is", archive, _measure(work, archive, commands, runs))]
    source = os.path.join(work, "stored")
    archive = stored(archive, source)
    commands = _commands(work, archive, routes if whole else [route for route in routes if route == "webdataset"])
    del commands[OF_FOLDER], commands[BY_ONE], commands[VERIFY]  # of one archive, they suffice
    tables.append(_table("stored", archive, _measure(work, archive, commands, runs)))
    shutil.rmtree(source)
    if len(routes) < len(RIVALS):
        tables.append("WebDataset is not installed: pip install -r scripts/bench/requirements.txt")
    return "\n\n".join(tables)


def _commands(work, archive, routes):
    """{name: command}, in an order in which each finds what it needs: the extracted folder, a build to verify."""
    source, out, extracted = os.path.dirname(archive), os.path.join(work, "out"), os.path.join(work, "extracted")
    flags = expectations(source)

    def build(place, *more):
        command = [sys.executable, "-m", "scripts.build", "--source", place, "--config", "labeled", "--out", out]
        return [*command, *flags, *more]

    return {
        CP: ["cp", archive, out],
        UNZIP: [*UNZIP.split(), archive, "-d", extracted],
        OF_FOLDER: build(extracted),
        BY_ONE: build(source, "--workers", "1"),
        BUILD: build(source),
        VERIFY: [sys.executable, "-m", "scripts.verify", out, *flags],
        **{RIVALS[route]: [sys.executable, "-m", "scripts.bench.rivals", route, archive, out] for route in routes},
    }


def _measure(work, archive, commands, runs):
    """{name: its runs}; those of `OFTEN` alternate."""
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    out, extracted = os.path.join(work, "out"), os.path.join(work, "extracted")
    for name in [*commands, *[name for name in commands if name in OFTEN] * (runs - 1)]:
        if name == UNZIP:
            shutil.rmtree(extracted, ignore_errors=True)
            os.makedirs(extracted)
        if name == OF_FOLDER:
            for file in FOLD_FILES:
                shutil.copy(os.path.join(os.path.dirname(archive), file), extracted)
        if name != VERIFY:
            shutil.rmtree(out, ignore_errors=True)
        if name == CP:
            os.makedirs(out)
        os.sync()  # else a command waits for what the one before it has still to write to the disk
        measured[name].append(run(commands[name]))
        say(f"{name}: {measured[name][-1].seconds:.2f} s")
    for folder in (out, extracted):
        shutil.rmtree(folder, ignore_errors=True)
    return measured


def _table(kind, archive, measured):
    seconds = {name: min(run.seconds for run in runs) for name, runs in measured.items()}

    def line(name, runs, quickest):
        return name, len(runs), f"{quickest:.2f}", *(f"{quickest / seconds[rival]:.2f}" for rival in (UNZIP, CP))

    rows = []
    for name, runs in measured.items():
        cpu, peak = min(run.cpu_seconds for run in runs), max(run.peak_bytes for run in runs)
        rows.append((*line(name, runs, seconds[name]), f"{cpu:.2f}", f"{peak / 1e6:.0f}"))
        if runs[0].parquet_seconds is not None:
            rows.append((*line("  to Parquet", runs, min(run.parquet_seconds for run in runs)), "", ""))
    size = f"{os.path.getsize(archive) / 1e9:.2f} GB"
    head = f"{os.path.basename(archive)}, {kind}: {size}, {os.cpu_count()} cores, the quickest run of each\n"
    return head + table(HEADER, rows)
