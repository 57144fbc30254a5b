"""systemd units and the nginx site: rendered from the configuration, placed on a machine."""

from sockd.units.compare import compare
from sockd.units.install import install, write
from sockd.units.layout import is_instance
from sockd.units.remove import uninstall
from sockd.units.render import render, render_instances

__all__ = [
    "compare",
    "install",
    "is_instance",
    "render",
    "render_instances",
    "uninstall",
    "write",
]
