from decimal import Decimal

import pytest

from providers.base import Usage
from providers.prices import cost

GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
USAGE = Usage(prompt_tokens=1204, completion_tokens=101, cached_tokens=1024, reasoning_tokens=87)

# Prices of a model that is on its way out, so that they will not change any more: 0.30 and 2.50
# dollars a million tokens, and 0.03 for cached ones.
MODEL = "gemini-2.5-flash"
PRICE = ((1204 - 1024) * Decimal("0.30") + 1024 * Decimal("0.03") + 101 * Decimal("2.50")) / 10**6


def test_cached_tokens_are_cheaper_and_thoughts_are_part_of_the_answer():
    assert cost(MODEL, USAGE, provider_id="google") == PRICE


def test_a_vendor_is_told_by_its_address():
    assert cost(MODEL, USAGE, provider_api_url=GOOGLE) == PRICE


def test_without_word_of_a_cache_every_token_is_new():
    usage = Usage(prompt_tokens=1000, completion_tokens=0)
    assert cost(MODEL, usage, provider_id="google") == Decimal("0.0003")


def test_no_tokens_cost_nothing():
    assert cost(MODEL, Usage(prompt_tokens=0, completion_tokens=0), provider_id="google") == 0


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(prompt_tokens=5),
        Usage(completion_tokens=5),
        Usage(total_tokens=5),
        Usage(prompt_tokens=5, completion_tokens=5, cached_tokens=6),
        Usage(prompt_tokens=2**53, completion_tokens=2**53),
    ],
)
def test_a_cost_is_unknown_for_counts_that_are_unknown_or_absurd(usage: Usage):
    assert cost(MODEL, usage, provider_id="google") is None


@pytest.mark.parametrize("model", ["", "nobody/knows", "gemini", "gemma-3", "\udcff", "x" * 10_000])
def test_a_model_without_a_price_is_not_free(model: str):
    assert cost(model, USAGE, provider_id="google") is None


@pytest.mark.parametrize("url", ["http://localhost:11434/v1", "https://llm.example.org/v1", ""])
def test_an_unknown_server_has_no_price_list(url: str):
    assert cost(MODEL, USAGE, provider_api_url=url) is None
