"""What the service is told to be: configuration, listening sockets, files that it watches."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sockd
from sockd import activation, channel, journal
from sockd.activation import Listener
from sockd.channel import Channel
from sockd.config import Config, waiting
from sockd.errors import SockdError
from sockd.master.inheritance import Listening, ServiceState
from sockd.master.watcher import Watcher, watched
from sockd.notify import Notifier
from sockd.worker import messages


class Service:
    def __init__(
        self,
        load: Callable[[], Config],
        watch: bool,
        selector: selectors.BaseSelector,
        changed: Callable[[], None],
        inherited: ServiceState | None = None,
        inherited_fds: dict[str, list[int]] | None = None,
    ) -> None:
        """`load` is called for each generation, `changed` when a file is other than it was, if
        they are to be watched."""
        self.config: Config | None = None
        self.listeners: list[Listener] = []
        self._load = load
        self._began_with: Config | None = None
        self._listen_error: SockdError | None = None
        stored = inherited_fds or {}
        if inherited:
            self._inherit(inherited)
        else:
            try:
                self.listeners = activation.adopt(channel.NAMES, stored)
            except SockdError as error:
                self._listen_error = error  # a boot that fails, as others do
            self.adopted = bool(self.listeners)
        self.channel = Channel.find(stored)
        self._watch = watch
        self.watcher: Watcher | None = None
        self._selector = selector
        self._changed = changed

    def keep_channel(self, notifier: Notifier) -> None:
        """Have the service manager hold it too, if there is one, in place of whatever it has by
        these names."""
        self.channel.outlives = notifier.supervised
        if notifier.supervised and not self.channel.found:
            for name, end in zip(channel.NAMES, self.channel.descriptors(), strict=True):
                notifier.unstore(name)
                self.channel.outlives &= notifier.store(name, end)

    def _inherit(self, state: ServiceState) -> None:
        path = Path(state.path) if state.path else None

        def config(values: dict[str, Any]) -> Config:
            return Config(state.name, path, messages.settings(values), {})

        self.config, self._began_with = config(state.settings), config(state.began_with)
        journal.configure(self.config.settings.log.level, sockd_name=state.name)
        self.adopted = state.adopted
        for one in state.listeners:
            inode = (one.inode[0], one.inode[1]) if one.inode else None
            sock = socket.socket(fileno=one.fd)
            self.listeners.append(Listener(one.name, sock, one.address, inode))

    def state(self) -> ServiceState:
        assert self.config
        assert self._began_with
        return ServiceState(
            self.config.name,
            str(self.config.path) if self.config.path else None,
            asdict(self.config.settings),
            asdict(self._began_with.settings),
            [
                Listening(one.socket.fileno(), one.name, one.address, one.inode)
                for one in self.listeners
            ],
            self.adopted,
        )

    def configure(self) -> Config:
        """Read the configuration; with the first that can be read, become that service.
        SockdError."""
        config = self._load()
        log = config.settings.log
        journal.configure(log.level, log.format, sockd_name=config.name)
        if self.config is None:
            self._begin(config)
        self.config = config
        if config.settings.timeouts.idle_exit and not self.adopted:
            text = "timeouts.idle_exit has no effect: systemd does not hold the sockets"
            journal.log(journal.WARNING, text)
        self.watch_files()
        for sentence in self.waiting():
            journal.log(journal.NOTICE, sentence)
        return config

    def _begin(self, config: Config) -> None:
        if self._listen_error:
            raise self._listen_error
        if not self.listeners:
            limits = config.settings.limits
            self.listeners = activation.bind_all(config.settings.bind, limits.backlog)
        self._began_with = config
        addresses = ", ".join(listener.address for listener in self.listeners)
        starting = f"starting {config.name} on {addresses} (sockd {sockd.__version__})"
        journal.log(journal.NOTICE, starting)

    def waiting(self) -> list[str]:
        """What has changed and waits for more than a reload."""
        assert self._began_with
        assert self.config
        return waiting(self._began_with, self.config)

    def watch_files(self) -> None:
        """Those of the configuration, if they are to be watched."""
        config = self.config
        if not self._watch or config is None:
            return
        if self.watcher and self.watcher.watched == watched(config):
            return
        self.end_watcher()
        try:
            watcher = self.watcher = Watcher(config)
        except OSError as error:
            journal.log(journal.WARNING, f"cannot watch files: {error.strerror}")
            return
        self._selector.register(watcher.fd, selectors.EVENT_READ, lambda: self._hear(watcher))

    def _hear(self, watcher: Watcher) -> None:
        changed = watcher.changed()
        if changed is None:
            journal.log(journal.WARNING, "the process that watches files has ended")
            self.end_watcher()
        elif changed:
            journal.log(journal.NOTICE, f"{changed} changed")
            self._changed()

    def end_watcher(self) -> None:
        if self.watcher:
            self._selector.unregister(self.watcher.fd)
            self.watcher.close()
            self.watcher = None

    def close(self) -> None:
        self.end_watcher()
        self.channel.close()
        for listener in self.listeners:
            listener.close()
