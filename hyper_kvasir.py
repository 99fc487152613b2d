"""HyperKvasir, the largest open set of gastrointestinal endoscopy images, as a Hugging Face datasets builder.

    from hyper_kvasir import HyperKvasir

    builder = HyperKvasir(config_name="segmented", data_dir="archives")  # without data_dir: downloads
    builder.download_and_prepare()
    builder.as_dataset(split="train")[0]

The module has two halves. I, the dataset: what it is, and the builder. II, its archives: how they are found, checked
and read. How the dataset gets to people (building a Hub repository, verifying, publishing) is in `scripts/`.

This one file is also a loading script, by its path, for datasets 2.x and 3.x. Their loader sets these rules:
- It scans the file line by line for imports, so every import is plain, on its own line, at column 0. An import inside a
  `try` is indented, so the loader does not see it: its package must be optional.
- It copies a sibling only for `from .x import`, which a top-level module cannot use. So the module stays one file, and
  imports nothing of this project.
- It runs on Python 3.8: no newer syntax, and annotations are evaluated when the module is imported.

Facts are from the official archives, https://datasets.simula.no/hyper-kvasir/, and the paper,
https://doi.org/10.1038/s41597-020-00622-y.
"""

import asyncio
import csv
import dataclasses
import fnmatch
import hashlib
import io
import json
import math
import os
import posixpath
import re
import stat
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import datasets
import fsspec
import numpy as np
import pyarrow as pa
from PIL import Image

try:  # inflates a third faster, where it is installed
    import deflate
except ImportError:
    deflate = None

try:  # sees damage in images that Pillow passes over, where it is installed
    import simplejpeg
except ImportError:
    simplejpeg = None

logger = datasets.logging.get_logger(__name__)

# ====================================================================================================================
#                                                 I  THE DATASET
# ====================================================================================================================

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
KVASIR_SEG_SETS = ("train", "validation")  # of the official split of Kvasir-SEG, whose images the segmented ones are

_FINDING_OF = {name: i for i, f in enumerate(TAXONOMY) for name in (f.name, *f.spellings)}
_ORGANS = {_LOWER: "Lower GI", _UPPER: "Upper GI"}  # the words of image-labels.csv


# --------------------------------------------------------------------------------------------------- parts and views

PARTS = ("labeled", "segmented", "unlabeled")  # the thirds of the dataset, each an archive and a folder of files


class View(NamedTuple):
    """A config: the rows of a part, one split for each value of a column.

    Every view is a glob over the stored files, so that no image is stored twice: a labeled file is a cell of the grid
    tract x category x fold. The globs choose the rows of this builder, and appear in the card's `configs:`.
    """

    part: str
    description: str
    files: str  # the glob of a split's files, with "{}" for its value
    column: Optional[str] = None  # whose values are the splits; None: one split of all rows
    values: Sequence[Any] = ("train",)  # class names or folds, in the order of their numbers in the column

    @property
    def splits(self) -> Dict[str, str]:
        """{split: glob of its files}"""
        return {_split_name(value): self.files.format(value) for value in self.values}


def _split_name(value):
    return f"fold_{value}" if isinstance(value, int) else value.replace("-", "_")


# The first is the default. Each part has a view of its own name.
VIEWS = {
    "labeled": View(
        "labeled",
        "Labeled images, with finding, category, tract and official folds.",
        "data/labeled/*/*/*.parquet",
    ),
    "unlabeled": View("unlabeled", "Unlabeled images, for self-supervised training.", "data/unlabeled/*.parquet"),
    "segmented": View(
        "segmented", "Polyps with a binary mask, an instance map and bounding boxes.", "data/segmented/*.parquet"
    ),
    "tract": View(
        "labeled", "The labeled images, a split for each tract.", "data/labeled/{}/*/*.parquet", "tract", TRACTS
    ),
    "category": View(
        "labeled",
        "The labeled images, a split for each category.",
        "data/labeled/*/{}/*.parquet",
        "category",
        CATEGORIES,
    ),
    "fold_2": View(
        "labeled",
        "The labeled images, a split for each fold of the official 2-fold split.",
        "data/labeled/*/*/fold2-{}_*.parquet",
        "fold_2",
        range(2),
    ),
    "fold_5": View(
        "labeled",
        "The labeled images, a split for each fold of the official 5-fold split.",
        "data/labeled/*/*/*_fold5-{}_*.parquet",
        "fold_5",
        range(5),
    ),
    "kvasir_seg": View(
        "segmented",
        "The segmented images, a split for each set of Kvasir-SEG's official split.",
        "data/segmented/{}_*.parquet",
        "kvasir_seg_set",
        KVASIR_SEG_SETS,
    ),
}
CONFIGS = list(VIEWS)


# ---------------------------------------------------------------------------------------------------- official files

_MIRROR = "hf://datasets/SimulaMet-HOST/HyperKvasir/"
_ORIGIN = "https://datasets.simula.no/downloads/hyper-kvasir/"
_SPLITS = (
    "https://raw.githubusercontent.com/simula/hyper-kvasir/5ae933bb612b25046b10e86b01660d2d7909ab65/official_splits/"
)


_LABELS, _BOXES = "image-labels.csv", "bounding-boxes.json"  # within the labeled and the segmented part


class OfficialFile(NamedTuple):
    """A file that the owners publish: its addresses, best first, and its size in bytes and sha256 where known."""

    name: str
    addresses: Tuple[str, ...]
    bytes: Optional[int] = None
    sha256: Optional[str] = None


def _official_archive(part, *known):
    # The mirror first: the origin serves some 300 KB/s and omits its intermediate certificate, so Python refuses it.
    name = f"hyper-kvasir-{part}-images.zip"
    return OfficialFile(name, (_MIRROR + name, _ORIGIN + name), *known)


def _official_folds(k, sha256):
    name = f"{k}_fold_split.csv"
    return OfficialFile(name, (_SPLITS + name,), 621_410, sha256)


# By part, and by the column of their folds.
OFFICIAL_FILES = {
    "labeled": _official_archive(
        "labeled", 3_928_814_344, "c603449b1bc0be86948b11d9aea8b2002058a11e6f5499e2a384b9ae9c8dbd3f"
    ),
    "segmented": _official_archive(
        "segmented", 46_179_365, "4463011f991dcdc74ec56399788b1a93822593f17ed18a662bdeb7392ffcdd9a"
    ),
    "unlabeled": _official_archive("unlabeled"),
    "fold_2": _official_folds(2, "e9bc264da8dd4ce5ebd6654080eb9ec8a00fd28c3d03a75a2c80b1eb5a096c06"),
    "fold_5": _official_folds(5, "0230b465bdf73c23e949c74e1d4d68c4905a758195ea6b69b10f32c71a3be426"),
}
FULL_ARCHIVE = "hyper-kvasir.zip"  # all parts side by side, and the videos, which are not part of this dataset


# -------------------------------------------------------------------------------------------------- expected numbers


@dataclasses.dataclass(frozen=True)
class Expected:
    """The numbers that a source and a built folder are checked against.

    `OFFICIAL` is the published dataset. A miniature for tests, or a corrected release, brings its own, in a JSON file
    with the same fields. `sources` is {file: {"bytes": int, "sha256": str}}; `segmented_content` is the "content" of
    `Part.fingerprint`; `part_digests` is {part: digest of its rows}, see `scripts.pipeline.verify.part_digest`.
    """

    findings: Dict[str, int]
    unlabeled: int
    segmented: int
    instances: int
    boxes: int
    fold_2: List[int]
    fold_5: List[int]
    kvasir_seg_set: List[int]
    sources: Dict[str, dict]
    segmented_content: Optional[str] = None
    part_digests: Dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: Optional[str]) -> "Expected":
        """The numbers of the JSON file `path`, or the official ones. Raises ValueError for a file of another form."""
        if path is None:
            return OFFICIAL
        try:
            with open(path, encoding="utf-8-sig") as file:
                fields = json.load(file)
            wrong = _wrong_numbers(fields)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            wrong = f"it is not JSON ({error})"
        if wrong:
            raise ValueError(_shown(f"{path}: not a file of expected numbers: {wrong}; see hyper_kvasir.Expected"))
        return cls(**fields)

    @property
    def labeled(self) -> int:
        return sum(self.findings.values())

    def split_rows(self, config: str) -> Dict[str, int]:
        """Rows of each split of a config."""
        view = VIEWS[config]
        if view.column is None:
            rows = [getattr(self, view.part)]
        elif view.column in Finding._fields:
            of = [(getattr(finding, view.column), self.findings[finding.name]) for finding in TAXONOMY]
            rows = [sum(count for value, count in of if value == wanted) for wanted in view.values]
        else:
            rows = getattr(self, view.column)
        return dict(zip(view.splits, rows))

    def vouches_for(self, part: str, archive: "Archive") -> bool:
        """Whether a digest of an archive tells of any damage to the images of a part, so that none need be decoded.

        Of an extracted folder they are: decoding tells which image is damaged, the digest of the content only that.
        """
        known = archive.file in self.sources or (part == "segmented" and self.segmented_content is not None)
        return known and isinstance(archive, ZipArchive)

    def check_fingerprint(self, archive: "Archive", found: dict, problems: "Problems") -> None:
        """Compares the fingerprint of a part with what is known of the official file; see `Part.fingerprint`.

        A known content outweighs its container: the owners replaced the segmented zip once.
        """
        known = self.sources.get(archive.file)
        if "content" in found and self.segmented_content:
            good = found["content"] == self.segmented_content
            what = f"content digest {found['content']}, expected {self.segmented_content}"
        elif "sha256" in found and known:
            good = found["sha256"] == known["sha256"]
            what = f"{found['bytes']:,} bytes with sha256 {found['sha256']}"
            what += f", expected {known['bytes']:,} bytes with sha256 {known['sha256']}"
        else:
            return
        if not good:
            advice = (
                "download it again, or give the extracted folder if you zipped it anew; remove files that you added"
            )
            problems.at(archive).add(f"not the official {archive.file}: {what}; {advice}", waivable=True)


