"""prctl, fork and the kernel's deadline, in processes made for it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import os, signal, sys, time\nfrom sockd import linux\n" + code],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_orphans_become_children_of_the_subreaper():
    done = run(
        "linux.set_child_subreaper()\n"
        "parent = os.getpid()\n"
        "if linux.fork_without_hooks() == 0:\n"
        "    if os.fork() == 0:\n"
        "        while os.getppid() != parent: time.sleep(0.001)\n"
        "        os._exit(7)\n"
        "    os._exit(0)\n"
        "print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))"
    )
    assert done.stdout == "[0, 7]\n", done.stderr


def test_hooks_do_not_run_in_the_bare_fork_and_once_in_the_next():
    done = run(
        "os.register_at_fork(before=lambda: os.write(1, b'b'),\n"
        "    after_in_child=lambda: os.write(1, b'c'))\n"
        "pid = linux.fork_without_hooks()\n"
        "if pid == 0:\n"
        "    inner = os.fork()\n"
        "    if inner: os.waitpid(inner, 0)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    assert done.stdout == "bc", done.stderr


def test_parent_death_signal():
    done = run(
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGUSR1, lambda *_: (os.write(1, b'told'), os._exit(0)))\n"
        "        linux.set_parent_death_signal(signal.SIGUSR1)\n"
        "        os.write(write, b'x')\n"
        "        time.sleep(30)\n"
        "    os.read(read, 1)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert done.stdout == "told", done.stderr


def test_process_name():
    done = run(
        "linux.set_process_name('sockd 12345678901234')\nprint(open('/proc/self/comm').read())"
    )
    assert done.stdout.strip() == "sockd 123456789"


STUCK = "import re\nprint('stuck', flush=True)\nre.match(r'(a*)*b', 'a' * 60)\n"


@pytest.mark.parametrize(
    "arm",
    [
        "linux.make_deadline(signal.SIGRTMAX, 30)\nlinux.set_deadline(0.3)\n",
        "linux.make_deadline(signal.SIGRTMAX, 0.3)\nos.kill(os.getpid(), signal.SIGRTMAX)\n",
        "linux.make_deadline(signal.SIGRTMAX, 30)\nlinux.set_deadline(0.3)\n"
        "os.kill(os.getpid(), signal.SIGRTMAX)\n",  # the first cause counts
    ],
)
def test_the_deadline_ends_a_process_that_holds_the_interpreter(arm):
    began = time.monotonic()
    done = run(arm + STUCK)
    assert done.returncode == -9
    assert done.stdout == "stuck\n"
    assert time.monotonic() - began > 0.3


def test_the_deadline_is_not_armed_by_making_it_and_ends_no_child():
    done = run(
        "linux.make_deadline(signal.SIGRTMAX, 0.1)\ntime.sleep(0.5)\n"
        "if os.fork() == 0:\n    time.sleep(1)\n    print('child', flush=True)\n    os._exit(0)\n"
        "linux.set_deadline(0.2)\ntime.sleep(30)\n"
    )
    assert done.returncode == -9
    assert done.stdout == "child\n"


def test_set_without_make():
    assert "make_deadline() comes first" in run("linux.set_deadline(1)").stderr
