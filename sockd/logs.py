"""For the logging of applications: the id of the request that an entry belongs to.

    LOGGING = {
        "version": 1,
        "filters": {"request": {"()": "sockd.logs.RequestId"}},
        "handlers": {"journal": {"class": "sockd.logs.Journal", "filters": ["request"]}},
        "root": {"handlers": ["journal"], "level": "INFO"},
    }

The filter works with every handler; `%(request_id)s` in a format is the id. `Journal` sends what
is logged to journald with its fields, so that `journalctl SOCKD_REQUEST_ID=...` finds it.
"""

from __future__ import annotations

import logging

from sockd import journal
from sockd.http.current import request_id

__all__ = ["Journal", "RequestId", "request_id"]

_PRIORITIES = (
    (logging.CRITICAL, journal.CRIT),
    (logging.ERROR, journal.ERR),
    (logging.WARNING, journal.WARNING),
    (logging.INFO, journal.INFO),
)


class RequestId(logging.Filter):
    """Gives each record `request_id`; `-` for what belongs to no request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id() or "-"
        return True


class Journal(logging.Handler):
    """Entries of journald: one for a record, its traceback included; elsewhere lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
        except Exception:
            self.handleError(record)
            return
        priority = next(
            (priority for level, priority in _PRIORITIES if record.levelno >= level),
            journal.DEBUG,
        )
        found = getattr(record, "request_id", "-")
        journal.write(
            priority,
            message,
            LOGGER=record.name,
            SOCKD_REQUEST_ID=None if found == "-" else found,
            CODE_FILE=record.pathname,
            CODE_LINE=record.lineno,
            CODE_FUNC=record.funcName,
        )
