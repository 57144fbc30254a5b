"""Tells which files have changed, for `sockd serve --reload`: `watch.py DIRECTORY [FILE...]`.

Watched are the Python files below DIRECTORY, and each FILE, which need not exist. The first line
on standard output is empty: from there on nothing is missed. Every batch of changes is one more,
the name of one of them. It ends with its standard input, hence with the master. With watchfiles in
its environment the kernel tells of changes, else they are looked for. It is a process of its own,
so that the master waits for no disk and has no threads; it runs as a file.
"""

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

INTERVAL = 0.5  # seconds between two looks
NOT_OURS = {"__pycache__", "node_modules"}

Seen = dict[str, tuple[int, int, int]]


def look(directory: str, files: list[str]) -> Seen:
    """What there is: path to modification time, size and inode."""
    found: Seen = {}
    for path in [*python_files(directory), *files]:
        try:
            status = Path(path).stat()
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def python_files(directory: str) -> Iterator[str]:
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if is_ours(place, name)]
        yield from (str(Path(place, name)) for name in names if name.endswith(".py"))


def is_ours(place: str, name: str) -> bool:
    hidden = name.startswith(".") or name in NOT_OURS
    return not (hidden or Path(place, name, "pyvenv.cfg").exists())


def ended() -> bool:
    """Whether the master is gone, after a wait of INTERVAL."""
    return bool(select.select([0], [], [], INTERVAL)[0])


def poll(directory: str, files: list[str]) -> Iterator[str]:
    before = look(directory, files)
    yield ""
    while not ended():
        after = look(directory, files)
        if after == before:
            continue
        # Editors and version control write many files, one after the other.
        changed = min(set(before.items()) ^ set(after.items()))[0]
        while not ended() and (later := look(directory, files)) != after:
            after = later
        before = after
        yield changed


def be_told(directory: str, files: list[str]) -> Iterator[str]:
    import watchfiles

    wanted = set(files)

    def is_wanted(change: object, path: str) -> bool:
        return path.endswith(".py") or path in wanted

    yield ""
    places = {directory, *(str(Path(file).parent) for file in files)}
    for changes in watchfiles.watch(
        *(place for place in places if Path(place).is_dir()),
        watch_filter=is_wanted,
        rust_timeout=int(INTERVAL * 1000),
        yield_on_timeout=True,
        debug=False,
    ):
        if select.select([0], [], [], 0)[0]:
            return
        if changes:
            yield min(path for _, path in changes)


def main() -> None:
    directory, *files = sys.argv[1:]
    try:
        import watchfiles  # noqa: F401

        changes = be_told(directory, files)
    except ImportError:
        changes = poll(directory, files)
    for path in changes:
        print(path, flush=True)


if __name__ == "__main__":
    main()
