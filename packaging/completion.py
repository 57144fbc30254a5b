"""Completion for shells: `completion.py bash|zsh|fish` prints it.

All are made from the parser. What a value can be is told by its metavar: the name of a service, a
file, a directory, a setting.

Sources: bash(1) Programmable Completion, zshcompsys(1), complete(1) of fish.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from command_line import Command, Option, commands

from sockd.settings import TABLE, rows

NAMES = {"NAME", "NAME | APP"}
FILES = {"FILE"}
DIRECTORIES = {"DIR"}
SETTINGS = {"KEY=VALUE"}
PROGRAMS = {"CMD", "COMMAND"}


def settings() -> list[str]:
    """Each as --set takes it, up to its value."""
    return [row.key + ("." if row.kind is TABLE else "=") for row in rows()]


def kind(option: Option) -> str:
    for name, metavars in (
        ("names", NAMES),
        ("files", FILES),
        ("directories", DIRECTORIES),
        ("settings", SETTINGS),
        ("programs", PROGRAMS),
    ):
        if option.value in metavars:
            return name
    return "choices" if option.choices else "other"


# bash

BASH = """\
# bash completion for sockd

_sockd_names() {
    local path
    for path in /etc/sockd/*.toml /run/sockd/*/; do
        path=${path%%/}
        [[ -e $path ]] && path=${path##*/} && printf '%%s\\n' "${path%%.toml}"
    done | sort -u
}

_sockd() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local index command='' flags='' operand=''
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        [[ ${COMP_WORDS[index]} == -* ]] || { command=${COMP_WORDS[index]}; break; }
    done
    case $command in
        '')
            COMPREPLY=($(compgen -W '%(commands)s' -- "$word"))
            return
            ;;
%(cases)s
    esac
    case "$command $before" in
        *' =')
            return  # the value of a setting
            ;;
%(values)s
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
    elif [[ $operand == programs && " ${COMP_WORDS[*]:0:COMP_CWORD} " == *' -- '* ]]; then
        COMPREPLY=($(compgen -c -- "$word"))
    elif [[ $operand ]]; then
        COMPREPLY=($(compgen -W "$(_sockd_names)" -- "$word"))
    fi
}

complete -F _sockd sockd
"""

BASH_VALUES = {
    "names": 'COMPREPLY=($(compgen -W "$(_sockd_names)" -- "$word"))',
    "files": 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$word"))',
    "directories": 'compopt -o filenames; COMPREPLY=($(compgen -d -- "$word"))',
    "other": ":",
}


def bash() -> str:
    found = list(commands())
    values = {
        f"'{command.name} {flag}'": _bash_value(option)
        for command in found
        for option in command.flags
        for flag in (option.flags if option.value else ())
    }
    return BASH % {
        "commands": " ".join([*(command.name for command in found), "--help", "--version"]),
        "cases": "\n".join(_bash_case(command) for command in found),
        "values": "\n".join(
            f"        {'|'.join(where)})\n            {action}\n            return\n            ;;"
            for action, where in _by_action(values).items()
        ),
    }


def _by_action(values: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for where, action in values.items():
        found.setdefault(action, []).append(where)
    return found


def _bash_case(command: Command) -> str:
    flags = " ".join(flag for option in command.flags for flag in option.flags)
    operands = {kind(operand) for operand in command.operands}
    operand = next((name for name in ("programs", "names") if name in operands), "")
    return f"        {command.name}) flags='{flags}' operand='{operand}' ;;"


def _bash_value(option: Option) -> str:
    match kind(option):
        case "settings":
            words = " ".join(settings())
            return f"compopt -o nospace; COMPREPLY=($(compgen -W '{words}' -- \"$word\"))"
        case "choices":
            return f"COMPREPLY=($(compgen -W '{' '.join(option.choices)}' -- \"$word\"))"
        case name:
            return BASH_VALUES[name]


# zsh

ZSH = """\
#compdef sockd

