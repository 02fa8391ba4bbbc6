"""Bedrock beside botocore's own client: the same stand-in, the same answers and errors."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import boto3
import botocore.config
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given
from hypothesis import strategies as st

from providers import build
from providers.base import CompletionRequest, Provider, Usage
from providers.bedrock_answer import Answer
from providers.deadline import Deadline
from providers.errors import (
    AddressUnknown,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.sigv4 import Keys
from tests import bedrock_frames
from tests.bedrock_frames import delta, exception
from tests.providers.factories import (
    ErrorSummary,
    complete,
    error_summary,
    raised_error,
    read_deltas,
    read_failing_stream,
    summarize,
)
from tests.stub_bedrock import KEYS, MODEL, REGION, StubBedrock
from tests.stub_vendor import SOON, StubVendor

ASKED = CompletionRequest(model=MODEL, messages=({"role": "user", "content": "Hello?"},))
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0"
THOUGHT = {"reasoningContent": {"reasoningText": {"text": "They greet me.", "signature": "c2ln=="}}}
REDACTED = {"reasoningContent": {"redactedContent": base64.b64encode(b"secret").decode()}}


@pytest.fixture
def stub() -> Iterator[StubBedrock]:
    with StubBedrock() as running:
        yield running


@pytest.fixture
def bedrock(stub: StubBedrock) -> Provider:
    return make_provider(stub)


def make_provider(stub: StubVendor, **options: Any) -> Provider:
    given_options = {"model": MODEL, "base_url": stub.url, "region": REGION, "keys": KEYS}
    return build("bedrock", {**given_options, **options})


def botocore_client(stub: StubVendor) -> Any:
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=stub.url,
        region_name=REGION,
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=KEYS.secret_key,
        aws_session_token=KEYS.token,
        config=botocore.config.Config(retries={"max_attempts": 1, "mode": "standard"}),
    )


def call(identifier: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": identifier, "name": name, "input": arguments}}


def tool_call(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function}


# --- The same as botocore's client ----------------------------------------------------------------

ANSWERS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "text": ([{"text": "Hello, Łódź 🦆."}], "end_turn"),
    "length": ([{"text": "Hello"}], "max_tokens"),
    "stop sequence": ([{"text": "Hello"}], "stop_sequence"),
    "guardrail": ([{"text": "I may not say that."}], "guardrail_intervened"),
    "call": ([call("t1", "get_weather", city="Oslo")], "tool_use"),
    "parallel calls": (
        [{"text": "Wait."}, call("t1", "get_weather", city="Oslo"), call("t2", "now")],
        "tool_use",
    ),
    "thoughts": ([THOUGHT, {"text": "Hello."}], "end_turn"),
    "hidden thoughts": ([REDACTED, THOUGHT, call("t1", "now")], "tool_use"),
    "unsigned thoughts": (
        [{"reasoningContent": {"reasoningText": {"text": "Hm."}}}, {"text": "Hello."}],
        "end_turn",
    ),
}


def read_by_botocore(stub: StubBedrock, *, stream: bool) -> tuple[list[Any], str, dict[str, Any]]:
    """Return the content blocks, the stop reason and the usage that botocore's client gets."""
    request = {"modelId": MODEL, "messages": [{"role": "user", "content": [{"text": "Hello?"}]}]}
    with closing(botocore_client(stub)) as client:
        if stream:
            with closing(client.converse_stream(**request)["stream"]) as events:
                return put_together(events)
        body = client.converse(**request)
        return body["output"]["message"]["content"], body["stopReason"], body["usage"]


def put_together(events: Any) -> tuple[list[Any], str, dict[str, Any]]:
    blocks: dict[int, dict[str, Any]] = {}
    reason, usage = "", {}
    for each in events:
        if begun := each.get("contentBlockStart"):
            blocks[begun["contentBlockIndex"]] = {
                "toolUse": {**begun["start"]["toolUse"], "input": ""}
            }
        elif piece := each.get("contentBlockDelta"):
            add_piece(blocks.setdefault(piece["contentBlockIndex"], {}), piece["delta"])
        elif end := each.get("messageStop"):
            reason = end["stopReason"]
        elif about := each.get("metadata"):
            usage = about["usage"]
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"] or "{}")
    return [blocks[number] for number in sorted(blocks)], reason, usage


