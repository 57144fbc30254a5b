"""What clients of the control socket ask, and what they are answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import Any

import sockd
from sockd import metrics
from sockd.master.control import Client, Refused
from sockd.master.events import Event, Reload, Reply, Resize, Stop, Upgrade
from sockd.master.fleet import Fleet
from sockd.master.report import Reporter
from sockd.master.service import Service
from sockd.master.stacks import Stacks
from sockd.master.states import W


class Desk:
    def __init__(
        self,
        fleet: Fleet,
        service: Service,
        reporter: Reporter,
        stacks: Stacks,
        happened: Callable[[Event], None],
    ) -> None:
        """`happened` takes what the fleet is to decide about; a Reply is the answer."""
        self.fleet = fleet
        self.service = service
        self.reporter = reporter
        self.stacks = stacks
        self.happened = happened
        # While it can be read: an upgrade replaces files under running processes.
        self.page = resources.files(__package__).joinpath("page.html").read_text()

    def asked(self, client: Client, method: str, path: str, body: Any) -> None:
        """Answer at once, or have it decided. Refused."""
        match method, path:
            case "GET", "/stacks":
                self.stacks.ask(lambda content: client.reply(HTTPStatus.OK, content))
            case "POST", "/reload":
                self.happened(Reload(client))
            case "POST", "/upgrade":
                client.upgrading = True
                self.happened(Upgrade(client))
            case "POST", "/stop":
                quick = isinstance(body, dict) and body.get("quick") is True
                self.happened(Stop(quick))
                client.reply(HTTPStatus.ACCEPTED, {"ok": True})
            case "POST", "/workers":
                by = body.get("by") if isinstance(body, dict) else None
                if not isinstance(by, int) or isinstance(by, bool) or not by:
                    raise Refused(HTTPStatus.BAD_REQUEST, 'say {"by": N}, N not 0')
                self.happened(Resize(by, client))
            case _, "/stacks" | "/reload" | "/upgrade" | "/stop" | "/workers":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not take {method}")
            case _:
                self.looked(client, method, path, body)

    def looked(self, client: Client, method: str, path: str, body: Any) -> None:
        """Answer somebody who may look and nothing else. Refused."""
        match path:
            case "/":
                content_type, text = "text/html; charset=utf-8", self.page
            case "/status":
                content_type, text = "application/json", json.dumps(self._status()) + "\n"
            case _:
                self.scraped(client, method, path, body)
                return
        self._tell(client, method, path, content_type, text)

    def scraped(self, client: Client, method: str, path: str, body: Any) -> None:
        """Answer somebody who may have the metrics. Refused."""
        match path:
            case "/metrics":
                text = metrics.text(self._status())
                self._tell(client, method, path, metrics.CONTENT_TYPE, text)
            case "/healthz":
                serves = self.fleet.live is not None and any(self.fleet.live.in_state(W.READY))
                status = HTTPStatus.OK if serves else HTTPStatus.SERVICE_UNAVAILABLE
                text = "ok\n" if serves else "no\n"
                self._tell(client, method, path, "text/plain", text, status)
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}")

    def _tell(
        self,
        client: Client,
        method: str,
        path: str,
        content_type: str,
        text: str,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        if method != "GET":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not take {method}")
        client.send(status, content_type, text)

    def _status(self) -> dict[str, Any]:
        config = self.service.config
        assert config
        return self.reporter.status(config, self.service.listeners)

    def reply(self, decision: Reply) -> None:
        """The outcome of what was asked for earlier."""
        client = decision.token
        assert isinstance(client, Client)
        content: dict[str, Any] = {"ok": decision.ok, "generation": decision.generation}
        if client.upgrading:
            content |= {"sockd": sockd.__version__, "from": client.asked_of}
        if decision.ok:
            content["notes"] = self.service.waiting()
            content["workers"] = self.fleet.live.wanted if self.fleet.live else 0
        else:
            content |= {"error": decision.message, "detail": decision.detail}
        client.reply(HTTPStatus.OK, content)
