"""HyperKvasir, the largest open set of gastrointestinal endoscopy images, as a Hugging Face datasets builder.

    from hyper_kvasir import HyperKvasir

    builder = HyperKvasir(config_name="segmented", data_dir="archives")  # without data_dir: downloads
    builder.download_and_prepare()
    builder.as_dataset(split="train")[0]

The module says what the dataset is, and reads top to bottom: taxonomy, sources, the numbers to expect, configs and
features, reading an archive, planning rows into parts, making rows, the builder. How it gets to people (building a Hub
repository in parallel, verifying, publishing) is in `scripts/`.

Facts are from the official archives, https://datasets.simula.no/hyper-kvasir/, and the paper,
https://doi.org/10.1038/s41597-020-00622-y.
"""

import csv
import dataclasses
import fnmatch
import functools
import hashlib
import io
import json
import os
import posixpath
import re
import stat
import zipfile
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import datasets
import fsspec
import numpy as np
import pyarrow as pa
from PIL import Image

try:  # inflates a third faster, where it is installed
    from isal import isal_zlib as zlib
except ImportError:
    import zlib

logger = datasets.logging.get_logger(__name__)

VERSION = datasets.Version("1.0.0")

HOMEPAGE = "https://datasets.simula.no/hyper-kvasir/"
LICENSE = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
DESCRIPTION = """\
HyperKvasir is the largest open set of images of gastrointestinal endoscopy, taken in routine gastro- and colonoscopies
at Bærum Hospital, Norway: 10,662 labeled images (23 findings in 4 categories and 2 tracts), 1,000 polyps with
segmentation masks and bounding boxes, and 99,417 unlabeled images. Image bytes are those of the official archives."""
CITATION = """\
@article{Borgli2020,
  author  = {Borgli, Hanna and Thambawita, Vajira and Smedsrud, Pia H and Hicks, Steven and Jha, Debesh and
             Eskeland, Sigrun L and Randel, Kristin Ranheim and Pogorelov, Konstantin and Lux, Mathias and
             Nguyen, Duc Tien Dang and Johansen, Dag and Griwodz, Carsten and Stensland, H{\\aa}kon K and
             Garcia-Ceja, Enrique and Schmidt, Peter T and Hammer, Hugo L and Riegler, Michael A and
             Halvorsen, P{\\aa}l and de Lange, Thomas},
  title   = {{HyperKvasir, a comprehensive multi-class image and video dataset for gastrointestinal endoscopy}},
  journal = {Scientific Data},
  volume  = {7},
  number  = {1},
  pages   = {283},
  year    = {2020},
  doi     = {10.1038/s41597-020-00622-y},
  url     = {https://doi.org/10.1038/s41597-020-00622-y}
}"""


# ---------------------------------------------------------------------------------------------------------- taxonomy


class Finding(NamedTuple):
    """One of the 23 classes. `spellings` are other names in use for it, the official split csv's first."""

    name: str  # the folder name in the archive, and the class name here
    category: str
    tract: str
    count: int  # labeled images in the official archive
    spellings: Tuple[str, ...] = ()


_LOWER, _UPPER = "lower-gi-tract", "upper-gi-tract"
_LANDMARK, _PATHOLOGICAL = "anatomical-landmarks", "pathological-findings"
_QUALITY, _THERAPEUTIC = "quality-of-mucosal-views", "therapeutic-interventions"

# The order is part of the public interface: it gives the class numbers.
TAXONOMY = (
    Finding("cecum", _LANDMARK, _LOWER, 1009, ("normal-cecum",)),
    Finding("ileum", _LANDMARK, _LOWER, 9),
    Finding("retroflex-rectum", _LANDMARK, _LOWER, 391),
    Finding("hemorrhoids", _PATHOLOGICAL, _LOWER, 6, ("hemorroids",)),
    Finding("polyps", _PATHOLOGICAL, _LOWER, 1028, ("polyp",)),
    Finding("ulcerative-colitis-grade-0-1", _PATHOLOGICAL, _LOWER, 35),
    Finding("ulcerative-colitis-grade-1", _PATHOLOGICAL, _LOWER, 201),
    Finding("ulcerative-colitis-grade-1-2", _PATHOLOGICAL, _LOWER, 11),
    Finding("ulcerative-colitis-grade-2", _PATHOLOGICAL, _LOWER, 443),
    Finding("ulcerative-colitis-grade-2-3", _PATHOLOGICAL, _LOWER, 28),
    Finding("ulcerative-colitis-grade-3", _PATHOLOGICAL, _LOWER, 133),
    Finding("bbps-0-1", _QUALITY, _LOWER, 646),
    Finding("bbps-2-3", _QUALITY, _LOWER, 1148),
    Finding("impacted-stool", _QUALITY, _LOWER, 131),
    Finding("dyed-lifted-polyps", _THERAPEUTIC, _LOWER, 1002),
    Finding("dyed-resection-margins", _THERAPEUTIC, _LOWER, 989),
    Finding("pylorus", _LANDMARK, _UPPER, 999, ("normal-pylorus",)),
    Finding("retroflex-stomach", _LANDMARK, _UPPER, 764),
    Finding("z-line", _LANDMARK, _UPPER, 932, ("normal-z-line",)),
    Finding("barretts", _PATHOLOGICAL, _UPPER, 41),
    Finding("barretts-short-segment", _PATHOLOGICAL, _UPPER, 53, ("short-segment-barretts",)),
    Finding("esophagitis-a", _PATHOLOGICAL, _UPPER, 403, ("oesophagitis-a",)),
    Finding("esophagitis-b-d", _PATHOLOGICAL, _UPPER, 260, ("oesophagitis-b-d",)),
)
FINDINGS = [finding.name for finding in TAXONOMY]
CATEGORIES = [_LANDMARK, _PATHOLOGICAL, _THERAPEUTIC, _QUALITY]
TRACTS = [_LOWER, _UPPER]
FOLDS = (2, 5)  # the official cross-validation splits
POLYPS = FINDINGS.index("polyps")

_FINDING_OF = {name: i for i, f in enumerate(TAXONOMY) for name in (f.name, *f.spellings)}
_ORGANS = {_LOWER: "Lower GI", _UPPER: "Upper GI"}  # the words of image-labels.csv


# ----------------------------------------------------------------------------------------------------------- sources

_MIRROR = "hf://datasets/SimulaMet-HOST/HyperKvasir/"
_ORIGIN = "https://datasets.simula.no/downloads/hyper-kvasir/"
_SPLITS = (
    "https://raw.githubusercontent.com/simula/hyper-kvasir/5ae933bb612b25046b10e86b01660d2d7909ab65/official_splits/"
)


class Source(NamedTuple):
    """An official file: its addresses in order of preference, and its size in bytes and sha256 where known."""

    file: str
    addresses: Tuple[str, ...]
    bytes: Optional[int] = None
    sha256: Optional[str] = None


def _archive(part, *known):
    # The mirror first: the origin serves some 300 KB/s and omits its intermediate certificate, so Python refuses it.
    file = f"hyper-kvasir-{part}-images.zip"
    return Source(file, (_MIRROR + file, _ORIGIN + file), *known)


