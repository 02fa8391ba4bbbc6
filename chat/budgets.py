"""Monthly budgets of managed API keys, and of each of their users.

The write that claims a record also reserves what the request may cost; the write that settles it
puts the cost in place of the reservation. So concurrent requests exceed a budget by no more than
one request would. Keys without a budget reserve nothing.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.utils.crypto import salted_hmac

from chat.callers import Caller
from chat.storage import backend
from chat.storage.base import CounterKind, InteractionRecord, Reservation, cost_units
from chat.telemetry.context import server_timing
from providers import estimates
from providers.base import CompletionRequest, Usage
from providers.router import Route

# Output tokens assumed for a request without a limit.
ANSWER_TOKENS = 8192
# Price assumed for a model without a known one, while the request runs: 10 USD a million tokens.
UNKNOWN_TOKEN_USD = Decimal("0.00001")
# A reservation left by a crash is released this long after the request's deadline.
RELEASE_AFTER = timedelta(minutes=1)


class Budgets(NamedTuple):
    """The budgets of a key in US dollars, and what the key has spent this month."""

    monthly_usd: Decimal | None
    spent_usd: Decimal
    user_monthly_usd: Decimal | None


def reservations(
    caller: Caller, record: InteractionRecord, request: CompletionRequest, route: Route
) -> tuple[Reservation, ...]:
    """Return the reservations of a request in each budget of its key."""
    key = caller.key
    if key is None or not key.has_budget:
        return ()
    # The user's first: a request that it refuses must not reserve in the key's.
    limits = {
        (CounterKind.KEY_USER, _user_counter(key.key_id, record.user_id)): (
            key.user_monthly_budget_usd
        ),
        (CounterKind.KEY, key.key_id): key.monthly_budget_usd,
    }
    amount, until = cost_units(_estimate(request, route)), record.deadline_at + RELEASE_AFTER
    return tuple(
        Reservation(by=by, name=name, limit=cost_units(limit), amount=amount, until=until)
        for (by, name), limit in limits.items()
        if limit is not None
    )


def of_caller(caller: Caller) -> Budgets | None:
    """Return the budgets of the caller's key; None without one. Raises StorageUnavailable."""
    key = caller.key
    if key is None or not key.has_budget:
        return None
    today = datetime.now(UTC).date()
    with server_timing("storage"):
        spent = backend().usage.month(key.owner, CounterKind.KEY, key.key_id, today)
    return Budgets(
        monthly_usd=key.monthly_budget_usd,
        spent_usd=spent.cost_usd,
        user_monthly_usd=key.user_monthly_budget_usd,
    )


def _estimate(request: CompletionRequest, route: Route) -> Decimal:
    """Return an upper estimate of the cost of one answer."""
    # Of one attempt at the preferred route. What retries and fallbacks cost is counted when
    # the record is settled.
    prompt = estimates.prompt_tokens(request)
    answer = request.parameters.get("max_tokens", ANSWER_TOKENS)
    usage = Usage(prompt_tokens=prompt, completion_tokens=answer)
    price = route.provider.list_price(route.model, usage)
    return (prompt + answer) * UNKNOWN_TOKEN_USD if price is None else price


def _user_counter(key_id: str, user_id: str) -> str:
    """Return the name of a user's counter. It outlives an erasure, so it must not name the user."""
    return f"{key_id}.{salted_hmac('chat.budget', user_id, algorithm='sha256').hexdigest()}"
