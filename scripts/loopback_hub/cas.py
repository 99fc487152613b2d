"""Xet storage: xorbs and shards on disk as they were uploaded, decoded only when a file is read.

The formats are those of the public Xet specification (hub-docs, docs/xet: xorb.md, shard.md, api.md). Shards are the
only record of files and chunks; the lookup tables are made from them at every start.
"""

import hashlib
import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lz4.frame

from .store import Disk, HubError

SHARD_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
SHARD_HEADER = struct.Struct("<32sQQ")
SHARD_ENTRY = struct.Struct("<32s4I")
SHARD_FOOTER = struct.Struct("<9Q32s12Q")
BOOKEND = b"\xff" * 32 + bytes(16)
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30
NO_EXPIRY = 2**64 - 1
CHUNK_HEADER = 8


class Chunk(NamedTuple):
    """Where a chunk lies in its xorb (behind its header) and how it is packed."""

    start: int
    packed: int
    scheme: int
    length: int


class Term(NamedTuple):
    """A run of chunks [start, end) of one xorb, `length` bytes when unpacked."""

    xorb: str
    length: int
    start: int
    end: int


class XetFile(NamedTuple):
    terms: list[Term]
    size: int
    sha256: str | None


class Span(NamedTuple):
    """The part of a term that a byte range needs; `offset` is where it begins in the file."""

    xorb: str
    start: int
    end: int
    offset: int
    chunks: list[Chunk]


