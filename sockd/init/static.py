"""What a Python file says, told without running it: the values of its names where they are plain.

Plain are literals, and what is put together of them, of `__file__`, of pathlib and os.path and of
os.environ with a default. Everything else is `Unknown`, with the reason.
"""

from __future__ import annotations

import ast
import operator
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

LARGEST = 1 << 20  # bytes of a source that is read
MOST_IMPORTED = 100  # modules, one from the other


class Unknown(Exception):
    """The value cannot be told without running the code."""


class Cores:
    """The number of the machine's processors, and what was computed of it."""


CORES = Cores()


@dataclass(frozen=True)
class Named:
    """What a module's name stands for."""

    value: Any
    """The value, or the Unknown that says why there is none."""
    path: Path
    line: int
    source: str = ""
    """The expression."""

    @property
    def known(self) -> bool:
        return not isinstance(self.value, Unknown)

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Module:
    """A source file and its tree; `root` is the directory on sys.path that it is imported from."""

    path: Path
    tree: ast.Module
    root: Path

    @property
    def name(self) -> str:
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        is_package = self.path.name == "__init__.py"
        return self.name if is_package else self.name.rpartition(".")[0]

    def absolute(self, node: ast.ImportFrom) -> str:
        """The full name of the module that names are imported from."""
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) - (node.level - 1)]
        return ".".join([*base, *([node.module] if node.module else [])])


