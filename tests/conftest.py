"""What all tests share: a failing test in CI says on which system and with what seed it failed."""

import os
import platform

from tests.seed import SEED

# Tests change an application and load it again within a second; what Python keeps compiled is
# told apart by the second of the change and the size alone.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_report_header() -> list[str]:
    system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
    return [system, f"FUZZ_SEED={SEED}"]
