"""The configs of a built folder: the views of `hyper_kvasir`, and `metadata`, which takes a pass over all images.

The builder has no `metadata`: what it needs to look at images and to compare them is no package of the loader.
"""

from collections.abc import Iterable

import datasets

from hyper_kvasir import PARTS
from hyper_kvasir import VIEWS as BUILT
from hyper_kvasir import features_of as built_features_of

METADATA = "metadata"
VIEWS = {
    **BUILT,
    METADATA: BUILT["unlabeled"]._replace(  # as that, it has one split of all rows
        part=METADATA,
        description="A row for each distinct image, no pixels: facts, images of the same frame or scene, folds.",
        files=f"data/{METADATA}/*.parquet",
    ),
}
ORIGINAL_SIZE = ("original_width", "original_height")  # columns of the small edition
KINDS = ("same_frame", "same_scene")  # of pairs; what is the same frame is the same scene, too


def features_of(config: str, small: bool = False) -> datasets.Features:
    """The columns of a config, or those that it has in the small edition."""
    if config != METADATA:
        columns = built_features_of(config)
        sizes = dict.fromkeys(ORIGINAL_SIZE, columns["width"]) if small else {}
        return datasets.Features({**columns, **sizes})
    text, number, share = datasets.Value("string"), datasets.Value("int32"), datasets.Value("float32")
    fold, groups = datasets.Value("int8"), built_features_of("labeled")
    return datasets.Features(
        {
            "image_id": text,
            "parts": datasets.Sequence(text),
            **{name: groups[name] for name in ("label", "category", "tract", "fold_2", "fold_5")},
            "fold_2_grouped": fold,
            "fold_5_grouped": fold,
            "kvasir_seg_id": text,
            "kvasir_seg_set": text,
            "kvasir_seg_clean": text,
            "same_frame_group": text,
            "scene_group": text,
            "pairs": datasets.Sequence(
                {
                    "image_id": text,
                    "kind": datasets.ClassLabel(names=list(KINDS)),
                    "matches": number,
                    "inliers": number,
                    "log10_chance": share,
                    "correlation": share,
                    "scale": share,
                    "transform": datasets.Sequence(share, length=6),
                    "mask_iou": share,
                }
            ),
            "sha256": text,
            "phash": text,
            "bytes": number,
            "width": number,
            "height": number,
            "jfif": datasets.Value("bool"),
            "quality": fold,
            "subsampling": text,
            "bits_per_pixel": share,
            "black_share": share,
            "green_share": share,
            "black_rectangle": share,
            "brightness": share,
            "blur": share,
        }
    )


def looked_parts(configs: Iterable[str], manifest: dict | None = None) -> list[str]:
    """The parts that `metadata` is of, if that is built: those of all configs that are built, and of a manifest.

    These include the parts that only its `metadata` is of. All parts, if there are no others.
    """
    if METADATA not in configs:
        return []
    held = [*manifest["configs"], *manifest["sources"]] if manifest else []  # the name of a part is that of a config
    parts = parts_of([*configs, *held])
    return [part for part in PARTS if part in parts] or list(PARTS)


def parts_of(configs: Iterable[str]) -> list[str]:
    """The parts that configs take their rows from, in the order given."""
    return list(dict.fromkeys(VIEWS[config].part for config in configs))
