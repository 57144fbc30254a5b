"""Configuration → the text of the units and the nginx site."""

from __future__ import annotations

import os
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sockd.config import Config
from sockd.errors import SockdError
from sockd.settings import Settings
from sockd.units import dropin, sections, site, tools, values
from sockd.units.escape import FILTERS

OLDEST_SYSTEMD = 252
OLDEST_NGINX = "1.22"
PACKAGED = "/usr/bin/sockd"
PACKAGED_CONFIG = Config("sockd", None, Settings(), {})


def render(
    config: Config,
    *,
    systemd_version: int | None = None,
    nginx_version: str | None = None,
    executable: str | None = None,
    instance: bool = False,
) -> dict[str, str]:
    """ "NAME.service", "NAME.socket" and "nginx/NAME.conf" → text; with `instance` what sockd@NAME
    has otherwise than the packaged units, as drop-ins: "sockd@NAME.service.d/sockd.conf".

    The versions are those that will read the files, by default this machine's; where it has none
    the oldest that sockd knows. `executable` is the sockd that the units start, by default this
    one. Raises ConfigError for what units cannot say, SockdError for versions that are too old.
    """
    if systemd_version is None:
        systemd_version = tools.systemd_version() or OLDEST_SYSTEMD
    systemd = _check_systemd(systemd_version)
    nginx = _check_nginx(nginx_version or tools.nginx_version() or OLDEST_NGINX)
    name, executable = config.name, executable or own_executable()
    site_values = site.site(values.named(config), config, nginx)
    site_text = _tidy(_render("nginx.j2", site_values))
    if instance:
        files = {
            f"sockd@{name}.{kind}.d/{dropin.FILE}": dropin.difference(
                config, kind, packaged, wanted
            )
            for (kind, packaged), wanted in zip(
                _units(values.INSTANCE, PACKAGED_CONFIG, PACKAGED, OLDEST_SYSTEMD).items(),
                _units(values.instance(config), config, executable, systemd).values(),
                strict=True,
            )
        }
    else:
        made = _units(values.named(config), config, executable, systemd)
        files = {f"{name}.{kind}": text for kind, text in made.items()}
    return {**files, f"nginx/{name}.conf": site_text}


def render_instances() -> dict[str, str]:
    """The packaged "sockd@.service" and "sockd@.socket", with the defaults."""
    made = _units(values.INSTANCE, PACKAGED_CONFIG, PACKAGED, OLDEST_SYSTEMD)
    return {f"sockd@.{kind}": text for kind, text in made.items()}


def _units(names: values.Names, config: Config, executable: str, systemd: int) -> dict[str, str]:
    service = _render("service.j2", values.service(names, config, executable, systemd))
    socket = _render("socket.j2", values.socket(names, config, executable))
    unit = config.settings.unit
    return {
        "service": sections.override(service, "Service", unit.service),
        "socket": sections.override(socket, "Socket", unit.socket),
    }


def own_executable() -> str:
    """The path of the running sockd: a venv's own, or the packaged one."""
    beside = Path(sys.argv[0]), Path(sys.executable).with_name("sockd")
    for path in beside:
        if path.name == "sockd" and path.is_file() and os.access(path, os.X_OK):
            return str(path.absolute())
    return PACKAGED


def template_text(name: str) -> str:
    try:
        return resources.files("sockd.templates").joinpath(name).read_text("utf-8")
    except ModuleNotFoundError:  # a source tree that is not installed
        return Path(__file__).parents[2].joinpath("templates", name).read_text("utf-8")


def _render(template: str, given: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template_text),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template).render(given, mark=values.MARK)


def _tidy(text: str) -> str:
    """Blocks of a configuration with one empty line between them, and none at their ends."""
    text = re.sub(r"\n(?:[ \t]*\n)+", "\n\n", text)
    return re.sub(r"\n\n([ \t]*})", r"\n\1", re.sub(r"\{\n\n", "{\n", text))


def _check_systemd(version: int) -> int:
    if version < OLDEST_SYSTEMD:
        raise SockdError(f"systemd {version} is too old: sockd needs {OLDEST_SYSTEMD} or later")
    return version


def _check_nginx(version: str) -> list[int]:
    numbers = _numbers(version)
    if numbers < _numbers(OLDEST_NGINX):
        raise SockdError(f"nginx {version} is too old: sockd needs {OLDEST_NGINX} or later")
    return numbers


def _numbers(version: str) -> list[int]:
    try:
        return [int(part) for part in version.split(".")]
    except ValueError:
        raise SockdError(f"{version!r} is no version such as {OLDEST_NGINX}") from None
