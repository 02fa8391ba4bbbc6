"""Measure the cost of traces: the same chat with and without them.

    python -m benchmarks.traces [--chats 4000]

One process answers chats from the mock on an SQLite file, in turn without and with traces, whose
spans go to a collector in another process. Printed is CPU time: the lowest tenth of the thread that
answers, since other work on the machine only adds to it, and the mean of the thread that sends the
spans. OpenTelemetry's own variables apply, e.g. for samplers. The exit code is 1 above the budget.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.otlp_collector import Collector

ROOT = Path(__file__).parent.parent
BUDGET = 200.0  # microseconds of a request
BODY = json.dumps({"userId": "user123", "prompt": "What is the capital of France?"}).encode()
WARM_UP = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=4000)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        return _probe(options.chats)
    with tempfile.TemporaryDirectory() as folder, Collector() as collector:
        collector.store_spans = False
        environment = {
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "DJANGO_SETTINGS_MODULE": "chatproject.settings",
            "SECRET_KEY": "benchmark",
            "LLM_PROVIDER": "mock",
            "LOG_LEVEL": "WARNING",
            "RATE_LIMIT_PER_MINUTE": "1000000",
            "DATABASE_PATH": f"{folder}/traces.db",
            **{name: value for name, value in os.environ.items() if name.startswith("OTEL_")},
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        command = [sys.executable, "-m", "benchmarks.traces", "--probe", *sys.argv[1:]]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _probe(chats: int) -> int:
    import django

    django.setup()
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command

    from chat import model_catalog

    call_command("migrate", verbosity=0)
    make = model_catalog.router.__wrapped__
    kinds = {True: (WSGIHandler(), make())}
    settings.TRACING_ENABLED = False
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "Tracing" not in name]
    kinds[False] = (WSGIHandler(), make())

    def answer(traced: bool) -> float:
        """Answer a chat. Return the CPU of this thread in microseconds."""
        application, router = kinds[traced]
        model_catalog.router = lambda: router
        started = time.thread_time()
        _chat(application)
        return (time.thread_time() - started) * 1e6

    for number in range(WARM_UP):
        answer(number % 2 == 0)
    return _report(*_measure(answer, chats))


def _measure(answer: Callable[[bool], float], chats: int) -> tuple[list[float], list[float], float]:
    """Return the times of chats without traces and with them, and of sending a chat's spans."""
    from chat.telemetry.traces import flush

    flush(30)
    process, thread = time.process_time(), time.thread_time()
    off, on = [], []
    for _ in range(chats):
        off.append(answer(False))
        on.append(answer(True))
    flush(30)
    elsewhere = (time.process_time() - process) - (time.thread_time() - thread)
    return off, on, elsewhere * 1e6 / chats


def _chat(application: Any) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(BODY)),
        "wsgi.input": io.BytesIO(BODY),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
    }
    statuses: list[str] = []
    answer = application(environ, lambda status, headers: statuses.append(status))
    b"".join(answer)
    answer.close()
    assert statuses == ["200 OK"], statuses


def _report(off: list[float], on: list[float], sending: float) -> int:
    without, with_ = (statistics.quantiles(each, n=10)[0] for each in (off, on))
    total = with_ - without + sending
    print(f"{'µs a chat':24} {'off':>6} {'on':>6} {'more':>6}")
    print(f"{'the thread that answers':24} {without:6.0f} {with_:6.0f} {with_ - without:6.0f}")
    print(f"{'the thread that sends':24} {0:6} {sending:6.0f} {sending:6.0f}")
    print(f"{'both':24} {without:6.0f} {with_ + sending:6.0f} {total:6.0f}")
    return 0 if total <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
