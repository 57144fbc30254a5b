"""What `generate-units` says reaches systemd and nginx, in both forms, and can be taken back."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.service import Service, wait_until

ECHO = """
import json, os, socket

def app(environ, start_response):
    path = environ["PATH_INFO"]
    answer = {"scheme": environ["wsgi.url_scheme"], "client": environ.get("REMOTE_ADDR")}
    if path == "/secrets":
        with open(os.environ["CREDENTIALS_DIRECTORY"] + "/key") as file:
            answer["credential"] = file.read()
        answer["variable"] = os.environ.get("SHOP_PASSWORD")
    if path == "/upload":
        body = environ["wsgi.input"].read()
        os.makedirs(os.environ["MEDIA"] + "/2026", exist_ok=True)
        with open(os.environ["MEDIA"] + "/2026/picture.txt", "wb") as file:
            file.write(body)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""

EVERYTHING = """
unit.description = "50% of a shop"
unit.hardening = "strict"
unit.watchdog = "20s"
unit.restart_delay = "250ms"
unit.service = { MemoryDenyWriteExecute = "no", CPUWeight = "50" }
unit.socket = { KeepAlive = "yes" }
timeouts.boot = "20s"
timeouts.drain = "5s"
limits.connections = 5000
limits.backlog = 100
"""


def await_nginx(service: Service) -> None:
    """Until nginx has the site: systemd's reload of it returns when it is told, nginx(8)."""
    curl = ("curl", "-s", "--max-time", "30", service.url)

    def answers() -> bool:
        return service.machine.run(*curl, check=False).returncode == 0

    wait_until(answers, f"nginx to serve {service.name}")


PROPERTIES = {
    "service": {
        "Description": "50% of a shop",
        "PrivateNetwork": "yes",
        "RestrictAddressFamilies": "AF_UNIX",
        "MemoryDenyWriteExecute": "no",
        "CPUWeight": "50",
        "WatchdogUSec": "20s",
        "RestartUSec": "250ms",
        "TimeoutStartUSec": "1min 5s",
        "TimeoutStopUSec": "20s",
        "TimeoutAbortUSec": "20s",
        "LimitNOFILE": "80000",
        "OOMPolicy": "continue",
        "LogRateLimitIntervalUSec": "30s",
        "LogRateLimitBurst": "100000",
        "StartLimitIntervalUSec": "0",
        "KillMode": "process",
        "DynamicUser": "yes",
        "Type": "notify",
    },
    "socket": {
        "Backlog": "100",
        "KeepAlive": "yes",
        "SocketMode": "0660",
        "SocketGroup": "www-data",
        "TriggerLimitIntervalUSec": "0",
        "RemoveOnStop": "yes",
        "FileDescriptorName": "http",
    },
}

OWN = re.compile(
    r"(Id|Names|.*Timestamp.*|.*PID|.*Pid|InvocationID|.*CGroup.*|ControlGroup.*|.*Cgroup.*|"
    r"FragmentPath|DropInPaths|Exec\w+|SourcePath|Slice|Requires|RequiredBy|Triggers|TriggeredBy|"
    r"After|Before|WantedBy|UnitFile\w+|.*NSec|CPUUsage.*|.*Current|.*Peak|Tasks.*|Memory\w+|IO.*|"
    r"ReadOnlyPaths|NRestarts|Conflicts|RequiresMountsFor|WantsMountsFor|Wants|EffectiveCPUs|.*Hash|"
    r"Effective.*|NConnections|NAccepted|Result|ActiveState|SubState|Job|Asserts|Perpetual|StatusText)"
)
"""Properties of `systemctl show` that two services cannot have in common, or that change."""


def shown(machine: Machine, unit: str, name: str) -> dict[str, str]:
    """The properties of a unit, less what belongs to its name and its life."""
    found = {}
    for line in machine.out("systemctl", "show", unit).splitlines():
        key, _, value = line.partition("=")
        if not OWN.fullmatch(key):
            found[key] = value.replace(f"sockd@{name}", "NAME").replace(name, "NAME")
    return found


@pytest.fixture
def instance(service: Service) -> Iterator[Service]:
    """The same as `service`, as sockd@NAME, whose name is its own with an `i` before it."""
    other = Service(service.machine, f"sockd@i{service.name}", service.port + 500)
    yield other
    other.machine.sh(
        f"sockd generate-units i{service.name} --uninstall; systemctl daemon-reload;"
        f"systemctl disable --now {other.name}.socket {other.name}.service;"
        f"rm -rf /etc/sockd/i{service.name}.toml /var/lib/private/i{service.name}"
    )


