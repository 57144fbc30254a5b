"""The application as a fork server or a worker has imported it: the callable, and its hooks."""

from __future__ import annotations

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
        return cls(found, hooks)

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