def add_piece(block: dict[str, Any], piece: dict[str, Any]) -> None:
    if "text" in piece:
        block["text"] = block.get("text", "") + piece["text"]
    elif "toolUse" in piece:
        block["toolUse"]["input"] += piece["toolUse"]["input"]
    elif "redactedContent" in piece["reasoningContent"]:
        block["reasoningContent"] = piece["reasoningContent"]
    else:
        thought = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {})
        for name, text in piece["reasoningContent"].items():
            thought[name] = thought.get(name, "") + text


def expected_message(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that clients should get for content blocks as botocore gives them."""
    message: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        if text := block.get("text"):
            message["content"] = message.get("content", "") + text
        if use := block.get("toolUse"):
            arguments = json.dumps(use["input"])
            calls = message.setdefault("tool_calls", [])
            calls.append(tool_call(use["toolUseId"], use["name"], arguments))
        reasoning = block.get("reasoningContent", {})
        if thought := reasoning.get("reasoningText"):
            message["reasoning_content"] = thought["text"]
            if "signature" in thought:
                detail = {"type": "reasoning.text", **thought, "index": number}
                message.setdefault("reasoning_details", []).append(detail)
        if data := reasoning.get("redactedContent"):
            text = base64.b64encode(data).decode()
            detail = {"type": "reasoning.encrypted", "data": text, "index": number}
            message.setdefault("reasoning_details", []).append(detail)
    return message


FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
}


def same_json(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with arguments of tool calls in one spelling."""
    calls = [
        {
            **each,
            "function": {
                **each["function"],
                "arguments": json.loads(each["function"]["arguments"]),
            },
        }
        for each in message.get("tool_calls", [])
    ]
    return {**message, "tool_calls": calls}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_is_what_botocore_reads(
    stub: StubBedrock, bedrock: Provider, what: str, stream: bool
):
    content, reason = ANSWERS[what]
    usage = {"inputTokens": 3, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 2}
    stub.answer(content, reason, {**usage, "outputTokens": 5, "totalTokens": 14})
    blocks, theirs, counted = read_by_botocore(stub, stream=stream)
    completion = read_deltas(bedrock, ASKED)[1] if stream else complete(bedrock, ASKED)
    assert same_json(completion.message) == same_json(expected_message(blocks))
    assert (theirs, completion.finish_reason) == (reason, FINISH[reason])
    assert completion.model == MODEL
    assert replace(completion.usage, cost_usd=None) == Usage(
        prompt_tokens=counted["inputTokens"] + 6,
        completion_tokens=counted["outputTokens"],
        total_tokens=14,
        cached_tokens=counted["cacheReadInputTokens"],
    )
    assert completion.extras["usage"] == {"prompt_tokens_details": {"cache_write_tokens": 2}}
    assert {each.path.rpartition("/")[2] for each in stub.requests} == {
        "converse-stream" if stream else "converse"
    }


ERRORS: dict[str, tuple[int, str, ErrorSummary]] = {
    "AccessDeniedException": (403, "", ErrorSummary(ProviderMisconfigured)),
    "ThrottlingException": (
        429,
        "Too many requests, please wait before trying again.",
        ErrorSummary(ProviderOverloaded, retry=True),
    ),
    "ResourceNotFoundException": (404, "", ErrorSummary(ModelUnavailable)),
    "ModelTimeoutException": (408, "", ErrorSummary(ProviderFailed, retry=True)),
    "InternalServerException": (500, "", ErrorSummary(ProviderFailed, retry=True)),
    "ServiceUnavailableException": (503, "", ErrorSummary(ProviderOverloaded, retry=True)),
    "ValidationException": (400, "The maximum is 5.", ErrorSummary(RequestRejected)),
    "ModelNotReadyException": (429, "", ErrorSummary(ProviderOverloaded, retry=True)),
    "ModelErrorException": (424, "", ErrorSummary(ProviderFailed, retry=True)),
}


def test_all_errors_of_the_operations_are_known():
    client = boto3.client("bedrock-runtime", region_name=REGION)
    operations = [
        client.meta.service_model.operation_model(n) for n in ("Converse", "ConverseStream")
    ]
    named = {shape.name for operation in operations for shape in operation.error_shapes}
    assert named == ERRORS.keys()
    assert {
        shape.name: shape.metadata["error"]["httpStatusCode"]
        for operation in operations
        for shape in operation.error_shapes
    } == {name: status for name, (status, *_) in ERRORS.items()}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("code", ERRORS)
def test_an_error_is_the_one_that_botocore_raises(
    stub: StubBedrock, bedrock: Provider, code: str, stream: bool
):
    status, message, expected = ERRORS[code]
    stub.refuse(code, status, message)
    with pytest.raises(ClientError) as theirs:
        read_by_botocore(stub, stream=stream)
    error = read_failing_stream(bedrock, ASKED)[1] if stream else raised_error(bedrock, ASKED)
    assert theirs.value.response["Error"] == {"Code": code, "Message": message}
    assert summarize(error) == expected
    assert (error.reason, error.vendor_message) == (f"HTTP {status} {code}", message)


def test_an_operation_that_the_server_does_not_know_is_a_wrong_address(
    stub: StubBedrock, bedrock: Provider
):
    stub.refuse("UnknownOperationException", 404, "")
    assert summarize(raised_error(bedrock, ASKED)) == ErrorSummary(AddressUnknown)


IN_STREAMS = {
    "internalServerException": (ErrorSummary(ProviderFailed, retry=True), "HTTP 500"),
    "modelStreamErrorException": (ErrorSummary(ProviderFailed, retry=True), "HTTP 424"),
    "validationException": (ErrorSummary(RequestRejected), "HTTP 400"),
    "throttlingException": (ErrorSummary(ProviderOverloaded, retry=True), "HTTP 429"),
    "serviceUnavailableException": (ErrorSummary(ProviderOverloaded, retry=True), "HTTP 503"),
}


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "in mid-stream"])
@pytest.mark.parametrize("kind", IN_STREAMS)
def test_an_exception_inside_a_stream_is_the_one_that_botocore_raises(
    stub: StubBedrock, bedrock: Provider, kind: str, begun: bool
):
    pieces = [delta(text="Hel")] if begun else []
    stub.stream_frames([*pieces, exception(kind, "It is over.")])
    with pytest.raises(EventStreamError) as theirs:
        read_by_botocore(stub, stream=True)
    told, error = read_failing_stream(bedrock, ASKED)
    expected, reason = IN_STREAMS[kind]
    assert theirs.value.response["Error"] == {"Code": kind, "Message": "It is over."}
    assert (told, summarize(error)) == (["Hel"] * begun, expected)
    assert error.reason == f"{reason} {kind[0].upper()}{kind[1:]}"
    assert error.vendor_message == "It is over."


