"""Measure what the server is for: crowds that wait for models which take seconds.

    python -m benchmarks waiting

All clients of a crowd connect in one instant, or within a second, each with one request: up to
4,000 plain chats, and up to 1,000 streams of 100 tokens, 50 ms apart. Either takes the vendor 5 s.
The same crowds ask the vendor alone, our server, and the gateways of benchmarks.alternatives that
can be installed. Then 64 clients ask us and Portkey's gateway in turn, and benchmarks.fairness
disturbs 100 running streams.
"""

import sqlite3
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from pathlib import Path

from benchmarks import alternatives, crowd, fairness, load, processes, server, vendor
from benchmarks.alternatives import Started
from benchmarks.crowd import Crowd, Size
from benchmarks.load import Outcome
from benchmarks.report import Options, Row, Table, Target, progress
from tests.server_process import Server

# Settings that hold 4,000 waiting chats on two cores (docs/performance.md).
FULL = {"WEB_CONCURRENCY": "2", "WEB_THREADS": "2500"}
OURS, DEFAULT = "ours", "default"
VENDOR_SECONDS = 5.0
WARM_UP = Size(32)
LIMIT_SECONDS = 60.0
# A gateway that takes this many times as long as the vendor is asked by no larger crowd.
TOO_LATE = 3.0
RATE_CLIENTS, RATE_PACE, RATE_ROUNDS = 64, vendor.Pace(delay=0.05), 5
# Targets: docs/performance.md.
LATENCY_RATIO, FIRST_TOKEN_MS, MEMORY_MB, TOKEN_RATIO, RATE_RATIO = 1.1, 500, 250, 1 / 40, 0.8


@dataclass(frozen=True)
class Kind:
    """A kind of request; `tokens` are those of a whole stream, 0 of a plain answer."""

    name: str
    pace: vendor.Pace
    crowds: Sequence[Size]
    tokens: int = 0


FULL_CROWD = Size(4_000)
PLAIN = Kind(
    "plain", vendor.Pace(delay=VENDOR_SECONDS), (Size(1_000, 1.0), Size(1_000), FULL_CROWD)
)
STREAMS = Kind(
    "streams",
    vendor.Pace(delay=0.05, tokens=100, gap=0.05),
    (Size(100), Size(300), Size(600, 1.0), Size(600), Size(1_000)),
    tokens=100,
)


@dataclass(frozen=True)
class Gateway:
    """A gateway, and how to start it over a vendor's URL. `database` is that of our server."""

    name: str
    start: Callable[[str], AbstractContextManager[Started]]
    settings: str = "–"
    database: Path | None = None


@dataclass(frozen=True)
class Measured:
    """A crowd, what the processes of the gateway used, and how many `ok` records it left."""

    gateway: Gateway
    kind: Kind
    size: Size
    crowd: Crowd
    usage: processes.Usage
    records: int | None

    @property
    def cpu_ms(self) -> float:
        """The CPU of one request."""
        return self.usage.cpu * 1000 / self.size.clients


