"""Writes a shard as one Parquet file, the same bytes each time; reads its footer, or a row."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hyper_kvasir import Problems, Shard, read_examples
from scripts.pipeline import small, stats
from scripts.pipeline.configs import METADATA, ORIGINAL_SIZE, features_of
from scripts.pipeline.files import is_address, memory_for, replacing, write_direct, write_file

KEY = b"hyper_kvasir.key"
ROWS = b"hyper_kvasir.rows"  # a digest of each row's inputs, by which two versions of a file are compared

# Fixed: a change makes every file new. Images are compressed already, so nothing is compressed.
WRITER = {"version": "2.6", "compression": "none", "use_dictionary": False, "write_page_index": True}

# A page begins with an image, so that the Hub's deduplicating storage finds the image again wherever it moves. Pages
# that end after the value that fills them do that for images, and are written at 2.3 GB/s. Content-defined ones give
# the same bytes at 0.75 GB/s; they are needed where many small PNGs share a page, to find where it begins after a row
# was removed.
PAGES = {"data_page_size": 8 << 10, "write_batch_size": 1}
CONTENT_DEFINED_PAGES = {
    "use_content_defined_chunking": {"min_chunk_size": 8 << 10, "max_chunk_size": 64 << 10, "norm_level": 0}
}


# Facts compress well, and have no images to begin pages with.
COMPRESSED = {"compression": "zstd", "use_dictionary": True}


def writer_options(part: str) -> dict:
    """The options of pyarrow's ParquetWriter for the files of a part."""
    if part == METADATA:
        return {**WRITER, **COMPRESSED, **CONTENT_DEFINED_PAGES}
    return {**WRITER, **(CONTENT_DEFINED_PAGES if part == "segmented" else PAGES)}


def spelled(feature):
    """A feature's dict as datasets <= 3.6 writes it, which all versions read: `Sequence`, and not `List`.

    A struct of lists becomes a sequence of a struct, which is what a sequence of a struct has always been stored as.
    """
    if not isinstance(feature, dict):
        return feature
    if feature.get("_type") == "List":
        return {**{k: spelled(v) for k, v in feature.items()}, "_type": "Sequence"}
    if "_type" not in feature and feature and all(inner.get("_type") == "List" for inner in feature.values()):
        return {"feature": {k: spelled(inner["feature"]) for k, inner in feature.items()}, "_type": "Sequence"}
    return {k: spelled(v) for k, v in feature.items()}


def features_metadata(config: str, small: bool = False) -> dict:
    """A config's features as a file's metadata has them; `small`: in the small edition."""
    return {name: spelled(feature) for name, feature in features_of(config, small).to_dict().items()}


class Written(NamedTuple):
    """What comes of writing a shard: its manifest entry and summary, or `problems` and no file."""

    entry: dict | None = None
    summary: dict | None = None
    problems: Sequence[str] = ()


def write_shard(
    shard: Shard, key: str, row_digests: str, path: str, *, decode: bool = False, max_side: int | None = None
) -> Written:
    """Writes a shard to `path`, whole or not at all, unless its images cannot be used.

    `decode`: as in `read_examples`. With `max_side`, in pixels, it is one of the small edition.
    """
    problems = Problems()
    table = read_rows(shard, shard.rows, problems, decode=decode, max_side=max_side)
    if problems.found:
        return Written(problems=[problem.text for problem in problems.found])
    entry = write_file_of(table, shard.part, path, key=key, row_digests=row_digests)
    return Written(entry, stats.summary_of(table, shard.part, entry))


def read_rows(
    shard: Shard, rows: Sequence, problems: Problems, *, decode: bool = False, max_side: int | None = None
) -> pa.Table:
    """Some rows of a shard out of its archive, as `read_examples`; with `max_side` as the small edition has them."""
    if max_side is None:
        return read_examples(shard, rows, problems, decode=decode)
    return small.read_small(shard, rows, max_side, problems, decode=decode)


def write_file_of(table: pa.Table, part: str, path: str, *, key: str, row_digests: str) -> dict:
    """Writes all rows of a file of a part to `path`, whole or not at all, and returns its manifest entry."""
    features = features_metadata(part, ORIGINAL_SIZE[0] in table.column_names)
    noted = {name: value for name, value in (table.schema.metadata or {}).items() if name == small.LOSS}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}}), **noted})
    memory = memory_for(_most_bytes(table))
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(memory))  # no Python in its way: pages are only copied
    write_table(table, part, {KEY: key, ROWS: row_digests}, sink)
    size = sink.tell()
    data = pa.py_buffer(memory).slice(0, size)
    if is_address(path):
        write_file(path, data.to_pybytes())
    else:
        with replacing(path) as other:
            write_direct(other, memory, size)
    return _entry(data)


def _most_bytes(table):
    """More than any file of a table has: values, a header of each page, an index of all pages, and the footer."""
    return table.nbytes + 256 * table.num_rows * table.num_columns + (1 << 20)


def write_table(table: pa.Table, part: str, metadata: dict, file) -> None:
    """Writes a table of a part as one row group, with `metadata` in the footer."""
    scalars = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    with pq.ParquetWriter(file, table.schema, write_statistics=scalars, **writer_options(part)) as writer:
        writer.write_table(table, row_group_size=table.num_rows)
        writer.add_key_value_metadata(metadata)


def find_rows(files: Iterable, image_ids: Iterable[str]) -> dict[str, dict]:
    """{image id: row} out of some Parquet files, by path or open. Raises KeyError if an image is in none of them.

    Reads some rows at a time, and of a file no more than up to the last row that is wanted: those of a card come early.
    """
    found, left = {}, set(image_ids)
    for file in files:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
            wanted = left.intersection(parquet.read(columns=["image_id"], use_threads=False)["image_id"].to_pylist())
            for batch in parquet.iter_batches(8, use_threads=False) if wanted else ():
                for i, image_id in enumerate(batch["image_id"].to_pylist()):
                    if image_id in wanted and image_id not in found:
                        found[image_id] = batch.slice(i, 1).to_pylist()[0]
                if wanted <= found.keys():
                    break
            left -= wanted
    if left:
        raise KeyError(f"no row {min(left)}")
    return found


def _entry(data):
    footer = entry_of(pq.read_metadata(pa.BufferReader(data)))
    order = ("rows", "bytes", "data_bytes", "sha256", "key", "content")
    values = {**footer, "bytes": data.size, "sha256": hashlib.sha256(data).hexdigest()}
    return {name: values[name] for name in order}


def entry_of(footer: pq.FileMetaData) -> dict:
    """What the footer of a file tells of its manifest entry. Raises ValueError if this project did not write it."""
    if not {KEY, ROWS} <= set(footer.metadata or ()) or not footer.num_row_groups:
        raise ValueError(f"its footer has no {KEY.decode()}, which this project writes")
    return {
        "rows": footer.num_rows,
        "data_bytes": footer.row_group(0).total_byte_size,
        "key": footer.metadata[KEY].decode(),
        "content": hashlib.sha256(footer.metadata[ROWS]).hexdigest(),
    }
