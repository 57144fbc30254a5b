from collections.abc import Callable
from typing import Any

from sockd.http.loop import Handler, Report

class WSGIHandler(Handler):
    multiprocess: bool
    multithread: bool
    def __init__(
        self,
        application: Callable[..., Any],
        *,
        report: Report | None = None,
        multiprocess: bool = True,
        multithread: bool = False,
    ) -> None: ...
