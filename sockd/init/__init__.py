"""A first configuration, of what a directory and another server's configuration say."""

from sockd.init.draft import Draft, Finding
from sockd.init.make import Request, make
from sockd.init.place import write

__all__ = ["Draft", "Finding", "Request", "make", "write"]
