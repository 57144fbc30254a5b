"""The text for Prometheus, and its list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sockd import metrics
from tests.documents import DOCUMENT, WORKER

ROOT = Path(__file__).parents[1]


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by name and labels; each line has to be of the format."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \w+ \S.*|TYPE \w+ (counter|gauge|histogram))", line)
            continue
        match = re.fullmatch(r"(\w+)\{((?:\w+=\"(?:[^\"\\\n]|\\.)*\",?)*)\} (\S+)", line)
        assert match, line
        labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2])))
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[3])
    return found


def value(document: dict[str, Any], name: str, **labels: str) -> float:
    wanted = tuple(sorted({"service": "shop", **labels}.items()))
    return parsed(metrics.text(document))[name, wanted]


def test_every_metric_has_samples_and_only_its_labels():
    samples = parsed(metrics.text(DOCUMENT))
    for metric in metrics.METRICS:
        names = [metric.name]
        if metric.kind == "histogram":
            names = [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        for name in names:
            labels = {key for (of, pairs) in samples if of == name for key, _ in pairs}
            allowed = set(metric.labels) if name.endswith("bucket") or len(names) == 1 else set()
            assert labels == {"service", *allowed}, name
    known = "|".join(metric.name for metric in metrics.METRICS)
    assert all(re.fullmatch(rf"({known})(_bucket|_sum|_count)?", name) for name, _ in samples)


def test_counters_end_in_total():
    for metric in metrics.METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_values():
    assert value(DOCUMENT, "sockd_requests_total") == 240_466
    assert value(DOCUMENT, "sockd_responses_total", **{"class": "5xx"}) == 3
    assert value(DOCUMENT, "sockd_respawns_total", cause="oom") == 2
    assert value(DOCUMENT, "sockd_workers_busy") == 1
    assert value(DOCUMENT, "sockd_oldest_request_seconds") == 7.3
    assert value(DOCUMENT, "sockd_listen_queue", listener="/run/shop.sock") == 3
    assert value(DOCUMENT, "sockd_reload_failed") == 1
    assert value(DOCUMENT, "sockd_start_time_seconds") == 1_700_000_000.5
    with pytest.raises(KeyError):
        value(DOCUMENT, "sockd_listen_queue", listener="127.0.0.1:8000")


def test_histograms_are_cumulative():
    samples = parsed(metrics.text(DOCUMENT))
    found = sorted(
        (float(dict(labels)["le"]), number)
        for (name, labels), number in samples.items()
        if name == "sockd_request_duration_seconds_bucket"
    )
    counts = [number for _, number in found]
    assert counts == sorted(counts)
    assert found[-1] == (float("inf"), 4)
    assert dict(found)[0.002048] == 0
    assert dict(found)[0.004096] == 2
    assert value(DOCUMENT, "sockd_request_duration_seconds_sum") == 1.0


def test_labels_are_escaped():
    hostile = DOCUMENT | {"name": 'a"b\\c\nd'}
    assert 'service="a\\"b\\\\c\\nd"' in metrics.text(hostile)
    parsed(metrics.text(hostile))


def test_of_a_service_that_boots():
    empty = DOCUMENT | {"generation": None, "wanted": None, "workers": [], "state": "booting"}
    assert value(empty, "sockd_generation") == 0
    assert value(empty, "sockd_state", state="booting") == 1


@pytest.mark.parametrize(
    ("changes", "threads", "busy"),
    [
        ({}, 1, True),
        ({}, 2, False),
        ({"in_hand": [], "active": 0}, 1, False),
        ({"in_hand": [{"sending": True}], "active": 1}, 1, False),
        ({"in_hand": [{"sending": True}] * 16, "active": 18}, 2, True),
    ],
)
def test_who_is_busy(changes: dict[str, Any], threads: int, busy: bool):
    assert metrics.is_busy(WORKER | changes, threads) is busy


def test_the_table_of_the_documentation():
    text = (ROOT / "docs/monitoring.md").read_text()
    for metric in metrics.METRICS:
        labels = f" {', '.join(metric.labels)}" if metric.labels else ""
        assert f"| `{metric.name}` | {metric.kind} |{labels} | {metric.help} |" in text
