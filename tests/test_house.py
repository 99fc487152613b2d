"""The rules of scripts/README.md that a test can hold."""

import ast
import re

import pytest

from tests.conftest import ROOT

MODULE = ROOT / "hyper_kvasir.py"
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
PAGE = ROOT / "scripts/README.md"


def tree_of(path):
    return ast.parse(path.read_text())


def imports_of(path):
    """[(module, name or None)] that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
    return found


def test_the_files_named_on_the_page_exist():
    named = set(re.findall(r"`((?:scripts|tests|dataset_card)/[\w./]+|[\w]+\.(?:py|md))`", PAGE.read_text()))
    assert len(named) >= 12 and not [path for path in named if not (ROOT / path).exists()]


def test_the_names_on_the_page_are_in_the_code():
    """`module.name` and `Class.method` as the page writes them."""
    code = {path.stem: path.read_text() for path in [MODULE, *SCRIPTS]}
    named = set(re.findall(r"`(\w+)\.(\w+)`", PAGE.read_text())) - {(p.stem, p.suffix[1:]) for p in ROOT.rglob("*.*")}
    assert len(named) >= 5
    for module, name in named:
        text = code.get(module) or next(text for text in code.values() if f"class {module}" in text)
        assert re.search(rf"(def|class) {name}\b|^{name}\b", text, re.MULTILINE), f"{module}.{name}"


def test_imports_run_down():
    assert not [module for module, _ in imports_of(MODULE) if module.split(".")[0] in ("scripts", "tests")]
    for path in SCRIPTS:
        inside = path.relative_to(ROOT / "scripts").parts[0]
        ours = {
            module for module, _ in imports_of(path) if module.split(".")[0] in ("scripts", "tests", "hyper_kvasir")
        }
        allowed = {
            "pipeline": r"hyper_kvasir|scripts\.pipeline(\..+)?",
            "loopback_hub": r"scripts\.loopback_hub(\..+)?",
        }.get(inside, r"hyper_kvasir|scripts\.(pipeline|loopback_hub)(\..+)?")
        wrong = [module for module in ours if not re.fullmatch(allowed, module)]
        assert not wrong, f"{path} imports {wrong}"


def test_the_hub_knows_neither_dataset_nor_manifest():
    ours = {module for module, _ in imports_of(ROOT / "scripts/pipeline/hub.py")}
    assert not ours & {"hyper_kvasir", "scripts.pipeline.manifest"}


def test_scripts_import_few_names_of_the_module():
    assert not [path for path in SCRIPTS if ("hyper_kvasir", None) in imports_of(path)]
    names = {name for path in SCRIPTS for module, name in imports_of(path) if module == "hyper_kvasir"}
    assert len(names) <= 20, sorted(names)


@pytest.mark.parametrize("path", [MODULE, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_takes_more_than_five_parameters(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
            assert len(names) <= 5 or node.name == "download_and_prepare", f"{node.name}({', '.join(names)})"


def test_a_reader_finds_the_builder_early():
    line = next(n.lineno for n in tree_of(MODULE).body if isinstance(n, ast.ClassDef) and n.name == "HyperKvasir")
    assert line <= 450


def test_the_loader_of_old_versions_finds_every_import():
    """It reads line by line: a plain import on a line of its own, at column 0; an optional one in a `try`."""
    lines = MODULE.read_text().splitlines()
    for node in ast.walk(tree_of(MODULE)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert node.lineno == node.end_lineno, lines[node.lineno - 1]
            assert getattr(node, "level", 0) == 0
            assert node.col_offset == 0 or "zlib" in lines[node.lineno - 1]
    ast.parse(MODULE.read_text(), feature_version=(3, 8))
