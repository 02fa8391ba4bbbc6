"""The rate limit: requests per minute, counted by django-ratelimit.

A key's own limit counts the whole key; RATE_LIMIT_PER_MINUTE counts each (key, userId).
"""

from django_ratelimit.core import get_usage
from rest_framework.request import Request

from chat.callers import Caller
from chat.errors import RateLimited
from chat.storage.errors import StorageUnavailable


def check_rate_limit(request: Request, caller: Caller, user_id: str) -> dict[str, str]:
    """Count the request, and return the headers of its response; none without a limit (0).

    Raises RateLimited, StorageUnavailable.
    """
    limit = caller.rate_limit
    if not limit:
        return {}
    counted = caller.key_id if caller.has_own_rate_limit else f"{caller.key_id} {user_id}"
    usage = get_usage(
        request,
        group="chat",
        key=lambda group, request: counted,
        rate=f"{limit}/m",
        increment=True,
    )
    if usage is None or usage["limit"] != limit:  # django-ratelimit's sign of a failed counter
        raise StorageUnavailable
    # A window of django-ratelimit includes the second in which it ends.
    reset = max(0, usage["time_left"]) + 1
    headers = {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(max(0, limit - usage["count"])),
        "X-RateLimit-Reset": str(reset),
    }
    if usage["should_limit"]:
        detail = f"No more than {limit} requests a minute."
        raise RateLimited(detail, retry_after=reset, headers=headers)
    return headers
