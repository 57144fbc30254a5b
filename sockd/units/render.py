"""Configuration → the text of the units and the nginx site."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sockd.config import Config
from sockd.errors import SockdError
from sockd.settings import Settings
from sockd.units import tools, values
from sockd.units.escape import FILTERS

OLDEST_SYSTEMD = 252
OLDEST_NGINX = "1.22"
PACKAGED = "/usr/bin/sockd"


def render(
    config: Config,
    *,
    systemd_version: int | None = None,
    nginx_version: str | None = None,
    executable: str | None = None,
) -> dict[str, str]:
    """ "NAME.service", "NAME.socket" and "nginx/NAME.conf" → text.

    The versions are those that will read the files, by default this machine's; where it has none
    the oldest that sockd knows. `executable` is the sockd that the units start, by default this
    one. Raises ConfigError for what units cannot say, SockdError for versions that are too old.
    """
    _check_systemd(systemd_version or tools.systemd_version() or OLDEST_SYSTEMD)
    _check_nginx(nginx_version or tools.nginx_version() or OLDEST_NGINX)
    names = values.named(config)
    name = config.name
    service = values.service(names, config, executable or own_executable())
    return {
        f"{name}.service": _render("service.j2", service),
        f"{name}.socket": _render("socket.j2", values.socket(names, config)),
        f"nginx/{name}.conf": _render("nginx.j2", values.site(names, config)),
    }


def render_instances() -> dict[str, str]:
    """The packaged "sockd@.service" and "sockd@.socket", with the defaults."""
    config = Config("sockd", None, Settings(), {})
    names = values.INSTANCE
    return {
        "sockd@.service": _render("service.j2", values.service(names, config, PACKAGED)),
        "sockd@.socket": _render("socket.j2", values.socket(names, config)),
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


def _check_systemd(version: int) -> None:
    if version < OLDEST_SYSTEMD:
        raise SockdError(f"systemd {version} is too old: sockd needs {OLDEST_SYSTEMD} or later")


def _check_nginx(version: str) -> None:
    if _numbers(version) < _numbers(OLDEST_NGINX):
        raise SockdError(f"nginx {version} is too old: sockd needs {OLDEST_NGINX} or later")


def _numbers(version: str) -> list[int]:
    try:
        return [int(part) for part in version.split(".")]
    except ValueError:
        raise SockdError(f"{version!r} is no version such as {OLDEST_NGINX}") from None