def parse(path: Path, root: Path) -> Module | None:
    """None for what is no readable Python 3."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        return None
    return _parsed(path, root, found.st_mtime_ns)


@lru_cache(maxsize=1024)  # a module is looked into for each of the names that others take of it
def _parsed(path: Path, root: Path, _changed: int) -> Module | None:
    try:
        return Module(path, ast.parse(path.read_bytes()), root)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def find_module(name: str, root: Path) -> Module | None:
    """The module of that name below `root`."""
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if name and path.is_file():
            return parse(path, root)
    return None


def statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, bool]]:
    """What runs at import, and whether it runs in any case."""
    for node in body:
        if isinstance(node, ast.If):
            if not _is_main(node.test):
                yield from ((inner, False) for inner, _ in statements([*node.body, *node.orelse]))
        elif isinstance(node, ast.Try):
            inside = [*node.body, *(s for handler in node.handlers for s in handler.body)]
            later = [*node.orelse, *node.finalbody]
            yield from ((inner, False) for inner, _ in statements([*inside, *later]))
        elif isinstance(node, ast.With):
            yield from statements(node.body)
        else:
            yield node, True


def _is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and ast.unparse(test.left) == "__name__"


def assignments(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The plain names that a statement gives a value."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield from ((t.id, value) for t in targets if isinstance(t, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value


def names_of(
    module: Module,
    environ: Mapping[str, str],
    imported: dict[Path, dict[str, Named]] | None = None,
) -> dict[str, Named]:
    """The names of a module after its import, those that it takes over by `import *` included."""
    imported = {} if imported is None else imported
    if module.path in imported:
        return imported[module.path]  # in a circle: those so far
    known = imported.setdefault(module.path, {})
    for node, certain in statements(module.tree.body):
        if isinstance(node, ast.ImportFrom):
            other = find_module(module.absolute(node), module.root)
            if other is not None and len(imported) < MOST_IMPORTED:
                theirs = names_of(other, environ, imported)
                for alias in node.names:
                    if alias.name == "*":
                        known.update(theirs)
                    elif alias.name in theirs:
                        known[alias.asname or alias.name] = theirs[alias.name]
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            why = Unknown(f"{ast.unparse(node.target)} is changed step by step")
            known[node.target.id] = Named(why, module.path, node.lineno)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            known[node.name] = Named(Unknown("code"), module.path, node.lineno)
        for name, expression in assignments(node):
            value = Evaluation(module, known, environ).try_value(expression)
            if not certain:
                value = Unknown("it depends on a condition")
            known[name] = Named(value, module.path, node.lineno, ast.unparse(expression))
    return known


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
}
_COUNTS = {"multiprocessing.cpu_count", "os.cpu_count", "cpu_count", "os.process_cpu_count"}
_ENVIRONMENT = {"os.environ.get", "os.getenv", "environ.get", "getenv"}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "min": min,
    "max": max,
    "round": round,
    "len": len,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "Path": Path,
    "pathlib.Path": Path,
    "os.fspath": os.fspath,
    "os.path.join": os.path.join,
    "os.path.dirname": os.path.dirname,
    "os.path.abspath": os.path.abspath,
    "os.path.realpath": os.path.abspath,
    "os.path.normpath": os.path.normpath,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "resolve": lambda value: _a_path(value).absolute(),
    "absolute": lambda value: _a_path(value).absolute(),
    "joinpath": lambda value, *parts: _a_path(value).joinpath(*parts),
    "as_posix": lambda value: _a_path(value).as_posix(),
    "split": lambda value, *on: _a_text(value).split(*on),
    "strip": lambda value, *what: _a_text(value).strip(*what),
    "lower": lambda value: _a_text(value).lower(),
    "format": lambda value, *given: _a_text(value).format(*given),
}
_LONGEST = 100_000  # of what is multiplied or put together


def _a_path(value: Any) -> Path:
    if not isinstance(value, Path):
        raise TypeError(value)
    return value


def _a_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


@dataclass
class Evaluation:
    """Of expressions in `module`, where `known` are the names so far."""

    module: Module
    known: Mapping[str, Named] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    def try_value(self, node: ast.expr) -> Any:
        """The value, or the Unknown that says why there is none."""
        try:
            return self.value(node)
        except Unknown as reason:
            return reason

    def value(self, node: ast.expr) -> Any:
        """Raises Unknown."""
        try:
            return self._value(node)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
            raise Unknown(f"{_shown(node)} cannot be told") from None
        except (RecursionError, MemoryError):
            raise Unknown("it is too deeply nested") from None

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id="__file__"):
                return str(self.module.path)
            case ast.Name(id=name) if name in self.known:
                found = self.known[name]
                if not found.known:
                    raise found.value
                return found.value
            case ast.List(elts=items):
                return [self._value(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self._value(item) for item in items)
            case ast.Set(elts=items):
                return [self._value(item) for item in items]
            case ast.Dict(keys=keys, values=values):
                return self._dict(keys, values)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._operation(type(op), self._value(left), self._value(right))
            case ast.BoolOp(op=ast.Or(), values=values):
                return next((v for v in map(self._value, values) if v), None)
            case ast.JoinedStr(values=parts):
                return "".join(self._part(part) for part in parts)
            case ast.Attribute(value=inner, attr="parent"):
                return _a_path(self._value(inner)).parent
            case ast.Subscript(value=ast.Attribute(value=inner, attr="parents"), slice=index):
                return _a_path(self._value(inner)).parents[self._value(index)]
            case ast.Subscript(value=inner, slice=index) if ast.unparse(inner) == "os.environ":
                return self._variable(self._value(index))
            case ast.Call():
                return self._call(node)
        raise Unknown(f"{_shown(node)} cannot be told")

    def _dict(self, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, value in zip(keys, values, strict=True):
            if key is None:
                raise Unknown("a dictionary that takes over another")
            made[self._value(key)] = self.try_value(value)
        return made

    @staticmethod
    def _operation(kind: type[ast.operator], left: Any, right: Any) -> Any:
        if left is CORES or right is CORES:
            return CORES
        if kind is ast.Mult and isinstance(left, (str, list, tuple)):
            raise Unknown("a repetition")
        made = _OPERATORS[kind](left, right)
        if isinstance(made, (str, list, tuple)) and len(made) > _LONGEST:
            raise Unknown("too long")
        return made

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.FormattedValue):
            value = self._value(part.value)
            if part.format_spec or part.conversion != -1 or value is CORES:
                raise Unknown("a formatted text")
            return str(value)
        return str(self._value(part))

    def _variable(self, name: str, *default: Any) -> Any:
        if name in self.environ:
            return self.environ[name]
        if not default:
            raise Unknown(f"the environment variable {name} says it")
        return default[0]

    def _call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name in _COUNTS or name == "os.sched_getaffinity":
            return CORES
        if any(keyword.arg != "default" for keyword in node.keywords):
            raise Unknown(f"{_shown(node)} cannot be told")
        given = [self._value(item) for item in (*node.args, *(k.value for k in node.keywords))]
        if name in _ENVIRONMENT:
            return self._variable(given[0], *(given[1:] or [None]))
        if any(item is CORES for item in given):
            return CORES
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*given)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            return _METHODS[node.func.attr](self._value(node.func.value), *given)
        raise Unknown(f"{_shown(node)} cannot be told")


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) <= 60 else text[:57] + "..."
