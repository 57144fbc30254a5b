"""What rules and dashboard ask for is what a service of the lab shows."""

from __future__ import annotations

import re
import subprocess

from tests.lab.image import ROOT
from tests.lab.service import ANSWERS_ITS_VERSION, Service
from tests.test_monitoring import used

PACKAGED = "/usr/share/doc/sockd/examples/monitoring"


def test_a_scrape_has_all_names(service: Service) -> None:
    service.configure(ANSWERS_ITS_VERSION.format(version="here"))
    service.systemctl("start")
    assert service.get() == "here"
    control = f"/run/sockd/{service.name}/control.sock"
    curl = ("curl", "--silent", "--fail", "--unix-socket", control, "http://localhost/metrics")
    scrape = service.machine.run(*curl).stdout
    promtool = subprocess.check_output([ROOT / "dev" / "promtool"], text=True).strip()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=scrape, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    samples = set(re.findall(r"(?m)^(\w+)\{", scrape))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}
    assert used() <= shown, used() - shown
    for name in ("sockd.rules.yml", "sockd-dashboard.json"):
        packaged = service.machine.read(f"{PACKAGED}/{name}")
        assert packaged == (ROOT / "examples" / "monitoring" / name).read_text()
