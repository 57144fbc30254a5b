"""The seed of all random tests of a run: SOCKD_SEED, or one of its own. It heads the report."""

import os
import secrets

SEED = int(os.environ.get("SOCKD_SEED") or secrets.randbits(32))
