"""What all tests share."""

import os
import platform

# Tests change an application and load it again within a second; what Python keeps compiled is
# told apart by the second of the change and the size alone.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def pytest_report_header() -> str:
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
