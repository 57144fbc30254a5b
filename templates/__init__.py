"""Jinja2 templates of the units and the nginx site; installed as the package sockd.templates."""
