"""Walks through the project: makes or takes a source, builds and verifies it, loads it, publishes and updates it.

    scripts/demo                          # a miniature of generated images
    scripts/demo --source archives        # the parts in a folder of real archives

Every command and line of code is shown with what came back. Publication is to an embedded Hub on this machine, which
the unmodified clients talk to: nothing leaves the machine. Everything is written below --to.
"""

import os
import shutil
import subprocess
import sys

from hyper_kvasir import VIEWS, SourceError, locate
from scripts.loopback_hub import LoopbackHub
from scripts.pipeline.console import command_parser
from scripts.pipeline.output import BuildError, check_beside, check_output

REPO = "ns/hyper-kvasir"

# Runs statements as a Python prompt does: shows each, and what an expression gives.
PROMPT = """
import ast, sys
text, names = sys.stdin.read(), {}
for statement in ast.parse(text).body:
    lines = ast.get_source_segment(text, statement).splitlines()
    print("\\n".join((">>> " if i == 0 else "... ") + line for i, line in enumerate(lines)), flush=True)
    if isinstance(statement, ast.Expr):
        value = eval(compile(ast.Expression(statement.value), "<demo>", "eval"), names)
        if value is not None:
            print(value, flush=True)
    else:
        exec(compile(ast.Module([statement], []), "<demo>", "exec"), names)
"""


class Walk:
    """Shows and runs commands and code, all in one environment: below the folder `to`, with `hub` as the Hub."""

    def __init__(self, hub: LoopbackHub, to: str):
        self.hub, self.to = hub, to
        self.env = hub.env(home=os.path.abspath(f"{to}/home"))
        self.env |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}

    def title(self, text: str):
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def command(self, *arguments: str, **env: str):
        """Runs `python -m ...`; ends the walk if it fails."""
        print("$ python -m " + " ".join(arguments), flush=True)
        done = subprocess.run([sys.executable, "-m", *arguments], env={**self.env, **env})
        if done.returncode:
            sys.exit(done.returncode)

    def code(self, text: str):
        """Runs lines of Python in a process of their own, as a user's program would."""
        done = subprocess.run([sys.executable, "-c", PROMPT], input=text, text=True, env=self.env)
        if done.returncode:
            sys.exit(done.returncode)

    def publish(self, folder: str, version: str, *flags: str):
        """Publishes a folder, and says what the Hub received."""
        self.hub.reset()
        self.command("scripts.publish", folder, "--repo-id", REPO, "--version", version, *flags)
        sent = self.hub.counters()["uploaded"]
        print(f"The Hub received: {sent['xorbs'] + sent['lfs']:,} bytes of files, {sent['commits']:,} of commits")


def main(arguments=None) -> int:
    parser = command_parser("scripts/demo", __doc__)
    parser.add_argument("--source", metavar="DIR", help="a folder of official archives; default: a generated miniature")
    parser.add_argument(
        "--to", metavar="DIR", default="dist/demo", help="where to write (default: %(default)s, emptied)"
    )
    args = parser.parse_args(arguments)
    configs = list(VIEWS)
    if args.source:
        try:
            configs = [config for config in VIEWS if locate(VIEWS[config].part, [args.source])[0]]
        except SourceError as error:
            parser.error(f"--source {args.source}: {error}")
        if not configs:
            parser.error(f"--source {args.source}: it holds none of the official archives")
    make_empty(parser, args.to, args.source)
    with LoopbackHub(f"{args.to}/hub") as hub:
        walk = Walk(hub, args.to)
        if args.source:
            build_and_publish(walk, args.source, configs)
        else:
            walk.title("A miniature of the official archives, with all 23 findings")
            walk.command("tests.fake_source", f"{args.to}/source")
            expect = ["--expect", f"{args.to}/source/expected.json"]
            build_and_publish(walk, f"{args.to}/source", configs, expect)
            update(walk)
    print(f"\nAll of it is in {args.to}: the dataset (hyper-kvasir/) and a page about it (review.html).")
    return 0


