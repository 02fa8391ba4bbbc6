"""Measure the Lambda handler, cold and warm, beside a bare handler (bare_handler.py).

    python -m benchmarks handler [--rounds 9]

DynamoDB Local and an instant vendor run beside them. Each round starts a new process for either
handler, in turn. The table has the medians. Authentication, rate limit, claim, settle and the log
are on. The last table is of starts whose vendor takes a second, on one core.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import runtimes, vendor
from benchmarks.report import Options, Row, Table, Target, progress, publish
from tests import dynamodb_local

ROOT = Path(__file__).parent.parent
OURS, BARE = "chatproject.lambda_handler", "benchmarks.bare_handler"
EVENTS = 200
EVENTS_OF_PARTS = 1000
SECOND = vendor.Pace(delay=1.0)

Figures = dict[str, float]


def measure(options: Options) -> Sequence[Table]:
    if absent := dynamodb_local.missing():
        raise SystemExit(f"{absent}. Without it: make bench ONLY='server streams records'")
    with dynamodb_local.running() as dynamodb, vendor.running(vendor.Pace()) as upstream:
        environment = _environment(dynamodb, upstream.url)
        _python(environment, "manage.py", "create_tables")
        ours, bare = [], []
        for number in range(options.rounds):
            progress(f"handler, round {number + 1} of {options.rounds}")
            ours.append(_run(environment, "benchmarks.probe", OURS, EVENTS))
            bare.append(_run(environment, "benchmarks.probe", BARE, EVENTS))
        progress("handler, its runtimes")
        beside = runtimes.measure(environment, options.rounds)
        progress("handler, its parts")
        parts = [
            _run(environment, "benchmarks.parts", module, EVENTS_OF_PARTS)
            for module in (OURS, BARE)
        ]
        first = _first_answers(environment, options.rounds)
    return [_whole(_medians(ours), _medians(bare), options.rounds), beside, _parts(*parts), first]


def _environment(dynamodb: str, vendor_url: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "ENV_FILE": os.devnull,
        "AWS_LAMBDA_FUNCTION_NAME": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_ENDPOINT_URL_DYNAMODB": dynamodb,
        "TABLE_NAME": "benchmark",
        "OPENAI_BASE_URL": vendor_url,
        "REQUIRE_API_KEY": "true",
        "API_KEYS": "benchmark-key",
        "RATE_LIMIT_PER_MINUTE": "1000000",
        "SECRET_KEY": "benchmark",
    }


def _first_answers(environment: Mapping[str, str], rounds: int) -> Table:
    """Measure the start to the first answer with each vendor, which takes a second, on one core.

    OpenRouter's answer has its price. For the others the price list is imported meanwhile.
    """
    core = ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))))
    with vendor.running(SECOND) as upstream:
        vendors = _vendors(upstream.url.removesuffix("/v1"))
        figures: dict[str, list[Figures]] = {name: [] for name in vendors}
        for number in range(rounds):
            progress(f"handler, first answers, round {number + 1} of {rounds}")
            for name, variables in vendors.items():
                settings = {**environment, "OPENAI_BASE_URL": "", **variables}
                figures[name].append(_run(settings, "benchmarks.probe", OURS, 0, core))
    rows: list[Row] = [{"": name, **_medians(figures[name])} for name in vendors]
    return Table(f"Start to first answer on one core, median of {rounds} fresh processes", rows)


def _vendors(address: str) -> dict[str, dict[str, str]]:
    return {
        "OpenRouter": {
            "OPENROUTER_API_KEY": "benchmark",
            "OPENROUTER_BASE_URL": f"{address}/api/v1",
        },
        "Bedrock": {
            "BEDROCK_MODEL": "anthropic.claude-sonnet-4-5-20250929-v1:0",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": address,
        },
        "Gemini": {"GEMINI_API_KEY": "benchmark", "GEMINI_BASE_URL": f"{address}/v1beta"},
    }


def _run(
    environment: Mapping[str, str],
    program: str,
    module: str,
    events: int,
    prefix: Sequence[str] = (),
) -> Any:
    """Run a program on the handler of a module, and return its measurements."""
    output = _python(environment, "-m", program, module, str(events), prefix=prefix)
    return json.loads(output.splitlines()[-1])


def _python(environment: Mapping[str, str], *arguments: str, prefix: Sequence[str] = ()) -> str:
    command = [*prefix, sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout


def _medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def _whole(ours: Figures, bare: Figures, rounds: int) -> Table:
    rows: list[Row] = [
        {"": name, "ours": ours[name], "bare": bare[name], "ratio": ours[name] / bare[name]}
        for name in ours
    ]
    cold, warm, memory = "cold start, CPU ms", "warm, CPU ms", "resident memory, MB"
    targets = [
        Target("cold start, CPU", ours[cold], 400, "ms"),
        Target("cold start, CPU beside the bare handler's", ours[cold] / bare[cold], 8),
        Target("warm invocation, CPU", ours[warm], 4, "ms"),
        Target("warm invocation, CPU beside the bare handler's", ours[warm] / bare[warm], 4),
        Target("resident memory of the warm handler", ours[memory], 90, "MB"),
    ]
    return Table(f"Lambda handler, median of {rounds} fresh processes", rows, targets)


def _parts(ours: dict[str, Figures], bare: dict[str, Figures]) -> Table:
    whole = {
        name: sum(part["CPU"] for part in parts.values())
        for name, parts in (("ours", ours), ("bare", bare))
    }
    rows: list[Row] = [
        {
            "": part,
            "CPU ms": figures["CPU"],
            "share, %": 100 * figures["CPU"] / whole["ours"],
            "wall ms": figures["wall"],
            "bare CPU ms": bare[part]["CPU"] if part in bare else None,
            "bare wall ms": bare[part]["wall"] if part in bare else None,
        }
        for part, figures in sorted(ours.items(), key=lambda item: -item[1]["CPU"])
    ]
    total: Row = {
        "": "whole",
        "CPU ms": whole["ours"],
        "share, %": 100.0,
        "wall ms": sum(part["wall"] for part in ours.values()),
        "bare CPU ms": whole["bare"],
        "bare wall ms": sum(part["wall"] for part in bare.values()),
    }
    return Table("Warm invocation by its parts", [*rows, total])


if __name__ == "__main__":
    publish({"handler": measure})