OFFICIAL = Expected(
    findings={finding.name: finding.count for finding in TAXONOMY},
    unlabeled=99_417,
    segmented=1_000,
    instances=1_063,
    boxes=1_071,
    fold_2=[5_324, 5_338],
    fold_5=[2_122, 2_122, 2_122, 2_122, 2_174],
    kvasir_seg_set=[880, 120],
    sources={
        **{f.name: {"bytes": f.bytes, "sha256": f.sha256} for f in OFFICIAL_FILES.values() if f.sha256},
        _BOXES: {"bytes": 315_000, "sha256": "673a69dbd8e4da93cf01479f374c5754a469d685b5998accbada5732883c7ca4"},
    },
    segmented_content="c9abb4fbc069dbaafff4f65d26c9e49591f6e2a57e6aded15d6c4c2e7e4edb7c",
    part_digests={  # of the real segmented part as built; of image-labels.csv and the fold csvs
        "segmented": "55bb1e9146503e34762dcab1615ba819936a0113acf6be6750ca99f64677db3d",
        "labeled": "99ca92bf49cd09f7e0705e722d7d640ca747bb6f6b408d25272117099b6bd38c",
    },
)


# ---------------------------------------------------------------------------------------------- features and builder


def features_of(config: str) -> datasets.Features:
    """The columns of a config, which are those of its part. A part's name is a config too."""
    part = VIEWS[config].part
    # Pixels first: what changes in an update then lies at a file's end, together, and not before its images too (of an
    # update of 10 labels, a quarter less is sent to the Hub's deduplicating storage).
    image = {"image": datasets.Image()}
    identity = {"image_id": datasets.Value("string")}
    label = {"label": datasets.ClassLabel(names=FINDINGS)}
    groups = {"category": datasets.ClassLabel(names=CATEGORIES), "tract": datasets.ClassLabel(names=TRACTS)}
    folds = {"fold_2": datasets.Value("int8"), "fold_5": datasets.Value("int8")}
    kvasir_seg = {"kvasir_seg_id": datasets.Value("string"), "kvasir_seg_set": datasets.Value("string")}
    size = {"width": datasets.Value("int32"), "height": datasets.Value("int32")}
    annotation = {"mask": datasets.Image(), "instances": datasets.Image()}
    objects = datasets.Sequence(  # a struct of lists on all versions of datasets
        {
            "id": datasets.Value("int64"),
            "bbox": datasets.Sequence(datasets.Value("float32"), length=4),
            "area": datasets.Value("int64"),
            "category": datasets.ClassLabel(names=["polyp"]),
        }
    )
    columns = {
        "labeled": {**image, **identity, **label, **groups, **folds, **size},
        "segmented": {**image, **annotation, **identity, "objects": objects, **label, **folds, **kvasir_seg, **size},
        "unlabeled": {**image, **identity, **size},
    }
    return datasets.Features(columns[part])


@dataclasses.dataclass
class HyperKvasirConfig(datasets.BuilderConfig):
    """`expected`: a JSON file of numbers to check against instead of the official ones; see `Expected`."""

    expected: Optional[str] = None

    def create_config_id(self, config_kwargs, custom_features=None):
        """The name of the cache folder: another one once the files that are read in `data_dir` changed."""
        config_id = super().create_config_id(config_kwargs, custom_features=custom_features)
        if self.data_dir is None:
            return config_id
        state = json.dumps(source_state(VIEWS[self.name].part, [self.data_dir]))
        return f"{config_id}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"


class HyperKvasir(datasets.ArrowBasedBuilder):
    """HyperKvasir from the official archives in `data_dir` (zips or extracted folders), else downloaded.

    `verification_mode="no_checks"` builds from partial sources and logs what is missing. Damage is never waived.
    """

    VERSION = VERSION
    BUILDER_CONFIG_CLASS = HyperKvasirConfig
    BUILDER_CONFIGS = [
        HyperKvasirConfig(name=name, version=VERSION, description=view.description) for name, view in VIEWS.items()
    ]
    DEFAULT_CONFIG_NAME = CONFIGS[0]

    # Streaming reads the archive's directory only, so it warns of an incomplete source instead of refusing it.
    _checks = _prepares = False

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

    def _split_generators(self, dl_manager):
        config, view = self.config.name, VIEWS[self.config.name]
        expected, problems = Expected.load(self.config.expected), Problems()
        folders = [] if self.config.data_dir is None else [self.config.data_dir]
        archive, notes = locate(view.part, folders) if folders else (download_archive(dl_manager, view.part), [])
        if archive is None:
            raise SourceError(notes)
        for text in notes[1:]:
            logger.warning(text)
        folds = {} if view.part == "unlabeled" else read_folds(dl_manager, folders, expected, problems)
        kvasir_seg = read_kvasir_seg(self.base_path) if view.part == "segmented" else {}
        part = read_part(view.part, archive, folds, expected, problems, kvasir_seg=kvasir_seg)
        if self._checks and (archive.file in expected.sources or part.name == "segmented"):
            expected.check_fingerprint(archive, part.fingerprint(), problems)
        for text in problems.settle(self._checks):
            logger.warning(f"incomplete source: {text}")
        decode = self._prepares and not (self._checks and expected.vouches_for(part.name, archive))
        shards, generators = part.shards(), []
        for split, pattern in view.splits.items():
            chosen = [shard for shard in shards if fnmatch.fnmatch(shard.path, pattern)]
            if chosen:
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": chosen, "decode": decode}))
            else:
                logger.warning(f"incomplete source: no image for split {split!r} of {config!r}")
        if not generators:
            raise SourceError([f"{archive}: no image for any split of {config!r}"])
        return generators

    def _generate_tables(self, shards, decode):
        for number, shard in enumerate(shards):
            remote = _is_address(shard.archive.path)
            # The first remote image comes alone: it need not wait for others.
            starts = [0, *range(1 if remote else 32, len(shard.rows), 32)]
            for start, end in zip(starts, [*starts[1:], len(shard.rows)]):
                problems = Problems()
                at_once = 8 if remote else 1
                table = read_examples(shard, shard.rows[start:end], problems, decode=decode, at_once=at_once)
                problems.settle(checks=True)
                yield f"{number}_{start}", table

    def download_and_prepare(
        self, output_dir=None, download_config=None, download_mode=None, verification_mode=None, *arguments, **settings
    ):
        """As the base class. Raises SourceError where an earlier run without checks left its result in the cache."""
        super().download_and_prepare(
            output_dir, download_config, download_mode, verification_mode, *arguments, **settings
        )
        mode = datasets.VerificationMode(verification_mode or "basic_checks")
        if mode != datasets.VerificationMode.NO_CHECKS and self._fs.exists(self._unchecked()):
            text = f"{self._output_dir}: an earlier build without checks"
            raise SourceError([f'{text}; build again with download_mode="reuse_cache_if_exists"'])

    def _download_and_prepare(self, dl_manager, verification_mode, **prepare_split_kwargs):
        self._checks = datasets.VerificationMode(verification_mode) != datasets.VerificationMode.NO_CHECKS
        self._prepares = True
        try:
            super()._download_and_prepare(dl_manager, verification_mode, **prepare_split_kwargs)
            if not self._checks:
                self._fs.touch(self._unchecked())
        finally:
            self._checks = self._prepares = False

    def _unchecked(self):
        """Marks what was prepared without checks, so that it is not taken for checked when found in the cache."""
        return posixpath.join(str(self._output_dir), ".unchecked")


# ====================================================================================================================
#                                                II  ITS ARCHIVES
# ====================================================================================================================


class Problem(NamedTuple):
    """Something wrong with a source. `waivable`: rows made from it are still true, so "no_checks" builds them."""

    text: str
    waivable: bool = False


class Problems:
    """What is wrong with a source, collected as it is found. Knows where it is, and begins every text with that."""

    def __init__(self, place: str = "", found: Optional[List[Problem]] = None):
        self.place, self.found = place, [] if found is None else found

    def at(self, place) -> "Problems":
        """The same collection, at a place inside this one."""
        return Problems(f"{self.place}: {place}" if self.place else str(place), self.found)

    def add(self, text: str, waivable: bool = False) -> None:
        """Adds a problem of this place."""
        self.found.append(Problem(_shown(f"{self.place}: {text}" if self.place else text), waivable))

    def extend(self, texts: Sequence[str]) -> None:
        """Adds problems that name their own place, e.g. those of a SourceError. None can be waived."""
        self.found += [Problem(_shown(text)) for text in texts]

    def settle(self, checks: bool) -> List[str]:
        """Raises SourceError with all problems; with `checks` off, only if one cannot be waived.

        Returns what was waived, for the user to be told.
        """
        found = list(dict.fromkeys(self.found))
        texts = [problem.text for problem in found]
        if texts and (checks or not all(problem.waivable for problem in found)):
            raise SourceError(texts)
        return texts


