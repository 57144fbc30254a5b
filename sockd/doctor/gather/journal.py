"""The journal of a unit, its last day: journalctl(1)."""

from __future__ import annotations

import json
import os
import subprocess

from sockd.doctor.facts import Journal, Missing, Unit

MOST = 5000  # entries; who has more troubles has them among these
OF_SYSTEMD = (
    "fe6faa94e7774663a0da52717891d8ef",  # a process of the unit was killed for memory
    "a596d6fe7bfa4994828e72309e95d61e",  # journald suppressed messages
)
"""MESSAGE_ID of what systemd says with less than a warning, sd-messages(3)."""


def of_unit(unit: Unit | Missing) -> Journal | Missing:
    if isinstance(unit, Missing):
        return unit
    try:
        warnings = _read(f"--unit={unit.name}", "--priority=warning")
        of_systemd = _read(*(f"MESSAGE_ID={number}" for number in OF_SYSTEMD))
    except OSError:
        return Missing("journalctl cannot be executed")
    if isinstance(warnings, Missing) or isinstance(of_systemd, Missing):
        return Missing(
            "the journal is closed to this user: root and group systemd-journal read it"
        )
    kept = [
        entry
        for entry in of_systemd
        if unit.name in (entry.get("UNIT"), entry.get("_SYSTEMD_UNIT"))
        or f"from {unit.name}" in _message(entry)
    ]
    entries = {entry["__CURSOR"]: entry for entry in [*warnings, *kept]}
    ordered = sorted(entries.values(), key=lambda entry: int(str(entry["__REALTIME_TIMESTAMP"])))
    return Journal(tuple(map(_message, ordered)), len(warnings) < MOST)


def _read(*options: str) -> list[dict[str, object]] | Missing:
    done = subprocess.run(
        [
            *("journalctl", "--since=-24h", f"--lines={MOST}", "--no-pager", "--all"),
            *("--output=json", "--output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT", *options),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    closed = ("not seeing messages", "insufficient permissions", "No journal files were found")
    if done.returncode or any(words in done.stderr for words in closed):
        return Missing(done.stderr.strip())
    return [json.loads(line) for line in done.stdout.splitlines()]


def _message(entry: dict[str, object]) -> str:
    message = entry.get("MESSAGE")
    if isinstance(message, list):  # with bytes that are no text: an array of numbers
        return bytes(message).decode(errors="replace")
    return str(message or "")
