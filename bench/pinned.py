"""python -m bench.pinned: what upstream keep-alive costs short requests beside a slow one.

Four workers of one thread behind nginx. One client asks for /slow (500 ms) all the time, which
keeps one worker busy. Sixteen others ask for short ones (1 ms), each 20 ms after its last answer.
Printed is how long those take, with `keepalive 64` in the upstream and without, three rounds
interleaved.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import SERVER_CORE
from bench.nginx import in_front
from bench.processes import Server

SECONDS, ROUNDS, CLIENTS, PAUSE = 10.0, 3, 16, 0.02


def ask(address: str, path: str, until: float, pause: float, taken: list[float]) -> None:
    """Through one kept connection to nginx."""
    connection = http.client.HTTPConnection(address, timeout=30)
    while (began := time.monotonic()) < until:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        taken.append(time.monotonic() - began)
        time.sleep(pause)
    connection.close()


def measure(address: str) -> list[float]:
    """Seconds that the short requests took, in order of length."""
    until = time.monotonic() + SECONDS
    times: list[list[float]] = [[] for _ in range(CLIENTS + 1)]
    plans = [("/slow", 0.0), *[("/", PAUSE)] * CLIENTS]
    threads = [
        threading.Thread(target=ask, args=(address, path, until, pause, taken))
        for (path, pause), taken in zip(plans, times, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(second for taken in times[1:] for second in taken)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sockd-bench-") as name:
        run = Path(name)
        address = f"{run}/app.sock"
        sockd = Path(sys.executable).with_name("sockd")
        command = [sockd, "serve", "uneven:app", "--bind", address, "--workers", "4"]
        server = Server("sockd", command, address, SERVER_CORE, run)
        server.wait_until_up()
        fronts = {}
        for keep_alive in (False, True):
            front, sites = in_front([server], set(), keep_alive, run / f"nginx{keep_alive}")
            front.wait_until_up()
            fronts[keep_alive] = front, sites["sockd"]
        print("upstream    requests    p50      p99      longest   (milliseconds)")
        try:
            for _ in range(ROUNDS):
                for keep_alive, (_, site) in fronts.items():
                    taken = measure(site)
                    marks = [taken[int(len(taken) * part)] * 1000 for part in (0.5, 0.99)]
                    kind = "keepalive" if keep_alive else "closed"
                    print(
                        f"{kind:10} {len(taken):9} {marks[0]:9.1f} {marks[1]:8.1f} "
                        f"{taken[-1] * 1000:9.1f}",
                        flush=True,
                    )
        finally:
            for front, _ in fronts.values():
                front.stop()
            server.stop()


if __name__ == "__main__":
    main()
