"""A Python of another X.Y for a machine: that of the other suite, with its own C library.

It lies in /opt/python and uses nothing of the machine's: its program interpreter is its own ld.so,
its DT_RPATH, which the modules that it loads inherit, its own libraries (ld.so(8)).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.lab.image import LAB, SUITES, image, locked
from tests.lab.machine import Machine
from tests.lab.package import deb

PYTHON = {"trixie": "3.13", "bookworm": "3.11"}
PLACE = "/opt/python"


def other(suite: str) -> str:
    """The suite whose Python is another than that of `suite`."""
    return next(candidate for candidate in SUITES if candidate != suite)


def install(machine: Machine) -> str:
    """The interpreter's path in the machine."""
    suite = other(machine.suite)
    machine.push(_relocated(suite), PLACE)
    return f"{PLACE}/bin/python{PYTHON[suite]}"


def sockd_of(suite: str) -> Path:
    """sockd as the package for `suite` has it: a directory that holds its modules."""
    home = LAB / suite / "unpacked"
    package = deb(suite)
    with locked(home):
        shutil.rmtree(home / "tree", ignore_errors=True)
        subprocess.run(["dpkg-deb", "--extract", package, home / "tree"], check=True)
    return home / "tree" / "usr" / "lib" / "python3" / "dist-packages" / "sockd"


def _relocated(suite: str) -> Path:
    version, root = PYTHON[suite], image(suite)
    home = LAB / suite / "python"
    with locked(home):
        tree = home / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "bin").mkdir(parents=True)
        (tree / "lib").mkdir()
        shutil.copy2(root / f"usr/bin/python{version}", tree / "bin")
        unneeded = shutil.ignore_patterns("__pycache__", "test", "idlelib", "dist-packages")
        shutil.copytree(
            root / f"usr/lib/python{version}",
            tree / f"lib/python{version}",
            symlinks=False,
            ignore=unneeded,
            ignore_dangling_symlinks=True,
        )
        script = f"ldd /usr/bin/python{version} /usr/lib/python{version}/lib-dynload/*.so"
        listed = subprocess.check_output(["chroot", root, "sh", "-c", script], text=True)
        for library in sorted(set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE))):
            shutil.copy2(root / library.lstrip("/"), tree / "lib" / Path(library).name)
        where = ["--set-interpreter", f"{PLACE}/lib/ld-linux-x86-64.so.2"]
        where += ["--force-rpath", "--set-rpath", f"{PLACE}/lib"]
        subprocess.run(["patchelf", *where, tree / f"bin/python{version}"], check=True)
    return tree