class SourceError(ValueError):
    """The source cannot be used as it is; `problems`, a list of str, says all that is wrong."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(map(_shown, problems))
        super().__init__(self.problems)

    def __str__(self):
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems):,} problems in the source:\n{listed(self.problems)}"


def listed(texts: Sequence[str], most: int = 60, alike: int = 8) -> str:
    """Texts as lines that a person can read: `most` lines, `alike` that differ in names and numbers only."""
    kinds: Dict[str, int] = {}
    lines = []
    for text in texts:
        kind = re.sub(r"""\S*[\d/'"]\S*""", "*", text)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= alike and len(lines) < most:
            lines.append(f"- {_shown(text)}")
    more = len(texts) - len(lines)
    return "\n".join([*lines, *([f"- and {more:,} more"] if more else [])])


def _shown(text: str, most: int = 1000) -> str:
    """A text fit for a terminal, whatever names and contents are quoted in it: printable, and not endless."""
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _few(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _wrong_numbers(fields):
    """What is wrong with the fields of a file of expected numbers, or None."""

    def is_count(value):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def is_digest(value):
        return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None

    def is_source(value):
        return isinstance(value, dict) and is_count(value.get("bytes")) and is_digest(value.get("sha256"))

    def all_are(kind, keys=None):
        return lambda value: (
            isinstance(value, dict) and (keys is None or set(value) == set(keys)) and all(map(kind, value.values()))
        )

    def counts(number):
        return lambda value: isinstance(value, list) and len(value) == number and all(map(is_count, value))

    forms = {
        "findings": (all_are(is_count, FINDINGS), "a number of images for each of the 23 findings, and no other name"),
        **dict.fromkeys(("unlabeled", "segmented", "instances", "boxes"), (is_count, "a whole number, at least 0")),
        **{f"fold_{k}": (counts(k), f"a list of {k} numbers of images") for k in FOLDS},
        "kvasir_seg_set": (counts(len(KVASIR_SEG_SETS)), f"a list of the images in {' and '.join(KVASIR_SEG_SETS)}"),
        "sources": (all_are(is_source), '{file: {"bytes": a whole number, "sha256": 64 hex digits}}'),
        "segmented_content": (lambda value: value is None or is_digest(value), "64 hex digits"),
        "part_digests": (
            lambda value: all_are(is_digest)(value) and set(value) <= set(PARTS),
            "{part: 64 hex digits}",
        ),
    }
    if not isinstance(fields, dict):
        return "expected an object"
    for name in fields:
        if name not in forms:
            return f"unknown field {name!r}"
    for name, (is_good, form) in forms.items():
        if name not in fields and name not in ("segmented_content", "part_digests"):
            return f"{name!r} is missing; expected {form}"
        if name in fields and not is_good(fields[name]):
            return f"{name!r} must be {form}"
    return None


# ---------------------------------------------------------------------------------------------------------- archives

MAX_MEMBER_BYTES = 64 << 20  # the largest official image has under 2 MB; more is damage or an attack
_TOO_LARGE = f"more than any file of this dataset (at most {MAX_MEMBER_BYTES:,})"
_CLUTTER = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}
_IMAGE_NAME = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.jpg")


class Member(NamedTuple):
    """A file in an archive. `start`, `end`: the byte range of its local header and data in the zip."""

    name: str  # within the archive
    size: int
    crc: Optional[int] = None  # CRC-32; of a folder's file known only once it is read
    method: int = zipfile.ZIP_STORED
    start: int = 0
    end: int = 0


class Archive:
    """Where the files of a part lie: a `ZipArchive` or a `FolderArchive`. Pickles; holds no open file.

    `path` is a local path or an address. `file` is the official name, also where a cache keeps it under another.
    """

    def __init__(self, path: str, file: str):
        self.path, self.file = path, file

    def __str__(self):
        return self.path

    def list(self, part: str, problems: Problems, with_crcs: bool = False) -> Dict[str, Member]:
        """Members of a part by their path below its folder, e.g. "images/<uuid>.jpg" of "segmented-images/".

        Files that operating systems leave behind are skipped. What makes a member unsafe or unreadable goes to
        `problems`. A zip lists CRCs; the files of a folder are read once for theirs, if asked `with_crcs`. Raises
        SourceError where nothing can be listed.
        """
        raise NotImplementedError

    def read(self, member: Member) -> bytes:
        """The bytes of a member, its size and (where known) CRC checked. Raises SourceError naming it."""
        data = self._load(member)
        if len(data) != member.size:
            raise self.error(member.name, f"has {len(data):,} bytes, expected {member.size:,}")
        if member.crc is not None and _crc32(data) != member.crc:
            found = f"CRC is {_crc32(data):08x}, expected {member.crc:08x}"
            raise self.error(member.name, f"{found}; the file is damaged")
        return data

    def _load(self, member):
        """The bytes of a member; of a damaged one, at most one byte over the size that it claims."""
        raise NotImplementedError

    def instead(self, part: str) -> str:
        """What it holds where the images of a part were expected, for whoever has an archive of another layout."""
        raise NotImplementedError

    def known(self) -> dict:
        """What is known without reading it: {"file"}, and of a zip "bytes"."""
        return {"file": self.file}

    def fingerprint(self) -> dict:
        """What tells it from another: `known`, and of a zip "sha256". Reads a zip whole, at some 1.3 GB a second."""
        return self.known()

    def state(self, part: str) -> List[tuple]:
        """(path, bytes, time or mark of change) of each file that the part is read from."""
        raise NotImplementedError

    def error(self, name: str, text: str) -> SourceError:
        """An error that says what is wrong with a file in it."""
        return SourceError([f"{self}: {name}: {text}"])


class FolderArchive(Archive):
    """An extracted folder: the one that "<part>-images/" lies in, on a disk or at an address."""

    def list(self, part, problems, with_crcs=False):
        members = {}
        root = os.path.join(self.path, f"{part}-images")
        for name, size, wrong in _files_below(root, problems):
            if wrong:
                problems.add(f"{os.path.join(root, *name.split('/'))} {wrong}")
            else:
                members[name] = Member(f"{part}-images/{name}", size)
        return self._with_crcs(members, problems) if with_crcs else members

    def _with_crcs(self, members, problems):
        def with_crc(item):
            path, member = item
            try:
                return path, member._replace(crc=_crc32(self.read(member)))
            except SourceError as error:
                problems.extend(error.problems)
                return path, None

        with ThreadPoolExecutor() as threads:
            return {path: member for path, member in threads.map(with_crc, members.items()) if member}

    def instead(self, part):
        names = _names(os.path.join(self.path, f"{part}-images"))
        return f"it holds {_few(names)}" if names else "it is empty"

    def _load(self, member):
        try:
            return _read(self._path_of(member), MAX_MEMBER_BYTES + 1)
        except OSError as error:
            raise self.error(member.name, f"cannot be read ({error.strerror or error})") from error

    def _path_of(self, member):
        return os.path.join(self.path, *member.name.split("/"))

    def state(self, part):
        return [_file_state(self._path_of(member)) for member in self.list(part, Problems()).values()]


class ZipArchive(Archive):
    """A zip, local or remote. It is never extracted: its directory is read first, then each member's bytes alone.

    A `Member` knows its byte range, so a worker reads it without the directory, and a remote one takes one request. Any
    number of threads may read at once.
    """

    def list(self, part, problems, with_crcs=False):
        infos, directory_start = _zip_directory(self.path)
        starts = sorted({info.header_offset for info in infos} | {directory_start})
        end_of = dict(zip(starts, starts[1:]))
        inside = re.compile(rf"(?:[^/]+/)?{part}-images/(.+)", re.DOTALL)  # copies may have one folder around all
        members, seen = {}, set()
        for info in infos:
            # orig_filename: zipfile cuts filename at a NUL and replaces backslashes
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
                problems.at(self).add(f"member {name!r} {wrong}; the archive is refused, download it again")
            elif match and not info.is_dir():
                span = info.header_offset, end_of[info.header_offset]
                members[match[1]] = Member(name, info.file_size, info.CRC, info.compress_type, *span)
        return members

    def instead(self, part):
        infos = _zip_directory(self.path)[0]
        names = [i.orig_filename for i in infos if not i.is_dir() and not _is_clutter(i.orig_filename)]
        inner = [name for name in names if name.lower().endswith(".zip")]
        if inner:
            return f"it holds another zip, {inner[0]!r}: extract that one, and give it"
        images = [name for name in names if name.lower().endswith((".jpg", ".jpeg"))]
        where = f"expected {part}-images/ at the top, or in one folder; rename or move the folders, or extract it"
        return f"it holds {len(names):,} files, such as {(images or names)[0]!r}; {where}" if names else "it is empty"

    def _load(self, member):
        span = _read_range(self.path, member.start, member.end - member.start)
        name_length, extra_length = int.from_bytes(span[26:28], "little"), int.from_bytes(span[28:30], "little")
        encoding = "utf-8" if span[7:8] and span[7] & 0x08 else "cp437"  # by a flag, as zipfile reads the directory
        name = span[30 : 30 + name_length].decode(encoding, "replace")
        if span[:4] != b"PK\x03\x04" or name != member.name:
            raise self.error(member.name, "the zip's directory points to something else; it is damaged")
        body = memoryview(span)[30 + name_length + extra_length :]
        if member.method == zipfile.ZIP_STORED:
            return bytes(body[: member.size])
        try:
            return _inflated(body, member.size)
        except zlib.error as error:
            raise self.error(member.name, f"cannot be inflated ({error}); the file is damaged") from error

    def known(self):
        return {"file": self.file, "bytes": _file_state(self.path)[1]}

    def fingerprint(self):
        digest = hashlib.sha256()
        for block in _blocks(self.path, self.known()["bytes"]):
            digest.update(block)
        return {**self.known(), "sha256": digest.hexdigest()}

    def state(self, part):
        return [_file_state(self.path)]


def _crc32(data):
    return (deflate or zlib).crc32(data)


def _inflated(body, size):
    """The bytes of a deflated member that claims a size; of a damaged one, at most one more. Raises zlib.error."""
    if deflate and size:
        try:
            return deflate.deflate_decompress(body, size)
        except deflate.DeflateError:  # which does not say what is wrong
            pass
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, size + 1)


