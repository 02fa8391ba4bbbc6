"""Requests per minute, counted by django-ratelimit for each (key, userId)."""

from dataclasses import dataclass

from django_ratelimit.core import get_usage
from rest_framework.request import Request

from chat.api.authentication import Caller
from chat.errors import StorageUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitStatus:
    """What is left of the present window, this request counted; `reset` is in seconds."""

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
    """Count this request; None when the caller's limit is 0, which is no limit."""
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
    if usage is None or usage["limit"] != limit:  # how django-ratelimit says that it cannot count
        raise StorageUnavailable
    return RateLimitStatus(
        limit=limit,
        remaining=max(0, limit - usage["count"]),
        # The second in which a window of django-ratelimit ends is still a part of it.
        reset=max(0, usage["time_left"]) + 1,
        exceeded=usage["should_limit"],
    )