def test_the_exceptions_inside_streams_are_those_of_the_model():
    client = boto3.client("bedrock-runtime", region_name=REGION)
    output = client.meta.service_model.operation_model("ConverseStream").get_event_stream_output()
    assert IN_STREAMS.keys() == {
        name for name, shape in output.members.items() if shape.metadata.get("exception")
    }


def test_an_error_message_inside_a_stream_is_raised(stub: StubBedrock, bedrock: Provider):
    headers = {
        ":message-type": "error",
        ":error-code": "InternalFailure",
        ":error-message": "It broke.",
    }
    stub.stream_frames([delta(text="Hel"), bedrock_frames.frame(headers, b"")])
    with pytest.raises(EventStreamError, match="It broke"):
        read_by_botocore(stub, stream=True)
    told, error = read_failing_stream(bedrock, ASKED)
    assert (told, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed, retry=True))
    assert (error.reason, error.vendor_message) == ("HTTP 502 InternalFailure", "It broke.")


# --- Signatures -----------------------------------------------------------------------------------

model_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,60}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(
    model=model_ids | st.sampled_from([MODEL, ARN, "amazon.nova-lite-v1:0"]),
    text=texts,
    token=st.sampled_from(["", "token/+="]),
    stream=st.booleans(),
)
def test_a_request_is_signed_and_addressed_as_botocore_does_it(
    model: str, text: str, token: str, stream: bool
):
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(503)

    keys = KEYS._replace(token=token)
    options = {"model": model, "region": REGION, "keys": keys}
    provider = build("bedrock", options, httpx.MockTransport(answer))
    message = {"role": "user", "content": f"x{text}"}
    request = CompletionRequest(model=model, messages=(message,))
    with pytest.raises(ProviderOverloaded):
        list(provider.stream(request, Deadline(5))) if stream else complete(provider, request)
    [ours] = sent
    theirs = signed_by_botocore(ours, keys)
    assert ours.headers["authorization"] == theirs["authorization"]
    assert ours.headers.get("x-amz-security-token", "") == token
    assert str(ours.url) == address_of_botocore(model, stream=stream)