def _file_state(path):
    if _is_address(path):
        info, (system, inside) = _info(path), _remote(path)
        return path, info["size"], info.get("ETag") or info.get("Last-Modified") or system.ukey(inside)
    return path, os.stat(path).st_size, os.stat(path).st_mtime_ns


def _files_below(root, problems):
    """(path below a folder, bytes, why it is refused or None) of each file there; no clutter."""
    if _is_address(root):
        yield from _objects_below(root)
        return

    def unlisted(error):
        problems.add(f"{error.filename}: cannot be listed ({error.strerror}); give yourself read permission")

    for above, folders, files in sorted(os.walk(root, onerror=unlisted)):
        linked = [folder for folder in folders if os.path.islink(os.path.join(above, folder))]
        for entry in sorted(files + linked):
            path = os.path.join(above, entry)
            name = os.path.relpath(path, root).replace(os.sep, "/")
            if not _is_clutter(name):
                wrong = _unreadable(path)
                yield name, 0 if wrong else os.path.getsize(path), wrong


def _objects_below(root):
    """The same of an address."""
    system, inside = _remote(root)
    system.invalidate_cache()  # an earlier listing
    for path, info in sorted(system.find(inside, detail=True).items()):
        name = posixpath.relpath(path, inside)
        if not _is_clutter(name):
            yield name, info["size"], _too_large(info["size"])


def _is_clutter(name):
    pieces = name.split("/")
    return not _CLUTTER.isdisjoint(pieces) or pieces[-1].startswith("._")


def _unreadable(path):
    """Why a file of a folder is refused, or None. Links to files are followed: caches hold links."""
    if not _is_utf8(path):
        return "has a name that is not UTF-8; rename it, or set PYTHONUTF8=1 if only this shell takes it for another"
    if not os.path.exists(path):
        return "is a link to nothing; remove it, or put the file there"
    if os.path.isdir(path):
        return "is a link to a folder; put the folder itself there"
    if not os.path.isfile(path):
        return "is not a regular file; remove it"
    return _too_large(os.path.getsize(path))


def _too_large(size):
    """Why a file of so many bytes is refused, or None."""
    if size > MAX_MEMBER_BYTES:
        return f"has {size:,} bytes, {_TOO_LARGE}; remove it, or extract the archive again"
    return None


def _is_utf8(path):
    """Whether a path can be stored and printed: Python keeps bytes of other encodings as lone surrogates."""
    return not re.search("[\ud800-\udfff]", path)


def _zip_directory(path):
    """The entries of a zip's directory, and the offset where it starts. Reads some MB at most, remotely too."""
    if not _is_address(path):
        with open(path, "rb") as file:
            _check_head(path, file.read(512))
            return _entries(path, file)
    file = _RemoteEnd(path)
    try:
        return _entries(path, file)
    except SourceError:
        _check_head(path, _read_range(path, 0, min(512, file.size)))
        raise


_END_BYTES = 1 << 16  # in which a zip's end is looked for, at most
_ENDS: Dict[str, tuple] = {}  # {address of a zip: (its state, what was read of its end)}


class _RemoteEnd(io.RawIOBase):
    """A remote zip for zipfile, which reads its last bytes, then its directory: each is one request.

    What was read is kept for all that this process streams from there, until the file there is another one. Raises
    OSError where no file can be read by Range requests.
    """

    def __init__(self, path):
        self.path, self.state, self.at = path, _file_state(path), 0
        self.size = self.state[1]
        if self.size is None:
            raise _not_streamed(path, "does not tell the size of the file")
        state, data = _ENDS.get(path, (None, b""))
        self.data = data if state == self.state else b""

    def seek(self, offset, whence=os.SEEK_SET):
        at = offset + (0, self.at, self.size)[whence]
        if at < 0:
            raise io.UnsupportedOperation(f"offset {at:,}")  # an OSError and a ValueError: zipfile expects either
        self.at = at
        return at

    def tell(self):
        return self.at

    def read(self, length=-1):
        start = self.size - len(self.data)
        if self.at < start:
            wanted = min(self.at, max(0, self.size - _END_BYTES))
            if start - wanted > MAX_MEMBER_BYTES:
                raise ValueError(f"a directory of {start - wanted:,} bytes, {_TOO_LARGE}")
            self.data, start = _read_range(self.path, wanted, start - wanted) + self.data, wanted
            _ENDS[self.path] = self.state, self.data
        found = self.data[self.at - start :][: None if length < 0 else length]
        self.at += len(found)
        return found


def _check_head(path, head):
    what = _not_a_zip(head)
    if what:
        raise SourceError([f"{path}: {what}; expected an official archive, download it again"])


