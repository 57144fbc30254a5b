"""The client that counts: runs inside a machine, with the standard library only.

    python3 load.py URL [--clients N] [--keep-alive] [--seconds S]

Each client asks again and again, by http.client, and never retries: whatever is not a whole 200
is a failure, a connection that the server closed under a request included. It ends at the end of
its standard input, or after S seconds, and prints one JSON object:

    requests, failed    counts
    failures            the first twenty, as text
    longest             seconds from asking to the whole answer, or to the failure
    answers             {text of the answer: how often}, the first hundred bytes of it
    last                the answer of the request that was asked last
    elapsed             seconds
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import select
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT = 60.0  # longer than any wait that a test allows: a hang is counted as what it is


@dataclass
class Tally:
    """What one client saw."""

    failures: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    last: tuple[float, str] = (0.0, "")


def client(url: str, keep_alive: bool, done: threading.Event, tally: Tally) -> None:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {} if keep_alive else {"Connection": "close"}
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    while not done.is_set():
        asked = time.monotonic()
        try:
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            text = response.read()[:100].decode("utf-8", "replace").strip()
            if response.status != 200:
                raise http.client.HTTPException(f"{response.status} {text}")
        except (OSError, http.client.HTTPException) as error:
            tally.failures.append(f"{time.strftime('%T')} {error!r}")
            connection.close()
            time.sleep(0.01)
        else:
            tally.answers[text] += 1
            tally.last = max(tally.last, (asked, text))
            if not keep_alive:
                connection.close()
        tally.longest = max(tally.longest, time.monotonic() - asked)
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()

    done = threading.Event()
    tallies = [Tally() for _ in range(options.clients)]
    threads = [
        threading.Thread(target=client, args=(options.url, options.keep_alive, done, tally))
        for tally in tallies
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    wait_for_the_end(options.seconds)
    done.set()
    for thread in threads:
        thread.join()

    failures = [failure for tally in tallies for failure in tally.failures]
    answers = sum((tally.answers for tally in tallies), Counter())
    report = {
        "requests": answers.total() + len(failures),
        "failed": len(failures),
        "failures": sorted(failures)[:20],
        "longest": round(max(tally.longest for tally in tallies), 3),
        "answers": dict(answers),
        "last": max(tally.last for tally in tallies)[1],
        "elapsed": round(time.monotonic() - began, 3),
    }
    print(json.dumps(report))


def wait_for_the_end(seconds: float | None) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return
        if select.select([sys.stdin], [], [], left)[0] and not os.read(0, 4096):
            return


if __name__ == "__main__":
    main()