def hash_text(raw: bytes) -> str:
    """Hashes are written as four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def parse_xorb(data: bytes) -> list[Chunk]:
    position, chunks = 0, []
    while position < len(data):
        header = data[position : position + CHUNK_HEADER]
        if len(header) < CHUNK_HEADER or header[0] != 0 or header[4] > 2:
            raise HubError(400, "Malformed xorb: bad chunk header")
        packed, length = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
        chunks.append(Chunk(position + CHUNK_HEADER, packed, header[4], length))
        position += CHUNK_HEADER + packed
    if position != len(data):
        raise HubError(400, "Malformed xorb: cut off")
    return chunks


@lru_cache(maxsize=512)
def chunk_table(path: Path) -> list[Chunk]:
    return parse_xorb(path.read_bytes())


def unpack_chunk(chunk: Chunk, packed: bytes) -> bytes:
    data = lz4.frame.decompress(packed) if chunk.scheme else packed
    if chunk.scheme == 2:
        data = ungroup_bytes(data)
    if len(data) != chunk.length:
        raise HubError(500, "A stored chunk has the wrong length")
    return data


def ungroup_bytes(grouped: bytes) -> bytes:
    """Undo the byte grouping: the first bytes of all words, then the second, third and fourth ones."""
    data, position = bytearray(len(grouped)), 0
    for lane in range(4):
        size = len(range(lane, len(grouped), 4))
        data[lane::4] = grouped[position : position + size]
        position += size
    return bytes(data)


def parse_shard(data: bytes) -> tuple[dict[str, XetFile], dict[str, list[str]], bytes]:
    """The files of a shard, the chunk hashes of its xorbs, and its xorb section as it stands."""
    try:
        tag, version, footer_size = SHARD_HEADER.unpack_from(data)
        if tag != SHARD_TAG or version != 2:
            raise HubError(400, "Not a shard")
        entries = (len(data) - footer_size - SHARD_HEADER.size) // SHARD_ENTRY.size
        rows = SHARD_ENTRY.iter_unpack(data[SHARD_HEADER.size : SHARD_HEADER.size + entries * SHARD_ENTRY.size])
        files, file_rows = read_file_section(rows)
        xorbs, xorb_rows = read_xorb_section(rows)
    except (struct.error, StopIteration) as error:
        raise HubError(400, "Malformed shard: cut off") from error
    section = SHARD_HEADER.size + file_rows * SHARD_ENTRY.size
    return files, xorbs, data[section : section + xorb_rows * SHARD_ENTRY.size]


def read_file_section(rows: Iterator[tuple]) -> tuple[dict[str, XetFile], int]:
    files, count = {}, 1
    while (header := next(rows))[0] != BOOKEND[:32]:
        raw, flags, entries = header[:3]
        terms = [Term(hash_text(xorb), *place) for xorb, _, *place in islice(rows, entries)]
        verification = entries if flags & WITH_VERIFICATION else 0
        metadata = 1 if flags & WITH_METADATA else 0
        trailer = list(islice(rows, verification + metadata))
        sha256 = hash_text(trailer[-1][0]) if metadata else None
        files[hash_text(raw)] = XetFile(terms, sum(term.length for term in terms), sha256)
        count += 1 + entries + verification + metadata
    return files, count


def read_xorb_section(rows: Iterator[tuple]) -> tuple[dict[str, list[str]], int]:
    xorbs, count = {}, 1
    while (header := next(rows))[0] != BOOKEND[:32]:
        xorbs[hash_text(header[0])] = [hash_text(row[0]) for row in islice(rows, header[2])]
        count += 1 + header[2]
    return xorbs, count


def dedup_shard(xorb_section: bytes) -> bytes:
    """A shard that tells a client which chunks are here: no files, the xorb section, and a footer."""
    head = SHARD_HEADER.pack(SHARD_TAG, 2, SHARD_FOOTER.size) + BOOKEND
    end = len(head) + len(xorb_section)
    no_lookups, no_key, created, unused = (end, 0) * 3, bytes(32), 0, (0,) * 9
    sections = (SHARD_HEADER.size, len(head))
    footer = SHARD_FOOTER.pack(1, *sections, *no_lookups, no_key, created, NO_EXPIRY, *unused, end)
    return head + xorb_section + footer


def checked(pieces: Iterator[bytes], sha256: str) -> Iterator[bytes]:
    """Pass the pieces on, but the last one only if the whole has this sha256."""
    digest, held = hashlib.sha256(), b""
    for piece in pieces:
        digest.update(piece)
        yield held
        held = piece
    if digest.hexdigest() != sha256:
        raise HubError(500, "A stored file does not have the sha256 that its shard says")
    yield held


class Cas:
    """The content-addressed storage behind Xet uploads and downloads."""

    def __init__(self, disk: Disk):
        self.disk = disk
        self.files: dict[str, XetFile] = {}
        self.by_sha256: dict[str, str] = {}
        self.shard_of_chunk: dict[str, Path] = {}
        for path in sorted((disk.root / "shards").glob("*")):
            self._index(path, *parse_shard(path.read_bytes())[:2])

    def xorb_path(self, xorb: str) -> Path:
        return self.disk.root / "xorbs" / xorb[:2] / xorb

    def _index(self, path: Path, files: dict[str, XetFile], xorbs: dict[str, list[str]]) -> None:
        self.files.update(files)
        self.by_sha256.update({file.sha256: name for name, file in files.items() if file.sha256})
        for chunks in xorbs.values():
            self.shard_of_chunk.update(dict.fromkeys(chunks, path))

    def add_xorb(self, xorb: str, temporary: Path) -> bool:
        """Take in an uploaded xorb; False when it was here already."""
        parse_xorb(temporary.read_bytes())
        if self.xorb_path(xorb).exists():  # maybe packed in another way: what is read now must not change
            temporary.unlink()
            return False
        self.disk.publish(temporary, self.xorb_path(xorb))
        return True

    def add_shard(self, data: bytes) -> None:
        files, xorbs, _ = parse_shard(data)
        for file in files.values():
            for term in file.terms:
                if sum(chunk.length for chunk in self.term_chunks(term)) != term.length:
                    raise HubError(400, f"Shard refused: a term does not fit xorb {term.xorb}")
        if any(not self.xorb_path(xorb).exists() for xorb in xorbs):
            raise HubError(400, "Shard refused: it names a xorb that is not here")
        path = self.disk.root / "shards" / hashlib.sha256(data).hexdigest()
        self.disk.write(path, data)
        self._index(path, files, xorbs)

    def term_chunks(self, term: Term) -> list[Chunk]:
        if not self.xorb_path(term.xorb).exists():
            raise HubError(400, f"No such xorb: {term.xorb}")
        return chunk_table(self.xorb_path(term.xorb))[term.start : term.end]

    def dedup_answer(self, chunk: str) -> bytes | None:
        """What the global deduplication query answers: the xorbs uploaded together with a chunk."""
        path = self.shard_of_chunk.get(chunk)
        return dedup_shard(parse_shard(path.read_bytes())[2]) if path else None

    def spans(self, file: XetFile, start: int, stop: int) -> Iterator[Span]:
        """The runs of whole chunks that hold the bytes [start, stop) of a file."""
        position = 0
        for term in file.terms:
            term_end = position + term.length
            if term_end > start and position < stop:
                yield self._trim(term, position, start, stop)
            position = term_end

    def _trim(self, term: Term, position: int, start: int, stop: int) -> Span:
        kept, first, offset = [], term.start, position
        for index, chunk in enumerate(self.term_chunks(term), term.start):
            if position + chunk.length > start and position < stop:
                if not kept:
                    first, offset = index, position
                kept.append(chunk)
            position += chunk.length
        return Span(term.xorb, first, first + len(kept), offset, kept)

    def read(self, file: XetFile, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, put together from its chunks; a whole file is checked on the way."""
        pieces = self._read(file, start, stop)
        return checked(pieces, file.sha256) if file.sha256 and (start, stop) == (0, file.size) else pieces

    def _read(self, file: XetFile, start: int, stop: int) -> Iterator[bytes]:
        for span in self.spans(file, start, stop):
            position = span.offset
            with self.xorb_path(span.xorb).open("rb") as xorb:
                for chunk in span.chunks:
                    xorb.seek(chunk.start)
                    data = unpack_chunk(chunk, xorb.read(chunk.packed))
                    yield data[max(0, start - position) : stop - position]
                    position += chunk.length

    def reconstruction(self, file: XetFile, start: int, stop: int, address, version: str) -> dict:
        """How a client puts a byte range together: terms, and where to fetch the packed chunks (`address(xorb)`)."""
        terms, fetches = [], {}
        spans = list(self.spans(file, start, stop))
        for span in spans:
            chunks, last = {"start": span.start, "end": span.end}, span.chunks[-1]
            place = {"start": span.chunks[0].start - CHUNK_HEADER, "end": last.start + last.packed - 1}
            terms.append({"hash": span.xorb, "unpacked_length": sum(c.length for c in span.chunks), "range": chunks})
            if version == "v1":
                entry = {"url": address(span.xorb), "range": chunks, "url_range": place}
            else:
                entry = {"url": address(span.xorb), "ranges": [{"chunks": chunks, "bytes": place}]}
            if entry not in fetches.setdefault(span.xorb, []):
                fetches[span.xorb].append(entry)
        answer = {"offset_into_first_range": start - spans[0].offset, "terms": terms}
        return {**answer, "fetch_info" if version == "v1" else "xorbs": fetches}
