"""A worker's engine alone, for callgrind: serves one listening socket until stdin ends.

usage: counted.py FD MODULE:NAME"""

import importlib
import socket
import sys

from sockd.board import Board
from sockd.http.loop import Loop
from sockd.settings import Settings
from sockd.worker.wsgi import WSGIHandler

fd, target = sys.argv[1:]
sys.path[0] = ""
module, _, name = target.partition(":")
app = getattr(importlib.import_module(module), name)
settings = Settings()
listener = socket.socket(fileno=int(fd))
loop = Loop(WSGIHandler(app, settings), [listener], settings, Board.create(1), 0)
loop.watch(0, loop.stop)
loop.run()
