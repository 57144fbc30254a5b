"""Standard input, output and error are always there.

Who closes one of them gives its number to the next socket or file that is opened, and whatever is
then printed, or read by a child, goes there.
"""

from __future__ import annotations

import os


def fill() -> None:
    """Open those of 0, 1 and 2 that are closed on /dev/null, inherited as stdio is. OSError."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # open(2) takes the lowest number that is free, which is this one.
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
