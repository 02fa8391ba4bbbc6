"""Monthly budgets of managed API keys."""

from datetime import UTC, datetime

from chat.callers import Caller
from chat.errors import BudgetExceeded
from chat.storage import backend
from chat.storage.base import CounterKind
from chat.telemetry.context import server_timing


def enforce_budget(caller: Caller) -> None:
    """Refuse the request once the key's recorded cost has reached its monthly budget.

    Requests in flight are not counted, because their cost is known only afterwards. Raises
    BudgetExceeded, StorageUnavailable.
    """
    key = caller.key
    if key is None or key.monthly_budget_usd is None:
        return
    today = datetime.now(UTC).date()
    with server_timing("storage"):
        spent = backend().usage.month(key.owner, CounterKind.KEY, key.key_id, today)
    if spent.cost_usd >= key.monthly_budget_usd:
        raise BudgetExceeded
