"""nginx: whether a site leads to the service, and agrees with it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from sockd.doctor.facts import (
    Facts,
    Finding,
    Nginx,
    Place,
    Route,
    have,
    is_gone,
    note,
    problem,
)
from sockd.units.escape import size, span

BODY = 1 << 20  # nginx's client_max_body_size where none is said
READ = 60.0  # s; its proxy_read_timeout
IDLE = 60.0  # s; keepalive_timeout of an upstream
FORWARDED = ("x-forwarded-for", "x-forwarded-proto")

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TIMES = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def works(facts: Facts) -> Iterator[Finding]:
    nginx = have(facts.nginx)
    if nginx.refusal:
        yield problem(
            f"nginx refuses its configuration: {nginx.refusal}",
            "it goes by the old one, and does not come up after a restart",
            "nginx -t",
        )
    if not nginx.active:
        yield problem(
            "nginx does not run", "nobody passes requests on", "systemctl enable --now nginx"
        )
    for warning in nginx.warnings:
        if "conflicting server name" in warning:
            yield problem(
                f"nginx ignores a site: {warning}",
                "of two with the same name and address one gets all requests",
                "set nginx.server_name, or disable the other: rm /etc/nginx/sites-enabled/default",
            )


def site(facts: Facts) -> Iterator[Finding]:
    nginx = have(facts.nginx)
    if nginx.refusal or _routes(facts, nginx):
        return
    own = [route for route in nginx.routes if route.upstream == f"sockd-{facts.name}"]
    addresses = " ".join(facts.addresses())
    again = f"sockd generate-units --install {facts.name}"
    if own:
        yield problem(
            f"the site in {own[0].file} passes requests to {' '.join(own[0].backends)}, "
            f"and {facts.name} listens on {addresses}",
            "nginx answers 502, or asks somebody else",
            again,
        )
    elif all(address.startswith("/") for address in facts.addresses()):
        yield problem(
            f"no site of nginx passes requests to {addresses}",
            "nobody but nginx speaks to a Unix socket",
            again,
        )
    else:
        yield note(f"no site of nginx passes requests to {addresses}", "", again)


def permission(facts: Facts) -> Iterator[Finding]:
    """Whether nginx's user may connect."""
    nginx = have(facts.nginx)
    for address in facts.addresses():
        place = facts.places.get(address)
        if isinstance(place, Place) and place.nginx is False:
            yield problem(
                f"{nginx.user} may not connect to {address} "
                f"(mode {place.mode & 0o777:04o}, group {place.gid})",
                "nginx answers every request with 502",
                f"unit.socket_group with {nginx.user} in it and unit.socket_mode 0660; "
                f"sockd generate-units --install {facts.name}, then "
                f"systemctl restart {facts.name}.socket",
            )


def body_size(facts: Facts) -> Iterator[Finding]:
    limit = have(facts.config).settings.limits.body
    for route in _routes(facts, have(facts.nginx)):
        found = _size(_first(route, "client_max_body_size"), BODY)
        if 0 < found < limit:
            yield problem(
                f"client_max_body_size is {size(found)} for {_called(route)}, "
                f"limits.body {size(limit)}",
                "nginx refuses uploads (413) that the configuration allows",
                _mend(facts, route, f"client_max_body_size {size(limit)};"),
            )
        elif not 0 < found <= limit:
            yield note(
                f"client_max_body_size is {size(found) if found else 'off'} for "
                f"{_called(route)}, limits.body {size(limit)}",
                "nginx takes in whole what sockd then refuses",
                _mend(facts, route, f"client_max_body_size {size(limit)};"),
            )


def timeouts(facts: Facts) -> Iterator[Finding]:
    settings = have(facts.config).settings
    for route in _routes(facts, have(facts.nginx)):
        found = _time(_first(route, "proxy_read_timeout"), READ)
        if found < settings.timeouts.boot:
            yield problem(
                f"proxy_read_timeout is {span(found)} for {_called(route)}, "
                f"timeouts.boot {span(settings.timeouts.boot)}",
                "requests that wait for a boot get 504",
                _mend(facts, route, f"proxy_read_timeout {span(settings.timeouts.boot + READ)};"),
            )
        kept = _first(route, "keepalive")
        idle = _time(_first(route, "keepalive_timeout"), IDLE)
        if kept and idle >= settings.timeouts.keepalive:
            yield problem(
                f"nginx keeps connections {span(idle)}, timeouts.keepalive is "
                f"{span(settings.timeouts.keepalive)}",
                "one that is closed just as nginx uses it is a 502",
                f"timeouts.keepalive above that, then systemctl reload {facts.name}",
            )


