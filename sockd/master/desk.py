"""What clients of the control socket ask, and what they are answered."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import sockd
from sockd import metrics
from sockd.master.control import Client, Refused
from sockd.master.events import Event, Reload, Reply, Resize, Stop, Upgrade
from sockd.master.fleet import Fleet
from sockd.master.report import Reporter
from sockd.master.service import Service
from sockd.master.states import W


class Desk:
    def __init__(
        self,
        fleet: Fleet,
        service: Service,
        reporter: Reporter,
        happened: Callable[[Event], None],
    ) -> None:
        """`happened` takes what the fleet is to decide about; a Reply is the answer."""
        self.fleet = fleet
        self.service = service
        self.reporter = reporter
        self.happened = happened

    def asked(self, client: Client, method: str, path: str, body: Any) -> None:
        """Answer at once, or have it decided. Refused."""
        match method, path:
            case "GET", "/status":
                client.reply(HTTPStatus.OK, self._status())
            case "GET", "/metrics":
                client.send(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.text(self._status()))
            case "GET", "/healthz":
                self._tell_health(client)
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
            case (
                _,
                "/status"
                | "/metrics"
                | "/healthz"
                | "/reload"
                | "/upgrade"
                | "/stop"
                | "/workers",
            ):
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not take {method}")
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}")

    def _status(self) -> dict[str, Any]:
        config = self.service.config
        assert config
        return self.reporter.status(config, self.service.listeners)

    def _tell_health(self, client: Client) -> None:
        """Whether requests are answered, as READY=1 says it to systemd."""
        serves = self.fleet.live is not None and any(self.fleet.live.in_state(W.READY))
        status = HTTPStatus.OK if serves else HTTPStatus.SERVICE_UNAVAILABLE
        client.send(status, "text/plain", "ok\n" if serves else "no\n")

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
