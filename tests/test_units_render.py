"""Rendered units: every setting reaches its directive once, and systemd reads back what was meant.

systemd-analyze judges the whole; the parser here follows systemd.syntax(7) as far as needed.
"""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sockd.config import Config, load
from sockd.errors import ConfigError, SockdError
from sockd.units import render, render_instances
from sockd.units.values import MARK

ROOT = Path(__file__).parents[1]
TOML = '[app]\ntarget = "shop.wsgi:application"\n'


def configure(tmp_path: Path, toml: str = TOML, name: str = "shop", **variables: str) -> Config:
    path = tmp_path / f"{name}.toml"
    path.write_text(toml)
    loaded = load(path=path, environ=variables)
    # The test's own directory is one of those that a service does not see.
    sources = {
        key: source.replace(str(tmp_path), "/etc/sockd") for key, source in loaded.sources.items()
    }
    return Config(name, Path(f"/etc/sockd/{name}.toml"), loaded.settings, sources)


def units(config: Config, executable: str = "/usr/bin/true") -> dict[str, str]:
    return render(config, systemd_version=252, nginx_version="1.22", executable=executable)


def directives(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def service(tmp_path: Path, toml: str = TOML, **variables: str) -> dict[str, str]:
    return dict(directives(units(configure(tmp_path, toml, **variables))["shop.service"]))


def listeners(tmp_path: Path, *addresses: str) -> list[tuple[str, str]]:
    quoted = ", ".join(f"'{address}'" for address in addresses)
    return directives(units(configure(tmp_path, f"bind = [{quoted}]\n{TOML}"))["shop.socket"])


def verify(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        if "/" not in name:
            (directory / name).write_text(text)
    names = [str(directory / name) for name in files if "/" not in name]
    done = subprocess.run(
        ["systemd-analyze", "verify", *names],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORMS = {
    "defaults": TOML,
    "tcp": f'bind = ["127.0.0.1:8000", "[::1]:8000", ":8001", "192.0.2.1:80"]\n{TOML}',
    "both families": f'bind = ["0.0.0.0:8000", "[::]:8000"]\n{TOML}',
    "unix and tcp": f'bind = ["/run/a b%n.sock", "/run/b.sock", ":8000"]\n{TOML}',
    "fixed user": f'{TOML}[unit]\nuser = "www-data"\ngroup = "www-data"\nwatchdog = 0\n',
    "odd paths": f"{TOML}directory = '/home/a b/100%/$HOME/\"x\"/c\\d'\nvenv = '/srv/v;x #y'\n",
    "times": f'{TOML}[timeouts]\nboot = "1.5s"\ndrain = "2h"\n[unit]\nrestart_delay = "1.25s"\n',
    "description": f"{TOML}[unit]\ndescription = 'Shop: 50% \"off\" $today; #1'\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_systemd_finds_nothing_to_say(form: str, tmp_path: Path) -> None:
    verify(tmp_path, units(configure(tmp_path, FORMS[form])))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_set_twice(form: str, tmp_path: Path) -> None:
    lists = {"ListenStream", "SystemCallFilter", "Environment", "RequiresMountsFor"}
    for name, text in units(configure(tmp_path, FORMS[form])).items():
        if name.startswith("nginx/"):
            continue
        names = [key for key, _ in directives(text) if key not in lists]
        assert len(names) == len(set(names))


def test_each_file_says_where_it_comes_from_and_how_it_is_changed(tmp_path: Path) -> None:
    for name, text in units(configure(tmp_path)).items():
        head = text.split("\n\n")[0]
        assert head.splitlines()[0] == f"{MARK} from /etc/sockd/shop.toml"
        assert "sockd generate-units --install shop" in head
        if not name.startswith("nginx/"):
            assert f"systemctl edit {name}" in head
        assert text.endswith("}\n" if name.startswith("nginx/") else "\n")
        assert "\n\n\n" not in text


def test_the_service_runs_its_configuration(tmp_path: Path) -> None:
    unit = service(tmp_path)
    assert unit["ExecStart"] == "/usr/bin/true serve --config /etc/sockd/shop.toml"
    assert unit["ExecReload"] == "/usr/bin/true reload shop"
    assert unit["Requires"] == "shop.socket"
    assert unit["RuntimeDirectory"] == "sockd/shop"
    assert unit["StateDirectory"] == "shop"
    assert unit["StartLimitIntervalSec"] == "0"
    assert unit["Description"] == "Application shop, served by sockd"
    assert "Environment" not in unit


@pytest.mark.parametrize(
    ("toml", "directive", "value"),
    [
        ('[timeouts]\nboot = "5s"', "TimeoutStartSec", "50s"),
        ('[timeouts]\ndrain = "1500ms"', "TimeoutStopSec", "17s"),
        ('[timeouts]\ndrain = "1500ms"', "TimeoutAbortSec", "17s"),
        ('[unit]\nwatchdog = "90s"', "WatchdogSec", "90s"),
        ("[unit]\nwatchdog = 0", "WatchdogSec", None),
        ('[unit]\nrestart_delay = "1.5s"', "RestartSec", "1500ms"),
        ('[unit]\nuser = "shop"', "User", "shop"),
        ('[unit]\nuser = "shop"', "DynamicUser", None),
        ('[unit]\nuser = "shop"\ngroup = "web"', "Group", "web"),
        ('[unit]\nuser = "shop"', "UMask", "0027"),
        ("", "DynamicUser", "yes"),
        ("", "User", "sockd-shop"),
        ("", "UMask", "0077"),
        ('[unit]\ndescription = "5% off"', "Description", "5%% off"),
        ("[limits]\nconnections = 10", "LimitNOFILE", "65536"),
        ("[limits]\nconnections = 10000", "LimitNOFILE", "160000"),
        ("[limits]\nconnections = 1000000", "LimitNOFILE", "524288"),
        ("", "ProtectHome", "yes"),
    ],
)
def test_a_setting_reaches_its_directive(
    toml: str, directive: str, value: str | None, tmp_path: Path
) -> None:
    assert service(tmp_path, TOML + toml).get(directive) == value


def test_systemd_has_something_to_say_of_a_mistake(tmp_path: Path) -> None:
    files = units(configure(tmp_path))
    files["shop.service"] = files["shop.service"].replace("KillMode=", "KillMod=")
    with pytest.raises(AssertionError, match="KillMod"):
        verify(tmp_path, files)


def test_a_place_in_a_home_can_be_read(tmp_path: Path) -> None:
    unit = service(tmp_path, f'{TOML}directory = "/home/ann/shop"\n')
    assert unit["ProtectHome"] == "read-only"
    assert unit["RequiresMountsFor"] == "/home/ann/shop"


@pytest.mark.parametrize("directory", ["/tmp/shop", "/var/tmp", "/tmp"])
def test_a_place_that_the_service_does_not_see_is_refused(directory: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{directory}: the service has a /tmp"):
        units(configure(tmp_path, f'{TOML}directory = "{directory}"\n'))


@pytest.mark.parametrize("name", ["shop.example", "a" * 26, "a" * 91, "9lives", "a-b_c"])
def test_the_dynamic_user_has_a_name_that_systemd_accepts(name: str, tmp_path: Path) -> None:
    files = units(configure(tmp_path, name=name))
    user = dict(directives(files[f"{name}.service"]))["User"]
    assert re.fullmatch(r"sockd-[A-Za-z0-9_-]{1,25}", user)  # strict mode of systemd's USER_NAMES
    verify(tmp_path, files)


def test_a_name_too_long_for_its_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long a name"):
        units(configure(tmp_path, name="a" * 92))
    assert units(configure(tmp_path, f'bind = [":80"]\n{TOML}', name="a" * 92))


def test_what_flags_and_variables_say_is_kept(tmp_path: Path) -> None:
    unit = service(tmp_path, SOCKD_TIMEOUTS_KEEPALIVE="90s", SOCKD_WORKERS="auto")
    lines = directives(
        units(
            configure(
                tmp_path,
                SOCKD_TIMEOUTS_KEEPALIVE="1500ms",
                SOCKD_WORKERS="auto",
                SOCKD_APP_DIRECTORY="/srv/my $HOME 5%",
                SOCKD_LIMITS_BACKLOG="7",
            )
        )["shop.service"]
    )
    assert unit["ExecStart"].endswith("--config /etc/sockd/shop.toml")
    assert [value for name, value in lines if name == "Environment"] == [
        "SOCKD_WORKERS=auto",
        '"SOCKD_APP_DIRECTORY=/srv/my $HOME 5%%"',
        "SOCKD_TIMEOUTS_KEEPALIVE=1.5",
    ]


def test_what_a_variable_cannot_hold_is_refused() -> None:
    config = load(overrides={"app.target": "a:b", "app.env.KEY": "secret"}, environ={})
    with pytest.raises(ConfigError, match=r"^--set: app\.env: .*/etc/sockd/app\.toml$") as caught:
        units(config)
    assert "secret" not in str(caught.value)


def test_without_a_file_flags_are_the_configuration() -> None:
    flags = {"app.target": "a:b()", "bind": ["/run/x.sock"], "workers": "3"}
    files = units(load(overrides=flags, environ={}))
    unit = dict(directives(files["app.service"]))
    assert unit["ExecStart"] == "/usr/bin/true serve app a:b()"
    assert unit["Environment"] == "SOCKD_WORKERS=3"
    assert dict(directives(files["app.socket"]))["ListenStream"] == "/run/x.sock"
    unit = dict(directives(units(load("shop", overrides=flags, environ={}))["shop.service"]))
    assert unit["ExecStart"] == "/usr/bin/true serve shop a:b()"


def test_a_name_that_is_not_the_files_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "common.toml"
    path.write_text(TOML)
    config = replace(load("shop", path, environ={}), path=Path("/etc/sockd/common 5%.toml"))
    unit = dict(directives(units(config)["shop.service"]))
    assert unit["ExecStart"] == '/usr/bin/true serve shop --config "/etc/sockd/common 5%%.toml"'


def test_the_socket_is_beside_the_runtime_directory_by_default(tmp_path: Path) -> None:
    unit = dict(directives(units(configure(tmp_path))["shop.socket"]))
    assert unit["ListenStream"] == "/run/sockd-shop.sock"
    assert unit["SocketMode"] == "0660"
    assert unit["SocketGroup"] == "www-data"
    assert unit["RemoveOnStop"] == "yes"
    assert unit["TriggerLimitIntervalSec"] == "0"
    assert unit["Backlog"] == "4096"
    assert unit["FileDescriptorName"] == "http"
    assert "NoDelay" not in unit


def test_every_address_is_listened_on(tmp_path: Path) -> None:
    lines = listeners(tmp_path, "/run/a b%.sock", "127.0.0.1:80", "[2001:db8::1]:81", ":82")
    assert [value for name, value in lines if name == "ListenStream"] == [
        "/run/a b%%.sock",
        "127.0.0.1:80",
        "[2001:db8::1]:81",
        "82",
    ]
    # systemd says "TCP_NODELAY failed" of the Unix socket; the workers set it where it fits.
    assert "NoDelay" not in {name for name, _ in lines}
    assert ("RemoveOnStop", "yes") in lines
    assert ("FreeBind", "yes") in lines


def test_tcp_alone_has_nothing_of_a_unix_socket(tmp_path: Path) -> None:
    names = {name for name, _ in listeners(tmp_path, ":8000")}
    assert "NoDelay" in names
    assert names.isdisjoint({"SocketMode", "SocketGroup", "RemoveOnStop", "FreeBind"})


@pytest.mark.parametrize(
    ("addresses", "only"),
    [
        (("0.0.0.0:80", "[::]:80"), "ipv6-only"),
        (("0.0.0.0:80", "[::]:81"), None),
        (("[::]:80",), None),
    ],
)
def test_both_families_on_one_port(
    addresses: tuple[str, ...], only: str | None, tmp_path: Path
) -> None:
    assert dict(listeners(tmp_path, *addresses)).get("BindIPv6Only") == only


@pytest.mark.parametrize("address", ["localhost:8000", "127.1:80", "127.0.0.1:0"])
def test_what_systemd_cannot_listen_on_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^bind: {re.escape(address)}: systemd "):
        listeners(tmp_path, address)


@pytest.mark.parametrize("text", ["ends with a backslash\\\\", " spaces ", "a\\u0007bell"])
def test_what_a_unit_cannot_say_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        service(tmp_path, f'{TOML}[unit]\ndescription = "{text}"\n')


@pytest.mark.parametrize("versions", [(251, "1.22"), (252, "1.21"), (252, "x")])
def test_too_old_is_refused(versions: tuple[int, str], tmp_path: Path) -> None:
    with pytest.raises(SockdError):
        render(configure(tmp_path), systemd_version=versions[0], nginx_version=versions[1])


def test_the_packaged_units_are_what_the_templates_say() -> None:
    for name, text in render_instances().items():
        assert (ROOT / "systemd" / name).read_text() == text, f"systemd/{name} is stale"


def test_the_packaged_units_are_the_stand_alone_ones_of_any_name(tmp_path: Path) -> None:
    rendered = units(configure(tmp_path), executable="/usr/bin/sockd")
    for kind in ("service", "socket"):
        text = render_instances()[f"sockd@.{kind}"]
        text = text.replace("sockd@%i.", "shop.").replace("%i", "shop")
        assert directives(text) == directives(rendered[f"shop.{kind}"])


def test_systemd_finds_nothing_to_say_of_an_instance(tmp_path: Path) -> None:
    files = {
        name: text.replace("/usr/bin/sockd", "/usr/bin/true")
        for name, text in render_instances().items()
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    verify(tmp_path, {name.replace("@", "@my-shop"): text for name, text in files.items()})


@pytest.mark.parametrize(
    ("executable", "expected"),
    [
        ("/usr/bin/sockd", True),
        ("/usr/local/bin/sockd", True),
        ("/srv/shop/venv/bin/sockd", False),
    ],
)
def test_a_socket_without_its_program_is_not_made(
    executable: str, expected: bool, tmp_path: Path
) -> None:
    files = units(configure(tmp_path), executable)
    line = f"ConditionFileIsExecutable={executable}\n"
    assert (line in files["shop.socket"]) == expected
    assert "ConditionFileIsExecutable" not in files["shop.service"]
