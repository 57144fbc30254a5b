"""`run_master.py JSON`: `sockd serve` with these settings, and what tests look at:
the back-off's bound, a fleet that misses its deadlines, and which modules the master had imported
when it ended."""

import json
import sys
from pathlib import Path

from sockd import config, journal
from sockd.errors import SockdError
from sockd.master import fleet, loop, upgrade

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])

    def load() -> config.Config:
        path = Path(asked["config"]) if asked["config"] else None
        return config.load(path=path, overrides=asked["settings"])

    if sys.argv[2:]:
        flag, fd = sys.argv[2:]
        assert flag == upgrade.FLAG
        print(upgrade.prove(int(fd), load))
        sys.exit()
    if asked["deaf"]:
        fleet.Fleet._tick = lambda self, event, now: None
    try:
        code = loop.serve(
            load,
            longest_hold=asked["longest_hold"],
            watch=asked["watch"],
        )
    except SockdError as error:
        journal.log(journal.ERR, f"{error}\n{error.detail}".rstrip())
        code = error.exit_code
    Path(asked["modules"]).write_text("\n".join(sorted(sys.modules)))
    sys.exit(code)
