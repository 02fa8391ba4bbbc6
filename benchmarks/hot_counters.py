"""Simulate what DynamoDB's limits on hot items do to the counters that many chats share.

    python -m benchmarks.hot_counters [--seconds 10]

Every chat of an owner and model adds to one counter when it settles, and every chat of a key with a
budget reserves in one item when it is claimed. DynamoDB refuses a transaction on an item that
another one holds, and serves 1,000 write units a second of one item. A reservation is a write of
its own, which no other one refuses. The code's own numbers of shards, tries and pauses are used.
Assumed, as AWS does not say: how long a transaction and a read take, and that a refused transaction
uses write units as well.
"""

import argparse
import heapq
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from chat.service import MAX_SETTLE_TRIES
from chat.storage.dynamodb import usage
from chat.storage.time_limit import MAX_SECONDS

READ_SECONDS = WRITE_SECONDS = 0.005
REFUSED_SECONDS = 0.005
TRANSACTION_SECONDS = (0.005, 0.010, 0.020)
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
PARTITION_UNITS = 1000
# A transaction writes an item of up to 1 KB for two units. A counter with all days of a month in it
# is larger.
FIRST_DAYS, LAST_DAYS = 2, 4
# A reservation and its release write the item of a budget, of up to 1 KB, for one unit each.
BUDGET_UNITS = 2
CHAT_SECONDS = 5.0

# Yields seconds to wait; returns whether the write succeeded.
Process = Generator[float, None, bool]
# A name, and when its writes begin.
Load = tuple[str, list[float]]


@dataclass
class Item:
    """An item that one transaction holds at a time, in a partition of its own."""

    held_until: float = 0.0
    units: float = PARTITION_UNITS
    refilled_at: float = 0.0

    def take(self, units: int, now: float) -> bool:
        """Use write units; return False if this second's are used up."""
        refilled = self.units + (now - self.refilled_at) * PARTITION_UNITS
        self.units, self.refilled_at = min(refilled, PARTITION_UNITS), now
        if self.units < units:
            return False
        self.units -= units
        return True


@dataclass
class Simulation:
    transaction_seconds: float
    item_units: int
    now: float = 0.0
    tries: int = 0
    waits: list[float] = field(default_factory=list)
    failures: int = 0

    def run(self, starts: Sequence[float], process: Callable[[], Process]) -> None:
        """Run a process from each start on, all in simulated time."""
        queue = [(start, number, start, process()) for number, start in enumerate(starts)]
        heapq.heapify(queue)
        while queue:
            self.now, number, start, running = heapq.heappop(queue)
            done = self.now - start > MAX_SECONDS
            succeeded = False
            try:
                if not done:
                    heapq.heappush(queue, (self.now + next(running), number, start, running))
            except StopIteration as end:
                done, succeeded = True, end.value
            if done:
                self.waits.append(self.now - start)
                self.failures += not succeeded

    def write(self, item: Item) -> Generator[float, None, None]:
        """Wait for the write units of an item."""
        self.tries += 1
        throttled = 0
        while not item.take(self.item_units, self.now):
            throttled += 1
            yield random.uniform(0, min(0.05 * 2**throttled, 2.0))

    def transact(self, item: Item) -> Process:
        """Write an item in a transaction."""
        yield from self.write(item)
        if self.now < item.held_until:
            yield REFUSED_SECONDS
            return False
        item.held_until = self.now + self.transaction_seconds
        yield self.transaction_seconds
        return True

    def settle(self, shards: Sequence[Item]) -> Process:
        """Settle a record, as chat/service.py and chat/storage/dynamodb/usage.py do."""
        for service_try in range(1, MAX_SETTLE_TRIES + 1):
            for conflict_try in range(usage.CONFLICT_TRIES + 1):
                shard = 0
                if conflict_try:
                    yield random.uniform(0, usage.MAX_PAUSE_SECONDS)
                    shard = random.randrange(1, usage.MAX_SHARDS)
                if (yield from self.transact(shards[shard])):
                    return True
            yield random.uniform(0, 0.1 * 2**service_try)
        return False

    def claim(self, budget: Item) -> Process:
        """Reserve in a budget, as chat/storage/dynamodb/budgets.py does."""
        yield 2 * READ_SECONDS  # the item, then the counters
        yield from self.write(budget)
        yield WRITE_SECONDS
        return True

    def figures(self) -> str:
        waits = sorted(self.waits)
        p50, p99 = (waits[round((len(waits) - 1) * share)] * 1000 for share in (0.5, 0.99))
        lost = 100 * self.failures / len(waits)
        return f"{self.tries / len(waits):.1f}, {p50:,.0f}, {p99:,.0f}, {lost:.2g} %"


Run = Callable[[Simulation, Sequence[float]], None]


def settle_all(simulation: Simulation, starts: Sequence[float]) -> None:
    shards = [Item() for _ in range(usage.MAX_SHARDS)]
    simulation.run(starts, lambda: simulation.settle(shards))


def claim_all(simulation: Simulation, starts: Sequence[float]) -> None:
    budget = Item()
    simulation.run(starts, lambda: simulation.claim(budget))


def table(
    title: str,
    loads: Sequence[Load],
    run: Run,
    item_units: int,
    transactions: Sequence[float] = TRANSACTION_SECONDS,
) -> None:
    print(f"\n{title}: tries each, p50 and p99 in ms, given up\n")
    print("| chats |", *(f"a transaction of {each * 1000:.0f} ms |" for each in transactions))
    print("|---" * (1 + len(transactions)) + "|")
    for name, starts in loads:
        cells = []
        for seconds in transactions:
            simulation = Simulation(seconds, item_units)
            run(simulation, starts)
            cells.append(simulation.figures())
        print(f"| {name} |", " | ".join(cells), "|")


def steady(chats: int, seconds: float) -> Load:
    """Return moments at random, as many a second as if so many chats ran at a time."""
    rate = chats / CHAT_SECONDS
    starts = [random.uniform(0, seconds) for _ in range(round(rate * seconds))]
    return f"{chats:,} at a time, {rate:,.0f} a second", starts


def burst(chats: int) -> Load:
    return f"{chats:,} within one second", [random.uniform(0, 1) for _ in range(chats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the steady load")
    seconds = parser.parse_args().seconds
    random.seed(1)
    settles = [steady(chats, seconds) for chats in (100, 500, 1000, 2000, 5000, 10_000)]
    settles += [burst(1000), burst(10_000)]
    claims = [steady(chats, seconds) for chats in (100, 200, 500, 1000, 2000, 5000)]
    table(
        "Settlements of one owner and model, first days of a month", settles, settle_all, FIRST_DAYS
    )
    table(
        "Settlements of one owner and model, last days of a month", settles, settle_all, LAST_DAYS
    )
    table("Claims of one key with a budget", claims, claim_all, BUDGET_UNITS, (0,))


if __name__ == "__main__":
    main()
