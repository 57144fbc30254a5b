"""What the service is told to be: configuration, listening sockets, files that it watches."""

from __future__ import annotations

import selectors
from collections.abc import Callable

import sockd
from sockd import activation, channel, journal
from sockd.activation import Listener
from sockd.channel import Channel
from sockd.config import Config, waiting
from sockd.errors import SockdError
from sockd.master.watcher import Watcher, watched
from sockd.notify import Notifier


class Service:
    def __init__(
        self,
        load: Callable[[], Config],
        watch: bool,
        selector: selectors.BaseSelector,
        changed: Callable[[], None],
    ) -> None:
        """`load` is called for each generation, `changed` when a file is other than it was, if
        they are to be watched."""
        self.config: Config | None = None
        self.listeners: list[Listener] = []
        self._load = load
        self._began_with: Config | None = None
        self._listen_error: SockdError | None = None
        stored: dict[str, list[int]] = {}
        try:
            self.listeners = activation.adopt(channel.NAMES, stored)
        except SockdError as error:
            self._listen_error = error  # a boot that fails, as others do
        self.channel = Channel.find(stored)
        self.adopted = bool(self.listeners)
        self._watch = watch
        self.watcher: Watcher | None = None
        self._selector = selector
        self._changed = changed

    def keep_channel(self, notifier: Notifier) -> None:
        """Have the service manager hold it too, if there is one, in place of whatever it has by
        these names."""
        if notifier.supervised and not self.channel.found:
            for name, end in zip(channel.NAMES, self.channel.descriptors(), strict=True):
                notifier.unstore(name)
                self.channel.outlives = notifier.store(name, end)

    def configure(self) -> Config:
        """Read the configuration; with the first that can be read, become that service.
        SockdError."""
        config = self._load()
        journal.configure(config.settings.log.level, sockd_name=config.name)
        if self.config is None:
            self._begin(config)
        self.config = config
        if config.settings.timeouts.idle_exit and not self.adopted:
            text = "timeouts.idle_exit has no effect: systemd does not hold the sockets"
            journal.log(journal.WARNING, text)
        if self._watch:
            self._watch_files(config)
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

    def _watch_files(self, config: Config) -> None:
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
