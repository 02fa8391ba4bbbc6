"""Measure the server under load, beside its vendor asked directly by the same clients.

    python -m benchmarks server [--seconds 5]

The server is started as users start it, on a new database: it requires an API key, counts requests
against a high rate limit, and writes a record and a log line for each.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import load, processes, vendor
from benchmarks.load import Outcome, Target
from benchmarks.report import Options, Row, Table, progress, publish
from benchmarks.report import Target as Goal
from tests.server_process import Server

CLIENTS = (1, 16, 64, 256)
PACES = {"0 ms": vendor.Pace(), "50 ms": vendor.Pace(delay=0.05, gap=0.01)}
KEY = "benchmark-key"
WARM_UP_SECONDS = 1.0
VARIABLES = {
    "REQUIRE_API_KEY": "true",
    "API_KEYS": KEY,
    "RATE_LIMIT_PER_MINUTE": "1000000",
}


def measure(options: Options) -> list[Table]:
    return [_under_load(name, pace, options) for name, pace in PACES.items()]


def _under_load(name: str, pace: vendor.Pace, options: Options) -> Table:
    with (
        tempfile.TemporaryDirectory() as folder,
        vendor.running(pace) as upstream,
        Server(Path(folder), OPENAI_BASE_URL=upstream.url, **VARIABLES) as server,
    ):
        pids = {"server": server.process.pid, "vendor": upstream.pid}
        outcomes = {}
        for stream in (False, True):
            through = load.ours(server.port, key=KEY, stream=stream)
            direct = load.completions(upstream.url, key=KEY, stream=stream)
            for clients in CLIENTS:
                kind = "streamed" if stream else "plain"
                progress(f"server, vendor of {name}, {kind}, {clients} clients")
                outcomes[kind, clients] = (
                    drive(direct, clients, options.seconds / 2, pids),
                    drive(through, clients, options.seconds, pids),
                )
        memory = processes.memory_mb(server.process.pid)
    rows = [_row(*cell, *pair) for cell, pair in outcomes.items()]
    title = (
        f"Server, a vendor of {name}; {memory:.0f} MB resident at the end. "
        "Times in ms, CPU for each request; own: p50 less the vendor's"
    )
    return Table(title, rows, _goals(outcomes) if pace.delay else [])


def drive(target: Target, clients: int, seconds: float, pids: Mapping[str, int]) -> Outcome:
    """Drive a server after a warm-up, as every benchmark does."""
    return load.drive(target, clients=clients, seconds=seconds, warm_up=WARM_UP_SECONDS, pids=pids)


def _row(kind: str, clients: int, direct: Outcome, through: Outcome) -> Row:
    streamed = kind == "streamed"
    return {
        "": kind,
        "clients": clients,
        "req/s": through.rate,
        "p50": through.latency_ms(0.5),
        "p99": through.latency_ms(0.99),
        "own": through.latency_ms(0.5) - direct.latency_ms(0.5),
        "first token": through.first_token_ms(0.5) if streamed else None,
        "CPU": through.cpu_ms("server"),
        "vendor's CPU": through.cpu_ms("vendor"),
        "clients' CPU": through.cpu_ms("clients"),
        "direct req/s": direct.rate,
        "direct p50": direct.latency_ms(0.5),
        "direct p99": direct.latency_ms(0.99),
        "direct first": direct.first_token_ms(0.5) if streamed else None,
    }


def _goals(outcomes: dict[tuple[str, int], tuple[Outcome, Outcome]]) -> Sequence[Goal]:
    _, busy = outcomes["plain", 64]
    p50, p99 = busy.latency_ms(0.5), busy.latency_ms(0.99)
    return [
        Goal("64 clients, plain, requests per second", busy.rate, 550, at_least=True),
        Goal("64 clients, plain, CPU of a request", busy.cpu_ms("server"), 2.5, "ms"),
        Goal("64 clients, plain, p99 as a multiple of p50", p99 / p50, 3),
    ]


if __name__ == "__main__":
    publish({"server": measure})
