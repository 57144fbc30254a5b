"""What an installation would change, without changing it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sockd.units import layout
from sockd.units.place import Entry, explained


def compare(files: Mapping[str, str], *, root: str = "/") -> str:
    """A unified diff from what is installed below `root` to what `render` returned; empty when
    they agree. SockdError, PermissionDenied."""
    machine = Path(root).absolute()
    with explained("read"):
        entries = layout.sites(files, machine) + layout.units(files, machine)
        return "".join(line for entry in entries for line in _difference(entry))


def _difference(entry: Entry) -> Iterator[str]:
    if entry.is_placed():
        return
    before, after = _lines(entry.path), entry.text.splitlines(keepends=True)
    if entry.target:
        after = [f"link to {entry.target}\n"]
    source = str(entry.path) if before else "/dev/null"
    yield from difflib.unified_diff(before, after, source, f"{entry.path} (generated)")


def _lines(path: Path) -> list[str]:
    if path.is_symlink():
        return [f"link to {path.readlink()}\n"]
    if not os.path.lexists(path):
        return []
    if not path.is_file():
        return ["no file\n"]
    return [
        line if line.endswith("\n") else f"{line}\n"
        for line in path.read_text(errors="replace").splitlines(keepends=True)
    ]
