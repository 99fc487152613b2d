"""The dataset as its readers see it, through `datasets.load_dataset`."""

import tempfile

import datasets

from scripts.pipeline.configs import features_of


def stream_problems(
    path: str, config: str, splits: list[str], revision: str | None = None, *, small: bool = False
) -> list[str]:
    """What is wrong with a config as it streams: its splits, their features, a first row whose image opens.

    `small`: in the small edition. `path` is a folder, or a repository's id. Raises whatever `load_dataset` raises if
    the config does not load.
    """
    streams = datasets.load_dataset(path, config, streaming=True, revision=revision)
    for stream in streams.values():
        first = next(iter(stream))
        if "image" in first:
            first["image"].load()
    problems = []
    if list(streams) != list(splits):
        problems.append(f"{config}: loads with splits {', '.join(streams)}, expected {', '.join(splits)}")
    for split, stream in streams.items():
        if stream.features != features_of(config, small):
            problems.append(f"{config} / {split}: loads with other features: {stream.features}")
    return problems


def loaded_rows(path: str, config: str, revision: str | None = None) -> dict[str, int]:
    """{split: rows} of a config that is loaded whole, past all caches. Raises whatever `load_dataset` raises."""
    datasets.disable_progress_bars()  # ours says the same on one line
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(path, config, revision=revision, cache_dir=cache)
        return {split: rows.num_rows for split, rows in loaded.items()}


def does_not_load(config: str, error: Exception) -> str:
    """The problem to report for an error that `load_dataset` raised."""
    return f"{config}: does not load: {type(error).__name__}: {error}"
