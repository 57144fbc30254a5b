"""What an installation would change, and an installation undone."""

import subprocess
import sys
from pathlib import Path

import pytest

from sockd.errors import SockdError
from sockd.units import compare, install, is_instance, uninstall
from sockd.units.values import MARK
from tests.test_units_install import FILES, ROOT, UNITS, debian, install_here, machine, placed

__all__ = ["debian", "machine"]  # fixtures

INSTANCE = {
    "sockd@shop.service.d/sockd.conf": f"{MARK} from x\n[Service]\nNice=1\n",
    "sockd@shop.socket.d/sockd.conf": f"{MARK} from x\n",
    "nginx/shop.conf": FILES["nginx/shop.conf"],
}


def test_nothing_differs_from_what_was_installed(debian: Path) -> None:
    install(FILES, root=str(debian))
    assert compare(FILES, root=str(debian)) == ""


def test_a_difference_is_shown_and_nothing_changed(debian: Path) -> None:
    install(FILES, root=str(debian))
    unit = debian / UNITS / "shop.service"
    unit.write_text(unit.read_text().replace("true", "false"))
    link = debian / "etc/nginx/sites-enabled/shop.conf"
    link.unlink()
    link.symlink_to("/elsewhere")
    (debian / UNITS / "shop.socket").unlink()
    before = placed(debian)
    assert compare(FILES, root=str(debian)) == (
        f"--- {link}\n+++ {link} (generated)\n@@ -1 +1 @@\n"
        "-link to /elsewhere\n+link to /etc/nginx/sites-available/shop.conf\n"
        f"--- {unit}\n+++ {unit} (generated)\n@@ -1,3 +1,3 @@\n"
        f" {MARK} from x\n [Service]\n-ExecStart=/usr/bin/false\n+ExecStart=/usr/bin/true\n"
        f"--- /dev/null\n+++ {debian}/{UNITS}/shop.socket (generated)\n@@ -0,0 +1,3 @@\n"
        f"+{MARK} from x\n+[Socket]\n+ListenStream=80\n"
    )
    assert placed(debian) == before


def test_everything_differs_where_nothing_is(tmp_path: Path) -> None:
    difference = compare(FILES, root=str(tmp_path))
    assert difference.count("--- /dev/null\n") == 2  # no nginx there


def test_an_installation_is_undone(debian: Path) -> None:
    install(FILES, root=str(debian))
    report = uninstall("shop", root=str(debian))
    assert placed(debian) == {}
    assert f"{debian}/{UNITS}/shop.service: removed" in report
    assert uninstall("shop", root=str(debian)) == ["nothing of shop is installed"]


def test_an_instance_is_undone_and_other_drop_ins_stay(debian: Path) -> None:
    install(INSTANCE, root=str(debian))
    override = debian / UNITS / "sockd@shop.service.d/override.conf"
    override.write_text("[Service]\n")
    report = uninstall("shop", root=str(debian))
    assert list(placed(debian)) == ["systemd/system/sockd@shop.service.d/override.conf"]
    assert not (debian / UNITS / "sockd@shop.socket.d").exists()
    assert f"{override.parent}: left" in report


def test_what_sockd_did_not_generate_is_left(debian: Path) -> None:
    install(FILES, root=str(debian))
    unit = debian / UNITS / "shop.service"
    unit.write_text("[Service]\nExecStart=/bin/mine\n")
    (debian / "etc/sockd").mkdir()
    (debian / "etc/sockd/shop.toml").write_text("")
    report = uninstall("shop", root=str(debian))
    assert list(placed(debian)) == ["sockd/shop.toml", "systemd/system/shop.service"]
    assert f"{unit}: left, sockd did not generate it" in report
    assert f"{debian}/etc/sockd/shop.toml: left" in report


def test_other_services_stay(debian: Path) -> None:
    others = {name.replace("shop", "shop2"): text for name, text in FILES.items()}
    install(others, root=str(debian))
    before = placed(debian)
    install(FILES, root=str(debian))
    uninstall("shop", root=str(debian))
    assert placed(debian) == before


def test_an_enabled_instance_is_known(debian: Path) -> None:
    assert not is_instance("shop", str(debian))
    wants = debian / UNITS / "sockets.target.wants"
    wants.mkdir()
    (wants / "sockd@shop.socket").symlink_to("/usr/lib/systemd/system/sockd@.socket")
    assert is_instance("shop", str(debian))
    assert not is_instance("sho", str(debian))


def test_an_instance_with_drop_ins_is_known(debian: Path) -> None:
    install(INSTANCE, root=str(debian))
    assert is_instance("shop", str(debian))


@pytest.mark.parametrize(("first", "second"), [(FILES, INSTANCE), (INSTANCE, FILES)])
def test_one_service_has_one_form(
    first: dict[str, str], second: dict[str, str], debian: Path
) -> None:
    install(first, root=str(debian))
    before = placed(debian)
    with pytest.raises(SockdError, match="generate-units --uninstall shop"):
        install(second, root=str(debian))
    assert placed(debian) == before


def uninstall_here(machine: Path) -> subprocess.CompletedProcess[str]:
    """`uninstall` with root "/", in a mount namespace as that of `install_here`."""
    script = (
        "import sys\nfrom sockd.errors import SockdError\nfrom sockd.units import uninstall\n"
        "try: print(*uninstall('shop'), sep=chr(10))\n"
        "except SockdError as error: sys.exit(f'{error}\\n{error.detail}')\n"
    )
    mounts = (
        f"mount --bind {machine}/units /etc/systemd/system && "
        f"mount --bind {machine}/nginx /etc/nginx && "
        "if [ -d /run/systemd ]; then mount -t tmpfs none /run/systemd; fi && "
        'exec "$0" -c "$1"'
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounts, sys.executable, script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_site_is_taken_from_nginx(machine: Path) -> None:
    install_here(machine, FILES)
    done = uninstall_here(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in (machine / "nginx/sites-enabled").iterdir()] == ["default"]
    assert list((machine / "units").iterdir()) == []


def test_a_site_that_others_need_stays(machine: Path) -> None:
    install_here(machine, {**FILES, "nginx/shop.conf": f"{MARK}\nmap $uri $x {{ default 1; }}\n"})
    default = machine / "nginx/sites-enabled/default"
    default.write_text("server { listen 127.0.0.1:48123; return 200 $x; }\n")
    done = uninstall_here(machine)
    assert done.returncode == 1
    assert "nginx refuses its configuration without the site; nothing was changed" in done.stderr
    assert (machine / "nginx/sites-enabled/shop.conf").is_symlink()
    assert (machine / "units/shop.service").exists()
