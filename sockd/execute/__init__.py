"""A management command, run as the application runs."""

from sockd.execute.here import Command, prepare
from sockd.execute.unit import of_service, run

__all__ = ["Command", "of_service", "prepare", "run"]
