import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import ClassVar

import pytest

from providers.base import Completion, CompletionRequest, Deadline, Delta
from providers.errors import (
    ContentFiltered,
    EmptyAnswer,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
)
from providers.router import Attempt, Router
from tests.providers.factories import Attempts

REQUEST = CompletionRequest(model="default", messages=({"role": "user", "content": "Hi"},))
COMPLETION = Completion(message={"content": "Hello."}, model="model-1", finish_reason="stop")
HEL, LO = Delta({"content": "Hel"}), Delta({"content": "lo."})


class FakeProvider:
    """Give what is scripted for each call; an exception among it is raised."""

    is_remote: ClassVar[bool] = True
    model = "model-1"

    def __init__(self, name: str, *calls: Sequence[Delta | Completion | Exception]) -> None:
        self.name = name
        self.calls = list(calls)
        self.closed = False

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        [completion] = self.stream(request, deadline)
        assert isinstance(completion, Completion)
        return completion

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        assert request.model == self.model
        try:
            for event in self.calls.pop(0):
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True

    def unsupported(self, request: CompletionRequest) -> list[str]:
        raise NotImplementedError

    def check(self, deadline: Deadline) -> None:
        raise NotImplementedError

    def list_models(self, deadline: Deadline) -> list[str]:
        raise NotImplementedError


def failed(code: str = "fails") -> ProviderFailed:
    return ProviderFailed(code, retry=False)


def outcomes(attempts: list[Attempt]) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.outcome) for attempt in attempts]


def test_a_completion_comes_with_its_route_and_every_attempt() -> None:
    router = Router([FakeProvider("a", [failed()]), FakeProvider("b", [COMPLETION])])
    routes, attempts = router.routes(None), Attempts()
    answer = router.complete(routes, REQUEST, Deadline(5), attempts.add)
    assert answer == (routes[1], COMPLETION)
    assert outcomes(attempts) == [("a", "provider_error"), ("b", "ok")]


def test_attempts_are_reported_when_all_routes_fail() -> None:
    router = Router([FakeProvider("a", [failed("first")]), FakeProvider("b", [failed()])])
    attempts = Attempts()
    with pytest.raises(ProviderFailed, match="first"):
        router.complete(router.routes(None), REQUEST, Deadline(5), attempts.add)
    assert outcomes(attempts) == [("a", "provider_error"), ("b", "provider_error")]


def test_each_event_of_a_stream_comes_with_its_route() -> None:
    router = Router([FakeProvider("a", [failed()]), FakeProvider("b", [HEL, LO, COMPLETION])])
    routes, attempts = router.routes(None), Attempts()
    events = router.stream(routes, REQUEST, Deadline(5), attempts.add)
    assert next(events) == (routes[1], HEL)
    assert outcomes(attempts) == [("a", "provider_error")]
    assert list(events) == [(routes[1], LO), (routes[1], COMPLETION)]
    assert outcomes(attempts) == [("a", "provider_error"), ("b", "ok")]


@pytest.mark.parametrize("events", [0, 1, 2])
def test_closing_a_stream_aborts_its_attempt_and_ends_the_call(events: int) -> None:
    provider = FakeProvider("a", [HEL, LO, COMPLETION])
    router, attempts = Router([provider]), Attempts()
    stream = router.stream(router.routes(None), REQUEST, Deadline(5), attempts.add)
    for _ in range(events):
        next(stream)
    stream.close()
    assert outcomes(attempts) == ([("a", "aborted")] if events else [])
    assert provider.closed is bool(events)


def test_an_error_after_the_first_piece_is_final() -> None:
    router = Router([FakeProvider("a", [HEL, failed()]), FakeProvider("b", [COMPLETION])])
    attempts = Attempts()
    stream = router.stream(router.routes(None), REQUEST, Deadline(5), attempts.add)
    next(stream)
    with pytest.raises(ProviderFailed):
        next(stream)
    assert outcomes(attempts) == [("a", "provider_error")]


@pytest.mark.parametrize("started", [[], [HEL]])
def test_refused_content_does_not_open_the_circuit(started: list[Delta]) -> None:
    refused = [*started, ContentFiltered("filtered")]
    router = Router([FakeProvider("a", refused, [COMPLETION])], threshold=1)
    attempts = Attempts()
    with pytest.raises(ProviderError):
        list(router.stream(router.routes(None), REQUEST, Deadline(5), attempts.add))
    router.complete(router.routes(None), REQUEST, Deadline(5), attempts.add)
    assert outcomes(attempts) == [("a", "content_filtered"), ("a", "ok")]


@pytest.mark.parametrize(
    "trial",
    [[ModelUnavailable("unknown")], [failed()], [RuntimeError("bug")], [HEL, LO, COMPLETION]],
    ids=["model unavailable", "no retry", "internal error", "the client leaves"],
)
def test_a_trial_call_that_says_nothing_of_the_provider_s_health_is_followed_by_another(
    trial: list[Delta | Completion | Exception],
) -> None:
    provider = FakeProvider("a", [ProviderFailed("down")], trial, [COMPLETION])
    router, attempts = Router([provider], threshold=1, reset_timeout=0.05), Attempts()
    arguments = (router.routes(None), REQUEST, Deadline(5), attempts.add)
    with pytest.raises(ProviderFailed):
        router.complete(*arguments)
    time.sleep(0.06)
    with closing(router.stream(*arguments)) as stream, suppress(ProviderError, RuntimeError):
        next(stream)
    assert router.complete(*arguments)[1] == COMPLETION


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_an_empty_answer_is_asked_for_once_more(way: str) -> None:
    for calls in ([[COMPLETION]], [[EmptyAnswer("empty")], [COMPLETION]]):
        provider = FakeProvider("a", [EmptyAnswer("empty")], *calls)
        router, attempts = Router([provider], backoff_seconds=0), Attempts()
        ask = getattr(router, way)
        if len(calls) == 1:
            ((*_, answer),) = [ask(router.routes(None), REQUEST, Deadline(5), attempts.add)]
            assert answer in (COMPLETION, (router.routes(None)[0], COMPLETION))
            assert outcomes(attempts) == [("a", "provider_error"), ("a", "ok")]
        else:
            with pytest.raises(EmptyAnswer):
                list(ask(router.routes(None), REQUEST, Deadline(5), attempts.add))
            assert outcomes(attempts) == [("a", "provider_error")] * 2


def test_an_unexpected_exception_is_an_attempt() -> None:
    router = Router([FakeProvider("a", [RuntimeError("bug")])])
    attempts = Attempts()
    with pytest.raises(RuntimeError):
        router.complete(router.routes(None), REQUEST, Deadline(5), attempts.add)
    assert outcomes(attempts) == [("a", "internal_error")]
