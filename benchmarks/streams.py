"""Measure the delay of streamed tokens, beside the vendor asked directly.

    python -m benchmarks streams [--rounds 9]

The vendor sends a token every 100 ms, the first 100 ms after the request. A stream runs alone, 50
run at once of which one begins every 20 ms, and 50 begin in the same instant. Each round asks the
vendor and the server in turn.
"""

import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load, server, vendor
from benchmarks.load import Answer
from benchmarks.report import Options, Row, Table, Target, progress, publish
from tests.server_process import Server

PACE = vendor.Pace(delay=0.1, tokens=10, gap=0.1)
MANY = 50


@dataclass(frozen=True)
class Arrival:
    """A number of streams, and the seconds between the beginnings of two."""

    name: str
    streams: int
    stagger: float = 0.0


ARRIVALS = [
    Arrival("alone", 1),
    Arrival(f"{MANY}, one every 20 ms", MANY, 0.02),
    Arrival(f"{MANY} in one instant", MANY),
]


def measure(options: Options) -> Sequence[Table]:
    with (
        tempfile.TemporaryDirectory() as folder,
        vendor.running(PACE) as upstream,
        Server(Path(folder), OPENAI_BASE_URL=upstream.url, **server.VARIABLES) as running,
    ):
        direct = load.completions(upstream.url, key=server.KEY, stream=True)
        through = load.ours(running.port, key=server.KEY, stream=True)
        load.burst(through, streams=MANY, stagger=0.0)  # warms up what streams share
        rows = [_row(arrival, direct, through, options.rounds) for arrival in ARRIVALS]
    target = Target("alone, first token after the vendor's own", _first(rows[0]), 5, "ms")
    return [Table("Tokens of streams, ms later than the vendor's own", rows, [target])]


def _row(arrival: Arrival, direct: load.Target, through: load.Target, rounds: int) -> Row:
    first: list[float] = []
    later: list[float] = []
    for number in range(rounds):
        progress(f"streams, {arrival.name}, round {number + 1} of {rounds}")
        reference, ours = (
            load.burst(target, streams=arrival.streams, stagger=arrival.stagger)
            for target in (direct, through)
        )
        own = statistics.median(_wait(answer) for answer in reference)
        first += [_wait(answer) - own for answer in ours]
        later += [ms for answer in ours for ms in _lateness(answer)]
    return {
        "streams": arrival.name,
        "first token": statistics.median(first),
        "worst": max(first),
        "later tokens": statistics.median(later),
        "worst of them": max(later),
    }


def _first(row: Row) -> float:
    return float(row["first token"] or 0)


def _wait(answer: Answer) -> float:
    """Return the wait for the first token, in ms."""
    return (answer.tokens[0] - answer.sent) * 1000


def _lateness(answer: Answer) -> Iterator[float]:
    """Yield how much later than after the gap each token came, in ms."""
    if len(answer.tokens) != PACE.tokens:
        raise RuntimeError(f"{len(answer.tokens)} tokens of {PACE.tokens}")
    for before, after in itertools.pairwise(answer.tokens):
        yield (after - before - PACE.gap) * 1000


if __name__ == "__main__":
    publish({"streams": measure})