_sockd_names() {
    local -a names
    names=(/etc/sockd/*.toml(N:t:r) /run/sockd/*(N/:t))
    _describe -t services 'service' names
}

_sockd_settings() {
    local -a keys
    keys=(%(settings)s)
    compadd -S '' -a keys
}

_sockd() {
    local curcontext=$curcontext state line
    local -a commands
    typeset -A opt_args
    _arguments -C \\
        '(- *)--help[show the commands]' \\
        '(- *)--version[show the version]' \\
        '1:command:->command' \\
        '*::argument:->argument'
    case $state in
        command)
            commands=(
%(commands)s
            )
            _describe -t commands 'command' commands
            ;;
        argument)
            curcontext="${curcontext%%:*:*}:sockd-$words[1]:"
            case $words[1] in
%(cases)s
            esac
            ;;
    esac
}

_sockd "$@"
"""

ZSH_VALUES = {
    "names": "_sockd_names",
    "files": "_files",
    "directories": "_directories",
    "settings": "_sockd_settings",
    "programs": "_command_names -e",
    "other": "",
}


def zsh() -> str:
    found = list(commands())
    return ZSH % {
        "settings": " ".join(settings()),
        "commands": "\n".join(
            f"                {_quoted(f'{command.name}:{command.summary}')}" for command in found
        ),
        "cases": "\n".join(_zsh_case(command) for command in found),
    }


def _zsh_case(command: Command) -> str:
    indent = " " * 20
    specs = [spec for option in command.options for spec in _zsh_specs(command, option)]
    body = " \\\n".join([f"{indent}_arguments -S", *(f"{indent}    {s}" for s in specs)])
    return f"                {command.name})\n{body}\n{indent};;"


def _zsh_specs(command: Command, option: Option) -> Iterator[str]:
    what = kind(option)
    values = f"({' '.join(option.choices)})" if what == "choices" else ZSH_VALUES[what]
    value = f":{_zsh_escape(option.value)}:{values}" if option.value else ""
    if not option.flags:
        yield _quoted(
            f"*{value}" if what == "programs" else f"{'' if option.required else ':'}{value}"
        )
        return
    for flag in option.flags:
        others = [*(other for other in option.flags if other != flag), *command.excluded_by(flag)]
        if "--help" in option.flags:
            others = ["-", "*"]
        before = "*" if option.repeatable else f"({' '.join(others)})" if others else ""
        yield _quoted(f"{before}{flag}[{_zsh_escape(option.help)}]{value}")


def _zsh_escape(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return text


def _quoted(text: str) -> str:
    """For zsh and fish as for bash: in single quotes nothing means anything else."""
    return "'" + text.replace("'", "'\\''") + "'"


# fish

FISH = """\
# fish completion for sockd

function __sockd_names
    for path in /etc/sockd/*.toml /run/sockd/*/
        string replace -r '.*/([^/]+?)(\\.toml)?/?$' '$1' -- $path
    end | sort -u
end

complete -c sockd -f
complete -c sockd -n __fish_use_subcommand -l help -s h -d 'show the commands'
complete -c sockd -n __fish_use_subcommand -l version -d 'show the version'
"""

FISH_VALUES = {
    "names": "-x -a '(__sockd_names)'",
    "files": "-r -F",
    "directories": "-x -a '(__fish_complete_directories)'",
    "programs": "-x -a '(__fish_complete_command)'",
    "other": "-x",
}


def fish() -> str:
    return FISH + "\n".join(line for command in commands() for line in _fish(command)) + "\n"


def _fish(command: Command) -> Iterator[str]:
    yield (
        f"complete -c sockd -n __fish_use_subcommand -a {command.name} "
        f"-d {_quoted(command.summary)}"
    )
    seen = f"complete -c sockd -n '__fish_seen_subcommand_from {command.name}'"
    for option in command.options:
        flags = " ".join(f"-l {f[2:]}" if f[:2] == "--" else f"-s {f[1:]}" for f in option.flags)
        what = kind(option)
        if not option.value:
            value = ""
        elif what == "settings":
            value = f"-x -a {_quoted(' '.join(settings()))}"
        elif what == "choices":
            value = f"-x -a {_quoted(' '.join(option.choices))}"
        else:
            value = FISH_VALUES[what]
        if option.flags:
            yield " ".join(filter(None, [seen, flags, value, f"-d {_quoted(option.help)}"]))
        elif what in ("names", "programs"):
            yield f"{seen} {value.removeprefix('-x ')}"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}

if __name__ == "__main__":
    print(SHELLS[sys.argv[1]](), end="")