def make_empty(parser, folder, source):
    """Empties a folder that an earlier demo wrote; refuses any other that is not empty."""
    try:
        check_output(folder)
        check_beside(folder, [source] if source else [])
    except BuildError as error:
        parser.error(f"--to: {error}")
    marker = os.path.join(folder, ".hyper-kvasir-demo")
    if os.path.isdir(folder) and os.listdir(folder) and not os.path.exists(marker):
        parser.error(f"--to {folder}: not empty, and not of an earlier demo; give a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    open(marker, "w").close()


def build_and_publish(walk, source, configs, expect=()):
    """From a source to version 1.0.0 on the Hub, loaded from there. `expect`: the flag --expect, if there is one."""
    out = f"{walk.to}/hyper-kvasir"
    flags = [flag for config in configs for flag in ("--config", config)] if configs != list(VIEWS) else []
    # The Hub on this machine has no archives: only where a fold csv is missing would one be asked for.
    online = {"HF_ENDPOINT": "https://huggingface.co"} if not expect else {}
    walk.title("Build: from the archives to Parquet files and a card")
    walk.command("scripts.build", "--source", source, "--out", out, *flags, *expect, **online)
    walk.title("Verify: every file, row and number")
    walk.command("scripts.verify", out, *expect)
    walk.command("scripts.review", out, "--to", f"{walk.to}/review.html", *expect)
    walk.title("Load what was built, by the names of its configs, and stream it")
    walk.code("from datasets import load_dataset\n" + "\n".join(load_code(out, config) for config in configs))
    walk.title("Publish it as version 1.0.0, to a Hub on this machine")
    walk.publish(out, "1.0.0", *expect)
    walk.title("Load it in one line, and stream it, from the Hub")
    walk.code(
        "from datasets import load_dataset\n"
        f'ds = load_dataset("{REPO}", "{configs[0]}", split="train")\n'
        "ds\nds[0]\n"
        f'next(iter(load_dataset("{REPO}", "{configs[0]}", split="train", streaming=True)))["image_id"]'
    )


def load_code(out: str, config: str) -> str:
    """The lines that a user would write to look at a config."""
    lines = [
        f'ds = load_dataset("{out}", "{config}")',
        "{split: len(rows) for split, rows in ds.items()}",
        f'next(iter(load_dataset("{out}", "{config}", split=list(ds)[0], streaming=True)))',
    ]
    if config == "labeled":
        lines.append('[ds["train"].features["label"].int2str(label) for label in ds["train"]["label"][:3]]')
    if config == "segmented":
        lines.append("row = ds['train'][1]")
        lines.append("row['mask'].size, row['mask'].getextrema(), row['instances'].getextrema(), row['objects']")
    return "\n".join(lines)


def update(walk):
    """Version 2.0.0 with three labels changed: only the files that the images leave and enter are sent."""
    source, out, changelog = (f"{walk.to}/{name}" for name in ("source-2", "hyper-kvasir-2", "CHANGELOG.md"))
    walk.title("Three labels change: the same source with three images in other folders")
    walk.command("tests.fake_source", source, "--relabel", "3")
    shutil.copytree(f"{walk.to}/hyper-kvasir", out)
    expect = ["--expect", f"{source}/expected.json"]
    walk.command("scripts.build", "--source", source, "--out", out, *expect)
    with open(changelog, "w", encoding="utf-8") as file:
        file.write("# Changelog\n\n## 2.0.0\n\nThree labels corrected.\n")
    walk.title("Publish it as version 2.0.0: only what changed goes up")
    walk.publish(out, "2.0.0", "--changelog", changelog, *expect)
    walk.title("Both versions load, each as it was")
    walk.code(
        "from datasets import load_dataset\n"
        f'old = load_dataset("{REPO}", "labeled", split="train", revision="v1.0.0")\n'
        f'new = load_dataset("{REPO}", "labeled", split="train", revision="v2.0.0")\n'
        'before = dict(zip(old["image_id"], old["label"]))\n'
        'name = new.features["label"].int2str\n'
        '[(i, name(before[i]), name(now)) for i, now in zip(new["image_id"], new["label"]) if now != before[i]]'
    )


if __name__ == "__main__":
    sys.exit(main())