def headers(facts: Facts) -> Iterator[Finding]:
    for route in _routes(facts, have(facts.nginx)):
        sent = route.directives.get("proxy_set_header", ())
        missing = [name for name in ("host", *FORWARDED) if name not in sent]
        if missing:
            lines = {
                "host": "Host $host",
                "x-forwarded-for": "X-Forwarded-For $remote_addr",
                "x-forwarded-proto": "X-Forwarded-Proto $scheme",
            }
            yield problem(
                f"nginx does not set {', '.join(missing)} for {_called(route)}",
                "the application takes its own name, its clients' addresses or the scheme for "
                "something else, and believes what clients claim",
                _mend(facts, route, " ".join(f"proxy_set_header {lines[m]};" for m in missing)),
            )


def files(facts: Facts) -> Iterator[Finding]:
    """Static files and media, which nginx reads."""
    nginx = have(facts.nginx)
    config = have(facts.config)
    for key in ("static", "media"):
        for path in getattr(config.settings.nginx, key).values():
            place = facts.places.get(path)
            if place is None:
                continue
            if is_gone(place):
                yield problem(
                    f"nginx.{key}: no directory {path}",
                    "nginx answers 404 there",
                    f"sockd exec --here {facts.name} -- python3 manage.py collectstatic"
                    if key == "static"
                    else f"sockd check {facts.name} says how it is made",
                )
            elif isinstance(place, Place) and place.nginx is False:
                yield problem(
                    f"nginx.{key}: {nginx.user} may not read {path} "
                    f"(mode {place.mode & 0o777:04o})",
                    "nginx answers 403 there",
                    f"chmod a+rX {path}, and the directories above it"
                    if key == "static"
                    else f"sockd check {facts.name} says how it is made",
                )
    if config.settings.nginx.media and not config.settings.unit.user:
        yield problem(
            "nginx.media, and the service has a dynamic user",
            "what it writes lies below /var/lib/private, which is closed to nginx",
            f'adduser --system --group {facts.name}, unit.user = "{facts.name}", then '
            f"sockd generate-units --install {facts.name}",
        )


def _routes(facts: Facts, nginx: Nginx) -> list[Route]:
    """Those that lead to the service."""
    own = facts.addresses()
    return [
        route
        for route in nginx.routes
        if any(_same(backend, address) for backend in route.backends for address in own)
    ]


def _same(backend: str, address: str) -> bool:
    if backend.startswith("/") or address.startswith("/"):
        return backend == address
    host, _, port = backend.rpartition(":")
    other, _, number = address.rpartition(":")
    if port != number:
        return False
    return host.strip("[]") == other.strip("[]") or (_local(host) and _anywhere(other))


def _local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _anywhere(host: str) -> bool:
    return host.strip("[]") in ("", "0.0.0.0", "::") or _local(host)


def _called(route: Route) -> str:
    return f"{' '.join(route.names) or 'a server without name'}{route.location}"


def _mend(facts: Facts, route: Route, line: str) -> str:
    if route.upstream == f"sockd-{facts.name}":
        return f"sockd generate-units --install {facts.name}"
    return f"in {route.file}: {line} then systemctl reload nginx"


def _first(route: Route, name: str) -> str:
    return next(iter(route.directives.get(name, ())), "")


def _size(text: str, default: int) -> int:
    match = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    return int(match[1]) * _SIZES[match[2]] if match else default


def _time(text: str, default: float) -> float:
    """Seconds of nginx's `1m 30s` or `90`."""
    parts = re.findall(r"(\d+)(ms|[smhdwy]?)", text)
    return sum(int(number) * _TIMES[unit] for number, unit in parts) if parts else default
