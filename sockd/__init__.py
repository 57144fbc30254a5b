"""sockd: a systemd-native application server for Python."""

from collections.abc import Callable

__version__ = "0.1.0"


class RequestTimeout(BaseException):
    """Raised in the application, once, when a request has taken longer than `timeouts.request`.

    What catches `Exception` does not catch it, as with asyncio.CancelledError: cleaning up is
    right, going on is not.
    """


def extend_deadline(seconds: float) -> bool:
    """Give the request that the calling thread works on so many seconds more than it has.

    True if it has a deadline. False in any other thread, without `timeouts.request`, and outside
    of a worker, so code that also runs elsewhere can call it. ValueError for a negative number.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError("expected a number of seconds that is not negative")
    return _extend is not None and _extend(seconds)


_extend: Callable[[float], bool] | None = None  # set by the module that keeps the deadlines
