"""What the doctor reads, and how it is asked where systemd may be missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from sockd.doctor import examine
from sockd.doctor.facts import Nginx
from sockd.doctor.gather import nginx as nginx_files
from sockd.units import render
from tests.test_doctor import CONFIG, WELL

NGINX = """\
# configuration file /etc/nginx/nginx.conf:
user web;  # the workers
http {
    client_max_body_size 5m;
    include /etc/nginx/sites-enabled/*;
    include conf.d/*.conf;
}
# configuration file /etc/nginx/sites-enabled/shop.conf:
upstream sockd-shop { server unix:/run/shop.sock weight=2; server 10.0.0.2:8000; keepalive 4; }
server {
    server_name shop.example "www.shop.example";
    proxy_set_header Host $host;
    proxy_read_timeout 1m 30s;
    location ~ "^/a{2}/;" { proxy_pass http://sockd-shop; client_max_body_size 1G; }
    location / {
        proxy_set_header X-Forwarded-For '$remote_addr';
        proxy_pass http://sockd-shop/;
    }
}
# configuration file /etc/nginx/conf.d/other.conf:
server { location / { if ($a ~ "}") { proxy_pass http://unix:/run/other.sock:/x; } } }
server { location / { proxy_pass http://[::1]:8000; } location /x { proxy_pass http://a.test; } }
"""


def test_nginx_is_read_as_it_reads_itself() -> None:
    tree = nginx_files.parse(NGINX)
    assert tree[0].words == ["web"]
    found = list(nginx_files.routes(tree))
    assert [(one.location, one.backends, one.upstream) for one in found] == [
        (" ~ ^/a{2}/;", ("/run/shop.sock", "10.0.0.2:8000"), "sockd-shop"),
        (" /", ("/run/shop.sock", "10.0.0.2:8000"), "sockd-shop"),
        (" /", ("/run/other.sock",), ""),
        (" /", ("[::1]:8000",), ""),
        (" /x", ("a.test:80",), ""),
    ]
    first, second = found[0].directives, found[1].directives
    assert first["client_max_body_size"] == ("1G",)
    assert second["client_max_body_size"] == ("5m",)
    assert first["proxy_set_header"] == ("host",)
    assert second["proxy_set_header"] == ("x-forwarded-for",), (
        "those of a block replace the others"
    )
    assert first["proxy_read_timeout"] == ("1m", "30s")
    assert first["keepalive"] == ("4",)
    assert found[0].names == ("shop.example", "www.shop.example")


def test_the_generated_site_is_in_agreement() -> None:
    made = render(CONFIG, systemd_version=252, nginx_version="1.22")["nginx/shop.conf"]
    dump = (
        "# configuration file /etc/nginx/nginx.conf:\nhttp { include sites-enabled/*; }\n"
        f"# configuration file /etc/nginx/sites-enabled/shop.conf:\n{made}"
    )
    routes = tuple(nginx_files.routes(nginx_files.parse(dump)))
    assert len(routes) >= 2
    facts = replace(WELL, nginx=Nginx(True, "", (), "www-data", routes))
    assert [one for one in examine(facts) if one.finding.word != "ok"] == []


def test_the_command_without_systemd(tmp_path: Path) -> None:
    """Root, or systemd, or nginx may be missing: it looks at what is there."""
    (tmp_path / "hello.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"
    )
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET"):
        environ.pop(name, None)
    sockd = [sys.executable, "-m", "sockd"]
    done = subprocess.run(
        [*sockd, "doctor", "hello-doctor"], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 69, done.stderr
    assert "no service hello-doctor" in done.stderr
    run = tmp_path / "sockd" / "hello-doctor"
    run.mkdir(parents=True)
    serve = subprocess.Popen(
        [
            *(*sockd, "serve", "hello-doctor", "hello:app", "--dir", str(tmp_path)),
            *("--bind", f"{tmp_path}/s", "--runtime-dir", str(run)),
        ],
        env=environ,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not _listens(run / "control.sock"):
            assert serve.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = subprocess.run(
            [*sockd, "doctor", "hello-doctor", "--json"],
            env=environ,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        by_check = {one["check"]: one["word"] for one in found["findings"]}
        assert by_check["unit.OOMPolicy"] == "unknown" or Path("/run/systemd/system").exists()
        assert by_check["process.left"] == "ok"
        assert by_check["version.same"] == "ok"
        assert by_check["past.reload"] == "ok"
    finally:
        serve.terminate()
        serve.wait(60)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
