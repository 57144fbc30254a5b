"""python -m bench [--quick]: see bench/__init__.py.

The full run writes docs/bench.md and its pictures; the quick one the same below build/bench/."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import BUILD, ROOT, conditions, environment, plot, report
from bench.instructions import FROM_BROWSER, PLAIN, count
from bench.measure import Plan, Result, measure
from bench.peers import PEERS
from bench.works import WORKS

QUICK = Plan(
    seconds=0.5, rounds=3, slow_rounds=1, connections=(1, 64, 1000, 5000), requests=200_000
)
FULL = Plan(
    seconds=2,
    rounds=5,
    slow_rounds=2,
    connections=(1, 16, 64, 256, 1000, 5000),
    requests=5_000_000,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="short rounds: under five minutes")
    plan = QUICK if parser.parse_args().quick else FULL
    began = time.monotonic()
    # SIGTERM ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    versions, failed = environment.build()
    for name, why in failed.items():
        print(f"{name} could not be built: {why}")
    peers = [peer for peer in PEERS if peer.package is None or peer.package in versions]
    c, sockd = PEERS[:2]

    def say(result: Result) -> Result:
        figures = {**{n: f"{cost:.1f}" for n, cost in result.costs.items()}, **result.shown}
        listed = "; ".join(f"{name} {figure}" for name, figure in figures.items())
        word = {True: "met", False: "MISSED", None: "not judged"}[result.met]
        print(f"[{time.monotonic() - began:5.0f} s] {result.title}: {listed}")
        print(f"          bar {result.bar}: {word}", *result.notes, sep="\n          ", flush=True)
        return result

    with tempfile.TemporaryDirectory(prefix="sockd-bench-") as name:
        run = Path(name)
        frameworks = {f"{package}_json:app": package for package in environment.FRAMEWORKS}
        works = [work for work in WORKS if frameworks.get(work.app, "flask") not in failed]
        results = [
            say(measure(work, peers, plan, run / str(number))) for number, work in enumerate(works)
        ]
        curve, points = conditions.curve(c, sockd, plan, run / "curve")
        others = [
            say(conditions.beside_idle(peers, plan, run / "idle")),
            say(conditions.with_threads(peers, plan, run / "threads")),
            say(conditions.idle_memory(peers, run / "memory")),
            say(conditions.steady_memory(sockd, plan, run / "steady")),
            say(curve),
        ]
    counts = {
        "13 bytes": count(2000, PLAIN),
        "13 bytes, a browser's 12 headers": count(2000, FROM_BROWSER),
    }
    text = report.markdown(results, others, counts, plan, versions, failed)
    out = BUILD if plan is QUICK else ROOT / "docs"
    (out / "bench.md").write_text(text)
    (out / "bench.svg").write_text(plot.costs(results, [peer.name for peer in peers]))
    if points:
        (out / "bench-connections.svg").write_text(plot.connections(points))
    print(text)
    print(f"{time.monotonic() - began:.0f} s; written: {out / 'bench.md'}")
    missed = report.missed([*results, *others])
    print("every bar is met" if not missed else "bars missed: " + "; ".join(missed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
