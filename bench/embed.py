"""Serve with a server that is a library, not a command: embed.py SERVER MODULE:NAME ADDRESS"""

import importlib
import sys

sys.path[0] = ""  # the applications are in the working directory
server, target, address = sys.argv[1:]
module, _, name = target.partition(":")
app = getattr(importlib.import_module(module), name)
host, _, port = address.rpartition(":")
if server == "fastwsgi":
    import fastwsgi

    fastwsgi.run(app, host, int(port), loglevel=0)
else:
    import bjoern

    if address.startswith("/"):
        bjoern.run(app, f"unix:{address}")
    else:
        bjoern.run(app, host, int(port))
