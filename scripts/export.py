"""Exports a config of the dataset to the layout that another tool reads.

    python -m scripts.export dist/hyper-kvasir coco --config kvasir_seg --to kvasir-seg-coco
    python -m scripts.export ns/hyper-kvasir@v1.0.0 yolo --config kvasir_seg_clean --to kvasir-seg-yolo

Of a built folder, or of a dataset repository at a tag, branch or commit (main), of which only the files that are needed
are read. Splits of the config become those of the format. Image files are the dataset's, byte for byte, but for nnunet,
which takes PNG. Each export has a README.md that says what is where, with code that reads it.

formats:
  coco         the boxes of the source, and each polyp of the masks as RLE, with the box around it
  yolo         the boxes of the source, for Ultralytics
  yolo-seg     each polyp of the masks as a polygon, for Ultralytics
  pascal-voc   the boxes of the source, masks and instances
  png-masks    images, masks and instances, in folders with the same names of files
  nnunet       images and masks for nnU-Net version 2; give it a folder that is named as Dataset501_KvasirSEG is
  monai        a datalist of images with masks, or with numbers of findings
  webdataset   tars
  imagefolder  folders of images for datasets; of labeled images also for ImageFolder of torchvision
  fiftyone     as coco, in the layout that FiftyOne imports

configs: imagefolder and webdataset take all but metadata: labeled, tract, category, fold_2, fold_5, segmented,
kvasir_seg and unlabeled; monai all of these but unlabeled. The others need masks: segmented, or kvasir_seg with
Kvasir-SEG's split. Of a dataset with metadata there are splits without leaks, too: kvasir_seg_clean, and of labeled
images fold_2_grouped and fold_5_grouped.

The folder gets its name when all is in it. After a kill, the same command goes on where it was. An export that is
finished is not looked through again.
scripts/export-requirements.txt has what this needs beyond the other requirements.
"""

import os

from huggingface_hub.errors import HTTPError

from scripts.pipeline.console import command_parser, refusing, run
from scripts.pipeline.export.choose import CONFIGS
from scripts.pipeline.export.formats import FORMATS
from scripts.pipeline.export.run import export
from scripts.pipeline.hub import PublishError, explain
from scripts.pipeline.output import BuildError, check_beside
from scripts.pipeline.versions import named_version


@refusing(BuildError, PublishError, ValueError, OSError, HTTPError, ImportError, explained=explain)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.export", __doc__)
    parser.add_argument("dataset", metavar="DIR or NS/NAME[@REV]", help="what to export")
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help="one of the above")
    parser.add_argument("--config", required=True, choices=CONFIGS, metavar="NAME", help="one of the above")
    parser.add_argument("--split", metavar="NAME", help="this split alone (default: all of the config)")
    parser.add_argument("--to", required=True, metavar="DIR", help="the folder to write")
    args = parser.parse_args(arguments)
    if os.path.isdir(args.dataset):
        check_beside(args.to, [args.dataset])
    done = export(named_version(args.dataset), args.format, args.config, args.to, split=args.split)
    images = ", ".join(f"{split} {number:,}" for split, number in done.images.items())
    print(f"exported {args.to}: {images}" if done.new else f"{args.to}: is there already, nothing to do: {images}")
    return 0


if __name__ == "__main__":
    run(main)
