"""The rules of scripts/README.md that a test can hold."""

import ast
import graphlib
import re
import subprocess
import sys

from tests.conftest import ROOT

MODULE = ROOT / "hyper_kvasir.py"
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TESTS = [*sorted((ROOT / "tests").glob("*.py")), ROOT / "noxfile.py"]
PAGE = ROOT / "scripts/README.md"
# The requirements that each layer may count on, by how their files begin, and modules named unlike their package.
CLUSTER, EXPORT = "scripts/cluster-", "scripts/export-"
LAYERS = {
    "hyper_kvasir.py": [""],
    "scripts/loopback_hub": ["", "scripts/loopback_hub/"],
    "scripts/bench": ["", "scripts/", "scripts/bench/"],
    "scripts/pipeline/cluster.py": ["", "scripts/", CLUSTER],
    "scripts/pipeline/export": ["", "scripts/", EXPORT],
    "scripts/examples": ["", "scripts/examples/", EXPORT],
    "scripts": ["", "scripts/"],
    "tests/run_blocks.py": ["", "tests/readers-"],
    "tests": ["", "scripts/", "scripts/loopback_hub/", "tests/", CLUSTER, EXPORT],
    "noxfile.py": ["tests/"],
}
MODULES = {
    **{"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "pytest-xdist": "xdist"},
    **{"opencv-contrib-python-headless": "cv2", "faiss-cpu": "faiss", "moto[s3]": "moto"},
}


def tree_of(path):
    return ast.parse(path.read_text())


def imports_of(path):
    """[(module, name or None)] that a file imports, anywhere in it; relative ones by their full name."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parent.parts)
            module = ".".join(filter(None, [package, node.module])) if node.level else node.module
            found += [(module, alias.name) for alias in node.names]
    return found


def layer_of(path):
    return next(layer for layer in LAYERS if (ROOT / layer) in (path, *path.parents))


def declared_for(layer):
    """The modules that the requirements of a layer bring."""
    lines = "".join((ROOT / f"{begin}requirements.txt").read_text() for begin in LAYERS[layer]).splitlines()
    names = [line.split("==")[0].lower() for line in lines if not line.startswith("#")]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def test_the_files_named_on_the_page_exist():
    named = re.findall(r"`([\w./-]+\.(?:py|md|j2|yaml|json)|[\w./]+/)`", PAGE.read_text())
    made = {"manifest.json", "stats.json", "export.json"}  # by commands
    somewhere = {path.name for folder in ("scripts", "tests", "dataset_card") for path in (ROOT / folder).rglob("*.*")}
    missing = [name for name in set(named) - made if not (ROOT / name).exists() and name not in somewhere]
    assert len(set(named)) >= 12 and not missing


def test_the_names_on_the_page_are_in_the_code():
    """`module.name` and `Class.method` as the page writes them."""
    code = {path.stem: path.read_text() for path in [MODULE, *SCRIPTS]}
    named = set(re.findall(r"`(\w+)\.(\w+)`", PAGE.read_text()))
    named = {(module, name) for module, name in named if name not in ("py", "md", "json", "yaml", "txt")}
    assert len(named) >= 5
    for module, name in named:
        text = code.get(module) or next(text for text in code.values() if f"class {module}" in text)
        assert re.search(rf"(def|class) {name}\b|^{name}\b", text, re.MULTILINE), f"{module}.{name}"
    code = "".join(path.read_text() for path in [MODULE, *SCRIPTS, *TESTS])
    words = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert len(words) >= 10 and not [word for word in words if not re.search(rf"\b{word}\b", code)]
    for command in re.findall(r"python -m ([\w.]+)", PAGE.read_text()):
        place = ROOT / command.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), command


def test_imports_run_down():
    below = {
        "hyper_kvasir.py": r"",
        "scripts/loopback_hub": r"scripts\.loopback_hub(\..+)?",
        "scripts/bench": r"hyper_kvasir|scripts\.(pipeline|loopback_hub|bench)(\..+)?",
        "scripts/examples": r"scripts\.examples(\..+)?",
        "scripts/pipeline": r"hyper_kvasir|scripts\.pipeline(\..+)?",
        "scripts": r"hyper_kvasir|scripts\.(pipeline|loopback_hub)(\..+)?",
    }
    for path in [MODULE, *SCRIPTS]:
        allowed = next(below[layer] for layer in below if (ROOT / layer) in (path, *path.parents))
        ours = {name for name, _ in imports_of(path) if name.split(".")[0] in ("hyper_kvasir", "scripts", "tests")}
        assert not [name for name in ours if not re.fullmatch(allowed, name)], path


def test_imports_have_no_circle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in [MODULE, *SCRIPTS]}
    below = {
        here: {m for module, name in imports_of(path) for m in (module, f"{module}.{name}") if m in modules}
        for here, path in modules.items()
    }
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError, naming the circle


def test_what_is_imported_is_declared():
    for path in [MODULE, *SCRIPTS, *TESTS]:
        names = {name.split(".")[0] for name, _ in imports_of(path)} - sys.stdlib_module_names
        names -= {"hyper_kvasir", "scripts", "tests", "noxfile"} | declared_for(layer_of(path))
        names -= {"deflate", "simplejpeg"} if path == MODULE else set()  # in a `try`: faster, and stricter, with them
        assert not names, f"{path} imports {names}"


def test_commands_load_what_takes_long_where_they_need_it():
    commands = ", ".join(f"scripts.{name}" for name in ("build", "quality", "verify", "card", "review", "publish"))
    late = "{'matplotlib', 'cv2', 'faiss', 'distributed', 's3fs'}"
    code = f"import sys, {commands}; assert not {late} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_hub_knows_neither_dataset_nor_manifest():
    ours = {m for module, name in imports_of(ROOT / "scripts/pipeline/hub.py") for m in (module, f"{module}.{name}")}
    assert not ours & {"hyper_kvasir", "scripts.pipeline.manifest"}


def test_scripts_import_few_names_of_the_module():
    assert not [path for path in SCRIPTS if ("hyper_kvasir", None) in imports_of(path)]
    names = {name for path in SCRIPTS for module, name in imports_of(path) if module == "hyper_kvasir"}
    assert 10 <= len(names) <= 20, sorted(names)


def test_no_function_takes_more_than_five_parameters():
    """But for keyword-only ones, and what tests get from fixtures and tables."""
    for path in [MODULE, *SCRIPTS, *TESTS]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("test_"):
                names = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
                assert len(names) <= 5, f"{path}: {node.name}({', '.join(names)})"


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
            assert node.col_offset == 0 or re.search("deflate|simplejpeg", lines[node.lineno - 1])
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):  # in annotations, no syntax error
            assert node.value.id not in ("dict", "list", "set", "tuple", "type"), lines[node.lineno - 1]
    ast.parse(MODULE.read_text(), feature_version=(3, 8))
