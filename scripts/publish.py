"""Publishes a built folder to the Hub: one commit, one tag, only what changed.

    python -m scripts.publish dist/hyper-kvasir --repo-id ns/hyper-kvasir --version 1.0.0 --dry-run
    python -m scripts.publish dist/hyper-kvasir --repo-id ns/hyper-kvasir --version 1.0.0

The changes (files kept, added, deleted; bytes) are printed before anything is built, made on the Hub or sent; --dry-run
ends there. Then files that the Hub lacks are uploaded, and one commit is made, read back as a reader would (every file
is there, every config streams, small parts load whole), and tagged vX.Y.Z. After a kill, run the same command again: it
picks up where it left off, and sends again only what the Hub did not confirm.

Refused: a folder that does not verify; a version that is tagged, has no entry in dataset_card/CHANGELOG.md, or is too
small a step (MAJOR if rows or columns changed or are gone, MINOR if rows, columns or configs are new); a repository
that holds something else; a token without write permission. The token comes from `hf auth login` or HF_TOKEN.

    python -m scripts.publish work --repo-id ns/hyper-kvasir --version 2.0.0 --source archives --build-and-upload

    python -m scripts.publish --repo-id ns/hyper-kvasir --finish
    python -m scripts.publish --repo-id ns/hyper-kvasir --abandon

A version that is committed and not tagged, because it was cut off or is a pull request that was merged (--create-pr),
is read back and tagged by --finish. If it cannot be, --abandon puts the last tagged version back.

With --source, only files whose inputs changed since the published version are built, in DIR, which is left empty;
unchanged ones are neither built nor downloaded. With --build-and-upload, files are also built, uploaded and removed in
batches, which takes less than 1 GB of disk beyond the archives.
"""

import argparse
import contextlib
import os
import shutil

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, OIDCError
from huggingface_hub.utils import validate_repo_id

from hyper_kvasir import Expected
from scripts.pipeline.configs import BUILT, VIEWS
from scripts.pipeline.console import (
    add_expect,
    add_max_side,
    add_workers,
    check_sources_exist,
    command_parser,
    run,
    say,
)
from scripts.pipeline.hub import PublishError, Repository, check_branch, check_token, explain, prepare_clients
from scripts.pipeline.manifest import FILE, built_manifest, read_manifest
from scripts.pipeline.output import STAGING, check_beside, check_output, only_builder_of
from scripts.pipeline.publish import changelog_entry, parse_version, publish
from scripts.pipeline.release import BuildOptions, FolderMaker, ReleaseInfo, SourceMaker
from scripts.pipeline.unfinished import abandon, finish

# Options of a publication, which mean nothing to --finish and --abandon.
OF_PUBLICATION = "version dry_run create_pr overwrite private source config max_side build_and_upload expect".split()
CHANGELOG = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dataset_card", "CHANGELOG.md")


def main(arguments=None) -> int:
    args = parse(arguments)
    try:
        check_branch(args.branch)
        if not args.finish and not args.abandon:
            parse_version(args.version)
            args.notes = changelog_entry(args.version, read_changelog(args.changelog, args.version), args.changelog)
            args.expected = Expected.load(args.expect)
        if not args.dry_run:
            check_token()
        prepare_clients()
        # HfApi asks for the token at each request: one of a trusted publisher lasts an hour, and is renewed.
        print(run_on(Repository(HfApi(), args.repo_id, args.branch, create_pr=args.create_pr), args))
    except (RuntimeError, ValueError, HTTPError, HFValidationError, OIDCError, OSError) as error:
        say(f"error: {explain(error)}")
        return 1
    return 0


def run_on(repository: Repository, args) -> str:
    """Does what the arguments say, and returns lines on how it ended."""
    if args.finish or args.abandon:
        repository.follow_rename()
        return finish(repository) if args.finish else abandon(repository)
    settings = {name: getattr(args, name) for name in ("notes", "private", "dry_run", "overwrite")}
    if not args.source:
        built_manifest(args.folder)  # that it is one, before the Hub is asked anything
        repository.follow_rename()
        return publish(
            repository,
            FolderMaker(args.folder, release_info(args, repository), args.expected, args.workers),
            **settings,
        )
    with work_folder(args.folder, args.source):
        repository.follow_rename()
        done = publish(
            repository, SourceMaker(repository, release_info(args, repository), build_options(args)), **settings
        )
        if not args.dry_run:  # else what an earlier try has built is left for the next one
            shutil.rmtree(os.path.join(args.folder, STAGING), ignore_errors=True)
        return done


