"""`make bench`: what a request costs sockd, a bare C responder and other servers, side by side.

apps/, responder.c   what is served
embed.py             serves with the servers that are libraries
environment.py       the peers' own environment, and what could not be built in it
peers.py             how each server is started
processes.py         a server and its processes: start, CPU time, memory, end
nginx.py             nginx in front
load.py, load.lua    wrk
works.py             the table: each work and sockd's bar
measure.py           interleaved rounds; the works that are measured in their own way
pinned.py            upstream keep-alive beside slow requests: python -m bench.pinned
instructions.py      instructions per request, counted by callgrind
report.py, plot.py   the Markdown and the pictures
"""

from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
SERVER_CORE, LOAD_CORE = 0, 1


class Failure(Exception):
    """A server that does not start, or a load that did not go as it should."""
