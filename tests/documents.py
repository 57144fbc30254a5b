"""What GET /status answers, for tests of what is made of it."""

from __future__ import annotations

from typing import Any

SPREAD = {
    "count": 4, "sum_usec": 1_000_000, "p50_usec": 2112, "p90_usec": 8448, "p99_usec": 760_000,
    "max_usec": 786_432,
}  # fmt: skip
BUCKETS = [[2176, 2], [8704, 1], [786_432, 1]]
REQUEST = {
    "method": "GET", "target": "/slow?\x1b[2J", "id": "5f0c", "started_usec": 1_000_000,
    "sending": False,
}  # fmt: skip
WORKER: dict[str, Any] = {
    "id": "3.1", "generation": 3, "worker": 1, "pid": 4713, "state": "ready",
    "started_usec": 1, "beat_usec": 1, "requests": 120233, "responses_4xx": 12,
    "responses_5xx": 0, "exceptions": 0, "refused": 1, "turned_away": 0, "connections": 14,
    "active": 1, "bytes_in": 1, "bytes_out": 1, "handed_over": 0, "taken_over": 0, "stolen": 0,
    "access_lost": 0, "in_hand": [REQUEST], "duration": SPREAD, "queue": SPREAD,
    "memory": 50 << 20, "cpu_usec": 2_000_000,
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "sockd": "0.1.0", "version": 1, "name": "shop", "pid": 4711, "state": "serving",
    "now_usec": 8_300_000, "uptime_usec": 8_040_000_000, "started": 1_700_000_000.5,
    "config": "/etc/sockd/shop.toml", "generation": 3, "threads": 1, "wanted": 2,
    "listeners": [
        {"name": "http", "address": "/run/shop.sock", "queue": 3, "highest": 12, "limit": 4096},
        {"name": "http", "address": "127.0.0.1:8000", "queue": None, "highest": None,
         "limit": None},
    ],
    "reloads": {"ok": 2, "failed": 1, "last_error": "Traceback\nImportError: no"},
    "workers": [
        WORKER,
        WORKER | {"id": "3.2", "worker": 2, "pid": 4714, "active": 0, "in_hand": []},
    ],
    "respawns": 1,
    "left_over": [],
    "totals": {
        "requests": 240_466, "responses_4xx": 24, "responses_5xx": 3, "exceptions": 2,
        "refused": 2, "turned_away": 1, "bytes_in": 5_000_000, "bytes_out": 7_000_000_000,
        "handed_over": 5, "taken_over": 4, "stolen": 1, "access_lost": 0, "cpu_usec": 61_000_000,
        "duration": SPREAD | {"buckets": BUCKETS},
        "queue": SPREAD | {"buckets": BUCKETS},
        "respawns": {
            "crash": 1, "signal": 0, "oom": 2, "request_timeout": 0, "boot_timeout": 0,
            "max_requests": 0, "max_memory": 0, "max_age": 0, "reload": 4,
        },
        "reloads": {"ok": 5, "failed": 1},
    },
}  # fmt: skip
