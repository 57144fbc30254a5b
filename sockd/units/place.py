"""Files put in their place: whole or not at all, and never over somebody else's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sockd.errors import PermissionDenied, SockdError
from sockd.units.values import MARK


@dataclass(frozen=True)
class Entry:
    """A file with its text, or a symbolic link with its target."""

    path: Path
    text: str = ""
    target: str = ""

    def is_placed(self) -> bool:
        if self.target:
            return self.path.is_symlink() and str(self.path.readlink()) == self.target
        return _current(self.path) == self.text.encode()

    def is_foreign(self) -> bool:
        """Something is there that sockd did not make. A unit that is masked is such a thing."""
        if self.is_placed() or not os.path.lexists(self.path):
            return False
        return bool(self.target) or not self.is_generated()

    def is_generated(self) -> bool:
        """A file of sockd's is there, be it an older one."""
        content = _current(self.path)
        return content is not None and content.startswith(MARK.encode())

    def place(self) -> None:
        if self.target:
            _replace_link(self.path, self.target)
        else:
            _replace_file(self.path, self.text.encode(), 0o644)


@dataclass(frozen=True)
class Backup:
    """What stood at a path: a file, a link or nothing."""

    path: Path
    content: bytes | None
    mode: int
    target: str

    @classmethod
    def of(cls, path: Path) -> Backup:
        if path.is_symlink():
            return cls(path, None, 0, str(path.readlink()))
        if not path.exists():
            return cls(path, None, 0, "")
        return cls(path, path.read_bytes(), path.stat().st_mode & 0o7777, "")

    def is_empty(self) -> bool:
        return self.content is None and not self.target

    def restore(self) -> None:
        if self.target:
            _replace_link(self.path, self.target)
        elif self.content is not None:
            _replace_file(self.path, self.content, self.mode)
        else:
            self.path.unlink(missing_ok=True)
            _sync(self.path.parent)


def may_write(entries: Iterable[Entry]) -> None:
    """PermissionDenied for the first that this user could not place."""
    for entry in entries:
        there = next(parent for parent in entry.path.parents if parent.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionDenied(f"{there}: no permission to write; run this as root")


@contextlib.contextmanager
def explained(what: str = "write") -> Iterator[None]:
    """An OSError as a message for the operator, who wanted to read or write."""
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(
            f"{error.filename2 or error.filename}: no permission to {what}; run this as root"
        ) from None
    except OSError as error:
        where = error.filename2 or error.filename
        raise SockdError(f"{where}: {error.strerror}") from None


def _current(path: Path) -> bytes | None:
    """None if it is no regular file of its own (nothing, a link, a directory)."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_bytes()


def _replace_file(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _replace_link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        temporary.symlink_to(target)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _beside(path: Path) -> Path:
    """A name that systemd, and nginx in *.conf and sites-enabled/*, pass over: it has a dot."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
