"""What a shell offers after TAB, in the shells themselves, with the package's completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.machine import Machine

BASH = """
source /usr/share/bash-completion/completions/sockd
compopt() { :; }  # it acts on the completion that readline has under way
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_sockd
printf '%s\\n' "${COMPREPLY[@]}"
"""

# What is offered is what zsh hands to its editor, taken down from compadd (zshcompwid(1)).
ZSH = r"""
autoload -Uz compinit && compinit -u -D
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell "PS1= PROMPT_EOL_MARK= ; autoload -Uz compinit && compinit -u -D"
zpty -w shell 'compadd() {
    local -a offered; builtin compadd -O offered "$@"; print -l -- "OFFERED "$^offered
}'
zpty -w shell 'list() {
    _main_complete; compstate[insert]=; compstate[list]=; print; print FINISHED
}'
zpty -w shell 'zle -C list complete-word list; bindkey "^I" list; print READY'
zpty -r shell line '*READY'
zpty -r shell line '*READY'
zpty -w -n shell "$1"$'\t'
while zpty -r shell line; do
    print -r -- "$line"
    [[ $line == FINISHED* ]] && break
done
"""

Offer = Callable[[str], set[str]]


@pytest.fixture(scope="module")
def configured(machine: Machine) -> Iterator[Machine]:
    machine.run("apt-get", "install", "--yes", "--no-install-recommends", "zsh", "fish")
    machine.write("/etc/sockd/tabbed.toml", "")
    yield machine
    machine.run("rm", "/etc/sockd/tabbed.toml")


@pytest.fixture(params=["bash", "zsh", "fish"])
def offer(configured: Machine, request: pytest.FixtureRequest) -> Offer:
    """What is offered at the end of a line."""

    def bash(line: str) -> set[str]:
        words = line.split(" ")
        return set(configured.out("bash", "-c", BASH, "bash", *words).splitlines())

    def zsh(line: str) -> set[str]:
        printed = configured.out("zsh", "-f", "-c", ZSH, "zsh", line)
        marked = (part.partition("OFFERED ")[2].strip() for part in printed.splitlines())
        return {part for part in marked if part}

    def fish(line: str) -> set[str]:
        printed = configured.out("fish", "-c", f'complete -C "{line}"')
        return {offered.partition("\t")[0] for offered in printed.splitlines()}

    return {"bash": bash, "zsh": zsh, "fish": fish}[request.param]


def test_commands(offer: Offer) -> None:
    assert {"serve", "check", "generate-units", "reload", "status"} <= offer("sockd ")


def test_services(offer: Offer) -> None:
    assert "tabbed" in offer("sockd status ")
    assert "tabbed" in offer("sockd generate-units --install tab")


def test_flags(offer: Offer) -> None:
    assert {"--json", "--help"} <= offer("sockd status --")
    assert "--install" not in offer("sockd status --")
    assert {"--install", "--output"} <= offer("sockd generate-units --")


def test_settings(offer: Offer) -> None:
    offered = offer("sockd serve --set timeouts.")
    assert {"timeouts.drain=", "timeouts.boot="} <= offered
    assert "tabbed" not in offered


def test_files_and_directories(offer: Offer) -> None:
    assert any(
        "/etc/sockd" in path or path == "sockd" for path in offer("sockd serve --dir /etc/s")
    )
    found = offer("sockd check --config /etc/sockd/tab")
    assert any(path.endswith("tabbed.toml") for path in found), found
