"""What master, fork server and workers say to each other: JSON in SOCK_SEQPACKET messages
(unix(7)), descriptors alongside (SCM_RIGHTS).

Master to fork server: a `Spec` with the descriptors dump, board, the handover channel's two
(`sockd.channel`), listeners…; later
`{"spawn": [worker, slot]}` with the worker's lifeline.
Fork server to master: `{"loaded": left}` (`leftovers.left` has its keys), `{"unshareable": left}`:
start another one that does not preload, or `{"failed": {"message", "detail"}}`;
later `{"spawned": worker, "pid": n}` or `{"unspawned": worker, "error": text}`.
Worker to master: `{"ready": pid, "memory": [private, shared] or null}` (bytes),
`{"draining": true}`, `{"failed": {"message", "detail"}}`.
Master to worker: `{"serve": true}`, `{"stop": true}`, `{"reopen": true}` (log files),
`{"drain": seconds, "close_idle": bool, "accept_rest": bool, "hand_over": bool}` (`Loop.drain` says
what they mean).

`worker` is the serial number within the generation. The end of the stream means that the other
side is gone.

A master may be of another version than its fork servers and workers (upgrade in place): each
passes over messages and keys that it does not know, and reads keys that may be missing with a
default. What changes its meaning raises PROTOCOL, which a Spec names first.
"""

from __future__ import annotations

import array
import json
import signal
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sockd.identity import Identity
from sockd.settings import Settings

DUMP_SIGNAL = signal.SIGRTMAX - 1
"""Has a fork server, or a worker that boots, write the stacks of its threads to the dump
descriptor (faulthandler)."""

ORPHAN_SIGNAL = signal.SIGRTMAX - 2
"""A worker's parent death signal: arms the kernel timer that ends it at the drain deadline."""

PROTOCOL = 1
READABLE = tuple(one for one in (PROTOCOL - 1, PROTOCOL) if one)

LARGEST = 256 * 1024  # bytes of a message
MOST_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel

Message = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """All that a fork server needs to know to become generation `generation` of service `name`.

    `listeners` are (name, address) in the order of their descriptors; `directory` is resolved.
    Without `preload` each worker imports the application for itself. The fork server becomes
    `identity`, if there is one, before it imports. Somebody holds the handover channel after all
    of the service's processes are gone if it `outlives` them.
    """

    name: str
    generation: int
    master: int  # pid
    directory: str
    preload: bool
    identity: Identity | None
    settings: Settings
    listeners: list[tuple[str, str]]
    outlives: bool = False
    protocol: int = PROTOCOL

    def message(self) -> Message:
        return asdict(self)

    @classmethod
    def parse(cls, message: Message) -> Spec:
        """Of a message that may come from a master of another version. ValueError."""
        if message.get("protocol") not in READABLE:
            raise ValueError(f"version {message.get('protocol')} of sockd's messages")
        known = {item.name for item in fields(cls)}
        return cls(
            **{
                **{key: value for key, value in message.items() if key in known},
                "identity": message["identity"] and Identity(**message["identity"]),
                "settings": settings(message["settings"]),
                "listeners": [(name, address) for name, address in message["listeners"]],
            }
        )


def settings(values: dict[str, Any]) -> Settings:
    """What asdict() and JSON have taken apart, maybe of another version: settings that it did not
    have are at their defaults."""
    made: Settings = _rebuild(Settings, values)
    return made


def _rebuild(table: type[Any], values: dict[str, Any]) -> Any:
    made = {}
    for item in fields(table):
        if item.name not in values:
            continue
        value = values[item.name]
        if not item.metadata:
            value = _rebuild(item.default_factory, value)  # type: ignore[arg-type]
        elif isinstance(value, list):
            value = tuple(value)
        made[item.name] = value
    return table(**made)


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """OSError: the other side is gone, or (non-blocking) does not read."""
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "backslashreplace")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([data], rights if descriptors else [], socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """One message and its descriptors, close-on-exec; None at the end of the stream.

    BlockingIOError when there is none on a non-blocking socket. What is no message of ours
    (cut, no JSON object) raises ValueError.
    """
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # It closed its end without reading all of ours. That is told once, before what it has
        # said itself, which is still there: a process's last words.
        data, ancillary, flags, _ = sock.recvmsg(LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data:
        return None, []
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ValueError("a message was cut")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message is no JSON object")
    return message, list(descriptors)
