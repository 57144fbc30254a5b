"""The applications that a directory's Python files define, found without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sockd.init.frameworks import DASH, FRAMEWORKS, METHODS, SCOPE, START_RESPONSE, Interface
from sockd.init.static import Module, assignments, find_module, parse, statements

MOST_FILES = 2000
DEEPEST = 20  # of names that stand for other names
MOST_STEPS = 10_000  # to find out what one name stands for
PASSED_OVER = {
    *("tests", "test", "testing", "docs", "doc", "examples", "example", "migrations", "alembic"),
    *("static", "media", "templates", "node_modules", "site-packages", "__pycache__", "build"),
    *("dist", "env", "venv", "scripts", "bench", "benchmarks"),
}
NOT_MODULES = {"setup.py", "conftest.py", "manage.py", "noxfile.py", "fabfile.py", "tasks.py"}
MADE_FOR_SERVERS = {"wsgi", "asgi"}
USUAL = {"app", "application", "main", "server", "api", "run", "index"}
USUAL_NAMES = ("application", "app")


@dataclass(frozen=True)
class Application:
    """What a name stands for. Two with the same `path` and `line` are one and the same."""

    framework: str
    interface: Interface
    path: Path
    line: int
    factory: bool = False


@dataclass(frozen=True)
class Candidate:
    """A name in a module that `app.target` can be; `root` is where it is imported from."""

    target: str
    application: Application
    root: Path
    path: Path
    line: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """The lowest is what its author most likely meant."""
        module, _, name = self.target.removesuffix("()").partition(":")
        last = module.rpartition(".")[2]
        usual = last in USUAL or self.path.name == "__init__.py"
        tier = 0 if last in MADE_FOR_SERVERS else 1 if usual else 2
        known = USUAL_NAMES.index(name) if name in USUAL_NAMES else len(USUAL_NAMES)
        return tier, int(self.application.factory), known

    def __str__(self) -> str:
        kind = "factory" if self.application.factory else "application"
        framework = self.application.framework
        return f"{self.target} ({framework} {kind}, {self.path}:{self.line})"


def find(directory: Path) -> list[Candidate]:
    """All of them in a project, the likeliest first. Its modules lie in `directory` or in src/."""
    source = directory / "src"
    modules = [m for m in (parse(path, directory) for path in _sources(directory)) if m]
    if source.is_dir() and not any(_imports_src(module) for module in modules):
        modules = [m for m in modules if not m.path.is_relative_to(source)]
        modules += [m for m in (parse(path, source) for path in _sources(source)) if m]
    found = [candidate for module in modules for candidate in _candidates(module)]
    return sorted(found, key=lambda candidate: (*candidate.rank, candidate.target))


def _imports_src(module: Module) -> bool:
    """Whether src is a package, not the directory that has them."""
    for node in ast.walk(module.tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name.partition(".")[0] == "src" for name in names):
            return True
    return False


def choose(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One, or those between which only a person can decide."""
    if not candidates:
        return []
    best = min(candidate.rank for candidate in candidates)
    # In wsgi.py and asgi.py one application speaks two protocols.
    group = [c for c in candidates if c.rank[:2] == best[:2]]
    if best[0] == 0:
        group = [c for c in group if c.application.interface == "WSGI"] or group
    group = [c for c in group if c.rank == min(other.rank for other in group)]
    different = {(c.application.path, c.application.line): c for c in reversed(group)}
    return list(reversed(different.values()))


def _sources(root: Path) -> Iterator[Path]:
    """Modules, those of packages, and those of packages in them."""
    pending = [(root, 0)]
    count = 0
    while pending:
        directory, depth = pending.pop(0)
        try:
            entries = sorted(directory.iterdir())
        except OSError:
            continue
        for entry in entries:
            name = entry.name
            if entry.is_dir():
                passed = name in PASSED_OVER or not name.isidentifier()
                if depth < 2 and not passed and not (entry / "pyvenv.cfg").exists():
                    pending.append((entry, depth + 1))
            elif _is_module(entry):
                count += 1
                if count > MOST_FILES:
                    return
                yield entry


