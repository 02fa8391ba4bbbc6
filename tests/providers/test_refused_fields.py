"""A field that we added and that a server does not know is left out of the next try."""

from contextlib import suppress
from typing import Any

import pytest

from providers.base import Completion
from providers.deadline import Deadline
from providers.errors import RequestRejected
from providers.openai import OpenAI
from providers.router import Router
from tests.providers.factories import KEY, REQUEST, Attempts
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, StubVendor, chunk

OURS = REQUEST._replace(end_user="3f1c", parameters={"max_tokens": 64})
STREAM = [chunk("Hi."), FINISH, DONE]


@pytest.fixture
def openai(stub_vendor: StubVendor) -> OpenAI:
    return OpenAI(api_key=KEY, base_url=stub_vendor.url, model="model-1")


def ask(openai: OpenAI, request: Any = OURS, *, stream: bool = False) -> list[str]:
    """Return the outcomes of a request's attempts."""
    attempts = Attempts()
    router = Router([openai], backoff_seconds=0)
    routes = router.routes(None)
    with suppress(RequestRejected):
        if stream:
            *_, (_, last) = router.stream(routes, request, Deadline(20), attempts.add)
            assert isinstance(last, Completion)
        else:
            router.complete(routes, request, Deadline(20), attempts.add)
    return [attempt.outcome for attempt in attempts]


