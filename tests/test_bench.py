"""scripts.bench runs. What it measures is for scripts/README.md, and not for a test."""

import pytest

from scripts import bench_quality
from scripts.bench import __main__ as bench
from scripts.bench import updates


@pytest.mark.slow
def test_the_table_of_updates_comes_out(source, tmp_path, capsys, monkeypatch):
    """Version 1 and one update are really sent to the Hub, which is what takes long."""
    hub_bytes, sent = updates.hub_bytes, []

    def some_are_sent(*arguments):
        sent.append(hub_bytes(*arguments) if len(sent) < 2 else 1)
        return sent[-1]

    monkeypatch.setattr(updates, "hub_bytes", some_are_sent)
    archive = source / "hyper-kvasir-labeled-images.zip"
    assert bench.main(["updates", "--archive", str(archive), "--work", str(tmp_path)]) == 0
    assert "a column added" in capsys.readouterr().out and sent[0] > sent[1] > 1


@pytest.mark.slow
def test_the_table_of_a_pass_comes_out(tmp_path, capsys):
    assert bench_quality.main(["pass", "--images", "24", "--work", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "24 images, 0.41 megapixels each" in said and "copies planted: 1; found as the same frame: 1" in said
