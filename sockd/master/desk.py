"""What clients of the control socket ask, and what they are answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from sockd.board import Board
from sockd.master import report
from sockd.master.control import Client, Refused
from sockd.master.events import Event, Reload, Reply, Resize, Stop
from sockd.master.fleet import Fleet
from sockd.master.leftover import LeftOver
from sockd.master.service import Service


class Desk:
    def __init__(
        self,
        fleet: Fleet,
        board: Board,
        service: Service,
        left_over: LeftOver,
        happened: Callable[[Event], None],
    ) -> None:
        """`happened` takes what the fleet is to decide about; a Reply is the answer."""
        self.fleet = fleet
        self.board = board
        self.service = service
        self.left_over = left_over
        self.happened = happened
        self.started = time.monotonic()

    def asked(self, client: Client, method: str, path: str, body: Any) -> None:
        """Answer at once, or have it decided. Refused."""
        match method, path:
            case "GET", "/status":
                client.reply(HTTPStatus.OK, self._status())
            case "POST", "/reload":
                self.happened(Reload(client))
            case "POST", "/stop":
                quick = isinstance(body, dict) and body.get("quick") is True
                self.happened(Stop(quick))
                client.reply(HTTPStatus.ACCEPTED, {"ok": True})
            case "POST", "/workers":
                by = body.get("by") if isinstance(body, dict) else None
                if not isinstance(by, int) or isinstance(by, bool) or not by:
                    raise Refused(HTTPStatus.BAD_REQUEST, 'say {"by": N}, N not 0')
                self.happened(Resize(by, client))
            case _, "/status" | "/reload" | "/stop" | "/workers":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not take {method}")
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}")

    def _status(self) -> dict[str, Any]:
        config = self.service.config
        assert config
        return report.status(
            self.fleet,
            self.board,
            name=config.name,
            config=config.path,
            listeners=self.service.listeners,
            started=self.started,
            left_over=self.left_over.found,
        )

    def reply(self, decision: Reply) -> None:
        """The outcome of what was asked for earlier."""
        client = decision.token
        assert isinstance(client, Client)
        content: dict[str, Any] = {"ok": decision.ok, "generation": decision.generation}
        if decision.ok:
            content["notes"] = self.service.waiting()
            content["workers"] = self.fleet.live.wanted if self.fleet.live else 0
        else:
            content |= {"error": decision.message, "detail": decision.detail}
        client.reply(HTTPStatus.OK, content)
