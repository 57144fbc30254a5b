"""sockd's Debian package, built in the lab from this tree by the suite's own tools.

Two things are kept in build/lab/SUITE: `tools`, what installing the build dependencies changed in
the image (a layer of the build machine), and `deb`, the result. Each is made anew when what it
is made from changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.image import LAB, ROOT, image, locked
from tests.lab.machine import Machine

BUILD = "dpkg-buildpackage --unsigned-source --unsigned-changes"
LINTIAN = "lintian --allow-root --display-info --pedantic --show-overrides --tag-display-limit 0"

# Not part of the source package: changing them builds nothing anew.
APART = (".ci/", "dev/", "tests/")


def deb(suite: str) -> Path:
    """The .deb of the tree as it is: tracked and added files, changes that are not committed."""
    home = LAB / suite
    image(suite)
    with locked(home / "package"):
        tools_key = (home / "image.key").read_text()
        tools = _kept(home / "tools", tools_key, lambda place: _install_tools(suite, place))
        result = _kept(home / "deb", _digest(tools_key), lambda place: _build(suite, tools, place))
    (package,) = result.glob("sockd_*.deb")
    return package


def _kept(place: Path, key: str, make: Callable[[Path], None]) -> Path:
    stamp = place.with_name(place.name + ".key")
    if not stamp.exists() or stamp.read_text() != key:
        stamp.unlink(missing_ok=True)
        if place.exists():
            shutil.rmtree(place)
        make(place)
        stamp.write_text(key)
    return place


def _sources() -> list[str]:
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
    )
    names = sorted(set(listed.split("\0")) - {""})
    return [n for n in names if not n.startswith(APART) and (ROOT / n).is_file()]


def _digest(key: str) -> str:
    digest = hashlib.sha256(key.encode() + Path(__file__).read_bytes())
    for name in _sources():
        digest.update(f"\0{name}\0".encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


def _install_tools(suite: str, place: Path) -> None:
    print(f"lab: installing the build tools of {suite}", flush=True)
    machine = Machine("tools", suite)
    machine.boot()
    try:
        machine.push(ROOT / "packaging" / "debian", "/srv/build/debian")
        machine.sh(
            "apt-get install --yes --no-install-recommends"
            " build-essential fakeroot faketime lintian;"
            "cd /srv/build; apt-get build-dep --yes --no-install-recommends ./; rm -r /srv/build",
            timeout=600,
        )
    finally:
        machine.poweroff(keep=True)
    (machine.home / "changes").rename(place)
    shutil.rmtree(machine.home)


def _build(suite: str, tools: Path, place: Path) -> None:
    print(f"lab: building the package for {suite}", flush=True)
    with _build_machine(suite, tools, "/srv/build/sockd") as machine:
        log = machine.sh(
            f"cd /srv/build/sockd; {BUILD} 2>&1; {LINTIAN} ../*.changes > ../lintian || true",
            timeout=900,
        )
        _keep_built(machine, "/srv/build", place)
    (place / "log").write_text(log)


def rebuilt(suite: str) -> Path:
    """The directory of what a second build made: elsewhere, at another time, for another user."""
    deb(suite)
    home = LAB / suite
    place = home / "rebuilt"
    with locked(home / "package"):
        shutil.rmtree(place, ignore_errors=True)
        with _build_machine(suite, home / "tools", "/opt/else/sockd") as machine:
            machine.sh(
                "chown -R nobody: /opt/else; chmod 755 /opt/else;"
                "setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/nonexistent"
                " LC_ALL=C LANGUAGE=fr TZ=Pacific/Kiritimati faketime -f '+400d'"
                f" sh -c 'umask 027; cd /opt/else/sockd && {BUILD}' 2>&1",
                timeout=900,
            )
            _keep_built(machine, "/opt/else", place)
    return place


@contextlib.contextmanager
def _build_machine(suite: str, tools: Path, where: str) -> Iterator[Machine]:
    """With the build dependencies, and at `where` the source package's tree."""
    tree = LAB / suite / "source"
    if tree.exists():
        shutil.rmtree(tree)
    for name in _sources():
        # dpkg-source refuses a symlinked debian/.
        target = tree / name.removeprefix(
            "packaging/" if name.startswith("packaging/debian/") else ""
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    with Machine("build", suite, layers=(tools,)) as machine:
        machine.push(tree, where)
        shutil.rmtree(tree)
        yield machine


def _keep_built(machine: Machine, directory: str, place: Path) -> None:
    place.mkdir()
    for file in (machine.home / "changes" / directory.lstrip("/")).iterdir():
        if file.is_file():
            shutil.copy2(file, place)
