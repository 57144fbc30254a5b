"""How far a service is shut in, single directives, and drop-ins for instances of sockd@."""

import re
import subprocess
from pathlib import Path

import pytest

from sockd.config import load
from sockd.errors import ConfigError
from sockd.units import hardening, render, render_instances
from sockd.units.sections import parse
from tests.test_units_render import TOML, configure, directives, service, units, verify

BARS = {"standard": 1.3, "strict": 0.4}  # of systemd 252; those of 257 are held in the lab


def unit(level: str, more: str = "") -> str:
    return f'{TOML}[unit]\nhardening = "{level}"\n{more}'


@pytest.mark.parametrize("level", BARS)
@pytest.mark.parametrize("user", ["", 'user = "www-data"\n'])
def test_exposure(level: str, user: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.service"
    path.write_text(units(configure(tmp_path, unit(level, user)))["shop.service"])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for shop.service: (\d+\.\d)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= BARS[level], done.stdout


@pytest.mark.parametrize("level", ["standard", "strict", "off"])
def test_systemd_finds_nothing_to_say(level: str, tmp_path: Path) -> None:
    verify(tmp_path, units(configure(tmp_path, unit(level, 'user = "root"\n'))))


def test_strict_has_no_network(tmp_path: Path) -> None:
    strict = service(tmp_path, unit("strict"))
    assert strict["PrivateNetwork"] == "yes"
    assert strict["RestrictAddressFamilies"] == "AF_UNIX"
    standard = service(tmp_path, unit("standard"))
    assert "PrivateNetwork" not in standard
    assert standard["RestrictAddressFamilies"] == "AF_UNIX AF_INET AF_INET6"


def test_off_sets_none_of_them(tmp_path: Path) -> None:
    off = service(tmp_path, unit("off"))
    assert not off.keys() & {row.name for row in hardening.ROWS}
    assert off["KillMode"] == service(tmp_path)["KillMode"]


def test_a_directive_takes_the_place_of_sockds(tmp_path: Path) -> None:
    toml = f"""{TOML}[unit.service]
MemoryDenyWriteExecute = "no"
SystemCallFilter = "@system-service @resources"
MemoryMax = "2G"
Nice = 5
[unit.socket]
NoDelay = "yes"
"""
    files = units(configure(tmp_path, toml))
    verify(tmp_path, files)
    sections = parse(files["shop.service"])
    assert sections["Service"]["MemoryDenyWriteExecute"] == ["no"]
    assert sections["Service"]["SystemCallFilter"] == ["@system-service @resources"]
    assert sections["Service"]["MemoryMax"] == ["2G"]
    assert sections["Service"]["Nice"] == ["5"]
    assert list(sections["Install"]) == ["WantedBy", "Also"]
    assert parse(files["shop.socket"])["Socket"]["NoDelay"] == ["yes"]
    without = parse(units(configure(tmp_path))["shop.service"])
    assert set(sections["Service"]) - set(without["Service"]) == {"MemoryMax", "Nice"}
    assert sections["Unit"] == without["Unit"]
    assert "\n\n\n" not in files["shop.service"] + files["shop.socket"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('unit.service = { "Memory Max" = "2G" }', "cannot be the name of a directive"),
        ('unit.service = { "memoryMax" = "2G" }', "cannot be the name of a directive"),
        ('unit.service = { Nice = "1\\\\" }', "a unit cannot say"),
        ('unit.service = { Nice = "1\\u2028[Install]" }', "a configuration file cannot"),
        ('unit.service = { Type = "simple" }', "what sockd works by"),
        ('unit.service = { User = "root" }', "is given by unit.user"),
        ('unit.socket = { Accept = "yes" }', "what sockd works by"),
        ('unit.socket = { ListenStream = "80" }', "is given by bind"),
        ('unit.credentials = { key = "key" }', "expected an absolute path"),
        ('unit.credentials = { "a/b" = "/key" }', "cannot be the name"),
        ('unit.credentials = { "shop.*" = "" }', "systemd 252 imports credentials one by one"),
        ('unit.credentials = { "shop.*" = "/x" }', 'write ""'),
        ('unit.env_files = ["env"]', "expected an absolute path"),
        ('unit.writable = ["media"]', "expected an absolute path"),
        ('unit.writable = ["/tmp/x"]', "would not see it"),
    ],
)
def test_what_a_unit_must_not_say_is_refused(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        units(configure(tmp_path, f"{table}\n{TOML}"))


def test_secrets_are_named_and_not_held(tmp_path: Path) -> None:
    toml = f"""{TOML}[unit]
env_files = ["/etc/shop 5%.env", "-/etc/other.env"]
credentials = {{ key = "/etc/shop.key", sealed = "/etc/sealed.cred", stored = "" }}
writable = ["/srv/shop data"]
"""
    files = units(configure(tmp_path, toml))
    verify(tmp_path, files)
    found = parse(files["shop.service"])["Service"]
    assert found["EnvironmentFile"] == ["/etc/shop 5%%.env", "-/etc/other.env"]
    assert found["LoadCredential"] == ["key:/etc/shop.key", "stored"]
    assert found["LoadCredentialEncrypted"] == ["sealed:/etc/sealed.cred"]
    assert found["ReadWritePaths"] == ['"/srv/shop data"']


def test_credentials_are_imported_where_systemd_can(tmp_path: Path) -> None:
    config = configure(tmp_path, f'{TOML}[unit.credentials]\n"shop.*" = ""\n')
    text = render(config, systemd_version=254)["shop.service"]
    assert parse(text)["Service"]["ImportCredential"] == ["shop.*"]


def test_media_can_be_written_by_a_user_that_lasts(tmp_path: Path) -> None:
    toml = f'{TOML}[nginx]\nmedia = {{ "/media/" = "/srv/media/" }}\n'
    assert "ReadWritePaths" not in service(tmp_path, toml)
    assert (
        service(tmp_path, f'{toml}[unit]\nuser = "www-data"\n')["ReadWritePaths"] == "/srv/media/"
    )


def test_the_owner_of_a_unix_socket(tmp_path: Path) -> None:
    toml = f'{TOML}[unit]\nsocket_user = "www-data"\nsocket_group = "adm"\nsocket_mode = "600"\n'
    found = dict(directives(units(configure(tmp_path, toml))["shop.socket"]))
    assert (found["SocketUser"], found["SocketGroup"], found["SocketMode"]) == (
        "www-data",
        "adm",
        "0600",
    )


INSTANCES = {
    "defaults": TOML,
    "user": f'{TOML}[unit]\nuser = "www-data"\nwatchdog = 0\n',
    "off": unit("off"),
    "strict": unit("strict", 'env_files = ["/etc/x"]\n'),
    "tcp": f'bind = [":8000", "[::1]:8001"]\n{TOML}',
    "directives": f'{TOML}[unit.service]\nSystemCallFilter = "@system-service"\nNice = 1\n',
    "times": f'{TOML}[timeouts]\nboot = "5s"\n[limits]\nbacklog = 7\n',
}


def drop_ins(tmp_path: Path, toml: str, name: str = "shop") -> dict[str, str]:
    return render(
        configure(tmp_path, toml, name),
        systemd_version=252,
        nginx_version="1.22",
        executable="/usr/bin/sockd",
        instance=True,
    )


def test_an_instance_with_the_defaults_differs_in_nothing(tmp_path: Path) -> None:
    files = drop_ins(tmp_path, TOML)
    assert list(files) == [
        "sockd@shop.service.d/sockd.conf",
        "sockd@shop.socket.d/sockd.conf",
        "nginx/shop.conf",
    ]
    for name in list(files)[:2]:
        assert parse(files[name]) == {}
        assert files[name].startswith("# Generated by sockd from /etc/sockd/shop.toml\n")


@pytest.mark.parametrize("form", INSTANCES)
def test_an_instance_becomes_what_the_stand_alone_units_say(form: str, tmp_path: Path) -> None:
    """As systemd merges them: systemd-analyze shows no directives, so this test merges."""
    config = configure(tmp_path, INSTANCES[form])
    alone = units(config, executable="/usr/bin/sockd")
    files = drop_ins(tmp_path, INSTANCES[form])
    packaged = render_instances()
    (tmp_path / "merged").mkdir()
    for kind in ("service", "socket"):
        drop_in = files[f"sockd@shop.{kind}.d/sockd.conf"]
        template = packaged[f"sockd@.{kind}"].replace("/usr/bin/sockd", "/usr/bin/true")
        (tmp_path / f"merged/sockd@.{kind}").write_text(template)
        directory = tmp_path / f"merged/sockd@shop.{kind}.d"
        directory.mkdir()
        (directory / "sockd.conf").write_text(drop_in)
        merged = parse(
            packaged[f"sockd@.{kind}"].replace("sockd@%i.", "shop.").replace("%i", "shop")
        )
        for section, found in parse(drop_in).items():
            for name, values in found.items():
                kept = merged[section].get(name, []) if name in ("Environment",) else []
                merged[section][name] = [*kept, *(value for value in values if value)]
        expected = parse(alone[f"shop.{kind}"])
        for section, found in expected.items():
            for name, values in found.items():
                assert merged[section][name] == [value for value in values if value] or (
                    merged[section][name] == values
                ), name
            for name in merged[section].keys() - found.keys() - HARMLESS:
                assert merged[section][name] in UNSET, name
    done = subprocess.run(
        ["systemd-analyze", "verify", "sockd@shop.service", "sockd@shop.socket"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}/merged:", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


UNSET = ([], ["no"], ["0"], ["~"], ["default"])
HARMLESS = {"SocketMode", "SocketGroup", "RemoveOnStop"}  # of a socket unit without Unix sockets


def test_an_instance_with_a_long_name_has_a_user_that_systemd_accepts(tmp_path: Path) -> None:
    text = drop_ins(tmp_path, TOML, "a" * 26)[f"sockd@{'a' * 26}.service.d/sockd.conf"]
    assert re.search(r"^User=sockd-[0-9a-f]{16}$", text, re.MULTILINE)


def test_an_instance_reads_the_configuration_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(TOML)
    with pytest.raises(ConfigError, match=r"reads /etc/sockd/shop\.toml and nothing else"):
        render(load(path=path, environ={}), instance=True)
