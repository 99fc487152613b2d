"""Writes the review page of a built folder: one HTML file to look through before publishing, or out of curiosity.

    python -m scripts.review dist/hyper-kvasir --to review.html

Holds the counts expected and found, every problem that scripts.verify finds, the folder's figures, an image of each
finding, and a browser of the segmented images with mask, instances and boxes. The file holds everything itself: it
opens from disk, and its policy forbids any network access. Exits with 0 once the page is written, whatever it says.
"""

import argparse
import os

from hyper_kvasir import Expected
from scripts.pipeline.console import run, say
from scripts.pipeline.review import write_review


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.review", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote")
    parser.add_argument("--to", required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON of the numbers to check against in place of the official ones"
    )
    args = parser.parse_args(arguments)
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        status = write_review(args.folder, Expected.load(args.expect), args.workers, args.to)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return 1
    print(f"{args.to}: {os.path.getsize(args.to) / 1e6:.1f} MB: {status}")
    return 0


if __name__ == "__main__":
    run(main)
