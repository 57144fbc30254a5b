"""`sockd exec` without systemd, and what it copies of a unit. tests/lab/test_exec.py runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sockd.config import load
from sockd.execute.properties import COPIED, LIMITS, MASKS, settings_of
from sockd.units import render, render_instances
from tests.test_commands import sockd

NOT_COPIED = {
    "Type": "a command says by its end how it went",
    "NotifyAccess": "it does not notify",
    "ExecStart": "the command takes its place",
    "ExecReload": "nothing to reload",
    "ExecStop": "it is not stopped, it ends",
    "FileDescriptorStoreMax": "it stores none",
    "ExecStopPost": "it tidies RuntimeDirectory=",
    "Restart": "once",
    "RestartSec": "once",
    "TimeoutStartSec": "a migration may take long",
    "TimeoutStopSec": "systemd's default",
    "TimeoutAbortSec": "no watchdog",
    "WatchdogSec": "no watchdog",
    "KillMode": "systemd's default",
    "OOMPolicy": "a command that loses a process has failed",
    "LogRateLimitIntervalSec": "it does not log",
    "LogRateLimitBurst": "it does not log",
    "RuntimeDirectory": "that of the running service would be removed at the end",
    "RuntimeDirectoryPreserve": "no RuntimeDirectory",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "env").write_text("FROM_FILE=file\nBOTH=file\n")
    (tmp_path / "shop.toml").write_text(
        '[app]\ntarget = "a:b"\ndirectory = "code"\nenv_file = "env"\nenv = { BOTH = "table" }\n'
    )
    return tmp_path


def here(project: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    config = str(project / "shop.toml")
    return sockd(project, "exec", "--here", "--config", config, *words, **more)


def test_environment_and_directory(project: Path) -> None:
    script = 'pwd; echo "$FROM_FILE $BOTH $OWN [$SOCKD_WORKERS$NOTIFY_SOCKET]"'
    done = here(project, "--", "sh", "-c", script, OWN="own", SOCKD_WORKERS="2", NOTIFY_SOCKET="x")
    assert done.stdout == f"{project}/code\nfile table own []\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_without_systemd_it_is_here(project: Path) -> None:
    config = str(project / "shop.toml")
    done = sockd(project, "exec", "--config", config, "--", "sh", "-c", "pwd; exit 3")
    if Path("/run/systemd/system").is_dir():
        assert (done.returncode, done.stdout) == (2, "")
    else:
        assert (done.returncode, done.stdout) == (3, f"{project}/code\n")


def test_the_virtual_environment_goes_first(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / "venv"], check=True)
    done = here(
        *(project, "--venv", str(project / "venv"), "--"),
        *("python", "-c", "import os, sys; print(sys.prefix, os.environ['PATH'])"),
    )
    prefix, path = done.stdout.split(maxsplit=1)
    assert prefix == f"{project}/venv"
    assert path.startswith(f"{project}/venv/bin:/")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--", "nosuch"], 127, "no command nosuch in PATH="),
        (["--", "./nosuch"], 127, "there is no ./nosuch in "),
        (["--", "./plain"], 126, "./plain may not be executed"),
        (["--", "./broken"], 126, "broken: Exec format error"),
        (["--"], 2, "write the command after --"),
        (["true"], 2, "write the command after --"),
        (["--venv", "nowhere", "--", "true"], 78, "nowhere/bin/python is not there"),
        (["--dir", "nowhere", "--", "true"], 78, "nowhere is no directory"),
        (["--set", "app.env_file=nowhere", "--", "true"], 78, "cannot read "),
    ],
)
@pytest.mark.parametrize("inside", [[], ["--in-unit"]])
def test_what_cannot_be_run(
    project: Path, inside: list[str], words: list[str], code: int, expected: str
) -> None:
    (project / "code/plain").write_text("no program\n")
    (project / "code/broken").write_bytes(b"\x7fELF\0\0\0\0")
    (project / "code/broken").chmod(0o755)
    done = here(project, *inside, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -INT $$", 130)],
)
def test_exit_codes(project: Path, script: str, code: int) -> None:
    assert here(project, "--in-unit", "--", "sh", "-c", script).returncode == code
    found = here(project, "--", "sh", "-c", script).returncode
    assert found == (code if code < 128 else 128 - code)  # it became the command


def test_signals_are_as_a_shell_has_them(project: Path) -> None:
    for inside in ([], ["--in-unit"]):
        done = here(project, *inside, "--", "grep", "SigIgn", "/proc/self/status")
        ignored = int(done.stdout.split()[1], 16)
        assert not ignored & (1 << 12 | 1 << 24 | 1 << 1), "SIGPIPE, SIGXFSZ or SIGINT"


def test_the_command_may_have_options_of_sockds(project: Path) -> None:
    done = here(project, "--", "printf", "%s|", "--here", "--", "--help", "")
    assert done.stdout == "--here|--|--help||"


def directives(text: str) -> set[str]:
    parts = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)
    service = parts[parts.index("Service") + 1]
    return set(re.findall(r"^([A-Za-z]+)=", service, re.MULTILINE))


def test_every_directive_of_the_units_is_copied_or_argued(tmp_path: Path) -> None:
    configs = [
        'unit.user = "shop"\nunit.group = "www-data"\nunit.writable = ["/srv/media"]\n',
        'unit.hardening = "strict"\nunit.credentials = { key = "/etc/key" }\n',
        'unit.hardening = "off"\nunit.env_files = ["/etc/shop.env"]\n',
        "",
    ]
    found = directives(render_instances()["sockd@.service"])
    for number, more in enumerate(configs):
        path = tmp_path / f"shop{number}.toml"
        path.write_text(f'{more}[app]\ntarget = "shop:app"\n')
        config = load(path=path, environ={"SOCKD_WORKERS": "2"})
        object.__setattr__(config, "path", Path("/etc/sockd/shop.toml"))
        files = render(config, systemd_version=257, nginx_version="1.26", executable="/bin/true")
        found |= directives(files[f"shop{number}.service"])
    told = {"EnvironmentFile": "EnvironmentFiles"}  # the property's name
    properties = {told.get(name, name) for name in found - NOT_COPIED.keys()}
    assert properties <= COPIED.keys() | set(LIMITS)
    assert not NOT_COPIED.keys() & COPIED.keys()


def test_properties_as_systemd_run_takes_them() -> None:
    infinity = (1 << 64) - 1
    shown = {
        "User": "sockd-shop",
        "Group": "",
        "DynamicUser": True,
        "PrivateTmp": True,
        "PrivateTmpEx": "connected",
        "CapabilityBoundingSet": "",
        "RestrictNamespaces": "yes",
        "UMask": 0o77,
        "StateDirectory": ["shop"],
        "SupplementaryGroups": [],
        "Environment": ["A=1", 'B=say "\\"', "C=$HOME %n"],
        "SystemCallFilter": [True, ["read", "write:EPERM"]],
        "RestrictAddressFamilies": [False, []],
        "SystemCallErrorNumber": 1,
        "AppArmorProfile": [True, "shop"],
        "SELinuxContext": [False, ""],
        "EnvironmentFiles": [["/etc/a", True], ["/etc/b", False]],
        "BindPaths": [["/a b", "/c:d", True, 16384], ["/e", "/f", False, 0]],
        "TemporaryFileSystem": [["/media", "ro"], ["/mnt", ""]],
        "LoadCredential": [["key", "/etc/key"]],
        "DeviceAllow": [["/dev/null", "rw"]],
        "IPAddressDeny": [[2, [10, 0, 0, 0], 8], [10, [0] * 15 + [1], 128]],
        "LimitNOFILE": infinity,
        "LimitNOFILESoft": 65536,
        "MainPID": 5,
    }
    assert sorted(settings_of(shown)) == sorted(
        [
            "User=sockd-shop",
            "DynamicUser=yes",
            "PrivateTmpEx=connected",
            "CapabilityBoundingSet=",
            "RestrictNamespaces=yes",
            "UMask=0077",
            'StateDirectory="shop"',
            'Environment="A=1" "B=say \\"\\\\\\"" "C=$HOME %n"',
            "SystemCallFilter=read write:EPERM",
            "SystemCallErrorNumber=1",
            "AppArmorProfile=-shop",
            "EnvironmentFile=-/etc/a",
            "EnvironmentFile=/etc/b",
            'BindPaths="-/a b":"/c:d":rbind',
            'BindPaths="/e":"/f":norbind',
            'TemporaryFileSystem="/media":"ro"',
            'TemporaryFileSystem="/mnt"',
            "LoadCredential=key:/etc/key",
            "DeviceAllow=/dev/null rw",
            "IPAddressDeny=10.0.0.0/8",
            "IPAddressDeny=::1/128",
            "LimitNOFILE=65536:infinity",
        ]
    )
    assert set(MASKS) <= COPIED.keys()
    assert list(settings_of({"SystemCallErrorNumber": (1 << 31) - 2})) == [
        "SystemCallErrorNumber=kill"
    ]
    assert list(settings_of({"RestrictAddressFamilies": [False, ["AF_PACKET"]]})) == [
        "RestrictAddressFamilies=~AF_PACKET"
    ]