def release_info(args, repository: Repository) -> ReleaseInfo:
    """What the release is called, by the name that the repository has now."""
    return ReleaseInfo(args.version, repository.repo_id, read_changelog(args.changelog, args.version))


def read_changelog(path: str, version: str) -> str:
    """The changelog's text. Raises PublishError where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise PublishError(f"{path}: no such file; write one with an entry '## {version}'") from error
    except UnicodeDecodeError as error:
        raise PublishError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    return text


def build_options(args) -> BuildOptions:
    """How to build with --source."""
    return BuildOptions(
        archives=args.source,
        work=args.folder,
        configs=args.config or list(BUILT),
        expected=args.expected,
        workers=args.workers,
        max_side=args.max_side,
        send_at_once=args.build_and_upload,
    )


@contextlib.contextmanager
def work_folder(folder: str, sources: list[str]):
    """Keeps a work folder to this publication. Raises PublishError for a built one, BuildError for one in use."""
    check_output(folder)
    with only_builder_of(folder):
        if read_manifest(folder) is not None:
            raise PublishError(
                f"{folder}: is a built folder (it has a {FILE}); with --source, give a new or empty one to work in"
            )
        check_beside(folder, sources)
        yield


def parse(arguments) -> argparse.Namespace:
    parser = command_parser("python -m scripts.publish", __doc__)
    about = "a folder that scripts.build wrote; with --source, a work folder"
    parser.add_argument("folder", metavar="DIR", nargs="?", help=about)
    parser.add_argument("--repo-id", required=True, metavar="NS/NAME", help="the dataset repository, made if absent")
    parser.add_argument("--version", metavar="X.Y.Z", help="becomes the tag vX.Y.Z, which never moves")
    parser.add_argument("--dry-run", action="store_true", help="print the changes and stop")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--overwrite", action="store_true", help="replace texts that were edited on the Hub")
    way_out = parser.add_mutually_exclusive_group()
    way_out.add_argument("--finish", action="store_true", help="read back and tag what is committed, but not tagged")
    way_out.add_argument("--abandon", action="store_true", help="put the last tagged version back, in one commit")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", default="main", metavar="B", help="the branch to commit to (default: %(default)s)")
    parser.add_argument("--source", action="append", metavar="DIR", help="build what changed from these archives")
    about = "with --source: repeatable; default: all but metadata, which looks at every image"
    parser.add_argument("--config", action="append", choices=VIEWS, metavar="NAME", help=about)
    add_max_side(parser, "with --source: the small edition, of images of at most N pixels a side")
    parser.add_argument("--build-and-upload", action="store_true", help="with --source: in batches, for small disks")
    add_workers(parser)
    add_expect(parser)
    parser.add_argument("--changelog", metavar="FILE", default=CHANGELOG, help="default: dataset_card/CHANGELOG.md")
    args = parser.parse_args(arguments)
    try:
        validate_repo_id(args.repo_id)
    except HFValidationError as error:
        parser.error(f"--repo-id: {error}")
    if "/" not in args.repo_id:
        parser.error(f"--repo-id {args.repo_id}: give the namespace too, as in NS/{args.repo_id}")
    if args.finish or args.abandon:
        given = [f"--{name.replace('_', '-')}" for name in OF_PUBLICATION if getattr(args, name)]
        if args.folder or given:
            parser.error(
                f"--finish and --abandon go with --repo-id and --branch alone, not with {args.folder or given[0]}"
            )
        return args
    if not args.folder or not args.version:
        parser.error("the following arguments are required: DIR, --version")
    if args.create_pr and args.branch != "main":
        parser.error("--create-pr opens a pull request to main: leave --branch out")
    if args.create_pr and args.private:
        parser.error("--create-pr goes with a repository that is there: leave --private out")
    if args.build_and_upload and not args.source:
        parser.error("--build-and-upload goes with --source")
    if args.build_and_upload and args.dry_run:
        parser.error("--build-and-upload does not go with --dry-run")
    for name in ("config", "max_side"):
        if getattr(args, name) and not args.source:
            parser.error(f"--{name.replace('_', '-')} goes with --source")
    check_sources_exist(parser, args.source or ())
    return args


if __name__ == "__main__":
    run(main)