def _entries(path, file):
    """What `_zip_directory` gives, of an open file."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        size = file.seek(0, os.SEEK_END)
        known = OFFICIAL.sources.get(posixpath.basename(path), {}).get("bytes")
        expected = f", the official archive has {known:,}" if known else ""
        raise SourceError(
            [f"{path}: truncated or damaged zip ({error}); it has {size:,} bytes{expected}; download it again"]
        ) from error


def _not_a_zip(head):
    """What a file is that begins with `head`, if not a zip; or None."""
    if head.startswith(b"PK"):
        return None
    if head.lstrip()[:1] == b"<":
        return "is an HTML page instead of a zip file (a failed download, or a login page)"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer instead of a zip file (fetch it with git lfs pull)"
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
        return "appears twice in the archive"
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
        return "claims bytes outside the archive or in the next member"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}; expected stored or deflated"
    return None


def _read_range(path, start, length):
    """Bytes of a local or remote file; one Range request each of a remote one."""
    if not _is_address(path):
        with open(path, "rb", buffering=0) as file:  # anew each time: the user may have put a better one in its place
            file.seek(start)
            return file.read(length)
    if _is_web(path):
        return _read_web_range(path, start, length)
    system, inside = _remote(path)
    # No read-ahead, as members lie anywhere. Asynchronous file systems read none, and do not know the setting.
    how = {} if system.async_impl else {"cache_type": "none"}
    try:
        return system.cat_file(inside, start=start, end=start + length, **how)
    except OSError:
        raise
    except Exception as error:  # each system has errors of its own
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


def _read_web_range(path, start, length):
    """Bytes of a file on a web server. Raises OSError."""
    try:
        data = _patiently(path, lambda: _ask_range(path, start, length))
    except ValueError as error:  # of fsspec
        raise _not_streamed(path, "answers with the whole file") from error
    if len(data) != length:
        raise _not_streamed(path, f"gives {len(data):,} of the {length:,} bytes from {start:,} on")
    return data


def _info(path):
    """What a server tells of an address, {"size", ...}. Raises FileNotFoundError for none, OSError for what failed."""
    system, inside = _remote(path)
    if not _is_web(path):
        return system.info(inside)

    def ask():
        try:
            return system.info(inside)
        except FileNotFoundError as error:  # fsspec says so whatever it was
            if getattr(error.__cause__, "status", 404) in (404, 410):
                raise
            raise error.__cause__ from None

    return _patiently(path, ask)


_thread = threading.local()  # "stop": an event, in threads that others wait for


def _patiently(path, ask):
    """What a web server answers, asked as often as `datasets` does where that may help. Raises OSError, ValueError."""
    most = datasets.config.STREAMING_READ_MAX_RETRIES
    for retry in range(1, most + 2):
        try:
            return ask()
        except Exception as error:
            if isinstance(error, (FileNotFoundError, ValueError)) and not _is_of_client(error):
                raise
            text = f"{path}: {type(error).__name__}: {error}"
            if retry > most or not _may_pass(error):
                raise OSError(f"{text}, {retry} times" if retry > 1 else text) from error
            wait = datasets.config.STREAMING_READ_RETRY_INTERVAL
            logger.warning(f"{text}; trying again in {wait} s ({retry} of {most})")
            if getattr(_thread, "stop", threading.Event()).wait(wait):
                raise OSError(text) from error


def _ask_range(path, start, length):
    """One Range request. A file is opened for it, as only that reads no more of an answer than was asked for."""
    system, inside = _remote(path)
    with system.open(inside, "rb", cache_type="none", size=start + length) as file:
        file.seek(start)
        return file.read(length)


def _may_pass(error):
    """Whether what went wrong with a web server may go well another time."""
    status = getattr(error, "status", None)
    lost = _is_of_client(error) or isinstance(error, (asyncio.TimeoutError, ConnectionError))
    return lost and not isinstance(error, ValueError) and (not status or status in (408, 429) or status >= 500)


def _is_of_client(error):
    """Whether an error is of aiohttp, which fsspec has loaded when it asks a web server: others need not have it."""
    return isinstance(error, sys.modules["aiohttp"].ClientError)


def _not_streamed(path, what):
    text = f"{path}: the server {what}; expected one that answers HTTP Range requests, by which images are streamed"
    return OSError(f"{text}; download the file, and give its folder as data_dir")


def _blocks(path, size):
    """A local or remote file in order; of a remote one some blocks are asked for at once, as one comes slowly."""
    if not _is_address(path):
        block = memoryview(bytearray(1 << 18))  # used again, as fresh memory is slow
        with open(path, "rb", buffering=0) as file:
            for read in iter(lambda: file.readinto(block), 0):
                yield block[:read]
        return
    starts = range(0, size, 8 << 20)
    with ThreadPoolExecutor(8) as threads:
        for i in range(0, len(starts), 8):
            some = starts[i : i + 8]
            yield from threads.map(lambda start: _read_range(path, start, min(8 << 20, size - start)), some)


def _read(path, most):
    """The bytes of a local or remote file; of a local one at most so many."""
    if not _is_address(path):
        with open(path, "rb") as file:
            return file.read(most)
    system, inside = _remote(path)
    return system.cat_file(inside)


def _is_file(path):
    if not _is_address(path):
        return os.path.isfile(path)
    system, inside = _remote(path)
    if not _is_web(path):
        return system.isfile(inside)
    try:  # asks for nothing of the file; a folder's address ends with a slash, which servers see to
        return not _info(path)["url"].endswith("/")
    except FileNotFoundError as error:
        if error.__cause__ and not hasattr(error.__cause__, "status"):  # no server answered
            raise OSError(f"{path}: {type(error.__cause__).__name__}: {error.__cause__}") from error
        return False


def _is_folder(path):
    if not _is_address(path):
        return os.path.isdir(path)
    if _is_web(path):  # whose listings have no sizes
        return False
    system, inside = _remote(path)
    return system.isdir(inside)


def _names(path):
    """The names in a local or remote folder."""
    if not _is_address(path):
        return os.listdir(path)
    system, inside = _remote(path)
    return [posixpath.basename(name.rstrip("/")) for name in system.ls(inside, detail=False)]


def _is_address(path):
    """Whether a path is a URL, or an address of another kind that fsspec knows."""
    return "://" in str(path)


def _is_web(path):
    return str(path).startswith(("http://", "https://"))


def _remote(path):
    """(the file system of an address, the address as it takes that); the system is made once for each process."""
    return fsspec.core.url_to_fs(path)


# ---------------------------------------------------------------------------------------------- finding, downloading


def find_archive(part: str, folders: Sequence[str]) -> Optional[Archive]:
    """The archive of a part in the folders that the user gave, or None. Raises SourceError for a damaged full zip.

    Zips come before extracted folders, since their digest can be checked.
    """
    for archive in _candidates(part, folders):
        if archive.file != FULL_ARCHIVE or _holds_part(archive.path, part):
            return archive
    return None


def locate(part: str, folders: Sequence[str]) -> Tuple[Optional[Archive], List[str]]:
    """What `find_archive` gives, and what to tell the user: which was found, and which others; or what to do."""
    archive = find_archive(part, folders)
    if archive is None:
        return None, [missing_archive(part, folders)]
    others = [str(other) for other in _candidates(part, folders) if other.path != archive.path]
    return archive, [
        f"{part} part: {archive}",
        *(f"{part} part: {other} is there too, and not read" for other in others),
    ]


def _candidates(part, folders):
    for folder in folders:
        for file in (OFFICIAL_FILES[part].name, FULL_ARCHIVE):
            path = folder if os.path.basename(folder) == file else os.path.join(folder, file)
            if _is_file(path):
                yield ZipArchive(path, file)
        for inner in ("", f"hyper-kvasir-{part}-images", "hyper-kvasir"):
            root = os.path.join(folder, inner) if inner else folder
            if _is_folder(os.path.join(root, f"{part}-images")):
                yield FolderArchive(root, f"{part}-images/")


def _holds_part(path, part):
    return any(re.match(rf"(?:[^/]+/)?{part}-images/.", info.filename) for info in _zip_directory(path)[0])


def _folder_of(path):
    """The folder of a source, which may be given as the zip in it."""
    if not _is_file(path):
        return path
    return os.path.dirname(path if _is_address(path) else os.path.abspath(path))


def missing_archive(part: str, folders: Sequence[str]) -> str:
    """What to tell the user whose folders do not hold a part: which file, from where, to which folder."""
    official = OFFICIAL_FILES[part]
    web = [
        address.replace(_MIRROR, "https://huggingface.co/datasets/SimulaMet-HOST/HyperKvasir/resolve/main/")
        for address in official.addresses
    ]
    return (
        f"the {part} part is missing: no {official.name}, {FULL_ARCHIVE} with {part}-images/, or extracted folder "
        f"{part}-images/ in {', '.join(map(str, folders))}.{_nearly(part, folders)} Download {web[0]} (or {web[1]}) to "
        f"{_folder_of(folders[0])}"
    )


def _nearly(part, folders):
    """What in the user's folders may be the part after all, with what to do; empty if there is nothing like it."""
    hints, folder_name = [], f"{part}-images"
    for folder in folders:
        if os.path.basename(os.path.abspath(folder)) == folder_name:
            hints.append(f"Give the folder that {folder} lies in, not that one itself.")
            continue
        try:
            names = sorted(_names(folder)) if _is_folder(folder) else [os.path.basename(folder)]
        except OSError as error:
            hints.append(f"{folder} cannot be listed ({error.strerror}).")
            continue
        hints += filter(None, (_hint(part, os.path.join(folder, name)) for name in names))
    return "".join(f" {hint}" for hint in hints[:3]) + (" Otherwise:" if hints else "")


def _hint(part, path):
    """What to do with a file or folder that may hold a part, or None."""
    name, folder_name, file = os.path.basename(path), f"{part}-images", OFFICIAL_FILES[part].name
    if name.lower() == folder_name != name:
        return f"There is {name!r}: rename it to {folder_name!r}."
    for inner in (name, ""):  # extracted into a folder of its own, or two
        if _is_folder(os.path.join(path, inner, folder_name)):
            return f"Give {os.path.join(path, inner)} as the source."
    if name in (file, FULL_ARCHIVE) and _is_folder(path):
        return f"{name!r} is a folder; expected the zip itself."
    if name == FULL_ARCHIVE:
        return f"There is {FULL_ARCHIVE}, but without {folder_name}/."
    of_others = [official.name for official in OFFICIAL_FILES.values()]
    if re.search(r"\.zip(\.\w+)?$", name.lower()) and name not in of_others:
        return f"There is {name!r}: if it is that archive, and whole, rename it to {file}."
    return None


def source_state(part: str, folders: Sequence[str]) -> List[tuple]:
    """(path, bytes, time of change) of each file in the user's folders that a part is made from."""
    csvs = [path for path in (_local_fold_csv(k, folders) for k in FOLDS) if path]
    try:
        archive = find_archive(part, folders)
    except SourceError:  # said when it is prepared
        archive = None
    return [*map(_file_state, csvs), *(archive.state(part) if archive else ())]


def download_archive(dl_manager, part: str) -> ZipArchive:
    """The official archive of a part, downloaded (when streaming: remote). Raises SourceError saying what was tried."""
    official = OFFICIAL_FILES[part]
    return ZipArchive(_download(dl_manager, official), official.name)


def _download(dl_manager, official):
    """The local path of an official file (its address when streaming), from the first address that answers.

    Caching, resume, offline mode and progress bars are those of `datasets`.
    """
    failures = []
    for address in official.addresses:
        if failures:
            logger.warning(f"{official.name}: {failures[-1]}; trying {address}")
        try:
            path = str(dl_manager.download(address))
            _check_download(path, official)
            return path
        except Exception as error:  # each address fails in ways of its own: HTTP, TLS, DNS, the Hub's, offline mode
            if isinstance(error, FileNotFoundError) and error.__cause__:  # fsspec says so whatever it was
                error = error.__cause__
            failures.append(f"{address}: {type(error).__name__}: {error}")
    advice = "Check the network, or download it by other means and put it beside the archives"
    raise SourceError([f"{official.name} could not be downloaded: {'; '.join(failures)}. {advice}"])


def _check_download(path, official):
    """Raises SourceError or OSError if what arrived is not an archive or, when streaming, if it cannot be streamed."""
    if _is_address(path) and official.name.endswith(".zip"):
        file = _RemoteEnd(path)
        file.seek(max(0, file.size - _END_BYTES))
        if b"PK\5\6" not in file.read():
            _zip_directory(path)  # says what it is
        return
    with fsspec.open(path, "rb", **({"cache_type": "none"} if _is_address(path) else {})) as file:
        what = _not_a_zip(file.read(512)) if official.name.endswith(".zip") else None
    if what:
        if os.path.isfile(path):
            os.remove(path)  # out of the cache, else it would be taken again
        raise SourceError([f"the file that arrived {what}"])


# ------------------------------------------------------------------------------------------------------------- folds


class Fold(NamedTuple):
    """What the official split csvs say of an image."""

    label: int
    fold_2: Optional[int]
    fold_5: Optional[int]


def read_folds(dl_manager, folders: Sequence[str], expected: Expected, problems: Problems) -> Dict[str, Fold]:
    """The official folds by image id, from the split csvs in `folders`, else downloaded.

    A csv that cannot be had leaves its folds None. The digest of a downloaded one is always checked, that of a local
    one where `expected` knows it.
    """
    tables = {}
    for k in FOLDS:
        text = _fold_text(k, dl_manager, folders, expected, problems)
        if text is not None:
            tables[k] = _read_fold_csv(k, text, problems)
    for k, table in tables.items():
        official = getattr(expected, f"fold_{k}")
        found = [sum(fold == i for _, fold in table.values()) for i in range(k)]
        if found != official:
            problems.at(f"{k}_fold_split.csv").add(f"folds of {found} images, expected {official}", waivable=True)
    folds = {}
    for image_id in sorted(set().union(*tables.values())):
        entries = {k: table[image_id] for k, table in tables.items() if image_id in table}
        labels = {label for label, _ in entries.values()}
        if len(labels) > 1:
            names = " and ".join(sorted(FINDINGS[label] for label in labels))
            problems.at(image_id).add(f"the two fold csvs disagree: {names}; download them again")
        folds[image_id] = Fold(min(labels), *(entries[k][1] if k in entries else None for k in FOLDS))
    return folds


