"""A screen that is drawn anew, and single keys: what `sockd top` needs of a terminal.

ECMA-48 sequences that every terminal since the VT100 knows, and termios(3); the terminal is left
as it was found.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from sockd.errors import UsageError

_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;]*[@-~]|O.)")  # of a key: CSI or SS3


def run(
    draw: Callable[[int, int], list[str]],
    refresh: Callable[[], None],
    press: Callable[[str], bool],
    seconds: float,
) -> None:
    """Call `refresh` every so many seconds, `press` for each key until it is false, and show what
    `draw(columns, lines)` returns after each. UsageError without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("this needs a terminal; `sockd status` prints one screen")
    due = time.monotonic()
    with _screen() as resized:
        while True:
            now = time.monotonic()
            if now >= due:
                refresh()
                due = max(due + seconds, now)
            _show(draw)
            waiting = [sys.stdin.fileno(), resized]
            ready, _, _ = select.select(waiting, [], [], max(0.0, due - time.monotonic()))
            if resized in ready:
                os.read(resized, 4096)
            if waiting[0] in ready:
                keys = os.read(waiting[0], 64).decode(errors="replace")
                if not keys or not all(press(key) for key in _alone(keys)):
                    return


def _alone(keys: str) -> list[str]:
    """Keys that are one character; those that send more (arrows) mean nothing here."""
    return list(_SEQUENCE.sub("", keys))


def _show(draw: Callable[[int, int], list[str]]) -> None:
    columns, lines = shutil.get_terminal_size()
    shown = draw(columns, lines)[:lines]
    text = "\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in shown) + "\x1b[J"
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _screen() -> Iterator[int]:
    """Take the terminal over; what it yields is readable when its size has changed."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    earlier = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        tty.setcbreak(stdin)
        sys.stdout.write(_ENTER)
        yield read
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(read)
        os.close(write)
        with contextlib.suppress(OSError, termios.error):  # it may be gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
