import socket
from collections.abc import Callable, Iterable
from types import TracebackType

from sockd.board import Board
from sockd.settings import Settings

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Report = Callable[[str, ExcInfo | None, dict[str, str]], None]

class Handler:
    report: Report | None

class Loop:
    handler: Handler
    listeners: list[socket.socket]
    aborted: int
    left_over: int
    def __init__(
        self,
        handler: Handler,
        listeners: Iterable[socket.socket],
        settings: Settings,
        board: Board,
        slot: int,
    ) -> None: ...
    def log_access(self, access: object) -> None: ...
    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def hold(self, lifeline: int) -> None: ...
    def join(self, give: int, take: int, *, outlives: bool) -> None: ...
    def run(self) -> None: ...
    def drain(
        self,
        seconds: float,
        *,
        close_idle: bool,
        accept_rest: bool = False,
        hand_over: bool = False,
    ) -> None: ...
    def stop(self) -> None: ...
