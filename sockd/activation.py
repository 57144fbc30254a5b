"""The listening sockets: adopted from systemd, else made here.

sd_listen_fds(3) is the protocol; LISTEN_PID is checked by it, and its variables are gone from the
environment afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sockd.errors import BindError, PermissionDenied, SockdError
from systemd import daemon

VARIABLES = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID")


@dataclass
class Listener:
    """A listening stream socket. `address` is as an operator writes it: `127.0.0.1:8000`,
    `[::1]:8000`, `/run/shop.sock`."""

    name: str
    socket: socket.socket
    address: str
    inode: tuple[int, int] | None = None  # of the socket file, when it was made here

    def close(self) -> None:
        """Close it, and remove the socket file if it was made here and is still that one."""
        self.socket.close()
        if self.inode is None:
            return
        with contextlib.suppress(OSError):
            found = os.lstat(self.address)
            if (found.st_dev, found.st_ino) == self.inode:
                Path(self.address).unlink()


def listeners(bind: Sequence[str], backlog: int) -> list[Listener]:
    """Those that systemd passed, else those of `bind`. BindError, PermissionDenied."""
    return adopt() or bind_all(bind, backlog)


def adopt(
    reserved: Collection[str] = (), stored: dict[str, list[int]] | None = None
) -> list[Listener]:
    """The sockets of LISTEN_FDS, in its order; none without socket activation. Descriptors with
    a `reserved` name are no listeners, and go to `stored`."""
    try:
        passed: dict[int, str] = daemon.listen_fds_with_names()
    except OSError as error:
        raise BindError(f"cannot take over the sockets of systemd: {error.strerror}") from error
    finally:
        for name in VARIABLES:
            os.environ.pop(name, None)
    for fd in [fd for fd, name in passed.items() if name in reserved]:
        kept = stored if stored is not None else {}
        kept.setdefault(passed.pop(fd), []).append(fd)
    return [_adopted(fd, name) for fd, name in sorted(passed.items())]


def _adopted(fd: int, name: str) -> Listener:
    complaint = f"descriptor {fd} ({name}) from systemd is no listening stream socket"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(complaint) from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise BindError(f"{complaint}; the socket unit needs ListenStream= and Accept=no")
    return Listener(name, sock, _address(sock))


def _address(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    path = os.fsdecode(name)
    return f"@{path[1:]}" if path.startswith("\0") else path


def bind_all(bind: Sequence[str], backlog: int, before: Sequence[Listener] = ()) -> list[Listener]:
    """A listener for each address; all of them or none. `before` are made already, and named
    where one of them is in the way."""
    made: list[Listener] = []
    try:
        for text in bind:
            try:
                made.extend(_bind(text, backlog))
            except BindError as error:
                if isinstance(error, Taken):
                    for other in (*before, *made):
                        if _overlaps(text, other):
                            raise BindError(
                                f"cannot listen on {text}: {other.address}, which is also "
                                "configured, has that place already"
                            ) from error
                raise
        if not made:
            raise BindError("no address to listen on; give --bind HOST:PORT or /path.sock")
    except SockdError:
        for listener in made:
            listener.close()
        raise
    return made


class Taken(BindError):
    """Somebody listens there."""


def _overlaps(text: str, other: Listener) -> bool:
    if text.startswith("/") or other.socket.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            return Path(text).samefile(other.address)
        return False
    host, _, port = text.rpartition(":")
    theirs, _, their_port = other.address.rpartition(":")
    everywhere = ("", "0.0.0.0", "[::]")
    return port == their_port and (host in everywhere or theirs in (*everywhere, host))


def _bind(text: str, backlog: int) -> Iterator[Listener]:
    if text.startswith("/"):
        yield bind_unix(text, backlog)
        return
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise BindError(f"{text!r} is no address; write HOST:PORT, [V6]:PORT, :PORT or /path.sock")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BindError(f"{text!r} is ambiguous; write an IPv6 address as [{host}]:{port}")
    yield from _bind_tcp(text, host, int(port), backlog)


def _bind_tcp(text: str, host: str, port: int, backlog: int) -> list[Listener]:
    both = not host and socket.has_dualstack_ipv6()
    found: list[tuple[int, str]]
    try:
        if not host:
            found = [(socket.AF_INET6 if both else socket.AF_INET, "")]
        else:
            answers = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            found = [(answer[0], str(answer[4][0])) for answer in answers]
    except socket.gaierror as error:
        raise BindError(f"cannot listen on {text}: {error.strerror}") from error
    made: list[Listener] = []
    refusal: OSError | None = None
    for family, address in found:
        try:
            sock = socket.create_server(
                (address, port), family=family, backlog=backlog, dualstack_ipv6=both
            )
        except OSError as error:
            # A name may stand for addresses of a family that this machine does not have.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                refusal = error
                continue
            for listener in made:
                listener.close()
            raise _refused(text, error) from error
        made.append(Listener(f"tcp-{sock.getsockname()[1]}", sock, _address(sock)))
    if not made and refusal is not None:
        raise _refused(text, refusal)
    return made


def bind_unix(path: str, backlog: int, umask: int = 0o117) -> Listener:
    """A listener at `path`, its mode 0777 less `umask`. One left by a dead process is replaced."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(umask)
    try:
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _refused(path, error) from error
    finally:
        os.umask(before)
    made = os.lstat(path)
    return Listener(Path(path).stem, sock, path, (made.st_dev, made.st_ino))


def _remove_stale(path: str) -> None:
    """Make room for a socket file: one that nobody listens on goes, anything else is an error."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise BindError(f"cannot listen on {path}: a file that is not a socket is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            try:
                Path(path).unlink()
            except OSError as error:
                raise _refused(path, error) from error
        return
    except BlockingIOError:
        pass  # its queue is full: alive
    except OSError as error:
        raise _refused(path, error) from error
    raise Taken(f"cannot listen on {path}: address in use; another process listens there")


def _refused(text: str, error: OSError) -> SockdError:
    """What an operator can act on, for an address that the kernel refuses."""
    path = Path(text)
    if error.errno == errno.EADDRINUSE:
        return Taken(f"cannot listen on {text}: address in use; another process listens there")
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(f"cannot listen on {text}: this machine does not have that address")
    if error.errno in (errno.EACCES, errno.EPERM):
        if text.startswith("/"):
            return PermissionDenied(
                f"cannot listen on {text}: no permission to write in {path.parent}"
            )
        return PermissionDenied(
            f"cannot listen on {text}: no permission; ports below 1024 need a systemd socket unit"
        )
    if error.errno == errno.EROFS:
        return PermissionDenied(f"cannot listen on {text}: {path.parent} is read-only")
    if error.errno == errno.ENOENT and path.parent.is_dir():
        return BindError(f"cannot listen on {text}: {path.parent} cannot hold sockets")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return BindError(f"cannot listen on {text}: directory {path.parent} does not exist")
    return BindError(f"cannot listen on {text}: {error.strerror or error}")
