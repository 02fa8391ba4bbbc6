"""Whatever a vendor sends, a provider returns a valid completion or raises a ProviderError."""

import json
from typing import Any, get_args

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import build
from providers.answer_errors import CONTENT_FIELDS
from providers.base import Completion, FinishReason
from providers.errors import ProviderError
from tests.providers.factories import FIXTURES, KEY, REQUEST, complete, load_recording

PROSE = "what the vendor has to say"

VENDORS = ("openai", "openrouter", "gemini", "bedrock")

EVERY = [load_recording(path.stem) for path in sorted(FIXTURES.glob("*.json"))]
RECORDED = [answer for answer in EVERY if "body" in answer]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path]
    for key, item in inside:
        found += paths(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]
    return found


KEYS = sorted(
    {key for answer in RECORDED for path in paths(answer["body"]) for key in path[-1:]}, key=str
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**53 - 2, max_value=2**64)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(
        ["stop", "length", "STOP", "MAX_TOKENS", "end_turn", "error", "429", "17s", PROSE, KEY]
    )
)
values = st.recursive(
    scalars,
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.sampled_from([key for key in KEYS if isinstance(key, str)]), inside)
    ),
    max_leaves=30,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A recorded body with one to three values replaced or removed."""
    body = json.loads(json.dumps(draw(st.sampled_from(RECORDED))["body"]))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(body)))
        if not path:
            continue
        parent = body
        for step in path[:-1]:
            parent = parent[step]
        if draw(st.booleans()):
            parent[path[-1]] = draw(values)
        else:
            del parent[path[-1]]
    return body


statuses = (
    st.just(200) | st.sampled_from(sorted({a["status"] for a in RECORDED})) | st.integers(100, 999)
)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "x-ratelimit-reset", "content-type", "x-amzn-errortype"]),
    st.text(st.characters(max_codepoint=255), max_size=30) | st.integers().map(str),
)


def check(vendor: str, answer: httpx.Response) -> None:
    options = {"api_key": KEY, "base_url": "http://localhost", "model": "model-1"}
    provider = build(vendor, options, httpx.MockTransport(lambda _: answer))
    try:
        completion = complete(provider, REQUEST)
    except ProviderError as error:
        check_error(error)
    else:
        check_completion(completion)


def check_completion(completion: Completion) -> None:
    usage = completion.usage
    assert orjson.dumps([completion.message, completion.extras, completion.model])
    assert completion.finish_reason == "length" or CONTENT_FIELDS & completion.message.keys()
    assert completion.finish_reason in get_args(FinishReason)
    assert 0 < len(completion.model) <= 256
    for count in (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
    ):
        assert count is None or (type(count) is int and 0 <= count <= 2**53)
    assert usage.cost_usd is None or (usage.cost_usd.is_finite() and usage.cost_usd >= 0)


def check_error(error: ProviderError) -> None:
    assert PROSE not in f"{error} {error.reason}"
    assert (str(error) + error.reason).isascii()
    assert error.retry_after is None or 0 <= error.retry_after <= 86_400


def told(status: int, fields: dict[str, str], body: bytes) -> httpx.Response:
    # As bytes: httpx refuses some texts as header values.
    raw = [(name, value.encode("latin-1")) for name, value in fields.items()]
    headers = [(name.encode(), value) for name, value in raw]
    return httpx.Response(status, headers=headers, content=body)


@pytest.mark.parametrize("vendor", VENDORS)
@given(status=statuses, fields=headers, body=values)
def test_any_json_gives_a_completion_or_a_provider_error(
    vendor: str, status: int, fields: dict[str, str], body: Any
):
    check(vendor, told(status, fields, json.dumps(body).encode()))


@pytest.mark.parametrize("vendor", VENDORS)
@given(status=statuses, fields=headers, body=damaged())
def test_a_damaged_body_gives_a_completion_or_a_provider_error(
    vendor: str, status: int, fields: dict[str, str], body: Any
):
    check(vendor, told(status, fields, json.dumps(body).encode()))


@pytest.mark.parametrize("vendor", VENDORS)
@given(status=statuses, fields=headers, body=st.binary())
def test_any_bytes_give_a_completion_or_a_provider_error(
    vendor: str, status: int, fields: dict[str, str], body: bytes
):
    check(vendor, told(status, fields, body))
