"""Publishes a built folder to the Hub: one commit, one tag, only what changed.

    python -m scripts.publish dist/hyper-kvasir --repo-id ns/hyper-kvasir --version 1.0.0 --dry-run
    python -m scripts.publish dist/hyper-kvasir --repo-id ns/hyper-kvasir --version 1.0.0

The plan (files kept, added, deleted; bytes) is printed before anything is sent; --dry-run ends there. Then files that
the Hub lacks are uploaded, one commit is made, read back as a reader would (every config loads and streams), and tagged
vX.Y.Z. A publication that was killed goes on where it was when it is run again: nothing is sent twice.

Refused: a folder that does not verify; a version that is tagged, has no entry in dataset_card/CHANGELOG.md, or is too
small a step (MAJOR where rows changed or are gone, MINOR where rows, columns or configs are new); a repository of
something else; a token that may not write. The token is that of `hf auth login` or HF_TOKEN.

    python -m scripts.publish work --repo-id ns/hyper-kvasir --version 2.0.0 --source archives --build-and-upload

With --source, only parts whose inputs changed since the published version are built, below DIR; unchanged ones are
neither built nor downloaded. With --build-and-upload too, parts are built, uploaded and removed some at a time, which
takes less than 1 GB of disk beyond the archives.
"""

import argparse
import os

from httpx2 import TransportError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OIDCError

from hyper_kvasir import CONFIGS, Expected
from scripts.pipeline.console import run, say
from scripts.pipeline.hub import (
    Target,
    check_changelog,
    check_token,
    parse_version,
    publish,
)
from scripts.pipeline.release import Edition, Sources, folder_release, source_release

CHANGELOG = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dataset_card", "CHANGELOG.md")


def main(arguments=None) -> int:
    args = parse(arguments)
    try:
        parse_version(args.version)
        with open(args.changelog, encoding="utf-8") as file:
            edition = Edition(args.version, args.repo_id, file.read())
        check_changelog(args.version, edition.changelog)
        api = HfApi()  # asks for the token at each request: one of a trusted publisher lasts an hour, and is renewed
        if not args.dry_run:
            say(f"publishing as {check_token(api)}")
        print(
            publish(
                api, Target(args.repo_id, args.branch, args.private), release_maker(api, args, edition), args.dry_run
            )
        )
    except (RuntimeError, ValueError, HfHubHTTPError, HFValidationError, TransportError, OIDCError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", help="a folder that scripts.build wrote; with --source, a work folder")
    parser.add_argument("--repo-id", required=True, metavar="NS/NAME", help="the dataset repository, made if not there")
    parser.add_argument("--version", required=True, metavar="X.Y.Z", help="becomes the tag vX.Y.Z, which never moves")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", default="main", metavar="B", help="the branch to commit to (default: %(default)s)")
    parser.add_argument("--source", action="append", metavar="DIR", help="build from these archives what changed")
    parser.add_argument("--config", action="append", choices=CONFIGS, metavar="NAME", help="with --source: default all")
    parser.add_argument("--build-and-upload", action="store_true", help="with --source: part by part, for small disks")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON of the numbers to check against in place of the official ones"
    )
    parser.add_argument("--changelog", metavar="FILE", default=CHANGELOG, help="default: dataset_card/CHANGELOG.md")
    args = parser.parse_args(arguments)
    if args.build_and_upload and (not args.source or args.dry_run):
        parser.error("--build-and-upload goes with --source, and not with --dry-run")
    if args.config and not args.source:
        parser.error("--config goes with --source")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    for source in args.source or ():
        if not os.path.exists(source):
            parser.error(f"--source {source}: no such folder")
    return args


def release_maker(api, args, edition):
    """A function from the repository's state to the release that shall replace it."""
    expected = Expected.load(args.expect)
    if not args.source:
        release = folder_release(args.folder, edition, expected, args.workers)
        return lambda remote: release
    sources = Sources(
        args.source, args.folder, args.config or CONFIGS, expected, args.workers, part_by_part=args.build_and_upload
    )
    return lambda remote: source_release(api, edition, args.branch, remote, sources)


if __name__ == "__main__":
    run(main)
