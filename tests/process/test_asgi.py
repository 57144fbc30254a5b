"""ASGI in real workers: frameworks, lifespan, reload, drain, WebSockets, on both event loops."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from .conftest import Load, Service, eventually

FASTAPI = """
import asyncio, contextvars, os
from contextlib import asynccontextmanager

import anyio
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

VERSION = "1"
variable = contextvars.ContextVar("variable", default="")

def note(text):
    with open("noted", "a") as file:
        print(text, file=file)

@asynccontextmanager
async def lifespan(app):
    note(f"up {VERSION}")
    yield {"pool": "p" + VERSION}
    note(f"down {VERSION}")

app = FastAPI(lifespan=lifespan)

class Around(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-around"] = "1"
        return response

within = FastAPI()
within.add_middleware(Around)
app.mount("/within", within)

@app.get("/")
async def root(request: Request):
    return f"{VERSION} {os.getpid()}"

@app.get("/state")
async def state(request: Request):
    loop = type(asyncio.get_running_loop()).__module__.split(".")[0]
    return {"pool": request.state.pool, "loop": loop, "url": str(request.url)}

@app.post("/upload")
async def upload(request: Request):
    return {"size": sum([len(piece) async for piece in request.stream()])}

@app.get("/context/{value}")
async def context(value: str):
    before = variable.get()
    variable.set(value)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0.01)
    with anyio.move_on_after(0.01):
        await anyio.sleep_forever()
    return [before, variable.get(), asyncio.current_task() is not None]

@app.get("/thread")
def thread():
    return {"sync": True}

@app.get("/later")
async def later(tasks: BackgroundTasks):
    async def slowly():
        note("began")
        await asyncio.sleep(1)
        note("finished")
    tasks.add_task(slowly)
    return "at once"

@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(20):
            yield f"data: {VERSION} {number}\\n\\n"
            await asyncio.sleep(0.1)
    return StreamingResponse(pieces(), media_type="text/event-stream")

@app.get("/listening")
async def listening(request: Request):
    note("listens")
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    note("disconnected")

@within.get("/file")
async def file():
    return FileResponse(__file__)

@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    async for text in socket.iter_text():
        await socket.send_text(text)
    note("left")
"""

QUART = """
from quart import Quart, request, websocket
app = Quart(__name__)

@app.before_serving
async def before():
    app.ready = "ready"

@app.get("/")
async def root():
    return {"framework": "quart", "state": app.ready}

@app.post("/upload")
async def upload():
    return {"size": len(await request.get_data())}

@app.websocket("/echo")
async def echo():
    while True:
        await websocket.send(await websocket.receive())
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

async def root(request):
    return JSONResponse({"framework": "starlette", "state": "ready"})

async def upload(request):
    return JSONResponse({"size": len(await request.body())})

async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)

app = Starlette(routes=[
    Route("/", root), Route("/upload", upload, methods=["POST"]), WebSocketRoute("/echo", echo)])
"""

DJANGO = """
import asyncio, sys
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False)
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

async def root(request):
    await asyncio.sleep(0)
    return JsonResponse({"framework": "django", "state": "ready"})

def upload(request):
    return JsonResponse({"size": len(request.body)})

urlpatterns = [path("", root), path("upload", upload)]
django = get_asgi_application()

async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})

async def app(scope, receive, send):
    await (echo if scope["type"] == "websocket" else django)(scope, receive, send)
