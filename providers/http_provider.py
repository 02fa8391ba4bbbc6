"""The base of the vendors' adapters: calls, streams, usage and errors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar, cast

import httpx

from providers import answer_errors, estimates, parsing
from providers.base import (
    Completion,
    CompletionRequest,
    Delta,
    FinishReason,
    Message,
    Usage,
)
from providers.deadline import Deadline
from providers.errors import AddressUnknown, ModelUnavailable, ProviderError
from providers.parsing import first_known
from providers.vendor_answer import VendorAnswer, as_stream
from providers.vendor_http import (
    DONE,
    Sign,
    VendorClient,
    end_soon,
    is_stream,
    read_error,
    read_events,
    read_json,
    read_object,
)
from providers.vendor_message import vendor_message

AnswerT = TypeVar("AnswerT", bound=VendorAnswer)


class HttpProvider(ABC, Generic[AnswerT]):
    """Call a vendor. Subclasses build its requests, and read its answers and errors."""

    name: ClassVar[str]
    is_remote: ClassVar[bool] = True
    _sign: Sign | None = None

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
        self._base_url, _, self._query = base_url.partition("?")
        self._headers = self._credentials(api_key)
        # Masked in a vendor's sentences: some repeat the key that they refuse.
        self._secrets = {api_key}

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        with (
            self._reporting_usage(request) as answer,
            self._ask(request, deadline, stream=False) as response,
        ):
            self._raise_for_status(response)
            if self._is_stream(response):
                *_, completion = self._read_stream(response, request, answer)
                return cast(Completion, completion)
            return self._read_whole(response, request, answer)

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        with (
            self._reporting_usage(request) as answer,
            self._ask(request, deadline, stream=True) as response,
        ):
            self._raise_for_status(response)
            if self._is_stream(response):
                yield from self._read_stream(response, request, answer)
            else:
                yield from as_stream(self._read_whole(response, request, answer))

    @contextmanager
    def _reporting_usage(self, request: CompletionRequest) -> Iterator[AnswerT]:
        """Yield an empty answer, and report its usage when the call ends, in whatever way."""
        answer = self._new_answer(request)
        try:
            yield answer
        finally:
            if request.on_usage:
                request.on_usage(self._usage_with_estimates(answer, request))

    def _usage_with_estimates(self, answer: AnswerT, request: CompletionRequest) -> Usage:
        """Return the usage of a call, finished or not, with estimates for unreported tokens."""
        usage = self._usage(answer, request)
        if usage.reported:
            return usage
        estimated = estimates.with_estimates(usage, request, answer.message)
        if estimated is usage or estimated.cost_usd is not None:
            return estimated
        cost = self._price(answer, request, lambda model: self.list_price(model, estimated))
        return replace(estimated, cost_usd=cost)

    def _price(
        self, answer: AnswerT, request: CompletionRequest, price: Callable[[str], Decimal | None]
    ) -> Decimal | None:
        """Return the price by the model that the vendor reports, else by the requested one.

        A vendor may report a name of its own, which the price list does not have.
        """
        models = dict.fromkeys((self._model(answer, request), request.model))
        return first_known(map(price, models))

    def _usage(self, answer: AnswerT, request: CompletionRequest) -> Usage:
        """Return the usage that the vendor reported, and its cost."""
        if answer.usage is None:
            answer.usage = self._read_usage(answer, request)
        return answer.usage

    def _get(self, path: str, deadline: Deadline) -> Any:
        with self._open(path, deadline) as response:
            self._raise_for_status(response)
            return read_json(response)

    def _open(
        self, path: str, deadline: Deadline, body: Any = None, **headers: str
    ) -> AbstractContextManager[httpx.Response]:
        url = f"{self._base_url}/{path}"
        if self._query:
            url += ("&" if "?" in path else "?") + self._query
        return self._client.open(
            url,
            headers={**self._headers, **headers},
            body=body,
            deadline=deadline,
            sign=self._sign,
        )

    def _read_whole(
        self, response: httpx.Response, request: CompletionRequest, answer: AnswerT
    ) -> Completion:
        """Read an answer that is not a stream."""
        body = read_object(response)
        self._raise_error_inside(body, response.headers, answer)
        answer.add_whole(body)
        return self._completion(answer, request)

    def _read_stream(
        self, response: httpx.Response, request: CompletionRequest, answer: AnswerT
    ) -> Iterator[Delta | Completion]:
        """Yield the pieces of a stream, then the completion."""
        deltas = self._read_deltas(response, answer)
        for delta in deltas:
            yield delta._replace(model=self._model(answer, request))
            break  # the others name no model, and are not touched: there is one for each token
        yield from deltas
        if last := answer.finish():
            yield last._replace(model=self._model(answer, request))
        yield self._completion(answer, request)

    def _read_deltas(self, response: httpx.Response, answer: AnswerT) -> Iterator[Delta]:
        """Add a stream's events to the answer. Yield the part of each that clients may see.

        After the finish reason the rest must come soon, and an error or a missing end marker is
        ignored.
        """
        ending = False
        try:
            for chunk in self._read_chunks(response):
                if chunk is None:
                    return
                if (deltas := self._add_text(chunk, answer)) is not None:
                    yield from deltas
                    continue
                self._raise_error_inside(chunk, response.headers, answer)
                if delta := answer.add(chunk):
                    yield delta
                # Pieces that still come after the finish reason start the time anew.
                if answer.finished and (delta or not ending):
                    ending = True
                    end_soon(response)
        except (httpx.RequestError, ProviderError):
            if not answer.finished:
                raise
        if not answer.finished:
            raise self._truncated_stream_error(answer)

    def _truncated_stream_error(self, answer: AnswerT) -> ProviderError:
        """Return the error for a stream that ends before the answer is complete."""
        return answer_errors.truncated_stream()

    def _is_stream(self, response: httpx.Response) -> bool:
        return is_stream(response)

    def _read_chunks(self, response: httpx.Response) -> Iterator[dict[str, Any] | None]:
        """Yield the chunks of a stream, and None at its end marker if there is one.

        Raises httpx.RequestError and ProviderError.
        """
        for data in read_events(response):
            if data == DONE:
                yield None
            elif (chunk := answer_errors.event_object(data)) is not None:
                yield chunk

    def _add_text(self, chunk: dict[str, Any], answer: AnswerT) -> Sequence[Delta] | None:
        """Add a chunk that only continues the text, as most chunks of a stream do.

        Return the part that clients may see. Return None for any other chunk, without adding it.
        """
        return None

    def _raise_error_inside(
        self, body: dict[str, Any], headers: Mapping[str, str], answer: AnswerT
    ) -> None:
        """Raise the error inside a 200."""
        if body.get("error"):
            answer.add_usage(body)
            raise self._error_with_message(200, headers, body)

    def _raise_for_status(self, response: httpx.Response) -> None:
        if not response.is_success:
            body = read_error(response)
            raise self._error_with_message(response.status_code, response.headers, body)

    def _error_with_message(
        self, status: int, headers: Mapping[str, str], body: Any
    ) -> ProviderError:
        """Return the error of a body, with the vendor's sentence."""
        error = self._error(status, headers, body)
        if isinstance(error, ModelUnavailable) and not isinstance(body, dict | list):
            # HTML or plain text does not come from the vendor's API.
            error = AddressUnknown(answer_errors.NO_ADDRESS, reason=error.reason)
        error.vendor_message = vendor_message(body, secrets=self._secrets)
        return error

    def _credentials(self, api_key: str) -> dict[str, str]:
        """Return the headers that hold the key."""
        return {"authorization": f"Bearer {api_key}"} if api_key else {}

    @abstractmethod
    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        """Send the request, for one answer or for a stream."""

    @abstractmethod
    def _new_answer(self, request: CompletionRequest) -> AnswerT:
        """Return an empty answer to the request."""

    def _model(self, answer: AnswerT, request: CompletionRequest) -> str:
        """Return the model that answered."""
        return parsing.model_name(answer.model, request.model)

    @abstractmethod
    def list_price(self, model: str, usage: Usage) -> Decimal | None:
        """Return the list price of tokens in US dollars; None if it is unknown."""

    @abstractmethod
    def _read_usage(self, answer: AnswerT, request: CompletionRequest) -> Usage:
        """Return the usage that the vendor reported, and its cost."""

    def _completion(self, answer: AnswerT, request: CompletionRequest) -> Completion:
        """Return the completion of a whole answer. Raises ProviderError for an unusable one."""
        self._raise_if_unusable(answer)
        message = answer.message
        completion = Completion(
            message=message,
            model=self._model(answer, request),
            finish_reason=self._finish_reason(answer, message),
            usage=self._usage(answer, request),
            extras=answer.extras,
        )
        return answer_errors.require_content(completion, empty=self._empty_answer_error(answer))

    @abstractmethod
    def _raise_if_unusable(self, answer: AnswerT) -> None:
        """Raise the ProviderError of an answer that says that it failed."""

    @abstractmethod
    def _finish_reason(self, answer: AnswerT, message: Message) -> FinishReason:
        """Return OpenAI's finish reason for the vendor's."""

    @abstractmethod
    def _empty_answer_error(self, answer: AnswerT) -> ProviderError:
        """Return the error for an answer without content."""

    @abstractmethod
    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
        """Return the error of a body."""
