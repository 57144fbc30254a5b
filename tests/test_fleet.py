"""The master's decisions, without clocks or processes."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal

import pytest

from sockd.master.boots import HANDOVER
from sockd.master.events import (
    Announce,
    CloseServer,
    CollectDump,
    Decision,
    Drain,
    Draining,
    DumpServer,
    DumpWorker,
    EndProof,
    Event,
    Exit,
    Exited,
    Figures,
    Forget,
    KillServer,
    KillWorker,
    Launch,
    Launched,
    Left,
    LifelineClosed,
    Loaded,
    LoadFailed,
    Measure,
    Measured,
    Note,
    Plan,
    Prove,
    Proved,
    Ready,
    Relaunch,
    Release,
    Reload,
    Replace,
    Reply,
    Resize,
    Serve,
    ServerClosed,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopWorker,
    Tick,
    Unshareable,
    Upgrade,
    Upkeep,
    Withdraw,
    Words,
    WorkerId,
)
from sockd.master.fleet import JUMP, Fleet
from sockd.master.inheritance import FleetState, decode, encode, give, take
from sockd.master.roster import (
    ABANDON,
    DUMP,
    GRACE,
    LIVED,
    MOST_FAILURES,
    MOST_WORKERS,
    SHORT,
    ended,
)
from sockd.master.states import (
    GENERATION,
    LONGEST_HOLD,
    SERVER,
    WORKER,
    G,
    Hold,
    S,
    W,
    Worker,
    backoff,
)
from sockd.master.upkeep import share

KILLED = signal.SIGKILL  # a wait(2) status
STATUS_3 = 3 << 8
PLAN = Plan(workers=2, boot=60.0, drain=30.0)


class World:
    """Carries out decisions as processes that behave would, unless a test steps in.

    Fork servers have the pid 1000 * generation, workers 1000 * generation + serial.
    """

    def __init__(self, plan: Plan = PLAN, slots: int = 64) -> None:
        self.fleet = Fleet(slots)
        self.plan = plan
        self.now = 100.0
        self.all: list[Decision] = []
        self.exit: Exit | None = None
        self.launch_error = ""

    def tell(self, *events: Event) -> list[Decision]:
        decisions: list[Decision] = []
        for event in events:
            decisions += self._tell(event)
        return decisions

    def _tell(self, event: Event) -> list[Decision]:
        decisions = self.fleet.handle(event, self.now)
        self.all += decisions
        for decision in list(decisions):
            if isinstance(decision, Launch):
                n = decision.generation
                answer: Event = Launched(n, 1000 * n, self.plan)
                if self.launch_error:
                    answer = LoadFailed(n, self.launch_error)
                decisions += self._tell(answer)
            elif isinstance(decision, Exit):
                self.exit = decision
        return [one for one in decisions if not isinstance(one, Note)]

    def wait(self, seconds: float) -> list[Decision]:
        """Time passes, the loop turns whenever the fleet asked for it."""
        until = self.now + seconds
        decisions = []
        while (due := self.fleet.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            decisions += self.tell(Tick())
        self.now = until
        return decisions

    def boot(self, workers: int | None = None) -> World:
        self.tell(Start())
        self.load(1, workers)
        return self

    def load(self, generation: int, workers: int | None = None) -> list[Decision]:
        decisions = self.tell(Loaded(generation))
        for serial in range(1, (workers or self.plan.workers) + 1):
            decisions += self.come_up(generation, serial)
        return decisions

    def come_up(self, generation: int, serial: int) -> list[Decision]:
        worker = WorkerId(generation, serial)
        pid = 1000 * generation + serial
        return self.tell(Spawned(worker, pid), Ready(worker, pid))

    def die(self, generation: int, serial: int = 0, status: int = KILLED) -> list[Decision]:
        return self.tell(Exited(1000 * generation + serial, status))

    def notes(self) -> str:
        return "\n".join(one.message for one in self.all if isinstance(one, Note))

    def states(self) -> dict[str, str]:
        return {str(worker.id): str(worker.state) for worker in self.fleet.workers()}


def kinds(decisions: list[Decision]) -> list[type]:
    return [type(one) for one in decisions]


class TestTables:
    def test_every_state_can_be_reached_and_every_process_ends(self):
        for table, states in ((GENERATION, G), (SERVER, S), (WORKER, W)):
            first = next(iter(states))
            assert set(table.values()) | {first} == set(states)
            ends = {states["GONE"]}
            for _ in states:
                ends |= {old for (old, _), new in table.items() if new in ends}
            assert ends == set(states)

    def test_backoff_doubles_up_to_its_limit(self):
        assert [backoff(n) for n in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]
        assert backoff(10**9) == LONGEST_HOLD


class TestFirstBoot:
    def test_ready_is_announced_with_the_first_worker_that_can_answer(self):
        world = World()
        assert world.tell(Start()) == [Launch(1)]
        assert world.fleet.state == "booting"
        assert world.tell(Loaded(1)) == [Spawn(WorkerId(1, 1), 0)]
        assert kinds(world.tell(Spawned(WorkerId(1, 1), 1001))) == [Spawn]
        decisions = world.tell(Ready(WorkerId(1, 1), 1001))
        assert decisions == [Serve(WorkerId(1, 1)), Announce("ready")]
        assert world.fleet.state == "serving"
        assert world.come_up(1, 2) == [Serve(WorkerId(1, 2))]
        assert world.fleet.deadline() is None

    def test_one_fork_is_asked_for_at_a_time(self):
        world = World(Plan(workers=5))
        world.tell(Start())
        world.tell(Loaded(1))
        assert list(world.states().values()) == ["spawning"]

    def test_a_lifeline_may_be_faster_than_the_fork_server(self):
        world = World()
        world.tell(Start(), Loaded(1), Ready(WorkerId(1, 1), 1001))
        assert world.states()["1.1"] == "ready"
        world.tell(Spawned(WorkerId(1, 1), 1001))
        assert world.states()["1.1"] == "ready"
        world.come_up(1, 2)
        assert kinds(world.die(1, 1)) == [Release, Spawn]

    def test_an_import_that_fails_ends_the_start(self):
        world = World()
        world.tell(Start())
        assert world.tell(LoadFailed(1, "no module", "Traceback")) == [KillServer(1)]
        assert world.exit is None
        assert world.die(1) == [Forget(1), Exit(1, "no module", "Traceback")]

    def test_an_interpreter_that_is_not_there_ends_the_start(self):
        world = World()
        world.launch_error = "no python"
        world.tell(Start())
        assert world.exit == Exit(1, "no python", "")

    def test_a_fork_server_that_dies_while_importing_ends_the_start(self):
        world = World()
        world.tell(Start())
        world.die(1, status=STATUS_3)
        assert world.exit
        assert world.exit.message == (
            "the fork server exited with status 3 while importing the application"
        )

    def test_a_worker_that_dies_while_booting_ends_the_start_with_its_words(self):
        world = World()
        world.tell(Start(), Loaded(1), Spawned(WorkerId(1, 1), 1001))
        world.tell(Words(WorkerId(1, 1), "MemoryError: ", "Traceback"))
        world.die(1, 1, STATUS_3)
        world.die(1, 2)
        world.die(1)
        world.tell(LifelineClosed(WorkerId(1, 2)))
        assert world.exit
        assert world.exit.code == 1
        assert "worker 1.1 exited with status 3: MemoryError" in world.exit.message
        assert world.exit.detail == "Traceback"

    def test_an_import_that_hangs_is_asked_for_its_stack_and_then_killed(self):
        world = World()
        world.tell(Start())
        assert world.wait(59) == []
        assert world.wait(1.1) == [DumpServer(1)]
        decisions = world.wait(DUMP)
        assert decisions == [CollectDump(1, "did not boot within 60 s")]
        assert world.tell(LoadFailed(1, "did not boot within 60 s", "stack")) == [KillServer(1)]
        world.die(1)
        assert world.exit == Exit(1, "did not boot within 60 s", "stack")

    def test_what_boots_while_its_stack_is_written_is_in_time(self):
        world = World()
        world.tell(Start())
        world.wait(60.1)
        world.tell(Loaded(1))
        world.come_up(1, 1)
        assert world.fleet.state == "serving"

    def test_after_failed_boots_it_waits_first_and_a_stop_ends_the_wait(self):
        world = World()
        assert world.tell(Start(hold=8)) == []
        assert world.fleet.waiting
        assert world.wait(7.9) == []
        assert world.wait(0.2) == [Launch(1)]
        world = World()
        world.tell(Start(hold=8))
        assert world.tell(Stop()) == [Announce("stopping"), Exit(0, "", "")]

    def test_a_reload_asked_for_during_the_boot_follows_it(self):
        world = World()
        world.tell(Start(), Reload("a"), Reload("b"))
        assert world.fleet.candidate
        assert world.fleet.candidate.number == 1
        decisions = world.load(1)
        assert Launch(2) in decisions
        decisions = world.load(2)
        assert not any(isinstance(one, Reply) for one in decisions)
        decisions = world.tell(Draining(WorkerId(1, 1)))
        decisions += world.wait(HANDOVER)
        assert {one.token for one in decisions if isinstance(one, Reply)} == {"a", "b"}


class TestWorkers:
    def test_one_that_lived_is_replaced_at_once(self):
        world = World().boot()
        world.wait(LIVED)
        assert kinds(world.die(1, 1)) == [Release, Spawn]
        assert "worker 1.1: died, killed by SIGKILL" in world.notes()
        assert world.fleet.respawns == 1

    def test_those_that_die_at_boot_are_retried_ever_more_slowly(self):
        world = World(Plan(workers=1)).boot()
        times = []
        serial = 1
        for _ in range(8):
            decisions = world.die(1, serial) + world.wait(LONGEST_HOLD)
            spawn = next(one for one in decisions if isinstance(one, Spawn))
            serial = spawn.worker.serial
            worker = world.fleet._find(spawn.worker)
            assert worker
            times.append(worker.born)
            world.now = worker.born
            world.tell(Spawned(spawn.worker, 1000 + serial))
        waits = [round(b - a) for a, b in itertools.pairwise(times)]
        assert waits == [1, 2, 4, 8, 16, 30, 30]

    def test_one_that_lived_resets_the_backoff(self):
        world = World(Plan(workers=1)).boot()
        for serial in range(1, 6):
            world.die(1, serial)
            world.wait(LONGEST_HOLD)
            world.tell(Spawned(WorkerId(1, serial + 1), 1000 + serial + 1))
        world.tell(Ready(WorkerId(1, 6), 1006))
        world.wait(LIVED)
        assert kinds(world.die(1, 6)) == [Release, Spawn]

    def test_one_that_the_kernel_killed_for_memory_is_named_so(self):
        world = World().boot()
        world.tell(Exited(1001, KILLED, "by the OOM killer"))
        assert "worker 1.1: died, killed by SIGKILL, by the OOM killer" in world.notes()

    def test_one_that_the_master_killed_is_not(self):
        world = World().boot(workers=1)
        world.tell(Spawned(WorkerId(1, 2), 1002))
        world.wait(62)
        world.tell(Exited(1002, KILLED, "by the OOM killer"))
        assert "OOM" not in world.notes()

    def test_many_that_die_together_failed_once(self):
        world = World(Plan(workers=8)).boot()
        world.now += 1
        for serial in range(1, 9):
            world.die(1, serial)
        assert world.fleet.generations[1].hold.failures == 1

    def test_attempts_that_overlap_are_attempts_all_the_same(self):
        """Each begins before the one before it has failed, and after the one before that."""
        hold = Hold()
        for n in range(10):
            hold.failed(n - 1.0, float(n) + 0.5)
        assert hold.failures >= 4

    def test_an_exit_that_comes_before_the_pid_is_known_is_matched(self):
        world = World().boot()
        world.wait(LIVED)
        world.die(1, 1)
        assert world.states()["1.3"] == "spawning"
        world.tell(Exited(1003, STATUS_3))
        assert world.states()["1.3"] == "spawning"
        world.tell(Spawned(WorkerId(1, 3), 1003))
        assert "1.3" not in world.states()
        assert "worker 1.3: died, exited with status 3" in world.notes()

    def test_exits_of_strangers_are_forgotten(self):
        world = World().boot()
        assert world.tell(Exited(99999, 0)) == []
        assert not world.fleet._strays

    def test_a_fork_that_fails_is_retried_with_backoff(self):
        world = World(Plan(workers=2)).boot(workers=1)
        world.tell(SpawnFailed(WorkerId(1, 2), "Resource temporarily unavailable"))
        world.tell(SpawnFailed(WorkerId(1, 3), "Resource temporarily unavailable"))
        assert world.wait(0.9) == []
        assert kinds(world.wait(0.2)) == [Spawn]

    def test_one_that_does_not_become_ready_is_killed(self):
        world = World().boot(workers=1)
        world.tell(Spawned(WorkerId(1, 2), 1002))
        decisions = world.wait(60.1)
        assert decisions == [KillWorker(WorkerId(1, 2), 1002), Spawn(WorkerId(1, 3), 2)]
        assert kinds(world.die(1, 2)) == [Release]
        assert "(did not become ready in time)" in world.notes()

    def test_a_fork_server_that_does_not_answer_is_killed_and_replaced(self):
        world = World().boot(workers=1)
        assert KillServer(1) in world.wait(60 + DUMP + GRACE + 0.1)
        assert Launch(2) in world.die(1)

    def test_one_without_lifeline_is_killed_after_a_moment(self):
        world = World().boot()
        world.tell(LifelineClosed(WorkerId(1, 1)))
        assert world.wait(SHORT - 0.1) == []
        decisions = world.wait(0.2)
        assert decisions == [KillWorker(WorkerId(1, 1), 1001), Spawn(WorkerId(1, 3), 2)]
        world.die(1, 1)
        assert "(closed its lifeline)" in world.notes()

    def test_one_that_somebody_told_to_end_is_replaced_while_it_drains(self):
        world = World().boot()
        assert kinds(world.tell(Draining(WorkerId(1, 1)))) == [Spawn]
        assert world.states()["1.1"] == "draining"

    def test_those_told_to_end_as_soon_as_they_serve_are_replaced_ever_more_slowly(self):
        world = World().boot()
        pauses = []
        for serial in (1, 3, 4):
            spawned = world.tell(Draining(WorkerId(1, serial)))
            begun = world.now
            while Spawn not in kinds(spawned):
                spawned = world.wait(0.25)
            pauses.append(world.now - begun)
            world.come_up(1, serial=3 + len(pauses) - 1)
        assert pauses == [0.0, 1.0, 2.0]

    def test_more_and_fewer(self):
        world = World().boot()
        assert kinds(world.tell(Resize(1))) == [Spawn]
        world.come_up(1, 3)
        assert world.tell(Resize(-1)) == [Drain(WorkerId(1, 3), 30.0, False, True)]
        world.tell(Resize(-1))
        assert world.tell(Resize(-1)) == []
        assert sorted(world.states().values()) == ["draining", "draining", "ready"]
        world.tell(Exited(1003, 0), Exited(1002, 0))
        assert world.fleet.respawns == 0

    def test_a_killed_one_that_hangs_in_the_kernel_is_given_up(self):
        world = World().boot(workers=1)
        world.tell(Spawned(WorkerId(1, 2), 1002))
        world.wait(60.5)
        decisions = world.wait(ABANDON)
        assert kinds(decisions) == [Release]

    def test_without_a_free_slot_nothing_is_spawned(self):
        world = World(Plan(workers=5), slots=2).boot(workers=2)
        assert len(world.states()) == 2
        assert world.fleet.deadline() is None


class TestResizing:
    def test_more_are_waited_for(self):
        world = World().boot()
        assert kinds(world.tell(Resize(2, "a"))) == [Spawn]
        assert kinds(world.come_up(1, 3)) == [Spawn, Serve]
        assert world.come_up(1, 4) == [Serve(WorkerId(1, 4)), Reply("a", True, 1, "", "")]

    def test_there_is_a_most(self):
        world = World().boot()
        world.tell(Resize(20))
        assert world.fleet.live
        assert world.fleet.live.wanted == 22
        world.tell(Resize(999))
        assert world.fleet.live.wanted == MOST_WORKERS

    def test_fewer_are_told_at_once(self):
        world = World().boot()
        assert world.tell(Resize(-5, "a")) == [
            Drain(WorkerId(1, 2), 30.0, False, True),
            Reply("a", True, 1, "", ""),
        ]

    def test_one_that_does_not_boot_is_told(self):
        world = World().boot()
        world.tell(Resize(1, "a"), Spawned(WorkerId(1, 3), 1003))
        world.tell(Words(WorkerId(1, 3), "no memory"))
        (reply,) = [one for one in world.die(1, 3, STATUS_3) if isinstance(one, Reply)]
        assert reply == Reply("a", False, 1, "worker 1.3 exited with status 3: no memory", "")
        world.tell(Resize(1, "b"))
        assert world.wait(100) is not None
        assert Reply("b", True, 1, "", "") not in world.all  # an old failure is no answer

    def test_a_stop_tells_who_waits(self):
        world = World().boot()
        world.tell(Resize(1, "a"))
        assert Reply("a", False, None, "the service is stopping", "") in world.tell(Stop())
        assert Reply("b", False, None, "the service is stopping", "") in world.tell(Resize(1, "b"))

    def test_before_anything_serves(self):
        world = World()
        world.tell(Start())
        assert world.tell(Resize(1, "a")) == [
            Reply("a", False, None, "no generation serves yet", "")
        ]

    def test_a_reload_brings_the_number_of_the_configuration(self):
        world = World().boot()
        world.tell(Resize(3, "a"), Reload("b"))
        world.load(2)
        assert world.fleet.live
        assert world.fleet.live.wanted == 2
        assert Reply("a", True, 2, "", "") in world.all


class TestWithdrawal:
    def test_all_workers_drain_and_one_more_brings_them_back(self):
        world = World().boot()
        assert world.tell(Withdraw()) == [
            Drain(WorkerId(1, 1), 30.0, False, True),
            Drain(WorkerId(1, 2), 30.0, False, True),
        ]
        world.die(1, 1, 0)
        world.die(1, 2, 0)
        assert world.tell(Withdraw()) == []
        assert world.tell(Resize(-1)) == []
        assert world.wait(1000) == []
        assert kinds(world.tell(Resize(1, "a"))) == [Spawn]
        world.come_up(1, 3)
        assert Reply("a", True, 1, "", "") in world.come_up(1, 4)

    def test_a_reload_brings_them_back(self):
        world = World().boot()
        world.tell(Withdraw(), Reload("a"))
        world.load(2)
        assert world.states() == {
            "1.1": "draining", "1.2": "draining", "2.1": "ready", "2.2": "ready"
        }  # fmt: skip

    def test_during_a_reload_the_generation_that_comes_is_drained(self):
        world = World().boot()
        world.tell(Reload("a"), Withdraw())
        world.load(2)
        world.tell(Draining(WorkerId(1, 1)), Draining(WorkerId(1, 2)))
        assert set(world.states().values()) == {"draining"}

    def test_a_reload_that_is_asked_for_after_that_has_its_way(self):
        world = World().boot()
        world.tell(Reload("a"), Withdraw(), Reload("b"))
        world.load(2)
        world.tell(Draining(WorkerId(1, 1)), Draining(WorkerId(1, 2)))
        assert world.states()["2.1"] == "ready"

    def test_a_fork_server_that_dies_meanwhile_is_missed_later(self):
        world = World().boot()
        world.tell(Withdraw())
        assert world.die(1) == []
        assert kinds(world.tell(Resize(1, "a"))) == [Launch]


class TestUpgrade:
    def test_the_other_is_tried_first_and_then_takes_over(self):
        world = World().boot()
        assert world.tell(Upgrade("a")) == [Prove()]
        assert world.fleet.state == "upgrading"
        assert world.tell(Reload("b")) == []
        assert world.tell(Proved()) == [Replace()]
        assert world.fleet.candidate is None

    def test_one_that_cannot_is_told_and_everything_goes_on(self):
        world = World().boot()
        world.tell(Upgrade("a"), Upgrade("b"), Reload("c"))
        decisions = world.tell(Proved("no such program", "Traceback"))
        assert decisions[:2] == [
            Reply(who, False, 1, "no such program", "Traceback") for who in ("a", "b")
        ]
        assert Launch(2) in decisions  # the reload that was asked for
        assert "no upgrade: no such program" in world.notes()

    def test_it_waits_for_a_reload(self):
        world = World().boot()
        assert kinds(world.tell(Reload("a"), Upgrade("b"))) == [Announce, Launch]
        world.load(2)
        handed_over = world.tell(Draining(WorkerId(1, 1)), Draining(WorkerId(1, 2)))
        assert Prove() in handed_over
        assert Reply("a", True, 2, "", "") in handed_over

    def test_it_waits_for_the_first_boot(self):
        world = World()
        assert world.tell(Start(), Upgrade("a")) == [Launch(1)]
        assert Prove() in world.load(1)

    def test_a_first_boot_that_fails_tells_who_waits(self):
        world = World()
        world.tell(Start(), Upgrade("a"), LoadFailed(1, "no module"))
        assert Reply("a", False, None, "the service failed to start", "") in world.die(1)

    def test_a_stop_ends_it(self):
        world = World().boot()
        world.tell(Upgrade("a"))
        decisions = world.tell(Stop())
        assert EndProof() in decisions
        assert Reply("a", False, None, "the service is stopping", "") in decisions
        assert world.tell(Proved()) == []
        assert world.tell(Upgrade("b")) == [Reply("b", False, None, "the service is stopping", "")]

    def test_no_generation_begins_meanwhile(self):
        """What is handed over has none."""
        world = World().boot()
        world.tell(Upgrade())
        assert world.die(1) == []  # the fork server
        assert world.wait(50) == []
        assert Launch(2) in world.tell(Proved("no"))


class TestRoom:
    """workers = "auto" where memory is limited."""

    MIB = 1 << 20

    def world(self, workers: int = 8) -> World:
        world = World(Plan(workers=workers, room=500 * self.MIB))
        world.tell(Start(), Loaded(1))
        return world

    def ready(self, world: World, generation: int, serial: int, private: int) -> list[Decision]:
        worker, pid = WorkerId(generation, serial), 1000 * generation + serial
        world.tell(Spawned(worker, pid))
        return world.tell(Ready(worker, pid, private * self.MIB, 200 * self.MIB))

    def test_the_first_worker_says_how_many_fit(self):
        world = self.world()
        assert world.tell(Spawned(WorkerId(1, 1), 1001)) == []  # no other one meanwhile
        self.ready(world, 1, 1, private=100)
        assert world.fleet.live
        assert world.fleet.live.wanted == 3
        assert 'workers = "auto": 3, as there is room for 500 MiB: 100 MiB for' in world.notes()

    def test_there_is_always_one(self):
        world = self.world()
        self.ready(world, 1, 1, private=1000)
        assert world.fleet.live
        assert world.fleet.live.wanted == 1

    @pytest.mark.parametrize("private", [10, 0])
    def test_room_enough_and_weight_unknown(self, private: int):
        world = self.world()
        self.ready(world, 1, 1, private)
        assert world.fleet.live
        assert world.fleet.live.wanted == 8

    def test_the_next_generation_will_be_as_heavy_as_this_one_has_become(self):
        world = self.world(workers=2)
        self.ready(world, 1, 1, private=10)
        self.ready(world, 1, 2, private=10)
        assert world.tell(Reload()) == [Announce("reloading"), Measure(True), Launch(2)]
        world.tell(Measured({WorkerId(1, 2): Figures(0, 250 * self.MIB)}), Loaded(2))
        self.ready(world, 2, 1, private=10)
        assert world.fleet.live
        assert (world.fleet.live.number, world.fleet.live.wanted) == (2, 1)


class TestRecycling:
    def world(self, workers: int = 3, **limits: float) -> World:
        upkeep = Upkeep(**limits)  # type: ignore[arg-type]
        return World(Plan(workers=workers, upkeep=upkeep)).boot()

    def measured(self, world: World, **figures: Figures) -> list[Decision]:
        ids = {WorkerId(1, int(name[1:])): figure for name, figure in figures.items()}
        return world.tell(Measured(ids))

    def test_without_limits_nobody_looks(self):
        assert self.world().fleet.deadline() is None

    def test_workers_are_looked_at_once_a_second_and_weighed_less_often(self):
        world = self.world(max_requests=100, max_memory=1 << 20)
        looks = [one for one in world.wait(10.05) if isinstance(one, Measure)]
        assert len(looks) == 10
        assert sum(one.memory for one in looks) == 2

    def test_the_replacement_is_ready_first(self):
        world = self.world(max_requests=100, jitter=0.0)
        assert self.measured(world, w1=Figures(99), w2=Figures(100)) == [Spawn(WorkerId(1, 4), 3)]
        assert world.states()["1.2"] == "ready"
        assert world.tell(Spawned(WorkerId(1, 4), 1004)) == []
        decisions = world.tell(Ready(WorkerId(1, 4), 1004))
        assert decisions == [Serve(WorkerId(1, 4)), Drain(WorkerId(1, 2), 30.0, False, True)]
        assert "worker 1.2: to be replaced after 100 requests (recycle.max_req" in world.notes()
        world.die(1, 2, 0)
        assert world.states() == {"1.1": "ready", "1.3": "ready", "1.4": "ready"}
        assert world.fleet.respawns == 0

    def test_one_at_a_time_the_oldest_first(self):
        world = self.world(max_requests=100, jitter=0.0)
        every = {f"w{n}": Figures(200) for n in (3, 2, 1)}
        decisions = self.measured(world, **every)
        for serial, replacement in ((1, 4), (2, 5), (3, 6)):
            spawned = [one.worker.serial for one in decisions if isinstance(one, Spawn)]
            assert spawned == [replacement]
            assert self.measured(world, **every) == []
            assert Drain(WorkerId(1, serial), 30.0, False, True) in world.come_up(1, replacement)
            assert self.measured(world, **every) == []  # it still drains
            decisions = world.die(1, serial, 0)
        assert sorted(world.states()) == ["1.4", "1.5", "1.6"]

    def test_by_memory_of_its_own(self):
        world = self.world(max_memory=100 << 20, jitter=0.0)
        assert self.measured(world, w1=Figures(5, (100 << 20) - 1)) == []
        assert self.measured(world, w1=Figures(5, None)) == []
        assert kinds(self.measured(world, w1=Figures(5, 100 << 20))) == [Spawn]
        assert "100 MiB of its own (recycle.max_memory)" in world.notes()

    def test_by_age(self):
        world = self.world(workers=2, max_age=3600.0, jitter=0.0)
        assert kinds(world.wait(3599)) == []
        assert kinds(world.wait(2)) == [Spawn]
        assert kinds(world.come_up(1, 3)) == [Serve, Drain]

    def test_jitter_keeps_those_that_began_together_apart(self):
        shares = [share(Worker(WorkerId(1, n), 0, 0.0), 0.1) for n in range(1, 101)]
        assert all(0.9 <= one <= 1.0 for one in shares)
        ordered = sorted(shares)
        assert max(b - a for a, b in itertools.pairwise(ordered)) < 0.002
        assert share(Worker(WorkerId(1, 7), 0, 0.0), 0.0) == 1.0

    def test_a_replacement_that_dies_is_tried_again_and_the_old_one_serves_on(self):
        world = self.world(max_requests=100, jitter=0.0)
        self.measured(world, w1=Figures(100))
        world.tell(Spawned(WorkerId(1, 4), 1004))
        world.die(1, 4)
        assert world.states()["1.1"] == "ready"
        world.tell(Spawned(WorkerId(1, 5), 1005))
        world.die(1, 5)
        assert Spawn not in kinds(world.wait(0.9))
        assert Spawn(WorkerId(1, 6), 3) in world.wait(0.3)
        assert Drain(WorkerId(1, 1), 30.0, False, True) in world.come_up(1, 6)

    def test_one_that_dies_first_needs_no_other(self):
        world = self.world(max_requests=100, jitter=0.0)
        self.measured(world, w1=Figures(100))
        world.tell(Spawned(WorkerId(1, 4), 1004))
        assert kinds(world.die(1, 1)) == [Release]
        assert world.tell(Ready(WorkerId(1, 4), 1004)) == [Serve(WorkerId(1, 4))]
        assert sorted(world.states()) == ["1.2", "1.3", "1.4"]

    def test_not_during_a_reload_which_replaces_all(self):
        world = self.world(max_requests=100, jitter=0.0)
        world.tell(Reload("a"))
        assert self.measured(world, w1=Figures(100)) == []

    def test_not_while_one_is_missing(self):
        world = self.world(max_requests=100, jitter=0.0)
        world.wait(0.5)
        world.die(1, 3)
        assert self.measured(world, w1=Figures(100)) == []


class TestIdleExit:
    def world(self) -> World:
        return World(Plan(workers=1, upkeep=Upkeep(idle_exit=60.0))).boot()

    def look(self, world: World, requests: int = 0, connections: int = 0) -> list[Decision]:
        """Six seconds later, which is when the fleet looks."""
        assert world.wait(6.0) == [Measure(False)]
        return world.tell(Measured({WorkerId(1, 1): Figures(requests)}, connections))

    def test_a_service_that_nobody_uses_ends(self):
        world = self.world()
        for _ in range(10):
            assert self.look(world) == []
        decisions = self.look(world)
        # One that comes meanwhile is served: its connection is not idle, but new.
        assert decisions == [
            Announce("stopping"),
            Drain(WorkerId(1, 1), 30.0, False, False),
            CloseServer(1),
        ]
        world.die(1, 1, 0)
        world.die(1, 0, 0)
        assert world.exit == Exit(0, "", "")

    def test_an_open_connection_keeps_it(self):
        world = self.world()
        for _ in range(30):
            assert self.look(world, connections=1) == []

    def test_connections_too_short_to_be_seen_keep_it(self):
        world = self.world()
        for n in range(30):
            assert self.look(world, requests=n + 1) == []

    def test_a_reload_keeps_it(self):
        world = self.world()
        for _ in range(10):
            assert self.look(world) == []
        world.tell(Reload("a"))
        assert self.look(world) == []
        assert world.fleet.state == "reloading"


class TestReload:
    def test_the_old_drains_when_all_of_the_new_are_ready(self):
        world = World().boot()
        assert world.tell(Reload("a")) == [Announce("reloading"), Launch(2)]
        assert world.fleet.state == "reloading"
        world.tell(Loaded(2))
        assert kinds(world.come_up(2, 1)) == [Spawn]
        decisions = world.come_up(2, 2)
        assert decisions == [
            Serve(WorkerId(2, 1)),
            Serve(WorkerId(2, 2)),
            Drain(WorkerId(1, 1), 30.0, False, True),
            Drain(WorkerId(1, 2), 30.0, False, True),
            CloseServer(1),
        ]

    def test_it_is_done_when_the_old_accept_no_more(self):
        world = World().boot()
        world.tell(Reload("a"))
        world.load(2)
        assert world.tell(Draining(WorkerId(1, 1))) == []
        decisions = world.tell(Draining(WorkerId(1, 2)))
        assert decisions == [Announce("ready"), Reply("a", True, 2, "", "")]
        assert world.fleet.state == "serving"
        assert world.fleet.reloads_ok == 1
        world.die(1, 1, 0)
        world.die(1, 2, 0)
        assert world.die(1, 0, 0) == [Forget(1)]

    def test_an_old_worker_that_is_busy_or_dies_does_not_hold_it_up(self):
        world = World().boot()
        world.tell(Reload("a"))
        world.load(2)
        world.die(1, 1)
        assert world.wait(HANDOVER - 0.1) == []
        assert Reply("a", True, 2, "", "") in world.wait(0.2)

    @pytest.mark.parametrize(
        "fail",
        [
            lambda world: world.tell(LoadFailed(2, "boom", "tb")),
            lambda world: world.die(2, status=STATUS_3),
            lambda world: world.tell(Loaded(2), SpawnFailed(WorkerId(2, 1), "EAGAIN")),
            lambda world: world.load(2, workers=1) + world.die(2, 1),
            lambda world: (
                world.tell(Loaded(2), Spawned(WorkerId(2, 1), 2001))
                + world.wait(60.1)
                + world.wait(DUMP)
                + world.tell(LoadFailed(2, "0 of 2 workers ready"))
            ),
            lambda world: (
                world.wait(60.1) + world.wait(DUMP) + world.tell(LoadFailed(2, "did not boot"))
            ),
        ],
        ids=["import", "exit", "fork", "worker", "worker hangs", "import hangs"],
    )
    def test_any_failure_leaves_the_old_untouched(self, fail):
        world = World().boot()
        before = world.states()
        world.tell(Reload("a"))
        decisions = fail(world)
        replies = [one for one in decisions if isinstance(one, Reply)]
        assert [(one.token, one.ok, one.generation) for one in replies] == [("a", False, 1)]
        assert replies[0].message
        # READY=1 goes out before the client has its answer.
        assert decisions.index(Announce("ready")) < decisions.index(replies[0])
        touched = [d for d in decisions if isinstance(d, (Drain, StopWorker, KillWorker))]
        assert all(one.worker.generation == 2 for one in touched)
        for serial in range(4):
            world.die(2, serial)
        world.wait(ABANDON)
        assert world.states() == before
        assert list(world.fleet.generations) == [1]
        assert world.fleet.state == "serving"
        assert world.fleet.reloads_failed == 1
        assert world.fleet.deadline() is None

    def test_an_import_that_cannot_be_shared_is_left_to_the_workers(self):
        world = World().boot()
        world.tell(Reload("a"))
        decisions = world.tell(Unshareable(2, Left(threads=("poll",))))
        assert decisions == [Relaunch(2)]
        assert "left the thread poll, so each worker imports it for itself" in world.notes()
        assert world.die(2) == []  # the first fork server, which the loop has killed
        world.tell(Launched(2, 2500, world.plan))
        world.load(2)
        assert Reply("a", True, 2, "", "") in world.wait(HANDOVER)

    def test_one_that_cannot_even_be_left_to_them_fails(self):
        world = World().boot()
        world.tell(Reload("a"), Unshareable(2, Left(threads=("poll",))))
        decisions = world.tell(LoadFailed(2, "no python"))
        assert Reply("a", False, 1, "no python", "") in decisions
        assert list(world.fleet.generations) == [1]

    def test_a_worker_that_hangs_at_boot_writes_its_stack(self):
        world = World().boot()
        world.tell(Reload("a"), Loaded(2), Spawned(WorkerId(2, 1), 2001))
        assert world.wait(60.1) == [DumpWorker(WorkerId(2, 1), 2001)]
        assert world.wait(DUMP) == [CollectDump(2, "0 of 2 workers ready in 60 s")]

    def test_bad_configuration_is_told_at_once(self):
        world = World().boot()
        world.launch_error = "shop.toml:3: unknown key"
        decisions = world.tell(Reload("a"))
        assert Reply("a", False, 1, "shop.toml:3: unknown key", "") in decisions
        assert list(world.fleet.generations) == [1]

    def test_those_asked_for_during_one_fold_into_one_more(self):
        world = World().boot()
        world.tell(Reload("a"))
        for token in "bcd":
            assert world.tell(Reload(token)) == []
        world.load(2)
        decisions = world.tell(Draining(WorkerId(1, 1)), Draining(WorkerId(1, 2)))
        assert kinds(decisions) == [Announce, Reply, Announce, Launch]
        world.load(3)
        decisions = world.tell(Draining(WorkerId(2, 1)), Draining(WorkerId(2, 2)))
        assert [one.token for one in decisions if isinstance(one, Reply)] == ["b", "c", "d"]
        assert world.fleet.reloads_ok == 2

    def test_hundred_at_once_are_two(self):
        world = World().boot()
        launches = sum(kinds(world.tell(Reload())).count(Launch) for _ in range(100))
        launches += kinds(world.load(2)).count(Launch)
        launches += kinds(world.wait(HANDOVER)).count(Launch)
        assert launches == 2

    def test_a_stop_during_one_tells_who_waits_and_takes_the_new_away(self):
        world = World().boot()
        world.tell(Reload("a"), Reload("b"))
        world.tell(Loaded(2), Spawned(WorkerId(2, 1), 2001))
        decisions = world.tell(Stop())
        answers = [(one.token, one.ok) for one in decisions if isinstance(one, Reply)]
        assert sorted(answers) == [("a", False), ("b", False)]
        assert KillServer(2) in decisions
        assert KillWorker(WorkerId(2, 1), 2001) in decisions
        assert Drain(WorkerId(1, 1), 30.0, True, False) in decisions

    def test_when_the_live_fork_server_dies_a_new_generation_replaces_its_own(self):
        world = World().boot()
        world.wait(LIVED)
        assert world.die(1) == [Launch(2)]
        assert world.fleet.state == "serving"
        world.load(2)
        world.wait(HANDOVER)
        world.tell(Exited(1001, 0), Exited(1002, 0))
        assert list(world.fleet.generations) == [2]

    def test_reloads_that_failed_do_not_delay_it(self):
        world = World().boot()
        world.launch_error = "shop.toml:3: unknown key"
        for _ in range(10):
            world.tell(Reload())
        world.launch_error = ""
        world.wait(LIVED)
        assert world.die(1) == [Launch(12)]

    def test_loading_anew_is_retried_with_backoff_and_workers_serve_meanwhile(self):
        world = World().boot()
        world.wait(LIVED)
        world.launch_error = "half-deployed"
        world.die(1)
        launches = []
        while len(launches) < 8:
            due = world.fleet.deadline()
            assert due is not None
            decisions = world.wait(due - world.now)
            launches += [world.now for one in decisions if isinstance(one, Launch)]
        gaps = [round(b - a) for a, b in itertools.pairwise(launches)]
        assert gaps == [2, 4, 8, 16, 30, 30, 30]
        assert set(world.states().values()) == {"ready"}


class TestGivingUp:
    """Where no service manager is."""

    def world(self) -> World:
        world = World(Plan(workers=1))
        world.fleet = Fleet(64, gives_up=True)
        return world.boot()

    def fail(self, world: World, serial: int) -> int:
        """One worker dies at boot; the next one's number."""
        worker = WorkerId(1, serial)
        world.tell(Words(worker, "no database", "Traceback"))
        decisions = world.die(1, serial, STATUS_3) + world.wait(LONGEST_HOLD)
        spawned = [one.worker for one in decisions if isinstance(one, Spawn)]
        if spawned:
            world.tell(Spawned(spawned[0], 1000 + spawned[0].serial))
        return spawned[0].serial if spawned else 0

    def test_after_failures_in_a_row_with_the_last_ones_words(self):
        world = self.world()
        serial = self.fail(world, 1)  # which was ready before, so that was no boot
        for _ in range(MOST_FAILURES - 1):
            serial = self.fail(world, serial)
            assert serial
        assert self.fail(world, serial) == 0
        world.die(1)
        assert world.exit
        assert world.exit.code == 70
        assert "no worker boots, after 8 attempts: worker 1.9 exited with status 3: no" in (
            world.exit.message
        )
        assert world.exit.detail == "Traceback"

    def test_not_while_one_serves(self):
        world = self.world()
        world.tell(Resize(1))
        serial = 2
        world.tell(Spawned(WorkerId(1, 2), 1002))
        for _ in range(3 * MOST_FAILURES):
            serial = self.fail(world, serial)
            assert serial

    def test_when_no_fork_server_comes_up(self):
        world = self.world()
        world.launch_error = "half-deployed"
        world.die(1)
        world.die(1, 1)
        world.wait(20 * LONGEST_HOLD)
        assert world.exit
        assert world.exit.code == 70
        assert "half-deployed" in world.exit.message


