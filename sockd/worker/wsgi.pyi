from collections.abc import Callable
from typing import Any

from sockd.http.ends import Handler, Report
from sockd.settings import Settings

class WSGIHandler(Handler):
    multiprocess: bool
    multithread: bool
    def __init__(
        self,
        application: Callable[..., Any],
        settings: Settings,
        *,
        report: Report | None = None,
        multiprocess: bool = True,
    ) -> None: ...
