"""sockd: a systemd-native application server for Python."""

__version__ = "0.1.0"