def _fold_text(k, dl_manager, folders, expected, problems):
    """The text of a split csv, or None where it cannot be had."""
    official = OFFICIAL_FILES[f"fold_{k}"]
    local = _local_fold_csv(k, folders)
    try:
        path = local or _download(dl_manager, official)
    except SourceError as error:
        looked = ", ".join(map(str, folders)) or "no folder"
        problems.add(f"{error} (looked for in {looked})", waivable=True)
        return None
    data = _read(path, -1)
    known = expected.sources.get(official.name, {}).get("sha256") if local else official.sha256
    found = hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest()  # some tools convert line endings
    if known and found != known:
        text = f"not the official {official.name}: sha256 {found}, expected {known}"
        advice = "remove it, and it will be downloaded" if local else "download it by other means"
        problems.at(path).add(f"{text}; {advice}", waivable=bool(local))
    return data.decode("utf-8-sig", "replace")


def _local_fold_csv(k, folders):
    """The path of the official split csv of `k` folds in the folders that the user gave, or None."""
    name = OFFICIAL_FILES[f"fold_{k}"].name
    paths = [os.path.join(_folder_of(f), *inner, name) for f in folders for inner in ((), ("official_splits",))]
    return next((path for path in paths if _is_file(path)), None)


def _read_fold_csv(k, text, problems):
    """{image id: (label, fold)}"""
    table = {}
    header = ["file-name", "class-name", "split-index"]
    for line, cells in _csv_rows(f"{k}_fold_split.csv", text, ";", header, problems) or ():
        name, finding, fold = (*cells, "", "")[:3]
        match = _IMAGE_NAME.fullmatch(name)
        if not match:
            line.add(f"{name!r} is not an image name; expected <uuid>.jpg")
        elif finding not in _FINDING_OF:
            line.add(f"unknown class name {finding!r}; expected one of the 23")
        elif fold not in map(str, range(k)):
            line.add(f"split index {fold!r}; expected 0 to {k - 1}")
        elif match[1] in table:
            line.add(f"{name} is listed twice")
        else:
            table[match[1]] = _FINDING_OF[finding], int(fold)
    return table


KVASIR_SEG_FILE = "kvasir_seg.csv"


class KvasirSeg(NamedTuple):
    """The name of a segmented image in Kvasir-SEG, and its set in the official split there."""

    kvasir_seg_id: Optional[str]
    kvasir_seg_set: Optional[str]


def read_kvasir_seg(folder: Optional[str] = None) -> Dict[str, KvasirSeg]:
    """{image id: its name and set in Kvasir-SEG}, from this project's `dataset_card/kvasir_seg.csv`.

    The file is looked for in `folder` (of a loading script, where it was before the loader copied it) and beside this
    module, with or without `dataset_card/`. Raises SourceError where it is in neither. The sets are those of
    github.com/DebeshJha/ColonSegNet, `train.txt` and `val.txt` at commit bfee960. Which image is which was found by
    this project, by comparing the files of both datasets.
    """
    folders = [place for place in (folder, os.path.dirname(os.path.abspath(__file__))) if place]
    paths = [os.path.join(*above, KVASIR_SEG_FILE) for f in folders for above in ((f, "dataset_card"), (f,))]
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        text = f"{KVASIR_SEG_FILE} is missing: the segmented images need it for their names and sets in Kvasir-SEG"
        raise SourceError([f"{text}; copy it from dataset_card/ of this project to {os.path.dirname(paths[-1])}"])
    with open(path, encoding="utf-8", newline="") as file:
        return {row.pop("image_id"): KvasirSeg(**row) for row in csv.DictReader(file)}


def _csv_rows(file, text, delimiter, header, problems):
    """[(problems at the line, its cells)] of a csv, without empty lines; None where it is no csv with this header."""
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        problems.at(file).add(f"not a csv file ({error}); download it again")
        lines = []
    if not lines or lines[0] != header:
        problems.at(file).add(f"starts with {lines[:1]}, expected the header {delimiter.join(header)}")
        return None
    numbered = enumerate(lines[1:], start=2)
    return [(problems.at(f"{file}, line {number}"), cells) for number, cells in numbered if cells]


# ------------------------------------------------------------------------------------------------- a part, its rows


class Row(NamedTuple):
    """An example before its bytes are read."""

    image_id: str
    image: Member
    label: Optional[int] = None
    fold_2: Optional[int] = None
    fold_5: Optional[int] = None
    kvasir_seg_id: Optional[str] = None
    kvasir_seg_set: Optional[str] = None
    mask: Optional[Member] = None
    boxes: Tuple[Tuple[int, int, int, int], ...] = ()  # xmin, ymin, xmax, ymax in pixels, as in the source
    size: Optional[Tuple[int, int]] = None  # width, height in pixels that bounding-boxes.json claims

    def known_columns(self, part: str) -> dict:
        """The columns in a part that are known before its images are read: {column: value}."""
        known = {"image_id": self.image_id}
        if part != "unlabeled":
            known.update(label=self.label, fold_2=self.fold_2, fold_5=self.fold_5)
        if part == "labeled":
            finding = TAXONOMY[self.label]
            known.update(category=CATEGORIES.index(finding.category), tract=TRACTS.index(finding.tract))
        if part == "segmented":
            known.update(kvasir_seg_id=self.kvasir_seg_id, kvasir_seg_set=self.kvasir_seg_set)
        return known


class Part(NamedTuple):
    """A part of the dataset as it lies in its archive: members by their path below its folder, rows sorted by id."""

    name: str
    archive: Archive
    members: Dict[str, Member]
    rows: List[Row]

    def fingerprint(self) -> dict:
        """What tells its source from another: `Archive.fingerprint`, and "content" of the segmented part.

        That is the sha256 over the lines "<path> <sha256 of the file>" of images/*, then masks/*, each sorted by name.
        Reads the source whole.
        """
        found = self.archive.fingerprint()
        if self.name == "segmented":
            digest = hashlib.sha256()
            for path in sorted(path for path in self.members if path.startswith(("images/", "masks/"))):
                data = self.archive.read(self.members[path])
                digest.update(f"{path} {hashlib.sha256(data).hexdigest()}\n".encode())
            found["content"] = digest.hexdigest()
        return found

    def shards(self, limits: Optional[Tuple[float, float]] = None) -> List["Shard"]:
        """Its rows cut into shards: by cell, then by the leading bits of the image id.

        A cell is of a tract, category and fold; of segmented images, of a set of Kvasir-SEG.

        The number of id ranges is the smallest power of two that keeps every shard of a cell within `limits`, those of
        the part in SHARD_LIMITS if none are given. So a new image touches one file, unless it takes that over a limit:
        then its cell is cut anew.
        """
        limits = limits or SHARD_LIMITS[self.name]
        cells: Dict[str, List[Row]] = {}
        for row in self.rows:
            cells.setdefault(_cell(self.name, row), []).append(row)
        shards = []
        for cell, rows in sorted(cells.items()):
            ranges = _id_ranges(rows, limits)
            width = max(2, len(str(len(ranges) - 1)))
            for i, chosen in enumerate(ranges):
                if chosen:
                    path = f"data/{self.name}/{cell}{i:0{width}d}.parquet"
                    shards.append(Shard(path, self.name, self.archive, tuple(chosen)))
        return shards


def read_part(
    name: str,
    archive: Archive,
    folds: Dict[str, Fold],
    expected: Expected,
    problems: Problems,
    *,
    kvasir_seg: Dict[str, "KvasirSeg"],
    with_crcs: bool = False,
) -> Part:
    """A part with its rows, from the archive's directory and small files; no image of a zip is read.

    `folds` comes from `read_folds`, `kvasir_seg` from `read_kvasir_seg`, which only the segmented part needs.
    `with_crcs`: members have their CRCs, see `Archive.list`. What is wrong goes to `problems`. Raises SourceError where
    the archive cannot be read at all.
    """
    members = archive.list(name, problems, with_crcs)
    kind = {"labeled": _LabeledReader, "segmented": _SegmentedReader, "unlabeled": _UnlabeledReader}[name]
    reader = kind(archive, members, folds, expected, problems, kvasir_seg=kvasir_seg)
    reader.check_places()
    if not any(path.lower().endswith(".jpg") for path in members):
        problems.at(archive).add(f"no image of the {name} part; {archive.instead(name)}", waivable=True)
    return Part(name, archive, members, sorted(reader.rows(), key=lambda row: row.image_id))


