"""The calls that all vendors' adapters have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import httpx

from providers import parsing
from providers.base import Completion, CompletionRequest, Delta
from providers.deadline import Deadline
from providers.errors import ProviderError
from providers.parsing import get_path
from providers.vendor_http import VendorClient, is_stream, read_json, read_object


class HttpProvider(ABC):
    """Call a vendor. Subclasses build its requests, and read its answers and errors."""

    name: ClassVar[str]
    is_remote: ClassVar[bool] = True

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        model: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.model = model
        self._client = VendorClient(transport)
        self._base_url = base_url
        self._headers = self._credentials(api_key)

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        with self._ask(request, deadline, stream=False) as response:
            self._raise_for_status(response)
            return self._whole(response, request)

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        with self._ask(request, deadline, stream=True) as response:
            self._raise_for_status(response)
            if is_stream(response):
                yield from self._read_stream(response, request)
            else:  # some servers do not stream, whatever the request says
                yield from parsing.as_stream(self._whole(response, request))

    def _get(self, path: str, deadline: Deadline) -> Any:
        with self._open(path, deadline) as response:
            self._raise_for_status(response)
            return read_json(response)

    def _open(
        self, path: str, deadline: Deadline, body: Any = None, **headers: str
    ) -> AbstractContextManager[httpx.Response]:
        return self._client.open(
            f"{self._base_url}/{path}",
            headers={**self._headers, **headers},
            body=body,
            deadline=deadline,
        )

    def _whole(self, response: httpx.Response, request: CompletionRequest) -> Completion:
        """Read an answer that is not a stream."""
        body = read_object(response)
        self._raise_error_inside(body, response.headers)
        return self._completion(body, request)

    def _raise_error_inside(self, body: Any, headers: Mapping[str, str]) -> None:
        """Raise the error inside a 200, which stands in the body or in its first choice."""
        for envelope in (body, get_path(body, "choices", 0)):
            if get_path(envelope, "error"):
                raise self._error(200, headers, envelope)

    def _raise_for_status(self, response: httpx.Response) -> None:
        if not response.is_success:
            raise self._error(response.status_code, response.headers, read_json(response))

    def _credentials(self, api_key: str) -> dict[str, str]:
        """Return the headers that hold the key."""
        return {"authorization": f"Bearer {api_key}"} if api_key else {}

    @abstractmethod
    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        """Send the request, for one answer or for a stream."""

    @abstractmethod
    def _completion(self, body: dict[str, Any], request: CompletionRequest) -> Completion:
        """Return the completion in the body of a 200."""

    @abstractmethod
    def _read_stream(
        self, response: httpx.Response, request: CompletionRequest
    ) -> Iterator[Delta | Completion]:
        """Yield the pieces of a stream, then the completion."""

    @abstractmethod
    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
        """Return the error of a body."""
