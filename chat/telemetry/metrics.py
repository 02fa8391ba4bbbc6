"""Metrics in a request's log line, in CloudWatch's embedded metric format (EMF).

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
`_aws` names the fields that are metrics and those that are their dimensions. A line has one value
of each dimension: after several attempts, `Provider` is the first that failed.
"""

import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from django.conf import settings

from providers.base import Usage
from providers.router import Attempt

NAMESPACE = "ServerlessChatApi"
SERVICE = ("Service",)
BY_CODE = ("Service", "Code")
BY_PROVIDER = ("Service", "Provider")

# Outcomes that are not the provider's failure: success, a refused request, a disconnected client.
HEALTHY_OUTCOMES = frozenset({"ok", "aborted", "content_filtered", "provider_rejected"})


class Metric(NamedTuple):
    unit: str = "Count"
    dimensions: tuple[tuple[str, ...], ...] = (SERVICE,)


METRICS = {
    "Requests": Metric(),
    "Errors": Metric(dimensions=(SERVICE, BY_CODE)),
    "Latency": Metric("Milliseconds"),
    "ProviderLatency": Metric("Milliseconds", dimensions=(BY_PROVIDER,)),
    "ProviderErrors": Metric(dimensions=(SERVICE, BY_PROVIDER)),
    "Fallbacks": Metric(),
    "PromptTokens": Metric(),
    "CompletionTokens": Metric(),
    # EMF has no unit for money.
    "CostUSD": Metric("None"),
    "ColdStarts": Metric(),
}

# next() of it is atomic, unlike adding to a global.
_line_numbers = itertools.count()


def outcome_metrics(usage: Usage, attempts: Sequence[Attempt], preferred: str) -> dict[str, Any]:
    """Return the fields that a settled request adds to its line, without unknown ones.

    `preferred` is the provider of the first route. Nothing if METRICS is off.
    """
    if not settings.METRICS:
        return {}
    members: dict[str, Any] = {
        "PromptTokens": usage.prompt_tokens,
        "CompletionTokens": usage.completion_tokens,
        "CostUSD": None if usage.cost_usd is None else float(usage.cost_usd),
    }
    if attempts:
        failed = [attempt for attempt in attempts if attempt.outcome not in HEALTHY_OUTCOMES]
        shown = (failed[0] if failed else attempts[-1]).provider
        members |= {
            "Provider": shown,
            # EMF takes a list of up to 100 values, and requests have far fewer attempts.
            "ProviderLatency": [each.latency_ms for each in attempts if each.provider == shown],
            "ProviderErrors": len(failed) or None,
            "Fallbacks": None if attempts[-1].provider == preferred else 1,
        }
    return {name: value for name, value in members.items() if value is not None}


def emf_fields(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that turn a request's complete line into metrics.

    Nothing if METRICS is off, nor for a successful request that is not a chat.
    """
    accepted = "interaction_id" in line
    failed = "code" in line or line["status"] >= HTTPStatus.BAD_REQUEST
    if not settings.METRICS or not (accepted or failed):
        return {}
    members: dict[str, Any] = {"Service": settings.SERVICE_NAME, "Requests": 1}
    if failed:
        members |= {"Errors": 1, "Code": line.get("code") or f"http_{line['status']}"}
    if accepted:  # refusals are fast, and would hide the latency of answers
        members["Latency"] = line["latency_ms"]
    if next(_line_numbers) == 0:
        members["ColdStarts"] = 1
    present = tuple(name for name in METRICS if name in members or name in line)
    timestamp = time.time_ns() // 1_000_000
    members["emf"] = {"Timestamp": timestamp, "CloudWatchMetrics": _directives(present)}
    return members


@functools.cache
def _directives(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one directive for each set of dimensions; there are few, so they are cached."""
    by_dimensions: dict[tuple[tuple[str, ...], ...], list[dict[str, str]]] = {}
    for name in names:
        metric = METRICS[name]
        definition = {"Name": name, "Unit": metric.unit}
        by_dimensions.setdefault(metric.dimensions, []).append(definition)
    return [
        {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": definitions}
        for dimensions, definitions in by_dimensions.items()
    ]
