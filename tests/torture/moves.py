"""What is done to a service while clients ask, chosen by a seed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Move = Callable[[], object]


@dataclass
class Moves:
    """Moves by name. One is made after the other, with `pause` seconds between on the average."""

    known: dict[str, Move]
    seed: int
    pause: float = 0.2

    def order(self) -> Iterator[str]:
        """Without end. Each is there once in as many as there are, so none waits for its luck."""
        random_ = random.Random(self.seed)
        while True:
            names = sorted(self.known)
            random_.shuffle(names)
            yield from names

    def make(self, seconds: float, least: int = 0) -> Counter[str]:
        """Move for so long, and until each was made `least` times; how often each was."""
        made: Counter[str] = Counter()
        pauses = random.Random(self.seed)
        began = time.monotonic()
        for name in self.order():
            at = time.monotonic() - began
            if at >= seconds and min(made[each] for each in self.known) >= least:
                return made
            print(f"{at:8.2f} s  {name}", flush=True)
            try:
                self.known[name]()
            except Exception as error:
                error.add_note(f"move {made.total() + 1}, {name}, of seed {self.seed}: {made}")
                raise
            made[name] += 1
            time.sleep(pauses.uniform(0, 2 * self.pause))
        raise AssertionError("there is no end of moves")
