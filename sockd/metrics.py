"""The metrics of a service, for Prometheus: one row each, and their text.

`METRICS` is the list that documentation, alert rules and dashboards rely on. What is counted goes
on across reloads and restarts of the service. The source is the document of GET /status; the text
is https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sockd import histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CAUSES = (
    "crash",
    "signal",
    "oom",
    "request_timeout",
    "boot_timeout",
    "max_requests",
    "max_memory",
    "max_age",
    "reload",
)
"""Why a worker was replaced: it exited or raised; was killed by a signal; by the OOM killer;
because a request ran longer than its deadline, or its boot; it had reached one of the limits of
`recycle`; its generation was retired."""

BOUNDS = tuple(1 << power for power in range(8, 28))
"""Of the histograms' buckets, in microseconds: powers of two from 256 µs to 134 s, since those are
counted exactly."""

Kind = Literal["counter", "gauge", "histogram"]
Samples = Iterator[tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Metric:
    """`labels` are what tells its samples apart, beside `service`, which every sample has."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("sockd_info", "gauge", "1; the version of the master", ("version",)),
    Metric("sockd_start_time_seconds", "gauge", "when the master was started, since the epoch"),
    Metric(
        "sockd_state",
        "gauge",
        "1 for the state that the service is in: booting, serving, reloading or stopping",
        ("state",),
    ),
    Metric("sockd_generation", "gauge", "the generation that serves, 0 while none does"),
    Metric(
        "sockd_workers",
        "gauge",
        "workers by state: booting, ready, draining or killed",
        ("state",),
    ),
    Metric("sockd_workers_wanted", "gauge", "how many ready ones there are to be"),
    Metric("sockd_workers_busy", "gauge", "ready workers all of whose threads have a request"),
    Metric("sockd_workers_left_over", "gauge", "workers of an earlier master that still drain"),
    Metric("sockd_threads", "gauge", "requests that the ready workers can run at once"),
    Metric(
        "sockd_requests_in_hand",
        "gauge",
        "requests that the application works on or that are being sent",
    ),
    Metric(
        "sockd_oldest_request_seconds", "gauge", "age of the oldest of those, 0 if there is none"
    ),
    Metric("sockd_requests_total", "counter", "requests that were given to the application"),
    Metric(
        "sockd_responses_total",
        "counter",
        "answers 4xx and 5xx, those of sockd's own included",
        ("class",),
    ),
    Metric("sockd_exceptions_total", "counter", "requests in which the application raised"),
    Metric(
        "sockd_refused_total", "counter", "requests that were no proper HTTP, or too large or slow"
    ),
    Metric(
        "sockd_turned_away_total",
        "counter",
        "requests that had waited longer than limits.queue_time",
    ),
    Metric(
        "sockd_connections", "gauge", "open connections: active ones have a request", ("state",)
    ),
    Metric(
        "sockd_connections_handed_over_total",
        "counter",
        "idle connections that went to another worker",
    ),
    Metric("sockd_connections_taken_over_total", "counter", "and that came from one"),
    Metric("sockd_connections_stolen_total", "counter", "of those, from a worker that was busy"),
    Metric("sockd_received_bytes_total", "counter", "bytes that clients sent"),
    Metric("sockd_sent_bytes_total", "counter", "bytes of responses that clients took"),
    Metric(
        "sockd_request_duration_seconds",
        "histogram",
        "from the call of the application to the last byte of its response",
        ("le",),
    ),
    Metric(
        "sockd_queue_duration_seconds",
        "histogram",
        "how long requests waited before the application was called",
        ("le",),
    ),
    Metric("sockd_respawns_total", "counter", "workers that were replaced, by cause", ("cause",)),
    Metric(
        "sockd_reloads_total", "counter", "reloads that were asked for: ok or failed", ("outcome",)
    ),
    Metric(
        "sockd_reload_failed",
        "gauge",
        "1 while the code that serves is older than what failed to load",
    ),
    Metric(
        "sockd_listen_queue",
        "gauge",
        "connections that the kernel holds for a listener",
        ("listener",),
    ),
    Metric(
        "sockd_listen_queue_highest",
        "gauge",
        "the most that were seen since the master started",
        ("listener",),
    ),
    Metric("sockd_listen_queue_limit", "gauge", "how many it holds at most", ("listener",)),
    Metric(
        "sockd_memory_private_bytes", "gauge", "memory of the workers that they share with nobody"
    ),
    Metric("sockd_memory_private_largest_bytes", "gauge", "and of the largest one"),
    Metric("sockd_cpu_seconds_total", "counter", "processor time of the workers"),
    Metric(
        "sockd_access_lost_total", "counter", "entries of the access log that could not be written"
    ),
)

STATES = ("booting", "serving", "reloading", "stopping")
WORKER_STATES = ("booting", "ready", "draining", "killed")


def text(document: Mapping[str, Any]) -> str:
    """All of METRICS; what is not known (a queue of another network) has no sample."""
    service = {"service": str(document["name"])}
    lines = []
    for metric in METRICS:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for suffix, labels, value in _samples(metric, document):
            shown = ",".join(f'{k}="{_escaped(v)}"' for k, v in {**service, **labels}.items())
            lines.append(f"{metric.name}{suffix}{{{shown}}} {_number(value)}")
    return "\n".join([*lines, ""])