"""


def noted(service: Service) -> list[str]:
    path = service.app / "noted"
    return path.read_text().splitlines() if path.exists() else []


def ask(service: Service, method: str, path: str, body: bytes | None = None) -> Any:
    with closing(service.connect()) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())


def talk(service: Service, path: str = "/echo", **options: Any) -> ClientConnection:
    return unix_connect(service.bind, f"ws://localhost{path}", **options)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_users_of_fastapi_expect(service: Service, loop: str):
    service.settings |= {"server.loop": loop, "workers": 1, "app.warmup": ["/"]}
    service.write(FASTAPI)
    service.start().ready()
    assert ask(service, "GET", "/state") == {
        "pool": "p1",
        "loop": loop,
        "url": "http://localhost/state",
    }
    assert ask(service, "POST", "/upload", bytes(3_000_000)) == {"size": 3_000_000}
    assert ask(service, "GET", "/context/a") == ["", "a", True]
    assert ask(service, "GET", "/context/b") == ["", "b", True]
    assert ask(service, "GET", "/thread") == {"sync": True}
    with closing(service.connect()) as kept:  # one connection for all
        for _ in range(3):
            kept.request("GET", "/within/file")
            response = kept.getresponse()
            assert response.read() == FASTAPI.encode()
            assert response.headers["x-around"] == "1"
    with closing(service.connect()) as leaving:
        leaving.request("GET", "/listening")
        eventually(lambda: "listens" in noted(service))
    eventually(lambda: "disconnected" in noted(service))
    with talk(service, subprotocols=["a"]) as peer:
        assert peer.subprotocol == "a"
        peer.send("€" * 100_000)
        assert peer.recv() == "€" * 100_000
    eventually(lambda: "left" in noted(service))
    # What runs behind its response is finished before the end, and the lifespan ends last.
    assert ask(service, "GET", "/later") == "at once"
    eventually(lambda: "began" in noted(service))
    assert service.stop() == 0
    assert noted(service)[-2:] == ["finished", "down 1"]
    assert "Traceback" not in service.log()


@pytest.mark.parametrize(
    "source", [STARLETTE, QUART, DJANGO], ids=["starlette", "quart", "django"]
)
def test_frameworks(service: Service, source: str):
    service.settings["workers"] = 1
    service.write(source)
    service.start().ready()
    assert ask(service, "GET", "/")["state"] == "ready"
    assert ask(service, "POST", "/upload", bytes(300_000)) == {"size": 300_000}
    with talk(service) as peer:
        peer.send("Tschüß")
        assert peer.recv() == "Tschüß"
    assert service.stop() == 0
    assert "Traceback" not in service.log()


def test_a_reload(service: Service):
    """Requests go on, a stream of the old code comes to its end, WebSockets are told to come
    again."""
    service.write(FASTAPI)
    service.start().ready()
    with closing(service.connect()) as streaming, talk(service) as peer, Load(service) as load:
        streaming.request("GET", "/stream")
        response = streaming.getresponse()
        begun = response.read(5)
        eventually(lambda: len(load.answers) > 20)
        service.write(FASTAPI.replace('VERSION = "1"', 'VERSION = "2"'))
        assert service.ask("POST", "/reload")[1]["ok"]
        assert service.get()[1].startswith('"2 ')
        with pytest.raises(ConnectionClosed):
            peer.recv()
        assert (peer.close_code, peer.close_reason) == (1012, "service restart")
        assert (begun + response.read()).count(b"data: 1 ") == 20
        enough = len(load.answers) + 20
        eventually(lambda: len(load.answers) > enough)
    assert load.failures == []
    eventually(lambda: noted(service).count("down 1") == 2)
    assert service.stop() == 0


LIFESPAN = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        FAILS
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
"""
FAILED = 'await send({"type": "lifespan.startup.failed", "message": "no database"}); return'


@pytest.mark.parametrize(
    ("mode", "fails", "words"),
    [
        ("auto", FAILED, "lifespan: startup failed: no database"),
        ("on", 'raise ValueError("odd")', "lifespan: the application raised ValueError: odd"),
        ("on", "return", "lifespan: the application returned without an answer to startup"),
    ],
)
def test_a_startup_that_fails_fails_the_reload(
    service: Service, mode: str, fails: str, words: str
):
    service.settings |= {"app.lifespan": mode, "workers": 1}
    service.write(LIFESPAN.replace("FAILS", "pass"))
    service.start().ready()
    service.write(LIFESPAN.replace("FAILS", fails))
    outcome = service.ask("POST", "/reload")[1]
    assert not outcome["ok"]
    assert words in json.dumps(outcome)
    assert service.get() == (200, "fine")
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("mode", "fails"), [("auto", 'raise ValueError("odd")'), ("off", "1 / 0")]
)
def test_an_application_without_a_lifespan(service: Service, mode: str, fails: str):
    service.settings |= {"app.lifespan": mode, "workers": 1}
    service.write(LIFESPAN.replace("FAILS", fails))
    service.start().ready()
    assert service.get() == (200, "fine")
    assert ("taken to have no lifespan" in service.log()) == (mode == "auto")
    assert service.stop() == 0


OLD = """
class app:
    def __init__(self, scope): ...
    async def __call__(self, receive, send): ...
"""
CLASS = """
class app:
    def __init__(self, environ, start_response):
        start_response("200 OK", [])
    def __iter__(self):
        return iter([b"fine"])
"""
PARTIAL = """
import functools
async def serve(text, scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})
app = functools.partial(serve, b"fine")
"""
HIDDEN = PARTIAL.replace("app = functools", "hidden = functools") + "app = lambda *a: hidden(*a)\n"


@pytest.mark.parametrize(
    ("source", "interface"), [(CLASS, "auto"), (PARTIAL, "auto"), (HIDDEN, "asgi")]
)
def test_interfaces(service: Service, source: str, interface: str):
    service.settings |= {"app.interface": interface, "workers": 1, "app.warmup": ["/"]}
    service.write(source)
    service.start().ready()
    assert service.get() == (200, "fine")
    assert service.stop() == 0


def test_asgi_2_is_refused(service: Service):
    service.write(OLD)
    assert service.start().wait() != 0
    assert "application:app is a class" in service.log()
    assert "guarantee_single_callable" in service.log()


def test_what_outlives_the_drain_is_cut(service: Service):
    service.settings |= {"timeouts.drain": 1.0, "workers": 1}
    service.write(FASTAPI)
    service.start().ready()
    with closing(service.connect()) as client:
        client.request("GET", "/listening")
        eventually(lambda: "listens" in noted(service))
        assert service.stop() == 0
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            client.getresponse()
    assert "1 connections cut at the drain deadline" in service.log()
    assert noted(service)[-1] == "down 1"
