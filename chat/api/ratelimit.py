"""The rate limit: requests per minute and (key, userId), counted by django-ratelimit."""

from dataclasses import dataclass

from django_ratelimit.core import get_usage
from rest_framework.request import Request

from chat.callers import Caller
from chat.storage.errors import StorageUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitStatus:
    """The current window after this request was counted; it ends in `reset` seconds."""

    limit: int
    remaining: int
    reset: int
    exceeded: bool

    @property
    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }


def check_rate_limit(request: Request, caller: Caller, user_id: str) -> RateLimitStatus | None:
    """Count the request. Return None if the caller has no limit (0). Raises StorageUnavailable."""
    limit = caller.rate_limit
    if not limit:
        return None
    usage = get_usage(
        request,
        group="chat",
        key=lambda group, request: f"{caller.key_id} {user_id}",
        rate=f"{limit}/m",
        increment=True,
    )
    if usage is None or usage["limit"] != limit:  # django-ratelimit's sign of a failed counter
        raise StorageUnavailable
    return RateLimitStatus(
        limit=limit,
        remaining=max(0, limit - usage["count"]),
        # A window of django-ratelimit includes the second in which it ends.
        reset=max(0, usage["time_left"]) + 1,
        exceeded=usage["should_limit"],
    )
