from collections.abc import Callable
from types import TracebackType

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Report = Callable[[str, ExcInfo | None, dict[str, str]], None]

class Handler:
    report: Report | None
