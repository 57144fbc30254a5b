"""What a master leaves to the next one, as text: of this version, of another, and of none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sockd.master import inheritance
from sockd.master.events import Exited, Plan, Upkeep, Words, WorkerId
from sockd.master.inheritance import (
    Asked,
    ControlSocket,
    FleetState,
    LifelineState,
    Listening,
    OrphansState,
    ServerState,
    ServiceState,
    State,
    TotalsState,
    Unreadable,
)
from sockd.master.states import G, Generation, Hold, S, W, Worker
from sockd.settings import Settings
from sockd.worker import messages
from sockd.worker.messages import Spec


def state() -> State:
    worker = Worker(WorkerId(3, 1), 7, 1.5, W.DRAINING, 4711, deadline=9.25, cause="late")
    worker.words = Words(worker.id, "said", "…")
    generation = Generation(3, 1.0, [], True, Hold(30.0), G.LIVE, Plan(2, upkeep=Upkeep(9)))
    generation.workers[1] = worker
    generation.recycled = worker.id
    generation.server = S.RUNNING
    fleet = FleetState(
        [generation], 3, 4, last_error="no", strays=[Exited(5, 9)], resizing=[(8, 1)]
    )
    service = ServiceState(
        "shop",
        None,
        {"workers": 2},
        {},
        [Listening(3, "web", "/x", (1, 2))],
        True,
        {"channel": [16, 17]},
    )
    return State(
        fleet,
        service,
        9,
        1,
        [ServerState(3, 4700, 10, 11), ServerState(2, 4600, None, 12)],
        [LifelineState(worker.id, 7, 13, 4711)],
        OrphansState({4700: 3}, [1], {4600: 2.5}),
        TotalsState({"numbers": {"requests": 2}}, {"numbers": {"requests": 3}}, {"reloads.ok": 1}),
        ControlSocket(14, "/run/c", (1, 2), clients=[Asked(15, "é", asked=True)]),
        [1, 15],
        {"NOTIFY_SOCKET": "/run/n"},
        2.0,
        "0.1.0",
    )


def test_it_is_read_as_it_was_written() -> None:
    assert inheritance.read(inheritance.write(state())) == state()


def test_descriptors_are_all_that_it_names() -> None:
    assert sorted(state().descriptors()) == [3, *range(9, 18)]


def test_what_another_version_added_or_lacks_is_no_hindrance() -> None:
    document = inheritance.encode(state())
    document["later"] = {"x": 1}
    document["fleet"]["generations"][0]["later"] = [1]
    document["fleet"]["generations"][0]["workers"]["1"]["later"] = [1]
    document["fleet"]["generations"][0]["plan"]["upkeep"]["later"] = 5
    document["control"]["clients"][0]["later"] = None
    assert inheritance.read(json.dumps(document).encode()) == state()
    del document["fleet"]["generations"][0]["plan"]["room"]
    del document["fleet"]["generations"][0]["withdrawn"]
    del document["orphans"]["ending"]
    read = inheritance.read(json.dumps(document).encode())
    assert read.fleet == state().fleet
    assert read.orphans.ending == {}


def changed(path: str, value: Any) -> bytes:
    document = inheritance.encode(state())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = document
    for key in parents:
        place = place[key]
    place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no state of a sockd"),
        (b"[]", "is no state of a sockd"),
        (b"{}", "is no state of a sockd"),
        (b'{"version": 1}', "cannot be read"),
        (changed("version", 3), "the state of sockd 0.1.0 has version 3, and this sockd reads 1"),
        (changed("version", "1"), "has version 1"),
        (changed("board", "9"), "'9' is no int"),
        (changed("fleet.generations.0.state", "asleep"), "asleep"),
        (changed("fleet.generations.0.hold", []), "cannot be read"),
        (changed("servers.0.protocol", 7), "generation 3 speak version 7, this sockd 1: reload"),
    ],
)
def test_what_cannot_be_read_is_said(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable) as raised:
        inheritance.read(data)
    assert why in str(raised.value)


def test_settings_of_another_version() -> None:
    assert messages.settings({}) == Settings()
    assert messages.settings(
        {"later": 1, "workers": 3, "timeouts": {"drain": 4.0, "later": 1}}
    ) == (messages.settings({"workers": 3, "timeouts": {"drain": 4.0}}))


def test_a_spec_of_another_version() -> None:
    spec = Spec("shop", 3, 4711, "/srv", True, None, Settings(), [("web", "/x")])
    message = json.loads(json.dumps(spec.message()))
    assert Spec.parse(message | {"later": 1}) == spec
    with pytest.raises(ValueError, match="version 7 of sockd's messages"):
        Spec.parse(message | {"protocol": 7})