SOURCES = {
    "labeled": _archive("labeled", 3_928_814_344, "c603449b1bc0be86948b11d9aea8b2002058a11e6f5499e2a384b9ae9c8dbd3f"),
    "segmented": _archive("segmented", 46_179_365, "4463011f991dcdc74ec56399788b1a93822593f17ed18a662bdeb7392ffcdd9a"),
    "unlabeled": _archive("unlabeled"),
    "fold_2": Source(
        "2_fold_split.csv",
        (_SPLITS + "2_fold_split.csv",),
        621_410,
        "e9bc264da8dd4ce5ebd6654080eb9ec8a00fd28c3d03a75a2c80b1eb5a096c06",
    ),
    "fold_5": Source(
        "5_fold_split.csv",
        (_SPLITS + "5_fold_split.csv",),
        621_410,
        "0230b465bdf73c23e949c74e1d4d68c4905a758195ea6b69b10f32c71a3be426",
    ),
}
FULL_ARCHIVE = "hyper-kvasir.zip"  # all parts side by side, and the videos, which are not part of this dataset


@dataclasses.dataclass(frozen=True)
class Expected:
    """The numbers a source and a built folder are checked against.

    `OFFICIAL` is the published dataset. A miniature for tests, or a corrected release, brings its own in a JSON file of
    the same fields, `sources` being {file: {"bytes": int, "sha256": str}}; `segmented_content` is `content_digest()`.
    """

    findings: Dict[str, int]
    unlabeled: int
    segmented: int
    instances: int
    boxes: int
    fold_2: List[int]
    fold_5: List[int]
    sources: Dict[str, dict]
    segmented_content: Optional[str] = None

    @classmethod
    def load(cls, path: Optional[str]) -> "Expected":
        """The numbers of the JSON file `path`, or the official ones. Raises ValueError for a file of another form."""
        if path is None:
            return OFFICIAL
        try:
            with open(path, encoding="utf-8") as file:
                expected = cls(**json.load(file))
            unknown = set(expected.findings) ^ set(FINDINGS)
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: not a file of expected numbers ({error}); see hyper_kvasir.Expected") from error
        if unknown:
            raise ValueError(f"{path}: 'findings' must name the 23 findings; differs in {sorted(unknown)}")
        return expected

    @property
    def labeled(self) -> int:
        return sum(self.findings.values())

    def split_rows(self, config: str) -> Dict[str, int]:
        """Rows of each split of a config."""
        by = {"tract": (TRACTS, "tract"), "category": (CATEGORIES, "category")}
        if config in by:
            names, field = by[config]
            return {
                name.replace("-", "_"): sum(self.findings[f.name] for f in TAXONOMY if getattr(f, field) == name)
                for name in names
            }
        if config in ("fold_2", "fold_5"):
            return {f"fold_{i}": rows for i, rows in enumerate(getattr(self, config))}
        return {"train": getattr(self, config)}


OFFICIAL = Expected(
    findings={finding.name: finding.count for finding in TAXONOMY},
    unlabeled=99_417,
    segmented=1_000,
    instances=1_063,
    boxes=1_071,
    fold_2=[5_324, 5_338],
    fold_5=[2_122, 2_122, 2_122, 2_122, 2_174],
    sources={s.file: {"bytes": s.bytes, "sha256": s.sha256} for s in SOURCES.values() if s.sha256},
    # The owners replaced the zip once, so the digest of its content is worth more than the container's.
    segmented_content="c9abb4fbc069dbaafff4f65d26c9e49591f6e2a57e6aded15d6c4c2e7e4edb7c",
)


# ----------------------------------------------------------------------------------------------- configs and features

# Every view is a glob over the stored files, so that no image is stored twice: a labeled file is a cell of the grid
# tract x category x fold. The same globs choose the rows of this builder and stand in the card's `configs:`.
VIEWS = {
    "labeled": {"train": "data/labeled/*/*/*.parquet"},
    "unlabeled": {"train": "data/unlabeled/*.parquet"},
    "segmented": {"train": "data/segmented/*.parquet"},
    "tract": {tract.replace("-", "_"): f"data/labeled/{tract}/*/*.parquet" for tract in TRACTS},
    "category": {category.replace("-", "_"): f"data/labeled/*/{category}/*.parquet" for category in CATEGORIES},
    "fold_2": {f"fold_{i}": f"data/labeled/*/*/fold2-{i}_*.parquet" for i in range(2)},
    "fold_5": {f"fold_{i}": f"data/labeled/*/*/*_fold5-{i}_*.parquet" for i in range(5)},
}
CONFIGS = list(VIEWS)
DEFAULT_CONFIG = "labeled"
CONFIG_DESCRIPTIONS = {
    "labeled": "All labeled images: 23 findings, with category, tract and official folds.",
    "unlabeled": "All unlabeled images, for self-supervised training.",
    "segmented": "Polyps with a binary mask, an instance map and bounding boxes.",
    "tract": "The labeled images, a split for each tract.",
    "category": "The labeled images, a split for each category.",
    "fold_2": "The labeled images, a split for each fold of the official 2-fold split.",
    "fold_5": "The labeled images, a split for each fold of the official 5-fold split.",
}


def part_of(config: str) -> str:
    """The part of the dataset ("labeled", "segmented", "unlabeled") that a config is a view of."""
    return config if config in ("segmented", "unlabeled") else "labeled"


def features_of(config: str) -> datasets.Features:
    """The columns of a config."""
    # Pixels first: what changes in an update then lies at a file's end, together, and not before its images too (of an
    # update of 10 labels, a quarter less is sent to the Hub's deduplicating storage).
    image = {"image": datasets.Image()}
    identity = {"image_id": datasets.Value("string")}
    label = {"label": datasets.ClassLabel(names=FINDINGS)}
    folds = {"fold_2": datasets.Value("int8"), "fold_5": datasets.Value("int8")}
    size = {"width": datasets.Value("int32"), "height": datasets.Value("int32")}
    if config == "unlabeled":
        return datasets.Features({**image, **identity, **size})
    if config == "segmented":
        annotation = {"mask": datasets.Image(), "instances": datasets.Image()}
        objects = datasets.Sequence(  # a struct of lists on all versions of datasets
            {
                "id": datasets.Value("int64"),
                "bbox": datasets.Sequence(datasets.Value("float32"), length=4),
                "area": datasets.Value("int64"),
                "category": datasets.ClassLabel(names=["polyp"]),
            }
        )
        return datasets.Features({**image, **annotation, **identity, "objects": objects, **label, **folds, **size})
    groups = {"category": datasets.ClassLabel(names=CATEGORIES), "tract": datasets.ClassLabel(names=TRACTS)}
    return datasets.Features({**image, **identity, **label, **groups, **folds, **size})


# ---------------------------------------------------------------------------------------------------------- problems


class Problem(NamedTuple):
    """Something wrong with a source. `waivable`: rows made from it are still true, so "no_checks" builds them."""

    text: str
    waivable: bool = False


