"""Measure a cold start in this process: import a handler and answer events.

python -m benchmarks.probe MODULE EVENTS

Without events (0) only the cold start is measured.
"""

import time

STARTED = time.process_time(), time.perf_counter()

import importlib
import json
import os
import sys
from typing import Any


class Context:
    """Lambda's context, as far as our handler reads it."""

    aws_request_id = "probe"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 30_000


EVENT = {
    "version": "2.0",
    "rawPath": "/v1/chat",
    "rawQueryString": "",
    "headers": {
        "host": "localhost",
        "content-type": "application/json",
        "x-api-key": "benchmark-key",
    },
    "body": json.dumps({"userId": "user123", "prompt": "Olá! What is the capital of France?"}),
    "requestContext": {
        "stage": "$default",
        "http": {"method": "POST", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"},
    },
}


def main() -> None:
    module, events = sys.argv[1], int(sys.argv[2])
    handler = importlib.import_module(module).handler
    imported = time.process_time() - STARTED[0]
    assert handler(EVENT, Context())["statusCode"] == 200
    cold = time.process_time() - STARTED[0], time.perf_counter() - STARTED[1]
    result = {
        "import, CPU ms": imported * 1000,
        "cold start, CPU ms": cold[0] * 1000,
        "cold start, wall ms": cold[1] * 1000,
        **(_warm(handler, events) if events else {}),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def _warm(handler: Any, events: int) -> dict[str, float]:
    for _ in range(20):
        handler(EVENT, Context())
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(events):
        assert handler(EVENT, Context())["statusCode"] == 200
    warm = time.process_time() - cpu, time.perf_counter() - wall
    from benchmarks import processes  # late: its imports would count as the handler's

    return {
        "warm, CPU ms": warm[0] * 1000 / events,
        "warm, wall ms": warm[1] * 1000 / events,
        "resident memory, MB": processes.resident_mb(os.getpid()),
    }


if __name__ == "__main__":
    main()