def configure_instance(service: Service, instance: Service, tables: str, *words: str) -> str:
    name = f"i{service.name}"
    instance.machine.write(
        f"/etc/sockd/{name}.toml",
        f'app.target = "site_app:app"\napp.directory = "/srv/{service.name}"\nworkers = 2\n'
        f'nginx.listen = ["127.0.0.1:{instance.port}"]\n{tables}',
    )
    instance.machine.run("sockd", "generate-units", name, "--install", *words)
    return name


def test_the_configuration_reaches_systemd(service: Service, instance: Service) -> None:
    """In both forms, and in every property that systemd has."""
    machine = service.machine
    bind = [f"/run/{service.name}.sock", f"127.0.0.1:{service.port + 1}", f"[::1]:{service.port}"]
    service.configure(ECHO, EVERYTHING)
    toml = f"/etc/sockd/{service.name}.toml"
    machine.write(toml, machine.read(toml).replace(machine.read(toml).splitlines()[0], f"{bind=}"))
    machine.run("sockd", "generate-units", service.name, "--install")
    service.systemctl("start")
    there = [address.replace(service.name, f"i{service.name}") for address in bind[:1]]
    there += [f"127.0.0.1:{instance.port + 1}", f"[::1]:{instance.port}"]
    name = configure_instance(service, instance, f"bind = {there}\n{EVERYTHING}", "--instance")
    machine.run("systemctl", "enable", "--now", f"sockd@{name}.socket")

    for here in (service, instance):
        port = here.port
        await_nginx(here)
        for url in (here.url, here.direct, f"http://[::1]:{port}/"):
            assert json.loads(here.get(url))["scheme"] == "http"
        for kind, properties in PROPERTIES.items():
            for key, value in properties.items():
                assert here.property(key, kind) == value, key
        listening = machine.out("ss", "--listening", "--no-header", "--numeric", "--tcp")
        for address in (f"127.0.0.1:{port + 1}", f"[::1]:{port}"):
            (queue,) = re.findall(rf"^LISTEN +\d+ +(\d+) +{re.escape(address)} ", listening, re.M)
            assert queue == "100"
    for path in (bind[0], there[0]):
        assert machine.out("stat", "-c", "%U:%G %a %F", path) == "root:www-data 660 socket"
    for kind in ("service", "socket"):
        alone = shown(machine, f"{service.name}.{kind}", service.name)
        packaged = shown(machine, f"sockd@{name}.{kind}", name)
        assert len(alone) > 100
        ports = str.maketrans("0123456789", "##########")
        alone, packaged = (
            {key: value.translate(ports) for key, value in found.items()}
            for found in (alone, packaged)
        )
        assert packaged == alone


def test_a_plain_instance_needs_no_generated_unit(service: Service, instance: Service) -> None:
    service.write(ECHO)
    machine, name = service.machine, f"i{service.name}"
    machine.write(
        f"/etc/sockd/{name}.toml",
        f'app.target = "site_app:app"\napp.directory = "/srv/{service.name}"\n'
        f'nginx.listen = ["127.0.0.1:{instance.port}"]\n',
    )
    machine.run("systemctl", "enable", "--now", f"sockd@{name}.socket")
    curl = ("curl", "-s", "--fail", "--unix-socket", f"/run/sockd-{name}.sock", "http://a/")
    assert json.loads(machine.out(*curl))["scheme"] == "http"
    # Enabled as an instance, so it is one for generate-units too; a drop-in of ours stays.
    override = f"/etc/systemd/system/sockd@{name}.service.d/override.conf"
    machine.write(override, "[Service]\nNice=3\n")
    machine.run("sockd", "generate-units", name, "--install")
    assert machine.run("sockd", "generate-units", name, "--check").stdout == ""
    assert machine.run("test", "-e", f"/etc/systemd/system/{name}.service", check=False).returncode
    machine.run("systemctl", "restart", f"sockd@{name}.service")
    await_nginx(instance)
    assert instance.property("Nice") == "3"
    assert json.loads(instance.get())["client"] == "127.0.0.1"
    machine.run("sockd", "reload", name)


FORMS = [
    "",
    'unit.hardening = "strict"\n',
    'unit.hardening = "off"\nunit.user = "www-data"\n',
    'unit.credentials = { a = "/etc/hostname" }\nunit.env_files = ["-/etc/none"]\n',
]


