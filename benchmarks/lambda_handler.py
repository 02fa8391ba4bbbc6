"""Cold start, warm invocation and memory of the Lambda handler, beside a bare handler.

    python -m benchmarks.lambda_handler [ROUNDS]

DynamoDB Local and an instant vendor run beside it. Each round starts a fresh process for the
handler and one for the floor (benchmarks/bare_handler.py), in turn; medians are printed, with their
ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests import dynamodb_local
from tests.standin import StandIn

ROOT = Path(__file__).parent.parent
BUDGETS = {"cold CPU ms": 400.0, "warm CPU ms": 4.0, "memory MB": 90.0}
EVENTS = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=9)
    rounds = parser.parse_args().rounds
    with dynamodb_local.running() as dynamodb, StandIn() as vendor:
        vendor.remember = 0
        environment = _environment(dynamodb, vendor.url)
        _python(environment, "manage.py", "create_tables")
        ours, floor = [], []
        for _ in range(rounds):
            ours.append(_probe(environment, "chatproject.lambda_handler"))
            floor.append(_probe(environment, "benchmarks.bare_handler"))
    return _report(ours, floor)


def _environment(dynamodb: str, vendor: str) -> dict[str, str]:
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
        "OPENAI_BASE_URL": f"{vendor}/v1",
        "REQUIRE_API_KEY": "true",
        "API_KEYS": "benchmark-key",
        "RATE_LIMIT_PER_MINUTE": "1000000",
        "SECRET_KEY": "benchmark",
    }


def _python(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    return done.stdout.decode()


def _probe(environment: Mapping[str, str], module: str) -> dict[str, float]:
    output = _python(environment, "-m", "benchmarks.probe", module, str(EVENTS))
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _report(ours: list[dict[str, float]], floor: list[dict[str, float]]) -> int:
    print(f"{'median of ' + str(len(ours)):16} {'ours':>8} {'bare':>8} {'ratio':>6} {'budget':>7}")
    within = True
    for figure in ours[0]:
        mine = statistics.median(round_[figure] for round_ in ours)
        bare = statistics.median(round_[figure] for round_ in floor)
        budget = BUDGETS.get(figure)
        within = within and (budget is None or mine <= budget)
        row = f"{figure:16} {mine:8.2f} {bare:8.2f} {mine / bare:6.1f}"
        print(f"{row} {budget:7.0f}" if budget else row)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
