"""`python -m tests.lab up | stop | deb | reproduce | torture`: what `make lab`, `make lab-stop`,
`make deb`, `make reproduce` and `make torture` call.

SUITE in the environment names the Debian release; MINUTES and FUZZ_SEED are for torture.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import sys
from pathlib import Path

from tests.lab.image import SUITES
from tests.lab.machine import Machine
from tests.lab.package import deb, rebuilt
from tests.lab.service import TORTURE, Service, push_torture
from tests.lab.site import deploy, install_sockd
from tests.lab.torture import Torture
from tests.seed import SEED

SUITE = os.environ.get("SUITE") or "trixie"
MACHINE = Machine("lab", SUITE)
PID = MACHINE.home / "pid"
CLIENTS = 34  # of each kind


def up() -> None:
    """The shop behind nginx in a booted machine, until Ctrl-C or `stop`."""
    signals = {signal.SIGINT, signal.SIGTERM}
    if _running():
        raise SystemExit("lab: it is up already; make lab-stop ends it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with MACHINE:
            PID.write_text(str(os.getpid()))
            print("lab: booted; installing sockd and the shop", flush=True)
            install_sockd(MACHINE)
            deploy(MACHINE, "shop")
            page = ["curl", "--silent", "--show-error", "--fail", "--include"]
            print(MACHINE.out(*page, "--header", "Host: shop.example", "http://localhost/"))
            print(MACHINE.out("systemctl", "status", "--no-pager", "shop.service"))
            print(f"\nlab: a shell in it:  {MACHINE.shell}")
            print("lab: it runs until Ctrl-C or make lab-stop", flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            signal.sigwait(signals)
    except KeyboardInterrupt:
        raise SystemExit("lab: interrupted") from None
    print("lab: off")


def stop() -> None:
    """End the machine that `up` booted, if there is one; return when it is off."""
    if pid := _running():
        process = os.pidfd_open(pid)
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], 60)[0]:
            raise SystemExit("lab: it does not end")


def reproduce() -> None:
    """Build twice on each suite; say what came out, and fail unless it is the same."""
    differ = 0
    for suite in SUITES:
        first, second = deb(suite).parent, rebuilt(suite)
        built = [path for path in first.iterdir() if path.suffix in (".deb", ".dsc", ".xz")]
        for path in sorted(built):
            digests = {
                hashlib.sha256((place / path.name).read_bytes()).hexdigest()
                for place in (first, second)
            }
            differ += len(digests) > 1
            print(suite, path.name, *sorted(digests), "DIFFER" if len(digests) > 1 else "same")
    if differ:
        raise SystemExit(
            f"lab: {differ} files differ; they are in build/lab/SUITE/deb and rebuilt"
        )


def torture(minutes: float) -> None:
    """The torture client's whole mix; fails when a request does."""
    with Machine("torture", SUITE) as machine:
        install_sockd(machine)
        push_torture(machine)
        machine.run(*TORTURE, "--self-test")
        print(f"torture: FUZZ_SEED={SEED}, {minutes:g} min on {SUITE}", flush=True)
        under = Torture(Service(machine, "torture", 8100), clients=CLIENTS)
        under.deploy()
        load = under.run(minutes * 60, SEED)
        print(json.dumps({"moves": under.made, **load.__dict__}, indent=1), flush=True)
        load.assert_nothing_failed()
        under.remove()


def _running() -> int:
    """The pid of the `up` that is running, or 0."""
    try:
        pid = int(PID.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (OSError, ValueError):
        return 0
    return pid if "tests.lab" in command else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("lab: booting a machine needs root; make asks sudo for it")
    match sys.argv[1:]:
        case ["up"]:
            up()
        case ["stop"]:
            stop()
        case ["deb"]:
            print(deb(SUITE))
        case ["reproduce"]:
            reproduce()
        case ["torture"]:
            torture(float(os.environ.get("MINUTES") or 1))
        case _:
            raise SystemExit(__doc__)
