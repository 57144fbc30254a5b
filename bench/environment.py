"""The peers' own environment, build/bench/venv, and the C responder.

Whatever cannot be built is named, and the run goes on without it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions

from bench import BUILD, HERE

VENV = BUILD / "venv"
PYTHON = VENV / "bin" / "python"
RESPONDER = BUILD / "responder"
SERVERS = ("gunicorn", "uwsgi", "bjoern", "granian", "fastwsgi")
FRAMEWORKS = ("flask", "django")


def build() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of what is there, and for what is not, the last words of its build."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-m", "venv", VENV], check=True)
    failed = {}
    for package in SERVERS + FRAMEWORKS:
        if package not in _versions():
            print(f"installing {package}", flush=True)
            done = subprocess.run(
                [PYTHON, "-m", "pip", "install", "--quiet", package],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                (BUILD / f"{package}.log").write_text(done.stdout)
                lines = [line for line in done.stdout.splitlines() if line.strip()]
                failed[package] = lines[-1].strip() if lines else f"exit {done.returncode}"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", RESPONDER, HERE / "responder.c"], check=True
    )
    return _versions(), failed


def _versions() -> dict[str, str]:
    path = [str(each) for each in VENV.glob("lib/python*/site-packages")]
    found = {each.name.lower(): each.version for each in distributions(path=path)}
    return {name: found[name] for name in SERVERS + FRAMEWORKS if name in found}