class SourceError(ValueError):
    """The source cannot be used as it is; `problems` (a list of str) says all that was found."""

    def __init__(self, problems: Sequence[str]):
        super().__init__(list(problems))
        self.problems = list(problems)

    def __str__(self):
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems):,} problems in the source:\n" + "\n".join(f"- {text}" for text in self.problems)


def settle(problems: Sequence[Problem], checks: bool) -> List[str]:
    """Raise SourceError with all problems; with `checks` off, only if one cannot be waived.

    Returns what was waived, to be told to the user.
    """
    if problems and (checks or not all(problem.waivable for problem in problems)):
        raise SourceError([problem.text for problem in problems])
    return [problem.text for problem in problems]


def _few(names: Sequence[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


# ---------------------------------------------------------------------------------------------------------- archives

MAX_MEMBER_BYTES = 64 << 20  # the largest official image has under 2 MB; more is damage or an attack
_TOO_LARGE = f"more than any file of this dataset (at most {MAX_MEMBER_BYTES:,})"
_CLUTTER = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}
IMAGE_NAME = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.jpg")


class Archive(NamedTuple):
    """Where the files of a part lie: a zip (local path or address) or an extracted folder."""

    path: str
    zipped: bool
    file: str  # its official name, also where a cache keeps it under another

    def __str__(self):
        return self.path


class Member(NamedTuple):
    """A file in an archive. `start`, `end`: the byte range of its local header and data in the zip."""

    name: str  # within the archive
    size: int
    crc: Optional[int] = None  # CRC-32; of a folder's file known only once it is read
    method: int = zipfile.ZIP_STORED
    start: int = 0
    end: int = 0


def list_members(archive: Archive, part: str, problems: List[Problem]) -> Dict[str, Member]:
    """Members of a part by their path below its folder, e.g. "images/<uuid>.jpg" of "segmented-images/".

    Clutter of operating systems is passed over. What makes a zip unsafe or unreadable goes to `problems`.
    """
    return (_list_zip if archive.zipped else _list_folder)(archive, part, problems)


def _is_clutter(name):
    pieces = name.split("/")
    return not _CLUTTER.isdisjoint(pieces) or pieces[-1].startswith("._")


def _list_folder(archive, part, problems):
    members = {}
    root = os.path.join(archive.path, f"{part}-images")
    for above, folders, files in sorted(os.walk(root)):
        linked = [folder for folder in folders if os.path.islink(os.path.join(above, folder))]
        for entry in sorted(files + linked):
            path = os.path.join(above, entry)
            name = os.path.relpath(path, root).replace(os.sep, "/")
            if _is_clutter(name):
                continue
            wrong = _unreadable(path)
            if wrong:
                problems.append(Problem(f"{path} {wrong}"))
            else:
                inside = os.path.relpath(path, archive.path).replace(os.sep, "/")
                members[name] = Member(inside, os.path.getsize(path))
    return members


def _unreadable(path):
    """Why a file of a folder is refused, or None. Links to files are followed: caches link the files that they keep."""
    if not os.path.exists(path):
        return "is a link to nothing; remove it, or put the file there"
    if os.path.isdir(path):
        return "is a link to a folder; put the folder itself there"
    if not os.path.isfile(path):
        return "is not a regular file; remove it"
    if os.path.getsize(path) > MAX_MEMBER_BYTES:
        return f"has {os.path.getsize(path):,} bytes, {_TOO_LARGE}; remove it, or extract the archive again"
    return None


def _list_zip(archive, part, problems):
    infos, directory_start = _zip_directory(archive.path)
    starts = sorted({info.header_offset for info in infos} | {directory_start})
    end_of = dict(zip(starts, starts[1:]))
    inside = re.compile(rf"(?:[^/]+/)?{part}-images/(.+)")  # copies may have one folder around all
    members, seen = {}, set()
    for info in infos:
        # orig_filename: zipfile cuts filename at a NUL and turns backslashes round
        name = info.orig_filename
        if _is_clutter(name):
            continue
        wrong = _unsafe(info, name, name in seen)
        seen.add(name)
        match = inside.fullmatch(name)
        if match and not wrong:
            wrong = _implausible(info, end_of.get(info.header_offset, 0))
        if match and not wrong and match[1] in members:
            wrong = f"is the same file as {members[match[1]].name!r}"
        if wrong:
            problems.append(Problem(f"{archive}: member {name!r} {wrong}; the archive is refused, download it again"))
        elif match and not info.is_dir():
            span = info.header_offset, end_of[info.header_offset]
            members[match[1]] = Member(name, info.file_size, info.CRC, info.compress_type, *span)
    return members


def _zip_directory(path):
    """The entries of a zip's directory, and the offset where it starts. Reads some MB at most, also of a remote zip."""
    with open(path, "rb") as file:
        what = _not_a_zip(file.read(512))
        if what:
            raise SourceError([f"{path}: {what}; expected an official archive, download it again"])
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            size = file.seek(0, os.SEEK_END)
            known = OFFICIAL.sources.get(posixpath.basename(path), {}).get("bytes")
            expected = f", the official archive {known:,}" if known else ""
            raise SourceError(
                [f"{path}: truncated or damaged zip ({error}); it has {size:,} bytes{expected}; download it again"]
            ) from error


def _not_a_zip(head):
    """What a file is that begins with `head`, if not a zip; or None."""
    if head.startswith(b"PK"):
        return None
    if head.lstrip()[:1] == b"<":
        return "is an HTML page in place of a zip file (a failed download, or a login page)"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer in place of a zip file (fetch it with git lfs pull)"
    return "is not a zip file" if head else "is empty"


def _unsafe(info, name, duplicate):
    """Why a name or kind of member is refused, or None."""
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "has an absolute name"
    if ".." in name.replace("\\", "/").split("/"):
        return "has '..' in its name"
    if "\\" in name or "\0" in name:
        return "has a backslash or NUL in its name"
    if duplicate:
        return "stands twice in the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link"
    if info.flag_bits & 0x1:
        return "is encrypted"
    return None


def _implausible(info, end):
    """Why the sizes or the compression that a member claims are refused, or None."""
    if info.file_size > MAX_MEMBER_BYTES:
        return f"claims {info.file_size:,} bytes, {_TOO_LARGE}"
    if info.header_offset < 0 or info.header_offset + 30 + info.compress_size > end:
        return "claims bytes that lie outside of the archive or in the next member"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}; expected stored or deflated"
    return None


def read_member(archive: Archive, member: Member) -> bytes:
    """The bytes of a member, its size and (where known) CRC checked. Raises SourceError naming it."""
    if archive.zipped:
        data = _inflate(archive, member, _read_range(archive.path, member.start, member.end - member.start))
    else:
        with open(os.path.join(archive.path, *member.name.split("/")), "rb") as file:
            data = file.read(MAX_MEMBER_BYTES + 1)
    if len(data) != member.size:
        raise SourceError([f"{archive}: {member.name}: has {len(data):,} bytes, expected {member.size:,}"])
    if member.crc is not None and zlib.crc32(data) != member.crc:
        raise SourceError(
            [f"{archive}: {member.name}: CRC is {zlib.crc32(data):08x}, expected {member.crc:08x}; the file is damaged"]
        )
    return data


