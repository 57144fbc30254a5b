"""The manual pages and completions say all that the parser and the rows say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sockd.settings import rows

ROOT = Path(__file__).parents[1]
HELP = subprocess.check_output([sys.executable, "-m", "sockd", "--help"], cwd=ROOT, text=True)
COMMANDS = re.findall(r"(?m)^ {4}([a-z-]+)(?: |$)", HELP)


def generate(script: str, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": "86400"}
    command = [sys.executable, "-B", ROOT / "packaging" / script, *arguments]
    return subprocess.check_output(command, env=environ, text=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("man")
    generate("manual.py", str(place))
    return {path.name: path.read_text() for path in place.iterdir()}


def rendered(page: str) -> str:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=200n", "-ww"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")


def test_commands_are_found() -> None:
    assert {"serve", "check", "generate-units", "reload", "stop", "status"} <= set(COMMANDS)


def test_every_setting_stands_in_its_page(pages: dict[str, str]) -> None:
    settings, units = rendered(pages["sockd.toml.5"]), rendered(pages["sockd-units.7"])
    for row in rows():
        assert f"{row.key} ({row.kind.name})" in settings
        assert (f"{row.key} ({row.kind.name})" in units) == (row.change == "units")
    assert "1970-01-02" in settings, "the date is that of the source"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_stands_in_its_page(command: str, pages: dict[str, str]) -> None:
    page = rendered(pages["sockd.8"])
    described = page.partition(f"\n   sockd {command}")[2]
    described = described.partition("\n   sockd ")[0]
    shown = [sys.executable, "-m", "sockd", command, "--help"]
    usage = subprocess.check_output(shown, cwd=ROOT, text=True)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", usage))
    for flag in flags - {"--help"}:
        assert flag in described, f"{flag} of {command}"
    for shell in ("bash", "zsh", "fish"):
        completion = generate("completion.py", shell)
        for flag in flags:
            assert (f"-l {flag[2:]}" if shell == "fish" else flag) in completion
