"""What steers random tests: their seed, which heads each report, and how much they try."""

import os
import secrets

SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbits(32))

FACTOR = float(os.environ.get("FUZZ_FACTOR") or 1)
"""Times the examples of an ordinary run."""
