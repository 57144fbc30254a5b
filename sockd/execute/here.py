"""The command in this process's own surroundings: what the configuration adds to them.

That is the application's environment, its directory and its virtual environment; user, sandbox
and state directories are those of whoever runs it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sockd.config import Config
from sockd.errors import ConfigError, PermissionDenied, SockdError
from sockd.master.generation import environment, interpreter, resolve

RESET = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and programs expect at its default."""

WAITED_OUT = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
"""What all processes of a unit or terminal get, the command included: its end is reported."""


class CannotExecute(SockdError):
    """The command is there but cannot be run; the codes are those of a shell."""

    exit_code = 126


class CommandNotFound(SockdError):
    """There is no such command."""

    exit_code = 127


@dataclass(frozen=True)
class Command:
    """A program with its arguments and all that execve(2) takes."""

    program: str
    words: tuple[str, ...]
    environ: Mapping[str, str]

    def replace_process(self) -> NoReturn:
        """execve(2), in this process. CannotExecute."""
        for number in RESET:
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execve(self.program, self.words, self.environ)
        except OSError as error:
            raise self._refused(error) from None

    def wait(self) -> int:
        """Run it as a child, to its end: its exit status, or 128 + N for signal N. systemd takes
        an end by SIGTERM for a success (SuccessExitStatus=, systemd.service(5)); this tells."""
        for number in WAITED_OUT:
            signal.signal(number, lambda *_: None)
        try:
            pid = os.posix_spawn(
                self.program, self.words, self.environ, setsigdef=[*RESET, *WAITED_OUT]
            )
        except OSError as error:
            raise self._refused(error) from None
        return shell_status(os.waitpid(pid, 0)[1])

    def _refused(self, error: OSError) -> SockdError:
        return CannotExecute(f"cannot execute {self.program}: {error.strerror}")


def shell_status(status: int) -> int:
    """A wait status as a shell's `$?`."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def prepare(config: Config, words: Sequence[str], environ: Mapping[str, str]) -> Command:
    """The command with the application's environment; enters its directory, like every process
    of the application. ConfigError, PermissionDenied, CannotExecute, CommandNotFound."""
    app = config.settings.app
    try:
        made = environment(config, environ)
        search = made.get("PATH", os.defpath)
        if app.venv:
            interpreter(app.venv)
            made["PATH"] = search = f"{Path(app.venv, 'bin')}:{search}"
        os.chdir(resolve(app.directory))
    except PermissionError as error:
        raise PermissionDenied(f"{error.filename}: no permission to use it") from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    program = shutil.which(words[0], path=search)
    if program is None:
        if "/" in words[0]:
            if Path(words[0]).exists():
                raise CannotExecute(f"{words[0]} may not be executed")
            raise CommandNotFound(f"there is no {words[0]} in {Path.cwd()}")
        raise CommandNotFound(f"no command {words[0]} in PATH={search}")
    return Command(str(Path(program).absolute()), tuple(words), made)
