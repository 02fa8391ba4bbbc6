"""What traces cost a request: the same chats without them, and with them.

    python -m benchmarks.traces [--rounds 100] [--chats 50]

One process answers chats one after the other, from the mock, on an SQLite file: in each round so
many without traces and so many with them, whose spans go to a collector in another process. The
least and the median processor time of the rounds are printed: of the thread that answers, and of
the whole process, which packs and sends the spans in a thread of its own. Ends with 1 if the least
times differ by more than the budget.
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
from pathlib import Path
from typing import Any

from tests.collector import Collector

ROOT = Path(__file__).parent.parent
BUDGET = 200.0  # microseconds of a request, in all
BODY = json.dumps({"userId": "user123", "prompt": "What is the capital of France?"}).encode()
WARM_UP = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--chats", type=int, default=50)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        return _probe(options.rounds, options.chats)
    with tempfile.TemporaryDirectory() as folder, Collector() as collector:
        collector.keep = False
        environment = {
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "DJANGO_SETTINGS_MODULE": "chatproject.settings",
            "SECRET_KEY": "benchmark",
            "LLM_PROVIDER": "mock",
            "LOG_LEVEL": "WARNING",
            "RATE_LIMIT_PER_MINUTE": "1000000",
            "DATABASE_PATH": f"{folder}/traces.db",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        command = [sys.executable, "-m", "benchmarks.traces", "--probe", *sys.argv[1:]]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _probe(rounds: int, chats: int) -> int:
    import django

    django.setup()
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command

    from chat import service

    call_command("migrate", verbosity=0)
    traced = WSGIHandler()
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "tracing" not in name]
    figures: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for application, on in [(WSGIHandler(), False), (traced, True)] * rounds:
        settings.TRACES = on
        service.router.cache_clear()
        _measure(application, WARM_UP)
        figures[on].append(_measure(application, chats))
    return _report(figures[False], figures[True])


def _measure(application: Any, chats: int) -> tuple[float, float]:
    """Microseconds of a chat: of this thread, and of the process with all of its spans sent."""
    from chat.tracing import flush

    flush(30)
    thread, process = time.thread_time(), time.process_time()
    for _ in range(chats):
        _chat(application)
    thread = time.thread_time() - thread
    flush(30)
    process = time.process_time() - process
    return thread * 1e6 / chats, process * 1e6 / chats


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


def _report(off: list[tuple[float, float]], on: list[tuple[float, float]]) -> int:
    print(f"{'µs a chat':20} {'off':>6} {'on':>6} {'more':>6}")
    within = True
    for number, figure in enumerate(["its thread", "the process"]):
        without, with_ = ([each[number] for each in rounds] for rounds in (off, on))
        least = min(with_) - min(without)
        within = within and least <= BUDGET
        print(f"{figure + ', least':20} {min(without):6.0f} {min(with_):6.0f} {least:6.0f}")
        medians = statistics.median(without), statistics.median(with_)
        more = medians[1] - medians[0]
        print(f"{figure + ', median':20} {medians[0]:6.0f} {medians[1]:6.0f} {more:6.0f}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
