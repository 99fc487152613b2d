"""scripts.bench runs. What it measures is for scripts/README.md, and not for a test."""

import shutil

import pytest

from scripts.bench import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("what", ["build", "updates"])
def test_a_table_comes_out(what, source, tmp_path, capsys):
    if what == "build" and not shutil.which("unzip"):
        pytest.skip("no unzip to compare with")
    archive = source / "hyper-kvasir-labeled-images.zip"
    assert main([what, "--archive", str(archive), "--runs", "1", "--work", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert ("scripts.build --workers 1" if what == "build" else "a column added") in said