def said(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"} | fields}


def invalid(*path: str, msg: str = "Extra inputs are not permitted") -> dict[str, Any]:
    """Return a detail of FastAPI's."""
    return {"type": "extra_forbidden", "loc": ["body", *path], "msg": msg, "input": "…"}


USER: list[Any] = [
    said("Unrecognized request argument supplied: user"),
    said("'user' : property is unsupported"),
    said("property 'user' is unsupported"),
    said("Unknown parameter: 'user'.", param="user", code="unknown_parameter"),
    said("no", param="user"),
    said("Completions.create() got an unexpected keyword argument 'user'"),
    said("Additional properties are not allowed ('user' was unexpected)"),
    said("Argument not supported on this model: user"),
    said("Unsupported parameter(s): `user`"),
    said("This model does not support the parameter user"),
    said("user: Extra inputs are not permitted"),
    said("extraneous key [user] is not permitted"),
    said("unknown field `user`, expected one of `model`, `messages`, `max_tokens`"),
    said('Invalid JSON payload received. Unknown name "user": Cannot find field.'),
    {"error": 'json: unknown field "user"'},
    {"message": "The parameter `user` is not supported", "code": 400},
    {"detail": [invalid("user")]},
    {"detail": [invalid("user", msg="extra fields not permitted")]},
    {"object": "error", "message": {"detail": [invalid("user")]}, "param": None},
    {"object": "error", "message": f"[{invalid('user')}]", "type": "BadRequestError", "code": 400},
    {"errors": [{"message": "unknown field `user`, expected one of `model`, `messages`"}]},
    said("no", metadata={"raw": '{"error": {"message": "unknown field user"}}'}),
    "Unrecognized request argument supplied: user",
]


@pytest.mark.parametrize("error", USER, ids=str)
@pytest.mark.parametrize("status", [400, 422])
def test_user_is_left_out_and_the_next_request_has_none(
    stub_vendor: StubVendor, openai: OpenAI, error: Any, status: int
):
    kind = "text/plain" if isinstance(error, str) else "application/json"
    stub_vendor.reply(error, status=status, headers={"content-type": kind})
    stub_vendor.reply(OPENAI_ANSWER)
    assert ask(openai) == ["provider_rejected", "ok"]
    assert ask(openai) == ["ok"]
    first, *others = [sent.json for sent in stub_vendor.requests]
    assert first["user"] == "3f1c"
    assert others == [{name: first[name] for name in ("model", "messages", "max_tokens")}] * 2


@pytest.mark.parametrize(
    "error",
    [
        said("Unknown parameter: 'stream_options'"),
        said("Unknown parameter: 'stream_options.include_usage'."),
        said("Unrecognized request argument supplied: stream_options"),
        said("no", param="stream_options.include_usage"),
        {"object": "error", "message": {"detail": [invalid("stream_options", "include_usage")]}},
    ],
    ids=str,
)
def test_stream_options_are_left_out(
    stub_vendor: StubVendor, openai: OpenAI, error: dict[str, Any]
):
    stub_vendor.reply(error, status=422)
    stub_vendor.stream(STREAM)
    assert ask(openai, stream=True) == ["provider_rejected", "ok"]
    first, second = [sent.json for sent in stub_vendor.requests]
    assert first.pop("stream_options") == {"include_usage": True}
    assert second == first


def test_a_client_keeps_its_own_stream_options(stub_vendor: StubVendor, openai: OpenAI):
    own = {"include_obfuscation": False}
    request = OURS._replace(parameters={"stream_options": own})
    stub_vendor.reply(said("Unknown parameter: 'stream_options.include_usage'."), status=400)
    stub_vendor.stream(STREAM)
    assert ask(openai, request, stream=True) == ["provider_rejected", "ok"]
    first, second = [sent.json["stream_options"] for sent in stub_vendor.requests]
    assert (first, second) == ({**own, "include_usage": True}, own)


def test_an_option_that_the_client_chose_is_refused(stub_vendor: StubVendor, openai: OpenAI):
    request = OURS._replace(parameters={"stream_options": {"include_obfuscation": False}})
    for error in (
        said("no", param="stream_options.include_obfuscation"),
        {"detail": [invalid("stream_options", "include_obfuscation")]},
    ):
        stub_vendor.clear()
        stub_vendor.reply(error, status=400)
        assert ask(openai, request, stream=True) == ["provider_rejected"]


def test_stream_options_are_for_streams_alone(stub_vendor: StubVendor, openai: OpenAI):
    request = REQUEST._replace(parameters={"stream_options": {"include_obfuscation": False}})
    ask(openai, request)
    assert "stream_options" not in stub_vendor.requests[0].json


@pytest.mark.parametrize(
    "error",
    [
        said(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        said("no", param="max_tokens", code="unsupported_parameter"),
        {"detail": [invalid("max_tokens")]},
    ],
    ids=str,
)
def test_the_token_limit_gets_its_other_name(
    stub_vendor: StubVendor, openai: OpenAI, error: dict[str, Any]
):
    stub_vendor.reply(error, status=400)
    stub_vendor.reply(OPENAI_ANSWER)
    assert ask(openai) == ["provider_rejected", "ok"]
    first, second = [sent.json for sent in stub_vendor.requests]
    assert first.pop("max_tokens") == second.pop("max_completion_tokens") == 64
    assert second == first


@pytest.mark.parametrize(
    "error",
    [
        said(
            "max_tokens is too large: 100000. This model supports at most 16384", param="max_tokens"
        ),
        said("Unsupported value: 'max_tokens' is 9", param="max_tokens", code="unsupported_value"),
        {"detail": [invalid("max_tokens", msg="Input should be less than or equal to 4096")]},
        said("user role is not supported"),
        said("Unexpected role 'user' after role 'system'"),
        said("Invalid value: 'user'. Supported values are: 'system'", param="messages[0].role"),
        said("Unknown parameter: 'seed'", param="seed"),
        said("Unknown parameter: 'messages[0].user'", param="messages[0].user"),
        {"detail": [invalid("messages", "0", "user")]},
        {"detail": "no"},
        [],
        "no",
    ],
    ids=str,
)
def test_other_refusals_are_final(stub_vendor: StubVendor, openai: OpenAI, error: Any):
    stub_vendor.reply(error, status=400)
    assert ask(openai) == ["provider_rejected"]


def test_all_fields_of_one_error_are_left_out_at_once(stub_vendor: StubVendor, openai: OpenAI):
    details = [invalid("user"), invalid("stream_options"), invalid("max_tokens")]
    stub_vendor.reply({"detail": details}, status=422)
    stub_vendor.stream(STREAM)
    assert ask(openai, stream=True) == ["provider_rejected", "ok"]
    assert stub_vendor.requests[1].json.keys() == {
        *("model", "messages", "stream", "max_completion_tokens")
    }


def test_fields_may_be_refused_one_after_the_other(stub_vendor: StubVendor, openai: OpenAI):
    for name in ("user", "stream_options", "max_tokens"):
        stub_vendor.reply(said(f"Unknown parameter: '{name}'"), status=400)
    stub_vendor.stream(STREAM)
    assert ask(openai, stream=True) == [*["provider_rejected"] * 3, "ok"]


THOUGHTS_PATH = "messages[1].reasoning_content"


@pytest.mark.parametrize(
    "error",
    [
        {"detail": [invalid("messages", "1", "assistant", "reasoning_content")]},
        said("Unknown parameter: 'messages[1].reasoning_content'.", param=THOUGHTS_PATH),
        said("no such field", param=THOUGHTS_PATH, code="unknown_parameter"),
        said("Unknown name \"reasoning_content\" at 'messages[1]': Cannot find field."),
        said("'messages.1' : property 'reasoning_content' is unsupported"),
    ],
    ids=str,
)
def test_thoughts_are_left_out(stub_vendor: StubVendor, openai: OpenAI, error: dict[str, Any]):
    answer = {"role": "assistant", "content": "Hi."}
    asked = [*REQUEST.messages, answer, *REQUEST.messages]
    thought = {**answer, "reasoning_content": "Hm."}
    request = REQUEST._replace(messages=(*REQUEST.messages, thought, *REQUEST.messages))
    stub_vendor.reply(error, status=422)
    stub_vendor.reply(OPENAI_ANSWER)
    assert ask(openai, request) == ["provider_rejected", "ok"]
    assert ask(openai, request) == ["ok"]
    assert [sent.json["messages"] for sent in stub_vendor.requests[1:]] == [asked] * 2


def test_signed_thoughts_are_left_out(stub_vendor: StubVendor, openai: OpenAI):
    answer = {"role": "assistant", "content": "Hi."}
    thought = {**answer, "reasoning_details": [{"type": "reasoning.text", "signature": "a"}]}
    error = {"detail": [invalid("messages", "0", "assistant", "reasoning_details")]}
    stub_vendor.reply(error, status=422)
    stub_vendor.reply(OPENAI_ANSWER)
    assert ask(openai, REQUEST._replace(messages=(thought,))) == ["provider_rejected", "ok"]
    assert stub_vendor.requests[1].json["messages"] == [answer]


def test_thoughts_that_a_server_misses_are_not_left_out(stub_vendor: StubVendor, openai: OpenAI):
    message = "The reasoning_content in the thinking mode must be passed back to the API."
    stub_vendor.reply(said(message), status=400)
    thought = {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm."}
    assert ask(openai, REQUEST._replace(messages=(thought,))) == ["provider_rejected"]


def test_a_complaint_about_an_unsent_field_is_not_retried(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(said("Unrecognized request argument supplied: user, max_tokens"), status=400)
    assert ask(openai, REQUEST) == ["provider_rejected"]


def test_a_server_that_refuses_both_limit_names_is_not_retried_forever(
    stub_vendor: StubVendor, openai: OpenAI
):
    message = "Unknown parameters: 'max_tokens', 'max_completion_tokens'"
    stub_vendor.reply(said(message), status=400)
    assert ask(openai) == ["provider_rejected"] * 2
    assert ask(openai) == ["provider_rejected"]


def test_each_model_has_its_own_fields(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(said("Unknown parameter: 'user'"), status=400)
    stub_vendor.reply(OPENAI_ANSWER)
    ask(openai)
    openai.complete(OURS._replace(model="model-2"), Deadline(20))
    assert ["user" in sent.json for sent in stub_vendor.requests] == [True, False, True]


def test_concurrent_requests_are_each_asked_again(stub_vendor: StubVendor, openai: OpenAI):
    first, second = (openai._ask(OURS, Deadline(20), stream=False) for _ in range(2))
    stub_vendor.reply(said("Unknown parameter: 'user'"), status=400)
    with first as one, second as other:
        for response in (one, other):
            with pytest.raises(RequestRejected) as caught:
                openai._raise_for_status(response)
            assert (caught.value.retry, caught.value.retry_after) == (True, 0.0)