def _inflate(archive, member, span):
    name_length, extra_length = int.from_bytes(span[26:28], "little"), int.from_bytes(span[28:30], "little")
    encoding = "utf-8" if span[7:8] and span[7] & 0x08 else "cp437"  # by a flag, as zipfile reads the directory
    name = span[30 : 30 + name_length].decode(encoding, "replace")
    if span[:4] != b"PK\x03\x04" or name != member.name:
        raise SourceError([f"{archive}: {member.name}: the zip's directory points to something else; it is damaged"])
    body = memoryview(span)[30 + name_length + extra_length :]
    if member.method == zipfile.ZIP_STORED:
        return bytes(body[: member.size])
    try:  # never more than one byte over the claimed size
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, member.size + 1)
    except zlib.error as error:
        raise SourceError([f"{archive}: {member.name}: cannot be inflated ({error}); the file is damaged"]) from error


def _read_range(path, start, length):
    """Bytes of a local or remote file; one Range request each of a remote one."""
    if "://" not in path:
        with open(path, "rb", buffering=0) as file:  # anew each time: the user may have put a better one in its place
            file.seek(start)
            return file.read(length)
    file = _opened(path, os.getpid())
    file.seek(start)
    return file.read(length)


@functools.lru_cache(maxsize=4)
def _opened(path, pid):
    # By process, so that no worker shares a file position or connection. No read-ahead: members lie anywhere.
    return fsspec.open(path, "rb", cache_type="none").open()


# --------------------------------------------------------------------------------------------------- finding sources


def _folder_of(path):
    """The folder of a source, which may be given as the zip in it."""
    return os.path.dirname(os.path.abspath(path)) if os.path.isfile(path) else path


def find_archive(part: str, folders: Sequence[str]) -> Optional[Archive]:
    """The archive of a part in the folders that the user gave, or None.

    Zips come before extracted folders, since their digest can be checked.
    """
    for folder in folders:
        for file in (SOURCES[part].file, FULL_ARCHIVE):
            path = folder if os.path.basename(folder) == file else os.path.join(folder, file)
            if os.path.isfile(path) and (file != FULL_ARCHIVE or _holds_part(path, part)):
                return Archive(path, True, file)
        for inner in ("", f"hyper-kvasir-{part}-images", "hyper-kvasir"):
            root = os.path.join(folder, inner) if inner else folder
            if os.path.isdir(os.path.join(root, f"{part}-images")):
                return Archive(root, False, f"{part}-images/")
    return None


def _holds_part(path, part):
    return any(re.match(rf"(?:[^/]+/)?{part}-images/.", info.filename) for info in _zip_directory(path)[0])


def missing_archive(part: str, folders: Sequence[str]) -> str:
    """What to tell the user whose folders do not hold a part: which file, from where, to which folder."""
    source = SOURCES[part]
    web = [
        address.replace(_MIRROR, "https://huggingface.co/datasets/SimulaMet-HOST/HyperKvasir/resolve/main/")
        for address in source.addresses
    ]
    return (
        f"the {part} part is missing: no {source.file}, {FULL_ARCHIVE} with {part}-images/, or extracted folder "
        f"{part}-images/ in {', '.join(map(str, folders))}. Download {web[0]} (or {web[1]}) to {_folder_of(folders[0])}"
    )


def fingerprint(archive: Archive, part: str, members: Dict[str, Member]) -> dict:
    """What tells a source from another: {"file", "bytes", "sha256"} of a zip, "content" of the segmented part.

    Reads the archive whole: some 1.3 GB a second from a warm cache.
    """
    found = {"file": archive.file}
    if archive.zipped:
        found["bytes"] = os.path.getsize(archive.path)
        found["sha256"] = file_sha256(archive.path)
    if part == "segmented":
        found["content"] = content_digest(archive, members)
    return found


