import sys
import tempfile
from pathlib import Path

from . import client, selftest

if sys.argv[1:] == ["--self-test"]:
    with tempfile.TemporaryDirectory() as directory:
        selftest.check(Path(directory))
else:
    client.main()
