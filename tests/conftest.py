"""What all tests share: a failing test in CI says on which system and with what seed it failed."""

import ctypes
import os
import platform
import signal
from pathlib import Path

from tests.seed import SEED

# Tests change an application and load it again within a second; what Python keeps compiled is
# told apart by the second of the change and the size alone.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# A shell starts what runs in the background with SIGINT ignored, and our children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def open_to_all(directory: Path) -> None:
    """Let another user reach it: pytest's temporary directories are for their owner only."""
    for path in (directory, *directory.parents):
        if path != Path("/") and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)


def pytest_report_header() -> list[str]:
    system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
    return [system, f"FUZZ_SEED={SEED}"]


def pytest_sessionstart() -> None:
    """As root a service without systemd has its control socket below /run/sockd. The tests see
    one of their own there (mount_namespaces(7)), whatever else runs on this machine."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        new_namespace, recursive_private = 0x00020000, 0x4000 | 0x40000
        Path("/run/sockd").mkdir(exist_ok=True)
        if (
            libc.unshare(new_namespace)
            or libc.mount(b"none", b"/", None, recursive_private, None)
            or libc.mount(b"tmpfs", b"/run/sockd", b"tmpfs", 0, None)
        ):
            raise OSError(ctypes.get_errno(), "cannot give the tests a /run/sockd of their own")
