"""What `systemctl start` says is so: sd_notify(3), READY=1."""

from __future__ import annotations

import time

from tests.lab.machine import CommandFailed
from tests.lab.service import ANSWERS_ITS_VERSION, Service, wait_until

APP = ANSWERS_ITS_VERSION.format(version="here")


def test_start_returns_when_the_application_can_answer(service: Service) -> None:
    service.configure("import time\ntime.sleep(3)\n" + APP)
    began = time.monotonic()
    service.systemctl("start")
    assert time.monotonic() - began >= 3
    assert service.property("ActiveState") == "active"
    assert "ready" in {worker["state"] for worker in service.status()["workers"]}
    assert service.get() == "here"


def test_failing_import_fails_the_start(service: Service) -> None:
    service.configure("raise RuntimeError('no database in sight')\n" + APP)
    started = service.systemctl("start", check=False)
    service.systemctl("stop")
    assert started.returncode != 0
    journal = service.journal()
    assert f'File "/srv/{service.name}/site_app.py", line 1' in journal
    assert "RuntimeError: no database in sight" in journal


def test_knocking_at_a_broken_service_makes_no_start_storm(service: Service) -> None:
    service.configure("raise RuntimeError('no database in sight')\n" + APP)
    service.systemctl("start", "socket")
    with service.machine.spawn("curl", "--silent", "--max-time", "120", service.direct) as client:
        time.sleep(12)
        starts = service.starts()
        assert service.property("ActiveState", "socket") == "active"
        client.kill()
    # Two at once, then sockd itself waits, each time twice as long.
    assert 2 <= starts <= 8, service.journal()

    service.write(APP)
    wait_until(lambda: _answer(service) == "here", "the repaired application", 60)


def _answer(service: Service) -> str:
    try:
        return service.get(service.direct)
    except CommandFailed:
        return ""
