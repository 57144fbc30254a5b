"""A master that hands over to the next one in its process: what it takes along, and takes up.

docs/design/upgrade.md says in which order, and why.
"""

from __future__ import annotations

import os
import selectors
from collections import deque

import sockd
from sockd import board, journal
from sockd.board import Board
from sockd.master import inheritance, upgrade
from sockd.master.control import Client, Control
from sockd.master.desk import Desk
from sockd.master.events import EndProof, Event, Prove, Proved, Replace, WorkerId
from sockd.master.fleet import Fleet
from sockd.master.generation import ForkServer, Lifeline
from sockd.master.inheritance import State
from sockd.master.orphans import Orphans
from sockd.master.report import Reporter, living
from sockd.master.service import Service
from sockd.master.totals import Totals
from sockd.notify import Notifier


class Succession:
    """The part of a Master that concerns others like it."""

    notifier: Notifier
    events: deque[Event]
    selector: selectors.DefaultSelector
    service: Service
    board: Board
    fleet: Fleet
    totals: Totals
    control: Control | None
    reporter: Reporter
    desk: Desk
    servers: dict[int, ForkServer]
    sessions: dict[int, int]
    orphans: Orphans
    lifelines: dict[WorkerId, Lifeline]
    program: list[str]
    """That is executed in this process."""
    handled: set[int]
    """Signals for which there are handlers."""
    proof: upgrade.Proof | None = None
    replacing = False

    def _prove(self, decision: Prove) -> None:
        command = self.program
        text = f"upgrade: trying {command[0]} (this is sockd {sockd.__version__})"
        journal.log(journal.NOTICE, text)
        try:
            self.proof = upgrade.Proof(command, self._state([]), self.selector)
        except OSError as error:
            self.events.append(Proved(f"cannot execute {command[0]}: {error.strerror}"))

    def _end_proof(self, decision: EndProof) -> None:
        if self.proof:
            self.proof.end()
            self.proof = None

    def _proof_exited(self, pid: int, status: int) -> bool:
        if self.proof is None or self.proof.pid != pid:
            return False
        self.events.append(self.proof.exited(status))
        self.proof = None
        return True

    def _replace(self, decision: Replace) -> None:
        self.replacing = True  # when all that was decided is carried out

    def _become_the_next(self) -> None:
        """If this returns, it has failed."""
        self.replacing = False
        if not self.fleet.proving:
            return  # the service ends instead
        self.service.end_watcher()
        self.notifier.alive()
        with upgrade.signals_blocked(self.handled):
            numbers = self._caught()
            why = upgrade.execute(self.program, self._state(numbers))
        self.service.watch_files()
        self._signals(numbers)
        self.events.append(Proved(why))

    def _caught(self) -> list[int]:
        """Signals that came and that nobody has looked at."""
        raise NotImplementedError

    def _signals(self, numbers: list[int]) -> None:
        """What follows from them."""
        raise NotImplementedError

    def _state(self, signals: list[int]) -> State:
        def name(token: object) -> int:
            assert isinstance(token, Client)
            return token.socket.fileno()

        return State(
            fleet=inheritance.take(self.fleet, name),
            service=self.service.state(),
            board=self.board.fd,
            layout=board.LAYOUT,
            servers=[server.state() for server in self.servers.values()],
            lifelines=[lifeline.state() for lifeline in self.lifelines.values()],
            orphans=self.orphans.state(),
            totals=self.totals.state(self.board, living(self.fleet)),
            control=self.control.state() if self.control else None,
            signals=signals,
            environ=self.notifier.environ,
            started=self.reporter.started,
            sockd=sockd.__version__,
        )

    def _inherit(self, state: State) -> None:
        """Take up what an earlier master has left; handlers are not there yet."""
        came_from = f"upgraded from sockd {state.sockd} to {sockd.__version__} in place"
        journal.log(journal.NOTICE, came_from)
        self.reporter.started = state.started
        self.sessions.update(state.orphans.sessions)
        self.orphans.inherit(state.orphans)
        assert self.service.config
        for server in state.servers:
            self.servers[server.generation] = ForkServer.inherited(server, self.service.config)
            if server.control is not None:
                self._listen_to_server(self.servers[server.generation])
        for lifeline in state.lifelines:
            self.lifelines[lifeline.worker] = Lifeline.inherited(lifeline)
            if lifeline.open:
                self._listen_to_worker(self.lifelines[lifeline.worker])
        clients: dict[int, Client] = {}
        if state.control:
            self.control = Control.inherited(state.control, self.selector, self.desk.asked)
            for client in self.control.clients:
                client.asked_of = state.sockd
                clients[client.socket.fileno()] = client
        self._open_windows()
        inheritance.give(state.fleet, self.fleet, clients.get)

    def _listen_to_server(self, server: ForkServer) -> None:
        raise NotImplementedError

    def _listen_to_worker(self, lifeline: Lifeline) -> None:
        raise NotImplementedError

    def _open_windows(self) -> None:
        raise NotImplementedError


def board_of(state: State) -> Board | None:
    """The board that the workers of the earlier master write, if this sockd can read it."""
    if state.layout == board.LAYOUT:
        return Board.attach(state.board)
    os.close(state.board)
    text = "the workers until now write another kind of board: there are no figures of them"
    journal.log(journal.NOTICE, text)
    return None
