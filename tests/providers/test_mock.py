import time
from dataclasses import replace
from decimal import Decimal

import pytest

from providers.base import Completion, CompletionRequest, Usage
from providers.errors import (
    ContentFiltered,
    DeadlineExceeded,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.mock import Mock
from tests.providers.factories import ErrorSummary, complete, error_summary


def prompt(text: str) -> CompletionRequest:
    return CompletionRequest(model="mock-1", messages=({"role": "user", "content": text},))


def bill(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        cost_usd=Decimal(0),
    )


def test_the_mock_repeats_the_last_prompt_and_counts_all_words():
    request = CompletionRequest(
        model="mock-2",
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Olá"},
            {"role": "assistant", "content": "Olá, tudo bem?"},
            {"role": "user", "content": "E  agora?\n"},
        ),
    )
    assert complete(Mock(), request) == Completion(
        message={"content": "You said: E  agora?\n"},
        model="mock-2",
        finish_reason="stop",
        usage=bill(8, 4),
    )


def test_the_mock_is_called_mock_1_unless_told_otherwise():
    assert (Mock().name, Mock().model, Mock(model="m").model) == ("mock", "mock-1", "m")


def test_the_mock_respects_max_tokens():
    request = replace(prompt("one two three"), parameters={"max_tokens": 3})
    assert complete(Mock(), request) == Completion(
        message={"content": "You said: one"},
        model="mock-1",
        finish_reason="length",
        usage=bill(3, 3),
    )
    assert complete(Mock(), replace(request, parameters={"max_tokens": 5})).finish_reason == "stop"


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("mock:fail", ErrorSummary(ProviderFailed, retry=True)),
        ("mock:fail=500", ErrorSummary(ProviderFailed, retry=True)),
        ("mock:fail=400", ErrorSummary(RequestRejected)),
        ("mock:fail=401", ErrorSummary(ProviderMisconfigured)),
        ("mock:fail=404", ErrorSummary(ModelUnavailable)),
        ("mock:fail=429", ErrorSummary(ProviderOverloaded, retry=True)),
        ("mock:fail=503", ErrorSummary(ProviderOverloaded, retry=True)),
        ("mock:fail=timeout", ErrorSummary(DeadlineExceeded)),
        ("mock:fail=garbled", ErrorSummary(ProviderFailed)),
        ("mock:empty", ErrorSummary(ProviderFailed)),
        ("mock:filter", ErrorSummary(ContentFiltered)),
    ],
)
def test_directives_make_the_mock_fail(directive: str, expected: ErrorSummary):
    assert error_summary(Mock(), prompt(f"Please\n{directive} now")) == expected
    assert error_summary(Mock(directives=directive), prompt("Hi")) == expected


def test_the_length_directive_gives_an_empty_answer():
    assert complete(Mock(), prompt("mock:length")) == Completion(
        message={}, model="mock-1", finish_reason="length", usage=bill(1, 0)
    )


def test_directives_in_the_prompt_override_the_option():
    mock = Mock(directives="mock:fail mock:delay=9999")
    assert complete(mock, prompt("mock:ok mock:delay=0")).finish_reason == "stop"
    assert error_summary(mock, prompt("mock:filter mock:delay=0")) == ErrorSummary(ContentFiltered)


@pytest.mark.parametrize(
    "text",
    [
        "mock:",
        "mock:what",
        "mock:fail=",
        "mock:fail=200",
        "mock:fail=4290",
        "mock:fail=never",
        "mock:delay",
        "mock:delay=",
        "mock:delay=-1",
        "mock:delay=1e9",
        "mock:delay=inf",
        "mock:delay=99999",
        "mock:empty=1",
        "mock:fail.",
        "(mock:fail)",
        "amock:fail",
        "MOCK:FAIL",
    ],
)
def test_malformed_directives_are_text(text: str):
    assert complete(Mock(), prompt(text)).text == f"You said: {text}"


def test_the_delay_directive_delays_the_answer():
    started = time.monotonic()
    assert complete(Mock(), prompt("mock:delay=0.1 Hi")).text == "You said: mock:delay=0.1 Hi"
    assert 0.1 <= time.monotonic() - started < 5.0


@pytest.mark.parametrize("text", ["mock:delay=30", "mock:delay=30 mock:fail", "mock:delay=0.1"])
def test_the_mock_respects_the_deadline(text: str):
    started = time.monotonic()
    assert error_summary(Mock(), prompt(text), seconds=0.05) == ErrorSummary(DeadlineExceeded)
    assert 0.05 <= time.monotonic() - started < 5.0


def test_lone_surrogates_are_replaced():
    assert complete(Mock(), prompt("a\ud800")).text == "You said: a\ufffd"
