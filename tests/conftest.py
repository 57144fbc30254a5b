"""What all tests share: a failing test in CI says on which system and with what seed it failed."""

import platform

from tests.seed import SEED


def pytest_report_header() -> list[str]:
    system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
    return [system, f"SOCKD_SEED={SEED}"]
