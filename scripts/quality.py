"""Looks at every image once, and writes what it finds as the config `metadata`, and reports.

    python -m scripts.quality --source archives --out dist/hyper-kvasir

Into a built folder, of the parts that it holds, or into a new one, of all; or of the parts of the configs given. A row
for each distinct image, without pixels, joined to the others by `image_id`: facts about file and picture; which images
show the same frame, or the same scene, with the evidence for each pair; grouped folds, which keep every scene on one
side; Kvasir-SEG's ids and sets, and a clean variant of these.

Images that cannot be decoded are listed, and then nothing is written; with --no-verify, their rows are left out. After
a kill, or with other images, run it again: it looks at what is new. Burned-in dates and names are never read.
"""

import os
import shlex

from hyper_kvasir import Expected
from scripts.pipeline import leaks
from scripts.pipeline.build import BuildError, build
from scripts.pipeline.configs import METADATA, VIEWS, parts_of
from scripts.pipeline.console import (
    add_expect,
    add_source,
    add_workers,
    check_sources_exist,
    command_parser,
    refusing,
    run,
    say,
)


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.quality", __doc__)
    add_source(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write: new, or one built before")
    parser.add_argument(
        "--config",
        action="append",
        choices=[config for config in VIEWS if config != METADATA],
        metavar="NAME",
        help="look at the part of this config; repeatable; default: what the folder holds, or all",
    )
    parser.add_argument(
        "--folds-from", metavar="FILE", help="a metadata file published before, whose grouped folds are kept"
    )
    add_workers(parser)
    parser.add_argument("--no-verify", action="store_true", help="go on over what is missing or cannot be decoded")
    add_expect(parser)
    args = parser.parse_args(arguments)
    check_sources_exist(parser, args.source)
    build(
        args.source,
        args.out,
        [METADATA],
        workers=args.workers,
        checks=not args.no_verify,
        expected=Expected.load(args.expect),
        looked=parts_of(args.config or ()),
        folds_from=args.folds_from,
    )
    print(leaks.report(leaks.read_rows(os.path.join(args.out, leaks.METADATA_FILE))))
    say(f"wrote metadata into {args.out}; next: python -m scripts.verify {shlex.quote(args.out)}")
    return 0


if __name__ == "__main__":
    run(main)
