"""What is measured on: generated sources, made once and kept."""

import os
import sys

from scripts.pipeline.console import say
from scripts.pipeline.measure import run


def photographs(work: str, gigabytes: float) -> str:
    """A labeled archive of generated photographs, made if it is not there."""
    source = os.path.join(work, f"source-{gigabytes:g}")
    if not os.path.exists(os.path.join(source, "expected.json")):
        say(f"generating {gigabytes:g} GB of photographs")
        run([sys.executable, "-m", "tests.fake_source", source, "--gigabytes", str(gigabytes), "--images", "photo"])
    return os.path.join(source, "hyper-kvasir-labeled-images.zip")