def signed_by_botocore(request: httpx.Request, keys: Keys) -> dict[str, str]:
    names = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    again = AWSRequest(
        method=request.method,
        url=str(request.url),
        headers={name: request.headers[name] for name in names},
        data=request.read(),
    )
    again.context["timestamp"] = request.headers["x-amz-date"]
    again.context["payload_signing_enabled"] = True
    signer = SigV4Auth(ReadOnlyCredentials(*keys), "bedrock", REGION)
    text = signer.string_to_sign(again, signer.canonical_request(again))
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(again)}, SignedHeaders={';'.join(names)}, "
        f"Signature={signer.signature(text, again)}"
    )
    return {"authorization": authorization}


CLIENT = boto3.client(
    "bedrock-runtime",
    region_name=REGION,
    aws_access_key_id=KEYS.access_key,
    aws_secret_access_key=KEYS.secret_key,
)


def address_of_botocore(model: str, *, stream: bool) -> str:
    """Return the URL that botocore's serializer and endpoint rules make of a model's id."""
    operation = CLIENT.meta.service_model.operation_model(
        "ConverseStream" if stream else "Converse"
    )
    parameters = {"modelId": model, "messages": []}
    request = CLIENT._serializer.serialize_to_request(parameters, operation)
    return f"{CLIENT.meta.endpoint_url}{request['url_path']}"


@pytest.mark.parametrize("model", [MODEL, ARN, f"arn:aws:bedrock:{REGION}::foundation-model/a.b:0"])
@pytest.mark.parametrize("token", [None, "", "session/token+="])
def test_a_signature_is_accepted_over_the_wire(model: str, token: str | None):
    keys = KEYS._replace(token=token)
    with StubBedrock(keys=keys) as stub:
        stub.answer([{"text": "Hello."}])
        provider = make_provider(stub, model=model, keys=keys)
        assert complete(provider, ASKED._replace(model=model)).text == "Hello."


def test_another_secret_is_refused(stub: StubBedrock):
    stub.answer([{"text": "Hello."}])
    provider = make_provider(stub, keys=KEYS._replace(secret_key="another"))
    error = raised_error(provider, ASKED)
    assert summarize(error) == ErrorSummary(ProviderMisconfigured)
    assert str(error) == "The provider refused the credentials."
    assert error.reason == "HTTP 403 InvalidSignatureException"


def test_an_api_key_takes_the_place_of_a_signature():
    with StubBedrock(bearer="bedrock-api-key-123") as stub:
        stub.answer([{"text": "Hello."}])
        provider = make_provider(stub, api_key="bedrock-api-key-123", keys=Keys("", "", ""))
        assert complete(provider, ASKED).text == "Hello."
        assert "x-amz-date" not in stub.requests[0].headers
        provider = make_provider(stub, api_key="another")
        assert error_summary(provider, ASKED) == ErrorSummary(ProviderMisconfigured)


