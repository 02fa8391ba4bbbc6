import subprocess
import sys
import threading
from decimal import Decimal

import pytest

from providers.base import Usage
from providers.prices import cost, load_in_background

GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
USAGE = Usage(prompt_tokens=1204, completion_tokens=101, cached_tokens=1024, reasoning_tokens=87)

# A retired model, whose prices no longer change: per million tokens 0.30 dollars for input, 2.50
# for output and 0.03 for cached input.
MODEL = "gemini-2.5-flash"
PRICE = ((1204 - 1024) * Decimal("0.30") + 1024 * Decimal("0.03") + 101 * Decimal("2.50")) / 10**6


def test_cached_tokens_are_cheaper_and_reasoning_costs_like_output():
    assert cost(MODEL, USAGE, provider_id="google") == PRICE


def test_a_vendor_is_found_by_its_base_url():
    assert cost(MODEL, USAGE, provider_api_url=GOOGLE) == PRICE


def test_a_service_tier_has_its_own_price():
    def price(tier: str) -> Decimal | None:
        return cost("gpt-5-nano", USAGE, provider_id="openai", service_tier=tier)

    standard = price("default")
    assert standard
    assert price("flex") == standard / 2
    assert price("unknown") == price("") == standard


def test_unknown_cached_tokens_count_as_new():
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
def test_unknown_or_absurd_counts_have_no_cost(usage: Usage):
    assert cost(MODEL, usage, provider_id="google") is None


@pytest.mark.parametrize("model", ["", "nobody/knows", "gemini", "gemma-3", "\udcff", "x" * 10_000])
def test_a_model_without_a_price_is_not_free(model: str):
    assert cost(model, USAGE, provider_id="google") is None


@pytest.mark.parametrize("url", ["http://localhost:11434/v1", "https://llm.example.org/v1", ""])
def test_an_unknown_server_has_no_cost(url: str):
    assert cost(MODEL, USAGE, provider_api_url=url) is None


# A vendor that answers once the price list is imported, or after ten seconds.
WAITING = """
import sys, time, httpx
from providers import build
from providers.base import CompletionRequest
from providers.deadline import Deadline
from providers.errors import ProviderError
from providers.sigv4 import Keys

def answer(request):
    end = time.monotonic() + 10
    while "genai_prices.data" not in sys.modules and time.monotonic() < end:
        time.sleep(0.01)
    print("genai_prices.data" in sys.modules)
    return httpx.Response(500)

name, options = sys.argv[1], {"model": "m", "api_key": "k", "base_url": sys.argv[2]}
provider = build(name, options, httpx.MockTransport(answer))
messages = ({"role": "user", "content": "Hello?"},)
try:
    provider.complete(CompletionRequest(model="m", messages=messages), Deadline(60))
except ProviderError:
    pass
"""


def test_the_price_list_is_imported_later_without_another_thread(monkeypatch: pytest.MonkeyPatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    load_in_background.cache_clear()
    load_in_background()
    assert cost(MODEL, USAGE, provider_id="google") == PRICE


@pytest.mark.parametrize("name", ["bedrock", "gemini", "openai"])
def test_the_price_list_is_imported_while_the_vendor_answers(name: str):
    command = [sys.executable, "-c", WAITING, name, "https://vendor.example.com/v1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n", done.stderr
