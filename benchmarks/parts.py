"""Measure the parts of a warm invocation.

    python -m benchmarks.parts MODULE EVENTS

The functions between two parts are wrapped, so that a clock runs for one part at a time: a call
stops the clock of the caller until it returns. So the parts add up to the whole, which is a little
slower for it. Printed are the CPU and the wall time of an event for each part, in ms.
"""

import functools
import importlib
import json
import pkgutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.probe import EVENT, Context

WARM_UP_EVENTS = 50

# All other time is the handler's own.
OURS = {
    "chatproject.wsgi:django_application": "Django",
    "django.utils.deprecation:MiddlewareMixin.__call__": "Django",
    "chat.telemetry.logs:RequestLogMiddleware.__call__": "telemetry",
    "chat.telemetry.context:add_log_fields": "telemetry",
    "chat.telemetry.metrics:outcome_metrics": "telemetry",
    "logging:Logger.handle": "telemetry",
    "rest_framework.views:APIView.dispatch": "DRF",
    "django.template.response:SimpleTemplateResponse.render": "DRF",
    "chat.api.serializers:AnswerSerializer.to_representation": "DRF",
    "chat.api.authentication:ApiKeyAuthentication.authenticate": "service",
    "chat.api.base:BaseChatView.run_chat": "service",
    "chat.api.ratelimit:check_rate_limit": "rate limit",
    "chat.storage.dynamodb.cache:DynamoCounters.incr": "storage",
    "chat.storage.dynamodb.interactions:DynamoInteractionStore.claim": "storage",
    "chat.storage.dynamodb.interactions:DynamoInteractionStore.settle": "storage",
    "providers.router:Router.complete": "provider client",
}
BARE = {
    "benchmarks.bare_handler:_dynamodb": "storage",
    "benchmarks.bare_handler:_ask": "provider client",
}
SEAMS = {"chatproject.lambda_handler": OURS, "benchmarks.bare_handler": BARE}
HANDLER = "bridge"


class Clock:
    """A clock that runs for one part at a time."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, int] = defaultdict(int)
        self.wall: defaultdict[str, int] = defaultdict(int)
        self._running = [HANDLER]
        self._at = time.process_time_ns(), time.perf_counter_ns()

    def charged(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time counts for a part."""

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self._running.pop()

        return charged

    def charge(self) -> None:
        """Add the time since the last call to the running part."""
        now = time.process_time_ns(), time.perf_counter_ns()
        self.cpu[self._running[-1]] += now[0] - self._at[0]
        self.wall[self._running[-1]] += now[1] - self._at[1]
        self._at = now

    def reset(self) -> None:
        self.charge()
        self.cpu.clear()
        self.wall.clear()


def main() -> None:
    module, events = sys.argv[1], int(sys.argv[2])
    handler = importlib.import_module(module).handler
    clock = Clock()
    for seam, part in SEAMS[module].items():
        _wrap(clock, seam, part)
    for number in range(WARM_UP_EVENTS + events):
        if number == WARM_UP_EVENTS:
            clock.reset()
        assert handler(EVENT, Context())["statusCode"] == 200
    clock.charge()
    parts = {
        part: {"CPU": clock.cpu[part] / events / 1e6, "wall": clock.wall[part] / events / 1e6}
        for part in clock.cpu
    }
    sys.stdout.write(json.dumps(parts) + "\n")


def _wrap(clock: Clock, seam: str, part: str) -> None:
    module, _, path = seam.partition(":")
    owner, _, name = path.rpartition(".")
    holder = pkgutil.resolve_name(f"{module}:{owner}")
    setattr(holder, name, clock.charged(part, getattr(holder, name)))


if __name__ == "__main__":
    main()
