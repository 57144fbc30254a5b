import asyncio
from typing import Any

from sockd.http.loop import Handler

class ClientDisconnected(OSError): ...

class TaskHandler(Handler):
    exchanges: dict[Any, None]
    def cancel(self) -> list[asyncio.Task[None]]: ...
