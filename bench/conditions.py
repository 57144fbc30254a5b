"""What is measured in its own way: idle connections, threads, memory, many connections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import Failure
from bench.load import Load, Outcome, idle_connections
from bench.measure import Plan, Result, go_round, once, serving
from bench.peers import Peer, Service
from bench.works import NOISE
from sockd import settings

IDLE = 1000
IDLE_FACTOR = 1.05
BYTES_PER_CONNECTION = 4096
SAMPLE = 2000  # connections whose memory is weighed
GROWTH = 256 << 10  # bytes by which resident memory may differ and still be called flat
WORKERS, THREADS = 2, 16
RATE, P99_MS = 3100, 21
CURVE_FACTOR = 1.3  # sockd's bar against C, at every number of connections


def beside_idle(peers: Sequence[Peer], plan: Plan, directory: Path) -> Result:
    """The cost of a request with and without idle connections beside the load."""
    result = Result(f"{IDLE:,} idle connections beside the load", "within 5 % of none")
    load = Load()
    chosen = [peer for peer in peers if peer.keeps_alive and not peer.slow]
    with serving(chosen, Service("plain:hello"), directory, result) as servers:

        def one_round(peer: Peer, seconds: float) -> tuple[float, float]:
            server = servers[peer]
            without, _ = once(server, load, server.address, seconds)
            with idle_connections(server.address, IDLE):
                beside, _ = once(server, load, server.address, seconds)
            return without, beside

        found = go_round(list(servers), plan, result, one_round)
    for peer, rounds in found.items():
        without, beside = (median(costs) for costs in zip(*rounds, strict=True))
        ratio = median(b / a for a, b in rounds)
        result.shown[peer.name] = f"{without:.1f} → {beside:.1f} (× {ratio:.2f})"
        if peer.name == "sockd":
            result.met = ratio <= IDLE_FACTOR * NOISE
    return result


def with_threads(peers: Sequence[Peer], plan: Plan, directory: Path) -> Result:
    """Throughput and latency of an application that sleeps."""
    result = Result(
        f"application sleeping 10 ms, 64 connections, {WORKERS} workers × {THREADS} threads",
        f"≥ {RATE / 1000:g}k/s, p99 below {P99_MS} ms",
    )
    if not any(row.key == "threads" for row in settings.rows()):
        result.notes.append("sockd has no setting `threads`")
        return result
    names = ("sockd", "granian", "uWSGI", "gunicorn gthread")
    chosen = [peer for peer in peers if peer.name in names]
    service = Service("plain:sleep", workers=WORKERS, threads=THREADS)
    with serving(chosen, service, directory, result) as servers:

        def one_round(peer: Peer, seconds: float) -> Outcome:
            server = servers[peer]
            return once(server, Load(), server.address, max(seconds, 1))[1]

        found = go_round(list(servers), plan, result, one_round)
    result.met = False
    for peer, rounds in found.items():
        rate = median(each.requests / each.seconds for each in rounds)
        p99 = median(each.p99_ms for each in rounds)
        result.shown[peer.name] = f"{rate / 1000:.2f}k/s, p99 {p99:.0f} ms"
        if peer.name == "sockd":
            result.met = rate * NOISE >= RATE and p99 < P99_MS * NOISE
    return result


def idle_memory(peers: Sequence[Peer], directory: Path) -> Result:
    """Private memory of a server's processes for each idle connection."""
    result = Result("memory per idle connection", "≤ 4 KiB")
    chosen = [peer for peer in peers if peer.keeps_alive and not peer.slow]
    with serving(chosen, Service("plain:hello"), directory, result) as servers:
        for peer, server in servers.items():
            try:
                Load().run(server.address, 0.5)
                with idle_connections(server.address, 100):
                    before = server.private_bytes()
                    with idle_connections(server.address, SAMPLE):
                        each = (server.private_bytes() - before) / SAMPLE
            except Failure as why:
                result.notes.append(f"{peer.name}: {why}")
                continue
            result.shown[peer.name] = f"{each:.0f} B"
            if peer.name == "sockd":
                result.met = each <= BYTES_PER_CONNECTION
    return result


def steady_memory(sockd: Peer, plan: Plan, directory: Path) -> Result:
    """Resident memory after a tenth of many requests, and after all of them: kept alive, and each
    on a connection of its own."""
    result = Result(f"resident memory over {plan.requests:,} requests", "flat (± 256 KiB)")
    loads = (Load(), Load(closing=True))
    with serving([sockd], Service("plain:hello"), directory, result) as servers:
        server = servers[sockd]
        answered, early = 0, 0
        while answered < plan.requests:
            for load in loads:
                answered += load.run(server.address, min(plan.seconds * 4, 10)).requests
            if not early and answered >= plan.requests / 10:
                early = server.resident_bytes()
        growth = server.resident_bytes() - early
    result.shown["sockd"] = f"{early / (1 << 20):.1f} MiB {growth / 1024:+.0f} KiB"
    result.met = abs(growth) <= GROWTH
    return result


def curve(
    c: Peer, sockd: Peer, plan: Plan, directory: Path
) -> tuple[Result, dict[int, tuple[float, float]]]:
    """Cost of C and of sockd by number of connections."""
    result = Result(
        f"cost relative to C, {plan.connections[0]} to {plan.connections[-1]:,} connections",
        f"flat: ≤ {CURVE_FACTOR} × C at each",
    )
    points = {}
    with serving([c, sockd], Service("plain:hello"), directory, result) as servers:
        for count in plan.connections:
            load = Load(connections=count)

            def one_round(peer: Peer, seconds: float, load: Load = load) -> float:
                server = servers[peer]
                return once(server, load, server.address, max(seconds, 1))[0]

            found = go_round([c, sockd], plan, result, one_round)
            if len(found) == 2:
                points[count] = (median(found[c]), median(found[sockd]))
    ratios = {count: b / a for count, (a, b) in points.items()}
    result.shown["sockd"] = ", ".join(f"{n:,}: × {ratio:.2f}" for n, ratio in ratios.items())
    result.met = len(points) == len(plan.connections) and all(
        ratio <= CURVE_FACTOR * NOISE for ratio in ratios.values()
    )
    return result, points
