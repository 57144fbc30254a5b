"""Modules import only downwards, and each process holds only what it may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sockd"

LAYERS = {
    "sockd": 0,
    "sockd.settings": 1,
    "sockd.errors": 1,
    "sockd.linux": 2,
    "sockd.memory": 2,
    "sockd.identity": 2,
    "sockd.stdio": 2,
    "sockd.toml_lines": 2,
    "sockd.backlog": 2,
    "sockd.histogram": 2,
    "sockd.metrics": 3,
    "sockd.config": 3,
    "sockd.activation": 3,
    "sockd.notify": 3,
    "sockd.journal": 3,
    "sockd.board": 3,
    "sockd.channel": 3,
    "sockd.loader": 3,
    "sockd.client": 4,
    "sockd.manager": 4,
    "sockd.status": 4,
    "sockd.terminal": 4,
    "sockd.top": 5,
    "sockd.watch": 4,
    "sockd.http": 5,
    "sockd.worker": 6,
    "sockd.logs": 6,
    "sockd.master": 7,
    "sockd.check": 8,
    "sockd.execute": 8,
    "sockd.init": 8,
    "sockd.units": 8,
    "sockd.doctor": 9,
    "sockd.cli": 10,
    "sockd.__main__": 11,
}
PACKAGES = {
    "sockd.cli",
    "sockd.doctor",
    "sockd.execute",
    "sockd.http",
    "sockd.init",
    "sockd.master",
    "sockd.units",
    "sockd.worker",
}  # one layer each

THIRD_PARTY = {"jinja2", "systemd", "sdnotify"}
ALLOWED = {
    "sockd.units": {"jinja2"},
    "sockd.watch": {"watchfiles"},  # where it is installed
    "sockd.activation": {"systemd"},
    "sockd.notify": {"systemd", "sdnotify"},
    "sockd.master": {"systemd", "sdnotify"},
}


def sources() -> dict[str, Path]:
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[f"{name}{path.suffix}"] = path
    return found


def unit(module: str) -> str:
    """What has a layer: a module at the top, or one of the packages as a whole."""
    top = ".".join(module.split(".")[:2])
    return top if top in PACKAGES else module


def imports(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield from python_imports(path)
    else:
        yield from cython_imports(path.read_text())


def python_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield from (resolved(node.module, alias.name) for alias in node.names)


def cython_imports(text: str) -> Iterator[str]:
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(r"\(\s*([^()]*?)\s*\)", lambda m: m[1].replace("\n", " "), text)
    for line in text.splitlines():
        if match := re.match(r"\s*from\s+(\.*[\w.]*)\s+c?import\s+([^#]+)", line):
            assert not match[1].startswith("."), f"relative import: {line}"
            for name in match[2].split(","):
                if name.strip():
                    yield resolved(match[1], name.split()[0])
        elif match := re.match(r"\s*c?import\s+([^#]+)", line):
            yield from (name.split()[0] for name in match[1].split(",") if name.strip())


def resolved(module: str, name: str) -> str:
    """`from sockd import config` means sockd.config, `from sockd.config import load` does not
    mean sockd.config.load."""
    if not module.startswith("sockd"):
        return module
    path = ROOT.joinpath(*module.split("."), name)
    if path.is_dir() or any(path.with_suffix(end).exists() for end in (".py", ".pyx", ".pxd")):
        return f"{module}.{name}"
    return module


SOURCES = sources()


def test_this_test_sees_imports() -> None:
    found = set(imports(PACKAGE / "cli/prepare.py"))
    assert {"argparse", "sockd.config", "sockd.errors", "sockd.units"} <= found
    text = (
        "from libc.string cimport memcpy, \\\n    memset\nfrom sockd.errors import (\n    OK,\n)\n"
        "cimport cython\nimport os, sys as system  # why\n    from sockd cimport config as c\n"
    )
    assert set(cython_imports(text)) == {
        "libc.string",
        "sockd.errors",
        "cython",
        "os",
        "sys",
        "sockd.config",
    }


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_imports_go_downwards(source: str) -> None:
    own = unit(source.rpartition(".")[0])
    assert own in LAYERS, f"{own} has no layer: give it one in this test and in docs/design"
    for module in set(imports(SOURCES[source])):
        if not module.startswith("sockd") or module == "sockd.templates":
            continue
        other = unit(module)
        assert other in LAYERS, f"{source} imports {module}, which has no layer"
        if own in PACKAGES and other == own:
            continue
        assert LAYERS[other] < LAYERS[own], f"{source} (layer {LAYERS[own]}) imports {module}"


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_cycle_inside_a_package(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for source, path in SOURCES.items():
        module = source.rpartition(".")[0]
        if unit(module) == package:
            graph.setdefault(module, set()).update(
                name for name in imports(path) if unit(name) == package and name != module
            )
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        for module in leaves:
            del graph[module]
    assert not graph


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_third_party_imports(source: str) -> None:
    own = unit(source.rpartition(".")[0])
    if own == "sockd.__main__":
        own = "sockd.cli"
    known = {*sys.stdlib_module_names, "sockd", "libc", "posix", "cpython", "cython"}
    foreign = {module.partition(".")[0] for module in imports(SOURCES[source])} - known
    assert foreign <= ALLOWED.get(own, set())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("sockd.worker.forkserver", THIRD_PARTY | {"argparse", "sockd.config", "sockd.master"}),
        ("sockd.worker.process", THIRD_PARTY | {"argparse", "sockd.config", "sockd.master"}),
        ("sockd.master.loop", {"jinja2", "sockd.units", "sockd.check", "sockd.doctor"}),
        ("sockd.cli", THIRD_PARTY | {"sockd.units", "sockd.master", "sockd.http"}),
    ],
)
def test_what_a_process_holds(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held = set(done.stdout.split())
    assert module in held
    assert not held & forbidden
