"""The lab's root file system: a minimal Debian and a shelf of packages that apt finds in it.

A booted machine has no network, so everything that is to be installed in it lies in /opt/packages,
a repository that its apt knows. What sockd itself depends on is only there, never installed in the
image: installing sockd resolves it. This file is the recipe; the image is made anew when it or
the package's Build-Depends change, else kept.

Sources: mmdebstrap(1), apt-ftparchive(1), sources.list(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAB = ROOT / "build" / "lab"
CONTROL = ROOT / "packaging" / "debian" / "control"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

SUITES = ("trixie", "bookworm")

INSTALLED = (
    "systemd,systemd-sysv,dbus,libnss-systemd,libpam-systemd,"
    "nginx,curl,ca-certificates,python3,procps,iproute2"
)
SHELF = (
    "python3-systemd python3-sdnotify python3-jinja2 python3-venv "
    "python3-flask python3-django build-essential fakeroot faketime lintian "
    "autopkgtest fish man-db needrestart zsh"
)

# Runs on the host with $1 the image and apt pointed at it.
HOOK = """#!/bin/sh
set -eu
(
    export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
    apt-get clean
    apt-get --yes --quiet --no-install-recommends --download-only install {shelf}
)
mkdir "$1/opt/packages"
mv "$1"/var/cache/apt/archives/*.deb "$1/opt/packages"
cd "$1/opt/packages"
apt-ftparchive packages . > Packages
rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*
echo 'deb [trusted=yes lang=none] file:/opt/packages ./' > "$1/etc/apt/sources.list"
rm -f "$1/etc/hostname"
echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/lab"
"""


def image(suite: str) -> Path:
    """The directory of the image, made first when it is absent or its recipe has changed."""
    home = LAB / suite
    with locked(home):
        key = _key(suite)
        stamp = home / "image.key"
        root = home / "image"
        if not stamp.exists() or stamp.read_text() != key:
            stamp.unlink(missing_ok=True)
            if root.exists():
                shutil.rmtree(root)
            _make(suite, root)
            stamp.write_text(key)
    return root


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """One process at a time makes what is kept in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_depends() -> list[str]:
    """The names in Build-Depends of the package."""
    match = re.search(r"^Build-Depends:(.*\n(?:[ \t].*\n)*)", CONTROL.read_text(), re.MULTILINE)
    assert match, f"{CONTROL} has no Build-Depends"
    names = [part.split()[0] for part in match[1].split(",") if part.strip()]
    # debhelper-compat is virtual and has several providers.
    return ["debhelper" if name == "debhelper-compat" else name for name in names]


def mirror() -> str:
    """The Debian mirror that this machine uses, or MIRROR of the environment."""
    if chosen := os.environ.get("MIRROR"):
        return chosen
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)"]
    lines = subprocess.check_output([*command, "Created-By: Packages"], text=True).splitlines()
    for origin, codename, uri in (line.split(maxsplit=2) for line in lines):
        if origin == "Debian" and "-" not in codename:
            return uri
    raise LookupError("apt knows no Debian mirror: name one with MIRROR=")


def _key(suite: str) -> str:
    recipe = Path(__file__).read_text() + suite + " ".join(build_depends())
    return hashlib.sha256(recipe.encode()).hexdigest()


def _make(suite: str, root: Path) -> None:
    log = root.with_name("image.log")
    print(f"lab: making {root} (progress in {log})", flush=True)
    hook = root.with_name("shelf.sh")
    hook.write_text(HOOK.format(shelf=" ".join([SHELF, *build_depends()])))
    hook.chmod(0o755)
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--keyring={KEYRING}",
        f"--include={INSTALLED}",
        f"--customize-hook={hook}",
        suite,
        str(root),
        mirror(),
    ]
    with log.open("w") as file:
        for step in (command, ["chroot", str(root), "apt-get", "update"]):
            made = subprocess.run(step, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            if made.returncode:
                raise SystemExit(f"lab: {step[0]} failed:\n{log.read_text()[-4000:]}")