class TestStop:
    def test_graceful(self):
        world = World().boot()
        decisions = world.tell(Stop())
        assert decisions == [
            Announce("stopping"),
            Drain(WorkerId(1, 1), 30.0, True, False),
            Drain(WorkerId(1, 2), 30.0, True, False),
            CloseServer(1),
        ]
        assert world.tell(Stop()) == []
        world.die(1, 1, 0)
        world.die(1, 2, 0)
        assert world.die(1, 0, 0) == [Forget(1), Exit(0, "", "")]
        assert world.tell(Reload("late"), Stop(quick=True), Tick()) == []

    def test_what_is_busy_after_the_drain_time_is_killed(self):
        world = World().boot()
        world.tell(Stop())
        world.die(1, 1, 0)
        world.die(1, 0, 0)
        assert world.wait(30) == []
        assert world.wait(GRACE + 0.1) == [KillWorker(WorkerId(1, 2), 1002)]
        world.die(1, 2)
        assert world.exit == Exit(0, "", "")
        assert "worker 1.2: ended, killed by SIGKILL (still busy after" in world.notes()

    def test_quick(self):
        world = World().boot()
        decisions = world.tell(Stop(quick=True))
        assert StopWorker(WorkerId(1, 1)) in decisions
        assert KillWorker(WorkerId(1, 1), 1001) in world.wait(GRACE + 0.1)

    def test_quick_after_graceful(self):
        world = World().boot()
        world.tell(Stop())
        assert StopWorker(WorkerId(1, 2)) in world.tell(Stop(quick=True))
        assert kinds(world.wait(GRACE + 0.1)) == [KillWorker, KillWorker]

    def test_a_fork_server_that_does_not_end_is_killed(self):
        world = World().boot()
        world.tell(Stop())
        assert world.wait(SHORT + 0.1) == [KillServer(1)]

    def test_while_booting(self):
        world = World()
        world.tell(Start())
        assert world.tell(Stop()) == [Announce("stopping"), KillServer(1)]
        world.die(1)
        assert world.exit == Exit(0, "", "")

    def test_while_a_worker_is_being_forked(self):
        world = World().boot(workers=1)
        decisions = world.tell(Stop())
        assert StopWorker(WorkerId(1, 2)) in decisions
        world.tell(Spawned(WorkerId(1, 2), 1002))
        assert world.states()["1.2"] == "draining"
        world.tell(Exited(1001, 0), Exited(1002, 0), Exited(1000, 0))
        assert world.exit == Exit(0, "", "")

    def test_while_the_fork_server_dies_with_a_fork_under_way(self):
        world = World().boot(workers=1)
        world.tell(Stop())
        world.tell(Exited(1000, KILLED), Exited(1001, 0))
        assert world.exit is None
        world.tell(LifelineClosed(WorkerId(1, 2)))
        assert world.exit == Exit(0, "", "")