class _Reader:
    """Reads and checks the rows of a part."""

    folders: Tuple[str, ...] = ()  # that its images lie in; (): folders of any names

    def __init__(self, archive, members, folds, expected, problems, *, kvasir_seg):
        self.archive, self.members, self.expected = archive, members, expected
        self.folds, self.kvasir_seg = folds, kvasir_seg
        self.problems, self.elsewhere = problems.at(archive), problems

    def rows(self) -> Iterable[Row]:
        """The rows in any order; what is wrong goes to `problems`."""
        raise NotImplementedError

    def check_places(self):
        """No image may lie where it would be overlooked."""
        for path, member in self.members.items():
            inside = path.startswith(self.folders) if self.folders else "/" in path
            if path.lower().endswith((".jpg", ".jpeg")) and not inside:
                text = "an image outside the folders of this part; move or remove it"
                self.problems.at(member.name).add(text)

    def image_ids(self, prefix=""):
        """(image id, member, the folders above it) of every file below `prefix` that is an image by its name."""
        for path, member in self.members.items():
            if path.startswith(prefix) and "/" in path:
                folders, _, file = path.rpartition("/")
                match, place = _IMAGE_NAME.fullmatch(file), self.problems.at(member.name)
                if match and prefix in ("", f"{folders}/"):
                    yield match[1], member, folders
                elif match:
                    place.add(f"is in a subfolder of {prefix}; expected directly in it; move or remove the file")
                else:
                    place.add("not an image name; expected <uuid>.jpg, remove the file")

    def folds_of(self, image_id):
        return self.folds[image_id][1:] if image_id in self.folds else (None, None)

    def check_folds(self, rows):
        """Every image must be in the official folds, under its own label. It is no problem here if they list others."""
        for image_id, row in sorted(rows.items()):
            if image_id in self.folds and self.folds[image_id].label != row.label:
                inside, in_csv = FINDINGS[row.label], FINDINGS[self.folds[image_id].label]
                self.problems.add(f"{image_id} is {inside}, but {in_csv} in the fold csvs; correct one of them")
        for i, k in enumerate(FOLDS, start=1):
            without = [image_id for image_id in rows if image_id not in self.folds or self.folds[image_id][i] is None]
            if without and any(fold[i] is not None for fold in self.folds.values()):
                text = f"missing images of {self.archive}: {len(without):,} ({_few(without)})"
                self.elsewhere.at(f"{k}_fold_split.csv").add(text, waivable=True)


class _LabeledReader(_Reader):
    def rows(self):
        rows = {}
        for image_id, member, folders in self.image_ids():
            tract, category, finding = (folders.split("/") + [""] * 3)[:3]
            label = _FINDING_OF.get(finding) if folders.count("/") == 2 else None
            if label is None or (tract, category) != (TAXONOMY[label].tract, TAXONOMY[label].category):
                expected = "<tract>/<category>/<one of the 23 findings>"
                if label is not None:
                    expected = f"{TAXONOMY[label].tract}/{TAXONOMY[label].category}/{finding}"
                text = f"unknown finding folder {folders!r}; expected {expected}; move or remove the file"
                self.problems.at(member.name).add(text)
            elif image_id in rows:
                both = f"{FINDINGS[rows[image_id].label]} and {FINDINGS[label]}"
                self.problems.add(f"{image_id} is in two findings, {both}; keep one")
            else:
                rows[image_id] = Row(image_id, member, label, *self.folds_of(image_id))
        self.check_labels(rows, self.read_labels())
        self.check_folds(rows)
        return rows.values()

    def read_labels(self):
        """{image id: label} of image-labels.csv, or None without a readable one."""
        if _LABELS not in self.members:
            self.problems.add(f"labeled-images/{_LABELS} is missing; it lists the labels", waivable=True)
            return None
        text = self.archive.read(self.members[_LABELS]).decode("utf-8-sig", "replace")
        header = ["Video file", "Organ", "Finding", "Classification"]
        lines = _csv_rows(_LABELS, text, ",", header, self.problems)
        if lines is None:
            return None
        listed = {}
        for line, cells in lines:
            image_id, organ, finding, category = (*cells, "", "", "")[:4]
            label = _FINDING_OF.get(finding)
            if label is None or len(cells) != 4:
                line.add(f"unknown finding {finding!r} in {','.join(cells)!r}; expected one of the 23")
            elif (organ, category) != (_ORGANS[TAXONOMY[label].tract], TAXONOMY[label].category):
                of = f"{_ORGANS[TAXONOMY[label].tract]}, {TAXONOMY[label].category}"
                line.add(f"{finding} is listed under {organ}, {category}; expected {of}")
            elif image_id in listed:
                line.add(f"{image_id} is listed twice")
            else:
                listed[image_id] = label
        return listed

    def check_labels(self, rows, listed):
        """Folders against image-labels.csv, and both against the expected counts: one problem a finding."""
        for image_id in sorted(set(rows) & set(listed or ())):
            if listed[image_id] != rows[image_id].label:
                inside, in_csv = FINDINGS[rows[image_id].label], FINDINGS[listed[image_id]]
                text = f"{image_id} is in folder {inside}, but {in_csv} in {_LABELS}; correct one of them"
                self.problems.add(text)
        unlisted = set(rows) - set(listed) if listed is not None else set()
        for label, finding in enumerate(FINDINGS):
            found = {image_id for image_id, row in rows.items() if row.label == label}
            absent = {image_id for image_id, listed_as in (listed or {}).items() if listed_as == label} - set(rows)
            surplus = found & unlisted
            texts = []
            if len(found) != self.expected.findings[finding]:
                texts.append(f"{len(found):,} found, expected {self.expected.findings[finding]:,} images")
            if absent:
                texts.append(f"listed in {_LABELS} but missing: {len(absent):,} ({_few(absent)})")
            if surplus:
                texts.append(f"not listed in {_LABELS}: {len(surplus):,} ({_few(surplus)})")
            if texts:
                self.problems.at(finding).add("; ".join(texts), waivable=True)


class _SegmentedReader(_Reader):
    folders = ("images/", "masks/")

    def rows(self):
        boxes = self.read_boxes()
        masks = {image_id: member for image_id, member, _ in self.image_ids("masks/")}
        images = {image_id: member for image_id, member, _ in self.image_ids("images/")}
        rows = {}
        for image_id, member in images.items():
            size, corners = (boxes or {}).get(image_id, (None, ()))
            wrong = list(_wrong_boxes(size, corners)) if boxes is not None else []
            for text in wrong:
                self.problems.at(_BOXES).at(image_id).add(text)
            if image_id not in masks:
                self.problems.at(member.name).add(f"its mask masks/{image_id}.jpg is missing")
            elif size and not wrong:
                names = self.kvasir_seg.get(image_id, KvasirSeg(None, None))
                rows[image_id] = Row(
                    image_id, member, POLYPS, *self.folds_of(image_id), *names, masks[image_id], corners, size
                )
        for what, ids in (("masks", masks), ("boxes", boxes or {})):
            alone = set(ids) - set(images)
            if alone:
                self.problems.add(f"{what} without an image: {len(alone):,} ({_few(alone)})", waivable=True)
        found = None if boxes is None else sum(len(corners) for _, corners in boxes.values())
        for what, number, official in (
            ("images", len(images), self.expected.segmented),
            ("boxes", found, self.expected.boxes),
        ):
            if number not in (None, official):
                self.problems.add(f"segmented part: {number:,} {what}, expected {official:,}", waivable=True)
        self.check_folds(rows)
        self.check_kvasir_seg(rows)
        return rows.values()

    def check_kvasir_seg(self, rows):
        """Every image must be one of Kvasir-SEG's, and each of its sets be whole."""
        unknown = set(rows) - set(self.kvasir_seg)
        if unknown:
            text = (
                f"not among the images of Kvasir-SEG that {KVASIR_SEG_FILE} lists: {len(unknown):,} ({_few(unknown)})"
            )
            self.problems.add(text, waivable=True)
        found = [sum(row.kvasir_seg_set == name for row in rows.values()) for name in KVASIR_SEG_SETS]
        if found != self.expected.kvasir_seg_set and len(rows) == self.expected.segmented:
            text = f"sets of Kvasir-SEG of {found} images, expected {self.expected.kvasir_seg_set}"
            self.problems.add(text, waivable=True)

    def read_boxes(self):
        """{image id: ((width, height), corner boxes)} of bounding-boxes.json, or None without a readable one."""
        if _BOXES not in self.members:
            self.problems.add(f"segmented-images/{_BOXES} is missing; download the archive again")
            return None
        place, data = self.problems.at(_BOXES), self.archive.read(self.members[_BOXES])
        known, found = self.expected.sources.get(_BOXES), hashlib.sha256(data).hexdigest()
        if known and found != known["sha256"]:
            text = f"not the official {_BOXES}: sha256 {found}, expected {known['sha256']}"
            place.add(f"{text}; download the archive again", waivable=True)
        try:
            entries = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_distinct)
            if not isinstance(entries, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            wrong = f"byte {error.start} is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            place.add(f"malformed ({wrong}); expected {{id: {_BOXES_FORM}}}; download the archive again")
            return None
        boxes, good = {}, True
        for image_id, entry in entries.items():
            try:
                boxes[image_id] = _boxes_of(entry)
            except (ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
                what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                place.at(image_id).add(f"malformed ({what}); expected {_BOXES_FORM}")
                good = False
        return boxes if good else None


_BOXES_FORM = '{"height", "width", "bbox": [{"label": "polyp", "xmin", "ymin", "xmax", "ymax"}]}'


def _distinct(pairs):
    """A JSON object, of which no key may be there twice: Python would take the last."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} is there twice")
        found[name] = value
    return found


class _UnlabeledReader(_Reader):
    folders = ("images/",)

    def rows(self):
        rows = [Row(image_id, member) for image_id, member, _ in self.image_ids("images/")]
        if len(rows) != self.expected.unlabeled:
            text = f"unlabeled part: {len(rows):,} images, expected {self.expected.unlabeled:,}"
            self.problems.add(text, waivable=True)
        return rows


def _boxes_of(entry):
    corners = []
    for box in entry["bbox"]:
        if box["label"] != "polyp":
            raise ValueError(f"label {box['label']!r}")
        corners.append(tuple(_whole(box[side]) for side in ("xmin", "ymin", "xmax", "ymax")))
    return (_whole(entry["width"]), _whole(entry["height"])), tuple(corners)


def _whole(number):
    """A JSON number of pixels. Boxes are kept as they are, so nothing is rounded."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or int(number) != number:
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


# ------------------------------------------------------------------------------------------------------------ shards

# One row group a file, for apache/arrow#45214: streaming a file of several hangs when the program ends. So files are
# kept small enough to be read at once, which also mixes and shares them better.
# The most bytes and images of a file, by part. By `scripts.bench streams`, the entropy of labels that are streamed with
# the card's buffer of 600 images is 93.9% of full with 32 MB (205 files), 97.1% with 16 MB (521), and 97.8% with 32 MB
# and 64 images (329). Others need that measured again, and `mixed` in dataset_card/metadata.yaml.
SHARD_LIMITS = {"labeled": (32 << 20, 64), "segmented": (64 << 20, math.inf), "unlabeled": (64 << 20, math.inf)}


class Shard(NamedTuple):
    """A Parquet file to be written: rows of one cell, sorted by image id. Its bytes follow from these fields."""

    path: str  # in the repository
    part: str
    archive: Archive
    rows: Tuple[Row, ...]

    @property
    def image_bytes(self) -> int:
        """Bytes of its images, nearly the size of its file."""
        return _image_bytes(self.rows)


def _image_bytes(rows):
    return sum(row.image.size for row in rows)


def _cell(part, row):
    if part == "unlabeled":
        return ""
    if part == "segmented":
        return f"{row.kvasir_seg_set or 'none'}_"
    finding = TAXONOMY[row.label]
    folds = "_".join(f"fold{k}-{'none' if fold is None else fold}" for k, fold in zip(FOLDS, (row.fold_2, row.fold_5)))
    return f"{finding.tract}/{finding.category}/{folds}_"


def _id_ranges(rows, limits):
    most_bytes, most_images = limits
    for bits in range(17):
        ranges: List[List[Row]] = [[] for _ in range(1 << bits)]
        for row in rows:
            ranges[int(row.image_id[:8], 16) >> (32 - bits)].append(row)
        if all(len(r) < 2 or len(r) <= most_images and _image_bytes(r) <= most_bytes for r in ranges):
            break
    return ranges


# ---------------------------------------------------------------------------------------------------------- examples


def read_examples(
    shard: Shard, rows: Sequence[Row], problems: Problems, *, decode: bool = False, at_once: int = 1
) -> pa.Table:
    """Some rows of a shard as an Arrow table with the features of its part. What is wrong goes to `problems`.

    `decode`: every image is decoded, to find damage that no digest would show. `at_once`: so many rows are read at
    once, for reading that waits for a network.

    Tables are made of Arrow structs, not by Image.encode_example, which drops the bytes if the current folder holds a
    file named like `path`.
    """

    def read(row):
        try:
            return _example(shard, row, decode)
        except SourceError as error:
            return error

    examples = {}
    by_place = sorted(rows, key=lambda row: row.image.start)  # in archive order, which suits disks and Range requests
    for row, example in zip(by_place, _mapped(read, by_place, at_once)):
        if isinstance(example, SourceError):
            problems.extend(example.problems)
        else:
            examples[row.image_id] = example
    ordered = [examples[row.image_id] for row in rows if row.image_id in examples]
    schema = features_of(shard.part).arrow_schema
    images = [_image_array(example.pop("image")) for example in ordered]
    others = schema.remove(schema.get_field_index("image"))
    table = pa.Table.from_pylist(ordered, schema=others)
    column = pa.chunked_array(images, schema.field("image").type)
    return table.add_column(schema.get_field_index("image"), schema.field("image"), column).cast(schema)


def _mapped(function, items, at_once):
    """What a function gives of each item, `at_once` of them in threads, which an error or Ctrl-C ends."""
    if at_once == 1:
        return map(function, items)
    stop = threading.Event()
    threads = ThreadPoolExecutor(at_once, initializer=setattr, initargs=(_thread, "stop", stop))
    jobs = [threads.submit(function, item) for item in items]
    try:
        return [job.result() for job in jobs]
    finally:
        stop.set()
        for job in jobs:
            job.cancel()
        threads.shutdown(wait=False)


def _image_array(image):
    """A struct array of one image, over its bytes as they are: copying them would cost a tenth of the build."""
    data = image["bytes"]
    offsets = pa.array([0, len(data)], pa.int32()).buffers()[1]
    values = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])
    return pa.StructArray.from_arrays([values, pa.array([image["path"]])], ["bytes", "path"])


