"""The system's own commands, as far as units need them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

SEARCH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
)
"""PATH of a plain user may lack the directories of nginx and systemctl."""


def find(command: str) -> str | None:
    return shutil.which(command, path=SEARCH)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """stdout and stderr come as one text, in the order in which they were written."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
    )


def systemd_version() -> int | None:
    """None where there is no systemd."""
    version = _version("systemctl", "--version", r"systemd (\d+)")
    return int(version) if version else None


def nginx_version() -> str | None:
    """ "1.22.1"; None where there is no nginx."""
    return _version("nginx", "-v", r"nginx/(\d+\.\d+(?:\.\d+)?)")


def systemd_runs() -> bool:
    """sd_booted(3)"""
    return Path("/run/systemd/system").is_dir()


def _version(command: str, flag: str, pattern: str) -> str | None:
    path = find(command)
    match = re.search(pattern, run(path, flag).stdout) if path else None
    return match[1] if match else None
