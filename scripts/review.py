"""Writes the review page of a built folder: one HTML file to look through before publishing.

    python -m scripts.review dist/hyper-kvasir --to review.html

Holds the counts expected and found, every problem that scripts.verify finds, the folder's figures, an image of each
finding, and a browser of the segmented images with mask, instances and boxes. The page is self-contained: it opens
from disk, and its content security policy blocks network access. Exits with 0 once the page is written, whatever it
says.
"""

import os

from hyper_kvasir import Expected
from scripts.pipeline.console import add_expect, add_workers, command_parser, refusing, run
from scripts.pipeline.output import BuildError
from scripts.pipeline.review import write_review


@refusing(BuildError, ValueError, OSError)
def main(arguments=None) -> int:
    parser = command_parser("python -m scripts.review", __doc__)
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    parser.add_argument("--to", required=True, metavar="FILE", help="the HTML file to write")
    add_workers(parser)
    add_expect(parser)
    args = parser.parse_args(arguments)
    status = write_review(args.folder, Expected.load(args.expect), args.workers, args.to)
    print(f"wrote {args.to} ({os.path.getsize(args.to) / 1e6:.1f} MB): {status}")
    return 0


if __name__ == "__main__":
    run(main)
