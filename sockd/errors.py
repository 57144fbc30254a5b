"""Errors by whose fault they are, and the exit code each one means.

The codes are those of sysexits.h where it has a fitting one.
"""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 69  # EX_UNAVAILABLE
INTERNAL = 70  # EX_SOFTWARE
TRY_AGAIN = 75  # EX_TEMPFAIL
PERMISSION = 77  # EX_NOPERM
CONFIGURATION = 78  # EX_CONFIG


class SockdError(Exception):
    """Something a person can act on: one message, one exit code, never a traceback of sockd's.

    `detail` is what to show below the message as it is: the application's traceback, a diff.
    """

    exit_code = FAILED

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class UsageError(SockdError):
    """The command line is wrong: the operator's, now."""

    exit_code = USAGE


class ConfigError(SockdError):
    """A configuration file or variable is wrong: the operator's, earlier."""

    exit_code = CONFIGURATION


class AppError(SockdError):
    """The application cannot be loaded or is no application: its author's."""

    exit_code = FAILED


class GivenUp(SockdError):
    """Workers die at boot again and again, and no service manager is there to see to it."""

    exit_code = INTERNAL


class NotRunning(SockdError):
    """No master answers for this service."""

    exit_code = NOT_RUNNING


class PermissionDenied(SockdError):
    """The system refuses: a socket path, a port, a control socket."""

    exit_code = PERMISSION


class BindError(SockdError):
    """A listening socket cannot be made: taken, not on this machine, no such directory."""

    exit_code = FAILED
