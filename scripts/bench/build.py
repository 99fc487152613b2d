"""Archive to Parquet against `unzip -q` and `cp` of the same archive."""

import os
import shutil
import sys

from scripts.pipeline.console import say, table
from scripts.pipeline.measure import Run, run


def bench_build(work: str, archive: str, runs: int) -> str:
    """Archive to Parquet against unzip and cp of the same archive; all files in the page cache, as after a download."""
    source = os.path.dirname(archive)
    expect = os.path.join(source, "expected.json")
    flags = ["--expect", expect] if os.path.exists(expect) else []
    out, extracted = os.path.join(work, "out"), os.path.join(work, "extracted")

    def build(place, *more):
        command = [sys.executable, "-m", "scripts.build", "--source", place, "--config", "labeled", "--out", out]
        return [*command, *flags, *more]

    # In an order in which each finds what it needs: verify and a second build the build before them.
    commands = {
        "unzip -q": ["unzip", "-q", archive, "-d", extracted],
        "cp": ["cp", archive, out],
        "scripts.build --workers 1": build(source, "--workers", "1"),
        "scripts.build of the extracted folder, decoding": build(extracted),
        "scripts.build": build(source),
        "scripts.build again, nothing changed": build(source),
        "scripts.verify, decoding": [sys.executable, "-m", "scripts.verify", out, *flags],
    }
    measured: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(runs):
        shutil.rmtree(extracted, ignore_errors=True)
        for name, command in commands.items():
            if "again" not in name and "verify" not in name:
                shutil.rmtree(out, ignore_errors=True)
            if name in ("unzip -q", "cp"):
                os.makedirs(extracted if name == "unzip -q" else out)
            if "extracted" in name:
                for file in ("2_fold_split.csv", "5_fold_split.csv"):
                    shutil.copy(os.path.join(source, file), extracted)
            measured[name].append(run(command))
            say(f"{name}: {measured[name][-1].seconds:.2f} s")
    for folder in (out, extracted):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = {name: min(r.seconds for r in results) for name, results in measured.items()}
    for name in ("scripts.build", "scripts.build --workers 1", "scripts.build of the extracted folder, decoding"):
        seconds[f"  {name}, to Parquet"] = min(r.parquet_seconds for r in measured[name])
    rows = []
    for name, quickest in sorted(seconds.items(), key=lambda item: item[0].strip()):
        results = measured.get(name, [])
        ratios = (f"{quickest / seconds[rival]:.2f}" for rival in ("unzip -q", "cp"))
        cpu = f"{min(r.cpu_seconds for r in results):.2f}" if results else ""
        peak = f"{max(r.peak_bytes for r in results) / 1e6:.0f}" if results else ""
        rows.append((name, f"{quickest:.2f}", *ratios, cpu, peak))
    size = f"{os.path.getsize(archive) / 1e9:.2f} GB"
    head = f"{os.path.basename(archive)}: {size}, {os.cpu_count()} cores, quickest of {runs}\n"
    return head + table(("command", "seconds", "of unzip", "of cp", "CPU seconds", "peak MB of a process"), rows)
