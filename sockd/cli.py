"""The command line: what each command takes, does, prints, and its exit code.

Data goes to stdout, words to stderr. Exit codes are those of `errors`. Nothing else in sockd
prints or exits.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sockd import __version__, client, config, status
from sockd.errors import FAILED, INTERNAL, OK, NotRunning, SockdError, UsageError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show it
    words, command = _split(sys.argv[1:] if arguments is None else list(arguments))
    try:
        options = _parser().parse_args(words, argparse.Namespace(command=command))
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
        _say(
            f"this is a mistake in sockd {__version__}, not in your application or configuration; "
            "please report it with the traceback above",
            "31",
        )
        return INTERNAL


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What is sockd's, and what `sockd exec` is to run, which argparse would look into."""
    if words[:1] == ["exec"] and "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    return words, None


def _complain(error: SockdError) -> None:
    for line in str(error).splitlines():
        _say(line, "31")
    if error.detail:
        print(error.detail.rstrip("\n"), file=sys.stderr)


def _say(line: str, colour: str = "0") -> None:
    prefix = f"\x1b[{colour}msockd:\x1b[0m" if _coloured(sys.stderr) else "sockd:"
    print(prefix, line, file=sys.stderr)


def _coloured(stream: object) -> bool:
    """https://no-color.org: colours on a terminal, unless NO_COLOR is not empty."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# The commands. Each imports what only it needs: the master must not hold jinja2, nor `sockd
# reload`, which systemd runs in the service's sandbox, the master's libraries.


def _serve(options: argparse.Namespace) -> int:
    from sockd.master.loop import serve

    if options.prove is not None:
        from sockd.master.upgrade import prove

        print(prove(options.prove, _loader(options)))
        return OK
    if options.runtime_dir is not None:
        os.environ["RUNTIME_DIRECTORY"] = str(options.runtime_dir.absolute())
    return serve(_loader(options), watch=options.reload)


def _loader(options: argparse.Namespace) -> Callable[[], config.Config]:
    """Reads the configuration that the command line names, each time anew."""
    name, app = _name_and_app(options.what)
    if name is None and options.config is None and app is None:
        name = config.only_name()
    given = {
        "app.target": app,
        "bind": options.bind,
        "workers": options.workers,
        "app.directory": options.dir,
        "app.venv": options.venv,
    }
    overrides = dict(options.set) | {key: value for key, value in given.items() if value}
    path = options.config and options.config.absolute()
    return partial(config.load, name, path, overrides)


def _name_and_app(words: Sequence[str]) -> tuple[str | None, str | None]:
    apps = [word for word in words if ":" in word]
    names = [word for word in words if ":" not in word]
    if len(apps) > 1 or len(names) > 1:
        raise UsageError("expected one NAME and one APP (module:attribute) at most")
    return (names[0] if names else None), (apps[0] if apps else None)


def _init(options: argparse.Namespace) -> int:
    from sockd import init

    name, app = _name_and_app(options.what)
    output = options.output
    if name is None and output and str(output) != "-":
        name = output.name.removesuffix(".toml")
    draft = init.make(
        init.Request(options.dir, name, app, options.venv, options.sources, options.set)
    )
    text = draft.text()
    colours = {"found": "32", "mapped": "32", "left": "33", "note": "33"}
    paint = _coloured(sys.stderr)
    place = output or config.DIRECTORY / f"{draft.name}.toml"
    if str(output) != "-":
        init.write(place.absolute(), text, force=options.force)
    for finding in draft.findings:
        word = finding.word.ljust(len("mapped"))
        shown = f"\x1b[{colours[finding.word]}m{word}\x1b[0m" if paint else word
        print(shown, finding.text, file=sys.stderr)
    if str(output) == "-":
        print(text, end="")
        return OK
    _say(f"wrote {place}")
    named = draft.name if place.parent == config.DIRECTORY else f"--config {place}"
    _say(f"next: sockd check {named}, then sockd generate-units --install {named}")
    return OK


def _generate_units(options: argparse.Namespace) -> int:
    from sockd import units

    if options.uninstall:
        for sentence in units.uninstall(_only_a_name(options.what)):
            _say(sentence)
        return OK
    settings = _loader(options)()
    files = units.render(
        settings,
        systemd_version=options.systemd,
        nginx_version=options.nginx,
        instance=options.instance or units.is_instance(settings.name),
    )
    if options.install:
        for sentence in units.install(files, force=options.force):
            _say(sentence)
    elif options.output is not None:
        for sentence in units.write(files, options.output, force=options.force):
            _say(sentence)
    elif options.check or options.diff:
        difference = units.compare(files)
        print(difference, end="")
        return FAILED if difference and options.check else OK
    else:
        for name, text in files.items():
            print(f"# ==> {name} <==\n{text}")
    return OK


def _only_a_name(words: Sequence[str]) -> str:
    name, app = _name_and_app(words)
    if app:
        raise UsageError("--uninstall takes the NAME of a service and nothing else")
    return config.valid_name(name or config.only_name())


def _check(options: argparse.Namespace) -> int:
    from sockd import check

    colours = {"ok": "32", "note": "33", "problem": "31"}
    paint, worst = _coloured(sys.stdout), OK
    for finding in check.examine(_loader(options)()):
        word = finding.word.ljust(len("problem"))
        print(f"\x1b[{colours[finding.word]}m{word}\x1b[0m" if paint else word, finding.text)
        sys.stdout.flush()
        if finding.detail:
            print(finding.detail.rstrip("\n"), file=sys.stderr)
        worst = max(worst, finding.exit_code)
    return worst


def _exec(options: argparse.Namespace) -> int:
    from sockd import execute

    if not options.command:
        raise UsageError("write the command after --, as in: sockd exec shop -- python3 manage.py")
    if options.here or not client.systemd_runs():
        command = execute.prepare(_loader(options)(), options.command, os.environ)
        return command.wait() if options.in_unit else command.replace_process()
    name, app = _name_and_app(options.what)
    if app or any((options.config, options.bind, options.workers, options.dir, options.venv)):
        raise UsageError("the unit says what the service runs with; flags and APP need --here")
    if options.set:
        raise UsageError("the unit says what the service runs with; --set needs --here")
    return execute.run(execute.of_service(name or config.only_name()), options.command)


def _reload(options: argparse.Namespace) -> int:
    main_pid = os.environ.get("MAINPID", "")  # systemd.service(5), ExecReload=
    generation, notes = client.reload(
        client.locate(options.name), watch_pid=int(main_pid) if main_pid.isdigit() else None
    )
    _say(f"reloaded: generation {generation} serves")
    for note in notes:
        _say(note)
    return OK


def _upgrade(options: argparse.Namespace) -> int:
    outcome = client.upgrade(client.locate(options.name))
    was, now = outcome.before, outcome.after
    how = f"from sockd {was} to {now}" if was != now else f"in place, sockd {now} again"
    _say(f"upgraded {how}: generation {outcome.generation} serves")
    for note in outcome.notes:
        _say(note)
    return OK


def _workers(options: argparse.Namespace) -> int:
    count = client.workers(client.locate(options.name), options.by)
    _say(f"{count} worker{'' if count == 1 else 's'}, until the next reload")
    return OK


def _stop(options: argparse.Namespace) -> int:
    try:
        path = client.locate(options.name)
    except NotRunning:
        # It may be idle, with systemd waiting for the first client.
        sockets = client.active_sockets(options.name) if options.name else []
        if not sockets:
            raise
        done = client.stop_units(*sockets)
    else:
        done = client.stop(path)
    _say(done)
    return OK


def _status(options: argparse.Namespace) -> int:
    document = client.status(client.locate(options.name))
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        print(status.screen(document, now, colour=_coloured(sys.stdout)), end="")
    return OK


# What each command takes.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sockd",
        description="Serves Python web applications the way systemd wants a service to behave.",
        epilog=_examples(
            ("sockd serve hello:app", "serve without any configuration, on 127.0.0.1:8000"),
            ("sockd generate-units --install shop", "set up shop.service, its socket and nginx"),
            ("sockd status", "what is going on"),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sockd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check(commands)
    _add_init(commands)
    _add_generate_units(commands)
    _add_exec(commands)
    _add_running(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    more: str,
    *examples: tuple[str, str],
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}",
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _examples(*examples: tuple[str, str]) -> str:
    return "examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples)


def _add_configuration(command: argparse.ArgumentParser, bind: str) -> None:
    command.add_argument(
        "what",
        metavar="NAME | APP",
        nargs="*",
        type=_not_empty,
        help="the service's NAME, and its application as module:attribute or module:factory()",
    )
    command.add_argument(
        "--config", metavar="FILE", type=_path, help="instead of /etc/sockd/NAME.toml"
    )
    command.add_argument(
        "--bind",
        metavar="ADDRESS",
        action="append",
        type=_not_empty,
        help=f"HOST:PORT, [V6]:PORT, :PORT or /path.sock (repeatable; default {bind})",
    )
    for flag, metavar, text in (
        ("--workers", "N", "worker processes, or auto"),
        ("--dir", "DIR", "the application's working directory"),
        ("--venv", "DIR", "virtual environment that it runs in"),
    ):
        command.add_argument(flag, metavar=metavar, type=_not_empty, help=text)
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        type=_key_and_value,
        action="append",
        default=[],
        help="any setting, as timeouts.drain=5s (repeatable)",
    )


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a value, not an empty one")
    return text


def _path(text: str) -> Path:
    return Path(_not_empty(text))


def _key_and_value(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError("expected KEY=VALUE")
    return key, value


def _by(text: str) -> int:
    if not re.fullmatch(r"[+-]\d{1,3}", text, re.ASCII) or not int(text):
        raise argparse.ArgumentTypeError("expected +N or -N")
    return int(text)


def _add_serve(commands: Commands) -> None:
    serve = _command(
        commands,
        "serve",
        _serve,
        "run an application in the foreground",
        "Takes over the sockets that systemd passes, else listens on --bind.",
        ("sockd serve shop", "the service that /etc/sockd/shop.toml describes"),
        ("sockd serve hello:app --bind :8080 --workers 2", "no configuration needed"),
        ("sockd serve hello:app --reload", "while you write it"),
        ("sockd serve 'shop.web:create_app()' --dir /srv/shop --venv /srv/shop/venv", "a factory"),
    )
    _add_configuration(serve, "127.0.0.1:8000")
    serve.add_argument(
        "--reload",
        action="store_true",
        help="reload when a file of the application or the configuration changes (development)",
    )
    serve.add_argument(
        "--runtime-dir", metavar="DIR", type=_path, help="where control.sock is made"
    )
    serve.add_argument("--prove", type=int, help=argparse.SUPPRESS)


def _add_check(commands: Commands) -> None:
    check = _command(
        commands,
        "check",
        _check,
        "look for mistakes before a start or reload",
        "Reads the configuration, looks at what it names, and imports the application\n"
        "in a process of its own, as the service would. Root does so as unit.user, or as an\n"
        "unprivileged user when that is empty; anybody else as themselves.",
        ("sockd check", "the only service of this machine"),
        ("sockd check shop", "/etc/sockd/shop.toml"),
        ("sockd check --config ./shop.toml", "before it is installed"),
    )
    _add_configuration(check, "127.0.0.1:8000")


def _add_init(commands: Commands) -> None:
    init = _command(
        commands,
        "init",
        _init,
        "write the configuration of a project",
        "Looks at a directory, without running any of its code, and writes /etc/sockd/NAME.toml:\n"
        "framework, virtual environment, static files. Says what it found and, with --from, what\n"
        "becomes of each option of another server.",
        ("sockd init shop --dir /srv/shop", "the project in /srv/shop"),
        ("sockd init shop shop.web:app --venv /srv/venv --output shop.toml", "chosen by hand"),
        ('sockd init shop --from "gunicorn -w 4 shop.wsgi"', "as this Gunicorn"),
        ("sockd init --from gunicorn.conf.py --output -", "look first"),
    )
    init.add_argument(
        "what",
        metavar="NAME | APP",
        nargs="*",
        type=_not_empty,
        help="the service's NAME, by default the project's; the application, else looked for",
    )
    init.add_argument(
        "--dir", metavar="DIR", type=_path, default=Path(), help="the project (default: here)"
    )
    init.add_argument("--venv", metavar="DIR", type=_not_empty, help="else looked for")
    init.add_argument(
        "--from",
        dest="sources",
        metavar="WHAT",
        type=_not_empty,
        action="append",
        default=[],
        help='gunicorn.conf.py, uwsgi.ini or "gunicorn -w 4 app:app" (repeatable)',
    )
    init.add_argument(
        "--set",
        metavar="KEY=VALUE",
        type=_key_and_value,
        action="append",
        default=[],
        help="any setting, as nginx.server_name=shop.example (repeatable)",
    )
    init.add_argument(
        "--output", metavar="FILE", type=_path, help="instead of /etc/sockd/NAME.toml; - is stdout"
    )
    init.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_generate_units(commands: Commands) -> None:
    generate = _command(
        commands,
        "generate-units",
        _generate_units,
        "make the systemd units and the nginx site of a service",
        "Prints them, unless told to write or install them.",
        ("sockd generate-units shop", "read them first"),
        ("sockd generate-units shop --output build/", "write them to a directory"),
        ("sockd generate-units shop --install", "place them, reload systemd and nginx"),
        ("sockd generate-units shop --diff", "what that would change"),
        ("sockd generate-units shop --uninstall", "stop it and take them away; its data stays"),
    )
    _add_configuration(generate, "/run/sockd-NAME.sock")
    where = generate.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="DIR", type=_path, help="write them to DIR")
    for flag, text in (
        ("--install", "place them and tell what was done"),
        ("--diff", "show what --install would change"),
        ("--check", "the same, and exit with 1 when there is a difference"),
        ("--uninstall", "stop the service, and remove what --install placed"),
    ):
        where.add_argument(flag, action="store_true", help=text)
    generate.add_argument(
        "--instance",
        action="store_true",
        help="drop-ins for the packaged sockd@NAME; the default where that is enabled",
    )
    generate.add_argument(
        "--systemd", metavar="VERSION", type=int, help="render for this systemd, such as 252"
    )
    generate.add_argument(
        "--nginx", metavar="VERSION", type=_not_empty, help="render for this nginx, such as 1.22"
    )
    generate.add_argument(
        "--force", action="store_true", help="overwrite files that sockd did not generate"
    )


def _add_exec(commands: Commands) -> None:
    command = _command(
        commands,
        "exec",
        _exec,
        "run a management command as the application runs",
        "With its user, environment, virtual environment (first in PATH), directory, state\n"
        "directories and sandbox, whether the service runs or not. The exit code is the\n"
        "command's, 128 + N if signal N ended it. Without systemd it runs as you.",
        ("sockd exec shop -- python3 manage.py migrate", "writes what the service may write"),
        ("sockd exec shop -- python3 manage.py shell", "a terminal is passed on"),
        ("sockd exec --here shop -- python3 manage.py collectstatic", "as you: part of a release"),
    )
    _add_configuration(command, "127.0.0.1:8000")
    command.add_argument(
        "--here",
        action="store_true",
        help="as you and outside of systemd: only environment, PATH and directory are the app's",
    )
    command.add_argument("--in-unit", action="store_true", help=argparse.SUPPRESS)
    command.usage = "sockd exec [--here] [NAME] -- COMMAND [ARGUMENT ...]"


def _add_running(commands: Commands) -> None:
    """The commands that speak to a running service."""
    reload = _command(
        commands,
        "reload",
        _reload,
        "load the application's code and configuration anew, and wait for the outcome",
        "\nIf it cannot be loaded, the old code serves on, and the exit code is 1.",
        ("sockd reload shop", "after a deployment; `systemctl reload shop` does the same"),
    )
    upgrade = _command(
        commands,
        "upgrade",
        _upgrade,
        "have the installed version of sockd take over a service, and wait for the outcome",
        "\nThe master's process goes on under its number, and the application is loaded anew.\n"
        "If that version cannot go on, the running one serves on, and the exit code is 1.",
        ("sockd upgrade shop", "after pip installed another; the Debian package does it"),
    )
    stop = _command(
        commands,
        "stop",
        _stop,
        "end a service gracefully, and wait until it is gone",
        "\nOne that systemd runs is stopped together with its sockets.",
        ("sockd stop shop", "requests in hand are finished within timeouts.drain"),
    )
    show = _command(
        commands,
        "status",
        _status,
        "show what a service is doing",
        "",
        ("sockd status", "the only running service"),
        ("sockd status shop --json", "all that is known, for programs"),
    )
    show.add_argument("--json", action="store_true", help="the whole document, as JSON")
    workers = _command(
        commands,
        "workers",
        _workers,
        "have more or fewer workers, until the next reload",
        "\nReturns when those that were added can answer.",
        ("sockd workers shop +2", "two more"),
        ("sockd workers -1", "one fewer, of the only running service"),
    )
    for command in (reload, upgrade, stop, show, workers):
        command.add_argument(
            "name", metavar="NAME", nargs="?", type=_not_empty, help="the only running one if none"
        )
    workers.add_argument("by", metavar="±N", type=_by, help="how many more (+N) or fewer (-N)")
