"""`sockd generate-units` and what `sockd check` says of it, as an operator types them."""

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_commands import ME, PACKAGED, ROOT, project, sockd
from tests.test_units_install import machine

__all__ = ["machine", "project"]  # fixtures

TOML = (
    'app.target = "shop:app"\nnginx.listen = ["127.0.0.1:48123"]\nnginx.server_name = ["shop"]\n'
)

Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(machine: Path) -> Here:
    """sockd with /etc/systemd/system, /etc/nginx and /etc/sockd of its own; no systemd runs."""
    (machine / "sockd").mkdir()
    (machine / "sockd/shop.toml").write_text(TOML)
    mounts = (
        f"mount --bind {machine}/units /etc/systemd/system && "
        f"mount --bind {machine}/nginx /etc/nginx && "
        f"mount -t tmpfs none /usr/local && mkdir -p {machine}/etc {machine}/work && "
        f"mount -t overlay none -o lowerdir=/etc,upperdir={machine}/etc,workdir={machine}/work "
        "/etc && "
        f"mkdir -p /etc/sockd && mount --bind {machine}/sockd /etc/sockd && "
        f"mount --bind {machine}/units /etc/systemd/system && "
        f"mount --bind {machine}/nginx /etc/nginx && "
        "if [ -d /run/systemd ]; then mount -t tmpfs none /run/systemd; fi && "
        'exec "$@"'
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PACKAGED, *words]
        return subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", mounts, "sh", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_install_check_and_uninstall(here: Here, machine: Path) -> None:
    difference = here("generate-units", "shop", "--check")
    assert difference.returncode == 1
    assert "+++ /etc/systemd/system/shop.service (generated)\n" in difference.stdout
    assert difference.stderr == ""
    assert here("generate-units", "shop", "--diff").returncode == 0

    assert here("generate-units", "shop", "--install").returncode == 0
    for flag in ("--check", "--diff"):
        done = here("generate-units", "shop", flag)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    (machine / "sockd/shop.toml").write_text(f'{TOML}timeouts.drain = "5s"\n')
    difference = here("generate-units", "shop", "--check")
    assert difference.returncode == 1
    assert "\n-TimeoutStopSec=45s\n" in difference.stdout
    assert "\n+TimeoutStopSec=20s\n" in difference.stdout

    (machine / "sockd/shop.toml").unlink()  # removing needs no configuration
    done = here("generate-units", "shop", "--uninstall")
    assert done.returncode == 0
    assert "/etc/systemd/system/shop.service: removed" in done.stderr
    assert list((machine / "units").iterdir()) == []


def test_an_instance_that_is_enabled_gets_drop_ins(here: Here, machine: Path) -> None:
    wants = machine / "units/sockets.target.wants"
    wants.mkdir()
    (wants / "sockd@shop.socket").symlink_to("/usr/lib/systemd/system/sockd@.socket")
    assert here("generate-units", "shop", "--install").returncode == 0
    assert {path.name for path in (machine / "units").iterdir()} == {
        "sockets.target.wants",
        "sockd@shop.service.d",
        "sockd@shop.socket.d",
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--systemd", "251"], 1, "systemd 251 is too old"),
        (["--systemd", "0"], 1, "systemd 0 is too old"),
        (["--systemd", "new"], 2, "invalid int value"),
        (["--nginx", "1.18"], 1, "nginx 1.18 is too old"),
        (["--nginx", "x"], 1, "no version"),
        (["--install", "--check"], 2, "not allowed with"),
        (["a:b", "--uninstall"], 2, "takes the NAME"),
        (["--instance", "--config", "./other.toml"], 78, "does not exist"),
    ],
)
def test_mistakes(words: list[str], code: int, message: str, here: Here) -> None:
    done = here("generate-units", "shop", *words)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_versions_can_be_told(here: Here, machine: Path) -> None:
    with (machine / "sockd/shop.toml").open("a") as file:
        file.write('nginx.certificate = "/c"\nnginx.certificate_key = "/k"\n')
    for version, words in (("1.22", "ssl http2;"), ("1.26", "http2 on;")):
        done = here("generate-units", "shop", "--systemd", "252", "--nginx", version)
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout


def check(tmp_path: Path, project: Path, tables: str) -> subprocess.CompletedProcess[str]:
    with project.open("a") as file:
        file.write(tables)
    return sockd(tmp_path, "check", "--config", str(project))


def test_check_says_that_media_want_a_user(tmp_path: Path, project: Path) -> None:
    done = check(tmp_path, project, f'[nginx]\nmedia = {{ "/m/" = "{tmp_path}/media" }}\n')
    assert done.returncode == 78
    assert "nginx.media: a dynamic user writes where nginx cannot read" in done.stdout
    assert "and unit.user" in done.stdout


def test_check_says_how_media_are_written_and_read(tmp_path: Path, project: Path) -> None:
    media, group = tmp_path / "media", grp.getgrgid(pwd.getpwnam(ME).pw_gid).gr_name
    tables = (
        f'[nginx]\nmedia = {{ "/m/" = "{media}" }}\n[unit]\nuser = "{ME}"\n'
        f'socket_group = "{group}"\nwritable = ["{tmp_path}/data"]\n'
    )
    done = check(tmp_path, project, tables)
    assert done.returncode == 1
    command = f"install -d -o {ME} -g {group} -m 2750 {media}"
    assert command in done.stdout
    assert f"unit.writable: no directory {tmp_path}/data" in done.stdout
    subprocess.run(command.split(), check=True)
    (tmp_path / "data").mkdir()
    done = check(tmp_path, project, "")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"ok      nginx.media {media}\n" in done.stdout
    media.chmod(0o700)
    done = check(tmp_path, project, "")
    assert (done.returncode, command in done.stdout) == (0, True)