class TestTime:
    def test_nobody_is_killed_for_time_that_was_lost(self):
        world = World().boot()
        world.tell(Stop())
        world.now += 30 + GRACE + JUMP + 1  # the machine slept
        assert world.tell(Tick()) == []
        assert "nobody is killed for that" in world.notes()
        assert world.wait(JUMP - 0.1) == []
        assert KillWorker(WorkerId(1, 1), 1001) in world.wait(0.2)

    def test_a_closed_control_socket_is_death_after_a_moment(self):
        world = World().boot()
        assert world.tell(ServerClosed(1)) == []
        assert world.wait(GRACE + 0.1) == [KillServer(1)]
        assert Launch(2) in world.die(1)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with status 0"),
        (STATUS_3, "exited with status 3"),
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV | 0x80, "killed by SIGSEGV, core dumped"),
        (signal.SIGRTMIN + 3, f"killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_how_a_process_ended(status, text):
    assert ended(status) == text


class Chaos(World):
    """Processes that do anything at any time that the system allows, from a seed."""

    def __init__(self, seed: int) -> None:
        random_ = random.Random(seed)
        self.random = random_
        super().__init__(
            Plan(
                random_.randint(1, 5),
                random_.uniform(1, 60),
                random_.uniform(0, 30),
                upkeep=Upkeep(
                    random_.choice([0, 100]),
                    random_.choice([0, 100]),
                    random_.choice([0.0, 10.0, 1000.0]),
                    random_.choice([0.0, 0.5]),
                    random_.choice([0.0, 100.0]),
                ),
                room=random_.choice([0, 1000]),
            ),
            slots=random_.choice([3, 8, 64]),
        )
        self.servers: dict[int, int] = {}  # running: generation → pid
        self.closed: set[int] = set()
        self.asked: dict[WorkerId, int] = {}  # to be forked
        self.forked: dict[WorkerId, int] = {}  # pids that live
        self.unsaid: dict[WorkerId, int] = {}  # Spawned not sent
        self.slots: dict[WorkerId, int] = {}
        self.tokens: set[int] = set()
        self.answered: list[int] = []
        self.served: set[WorkerId] = set()
        self.next_pid = 10
        self.ready_told = 0
        self.replacing = False
        self.replaced = 0

    def pid(self) -> int:
        self.next_pid += 1
        return self.next_pid

    def tell(self, *events: Event) -> list[Decision]:
        decisions = super().tell(*events)
        if self.replacing:
            self.replacing = False
            if self.fleet.proving:
                decisions += self._replace()
        return decisions

    def _replace(self) -> list[Decision]:
        """As through execve(2)."""
        slots = len(self.fleet._free_slots) + len(self.slots)
        left = encode(take(self.fleet, lambda token: token))
        self.fleet = Fleet(slots)
        give(decode(FleetState, json.loads(json.dumps(left))), self.fleet, lambda token: token)
        again = encode(take(self.fleet, lambda token: token))
        assert again == left
        self.replaced += 1
        return self.tell(Reload())

    def _tell(self, event: Event) -> list[Decision]:
        decisions = self.fleet.handle(event, self.now)
        answers: list[Event] = []
        for decision in decisions:
            match decision:
                case Launch(generation):
                    if self.random.random() < 0.1:
                        answers.append(LoadFailed(generation, "configuration"))
                    else:
                        self.servers[generation] = self.pid()
                        answers.append(Launched(generation, self.servers[generation], self.plan))
                case Relaunch(generation):
                    self.servers.pop(generation, None)
                    if self.random.random() < 0.2:
                        answers.append(LoadFailed(generation, "no python"))
                    else:
                        self.servers[generation] = self.pid()
                        answers.append(Launched(generation, self.servers[generation], self.plan))
                case Drain(worker) if not self.fleet.stopping:
                    # What is recycled leaves as many behind as are wanted.
                    generation_ = self.fleet.generations[worker.generation]
                    if generation_.recycled == worker and generation_.state is G.LIVE:
                        assert len(generation_.in_state(W.READY)) >= generation_.wanted
                case Measure(memory):
                    answers.append(
                        Measured(
                            {
                                worker.id: Figures(
                                    self.random.randrange(200),
                                    self.random.randrange(200) if memory else None,
                                )
                                for worker in self.fleet.workers()
                            },
                            self.random.choice([0, 1]),
                        )
                    )
                case CollectDump(generation, message):
                    answers.append(LoadFailed(generation, message, "stack"))
                case CloseServer(generation):
                    self.closed.add(generation)
                case KillServer(generation):
                    pass
                case Spawn(worker, slot):
                    assert slot not in self.slots.values()
                    assert worker.generation not in self.closed
                    self.slots[worker] = slot
                    self.asked[worker] = slot
                case Release(worker):
                    del self.slots[worker]
                case KillWorker(worker, pid):
                    assert self.forked.get(worker, pid) == pid
                case Serve(worker):
                    assert worker not in self.served
                    self.served.add(worker)
                    assert self.fleet.live
                    assert worker.generation == self.fleet.live.number
                case Replace():
                    self.replacing = True
                case Reply(token):
                    assert token in self.tokens
                    assert token not in self.answered
                    self.answered.append(token)
                case Announce("ready"):
                    assert self.served
                case Exit():
                    self.exit = decision
        self.check()
        # Answered at once, as the contract of Launch and CollectDump has it.
        for answer in answers:
            self._tell(answer)
        return decisions

    def check(self) -> None:
        fleet = self.fleet
        live = [g for g in fleet.generations.values() if g.state is G.LIVE]
        assert len(live) <= 1
        assert live == ([fleet.live] if fleet.live else [])
        workers = list(fleet.workers())
        assert len({w.slot for w in workers}) == len(workers)
        pids = [w.pid for w in workers if w.pid is not None]
        assert len(set(pids)) == len(pids)
        assert {w.id for w in workers} == set(self.slots)
        for generation in fleet.generations.values():
            assert len(generation.in_state(W.SPAWNING)) <= 1
            if generation.state is G.LIVE:
                assert len(generation.in_state(W.BOOTING, W.READY)) <= max(
                    generation.wanted + 2, self.plan.workers + 1
                )
        for worker in workers:
            # Whatever is not simply serving ends by a deadline.
            assert worker.state is W.READY or worker.deadline is not None
        if self.exit:
            assert not workers
        if fleet.live is None and not self.exit and not workers:
            assert fleet.deadline() is not None or fleet.generations

    def step(self) -> None:
        random_ = self.random
        moves = [self._time]
        if self.servers:
            moves += [self._server_event] * 3
        if self.asked or self.forked:
            moves += [self._worker_event] * 6
        moves += [self._person] if random_.random() < 0.3 else []
        moves += [self._proof] if self.fleet.proving else []
        random_.choice(moves)()

    def _time(self) -> None:
        due = self.fleet.deadline()
        if due is not None and self.random.random() < 0.7:
            self.now = max(self.now, due)
        else:
            self.now += self.random.expovariate(1.0)
        if self.random.random() < 0.02:
            self.now += 1000
        self.tell(Tick())
        due = self.fleet.deadline()
        assert due is None or due > self.now, "the loop would spin"

    def _person(self) -> None:
        event: Event
        match self.random.randrange(15):
            case 0:
                event = Stop(self.random.random() < 0.3)
            case 1 | 2 | 3 | 4:
                token = self.pid()
                self.tokens.add(token)
                event = Resize(self.random.choice([-3, -1, 1, 2]), token)
            case 5:
                event = Exited(self.pid(), 0)
            case 6:
                event = Withdraw()
            case 7 | 8:
                token = self.pid()
                self.tokens.add(token)
                event = Upgrade(token)
            case _:
                token = self.pid()
                self.tokens.add(token)
                event = Reload(token)
        if self.exit is None:
            self.tell(event)

    def _proof(self) -> None:
        self.tell(Proved(self.random.choice(["", "", "it cannot"])))

    def _server_event(self) -> None:
        generation = self.random.choice(list(self.servers))
        match self.random.randrange(8):
            case 0:
                self.tell(Exited(self.servers.pop(generation), KILLED))
            case 1:
                self.tell(LoadFailed(generation, "boom", "tb"))
            case 2:
                self.tell(ServerClosed(generation))
            case 3:
                self.tell(Unshareable(generation, Left(threads=("poll",))))
            case _:
                known = self.fleet.generations.get(generation)
                if known and known.state is G.BOOTING:
                    self.tell(Loaded(generation))

    def _worker_event(self) -> None:
        random_ = self.random
        if self.asked and (not self.forked or random_.random() < 0.5):
            worker = random_.choice(list(self.asked))
            del self.asked[worker]
            if random_.random() < 0.1:
                self.tell(SpawnFailed(worker, "EAGAIN"))
                return
            self.forked[worker] = self.pid()
            if random_.random() < 0.8:
                self.tell(Spawned(worker, self.forked[worker]))
            else:
                self.unsaid[worker] = self.forked[worker]
            return
        worker = random_.choice(list(self.forked))
        pid = self.forked[worker]
        match random_.randrange(9):
            case 0 | 1:
                status = random_.choice([0, STATUS_3, KILLED])
                del self.forked[worker]
                self.tell(Exited(pid, status))
                self.tell(LifelineClosed(worker))
            case 2:
                self.tell(LifelineClosed(worker))
            case 3:
                self.tell(Draining(worker))
            case 4:
                self.tell(Words(worker, "last words"))
            case _:
                self.tell(Ready(worker, pid, random_.choice([0, 1, 400]), 100))
        if worker in self.unsaid:
            self.tell(Spawned(worker, self.unsaid.pop(worker)))


@pytest.mark.parametrize("block", range(20))
def test_whatever_happens_the_fleet_stays_sound_and_can_be_stopped(block):
    replaced = 0
    for seed in range(block * 50, block * 50 + 50):
        try:
            replaced += _ordeal(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert replaced, "no upgrade in all of these"


def _ordeal(seed: int) -> int:
    world = Chaos(seed)
    world.tell(Start(world.random.choice([0.0, 0.0, 5.0])))
    for _ in range(300):
        if world.exit:
            break
        world.step()
    if world.exit is None:
        world.tell(Stop(quick=world.random.random() < 0.5))
    # Nothing says another word, not even an exit: the fleet gives up in bounded time.
    started = world.now
    while world.exit is None:
        due = world.fleet.deadline()
        assert due is not None, "stopping, and nothing to wait for"
        world.now = max(world.now, due)
        world.tell(Tick())
        assert world.now - started < 2 * JUMP + 60 + GRACE + SHORT + 2 * ABANDON
    assert set(world.answered) == world.tokens
    return world.replaced


def test_statuses_are_those_of_real_processes():
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -TERM $$"], {})
    assert ended(os.waitpid(pid, 0)[1]) == "killed by SIGTERM"
