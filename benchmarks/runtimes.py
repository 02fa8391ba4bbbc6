"""Measure what a runtime adds to the handler: the loop that streams, and AWS's runtime client.

Each round starts a new process for either, in turn, beside a stand-in of the Runtime API. A start
is counted up to its first chat's answer. The events after it ask for /v1/health, which costs the
application little, so that most of what they take is the runtime's.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.probe import EVENT
from benchmarks.report import Row, Table
from tests.lambda_events import function_url
from tests.runtime_api import Function, RuntimeApi

CLIENT = ("-m", "awslambdaric", "chatproject.lambda_handler.handler")
RUNTIMES = {
    "chatproject.lambda_runtime": ("-m", "chatproject.lambda_runtime"),
    "awslambdaric": CLIENT,
}
EVENTS = 1000

CHAT = function_url(body=EVENT["body"], headers=EVENT["headers"])
HEALTH = function_url(path="/v1/health", method="GET")

Figures = dict[str, float]


def measure(environment: Mapping[str, str], rounds: int) -> Table:
    figures: dict[str, list[Figures]] = {name: [] for name in RUNTIMES}
    for _ in range(rounds):
        for name, command in RUNTIMES.items():
            figures[name].append(_run(command, environment))
    rows: list[Row] = [
        {"": figure, **{name: _median(figures[name], figure) for name in RUNTIMES}}
        for figure in figures[next(iter(RUNTIMES))][0]
    ]
    return Table(f"Runtimes of the function, median of {rounds} fresh processes", rows)


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> Figures:
    variables: dict[str, Any] = {"STORAGE": "dynamodb", "LOG_LEVEL": "WARNING", **environment}
    with tempfile.TemporaryDirectory() as folder, RuntimeApi() as api:
        invocation = api.invoke(CHAT)
        started = time.perf_counter()
        with Function(api, Path(folder), *command, **variables) as function:
            answer = invocation.answer()
            assert answer.head["statusCode"] == 200, answer
            pid = function.process.pid
            cold = processes.cpu_seconds(pid), time.perf_counter() - started
            cpu, wall = processes.cpu_seconds(pid), time.perf_counter()
            for _ in range(EVENTS):
                assert api.ask(HEALTH).head["statusCode"] == 200
            warm = processes.cpu_seconds(pid) - cpu, time.perf_counter() - wall
            memory = processes.resident_mb(pid)
    return {
        "start to first answer, CPU ms": cold[0] * 1000,
        "start to first answer, wall ms": cold[1] * 1000,
        "event of /v1/health, CPU ms": warm[0] * 1000 / EVENTS,
        "event of /v1/health, wall ms": warm[1] * 1000 / EVENTS,
        "resident memory, MB": memory,
    }


def _median(rounds: list[Figures], figure: str) -> float:
    return statistics.median(each[figure] for each in rounds)
