"""Whether a vendor is there and takes the key, without asking a model."""

import pytest

from providers import build
from providers.base import Deadline, Provider
from providers.errors import ModelUnavailable, ProviderError, ProviderFailed, ProviderMisconfigured
from tests.providers.factories import KEY
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
def test_a_vendor_that_takes_the_key_is_fine(name: str, stub_vendor: StubVendor) -> None:
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
def test_a_refusal_tells_why(
    name: str, status: int, kind: type[ProviderError], stub_vendor: StubVendor
) -> None:
    stub_vendor.reply({"error": {"message": KEY}}, status=status)
    assert error_type(make_provider(name, stub_vendor)) is kind


@pytest.mark.parametrize(
    ("listed", "good"),
    [(["model-1"], True), (["model-1:latest"], True), ([], True), (["model-2"], False)],
)
def test_the_model_has_to_be_on_the_list_if_there_is_one(
    listed: list[str], good: bool, stub_vendor: StubVendor
) -> None:
    stub_vendor.reply({"data": [{"id": name} for name in listed]})
    if good:
        make_provider("openai", stub_vendor).check(Deadline(5))
    else:
        assert error_type(make_provider("openai", stub_vendor)) is ModelUnavailable


@pytest.mark.parametrize("body", ["<html>", "[]", '{"data": 7}', '{"data": [7, {"id": 7}]}'])
def test_a_list_that_is_none_says_nothing(body: str, stub_vendor: StubVendor) -> None:
    stub_vendor.reply(body)
    if "id" in body:
        assert error_type(make_provider("openai", stub_vendor)) is ModelUnavailable
    else:
        make_provider("openai", stub_vendor).check(Deadline(5))


def test_a_vendor_that_is_not_there_is_said_to_be_away() -> None:
    with StubVendor() as stub_vendor:
        gone = make_provider("openai", stub_vendor)
    assert error_type(gone) is ProviderFailed


def test_the_mock_is_always_there() -> None:
    build("mock", {}).check(Deadline(5))
