"""What pip installs: the sdist, and the wheel that is built from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both, built as `python -m build` does: the wheel from the sdist, of which
    nothing else is there."""
    place = tmp_path_factory.mktemp("distributions")
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
    )
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / "tree" / name)
    build = [sys.executable, "-m", "build", "--no-isolation"]
    # What the compiler makes of it is another test's: this one need not wait for -O3.
    run("env", "SOCKD_OPTIMIZE=-O0", *build, "--outdir", place, cwd=place / "tree")
    return place


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sdist_holds_what_is_compiled_and_rendered(distributions: Path) -> None:
    (sdist,) = distributions.glob("sockd-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = [*ROOT.glob("sockd/**/*.p[yx][xdi]"), *ROOT.glob("templates/*.j2")]
    tracked += ROOT.glob("packaging/man/*.in")
    tracked += ROOT.glob("systemd/*")
    assert {str(path.relative_to(ROOT)) for path in tracked} - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_wheel_holds_modules_and_templates_and_no_source_in_c(distributions: Path) -> None:
    (wheel,) = distributions.glob("sockd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    compiled = {
        str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("sockd/**/*.pyx")
    }
    assert {name.partition(".")[0] for name in names if name.endswith(".so")} == compiled
    assert {f"sockd/templates/{path.name}" for path in ROOT.glob("templates/*.j2")} <= names
    assert not [name for name in names if name.endswith((".c", ".pyx", ".o"))]


@pytest.fixture
def served_from() -> Iterator[Path]:
    """Where a service sees it: its /tmp is its own, its /root is closed."""
    with tempfile.TemporaryDirectory(dir="/srv", prefix="sockd-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_installed_wheel_generates_units_and_serves(
    distributions: Path, served_from: Path
) -> None:
    venv = served_from / "venv"
    run(sys.executable, "-m", "venv", venv)
    (wheel,) = distributions.glob("sockd-*.whl")
    run(venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    sockd = venv / "bin" / "sockd"
    elsewhere = served_from / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hello.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"
    )
    units = run(sockd, "generate-units", "hello", "hello:app", "--dir", elsewhere, cwd=elsewhere)
    assert f"ExecStart={sockd} serve" in units
    assert "[Socket]" in units
    found = run(sockd, "check", "hello:app", "--bind", "127.0.0.1:0", cwd=elsewhere)
    assert "problem" not in found
