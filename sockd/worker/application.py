"""The application as a fork server or a worker has imported it: the callable, how it is called,
and its hooks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sockd import loader
from sockd.errors import AppError
from sockd.settings import App

HOOKS = ("before_fork", "after_fork", "on_drain", "on_exit")


@dataclass(frozen=True)
class Application:
    callable: Callable[..., Any]
    hooks: dict[str, Callable[[], object]]
    interface: str = "wsgi"

    @classmethod
    def load(cls, settings: App) -> Application:
        """Import it. AppError."""
        found = loader.load(settings.target)
        named = {name: getattr(settings, name) for name in HOOKS}
        hooks = {
            name: loader.load_hook(f"app.{name}", target)
            for name, target in named.items()
            if target
        }
        return cls(found, hooks, interface(found, settings))

    def run(self, hook: str) -> None:
        """Call a hook, if there is one. AppError with its traceback when it raises."""
        if hook not in self.hooks:
            return
        try:
            self.hooks[hook]()
        except BaseException as error:
            raise AppError(
                f"app.{hook} {loader.verb(error, 'failed:')}", detail=loader.describe(error)
            ) from None


def interface(app: Callable[..., Any], settings: App) -> str:
    """`wsgi` or `asgi`. AppError for what is neither."""
    if inspect.isclass(app) and _is_async(getattr(app, "__call__", None)):  # noqa: B004
        raise AppError(
            f"{settings.target} is a class whose objects are called with receive and send: "
            "that is ASGI 2. Wrap it: asgiref.compatibility.guarantee_single_callable"
        )
    if settings.interface != "auto":
        return settings.interface
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.isclass(app):
        return "asgi" if hasattr(app, "__await__") else "wsgi"
    return "asgi" if _is_async(app) or _is_async(getattr(app, "__call__", None)) else "wsgi"  # noqa: B004


def _is_async(thing: object) -> bool:
    # The attribute is asgiref's and asyncio's mark before Python 3.12.
    return inspect.iscoroutinefunction(thing) or hasattr(thing, "_is_coroutine")
