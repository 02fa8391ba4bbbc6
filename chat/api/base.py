"""The view that all others extend."""

from collections.abc import Callable
from typing import Any, cast

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from chat.api import ratelimit
from chat.api.authentication import Caller
from chat.errors import MalformedJson, RateLimited
from chat.telemetry.context import add_log_fields, server_timing
from providers.base import Deadline

# What Lambda must have left when the deadline comes, to write the outcome and to answer.
SETTLE_SECONDS = 3.0


class BaseAPIView(APIView):
    """A view that authenticates before it looks at anything else, and counts when told to."""

    allowance: ratelimit.RateLimitStatus | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.perform_authentication(request)
        super().initial(request, *args, **kwargs)

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)
        if self.caller:
            add_log_fields(owner=self.caller.owner)

    @property
    def caller(self) -> Caller:
        return cast(Caller, self.request.user)

    def body(self, shape: Serializer[Any]) -> dict[str, Any]:
        """The request's body in the given shape.

        Raises MalformedJson, PayloadTooLarge, or DRF's own exceptions for what is not in it.
        """
        if self.request.META.get("CONTENT_LENGTH", "") in ("", "0"):
            raise MalformedJson("The body is empty.")
        validated: dict[str, Any] = shape.run_validation(self.request.data)
        return validated

    def deadline(self, abandoned: Callable[[], bool] | None = None) -> Deadline:
        """When the request has to be done: on Lambda, in time to settle before it is stopped."""
        seconds = settings.REQUEST_TIMEOUT_SECONDS
        if context := self.request.META.get("apig_wsgi.context"):
            left = context.get_remaining_time_in_millis() / 1000 - SETTLE_SECONDS
            seconds = min(seconds, left)
        return Deadline(seconds, abandoned)

    def count(self, user_id: str) -> None:
        """Count the request against its limit. Raises RateLimited."""
        with server_timing("storage"):
            self.allowance = ratelimit.check_rate_limit(self.request, self.caller, user_id)
        if self.allowance and self.allowance.exceeded:
            raise RateLimited(
                f"No more than {self.allowance.limit} requests a minute.",
                retry_after=self.allowance.reset,
            )

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        if self.allowance:
            self.headers = {**self.headers, **self.allowance.headers}
        return super().finalize_response(request, response, *args, **kwargs)
