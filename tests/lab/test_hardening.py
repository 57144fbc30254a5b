"""How far services are shut in, and that the Django example lives well there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.service import Service, wait_until
from tests.lab.test_units import await_nginx

BARS = {252: {"standard": 1.3, "strict": 0.4}, 257: {"standard": 1.1, "strict": 0.2}}
"""Of `systemd-analyze security`, by systemd."""

# Answers every question for an address with 192.0.2.7, RFC 1035 4.1.
NAME_SERVER = r"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(512)
    end = data.index(0, 12) + 5
    is_a = data[end - 4 : end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([192, 0, 2, 7]) if is_a else b""
    head = data[:2] + b"\x81\x80\0\1" + bytes([0, is_a]) + b"\0\0\0\0"
    server.sendto(head + data[12:end] + answer, peer)
"""


@pytest.fixture(scope="module", params=["standard", "strict"])
def hardened(request: pytest.FixtureRequest, machine: Machine, shop: Service) -> Iterator[Service]:
    """The shop once more, with state of its own; nginx listens for it at its port."""
    level = request.param
    service = Service(machine, f"shop-{level}", 8090)
    machine.write(
        f"/etc/sockd/{service.name}.toml",
        f'bind = ["/run/{service.name}.sock", "127.0.0.1:{service.port + 1}"]\n'
        'app.target = "shop.wsgi:application"\napp.directory = "/srv/shop"\n'
        'app.env = { SHOP_HOSTS = "127.0.0.1" }\n'
        f'unit.hardening = "{level}"\nnginx.listen = ["127.0.0.1:{service.port}"]\n',
    )
    machine.run("sockd", "generate-units", service.name, "--install")
    user = service.property("User")
    machine.run(
        *("systemd-run", "--quiet", "--wait", "--pipe", "--property=DynamicUser=yes"),
        *(f"--property=User={user}", f"--property=StateDirectory={service.name}"),
        *("--property=WorkingDirectory=/srv/shop", "python3", "manage.py", "migrate"),
    )
    service.systemctl("start")
    await_nginx(service)
    yield service
    machine.run("sockd", "generate-units", service.name, "--uninstall")
    machine.run("rm", "-rf", f"/etc/sockd/{service.name}.toml", f"/var/lib/private/{service.name}")


def level_of(service: Service) -> str:
    return service.name.removeprefix("shop-")


def test_exposure(hardened: Service, capsys: pytest.CaptureFixture[str]) -> None:
    machine, level = hardened.machine, level_of(hardened)
    version = int(machine.out("systemctl", "--version").split()[1])
    bar = BARS[max(known for known in BARS if known <= version)][level]
    shown = machine.out("systemd-analyze", "security", "--no-pager", f"{hardened.name}.service")
    found = re.search(r"Overall exposure level .*?: (\d+\.\d)", shown)
    assert found, shown
    with capsys.disabled():
        print(f"\nexposure of {level} on systemd {version}: {found[1]} (bar {bar})")
    assert float(found[1]) <= bar, shown


@pytest.mark.parametrize("way", ["url", "direct"], ids=["unix", "tcp"])
def test_sqlite_in_the_state_directory(hardened: Service, way: str) -> None:
    url: str = getattr(hardened, way)
    assert "Coffee" in hardened.get(url)
    state = f"/var/lib/private/{hardened.name}"
    assert hardened.machine.out("stat", "-c", "%U", f"{state}/shop.sqlite") == hardened.property(
        "User"
    )
    # Django writes a session into the database, and keeps its secret there.
    page = hardened.machine.out("curl", "-si", f"{url}admin/login/")
    assert "csrftoken=" in page
    assert hardened.machine.out("stat", "-c", "%a", f"{state}/secret") == "600"


def test_uploads(hardened: Service) -> None:
    machine = hardened.machine
    machine.sh("head -c 5000000 /dev/urandom > /root/upload")  # Django keeps it in a file in /tmp
    digest = machine.out("sha256sum", "/root/upload").split()[0]
    for url in (hardened.url, hardened.direct):
        answer = machine.out("curl", "-s", "--form", "file=@/root/upload", f"{url}picture")
        assert json.loads(answer) == {"name": "upload", "size": 5000000, "sha256": digest}


def test_programs_can_be_run(hardened: Service) -> None:
    assert hardened.get(f"{hardened.url}kernel") == "Linux"


def test_the_journal_has_the_exceptions(hardened: Service) -> None:
    hardened.get(f"{hardened.url}raise", check=False)

    def entry() -> bool:
        return "RuntimeError: raised on purpose" in hardened.journal()

    wait_until(entry, "the traceback in the journal")


def test_names_are_resolved_in_standard_and_not_in_strict(hardened: Service) -> None:
    machine = hardened.machine
    with machine.spawn("python3", "-c", NAME_SERVER, stdout=-1) as server:
        try:
            assert server.stdout.readline() == "ready\n"  # type: ignore[union-attr]
            machine.sh("cp --remove-destination /dev/stdin /etc/resolv.conf", input=RESOLVER)
            if level_of(hardened) == "standard":
                found = hardened.get(f"{hardened.url}host?name=db.example")
                assert json.loads(found) == {"addresses": ["192.0.2.7"]}
            else:
                found = hardened.get(f"{hardened.url}host?name=db.example", check=False)
                assert "error" in json.loads(found)
        finally:
            server.kill()


RESOLVER = "nameserver 127.0.0.1\noptions timeout:5\n"


def test_reload_and_status_work(hardened: Service) -> None:
    before = hardened.status()["generation"]
    hardened.systemctl("reload")
    assert hardened.status()["generation"] == before + 1
    assert "Coffee" in hardened.get()


def test_it_is_shut_in(service: Service) -> None:
    """What the unit says is so, seen from within."""
    service.configure(PRISONER, 'unit.hardening = "strict"\n')
    service.systemctl("start")
    await_nginx(service)
    found = json.loads(service.get())
    # From systemd 253 on by prctl(PR_SET_MDWE), which has an error of its own.
    assert found.pop("memory") in ("Operation not permitted", "Permission denied")
    assert found == {
        "/etc/x": "Read-only file system",
        "/root": "Permission denied",
        "/tmp/x": "",
        "internet": "Address family not supported by protocol",
        "kill 1": "Operation not permitted",
        "interfaces": ["lo"],
    }
    assert "Permission" in service.get(service.direct)


PRISONER = """
import json, mmap, os, socket

def app(environ, start_response):
    found = {}
    with open("/proc/net/dev") as devices:
        found["interfaces"] = [line.split(":")[0].strip() for line in devices.readlines()[2:]]
    def attempt(name, what):
        try:
            what()
            found[name] = ""
        except OSError as error:
            found[name] = error.strerror
    attempt("/etc/x", lambda: open("/etc/x", "w"))
    attempt("/root", lambda: os.listdir("/root"))
    attempt("/tmp/x", lambda: open("/tmp/x", "w").close())
    attempt("internet", lambda: socket.create_connection(("127.0.0.1", 80), 5))
    attempt("kill 1", lambda: os.kill(1, 0))
    attempt("memory", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found, sort_keys=True).encode()]
"""
