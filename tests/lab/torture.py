"""The torture client against a service under systemd: directly, and through nginx with kept
connections to the service, while the service is moved in every way that an operator, a package
manager or an accident has.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.lab.image import ROOT
from tests.lab.service import Load, Service, wait_until
from tests.torture.moves import Move, Moves

SOURCE = ROOT / "tests" / "torture"
KINDS = ("close", "keep", "post", "drip", "pipe", "idle")

# A kept connection to the service for as long as it lets us, a client's for ever; nothing is asked
# twice. What nginx has to say about the service is kept apart, to be read at the end.
SITE = """
upstream {name}-kept {{
    server unix:/run/{name}.sock;
    keepalive 32;
    keepalive_requests 1000000000;
}}
server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
    client_body_buffer_size 1m;
    error_log /var/log/nginx/{name}-kept.log error;
    access_log off;
    location / {{
        proxy_pass http://{name}-kept;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_next_upstream off;
    }}
}}
"""


@dataclass
class Torture:
    """`clients` of each kind, half of them through nginx. No connection may end."""

    service: Service
    clients: int = 4
    version: int = 0
    made: Counter[str] = field(default_factory=Counter)

    def deploy(self, boot: float = 0.5) -> None:
        """`boot`: seconds that the application takes to be imported."""
        service = self.service
        self._write()
        service.machine.push(SOURCE / "wire.py", f"/srv/{service.name}/wire.py")
        service.configure(
            self._application(),
            f'recycle.max_requests = 2000\napp.env = {{ BOOT = "{boot}" }}\n',
        )
        service.machine.write(
            f"/etc/nginx/conf.d/{service.name}-kept.conf",
            SITE.format(name=service.name, port=service.port + 2),
        )
        service.machine.run("systemctl", "reload", "nginx")
        service.systemctl("start")
        kept = f"http://127.0.0.1:{service.port + 2}/"
        wait_until(lambda: service.get(kept, check=False) == "0", "nginx with the site")

    def run(self, seconds: float, seed: int, least: int = 1, longest: float = 0.0) -> Load:
        """Move for so long, each way `least` times. `longest`: a request may wait, 0 for any."""
        service = self.service
        urls = [service.direct, f"http://127.0.0.1:{service.port + 2}/"]
        half = max(1, self.clients // 2)
        clients = [(kind, half, url) for kind in KINDS for url in urls]
        clients += [("child", 1, url) for url in urls]
        options = [f"--seed={seed}", f"--executed=/var/lib/{service.name}/executed"]
        options += [f"--longest={longest}"]
        with service.torture(clients, *options) as load:
            self.made = Moves(self.moves(), seed).make(seconds, least)
        complaints = service.machine.read(f"/var/log/nginx/{service.name}-kept.log")
        load.wrong += [f"nginx: {line}" for line in complaints.splitlines()]
        return load

    def moves(self) -> dict[str, Move]:
        return {
            "reload": self.reload,
            "upgrade": self.upgrade,
            "broken reload": self.broken_reload,
            "kill the master": self.kill,
            "more and fewer workers": self.more_and_fewer,
            "restart": self.restart,
        }

    def reload(self) -> None:
        """What is asked afterwards is answered by the new code."""
        self.version += 1
        self._write()
        self.service.systemctl("reload")
        assert self.service.get(self.service.direct) == str(self.version)

    def broken_reload(self) -> None:
        self.service.write("1/0")
        assert self.service.systemctl("reload", check=False).returncode == 1
        self._write()

    def upgrade(self) -> None:
        """To the version that it has: the master becomes another of itself."""
        master = self.service.property("MainPID")
        self.service.machine.run("sockd", "upgrade", self.service.name)
        assert self.service.property("MainPID") == master

    def restart(self) -> None:
        self.service.systemctl("restart")

    def kill(self) -> None:
        master = self.service.property("MainPID")
        self.service.machine.run("kill", "-KILL", master)
        wait_until(
            lambda: (
                self.service.property("MainPID") not in ("0", master)
                and self.service.property("ActiveState") == "active"
            ),
            "another master",
            120,
        )

    def more_and_fewer(self) -> None:
        for by in ("+1", "-1"):
            self.service.machine.run("sockd", "workers", self.service.name, by)

    def remove(self) -> None:
        name = self.service.name
        self.service.machine.sh(f"rm -f /etc/nginx/conf.d/{name}-kept.conf")
        self.service.remove()

    def _write(self) -> None:
        self.service.write(self._application())

    def _application(self) -> str:
        text = (SOURCE / "application.py").read_text()
        return text.replace('VERSION = "0"', f'VERSION = "{self.version}"')
