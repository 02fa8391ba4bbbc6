"""What calls used whose vendor reported nothing, or in its own way."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from providers import prices, reported_usage
from providers.base import CompletionRequest, Provider, Usage
from providers.deadline import Deadline
from providers.errors import ProviderError
from providers.estimates import MEDIA_TOKENS, prompt_tokens, with_estimates
from providers.gemini import Gemini
from providers.mock import Mock
from providers.openai import OpenAI
from providers.openrouter import OpenRouter
from providers.router import Attempt, Router
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, SOON, StubVendor, chunk

MODEL = "google/gemini-2.5-flash"  # retired: its price stays
PROMPT = "x" * 396  # with the role's name 400 characters: 100 tokens
REQUEST = CompletionRequest(model=MODEL, messages=({"role": "user", "content": PROMPT},))
ESTIMATE = Usage(
    prompt_tokens=100,
    completion_tokens=10,
    total_tokens=110,
    cost_usd=(100 * Decimal("0.30") + 10 * Decimal("2.50")) / 10**6,
    estimated=True,
)
FORTY = chunk("y" * 40)


@pytest.fixture
def openrouter(stub_vendor: StubVendor) -> OpenRouter:
    return OpenRouter(api_key="k", base_url=f"{stub_vendor.url}/v1", model=MODEL)


def attempts_of(
    provider: Provider, *, stream: bool = False, leave_after: int | None = None
) -> list[Attempt]:
    """Ask through a router, and return the attempts."""
    router, attempts = Router([provider], backoff_seconds=0), list[Attempt]()

    def keep(attempt: Attempt, error: ProviderError | None) -> None:
        attempts.append(attempt)

    asked = (router.routes(None), REQUEST, Deadline(20), keep)
    try:
        if not stream:
            router.complete(*asked)
            return attempts
        events = router.stream(*asked)
        for _ in range(1000 if leave_after is None else leave_after):
            if next(events, None) is None:
                break
        events.close()
    except ProviderError:
        pass
    return attempts


@pytest.fixture(params=["left", "cut", "error", "complete"])
def unreported(request: pytest.FixtureRequest, stub_vendor: StubVendor) -> Iterator[dict[str, Any]]:
    """Script an answer of 40 characters without usage, ended in each way."""
    error = 'data: {"error": {"code": 503}}\n\n'
    end = {"left": [SOON], "cut": [], "error": [error], "complete": [FINISH, DONE]}[request.param]
    if request.param == "left":
        stub_vendor.stream([FORTY, chunk("never")], gap=[0, 20])
        yield {"leave_after": 1}
    else:
        stub_vendor.stream([FORTY, *end])
        yield {}


def test_an_answer_without_usage_is_estimated_however_it_ends(
    openrouter: OpenRouter, unreported: dict[str, Any]
) -> None:
    [attempt] = attempts_of(openrouter, stream=True, **unreported)
    assert attempt.usage == ESTIMATE


def test_a_plain_answer_without_usage_is_estimated(
    stub_vendor: StubVendor, openrouter: OpenRouter
) -> None:
    message = {"role": "assistant", "content": "y" * 40}
    stub_vendor.reply({"choices": [{"message": message, "finish_reason": "content_filter"}]})
    [attempt] = attempts_of(openrouter)
    assert (attempt.outcome, attempt.usage) == ("ok", ESTIMATE)


def test_an_unknown_name_of_the_vendor_has_the_price_of_the_requested_model(
    stub_vendor: StubVendor, openrouter: OpenRouter
) -> None:
    stub_vendor.reply(OPENAI_ANSWER | {"model": "a-name-of-its-own"})  # 9 and 5 tokens
    assert openrouter.complete(REQUEST, Deadline(20)).usage.cost_usd == Decimal("0.0000152")


def test_usage_reported_before_an_early_end_counts(
    stub_vendor: StubVendor, openrouter: OpenRouter
) -> None:
    used = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15, "cost": 0.25}
    stub_vendor.stream([FORTY, chunk("z", usage=used), chunk("never")], gap=[0, 0, 20])
    [attempt] = attempts_of(openrouter, stream=True, leave_after=2)
    assert attempt == Attempt(
        provider="openrouter",
        model=MODEL,
        outcome="aborted",
        latency_ms=attempt.latency_ms,
        usage=Usage(
            prompt_tokens=7, completion_tokens=8, total_tokens=15, cost_usd=Decimal("0.25")
        ),
    )


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_an_answer_used_nothing(
    stub_vendor: StubVendor, openrouter: OpenRouter, status: int, stream: bool
) -> None:
    stub_vendor.reply({"error": {"code": status, "message": "no"}}, status=status)
    assert {attempt.usage for attempt in attempts_of(openrouter, stream=stream)} == {Usage()}


def test_each_failed_attempt_has_its_usage(stub_vendor: StubVendor) -> None:
    gemini = Gemini(api_key="k", base_url=f"{stub_vendor.url}/v1beta", model="gemini-2.5-flash")
    stub_vendor.reply(
        {
            "candidates": [{"content": {}, "finishReason": "MALFORMED_FUNCTION_CALL"}],
            "usageMetadata": {"promptTokenCount": 50000, "thoughtsTokenCount": 2000},
        }
    )
    attempts = attempts_of(gemini)
    assert [attempt.usage.total_tokens for attempt in attempts] == [52000] * 3
    assert {attempt.usage.cost_usd for attempt in attempts} == {Decimal("0.02")}


def test_an_error_beside_a_usage_has_used_it(
    stub_vendor: StubVendor, openrouter: OpenRouter
) -> None:
    stub_vendor.reply(OPENAI_ANSWER | {"error": {"code": 400, "message": "no"}})
    [attempt] = attempts_of(openrouter)
    assert (attempt.outcome, attempt.usage.total_tokens) == ("provider_rejected", 14)


def test_an_abandoned_stream_of_the_mock_is_estimated_at_no_cost() -> None:
    [attempt] = attempts_of(Mock(directives="mock:pace=0.01"), stream=True, leave_after=2)
    assert (attempt.usage.estimated, attempt.usage.cost_usd) == (True, 0)
    assert attempt.usage.total_tokens


def test_four_bytes_are_a_token_and_media_are_of_one_size() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 10**6}}
    request = CompletionRequest(model="m", messages=({"content": [image, sound, "ação"]},))
    assert prompt_tokens(request) - 2 * MEDIA_TOKENS in range(1, 12)
    assert with_estimates(Usage(), request, {"content": "é" * 8}).completion_tokens == 4


@pytest.mark.parametrize(
    ("reported", "prompt", "answer", "total"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, 10, 5, 15),
        (  # xAI
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "prompt_tokens_details": {"cached_tokens": 6},
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            32,
            103,
            135,
        ),
        # Google's compatible address
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 75}, 10, 65, 75),
        (  # OpenAI: both are included
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60},
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            100,
            50,
            150,
        ),
        (  # Anthropic's way of counting, the total left out or of the two alone
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 200,
            },
            1210,
            5,
            1215,
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 145,
                "prompt_tokens_details": {"cached_tokens": 40},
            },
            140,
            5,
            145,
        ),
    ],
)
def test_every_vendors_count_includes_cached_tokens_and_thoughts(
    reported: dict[str, Any], prompt: int, answer: int, total: int
) -> None:
    usage = reported_usage.tokens(reported)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, answer)
    assert usage.total_tokens == total


@pytest.mark.parametrize(
    ("cost", "usd"),
    [
        ({"cost": 0.02}, "0.02"),
        ({"cost": {"total_cost": 0.006}}, "0.006"),
        ({"estimated_cost": 0.0001}, "0.0001"),
        ({"cost_in_usd_ticks": 37756000}, "0.0037756"),
        ({"cost": "free"}, None),
    ],
)
def test_a_vendors_own_cost_wins(
    stub_vendor: StubVendor, cost: dict[str, Any], usd: str | None
) -> None:
    openai = OpenAI(api_key="k", base_url=f"{stub_vendor.url}/v1", model="model-1")
    stub_vendor.reply(OPENAI_ANSWER | {"usage": OPENAI_ANSWER["usage"] | cost})
    completion = openai.complete(REQUEST, Deadline(20))
    assert completion.usage.cost_usd == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://eu.api.openai.com/v1", "gpt-4o"),
        ("https://us-east-1.api.x.ai/v1", "grok-3-mini"),
        ("https://api.eu.mistral.ai/v1", "mistral-large-latest"),
        ("https://team.openai.azure.com/openai/v1", "gpt-4o-2024-08-06"),
        ("https://team.cognitiveservices.azure.com/openai/v1", "gpt-4o"),
        ("https://eastus.api.cognitive.microsoft.com/openai/v1", "gpt-4o"),
        ("https://team.services.ai.azure.com/openai/v1", "gpt-4o"),
    ],
)
def test_regional_and_azure_hosts_have_prices(url: str, model: str) -> None:
    usage = Usage(prompt_tokens=1000, completion_tokens=1000)
    assert prices.cost(model, usage, provider_api_url=url)
