"""Provider.check: is the vendor reachable, does it accept the key and list the model?"""

from collections.abc import Iterator

import pytest

from providers import build
from providers.base import Provider
from providers.deadline import Deadline
from providers.errors import ModelUnavailable, ProviderError, ProviderFailed, ProviderMisconfigured
from tests.providers.factories import KEY
from tests.stub_bedrock import KEYS, MODEL, REGION, StubBedrock
from tests.stub_vendor import StubVendor

PATHS = {
    "openai": ("/v1/models", "authorization", f"Bearer {KEY}"),
    "openrouter": ("/v1/key", "authorization", f"Bearer {KEY}"),
    "gemini": ("/v1/models/model-1", "x-goog-api-key", KEY),
}


def make_provider(name: str, stub_vendor: StubVendor) -> Provider:
    return build(name, {"api_key": KEY, "base_url": f"{stub_vendor.url}/v1", "model": "model-1"})


def error_type(provider: Provider) -> type[ProviderError]:
    with pytest.raises(ProviderError) as excinfo:
        provider.check(Deadline(5))
    assert KEY not in str(excinfo.value)
    return excinfo.type


@pytest.mark.parametrize("name", PATHS)
def test_check_passes_when_the_vendor_accepts_the_key(name: str, stub_vendor: StubVendor) -> None:
    path, header, key = PATHS[name]
    stub_vendor.reply({"data": [{"id": "model-1"}]})
    make_provider(name, stub_vendor).check(Deadline(5))
    [asked] = stub_vendor.requests
    assert (asked.method, asked.path, asked.body) == ("GET", path, b"")
    assert asked.headers[header] == key


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ProviderMisconfigured),
        (404, ModelUnavailable),
        (500, ProviderFailed),
        (302, ProviderMisconfigured),
    ],
)
def test_check_raises_the_error_for_the_status(
    name: str, status: int, kind: type[ProviderError], stub_vendor: StubVendor
) -> None:
    stub_vendor.reply({"error": {"message": KEY}}, status=status)
    assert error_type(make_provider(name, stub_vendor)) is kind


@pytest.mark.parametrize(
    ("listed", "good"),
    [(["model-1"], True), (["model-1:latest"], True), ([], True), (["model-2"], False)],
)
def test_check_requires_the_model_in_a_non_empty_list(
    listed: list[str], good: bool, stub_vendor: StubVendor
) -> None:
    stub_vendor.reply({"data": [{"id": name} for name in listed]})
    if good:
        make_provider("openai", stub_vendor).check(Deadline(5))
    else:
        assert error_type(make_provider("openai", stub_vendor)) is ModelUnavailable


@pytest.mark.parametrize("body", ["<html>", "[]", '{"data": 7}', '{"data": [7, {"id": 7}]}'])
def test_check_ignores_a_malformed_list(body: str, stub_vendor: StubVendor) -> None:
    stub_vendor.reply(body)
    make_provider("openai", stub_vendor).check(Deadline(5))


def test_models_are_listed(stub_vendor: StubVendor) -> None:
    stub_vendor.reply({"object": "list", "data": [{"id": "b"}, {"id": "a:latest"}, {"id": 7}, 7]})
    assert make_provider("openai", stub_vendor).list_models(Deadline(5)) == ["b", "a:latest"]
    assert stub_vendor.requests[0].path == "/v1/models"


def test_models_may_be_listed_without_an_envelope(stub_vendor: StubVendor) -> None:
    stub_vendor.reply([{"id": "b"}, {"id": "a"}])  # Together
    assert make_provider("openai", stub_vendor).list_models(Deadline(5)) == ["b", "a"]


def test_check_reports_an_unreachable_vendor() -> None:
    with StubVendor() as stub_vendor:
        gone = make_provider("openai", stub_vendor)
    assert error_type(gone) is ProviderFailed


def test_check_of_the_mock_always_passes() -> None:
    build("mock", {}).check(Deadline(5))


# --- Bedrock --------------------------------------------------------------------------------------


@pytest.fixture
def bedrock() -> Iterator[StubBedrock]:
    with StubBedrock() as running:
        yield running


def bedrock_provider(bedrock: StubBedrock) -> Provider:
    options = {"base_url": bedrock.url, "region": REGION, "keys": KEYS, "model": MODEL}
    return build("bedrock", options)


def test_check_of_bedrock_passes_when_its_request_is_refused_for_its_messages(
    bedrock: StubBedrock,
) -> None:
    bedrock.refuse("ValidationException", 400, "A conversation must start with a user message.")
    bedrock_provider(bedrock).check(Deadline(5))
    [asked] = bedrock.requests
    assert asked.json == {"messages": [], "inferenceConfig": {"maxTokens": 1}}


@pytest.mark.parametrize(
    ("code", "status", "message", "kind"),
    [
        ("AccessDeniedException", 403, "not authorized", ProviderMisconfigured),
        (
            "UnrecognizedClientException",
            403,
            "The security token is invalid",
            ProviderMisconfigured,
        ),
        ("ResourceNotFoundException", 404, "no such model", ModelUnavailable),
        (
            "ValidationException",
            400,
            "The provided model identifier is invalid.",
            ModelUnavailable,
        ),
        ("InternalServerException", 500, "no", ProviderFailed),
    ],
)
def test_check_of_bedrock_raises_other_errors(
    bedrock: StubBedrock, code: str, status: int, message: str, kind: type[ProviderError]
) -> None:
    bedrock.refuse(code, status, message)
    with pytest.raises(kind):
        bedrock_provider(bedrock).check(Deadline(5))


def test_bedrock_lists_its_configured_model(bedrock: StubBedrock) -> None:
    assert bedrock_provider(bedrock).list_models(Deadline(5)) == [MODEL]
    assert bedrock.requests == []