@pytest.mark.parametrize("form", FORMS)
def test_systemd_finds_nothing_to_say(form: str, service: Service) -> None:
    service.configure(ECHO, form)
    units = [f"/etc/systemd/system/{service.name}.{kind}" for kind in ("service", "socket")]
    done = service.machine.run("systemd-analyze", "verify", *units)
    assert (done.stdout, done.stderr) == ("", "")


def test_hardening_off_still_serves(service: Service) -> None:
    service.configure(ECHO, 'unit.hardening = "off"\nunit.user = "www-data"\n')
    service.systemctl("start")
    await_nginx(service)
    assert json.loads(service.get())["client"] == "127.0.0.1"
    assert service.property("ProtectSystem") == "no"


def test_secrets_reach_the_application_and_not_the_unit(service: Service) -> None:
    machine, name = service.machine, service.name
    machine.write(f"/etc/{name}.key", "in a credential", 0o600)
    machine.write(f"/etc/{name}.env", "SHOP_PASSWORD='in the environment'\n", 0o600)
    service.configure(
        ECHO,
        f'unit.credentials = {{ key = "/etc/{name}.key" }}\n'
        f'unit.env_files = ["/etc/{name}.env"]\n',
    )
    service.systemctl("start")
    await_nginx(service)
    found = json.loads(service.get(f"{service.url}secrets"))
    assert found["credential"] == "in a credential"
    assert found["variable"] == "in the environment"
    units = machine.sh(f"cat /etc/systemd/system/{name}.*")
    assert "in a credential" not in units
    assert "in the environment" not in units
    service.systemctl("reload")
    assert "in a credential" in service.get(f"{service.url}secrets")
    machine.run("rm", f"/etc/{name}.key", f"/etc/{name}.env")


def test_media_are_written_by_the_service_and_served_by_nginx(service: Service) -> None:
    machine = service.machine
    machine.sh("id shop-media || useradd --system --user-group --no-create-home shop-media")
    media = f"/srv/{service.name}-media"
    machine.write(f"/srv/{service.name}/site_app.py", ECHO)
    tables = (
        f'app.env = {{ MEDIA = "{media}" }}\nnginx.media = {{ "/media/" = "{media}" }}\n'
        'unit.user = "shop-media"\nunit.hardening = "strict"\n'
    )
    service.configure(ECHO, tables)
    check = machine.run("sockd", "check", service.name, check=False)
    assert check.returncode == 1
    (command,) = re.findall(r"install -d .*", check.stdout)
    machine.sh(command)
    assert machine.run("sockd", "check", service.name).returncode == 0
    service.systemctl("start")
    await_nginx(service)
    machine.out("curl", "-s", "--fail", "--data", "a picture", f"{service.url}upload")
    url = f"{service.url}media/2026/picture.txt"
    headers = machine.out("curl", "-s", "--fail", "--include", url)
    assert headers.endswith("a picture")
    assert "X-Content-Type-Options: nosniff" in headers
    stat = machine.out("stat", "-c", "%U:%G %a", f"{media}/2026/picture.txt")
    assert stat == "shop-media:www-data 640"
    machine.sh(f"rm -r {media}")


SITE = """
nginx.certificate = "/etc/ssl/{name}.pem"
nginx.certificate_key = "/etc/ssl/{name}.key"
nginx.tls_listen = ["127.0.0.1:{port}", "[::1]:{port}"]
nginx.hsts = "30d"
nginx.acme = "/var/www/html"
nginx.static = {{ "/static/" = "/srv/{name}" }}
nginx.media = {{ "/media/" = "/srv/{name}-media" }}
nginx.unbuffered = ["/events/"]
nginx.servers = ["local weight=2", "192.0.2.1:80 backup"]
nginx.access_log = "/var/log/nginx/{name}.log"
"""


def test_the_whole_site(service: Service) -> None:
    """TLS and HTTP/2 to the application, and nginx warns of nothing."""
    machine, name, port = service.machine, service.name, service.port + 900
    machine.sh(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=shop"
        f" -keyout /etc/ssl/{name}.key -out /etc/ssl/{name}.pem 2>&1"
    )
    service.configure(ECHO, SITE.format(name=name, port=port))
    test = machine.run("nginx", "-t").stderr
    assert "warn" not in test, test
    assert "test is successful" in test
    service.systemctl("start", "socket")
    await_nginx(service)
    curl = ("curl", "-s", "--insecure", "--max-time", "30", "--location")
    url = f"https://127.0.0.1:{port}/"
    version = machine.out(*curl, "--output", "/dev/null", "--write-out", "%{http_version}", url)
    assert version == "2"
    # Plain HTTP leads there, and the application knows what the client speaks.
    found = machine.out(*curl, service.url)
    assert json.loads(found) == {"scheme": "https", "client": "127.0.0.1"}
    assert "strict-transport-security: max-age=2592000" in machine.out(*curl, "--head", url)
    log = machine.read(f"/var/log/nginx/{name}.log").splitlines()
    assert [json.loads(line)["status"] for line in log[-4:]] == [200, 308, 200, 200]


