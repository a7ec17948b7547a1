"""What the project promises about itself: version, dependencies, direction of imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import revgraph

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "revgraph").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

# What each room may import of the package; everything else is "the rest" and may import all.
ROOMS = {
    "graph": {"graph"},
    "read": {"graph", "read"},
    "canonize": {"graph", "read", "canonize"},
    "reverse_rules": {"graph", "reverse_rules"},
    "composites": {"graph", "reverse_rules", "composites"},
    "fast": {"graph", "reverse_rules", "composites", "fast"},
    "reverse": {"graph", "reverse_rules", "composites", "fast", "reverse"},
    "saving": {"graph", "reverse_rules", "composites", "reverse", "saving"},
    "analyzers": {"graph", "read", "canonize", "reverse_rules", "composites", "reverse", "saving", "analyzers"},
}


def room(path):
    return path.relative_to(ROOT / "revgraph").parts[0].removesuffix(".py")


def imported_rooms(path):
    """Names right below `revgraph` that a file imports, also inside of functions."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            names = [f"{origin.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (parts[1] for parts in (name.split(".") for name in names) if parts[0] == "revgraph" and parts[1:])


def test_the_version_has_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", revgraph.__version__)
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "revgraph/__init__.py"
    naming = [path for path in SOURCES if f'"{revgraph.__version__}"' in path.read_text()]
    assert naming == [ROOT / "revgraph" / "__init__.py"]


def test_the_package_is_typed():
    assert Path(revgraph.__file__).with_name("py.typed").is_file()


def test_the_core_depends_on_tensorflow_keras_and_what_comes_with_them():
    names = sorted(Requirement(line).name for line in PROJECT["dependencies"])
    assert names == ["h5py", "keras", "numpy", "rich", "tensorflow"]


def test_the_oldest_versions_are_the_lower_bounds():
    # KerasHub needs newer versions of what is pinned, so it is not installed with them.
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != "kerashub"]
    declared = [*PROJECT["dependencies"], *sum(extras, [])]
    bounds = {r.name: r.specifier for r in map(Requirement, declared) if r.name != "revgraph"}
    pins = {}
    for line in (ROOT / "constraints-oldest.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pins[Requirement(line).name] = next(iter(Requirement(line).specifier)).version
    assert pins.keys() == bounds.keys()
    for name, specifier in bounds.items():
        lowest = next(part.version for part in specifier if part.operator == ">=")
        assert re.fullmatch(rf"{re.escape(lowest)}(\.0)*", pins[name]), f"{name}{specifier} is pinned at {pins[name]}"


def test_importing_the_core_needs_no_extra():
    # Keras itself imports some of these where they are installed.
    extras = [
        "matplotlib",
        "PIL",
        "sklearn",
        "scipy",
        "IPython",
        "notebook",
        "pytest",
        "hypothesis",
        "keras_hub",
        "panel",
        "ray",
    ]
    code = f"import sys; sys.modules.update(dict.fromkeys({extras})); import revgraph; print(revgraph.create_analyzer)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    allowed = ROOMS.get(room(path))
    if allowed is not None:
        assert set(imported_rooms(path)) <= allowed


LONG = {
    "analyzers/reverse_analyzer.py": "most of it is what users read: the arguments of `analyze`, and what they mean",
    "evaluate/flipping.py": "iNNvestigate's two classes and pixel flipping: most of it is what their arguments mean",
    "read/savedmodel/builder.py": "one pass over operations, and all that it notes of their values",
}
"""Files of more than 400 lines, and why they are."""


def test_long_files_have_a_reason():
    long = {str(path.relative_to(ROOT / "revgraph")) for path in SOURCES if len(path.read_text().splitlines()) > 400}
    assert {name.replace("\\", "/") for name in long} == LONG.keys()


def test_every_room_is_there():
    assert ROOMS.keys() <= {room(path) for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_does_not_assert(path):
    lines = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
    assert lines == []


def test_the_documentation_names_all_analyzers_and_no_others():
    table = (ROOT / "docs" / "choosing.md").read_text().split("## All analyzers")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z][\w.]*(?:\+\+)?)`", table))
    assert named == set(revgraph.ANALYZERS)