def file_sha256(path: str) -> str:
    """sha256 of a local file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def content_digest(archive: Archive, members: Dict[str, Member]) -> str:
    """sha256 over the lines "<path> <sha256 of the file>" of images/*, then masks/*, each sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(name for name in members if name.startswith(("images/", "masks/"))):
        digest.update(f"{name} {hashlib.sha256(read_member(archive, members[name])).hexdigest()}\n".encode())
    return digest.hexdigest()


def check_fingerprint(archive: Archive, found: dict, expected: Expected) -> List[Problem]:
    """A fingerprint against what is known of the official file. A known content outweighs its container."""
    known = expected.sources.get(archive.file)
    if "content" in found and expected.segmented_content:
        good = found["content"] == expected.segmented_content
        what = f"content digest {found['content']}, expected {expected.segmented_content}"
    elif "sha256" in found and known:
        good = found["sha256"] == known["sha256"]
        what = (
            f"{found['bytes']:,} bytes with sha256 {found['sha256']}, expected {known['bytes']:,} bytes with sha256 "
            f"{known['sha256']}"
        )
    else:
        return []
    if good:
        return []
    advice = "download it again, or give the folder extracted from it if you zipped it anew"
    return [Problem(f"{archive}: not the official {archive.file}: {what}; {advice}", waivable=True)]


# -------------------------------------------------------------------------------------------------------------- rows


class Fold(NamedTuple):
    """What the official split csvs say of an image."""

    label: int
    fold_2: Optional[int]
    fold_5: Optional[int]


class Row(NamedTuple):
    """An example before its bytes are read."""

    image_id: str
    image: Member
    label: Optional[int] = None
    fold_2: Optional[int] = None
    fold_5: Optional[int] = None
    mask: Optional[Member] = None
    boxes: Tuple[Tuple[int, int, int, int], ...] = ()  # xmin, ymin, xmax, ymax in pixels, as in the source
    size: Optional[Tuple[int, int]] = None  # width, height in pixels that bounding-boxes.json claims


def read_folds(texts: Dict[int, str], expected: Expected, problems: List[Problem]) -> Dict[str, Fold]:
    """The official folds by image id. `texts`: the content of `2_fold_split.csv` and `5_fold_split.csv` by 2 and 5.

    A csv that is not there leaves its folds None.
    """
    tables = {k: _read_fold_csv(f"{k}_fold_split.csv", k, text, problems) for k, text in texts.items()}
    for k, table in tables.items():
        official = getattr(expected, f"fold_{k}")
        found = [sum(fold == i for _, fold in table.values()) for i in range(k)]
        if found != official:
            problems.append(Problem(f"{k}_fold_split.csv: folds of {found} images, expected {official}", waivable=True))
    folds = {}
    for image_id in sorted(set().union(*tables.values())):
        entries = {k: table[image_id] for k, table in tables.items() if image_id in table}
        labels = {label for label, _ in entries.values()}
        if len(labels) > 1:
            names = " and ".join(sorted(FINDINGS[label] for label in labels))
            problems.append(Problem(f"{image_id}: the two fold csvs disagree: {names}"))
        folds[image_id] = Fold(min(labels), *(entries[k][1] if k in entries else None for k in FOLDS))
    return folds


def _read_fold_csv(file, k, text, problems):
    """{image id: (label, fold)}"""
    lines = _csv_lines(text, ";", file, problems)
    header = ["file-name", "class-name", "split-index"]
    if not lines or lines[0] != header:
        problems.append(Problem(f"{file}: starts with {lines[:1]}, expected the header {';'.join(header)}"))
        return {}
    table = {}
    for number, line in enumerate(lines[1:], start=2):
        name, finding, fold = (*line, "", "", "")[:3]
        match = IMAGE_NAME.fullmatch(name)
        if not line:  # an empty line
            continue
        if not match:
            problems.append(Problem(f"{file}, line {number}: {name!r} is no image name; expected <uuid>.jpg"))
        elif finding not in _FINDING_OF:
            problems.append(Problem(f"{file}, line {number}: unknown class name {finding!r}; expected one of the 23"))
        elif fold not in map(str, range(k)):
            problems.append(Problem(f"{file}, line {number}: split index {fold!r}; expected 0 to {k - 1}"))
        elif match[1] in table:
            problems.append(Problem(f"{file}, line {number}: {name} stands twice"))
        else:
            table[match[1]] = _FINDING_OF[finding], int(fold)
    return table


def _csv_lines(text, delimiter, where, problems):
    try:
        return list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        problems.append(Problem(f"{where}: not a csv file ({error}); download it again"))
        return []


def read_rows(
    part: str,
    archive: Archive,
    members: Dict[str, Member],
    folds: Dict[str, Fold],
    expected: Expected,
    problems: List[Problem],
) -> List[Row]:
    """The rows of a part by id, from what `list_members` gave and the small files; no image is read."""
    scan = {"labeled": _labeled_rows, "segmented": _segmented_rows, "unlabeled": _unlabeled_rows}[part]
    for path, member in members.items():
        inside = "/" in path if part == "labeled" else path.startswith(("images/", "masks/"))
        if path.lower().endswith((".jpg", ".jpeg")) and not inside:
            text = f"{archive}: {member.name}: an image outside of the folders of this part; move or remove it"
            problems.append(Problem(text))
    rows = scan(archive, members, folds, expected, problems)
    return sorted(rows, key=lambda row: row.image_id)


def _image_ids(archive, members, problems, prefix=""):
    """(image id, member, the folders above it) of every file below `prefix` that is an image by its name."""
    for path, member in members.items():
        if path.startswith(prefix) and "/" in path:
            folders, _, file = path.rpartition("/")
            match = IMAGE_NAME.fullmatch(file)
            if match and prefix in ("", f"{folders}/"):
                yield match[1], member, folders
            elif match:
                text = f"{archive}: {member.name}: lies below {prefix}; expected right in it, move or remove the file"
                problems.append(Problem(text))
            else:
                text = f"{archive}: {member.name}: no image name; expected <uuid>.jpg, remove the file"
                problems.append(Problem(text))


def _labeled_rows(archive, members, folds, expected, problems):
    rows = {}
    for image_id, member, folders in _image_ids(archive, members, problems):
        tract, category, finding = (folders.split("/") + [""] * 3)[:3]
        label = _FINDING_OF.get(finding) if folders.count("/") == 2 else None
        if label is None or (tract, category) != (TAXONOMY[label].tract, TAXONOMY[label].category):
            where = f"{TAXONOMY[label].tract}/{TAXONOMY[label].category}/" if label is not None else ""
            problems.append(
                Problem(
                    f"{archive}: {member.name}: unknown finding folder {folders!r}; expected "
                    + (f"{where}{finding}" if where else "<tract>/<category>/<one of the 23 findings>")
                )
            )
        elif image_id in rows:
            both = f"{FINDINGS[rows[image_id].label]} and {FINDINGS[label]}"
            problems.append(Problem(f"{archive}: {image_id} is in two findings, {both}; keep one"))
        else:
            rows[image_id] = Row(image_id, member, label, *_folds_of(image_id, folds))
    listed = _read_labels_csv(archive, members, problems)
    _check_labels(archive, rows, listed, expected, problems)
    _check_folds(archive, rows, folds, problems)
    return rows.values()


def _folds_of(image_id, folds):
    return folds[image_id][1:] if image_id in folds else (None, None)


def _read_labels_csv(archive, members, problems):
    """{image id: label} of image-labels.csv, or None without a readable one."""
    file = "image-labels.csv"
    if file not in members:
        problems.append(Problem(f"{archive}: labeled-images/{file} is missing; it lists the labels", waivable=True))
        return None
    text = read_member(archive, members[file]).decode("utf-8-sig", "replace")
    lines = _csv_lines(text, ",", f"{archive}: {file}", problems)
    header = ["Video file", "Organ", "Finding", "Classification"]
    if not lines or lines[0] != header:
        problems.append(Problem(f"{archive}: {file}: starts with {lines[:1]}, expected the header {','.join(header)}"))
        return None
    listed = {}
    for number, line in enumerate(lines[1:], start=2):
        image_id, organ, finding, category = (*line, "", "", "", "")[:4]
        label = _FINDING_OF.get(finding)
        where = f"{archive}: {file}, line {number}"
        if not line:  # an empty line
            continue
        if label is None or len(line) != 4:
            text = f"{where}: unknown finding {finding!r} in {','.join(line)!r}; expected one of the 23"
            problems.append(Problem(text))
        elif (organ, category) != (_ORGANS[TAXONOMY[label].tract], TAXONOMY[label].category):
            of = f"{_ORGANS[TAXONOMY[label].tract]}, {TAXONOMY[label].category}"
            problems.append(Problem(f"{where}: {finding} is of {organ}, {category}; expected {of}"))
        elif image_id in listed:
            problems.append(Problem(f"{where}: {image_id} stands twice"))
        else:
            listed[image_id] = label
    return listed


def _check_labels(archive, rows, listed, expected, problems):
    """Folders against image-labels.csv, and both against the expected counts: one problem a finding."""
    for image_id in sorted(set(rows) & set(listed or ())):
        if listed[image_id] != rows[image_id].label:
            inside, in_csv = FINDINGS[rows[image_id].label], FINDINGS[listed[image_id]]
            text = f"{archive}: {image_id} is in folder {inside}, but {in_csv} in image-labels.csv; correct one of them"
            problems.append(Problem(text))
    unlisted = set(rows) - set(listed) if listed is not None else ()
    for label, finding in enumerate(FINDINGS):
        found = {image_id for image_id, row in rows.items() if row.label == label}
        absent = {image_id for image_id, listed_as in (listed or {}).items() if listed_as == label} - set(rows)
        surplus = found & set(unlisted)
        texts = []
        if len(found) != expected.findings[finding]:
            texts.append(f"{len(found):,} of {expected.findings[finding]:,} images")
        if absent:
            texts.append(f"listed in image-labels.csv but missing: {len(absent):,} ({_few(absent)})")
        if surplus:
            texts.append(f"not listed in image-labels.csv: {len(surplus):,} ({_few(surplus)})")
        if texts:
            problems.append(Problem(f"{archive}: {finding}: {'; '.join(texts)}", waivable=True))


def _check_folds(archive, rows, folds, problems):
    """Every image must be in the official folds, under its own label. Images that only the folds know are counted."""
    for image_id, row in sorted(rows.items()):
        if image_id in folds and folds[image_id].label != row.label:
            inside, in_csv = FINDINGS[row.label], FINDINGS[folds[image_id].label]
            text = f"{archive}: {image_id} is {inside}, but {in_csv} in the fold csvs; correct one of them"
            problems.append(Problem(text))
    for i, k in enumerate(FOLDS, start=1):
        without = [image_id for image_id in rows if image_id not in folds or folds[image_id][i] is None]
        if without and any(fold[i] is not None for fold in folds.values()):
            text = f"{k}_fold_split.csv: images of {archive} that it lacks: {len(without):,} ({_few(without)})"
            problems.append(Problem(text, waivable=True))


def _segmented_rows(archive, members, folds, expected, problems):
    boxes = _read_boxes(archive, members, problems)
    masks = {image_id: m for image_id, m, _ in _image_ids(archive, members, problems, "masks/")}
    images = {image_id: m for image_id, m, _ in _image_ids(archive, members, problems, "images/")}
    rows = {}
    for image_id, member in images.items():
        size, corners = (boxes or {}).get(image_id, (None, ()))
        wrong = list(_wrong_boxes(size, corners)) if boxes is not None else []
        problems += [Problem(f"{archive}: bounding-boxes.json: {image_id}: {text}") for text in wrong]
        if image_id not in masks:
            problems.append(Problem(f"{archive}: {member.name}: its mask masks/{image_id}.jpg is missing"))
        elif size and not wrong:
            rows[image_id] = Row(image_id, member, POLYPS, *_folds_of(image_id, folds), masks[image_id], corners, size)
    for what, ids in (("masks", masks), ("boxes", boxes or {})):
        alone = set(ids) - set(images)
        if alone:
            text = f"{archive}: {what} without an image: {len(alone):,} ({_few(alone)})"
            problems.append(Problem(text, waivable=True))
    found = sum(len(corners) for _, corners in (boxes or {}).values())
    for what, number, official in (("images", len(images), expected.segmented), ("boxes", found, expected.boxes)):
        if number != official:
            text = f"{archive}: segmented part: {number:,} {what}, expected {official:,}"
            problems.append(Problem(text, waivable=True))
    _check_folds(archive, rows, folds, problems)
    return rows.values()


def _read_boxes(archive, members, problems):
    """{image id: ((width, height), corner boxes)} of bounding-boxes.json, or None without a readable one."""
    file = "bounding-boxes.json"
    if file not in members:
        problems.append(Problem(f"{archive}: segmented-images/{file} is missing; download the archive again"))
        return None
    try:
        entries = json.loads(read_member(archive, members[file]))
        return {image_id: _boxes_of(entry) for image_id, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        form = '{id: {"height", "width", "bbox": [{"label": "polyp", "xmin", "ymin", "xmax", "ymax"}]}}'
        problems.append(Problem(f"{archive}: {file}: malformed ({error!r}); expected {form}"))
        return None


def _boxes_of(entry):
    corners = []
    for box in entry["bbox"]:
        if box["label"] != "polyp":
            raise ValueError(f"label {box['label']!r}")
        corners.append(tuple(_whole(box[side]) for side in ("xmin", "ymin", "xmax", "ymax")))
    return (_whole(entry["width"]), _whole(entry["height"])), tuple(corners)


def _whole(number):
    """A JSON number of pixels; boxes are kept as they are, so none is rounded."""
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number of pixels")
    return int(number)


def _wrong_boxes(size, corners):
    """What is wrong with the boxes of an image. xmax and ymax are exclusive: they may equal its width and height."""
    if not corners:
        yield "no box for this image; expected at least one polyp"
    for box in corners:
        xmin, ymin, xmax, ymax = box
        if not (0 <= xmin < xmax <= size[0] and 0 <= ymin < ymax <= size[1]):
            yield f"box {list(box)} is empty or out of bounds of {size[0]} x {size[1]} pixels"


def _unlabeled_rows(archive, members, folds, expected, problems):
    rows = [Row(image_id, member) for image_id, member, _ in _image_ids(archive, members, problems, "images/")]
    if len(rows) != expected.unlabeled:
        text = f"{archive}: unlabeled part: {len(rows):,} images, expected {expected.unlabeled:,}"
        problems.append(Problem(text, waivable=True))
    return rows


# ------------------------------------------------------------------------------------------------------------- parts

# One row group a file, for apache/arrow#45214: streaming a file of several hangs when the program ends. So files are
# kept small enough to be read at once, which also mixes and shares them better.
PART_BYTES = 64 << 20


class Part(NamedTuple):
    """One Parquet file to be: rows of one cell, sorted by image id. A pure function of these fields."""

    path: str  # in the repository
    config: str  # "labeled", "segmented" or "unlabeled"
    archive: Archive
    rows: Tuple[Row, ...]


def plan_parts(part: str, archive: Archive, rows: Sequence[Row]) -> List[Part]:
    """Rows cut into parts: by cell of tract x category x fold, then by the leading bits of the image id.

    The number of id ranges is the least power of two that keeps every part of a cell under PART_BYTES, so that a new
    image touches one file and leaves all others as they are.
    """
    cells: Dict[str, List[Row]] = {}
    for row in rows:
        cells.setdefault(_cell(part, row), []).append(row)
    parts = []
    for cell, members in sorted(cells.items()):
        ranges = _id_ranges(members)
        width = max(2, len(str(len(ranges) - 1)))
        for i, chosen in enumerate(ranges):
            if chosen:
                parts.append(Part(f"data/{part}/{cell}{i:0{width}d}.parquet", part, archive, tuple(chosen)))
    return parts


def _cell(part, row):
    if part != "labeled":
        return ""
    finding = TAXONOMY[row.label]
    folds = "_".join(f"fold{k}-{'none' if fold is None else fold}" for k, fold in zip(FOLDS, (row.fold_2, row.fold_5)))
    return f"{finding.tract}/{finding.category}/{folds}_"


def _id_ranges(rows):
    for bits in range(17):
        ranges: List[List[Row]] = [[] for _ in range(1 << bits)]
        for row in rows:
            ranges[int(row.image_id[:8], 16) >> (32 - bits)].append(row)
        if all(len(r) < 2 or sum(row.image.size for row in r) <= PART_BYTES for r in ranges):
            break
    return ranges


# ---------------------------------------------------------------------------------------------------------- examples


def read_examples(part: Part, rows: Sequence[Row], problems: List[Problem]) -> pa.Table:
    """The examples of some rows of a part as an Arrow table of the config's features; what is wrong to `problems`.

    Tables are made of Arrow structs, not by Image.encode_example: it drops the bytes where a file named like `path`
    lies in the current folder.
    """
    examples = {}
    for row in sorted(rows, key=lambda row: row.image.start):  # in the archive's order, kind to disks and Range reads
        try:
            examples[row.image_id] = _example(part, row)
        except SourceError as error:
            problems += [Problem(text) for text in error.problems]
    ordered = [examples[row.image_id] for row in rows if row.image_id in examples]
    schema = features_of(part.config).arrow_schema
    images = [_image_array(example.pop("image")) for example in ordered]
    others = schema.remove(schema.get_field_index("image"))
    table = pa.Table.from_pylist(ordered, schema=others)
    column = pa.chunked_array(images, schema.field("image").type)
    return table.add_column(schema.get_field_index("image"), schema.field("image"), column).cast(schema)


def _image_array(image):
    """A struct array of one image, on the bytes as they are: a copy of all would cost a tenth of the build."""
    data = image["bytes"]
    offsets = pa.array([0, len(data)], pa.int32()).buffers()[1]
    values = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])
    return pa.StructArray.from_arrays([values, pa.array([image["path"]])], ["bytes", "path"])


def _example(part, row):
    data = read_member(part.archive, row.image)
    width, height = _image_size(data, part.archive, row.image)
    example = {
        "image_id": row.image_id,
        "image": {"bytes": data, "path": f"{row.image_id}.jpg"},
        "label": row.label,
        "fold_2": row.fold_2,
        "fold_5": row.fold_5,
        "width": width,
        "height": height,
    }
    if part.config == "labeled":
        finding = TAXONOMY[row.label]
        example["category"] = CATEGORIES.index(finding.category)
        example["tract"] = TRACTS.index(finding.tract)
    if part.config == "segmented":
        mask = _read_mask(part.archive, row, (width, height))
        example["mask"] = {"bytes": _png(mask * np.uint8(255)), "path": f"{row.image_id}.png"}
        try:
            instances = label_components(mask)
        except ValueError as error:
            raise SourceError([f"{part.archive}: {row.mask.name}: {error}; expected some polyps at most"]) from error
        example["instances"] = {"bytes": _png(instances), "path": f"{row.image_id}.png"}
        example["objects"] = _objects(part.archive, row, (width, height))
    return example


def jpeg_size(data: bytes) -> Tuple[int, int]:
    """(width, height) in pixels of a whole JPEG. Raises ValueError for anything else, saying why."""
    if not data:
        raise ValueError("it has zero bytes")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if not data.endswith(b"\xff\xd9"):  # no end-of-image marker at the end: decoding tells whether it is whole
                image.load()
            return image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("it is not a JPEG" if "cannot identify" in str(error) else str(error)) from error


def _image_size(data, archive, member):
    try:
        return jpeg_size(data)
    except ValueError as error:
        text = f"{archive}: {member.name}: expected a whole JPEG image: {error}; download the archive again"
        raise SourceError([text]) from error


def _read_mask(archive, row, size):
    """The mask of a row as bool, height x width: JPEG noise cut at 128, a stray pixel at (0, 0) (143 masks) dropped."""
    where = f"{archive}: {row.mask.name}"
    data = read_member(archive, row.mask)
    found = _image_size(data, archive, row.mask)
    if found != size:
        raise SourceError([f"{where}: mask of {found[0]} x {found[1]} pixels, its image has {size[0]} x {size[1]}"])
    try:
        with Image.open(io.BytesIO(data)) as image:
            mask = np.asarray(image.convert("L")) >= 128
    except OSError as error:
        raise SourceError([f"{where}: cannot be decoded ({error}); download the archive again"]) from error
    if mask[:2, :2].sum() == 1:
        mask[0, 0] = False
    if not mask.any():
        raise SourceError([f"{where}: empty mask; expected at least one polyp"])
    return mask


def label_components(mask: np.ndarray) -> np.ndarray:
    """8-connected components of a bool mask: uint8 of its shape, 0 background, 1...n in order of their first pixel.

    Joins runs of pixels row by row, which for these masks is quicker than a pass over pixels. Raises ValueError beyond
    255 components.
    """
    height, width = mask.shape
    stride = width + 2  # a background pixel on both sides, so that no run crosses a row's end
    flat = np.zeros((height, stride), np.int8)
    flat[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(flat.ravel())) + 1
    starts, ends = edges[::2], edges[1::2]
    parents = list(range(len(starts)))

    def root(run):
        while parents[run] != run:
            run = parents[run]
        return run

    # Runs of the next row that touch run i, diagonals included: one contiguous range.
    first = np.searchsorted(ends, starts + stride)
    last = np.searchsorted(starts, ends + stride, side="right")
    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist())):
        for below in range(low, high):
            one, other = root(run), root(below)
            parents[max(one, other)] = min(one, other)
    numbers: Dict[int, int] = {}
    components = np.zeros(height * stride, np.uint8)
    for run, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        number = numbers.setdefault(root(run), len(numbers) + 1)
        if number > 255:
            raise ValueError("more than 255 components")
        components[start:end] = number
    return components.reshape(height, stride)[:, 1:-1]


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _objects(archive, row, size):
    """The source's boxes, [x, y, width, height] in pixels. They are kept as they are, also where the mask disagrees."""
    width, height = size
    where = f"{archive}: bounding-boxes.json: {row.image_id}"
    if row.size != size:
        raise SourceError([f"{where}: image of {row.size[0]} x {row.size[1]} pixels, expected {width} x {height}"])
    boxes = [[xmin, ymin, xmax - xmin, ymax - ymin] for xmin, ymin, xmax, ymax in row.boxes]
    return {
        "id": list(range(len(boxes))),
        "bbox": boxes,
        "area": [width * height for _, _, width, height in boxes],
        "category": [0] * len(boxes),
    }


# ----------------------------------------------------------------------------------------------------------- builder


@dataclasses.dataclass
class HyperKvasirConfig(datasets.BuilderConfig):
    """`expected`: a JSON file of the numbers to check against in place of the official ones, see `Expected`."""

    expected: Optional[str] = None

    def create_config_id(self, config_kwargs, custom_features=None):
        """The name of the cache folder: another one once the files that are read in `data_dir` changed."""
        config_id = super().create_config_id(config_kwargs, custom_features=custom_features)
        if self.data_dir is None:
            return config_id
        state = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in self._files()]
        return f"{config_id}-{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]}"

    def _files(self):
        """The paths of the files in `data_dir` that this config is made from."""
        part, csvs = part_of(self.name), [local_fold_csv(k, [self.data_dir]) for k in FOLDS]
        try:
            archive = find_archive(part, [self.data_dir])
        except SourceError:  # said when it is prepared
            archive = None
        paths = [path for path in csvs if path]
        if archive and archive.zipped:
            paths.append(archive.path)
        elif archive:
            members = list_members(archive, part, []).values()
            paths += [os.path.join(archive.path, *member.name.split("/")) for member in members]
        return paths


class HyperKvasir(datasets.ArrowBasedBuilder):
    """HyperKvasir from the official archives in `data_dir` (zips or extracted folders), else downloaded.

    `verification_mode="no_checks"` builds from partial sources and logs what is missing. Damage is never waived.
    """

    VERSION = VERSION
    BUILDER_CONFIG_CLASS = HyperKvasirConfig
    BUILDER_CONFIGS = [
        HyperKvasirConfig(name=name, version=VERSION, description=text) for name, text in CONFIG_DESCRIPTIONS.items()
    ]
    DEFAULT_CONFIG_NAME = DEFAULT_CONFIG

    # Streaming reads the archive's directory only, so it warns of an incomplete source instead of refusing it.
    _checks = False

    def _info(self):
        splits = datasets.SplitDict()
        for name, rows in Expected.load(self.config.expected).split_rows(self.config.name).items():
            splits.add(datasets.SplitInfo(name, num_examples=rows))
        return datasets.DatasetInfo(
            description=f"{DESCRIPTION}\n\n{self.config.description}",
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            features=features_of(self.config.name),
            splits=splits,
        )

    def download_and_prepare(
        self, output_dir=None, download_config=None, download_mode=None, verification_mode=None, *arguments, **settings
    ):
        super().download_and_prepare(
            output_dir, download_config, download_mode, verification_mode, *arguments, **settings
        )
        mode = datasets.VerificationMode(verification_mode or "basic_checks")
        if mode != datasets.VerificationMode.NO_CHECKS and self._fs.exists(self._unchecked()):
            text = f"{self._output_dir}: an earlier build without checks"
            raise SourceError([f'{text}; build again with download_mode="reuse_cache_if_exists"'])

    def _download_and_prepare(self, dl_manager, verification_mode, **prepare_split_kwargs):
        self._checks = datasets.VerificationMode(verification_mode) != datasets.VerificationMode.NO_CHECKS
        try:
            super()._download_and_prepare(dl_manager, verification_mode, **prepare_split_kwargs)
            if not self._checks:
                self._fs.touch(self._unchecked())
        finally:
            self._checks = False

    def _unchecked(self):
        """Lies beside what was prepared without checks, so that it is not taken for checked when found in the cache."""
        return posixpath.join(str(self._output_dir), ".unchecked")

    def _split_generators(self, dl_manager):
        expected = Expected.load(self.config.expected)
        part = part_of(self.config.name)
        problems: List[Problem] = []
        archive = self._archive(dl_manager, part)
        members = list_members(archive, part, problems)
        known = archive.zipped and archive.file in expected.sources or part == "segmented"
        if self._checks and known:
            problems += check_fingerprint(archive, fingerprint(archive, part, members), expected)
        folds = {} if part == "unlabeled" else self._folds(dl_manager, problems, expected)
        rows = read_rows(part, archive, members, folds, expected, problems)
        for text in settle(problems, self._checks):
            logger.warning(f"incomplete source: {text}")
        parts = plan_parts(part, archive, rows)
        generators = []
        for split, pattern in VIEWS[self.config.name].items():
            chosen = [p for p in parts if fnmatch.fnmatch(p.path, pattern)]
            if chosen:
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"parts": chosen}))
            else:
                logger.warning(f"incomplete source: no image for split {split!r} of {self.config.name!r}")
        if not generators:
            raise SourceError([f"{archive}: no image for any split of {self.config.name!r}"])
        return generators

    def _archive(self, dl_manager, part):
        if self.config.data_dir is None:
            return Archive(download(dl_manager, SOURCES[part]), True, SOURCES[part].file)
        archive = find_archive(part, [self.config.data_dir])
        if archive is None:
            raise SourceError([missing_archive(part, [self.config.data_dir])])
        return archive

    def _folds(self, dl_manager, problems, expected):
        folders = [self.config.data_dir] if self.config.data_dir is not None else []
        return read_folds(fold_texts(dl_manager, folders, expected, problems), expected, problems)

    def _generate_tables(self, parts):
        for number, part in enumerate(parts):
            for start in range(0, len(part.rows), 32):
                problems: List[Problem] = []
                table = read_examples(part, part.rows[start : start + 32], problems)
                if problems:
                    raise SourceError([problem.text for problem in problems])
                yield f"{number}_{start}", table


def download(dl_manager, source: Source) -> str:
    """The local path of a source (its address when streaming), from the first address that answers.

    Caching, resume, offline mode and progress bars are those of `datasets`. Raises SourceError saying what was tried.
    """
    failures = []
    for address in source.addresses:
        if failures:
            logger.warning(f"{source.file}: {failures[-1]}; trying {address}")
        try:
            path = str(dl_manager.download(address))
            _check_download(path, source)
            return path
        except Exception as error:  # each address fails in ways of its own: HTTP, TLS, DNS, the Hub's, offline mode
            failures.append(f"{address}: {type(error).__name__}: {error}")
    advice = "Download it by other means and pass its folder"
    raise SourceError([f"{source.file} could not be downloaded: {'; '.join(failures)}. {advice}"])


def _check_download(path, source):
    """Raises SourceError where something else came in place of an archive; when streaming, where nothing answers."""
    with fsspec.open(path, "rb", **({"cache_type": "none"} if "://" in path else {})) as file:
        what = _not_a_zip(file.read(512)) if source.file.endswith(".zip") else None
    if what:
        if os.path.isfile(path):
            os.remove(path)  # out of the cache, else it would be taken again
        raise SourceError([f"what came {what}"])


def fold_texts(dl_manager, folders: Sequence[str], expected: Expected, problems: List[Problem]) -> Dict[int, str]:
    """The official split csvs by their number of folds: from `folders` where they lie there, else downloaded.

    The digest of a downloaded one is checked, that of a local one where `expected` knows it.
    """
    texts = {}
    for k in FOLDS:
        source = SOURCES[f"fold_{k}"]
        try:
            local = local_fold_csv(k, folders)
            path = local or download(dl_manager, source)
            with open(path, "rb") as file:
                data = file.read()
        except SourceError as error:
            looked = ", ".join(map(str, folders)) or "no folder"
            problems.append(Problem(f"{error} (looked for in {looked})", waivable=True))
            continue
        known = expected.sources.get(source.file, {}).get("sha256") if local else source.sha256
        found = hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest()  # some tools turn line ends round
        if known and found != known:
            text = f"{path}: not the official {source.file}: sha256 {found}, expected {known}"
            advice = "remove it, and it is downloaded" if local else "download it by other means"
            problems.append(Problem(f"{text}; {advice}", waivable=bool(local)))
        texts[k] = data.decode("utf-8-sig", "replace")
    return texts


def local_fold_csv(k: int, folders: Sequence[str]) -> Optional[str]:
    """The path of the official split csv of `k` folds in the folders that the user gave, or None."""
    file = SOURCES[f"fold_{k}"].file
    paths = [os.path.join(_folder_of(f), *inner, file) for f in folders for inner in ((), ("official_splits",))]
    return next((path for path in paths if os.path.isfile(path)), None)