def _is_module(path: Path) -> bool:
    test = path.name.startswith("test_") or path.name.endswith("_test.py")
    module = path.suffix == ".py" and path.stem.isidentifier()
    return module and not test and path.name not in NOT_MODULES


def _candidates(module: Module) -> Iterator[Candidate]:
    if not module.name:  # __init__.py of the root itself
        return
    scope = Scope(module)
    for name, node in scope.names.items():
        scope.steps[0] = MOST_STEPS
        if name.startswith("_") or isinstance(node, ast.ClassDef):
            continue
        imported = isinstance(node, (ast.Import, ast.ImportFrom))
        if imported and module.name.rpartition(".")[2] not in MADE_FOR_SERVERS:
            continue
        made = scope.named(name)
        if made is None and isinstance(node, ast.FunctionDef):
            made = scope.made_by(node)
            name += "()"
        if made is not None and (not made.factory or name.endswith("()")):
            yield Candidate(f"{module.name}:{name}", made, module.root, module.path, node.lineno)


class Scope:
    """The names of a module and what defines each."""

    def __init__(self, module: Module, steps: list[int] | None = None) -> None:
        self.module = module
        self.steps = steps or [MOST_STEPS]  # shared by those that one question leads to
        self.names: dict[str, ast.stmt] = {}
        self.values: dict[str, ast.expr] = {}
        for node, _ in statements(module.tree.body):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    self.names[name] = node
                case ast.ClassDef(name=name):
                    self.names[name] = node
                case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                    for alias in aliases:
                        own = alias.asname or alias.name
                        self.names[own if alias.asname else own.partition(".")[0]] = node
            for name, value in assignments(node):
                self._assign(name, node, value)

    def _assign(self, name: str, node: ast.stmt, value: ast.expr) -> None:
        mentioned = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
        if name in mentioned and name in self.values:
            return  # app = ProxyFix(app): the same application
        self.names[name] = node
        self.values[name] = value

    def named(self, name: str, depth: int = DEEPEST) -> Application | None:
        """The application that a name of the module stands for."""
        node = self.names.get(name)
        if node is None or depth <= 0:
            return None
        if name in self.values and isinstance(node, (ast.Assign, ast.AnnAssign)):
            return self.of(self.values[name], depth - 1, node.lineno)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self._as_callable(node)
        if isinstance(node, ast.ImportFrom):
            other, original = self._elsewhere(name, node)
            return other.named(original, depth - 1) if other else None
        return None

    def made_by(self, node: ast.FunctionDef, depth: int = DEEPEST) -> Application | None:
        """What a function that needs no argument returns, as a factory."""
        arguments = node.args
        required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
        if required or None in arguments.kw_defaults:
            return None
        return self._returned(node, depth)

    def _returned(self, node: ast.FunctionDef, depth: int) -> Application | None:
        if depth <= 0:
            return None
        if node.returns is not None:
            known = FRAMEWORKS.get(self.full_name(node.returns))
            if known:
                return Application(*known, self.module.path, node.lineno, factory=True)
        inner = Scope(replace(self.module, tree=ast.Module(node.body, [])), self.steps)
        inner.names = {**self.names, **inner.names}
        inner.values = {**self.values, **inner.values}
        for part in ast.walk(node):
            if isinstance(part, ast.Return) and part.value is not None:
                made = inner.of(part.value, depth - 1, node.lineno)
                if made is not None:
                    return replace(made, path=self.module.path, line=node.lineno, factory=True)
        return None

    def of(self, node: ast.expr, depth: int, line: int) -> Application | None:
        """The application that an expression is."""
        self.steps[0] -= 1
        if depth <= 0 or self.steps[0] <= 0:
            return None
        match node:
            case ast.Name(id=name):
                return self.named(name, depth - 1)
            case ast.Attribute(value=ast.Name(id=name), attr="server") if name in self.values:
                made = self.values[name]
                if isinstance(made, ast.Call) and self.full_name(made.func) == DASH:
                    return Application("Dash", "WSGI", self.module.path, line)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                other = self._module_named(name)
                return Scope(other, self.steps).named(attribute, depth - 1) if other else None
            case ast.Call():
                return self._called(node, depth, line)
        return None

    def _called(self, node: ast.Call, depth: int, line: int) -> Application | None:
        full = self.full_name(node.func)
        known = FRAMEWORKS.get(full)
        if known is None and isinstance(node.func, ast.Attribute):
            known = METHODS.get(node.func.attr)
        if known:
            return Application(*known, self.module.path, line)
        if isinstance(node.func, ast.Name):
            made = self._made_by_name(node.func.id, depth, line)
            if made is not None:
                return made
        # What wraps an application is one: ProxyFix(app), WhiteNoise(app, root=...).
        for argument in node.args:
            wrapped = self.of(argument, depth - 1, line)
            if wrapped is not None and not wrapped.factory:
                return wrapped
        return None

    def _made_by_name(self, name: str, depth: int, line: int) -> Application | None:
        node = self.names.get(name)
        if isinstance(node, ast.FunctionDef):
            made = self._returned(node, depth - 1)
            return replace(made, factory=False) if made else None
        if isinstance(node, ast.ClassDef):
            interface = self._interface_of(node)
            return Application("plain", interface, self.module.path, line) if interface else None
        if isinstance(node, ast.ImportFrom):
            other, original = self._elsewhere(name, node)
            return other._made_by_name(original, depth - 1, line) if other and depth > 0 else None
        return None

    def _interface_of(self, node: ast.ClassDef) -> Interface | None:
        for method in node.body:
            if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = tuple(argument.arg for argument in method.args.args[1:])
                if method.name == "__call__" and names == SCOPE:
                    return "ASGI"
                if method.name == "__call__" and len(names) == 2 and names[1] in START_RESPONSE:
                    return "WSGI"
        return None

    def _as_callable(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Application | None:
        names = tuple(argument.arg for argument in node.args.args)
        if isinstance(node, ast.AsyncFunctionDef):
            interface: Interface = "ASGI"
            if names != SCOPE:
                return None
        else:
            interface = "WSGI"
            if len(names) != 2 or names[1] not in START_RESPONSE:
                return None
        return Application("plain", interface, self.module.path, node.lineno)

    def full_name(self, node: ast.expr) -> str:
        """`Flask` of `from flask import Flask` is flask.Flask."""
        text = ast.unparse(node)
        first, _, rest = text.partition(".")
        origin = self.names.get(first)
        if isinstance(origin, ast.ImportFrom):
            for alias in origin.names:
                if (alias.asname or alias.name) == first:
                    base = f"{self.module.absolute(origin)}.{alias.name}"
                    return f"{base}.{rest}" if rest else base
        if isinstance(origin, ast.Import):
            for alias in origin.names:
                if alias.asname == first:
                    return f"{alias.name}.{rest}" if rest else alias.name
        return text

    def _elsewhere(self, name: str, node: ast.ImportFrom) -> tuple[Scope | None, str]:
        """The module of the project that a name comes from, and the name's there."""
        original = next((a.name for a in node.names if (a.asname or a.name) == name), name)
        other = find_module(self.module.absolute(node), self.module.root)
        return (Scope(other, self.steps) if other else None), original

    def _module_named(self, name: str) -> Module | None:
        node = self.names.get(name)
        if isinstance(node, ast.ImportFrom):
            original = next((a.name for a in node.names if (a.asname or a.name) == name), name)
            parent = self.module.absolute(node)
            return find_module(f"{parent}.{original}" if parent else original, self.module.root)
        if isinstance(node, ast.Import):
            full = next((a.name for a in node.names if (a.asname or a.name) == name), "")
            return find_module(full, self.module.root) if full else None
        return None
