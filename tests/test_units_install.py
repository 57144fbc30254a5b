"""Installation into a root directory, and on this machine's / within a mount namespace."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sockd.errors import SockdError
from sockd.units import install, write
from sockd.units.values import MARK

ROOT = Path(__file__).parents[1]
FILES = {
    "shop.service": f"{MARK} from x\n[Service]\nExecStart=/usr/bin/true\n",
    "shop.socket": f"{MARK} from x\n[Socket]\nListenStream=80\n",
    "nginx/shop.conf": f"{MARK} from x\nserver {{ listen 127.0.0.1:48123; server_name shop; }}\n",
}
UNITS = "etc/systemd/system"


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    for directory in (UNITS, "etc/nginx/sites-available", "etc/nginx/sites-enabled"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


def placed(root: Path) -> dict[str, str]:
    """Files and links below etc, with their text or target."""
    return {
        str(path.relative_to(root / "etc")): (
            str(path.readlink()) if path.is_symlink() else path.read_text()
        )
        for path in sorted((root / "etc").rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def test_files_come_where_debian_has_them(debian: Path) -> None:
    report = install(FILES, root=str(debian))
    assert placed(debian) == {
        "nginx/sites-available/shop.conf": FILES["nginx/shop.conf"],
        "nginx/sites-enabled/shop.conf": "/etc/nginx/sites-available/shop.conf",
        "systemd/system/shop.service": FILES["shop.service"],
        "systemd/system/shop.socket": FILES["shop.socket"],
    }
    assert f"{debian}/{UNITS}/shop.service: created" in report
    assert report[-1] == "next: systemctl enable --now shop.socket"
    for path in (debian / UNITS).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_umask_of_the_operator_does_not_matter(debian: Path) -> None:
    before = os.umask(0o077)
    try:
        install(FILES, root=str(debian))
    finally:
        os.umask(before)
    assert stat.S_IMODE((debian / UNITS / "shop.socket").stat().st_mode) == 0o644


def test_without_sites_available_conf_d_is_used(tmp_path: Path) -> None:
    (tmp_path / "etc/nginx/conf.d").mkdir(parents=True)
    install(FILES, root=str(tmp_path))
    assert placed(tmp_path)["nginx/conf.d/shop.conf"] == FILES["nginx/shop.conf"]


def test_without_nginx_the_units_are_placed(tmp_path: Path) -> None:
    report = install(FILES, root=str(tmp_path))
    assert list(placed(tmp_path)) == ["systemd/system/shop.service", "systemd/system/shop.socket"]
    assert "nginx is not installed; its site was left out" in report


def test_a_second_run_changes_nothing(debian: Path) -> None:
    install(FILES, root=str(debian))
    inodes = {path: path.lstat().st_ino for path in (debian / "etc").rglob("*")}
    report = install(FILES, root=str(debian))
    assert [line for line in report if "next:" not in line] == [
        f"{debian}/etc/nginx/sites-available/shop.conf: unchanged",
        f"{debian}/etc/nginx/sites-enabled/shop.conf: unchanged",
        f"{debian}/{UNITS}/shop.service: unchanged",
        f"{debian}/{UNITS}/shop.socket: unchanged",
    ]
    assert {path: path.lstat().st_ino for path in (debian / "etc").rglob("*")} == inodes


def test_what_sockd_generated_is_replaced(debian: Path) -> None:
    install(FILES, root=str(debian))
    changed = {**FILES, "shop.service": FILES["shop.service"] + "Nice=1\n"}
    report = install(changed, root=str(debian))
    assert f"{debian}/{UNITS}/shop.service: replaced" in report
    assert f"{debian}/{UNITS}/shop.socket: unchanged" in report
    assert placed(debian)["systemd/system/shop.service"] == changed["shop.service"]


def test_a_drop_in_stays(debian: Path) -> None:
    drop_in = debian / UNITS / "shop.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNice=1\n")
    install(FILES, root=str(debian))
    assert drop_in.read_text() == "[Service]\nNice=1\n"


def foreign_unit(root: Path) -> Path:
    path = root / UNITS / "shop.service"
    path.write_text("[Service]\nExecStart=/bin/mine\n")
    return path


def foreign_directory(root: Path) -> Path:
    path = root / UNITS / "shop.socket"
    path.mkdir()
    return path


def masked_unit(root: Path) -> Path:
    path = root / UNITS / "shop.service"
    path.symlink_to("/dev/null")
    return path


def foreign_site(root: Path) -> Path:
    path = root / "etc/nginx/sites-available/shop.conf"
    path.write_text("server {}\n")
    return path


def foreign_enabled(root: Path) -> Path:
    path = root / "etc/nginx/sites-enabled/shop.conf"
    path.symlink_to("/etc/nginx/sites-available/other")
    return path


def packaged_unit(root: Path) -> Path:
    path = root / "usr/lib/systemd/system/shop.service"
    path.parent.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    path.write_text("[Service]\nExecStart=/usr/sbin/shop\n")
    return path


FOREIGN = [
    foreign_unit,
    foreign_directory,
    masked_unit,
    foreign_site,
    foreign_enabled,
    packaged_unit,
]


@pytest.mark.parametrize("make", FOREIGN)
def test_what_sockd_did_not_generate_is_refused(make: object, debian: Path) -> None:
    path = make(debian)  # type: ignore[operator]
    before = placed(debian)
    with pytest.raises(
        SockdError, match=r"^not generated by sockd: .*nothing was changed"
    ) as found:
        install(FILES, root=str(debian))
    named = re.findall(rf"{debian}[^\s,;]*", str(found.value))
    assert [Path(name).resolve() for name in named] == [path.resolve()]
    assert placed(debian) == before


@pytest.mark.parametrize("make", [make for make in FOREIGN if make is not foreign_directory])
def test_force_replaces_it(make: object, debian: Path) -> None:
    make(debian)  # type: ignore[operator]
    install(FILES, force=True, root=str(debian))
    assert placed(debian)["systemd/system/shop.service"] == FILES["shop.service"]
    assert placed(debian)["nginx/sites-available/shop.conf"] == FILES["nginx/shop.conf"]
    assert "sites-available/shop.conf" in placed(debian)["nginx/sites-enabled/shop.conf"]


def test_what_cannot_be_written_is_one_message(debian: Path) -> None:
    (debian / UNITS).rmdir()
    (debian / UNITS).write_text("")
    with pytest.raises(SockdError, match=f"^{debian}/{UNITS}.*: "):
        install(FILES, root=str(debian))


def test_a_failure_half_way_undoes_the_site(debian: Path) -> None:
    (debian / "etc/nginx/sites-enabled").rmdir()
    (debian / "etc/nginx/sites-enabled").write_text("")
    before = placed(debian)
    with pytest.raises(SockdError):
        install(FILES, root=str(debian))
    assert placed(debian) == before


def test_a_failure_at_the_units_undoes_the_site(debian: Path) -> None:
    (debian / UNITS).rmdir()
    (debian / UNITS).symlink_to("/dev/null")
    before = placed(debian)
    with pytest.raises(SockdError):
        install(FILES, root=str(debian))
    assert placed(debian) == before


def test_without_permission(debian: Path) -> None:
    script = (
        "import os, sys\n"
        "from sockd.errors import PermissionDenied\n"
        "from sockd.units import install\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: install({'a.service': ''}, root=sys.argv[1])\n"
        "except PermissionDenied as error: print(error)\n"
    )
    for path in (debian, *debian.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (debian / UNITS).chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", script, str(debian)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "no permission to write; run this as root" in done.stdout, done.stderr


def test_files_can_be_written_to_a_directory(tmp_path: Path) -> None:
    write(FILES, tmp_path)
    assert {name: (tmp_path / name).read_text() for name in FILES} == FILES
    assert all(line.endswith(": unchanged") for line in write(FILES, tmp_path))
    (tmp_path / "shop.socket").write_text("mine")
    with pytest.raises(SockdError, match=f"not generated by sockd: {tmp_path}/shop.socket"):
        write(FILES, tmp_path)
    write(FILES, tmp_path, force=True)
    assert (tmp_path / "shop.socket").read_text() == FILES["shop.socket"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What is bound over /etc in a mount namespace: a real nginx with a site, no systemd."""
    for directory in ("units", "nginx/sites-available", "nginx/sites-enabled"):
        (tmp_path / directory).mkdir(parents=True)
    scratch = "".join(
        f"{kind}_temp_path {tmp_path}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx/nginx.conf").write_text(
        f"user root; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {scratch} include /etc/nginx/sites-enabled/*; }}\n"
    )
    (tmp_path / "nginx/sites-enabled/default").write_text(
        "server { listen 127.0.0.1:48123; server_name welcome; }\n"
    )
    return tmp_path


