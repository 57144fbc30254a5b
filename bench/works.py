"""The works whose cost is measured, and what sockd has to reach in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bench.load import BROWSER, Load

NOISE = 1.03
PEERS = "every peer"  # in a bar: all but the C responder


@dataclass(frozen=True)
class Bar:
    """sockd's cost is at most `factor` times that of `of`."""

    factor: float
    of: str

    def __str__(self) -> str:
        if self.of == PEERS:
            return "below every peer"
        return f"≤ {self.of}" if self.factor == 1 else f"≤ {self.factor:g} × {self.of}"

    def met(self, costs: Mapping[str, float]) -> bool | None:
        """None if there is nothing to compare with."""
        if "sockd" not in costs:
            return False
        others = costs if self.of == PEERS else [self.of]
        floors = [costs[name] for name in others if name in costs and name not in ("C", "sockd")]
        if self.of == "C":
            floors = [costs["C"]]
        return costs["sockd"] <= self.factor * NOISE * min(floors) if floors else None


@dataclass(frozen=True)
class Work:
    title: str
    bars: tuple[Bar, ...]
    app: str = "plain:hello"
    size: int = 13  # bytes of the response
    load: Load = Load()  # noqa: RUF009 (frozen)
    nginx: Literal["keep-alive", "close"] | None = None


WORKS = (
    Work("13 bytes, keep-alive", (Bar(1.3, "C"), Bar(1, PEERS))),
    Work(
        "13 bytes, a browser's 12 headers",
        (Bar(1, PEERS),),
        load=Load(headers=BROWSER),
    ),
    Work("13 bytes, connection per request", (Bar(1.15, "C"),), load=Load(closing=True)),
    Work("nginx, Unix socket, keep-alive", (Bar(1, "bjoern"),), nginx="keep-alive"),
    Work("nginx, Unix socket, close", (Bar(1, "uWSGI"),), nginx="close"),
    Work("16 KiB POST", (Bar(1, PEERS),), app="plain:post", load=Load(post=16 << 10)),
    Work("256 KiB response", (Bar(1, PEERS),), app="plain:large", size=256 << 10),
    Work("Flask, JSON", (Bar(1, "bjoern"),), app="flask_json:app", size=28),
    Work("Django, JSON", (Bar(1, "bjoern"),), app="django_json:app", size=28),
)
