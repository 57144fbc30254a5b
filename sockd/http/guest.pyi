import asyncio

from sockd.http.loop import Loop

class Guest(Loop):
    host: asyncio.AbstractEventLoop
    ended: asyncio.Future[None]
    def attach(self, host: asyncio.AbstractEventLoop) -> None: ...
    def detach(self) -> None: ...
    def turn(self) -> None: ...
