"""Requests that the application answers in each worker before that accepts.

They go through a connection loop as every other request does, in which the client is a socket of
the same loop. It listens below a directory that nobody else may enter (unix(7): a socket's path
may lead through /proc/self/fd, which makes it short), for as long as the warm-up takes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sockd
from sockd import loader
from sockd.board import Board
from sockd.errors import AppError
from sockd.settings import Settings
from sockd.worker.convention import Convention

FAILED = 500  # the least status that fails a warm-up
PIECE = 65536


def run(convention: Convention, settings: Settings) -> None:
    """Have the application answer each of `app.warmup`. AppError when it raises, answers with a
    status of 500 or more, or not at all."""
    if not settings.app.warmup:
        return
    board = Board.create(1)
    try:
        with _private_address() as address, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            WarmUp(convention, settings, listener, board).run()
    except OSError as error:
        raise AppError(f"warm-up: {error}") from error
    finally:
        os.close(board.fd)


@contextlib.contextmanager
def _private_address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sockd-") as directory:  # its mode is 0700
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield str(Path("/proc/self/fd", str(fd), "warmup"))
        finally:
            os.close(fd)


class WarmUp:
    def __init__(
        self,
        convention: Convention,
        settings: Settings,
        listener: socket.socket,
        board: Board,
    ) -> None:
        """`board` has a slot for this alone, since these are no requests of clients."""
        # Answered by the application, whatever else would answer, in the loop's own thread.
        settings = replace(
            settings,
            server=replace(settings.server, health="", stream_body=False),
            limits=replace(settings.limits, queue_time=0.0),
        )
        settings = replace(settings, threads=1, workers=1)
        self.convention = convention
        self.loop = convention.loop([listener], settings, board, 0, self._report)
        self.address = listener.getsockname()
        self.left = list(settings.app.warmup)
        self.target = ""
        self.client = socket.socket()
        self.answer = b""
        self.raised: BaseException | None = None
        self.failure: AppError | None = None

    def run(self) -> None:
        self._ask()
        self.convention.run(self.loop)
        self.client.close()
        if self.failure:
            raise self.failure

    def _report(self, message: str, exc_info: Any, fields: dict[str, str]) -> None:
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        self.raised = self.raised or error

    def _ask(self) -> None:
        self.target, self.answer = self.left.pop(0), b""
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect(self.address)
        self.client.setblocking(False)
        self.client.sendall(_request(self.target))
        self.loop.watch(self.client.fileno(), self._hear)

    def _hear(self) -> None:
        try:
            piece = self.client.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            self.answer = self.answer or piece  # its first line says all
            return
        self.loop.unwatch(self.client.fileno())
        self.client.close()
        self._judge()
        if self.left and not self.failure:
            self._ask()
        else:
            self.loop.stop()

    def _judge(self) -> None:
        status = int(self.answer.split(b" ", 2)[1]) if self.answer else 0
        what = f"warm-up GET {self.target}"
        if self.raised is not None:
            text = loader.verb(self.raised, "raised")
            detail = loader.describe(self.raised)
            self.failure = AppError(f"{what}: the application {text}", detail=detail)
        elif not status:
            self.failure = AppError(f"{what}: no answer")
        elif status >= FAILED:
            self.failure = AppError(f"{what}: answered with {status}")


def _request(target: str) -> bytes:
    """RFC 9112 3.2.2 has the authority of a whole URL replace Host."""
    url = urlsplit(target)
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {url.netloc or 'localhost'}",
        f"User-Agent: sockd/{sockd.__version__} (warm-up)",
        "Connection: close",
    ]
    if url.scheme == "https":
        lines.append("X-Forwarded-Proto: https")  # counts if Unix sockets are trusted
    return "\r\n".join([*lines, "", ""]).encode("ascii")
