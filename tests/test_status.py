"""What `sockd status` makes of the document."""

from __future__ import annotations

import pytest

from sockd import status
from tests.documents import DOCUMENT, REQUEST, WORKER


def test_one_screen():
    text = status.screen(DOCUMENT)
    assert text.splitlines()[0] == "● shop: serving, generation 3, up 2h 14min"
    for words in (
        "/run/shop.sock (3 of 4096 wait, at most 12 did)",
        "127.0.0.1:8000\n",
        "2 ready of 2, 1 busy",
        "240,466, 24 4xx, 3 5xx, 2 raised, 2 refused, 1 turned away",
        "2.1ms p50, 8.4ms p90, 760ms p99, 786ms max",
        "4.8 MiB in, 6.5 GiB out",
        "100 MiB private, 50.0 MiB the largest; CPU 1min",
        "5 ok, 1 failed",
        "last error ImportError: no",
        "1 crash, 2 oom, 4 reload",
        "5 handed over, 4 taken, 1 of them stolen",
        "3.1  7.3s  GET /slow?",
        "(5f0c)",
    ):
        assert words in text
    assert len(text.splitlines()) <= 24


def test_nothing_steers_the_terminal():
    assert "\x1b" not in status.screen(DOCUMENT)
    hostile = DOCUMENT | {"workers": [WORKER | {"in_hand": [REQUEST | {"id": "\x1b]0;x\x07"}]}]}
    assert "\x1b]" not in status.screen(hostile, colour=True)


def test_colours_and_width():
    assert "\x1b[32mserving\x1b[0m" in status.screen(DOCUMENT, colour=True)
    long = REQUEST | {"target": "/" + "x" * 300}
    text = status.screen(DOCUMENT | {"workers": [WORKER | {"in_hand": [long]}]}, width=80)
    assert max(map(len, text.splitlines())) <= 80


def test_many_requests_of_a_worker_are_counted():
    many = WORKER | {"in_hand": [REQUEST] * 16, "active": 40}
    text = status.screen(DOCUMENT | {"workers": [many]})
    assert text.count("GET /slow") == 8
    assert "3.1  and 32 more" in text


def test_a_service_that_boots():
    text = status.screen(
        DOCUMENT | {"state": "booting", "generation": None, "wanted": None, "workers": []}
    )
    assert "no generation yet" in text
    assert "no workers" in text


def test_left_over_workers_are_named():
    text = status.screen(DOCUMENT | {"left_over": [{"pid": 4242, "id": "2.7"}]})
    assert "workers of an earlier master: 2.7 (pid 4242)" in text


@pytest.mark.parametrize(
    ("usec", "text"),
    [
        (0, "0ms"),
        (40, "0.0ms"),
        (1500, "1.5ms"),
        (40_000, "40ms"),
        (7_300_000, "7.3s"),
        (300_000_000, "5min"),
        (8_040_000_000, "2h 14min"),
        (200_000_000_000, "2d 7h"),
    ],
)
def test_elapsed(usec: int, text: str):
    assert status.elapsed(usec) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (1 << 50, "1024 TiB")],
)
def test_size(number: int, text: str):
    assert status.size(number) == text
