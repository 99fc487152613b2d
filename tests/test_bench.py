"""scripts.bench runs. What it measures is for scripts/README.md, and not for a test."""

import pytest

from scripts.bench import main


@pytest.mark.slow
def test_the_table_of_updates_comes_out(source, tmp_path, capsys):
    archive = source / "hyper-kvasir-labeled-images.zip"
    assert main(["updates", "--archive", str(archive), "--work", str(tmp_path)]) == 0
    assert "a column added" in capsys.readouterr().out
