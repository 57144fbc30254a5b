"""nginx in front of servers, each on a port of its own; it shares a core with the load."""

from __future__ import annotations

import os
from pathlib import Path

from bench import LOAD_CORE
from bench.processes import Server, free_port

CONFIGURATION = """\
daemon off;
{user}worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    uwsgi_temp_path {directory}/uwsgi;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
{sites}}}
"""

UPSTREAM = "    upstream {name} {{ server {upstream}; {keep} }}\n"
SITE = "    server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }}\n"
KEEP_ALIVE = 'proxy_http_version 1.1; proxy_set_header Connection "";'
# /etc/nginx/uwsgi_params
UWSGI_PARAMS = """
    uwsgi_param QUERY_STRING $query_string; uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param CONTENT_TYPE $content_type; uwsgi_param CONTENT_LENGTH $content_length;
    uwsgi_param REQUEST_URI $request_uri; uwsgi_param PATH_INFO $document_uri;
    uwsgi_param DOCUMENT_ROOT $document_root; uwsgi_param SERVER_PROTOCOL $server_protocol;
    uwsgi_param REQUEST_SCHEME $scheme; uwsgi_param HTTPS $https if_not_empty;
    uwsgi_param REMOTE_ADDR $remote_addr; uwsgi_param REMOTE_PORT $remote_port;
    uwsgi_param SERVER_PORT $server_port; uwsgi_param SERVER_NAME $server_name;
"""


def in_front(
    servers: list[Server], uwsgi: set[str], keep_alive: bool, directory: Path
) -> tuple[Server, dict[str, str]]:
    """nginx, and the address at which it serves each of the servers, by name. Those in `uwsgi`
    are spoken to in uWSGI's own protocol, which knows no keep-alive."""
    sites = ""
    addresses = {}
    for index, server in enumerate(servers):
        where = f"unix:{server.address}" if server.address.startswith("/") else server.address
        name = f"upstream{index}"
        port = free_port()
        addresses[server.name] = f"127.0.0.1:{port}"
        if server.name in uwsgi:
            location = f"{UWSGI_PARAMS} uwsgi_pass {name};"
        else:
            location = f"proxy_pass http://{name}; {KEEP_ALIVE if keep_alive else ''}"
        keep = "keepalive 64;" if keep_alive and server.name not in uwsgi else ""
        sites += UPSTREAM.format(name=name, upstream=where, keep=keep)
        sites += SITE.format(port=port, location=location)
    directory.mkdir(parents=True, exist_ok=True)
    user = "user root;\n" if os.geteuid() == 0 else ""
    path = directory / "nginx.conf"
    path.write_text(CONFIGURATION.format(user=user, directory=directory, sites=sites))
    command = ["/usr/sbin/nginx", "-c", path, "-e", directory / "error.log"]
    first = next(iter(addresses.values()))
    return Server("nginx", command, first, LOAD_CORE, directory), addresses
