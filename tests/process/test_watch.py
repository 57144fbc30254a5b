"""`sockd serve --reload`."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from sockd import watch

from .conftest import APP, Load, Service, alive, children, eventually


@pytest.fixture
def watched(service: Service) -> Service:
    service.watch = True
    return service


def begin(service: Service) -> None:
    service.start().ready()
    eventually(lambda: "for changes" in service.log())


def version(number: int) -> str:
    return APP.replace('VERSION = "1"', f'VERSION = "{number}"')


def watcher(service: Service) -> int:
    for pid in children(service.pid):
        if b"watch.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return 0


def test_what_is_saved_is_served(watched: Service):
    begin(watched)
    with Load(watched) as load:
        for number in (2, 3):
            watched.write(version(number))
            eventually(lambda number=number: watched.get()[1].split()[0] == str(number))
    assert not load.failures
    assert f"{watched.app}/application.py changed" in watched.log()
    pid = watcher(watched)
    assert watched.stop() == 0
    assert not alive(pid)
    assert "left running" not in watched.log()


def test_a_syntax_error_leaves_the_last_good_code(watched: Service):
    begin(watched)
    before = watched.workers()
    watched.write("def app(:")
    eventually(lambda: "SyntaxError" in watched.log())
    eventually(lambda: watched.status()["reloads"]["failed"] == 1)
    assert watched.workers() == before
    watched.write(version(2))
    eventually(lambda: watched.get()[1].split()[0] == "2")
    assert watched.stop() == 0


def test_new_files_and_files_that_go(watched: Service):
    (watched.app / "package").mkdir()
    watched.write("", "package/old.py")
    begin(watched)
    for change in (
        lambda: watched.write("A = 1\n", "package/new.py"),
        (watched.app / "package/old.py").unlink,
    ):
        done = watched.status()["reloads"]["ok"]
        change()
        eventually(lambda done=done: watched.status()["reloads"]["ok"] == done + 1)
    assert watched.stop() == 0


def test_other_files_do_not_matter(watched: Service):
    places = [watched.app / name for name in (".git", "__pycache__", "node_modules", "venv")]
    for place in places:
        place.mkdir()
    (watched.app / "venv/pyvenv.cfg").touch()
    begin(watched)
    for place in places:
        (place / "x.py").touch()
    (watched.app / "data.db").touch()
    time.sleep(2)
    assert watched.status()["reloads"]["ok"] == 0
    assert watched.stop() == 0


def test_the_configuration_counts(watched: Service):
    env_file = watched.directory / "env"
    env_file.write_text("V=1\n")
    watched.settings["app.env_file"] = str(env_file)
    watched.write(APP.replace('VERSION = "1"', 'VERSION = os.environ["V"]'))
    begin(watched)
    env_file.write_text("V=2\n")
    eventually(lambda: watched.get()[1].split()[0] == "2")
    assert watched.stop() == 0


def test_the_watcher_ends_with_its_master(watched: Service):
    watched.start().ready()
    pid = eventually(lambda: watcher(watched))
    watched.send(signal.SIGKILL)
    watched.wait()
    eventually(lambda: not alive(pid))


def test_what_one_look_sees(tmp_path: Path):
    (tmp_path / "a.py").touch()
    (tmp_path / "b.txt").touch()
    seen = watch.look(str(tmp_path), [str(tmp_path / "b.txt"), str(tmp_path / "absent")])
    assert set(seen) == {str(tmp_path / "a.py"), str(tmp_path / "b.txt")}
