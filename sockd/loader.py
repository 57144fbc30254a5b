"""From `module:attribute` or `module:factory()` to the application, or to an error that its
author can act on."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from sockd.errors import AppError

DETAIL_LIMIT = 64 * 1024  # bytes of a traceback that are kept
MESSAGE_LIMIT = 300  # characters of an exception's text in a message

_TARGET = re.compile(r"(\w+(?:\.\w+)*):(\w+(?:\.\w+)*)(\(\))?")
_OWN_FILES = (
    *{f"{path.parent}/" for path in (Path(__file__), Path(__file__).resolve())},
    "sockd/",  # what is compiled knows its source by this relative path
    "<frozen importlib",
    "<frozen runpy",
)


def load(target: str) -> Callable[..., Any]:
    """Import the application. AppError says what is wrong; its detail is the app's traceback."""
    match = _TARGET.fullmatch(target)
    if not match:
        raise AppError(
            f"{target!r} names no application; write module:attribute or module:factory()"
        )
    module_name, path, call = match.groups()
    found = _attribute(_module(module_name), module_name, path)
    if call:
        if not callable(found):
            raise AppError(f"{module_name}:{path} is {_kind(found)}, which cannot be called")
        try:
            found = found()
        except BaseException as error:
            raise _failure(f"{target} {verb(error, 'raised')}", error) from None
    if not callable(found):
        hint = "" if call else f" (a factory is written {module_name}:{path}())"
        raise AppError(f"{target} is {_kind(found)}, not a callable application{hint}")
    return found  # type: ignore[no-any-return]


def load_hook(key: str, target: str) -> Callable[[], object]:
    """Import the function `module:function` that the setting `key` names. AppError."""
    match = _TARGET.fullmatch(target)
    if not match or match[3]:
        raise AppError(f"{key}: {target!r} names no function; write module:function")
    module_name, path, _ = match.groups()
    try:
        found = _attribute(_module(module_name), module_name, path)
    except AppError as error:
        raise AppError(f"{key}: {error}", detail=error.detail) from None
    if not callable(found):
        raise AppError(f"{key}: {target} is {_kind(found)}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        of_target = name == missing or name.startswith(f"{missing}.")
        if missing and of_target and _app_traceback(error) is None:
            raise AppError(_not_found(name, missing)) from None
        if missing:
            raise _failure(
                f"module {name} imports {missing}, which is not installed", error
            ) from None
        raise _failure(f"module {name} {verb(error, 'cannot be imported:')}", error) from None
    except BaseException as error:
        raise _failure(f"module {name} {verb(error, 'cannot be imported:')}", error) from None


def _not_found(name: str, missing: str) -> str:
    where = sys.path[0] or "."
    parent, _, _ = missing.rpartition(".")
    if parent in sys.modules:
        return f"module {missing} not found in package {parent}"
    message = f"module {missing} not found in {where}"
    try:
        there = [
            entry.stem
            for entry in Path(where).iterdir()
            if entry.suffix == ".py" or (entry.is_dir() and entry.name.isidentifier())
        ]
    except OSError:
        return message
    return message + _nearest(missing, there)


def _attribute(module: ModuleType, module_name: str, path: str) -> Any:
    found: Any = module
    walked = f"module {module_name}"
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            hint = _nearest(name, [item for item in dir(found) if not item.startswith("_")])
            raise AppError(f"{walked} has no attribute {name}{hint}") from None
        walked = f"{_kind(found)} {module_name}:{name}"
    return found


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _kind(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def verb(error: BaseException, usual: str) -> str:
    """What happened, in words that follow the module's or factory's name."""
    if isinstance(error, SystemExit):
        return f"ended the process: sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, KeyboardInterrupt):
        return "was interrupted (KeyboardInterrupt)"
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return f"{usual} {lines[-1][:MESSAGE_LIMIT]}"


def _failure(message: str, error: BaseException) -> AppError:
    return AppError(message, detail=describe(error))


def describe(error: BaseException) -> str:
    """The traceback from the first frame that is the application's, DETAIL_LIMIT bytes of it."""
    lines = traceback.format_exception(type(error), error, _app_traceback(error))
    return bounded("".join(lines))


def _app_traceback(error: BaseException) -> TracebackType | None:
    """The traceback less the frames of sockd and of the import machinery that lead to it."""
    tb = error.__traceback__
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if not is_own(file):
            break
        tb = tb.tb_next
    return tb


def is_own(file: str) -> bool:
    """Whether code of that file is sockd's, or the import machinery's."""
    return file.startswith(_OWN_FILES) or file == importlib.__file__


def bounded(text: str, limit: int = DETAIL_LIMIT) -> str:
    """At most about `limit` bytes of a traceback: how it began, and its end, which says most."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode()
    head = data[: limit // 4].decode(errors="ignore")
    tail = data[limit // 4 - limit :].decode(errors="ignore")
    return f"{head}\n[... {len(data) - limit} bytes ...]\n{tail}"