def measure(options: Options) -> list[Table]:
    rates, plain_ms = _rates(options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        default, full = ours(Path(folder), {}), ours(Path(folder), FULL)
        others = [gateway for gateway in map(_alternative, ("portkey", "litellm")) if gateway]
        plain = [(gateway, PLAIN.crowds) for gateway in (default, *others)]
        streams = [(gateway, STREAMS.crowds) for gateway in (default, *others)]
        cells = [
            *_compare(PLAIN, [(full, [FULL_CROWD]), *plain]),
            *_compare(STREAMS, streams),
        ]
    rows = [_row(*cell, plain_ms) for cell in cells]
    title = (
        "Crowds, a vendor of 5 s. Times in s; came in: until the last client came; first token: "
        "p99 in ms after the vendor's own; CPU in ms, a token's: a stream's less that of a plain "
        f"request with {RATE_CLIENTS} clients ({plain_ms:.2f}), by its {STREAMS.tokens} tokens"
    )
    return [Table(title, rows, _targets(cells, plain_ms)), rates, *fairness.measure(options)]


def ours(folder: Path, variables: Mapping[str, str]) -> Gateway:
    """Return our server with a database of its own, asked by OpenAI's API as the others are."""
    settings = " ".join(f"{name}={value}" for name, value in variables.items()) or DEFAULT
    home = folder / settings
    home.mkdir()

    @contextmanager
    def start(vendor_url: str) -> Iterator[Started]:
        given = {**server.VARIABLES, **variables, "OPENAI_MODEL": "m"}
        with Server(home, OPENAI_BASE_URL=vendor_url, **given) as running:
            yield Started(f"http://127.0.0.1:{running.port}/v1", running.process.pid)

    return Gateway(OURS, start, settings, home / "server.db")


def _alternative(name: str) -> Gateway | None:
    """Return a gateway of benchmarks.alternatives, or None if it cannot be installed."""
    try:
        alternatives.install(name)
    except (OSError, subprocess.CalledProcessError) as exc:
        progress(f"{name} is left out, it cannot be installed: {exc}")
        return None
    return Gateway(name, alternatives.GATEWAYS[name])


def _compare(
    kind: Kind, crowds: Sequence[tuple[Gateway, Sequence[Size]]]
) -> Iterator[tuple[Measured, Crowd]]:
    """Yield what came of each crowd, of the vendor alone first, and the vendor's own replies."""
    with vendor.running(kind.pace) as upstream:
        alone = Gateway("vendor alone", lambda _: nullcontext(Started(upstream.url, upstream.pid)))
        floors = {}
        for measured in ask(alone, upstream.url, kind, kind.crowds):
            floors[measured.size] = measured.crowd
            yield measured, measured.crowd
        for gateway, sizes in crowds:
            try:
                for measured in ask(gateway, upstream.url, kind, sizes):
                    yield measured, floors[measured.size]
            except RuntimeError as exc:  # an alternative does not start
                progress(f"{gateway.name} is left out: {exc}")


def ask(gateway: Gateway, vendor_url: str, kind: Kind, sizes: Sequence[Size]) -> Iterator[Measured]:
    """Start a gateway and yield what came of each crowd."""
    progress(f"{gateway.name}, {gateway.settings}: starting")
    with gateway.start(vendor_url) as started:
        if kind.tokens and not started.streams:
            return
        target = load.completions(
            started.url, key=server.KEY, stream=bool(kind.tokens), headers=started.headers
        )
        crowd.ask(target, WARM_UP, limit=LIMIT_SECONDS)
        for size in sizes:
            processes.wait_until_idle(started.pid)
            progress(f"{gateway.name}, {gateway.settings}: {size.of(kind.name)}")
            before = _ok_records(gateway.database)
            with processes.measured(started.pid) as usage:
                replies = crowd.ask(target, size, tokens=kind.tokens, limit=LIMIT_SECONDS)
                processes.wait_until_idle(started.pid)  # what follows an answer counts, too
            records = _ok_records(gateway.database) - before if gateway.database else None
            yield Measured(gateway, kind, size, replies, usage, records)
            p99 = replies.seconds(0.99)
            if not gateway.database and (p99 is None or p99 > TOO_LATE * VENDOR_SECONDS):
                return


def _ok_records(database: Path | None) -> int:
    if database is None:
        return 0
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM chat_interaction WHERE status = 'ok'"
        return int(connection.execute(query).fetchone()[0])


def _row(measured: Measured, floor: Crowd, plain_ms: float) -> Row:
    replies, own = measured.crowd, measured.crowd is floor
    token = _token_ms(measured, plain_ms)
    return {
        "": measured.gateway.name,
        "crowd": measured.size.of(measured.kind.name),
        "settings": measured.gateway.settings,
        "came in": replies.came_in,
        "p50": replies.seconds(0.5),
        "p99": replies.seconds(0.99),
        "÷ vendor": None if own else _ratio(replies, floor),
        "first token": None if own else _first_token_ms(replies, floor),
        "CPU": measured.cpu_ms,
        "a token's": token,
        "÷ plain": token / plain_ms if token else None,
        "peak MB": measured.usage.peak_mb,
        "ok records": measured.records,
        "errors": ", ".join(f"{count:,} × {kind}" for kind, count in replies.failures.items()) or 0,
        "after": replies.slowest_failure(),
    }


def _ratio(replies: Crowd, floor: Crowd) -> float | None:
    ours, own = replies.seconds(0.99), floor.seconds(0.99)
    return ours / own if ours and own else None


def _first_token_ms(replies: Crowd, floor: Crowd) -> float | None:
    """Return how much later than the vendor's own the first token came, p99."""
    ours, own = replies.first_token(0.99), floor.first_token(0.99)
    return (ours - own) * 1000 if ours and own else None


def _token_ms(measured: Measured, plain_ms: float) -> float | None:
    """Return the CPU of one token of our streams; of failed streams it would say nothing."""
    if measured.records is None or not measured.kind.tokens or measured.crowd.failures:
        return None
    return (measured.cpu_ms - plain_ms) / measured.kind.tokens


def _targets(cells: Sequence[tuple[Measured, Crowd]], plain_ms: float) -> list[Target]:
    """Return the targets of our server; what could not be measured misses them."""
    found = {
        (measured.kind.name, measured.size, measured.gateway.settings == DEFAULT): cell
        for cell in cells
        if (measured := cell[0]).records is not None
    }
    targets = []
    for size in PLAIN.crowds[:2]:
        measured, floor = found[PLAIN.name, size, True]
        memory = Target(
            f"{size.of(PLAIN.name)}, peak memory", measured.usage.peak_mb, MEMORY_MB, "MB"
        )
        targets += [*_in_time(measured, floor), memory]
    full, _ = found[PLAIN.name, FULL_CROWD, False]
    targets.append(_all_recorded(full))
    for size in STREAMS.crowds[2:4]:
        streams, floor = found[STREAMS.name, size, True]
        first = _first_token_ms(streams.crowd, floor)
        late = Target(f"{size.of(STREAMS.name)}, first token", first or inf, FIRST_TOKEN_MS, "ms")
        targets += [*_in_time(streams, floor), late]
    token = (_token_ms(streams, plain_ms) or inf) / plain_ms
    return [*targets, Target("a token's CPU ÷ a plain request's", token, TOKEN_RATIO)]


def _in_time(measured: Measured, floor: Crowd) -> list[Target]:
    name = f"{measured.size.of(measured.kind.name)}, p99 ÷ vendor"
    ratio = _ratio(measured.crowd, floor) or inf
    return [Target(name, ratio, LATENCY_RATIO), _all_recorded(measured)]


def _all_recorded(measured: Measured) -> Target:
    name = f"{measured.size.of(measured.kind.name)}, {measured.gateway.settings}, ok records"
    return Target(name, measured.records or 0, measured.size.clients, at_least=True)


def _rates(seconds: float) -> tuple[Table, float]:
    """Return requests per second beside Portkey's in turn, and the CPU of a request of ours."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(vendor.running(RATE_PACE))
        gateways = [ours(folder, {}), _alternative("portkey")]
        started = {
            gateway.name: stack.enter_context(gateway.start(upstream.url))
            for gateway in gateways
            if gateway
        }
        rounds: list[dict[str, Outcome]] = []
        for number in range(RATE_ROUNDS):
            progress(f"{RATE_CLIENTS} clients in turn, round {number + 1} of {RATE_ROUNDS}")
            rounds.append({name: _rate(each, seconds) for name, each in started.items()})
    rows = [_rate_row(name, [outcomes[name] for outcomes in rounds]) for name in started]
    title = f"{RATE_CLIENTS} clients, a vendor of 50 ms, medians of {RATE_ROUNDS} runs; ms"
    targets = []
    if "portkey" in started:
        ratios = [outcomes[OURS].rate / outcomes["portkey"].rate for outcomes in rounds]
        name = f"requests/s ÷ Portkey's, median ({min(ratios):.2f} to {max(ratios):.2f})"
        targets = [Target(name, statistics.median(ratios), RATE_RATIO, at_least=True)]
    return Table(title, rows, targets), float(rows[0]["CPU"] or 0)


def _rate(started: Started, seconds: float) -> Outcome:
    target = load.completions(started.url, key=server.KEY, headers=started.headers)
    return server.drive(target, RATE_CLIENTS, seconds, {"gateway": started.pid})


def _rate_row(name: str, outcomes: Sequence[Outcome]) -> Row:
    return {
        "": name,
        "req/s": statistics.median(outcome.rate for outcome in outcomes),
        "lowest": min(outcome.rate for outcome in outcomes),
        "highest": max(outcome.rate for outcome in outcomes),
        "p50": statistics.median(outcome.latency_ms(0.5) for outcome in outcomes),
        "p99": statistics.median(outcome.latency_ms(0.99) for outcome in outcomes),
        "CPU": statistics.median(outcome.cpu_ms("gateway") for outcome in outcomes),
    }
