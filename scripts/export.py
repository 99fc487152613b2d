"""Exports a config of the dataset to the layout that another tool reads.

    python -m scripts.export dist/hyper-kvasir coco --config kvasir_seg --to kvasir-seg-coco
    python -m scripts.export ns/hyper-kvasir@v1.0.0 yolo --config kvasir_seg_clean --to kvasir-seg-yolo

Of a built folder, or of a dataset repository at a tag, branch or commit (main), of which only the files that are needed
are read. Splits of the config become those of the format. Image files are the dataset's, byte for byte, but for nnunet,
which takes PNG. Each export has a README.md that says what is where, with code that reads it.

formats, and the configs that each takes:
{formats}

The configs are those of the dataset, and where it has metadata, splits without leaks: {grouped}.

The folder gets its name when all is in it. After a kill, the same command goes on where it was.
scripts/export-requirements.txt has what this needs beyond the other requirements.
"""

from huggingface_hub.errors import HTTPError

from scripts.pipeline.console import command_parser, refusing, run
from scripts.pipeline.export.choose import CONFIGS, GROUPED
from scripts.pipeline.export.formats import FORMATS
from scripts.pipeline.export.run import export
from scripts.pipeline.hub import PublishError, explain
from scripts.pipeline.output import BuildError
from scripts.pipeline.versions import named_version


@refusing(BuildError, PublishError, ValueError, OSError, HTTPError, ImportError, explained=explain)
def main(arguments=None) -> int:
    of = {name: ", ".join(c for c, part in CONFIGS.items() if part in form.parts) for name, form in FORMATS.items()}
    formats = "\n".join(f"  {name:12} {configs}" for name, configs in of.items())
    text = __doc__.format(formats=formats, grouped=", ".join(GROUPED))
    parser = command_parser("python -m scripts.export", text)
    parser.add_argument("dataset", metavar="DIR or NS/NAME[@REV]", help="what to export")
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help="one of the above")
    parser.add_argument("--config", required=True, choices=CONFIGS, metavar="NAME", help="one of the above")
    parser.add_argument("--split", metavar="NAME", help="this split alone (default: all of the config)")
    parser.add_argument("--to", required=True, metavar="DIR", help="the folder to write")
    args = parser.parse_args(arguments)
    done = export(named_version(args.dataset), args.format, args.config, args.to, split=args.split)
    images = ", ".join(f"{split} {number:,}" for split, number in done.images.items())
    print(f"exported {args.to}: {images}" if done.new else f"{args.to}: is there already, nothing to do: {images}")
    return 0


if __name__ == "__main__":
    run(main)
