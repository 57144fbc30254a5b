"""systemd units and the nginx site: rendered from the configuration, placed on a machine."""

from sockd.units.install import install, write
from sockd.units.render import render, render_instances

__all__ = ["install", "render", "render_instances", "write"]
