"""The rules of the upgrade in place: events in, decisions out, as `fleet` has it.

It waits until no generation boots, and none begins to while the other sockd is tried: what
is handed over then is what was proved to be readable. Reloads that are asked for meanwhile are the
other's first one.
"""

from __future__ import annotations

from sockd.journal import ERR, NOTICE
from sockd.master.events import EndProof, Prove, Proved, Replace, Reply, Upgrade
from sockd.master.upkeep import UpkeepRules


class RenewalRules(UpkeepRules):
    """What becomes of the master itself."""

    def _upgrade(self, event: Upgrade, now: float) -> None:
        tokens = [] if event.token is None else [event.token]
        if self.stopping or self._failure:
            for token in tokens:
                self._do(Reply(token, False, None, "the service is stopping", ""))
        else:
            self.upgrades = (self.upgrades or []) + tokens

    def _settle_upgrade(self) -> None:
        busy = self.stopping or self.candidate or self.handover or self.proving
        if self.upgrades is not None and not busy and self.live is not None:
            self.proving = True
            self._do(Prove())

    def _proved(self, event: Proved, now: float) -> None:
        if not self.proving:
            return
        if not event.message:
            self._do(Replace())
            return
        live = self.live.number if self.live else None
        self._say(ERR, f"no upgrade: {event.message}", None, event.detail)
        for token in self._end_upgrade():
            self._do(Reply(token, False, live, event.message, event.detail))

    def _abandon_upgrade(self) -> list[object]:
        """The service ends instead; who waited for it."""
        if self.proving:
            self._say(NOTICE, "no upgrade: the service is stopping")
            self._do(EndProof())
        return self._end_upgrade()

    def _end_upgrade(self) -> list[object]:
        tokens, self.upgrades, self.proving = self.upgrades or [], None, False
        return tokens
