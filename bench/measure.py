"""Cost of a request: CPU time of all of a server's processes over the requests answered.

All servers of a work are up at the same time, idle but for the one under load. The rounds go round
the servers, so what disturbs the machine for a while disturbs them all; the median counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

from bench import SERVER_CORE, Failure
from bench.load import Load, Outcome
from bench.nginx import in_front
from bench.peers import Peer, Service
from bench.processes import Server, free_port
from bench.works import Work

T = TypeVar("T")
WARM_UP = 0.2  # seconds


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    seconds: float  # of a round
    rounds: int
    slow_rounds: int  # for peers that are far off
    connections: tuple[int, ...]  # points of the curve
    requests: int  # while resident memory is watched

    def rounds_of(self, peer: Peer) -> int:
        return self.slow_rounds if peer.slow else self.rounds


@dataclass
class Result:
    """A row. `costs` are microseconds of CPU per request by server, `shown` what stands in their
    place where something else is measured."""

    title: str
    bar: str
    costs: dict[str, float] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    met: bool | None = None  # None: nothing to compare with
    notes: list[str] = field(default_factory=list)


@contextmanager
def serving(
    peers: Sequence[Peer], service: Service, directory: Path, result: Result
) -> Iterator[dict[Peer, Server]]:
    """Have the peers up with the same service; one that does not start is noted and left out.
    `service.address` is chosen here."""
    with ExitStack() as stack:
        started = {}
        for peer in peers:
            home = directory / peer.name.replace(" ", "-")
            unix = service.nginx and peer.unix
            address = str(home / "http.sock") if unix else f"127.0.0.1:{free_port()}"
            command = peer.command(replace(service, address=address))
            started[peer] = Server(peer.name, command, address, SERVER_CORE, home)
            stack.callback(started[peer].stop)
        for peer, server in list(started.items()):
            try:
                server.wait_until_up()
            except Failure as why:
                result.notes.append(str(why))
                del started[peer]
        yield started


def once(server: Server, load: Load, address: str, seconds: float) -> tuple[float, Outcome]:
    """Microseconds of CPU per request in one round, and what the load saw."""
    before = server.cpu()
    outcome = load.run(address, seconds)
    after = server.cpu()
    if not before.keys() <= after.keys():
        raise Failure(f"a process of {server.name} ended under load")
    used = sum(after.values()) - sum(before.values())
    return used * 1e6 / outcome.requests, outcome


def go_round(
    peers: Sequence[Peer], plan: Plan, result: Result, one_round: Callable[[Peer, float], T]
) -> dict[Peer, list[T]]:
    """What `one_round(peer, seconds)` finds in each round. A short round goes before, for what is
    made at the first requests. A peer that fails is noted and left out."""
    found: dict[Peer, list[T]] = {peer: [] for peer in peers}
    for number in range(-1, plan.rounds):
        for peer in list(found):
            try:
                if number < 0:
                    one_round(peer, WARM_UP)
                elif number < plan.rounds_of(peer):
                    found[peer].append(one_round(peer, plan.seconds))
            except Failure as why:
                result.notes.append(f"{peer.name}: {why}")
                del found[peer]
    return found


def measure(work: Work, peers: Sequence[Peer], plan: Plan, directory: Path) -> Result:
    """A row of the table of works."""
    result = Result(work.title, " and ".join(map(str, work.bars)))
    service = Service(
        work.app,
        size=work.size,
        post=work.load.post,
        keep_alive=not work.load.closing and work.nginx != "close",
        nginx=work.nginx is not None,
    )
    with serving(peers, service, directory, result) as servers, ExitStack() as stack:
        addresses = {server.name: server.address for server in servers.values()}
        if work.nginx:
            uwsgi = {peer.name for peer in peers if peer.uwsgi_protocol}
            keep_alive = work.nginx == "keep-alive"
            nginx, addresses = in_front(list(servers.values()), uwsgi, keep_alive, directory)
            stack.callback(nginx.stop)
            nginx.wait_until_up()

        def one_round(peer: Peer, seconds: float) -> float:
            return once(servers[peer], work.load, addresses[peer.name], seconds)[0]

        found = go_round(list(servers), plan, result, one_round)
    result.costs = {peer.name: median(costs) for peer, costs in found.items()}
    verdicts = [bar.met(result.costs) for bar in work.bars]
    result.met = None if None in verdicts else all(verdicts)
    return result
