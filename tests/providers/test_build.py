import subprocess
import sys

import pytest

from providers import build

OPTIONS = {"api_key": "k", "base_url": "http://localhost/v1", "model": "m"}


@pytest.mark.parametrize("name", ["openrouter", "gemini", "openai", "bedrock"])
def test_a_vendor_is_built_by_its_name(name: str):
    provider = build(name, OPTIONS)
    assert (provider.name, provider.model) == (name, "m")


def test_the_mock_needs_nothing():
    assert build("mock", {}).model == "mock-1"


def test_unknown_provider_raises_key_error():
    with pytest.raises(KeyError):
        build("skynet", OPTIONS)


def test_an_unused_vendor_is_not_imported():
    code = (
        "import sys, providers; providers.build('openai', dict(api_key='', base_url='', model=''));"
        "print(sorted({'providers.gemini', 'providers.mock', 'genai_prices'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