def _example(shard, row, decode):
    archive = shard.archive
    data = archive.read(row.image)
    width, height = _image_size(data, archive, row.image, decode)
    image = {"bytes": data, "path": f"{row.image_id}.jpg"}
    example = {**row.known_columns(shard.part), "image": image, "width": width, "height": height}
    if shard.part == "segmented":
        mask = _read_mask(archive, row, (width, height), decode)
        try:
            pictures = {"mask": Image.fromarray(mask * np.uint8(255)), "instances": instance_map(mask)}
        except ValueError as error:
            raise archive.error(row.mask.name, f"{error}; expected a few polyps at most") from error
        for name, picture in pictures.items():
            example[name] = {"bytes": _png(picture), "path": f"{row.image_id}.png"}
        example["objects"] = _objects(archive, row, (width, height))
    return example


def jpeg_size(data: bytes) -> Tuple[int, int]:
    """(width, height) in pixels of a whole JPEG. Raises ValueError for anything else, saying why."""
    if not data:
        raise ValueError("it has zero bytes")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if not data.endswith(b"\xff\xd9"):  # no end-of-image marker: only decoding tells whether it is whole
                image.load()
            if image.getexif().get(_ORIENTATION, 1) != 1:  # no official image has one; datasets would turn it
                raise ValueError("its EXIF orientation turns it away from its mask and size; remove that tag")
            return image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("it is not a JPEG" if "cannot identify" in str(error) else str(error)) from error


def check_jpeg(data: bytes) -> Tuple[int, int]:
    """As `jpeg_size`, of a JPEG that is decoded to its last bit: what libjpeg only warns of is an error, too.

    At 1/8 of the size, in grey: damage shows when the entropy coding is undone, and that is the same at every size; it
    takes a third of the time. Without simplejpeg, which finds all of this, finds what Pillow does.
    """
    size, markers = jpeg_size(data), _markers(data)
    if not markers & {0xC0, 0xC1, 0xC2} or 0xC4 not in markers:
        raise ValueError("it is not coded as JPEGs are; expected baseline or progressive, with its Huffman tables")
    try:
        if simplejpeg is None:
            Image.open(io.BytesIO(data)).load()
        else:
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    return size


_ORIENTATION = 0x0112  # the EXIF tag
_NOISE = 16  # of JPEG in masks: official ones have values of 0 to 8 and 246 to 255


def _markers(data):
    """The markers of a JPEG's segments up to its first scan."""
    markers, at = set(), 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        marker = data[at + 1 : at + 2]
        markers.update(marker)
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")  # after ff: a fill byte
    return markers


def _image_size(data, archive, member, decode):
    try:
        return check_jpeg(data) if decode else jpeg_size(data)
    except ValueError as error:
        text = f"expected a whole JPEG image: {error}; download the archive again"
        raise archive.error(member.name, text) from error


def _read_mask(archive, row, size, decode):
    """The mask of a row as bool, height x width: JPEG noise cut at 128, a stray pixel at (0, 0) (143 masks) dropped."""
    name, data = row.mask.name, archive.read(row.mask)
    found = _image_size(data, archive, row.mask, decode)
    if found != size:
        raise archive.error(name, f"mask of {found[0]} x {found[1]} pixels, its image has {size[0]} x {size[1]}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            grey = np.asarray(image.convert("L"))
    except OSError as error:
        raise archive.error(name, f"cannot be decoded ({error}); download the archive again") from error
    between = np.count_nonzero((grey >= _NOISE) & (grey < 256 - _NOISE))
    if between:
        text = f"{between:,} pixels are neither black nor white; expected a mask in black and white"
        raise archive.error(name, text)
    mask = grey >= 128
    if mask[:2, :2].sum() == 1:
        mask[0, 0] = False
    if not mask.any():
        raise archive.error(name, "empty mask; expected at least one polyp")
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


# Of instances 1, 2, ..., repeated beyond ten, on black. Chosen so that any two differ by at least 22 in Lab (CIE76), as
# color-blind people see them, too (Machado et al. 2009); Okabe and Ito's differ by 16.
INSTANCE_COLORS = (
    "#55bbff", "#ff7700", "#ffddbb", "#9900ff", "#557755", "#bbff77", "#bb5599", "#999955", "#dd0000", "#5577dd",
)  # fmt: skip


def instance_map(mask: np.ndarray) -> Image.Image:
    """The components of a bool mask, see `label_components`, as indices of a palette: mode P, `np.asarray` gives them.

    As in Pascal VOC, a viewer then shows colors. The Hub's turns images into JPEG, where 1 of 255 is black, but not
    those with a palette.
    """
    components = label_components(mask)
    image = Image.fromarray(np.ascontiguousarray(components))
    colors = [INSTANCE_COLORS[number % len(INSTANCE_COLORS)] for number in range(int(components.max()))]
    image.putpalette(bytes.fromhex("".join(color[1:] for color in ("#000000", *colors))))
    return image


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _objects(archive, row, size):
    """The source's boxes, [x, y, width, height] in pixels. They are kept as they are, even where the mask disagrees."""
    if row.size != size:
        text = f"{row.image_id}: image of {row.size[0]} x {row.size[1]} pixels, expected {size[0]} x {size[1]}"
        raise archive.error(_BOXES, text)
    boxes = [[xmin, ymin, xmax - xmin, ymax - ymin] for xmin, ymin, xmax, ymax in row.boxes]
    return {
        "id": list(range(len(boxes))),
        "bbox": boxes,
        "area": [width * height for _, _, width, height in boxes],
        "category": [0] * len(boxes),
    }