def test_status_and_metrics_are_closed_to_the_outside(service: Service) -> None:
    """From an address that this machine has, but that is not loopback's."""
    machine, port = service.machine, service.port
    machine.sh("ip address add 192.0.2.9/32 dev lo")
    try:
        service.write(ECHO)
        machine.write(
            f"/etc/sockd/{service.name}.toml",
            f'app.target = "site_app:app"\napp.directory = "/srv/{service.name}"\n'
            f'nginx.listen = ["{port}"]\n',
        )
        machine.run("sockd", "generate-units", service.name, "--install")
        service.systemctl("start", "socket")
        await_nginx(service)
        codes = {}
        for host, path in itertools.product(
            ("192.0.2.9", "127.0.0.1"), ("status", "metrics", "metrics/x", "other")
        ):
            url = f"http://{host}:{port}/{path}"
            codes[host, path] = machine.out(
                *("curl", "-s", "--output", "/dev/null", "--write-out", "%{http_code}", url)
            )
        closed = {key for key, code in codes.items() if code == "403"}
        assert closed == {("192.0.2.9", path) for path in ("status", "metrics", "metrics/x")}
        assert {code for key, code in codes.items() if key not in closed} == {"200"}
    finally:
        machine.sh("ip address del 192.0.2.9/32 dev lo")


def test_a_page_while_the_service_is_away(service: Service) -> None:
    service.configure("import time\ntime.sleep(2)\n" + ECHO)
    await_nginx(service)
    page = ("curl", "-s", "--max-time", "30", "--include", service.url)
    shown = service.machine.out(*page)
    assert shown.startswith("HTTP/1.1 503")
    assert "Retry-After: 5" in shown
    assert "This page tries again by itself." in shown
    service.systemctl("start", "socket")
    assert json.loads(service.get())["scheme"] == "http"  # waits while it boots


def test_a_reload_that_nginx_does_not_do_is_told(service: Service) -> None:
    """`nginx -t` tries no address, and its reload returns before it has been tried."""
    machine, toml = service.machine, f"/etc/sockd/{service.name}.toml"
    service.configure(ECHO)
    service.systemctl("start", "socket")
    await_nginx(service)
    before = machine.read(toml)
    machine.write(toml, before.replace(f'"127.0.0.1:{service.port}"', f'"{service.port}"'))
    install = ("sockd", "generate-units", service.name, "--install")
    done = machine.run(*install, check=False)
    assert done.returncode == 1
    assert "nginx was told to reload, and still works as before" in done.stderr
    machine.write(toml, before)
    assert "sockd: nginx: reloaded\n" in machine.run(*install).stderr
    assert json.loads(service.get())["scheme"] == "http"


def test_what_was_installed_is_known_and_taken_back(service: Service) -> None:
    machine, name = service.machine, service.name
    before = machine.sh("find /etc/systemd /etc/nginx | sort")
    service.configure(ECHO)
    assert machine.run("sockd", "generate-units", name, "--check").stdout == ""
    machine.run("systemctl", "enable", "--now", f"{name}.socket")
    await_nginx(service)
    assert json.loads(service.get())["scheme"] == "http"
    machine.sh(f"echo Nice=5 >> /etc/systemd/system/{name}.socket")
    check = machine.run("sockd", "generate-units", name, "--check", check=False)
    assert check.returncode == 1
    assert "\n-Nice=5\n" in check.stdout
    done = machine.run("sockd", "generate-units", name, "--uninstall")
    assert f"/etc/systemd/system/{name}.service: removed" in done.stderr
    assert f"/var/lib/{name}: left" in done.stderr
    assert machine.sh("find /etc/systemd /etc/nginx | sort") == before
    assert name not in machine.out("systemctl", "list-units", "--all", "--plain", "--no-legend")
    refused = ("curl", "-s", "--max-time", "30", service.url)

    def closed() -> bool:
        return machine.run(*refused, check=False).returncode == 7

    wait_until(closed, "nginx to close the port")  # its reload is asynchronous, nginx(8)
