"""What all tests share: a failing test in CI says on which system it failed."""

import platform


def pytest_report_header() -> str:
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
