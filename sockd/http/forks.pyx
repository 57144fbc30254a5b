# cython: language_level=3
"""What becomes of a worker that the application forks.

The child holds copies of the worker's connections. If it comes back out of the application it would
answer on them, so it ends there; and while it lives, a connection that the worker closes stays open
unless it is shut down first."""

import contextlib
import os
import sys
import traceback

cdef bint in_child = False
cdef bint has_forked = False


def _after_fork_in_child():
    global in_child
    in_child = True


def _after_fork_in_parent():
    global has_forked
    has_forked = True


os.register_at_fork(
    after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)


cdef void this_is_the_worker() noexcept:
    """The calling process is a fork as well, but the one that is to serve."""
    global in_child, has_forked
    in_child = has_forked = False


def _end_child():
    error = sys.exc_info()[1]
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status & 0xFF)


cdef void leave_child() noexcept:
    """End a fork that came back out of the application: it holds the worker's connections, and
    would answer for it."""
    _end_child()
