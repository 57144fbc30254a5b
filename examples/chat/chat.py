"""A chat room on FastAPI: a WebSocket for those who talk, server-sent events for those who only
listen, and what is kept from startup to shutdown in the lifespan's state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel

PAGE = """<!doctype html><title>Chat</title><ul id=said></ul><input id=say autofocus>
<script>
const socket = new WebSocket(location.href.replace(/^http/, "ws") + "talk");
socket.onmessage = (event) => {
  said.append(Object.assign(document.createElement("li"), {textContent: event.data}));
};
say.onchange = () => { socket.send(say.value); say.value = ""; };
</script>"""


class Room:
    """Who listens, each with a queue of its own: one that is slow stops nobody."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Queue[str]] = set()
        self.noted: list[str] = []

    def say(self, text: str) -> None:
        for queue in self.listeners:
            queue.put_nowait(text)

    async def heard(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self.listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.discard(queue)


class Word(BaseModel):
    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"room": Room()}


app = FastAPI(title="Chat", lifespan=lifespan)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.get("/about")
async def about(request: Request) -> dict[str, Any]:
    return {"worker": os.getpid(), "client": request.client, "url": str(request.url)}


@app.post("/words", status_code=202)
async def post(word: Word, request: Request, later: BackgroundTasks) -> dict[str, int]:
    """Said at once, noted after the answer."""
    room: Room = request.state.room
    room.say(word.text)
    later.add_task(room.noted.append, word.text)
    return {"listeners": len(room.listeners)}


@app.get("/words")
async def listen(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        yield ": welcome\n\n"
        async for text in request.state.room.heard():
            yield f"data: {text}\n\n"

    # nginx passes it on as it comes.
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


@app.websocket("/talk")
async def talk(socket: WebSocket) -> None:
    await socket.accept()
    room: Room = socket.state.room

    async def tell() -> None:
        async for text in room.heard():
            await socket.send_text(text)

    teller = asyncio.create_task(tell())
    try:
        while True:
            room.say(await socket.receive_text())
    except WebSocketDisconnect:
        pass
    finally:
        teller.cancel()