def _samples(
    metric: Metric, document: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, str], float]]:
    if metric.kind == "histogram":
        yield from _buckets(document["totals"][_HISTOGRAMS[metric.name]])
    elif metric.labels:
        yield from (("", labels, value) for labels, value in _LABELLED[metric.name](document))
    elif (value := _value(metric.name, document)) is not None:
        yield "", {}, value


def _buckets(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for bound in BOUNDS:
        yield "_bucket", {"le": f"{bound / 1e6:g}"}, histogram.below(found["buckets"], bound)
    yield "_bucket", {"le": "+Inf"}, found["count"]
    yield "_sum", {}, found["sum_usec"] / 1e6
    yield "_count", {}, found["count"]


_HISTOGRAMS = {
    "sockd_request_duration_seconds": "duration",
    "sockd_queue_duration_seconds": "queue",
}

_COUNTED = {
    "sockd_requests_total": "requests",
    "sockd_exceptions_total": "exceptions",
    "sockd_refused_total": "refused",
    "sockd_turned_away_total": "turned_away",
    "sockd_connections_handed_over_total": "handed_over",
    "sockd_connections_taken_over_total": "taken_over",
    "sockd_connections_stolen_total": "stolen",
    "sockd_received_bytes_total": "bytes_in",
    "sockd_sent_bytes_total": "bytes_out",
    "sockd_access_lost_total": "access_lost",
}
"""Metrics that are one of the document's totals."""


def _value(name: str, document: Mapping[str, Any]) -> float | None:
    workers: Sequence[Mapping[str, Any]] = document["workers"]
    ready = [worker for worker in workers if worker["state"] == "ready"]
    memory = [worker["memory"] for worker in workers if worker["memory"] is not None]
    began = [one["started_usec"] for worker in workers for one in worker["in_hand"]]
    if name in _COUNTED:
        return float(document["totals"][_COUNTED[name]])
    values = {
        "sockd_start_time_seconds": document["started"],
        "sockd_generation": document["generation"] or 0,
        "sockd_workers_wanted": document["wanted"] or 0,
        "sockd_workers_busy": sum(is_busy(worker, document["threads"]) for worker in ready),
        "sockd_workers_left_over": len(document["left_over"]),
        "sockd_threads": document["threads"] * len(ready),
        "sockd_requests_in_hand": sum(worker["active"] for worker in workers),
        "sockd_oldest_request_seconds": (
            max(0, document["now_usec"] - min(began)) / 1e6 if began else 0
        ),
        "sockd_reload_failed": int(document["reloads"]["last_error"] is not None),
        "sockd_memory_private_bytes": sum(memory) if memory else None,
        "sockd_memory_private_largest_bytes": max(memory, default=None),
        "sockd_cpu_seconds_total": document["totals"]["cpu_usec"] / 1e6,
    }
    value = values[name]
    return None if value is None else float(value)


def is_busy(worker: Mapping[str, Any], threads: int) -> bool:
    """Whether it has no thread left for another request."""
    running = sum(not one["sending"] for one in worker["in_hand"])
    unseen = max(0, worker["active"] - len(worker["in_hand"]))
    return bool(running + unseen >= threads)


def _info(document: Mapping[str, Any]) -> Samples:
    yield {"version": document["sockd"]}, 1


def _states(document: Mapping[str, Any]) -> Samples:
    for state in STATES:
        yield {"state": state}, document["state"] == state


def _workers(document: Mapping[str, Any]) -> Samples:
    for state in WORKER_STATES:
        yield {"state": state}, sum(w["state"] == state for w in document["workers"])


def _responses(document: Mapping[str, Any]) -> Samples:
    for kind in ("4xx", "5xx"):
        yield {"class": kind}, document["totals"][f"responses_{kind}"]


def _connections(document: Mapping[str, Any]) -> Samples:
    active = sum(worker["active"] for worker in document["workers"])
    yield {"state": "active"}, active
    yield {"state": "idle"}, sum(w["connections"] for w in document["workers"]) - active


def _respawns(document: Mapping[str, Any]) -> Samples:
    for cause in CAUSES:
        yield {"cause": cause}, document["totals"]["respawns"].get(cause, 0)


def _reloads(document: Mapping[str, Any]) -> Samples:
    for outcome in ("ok", "failed"):
        yield {"outcome": outcome}, document["totals"]["reloads"][outcome]


def _listeners(key: str) -> Any:
    def found(document: Mapping[str, Any]) -> Samples:
        for listener in document["listeners"]:
            if listener[key] is not None:
                yield {"listener": listener["address"]}, listener[key]

    return found


_LABELLED = {
    "sockd_info": _info,
    "sockd_state": _states,
    "sockd_workers": _workers,
    "sockd_responses_total": _responses,
    "sockd_connections": _connections,
    "sockd_respawns_total": _respawns,
    "sockd_reloads_total": _reloads,
    "sockd_listen_queue": _listeners("queue"),
    "sockd_listen_queue_highest": _listeners("highest"),
    "sockd_listen_queue_limit": _listeners("limit"),
}


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