@pytest.mark.parametrize("model", ["", "../x", "a?b", "a b", "ä", "a#b", "a\n", "/a", "x" * 2049])
def test_a_model_id_cannot_change_the_address(stub: StubBedrock, bedrock: Provider, model: str):
    assert error_summary(bedrock, ASKED._replace(model=model)) == ErrorSummary(RequestRejected)
    assert stub.requests == []


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
def test_the_address_is_that_of_the_regions_endpoint(region: str):
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        return httpx.Response(503)

    options = {"model": MODEL, "region": region, "keys": KEYS}
    raised_error(build("bedrock", options, httpx.MockTransport(answer)), ASKED)
    theirs = boto3.client("bedrock-runtime", region_name=region).meta.endpoint_url
    assert sent[0].startswith(f"{theirs}/model/")


# --- Credentials and region that the environment does not have ------------------------------------

PROFILE = """[default]
region = {region}
aws_access_key_id = {keys.access_key}
aws_secret_access_key = {keys.secret_key}
aws_session_token = {keys.token}
"""


@pytest.fixture
def without_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path / "config"


def test_a_profile_has_the_credentials_and_the_region(stub: StubBedrock, without_environment: Any):
    without_environment.write_text(PROFILE.format(region=REGION, keys=KEYS))
    stub.answer([{"text": "Hello."}])
    provider = make_provider(stub, keys=Keys("", "", ""), region="")
    assert [complete(provider, ASKED).text for _ in range(2)] == ["Hello."] * 2


@pytest.mark.parametrize(
    ("config", "message", "reason"),
    [
        ("", "The provider has no AWS region.", "no_region"),
        (
            f"[default]\nregion = {REGION}",
            "The provider has no usable AWS credentials.",
            "no_credentials",
        ),
        ("[default", "The provider has no AWS region.", "ConfigParseError"),
        (
            f"[default]\nregion = {REGION}\ncredential_process = false",
            "The provider has no usable AWS credentials.",
            "CredentialRetrievalError",
        ),
    ],
)
def test_missing_aws_settings_are_reported(
    stub: StubBedrock, without_environment: Any, config: str, message: str, reason: str
):
    without_environment.write_text(config)
    stub.answer([{"text": "Hello."}])
    error = raised_error(make_provider(stub, keys=Keys("", "", ""), region=""), ASKED)
    assert summarize(error) == ErrorSummary(ProviderMisconfigured)
    assert (str(error), error.reason) == (message, reason)
    assert stub.requests == []


def test_botocore_is_not_imported_where_the_environment_has_all():
    code = """
import sys, httpx
from providers import build
from providers.base import CompletionRequest
from providers.deadline import Deadline
from providers.sigv4 import Keys
body = {"output": {"message": {"content": [{"text": "Hi."}]}}, "stopReason": "end_turn"}
transport = httpx.MockTransport(lambda request: httpx.Response(200, json=body))
options = {"model": "amazon.nova-lite-v1:0", "region": "eu-west-1", "keys": Keys("a", "b", "c")}
provider = build("bedrock", options, transport)
request = CompletionRequest(model=provider.model, messages=({"role": "user", "content": "Hi"},))
assert provider.complete(request, Deadline(5)).text == "Hi."
print([name for name in ("botocore", "boto3") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_many_pieces_of_thoughts_are_put_together_once():
    answer, begun = Answer(), time.monotonic()
    for piece in [*[{"text": "a" * 1000}] * 20_000, {"signature": "b"}]:
        answer.add({"contentBlockDelta": {"delta": {"reasoningContent": piece}}})
    answer.add({"contentBlockStop": {}})
    [detail] = answer.message["reasoning_details"]
    assert (detail["text"], detail["signature"]) == ("a" * 20_000_000, "b")
    assert time.monotonic() - begun < SOON