def install_here(machine: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`install` with root "/"; its report on stdout, a SockdError with its detail on stderr."""
    script = (
        "import json, sys\n"
        "from sockd.errors import SockdError\n"
        "from sockd.units import install\n"
        "try: print(*install(json.load(sys.stdin)), sep=chr(10))\n"
        "except SockdError as error: sys.exit(f'{error}\\n{error.detail}')\n"
    )
    mounts = (
        f"mount --bind {machine}/units /etc/systemd/system && "
        f"mount --bind {machine}/nginx /etc/nginx && "
        "if [ -d /run/systemd ]; then mount -t tmpfs none /run/systemd; fi && "
        'exec "$0" -c "$1"'
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounts, sys.executable, script]
    return subprocess.run(
        command, cwd=ROOT, input=json.dumps(files), capture_output=True, text=True, timeout=60
    )


def content(machine: Path) -> dict[str, str]:
    return {
        str(path.relative_to(machine)): path.read_text()
        for path in machine.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != "pid"
    }


def test_a_site_that_nginx_takes(machine: Path) -> None:
    done = install_here(machine, FILES)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "/etc/nginx/sites-available/shop.conf: created",
        "/etc/nginx/sites-enabled/shop.conf: created",
        "/etc/systemd/system/shop.service: created",
        "/etc/systemd/system/shop.socket: created",
        "systemd was not told: it does not run here",
        "nginx was not reloaded: no systemd runs here",
        "next: systemctl enable --now shop.socket",
    ]
    again = install_here(machine, FILES)
    assert [line.rpartition(": ")[2] for line in again.stdout.splitlines()[:-1]] == [
        "unchanged"
    ] * 4


def test_a_site_that_nginx_refuses_leaves_everything_as_it_was(machine: Path) -> None:
    before = content(machine)
    bad = {**FILES, "nginx/shop.conf": f"{MARK}\nserver {{ listne 80; }}\n"}
    done = install_here(machine, bad)
    assert done.returncode == 1
    assert done.stderr.startswith("nginx refuses the site; nothing was changed\n")
    assert 'unknown directive "listne" in /etc/nginx/sites-enabled/shop.conf:2' in done.stderr
    assert content(machine) == before
    assert [path.name for path in (machine / "nginx/sites-enabled").iterdir()] == ["default"]


def test_a_site_that_nginx_refuses_leaves_the_previous_one(machine: Path) -> None:
    install_here(machine, FILES)
    before = content(machine)
    bad = {**FILES, "nginx/shop.conf": f"{MARK}\nserver {{ listne 80; }}\n", "shop.socket": MARK}
    assert install_here(machine, bad).returncode == 1
    assert content(machine) == before


def test_a_site_that_would_get_no_request_is_refused(machine: Path) -> None:
    before = content(machine)
    same = FILES["nginx/shop.conf"].replace("server_name shop", "server_name welcome")
    done = install_here(machine, {**FILES, "nginx/shop.conf": same})
    assert done.returncode == 1
    assert "rm /etc/nginx/sites-enabled/default" in done.stderr
    assert 'conflicting server name "welcome" on 127.0.0.1:48123, ignored' in done.stderr
    assert content(machine) == before


@pytest.mark.parametrize("log", ["stderr", "{machine}/error.log"])
def test_warnings_of_others_do_not_matter(log: str, machine: Path) -> None:
    configuration = machine / "nginx/nginx.conf"
    configuration.write_text(
        configuration.read_text().replace("stderr", log.format(machine=machine))
    )
    default = machine / "nginx/sites-enabled/default"
    default.write_text(default.read_text() * 2)
    done = install_here(machine, FILES)
    assert (done.returncode, done.stderr) == (0, "")
    assert "warn" not in done.stdout


def test_a_warning_of_the_site_is_told(machine: Path) -> None:
    site = FILES["nginx/shop.conf"] + "types { text/a a; text/b a; }\n"
    done = install_here(machine, {**FILES, "nginx/shop.conf": site})
    assert done.returncode == 0
    assert 'nginx warns: duplicate extension "a"' in done.stdout


def test_a_mistake_of_others_is_not_blamed_on_the_site(machine: Path) -> None:
    (machine / "nginx/sites-enabled/default").write_text("server { nonsense; }\n")
    before = content(machine)
    done = install_here(machine, FILES)
    assert done.returncode == 1
    assert done.stderr.startswith("nginx's configuration has a mistake already; nothing was ch")
    assert content(machine) == before
