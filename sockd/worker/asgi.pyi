import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sockd.http.loop import Report
from sockd.settings import Settings
from sockd.worker.tasks import TaskHandler

class ASGIHandler(TaskHandler):
    state: dict[str, Any] | None
    def __init__(
        self,
        application: Callable[..., Awaitable[object]],
        settings: Settings,
        *,
        host: asyncio.AbstractEventLoop,
        report: Report | None = None,
    ) -> None: ...
