"""What ASGI 3 promises an application, checked on every call: the counterpart of wsgiref's
validator. Complaints are AssertionErrors, which fail the test when its engine is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KEYS = {
    "http": {
        "type": str,
        "asgi": dict,
        "http_version": str,
        "method": str,
        "scheme": str,
        "path": str,
        "raw_path": bytes,
        "query_string": bytes,
        "root_path": str,
        "headers": list,
        "client": (tuple, type(None)),
        "server": tuple,
        "extensions": dict,
    },
}
KEYS["websocket"] = {**KEYS["http"], "subprotocols": list}
del KEYS["websocket"]["method"]
EVENTS = {
    "http.request": {"body": bytes, "more_body": bool},
    "http.disconnect": {},
    "websocket.connect": {},
    "websocket.receive": {"bytes": (bytes, type(None)), "text": (str, type(None))},
    "websocket.disconnect": {"code": int, "reason": str},
}


def check_scope(scope: dict[str, Any]) -> None:
    keys = KEYS[scope["type"]]
    assert set(scope) - {"state"} == set(keys), set(scope) ^ set(keys)
    for key, kind in keys.items():
        assert isinstance(scope[key], kind), (key, scope[key])
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["path"].startswith("/") or scope["raw_path"] == b"*"
    for name, value in scope["headers"]:
        assert type(name) is type(value) is bytes
        assert name == name.lower()
        assert b"\r" not in value
        assert b"\n" not in value
    for address in (scope["client"], scope["server"]):
        assert address is None or (
            type(address[0]) is str and type(address[1]) in (int, type(None))
        )


def checked(app: Callable[..., Any]) -> Callable[..., Any]:
    async def call(scope: Any, receive: Any, send: Any) -> None:
        check_scope(scope)
        family = scope["type"]
        told = ended = False

        async def hear() -> dict[str, Any]:
            nonlocal told, ended
            event = await receive()
            kinds = EVENTS[event["type"]]
            assert event["type"].startswith(family)
            assert set(event) == {"type", *kinds}, event
            for key, kind in kinds.items():
                assert isinstance(event[key], kind), event
            if event["type"] == "http.request":
                assert not told, "a body went on after its end"
                assert not ended
                told = not event["more_body"]
            ended = ended or event["type"].endswith("disconnect")
            assert not ended or event["type"].endswith("disconnect")
            return event

        await app(scope, hear, send)

    return call
