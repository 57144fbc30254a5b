"""The command line: what each command takes, does, prints, and its exit code.

Data goes to stdout, words to stderr. Exit codes are those of `errors`. Nothing else in sockd
prints or exits. Each command imports what only it needs: the master must not hold jinja2, nor
`sockd reload`, which systemd runs in the service's sandbox, the master's libraries.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

from sockd import __version__
from sockd.cli import doctor, execute, look, prepare, running, serve
from sockd.cli.common import say, shown
from sockd.errors import FAILED, INTERNAL, SockdError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show it
    words, command = execute.split(sys.argv[1:] if arguments is None else list(arguments))
    try:
        options = _parsed(words, argparse.Namespace(command=command))
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except SockdError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has seen enough; the interpreter flushes it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception:
        traceback.print_exc()
        say(
            f"this is a mistake in sockd {__version__}, not in your application or configuration; "
            "please report it with the traceback above",
            "31",
        )
        return INTERNAL


def _parsed(words: Sequence[str], begun: argparse.Namespace) -> argparse.Namespace:
    """argparse ends operands at the first option: of `shop --dir /srv shop:app` one is left."""
    parser = _parser()
    options, left = parser.parse_known_args(words, begun)
    if left and ("what" not in options or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.what = [*options.what, *left]
    return options


def _complain(error: SockdError) -> None:
    for line in str(error).splitlines():
        say(line, "31")
    if error.detail:
        print(error.detail.rstrip("\n"), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sockd",
        description="Serves Python web applications the way systemd wants a service to behave.",
        epilog=shown(
            ("sockd serve hello:app", "serve without any configuration, on 127.0.0.1:8000"),
            ("sockd generate-units --install shop", "set up shop.service, its socket and nginx"),
            ("sockd status", "what is going on"),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sockd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (serve, prepare, execute, running, look, doctor):
        group.add(commands)
    return parser
