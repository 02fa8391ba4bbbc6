"""One server for all clients, in front of the mock and of three vendors."""

from collections.abc import Iterator

import pytest

from tests.clients import stub_model
from tests.factories import KEY
from tests.server_process import Server, in_front_of
from tests.stub_vendor import StubVendor

# The models of each vendor. A client that keeps what it is given can use the second one, too.
MOCK, OPENAI, REASONER, GEMINI = "mock-1", "model-1", stub_model.REASONER, "gemini-3-pro-preview"
BEDROCK = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
MODELS = [MOCK, OPENAI, REASONER, GEMINI, BEDROCK]
# What the mock is told to do; the stub model decides by itself.
PROMPT = " ".join(
    [
        'Compare. mock:think="Two cities."',
        *(f'mock:tool=weather {{"city": "{city}"}}' for city in stub_model.CITIES),
    ]
)


@pytest.fixture(scope="package")
def stub() -> Iterator[StubVendor]:
    with StubVendor(responder=stub_model.respond) as stub:
        yield stub


@pytest.fixture(scope="package")
def server(stub: StubVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(
        tmp_path_factory.mktemp("server"),
        **in_front_of(stub.url, KEY),
        OPENAI_MODEL=OPENAI,
        ALLOWED_MODELS=f"openai:{REASONER}",
        GEMINI_MODEL=GEMINI,
        AWS_ENDPOINT_URL_BEDROCK_RUNTIME=stub.url,
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        BEDROCK_MODEL=BEDROCK,
        BEDROCK_REGION="eu-west-1",
        RATE_LIMIT_PER_MINUTE="0",
    ) as server:
        yield server


@pytest.fixture
def vendor(stub: StubVendor) -> StubVendor:
    stub.clear()
    return stub


@pytest.fixture
def base_url(server: Server, vendor: StubVendor) -> str:
    return f"http://127.0.0.1:{server.port}/v1"
