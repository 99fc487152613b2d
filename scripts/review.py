"""Writes the review page of a built folder, to look through before publishing.

    python -m scripts.review dist/hyper-kvasir --to review.html
    python -m scripts.review dist/hyper-kvasir --to review.html --against ns/hyper-kvasir@v1.0.0

Holds the counts expected and found, every problem that scripts.verify finds, the folder's figures, an image of each
finding, and all images: every labeled and segmented one, 1,000 unlabeled ones and those that a problem names (with
--all, every one), as tiles that can be filtered, and in a large view; segmented ones at full resolution, with mask,
instances and boxes.

Pictures of more than 20 MB are put into a folder beside the page, review_files/ of review.html: keep the two together.
The page opens from disk, and its content security policy blocks network access. With --against, rows that were added,
removed or changed since another version are shown; only files that differ are read. Exits with 0 once the page is
written, whatever it says.
"""

import functools

from huggingface_hub.errors import HTTPError

from hyper_kvasir import Expected
from scripts.pipeline.console import add_expect, add_workers, command_parser, refusing, run
from scripts.pipeline.hub import PublishError, explain
from scripts.pipeline.manifest import built_manifest, edition_of
from scripts.pipeline.output import BuildError
from scripts.pipeline.review.compare import compare
from scripts.pipeline.review.page import write_review
from scripts.pipeline.versions import Version, named_version


@refusing(BuildError, PublishError, ValueError, OSError, HTTPError, explained=explain)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.review", __doc__)
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    parser.add_argument("--to", required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--all", action="store_true", help="show every unlabeled image, and not 1,000 of them")
    parser.add_argument(
        "--against",
        metavar="DIR or NS/NAME[@REV]",
        help="compare with another built folder, or with a dataset repository at a tag, branch or commit (main)",
    )
    add_workers(parser)
    add_expect(parser)
    args = parser.parse_args(arguments)
    expected = Expected.load(args.expect)
    before = named_version(args.against) if args.against else None
    if before:
        check_same_edition(before, built_manifest(args.folder))
    compared = functools.partial(compare, before) if before else None
    status, written = write_review(args.folder, expected, args.workers, args.to, every=args.all, compare=compared)
    print(f"wrote {written}: {status}")
    return 0


def check_same_edition(before: Version, manifest: dict) -> None:
    """Raises ValueError where images were scaled that are not now, or the other way round: all rows differ then."""
    one, other = edition_of(before.manifest), edition_of(manifest)
    if one != other:
        raise ValueError(f"{before.name}: holds {one}, and this is of {other}; compare with one of the same")


if __name__ == "__main__":
    run(main)
