"""The settings: how variables are read, and which values stop the start."""

import os
import re
import runpy
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import certifi
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

import chatproject

ROOT = Path(__file__).parents[2]
Settings = dict[str, Any]
Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads the settings from variables and the text of a file."""

    def run(file: str = "", **variables: str) -> Settings:
        (tmp_path / "env").write_text(file, encoding="utf-8")
        ours = {"ENV_FILE": str(tmp_path / "env"), "SECRET_KEY": "secret"}
        with patch.dict(os.environ, ours | variables, clear=True):
            return runpy.run_path(str(ROOT / "chatproject" / "settings.py"))

    return run


def refusal(load: Load, **variables: str) -> str:
    """Return the error that stops the start."""
    with pytest.raises(ImproperlyConfigured) as excinfo:
        load(**variables)
    return str(excinfo.value)


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    ours = {"ENV_FILE": os.devnull, "SECRET_KEY": "secret"}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=kept | ours | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- The documents --------------------------------------------------------------------------------


def documented_lines() -> list[str]:
    """Return the lines of docs/ that set variables for `make run`, with keys in place of `…`."""
    names = ("providers", "hosting", "performance", "operations")
    text = "\n".join((ROOT / f"docs/{name}.md").read_text() for name in names)
    joined = re.sub(r"\\\n", "", text).replace("…", "key")
    return re.findall(r"^((?:[A-Z_]+=\S+ ?)+)(?:make run)?$", joined, re.MULTILINE)


@pytest.mark.parametrize("line", documented_lines())
def test_the_variables_of_the_documents_are_valid(load: Load, line: str) -> None:
    variables = dict(word.split("=", 1) for word in shlex.split(line))
    assert load(**variables)


# --- How vendors are reached ----------------------------------------------------------------------


def test_proxies_are_read_in_lower_case_first(load: Load) -> None:
    names = {"HTTP_PROXY": "http://upper:1", "https_proxy": "user:p%40ss@lower:3128"}
    settings = load(http_proxy="http://lower:1", NO_PROXY="localhost, .internal", **names)
    assert settings["TRANSPORT_OPTIONS"] == {
        "http_proxy": "http://lower:1",
        "https_proxy": "http://user:p%40ss@lower:3128",
        "no_proxy": "localhost,.internal",
        "ca_file": "",
    }


@pytest.mark.parametrize(
    "value", ["ftp://proxy:1", "http://", "http://proxy:port", "http://pro xy:1", "http://:1"]
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"])
def test_an_invalid_proxy_stops_the_start(load: Load, name: str, value: str) -> None:
    assert refusal(load, **{name: value}) == (
        f"{name} must be the URL of a proxy, such as http://user:password@host:8080."
    )


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("value", ["bücher.example", "a\x7fb"])
def test_a_host_without_a_proxy_must_be_ascii(load: Load, name: str, value: str) -> None:
    assert refusal(load, **{name: f"localhost, {value}"}) == (
        f"{name} must be a list of hosts in printable ASCII, such as localhost,.internal."
    )


def test_a_file_of_certificates_is_used(load: Load) -> None:
    settings = load(SSL_CERT_FILE=certifi.where())
    assert settings["TRANSPORT_OPTIONS"]["ca_file"] == certifi.where()


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_without_certificates_stops_the_start(
    load: Load, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if text:
        path.write_text(text)
    assert refusal(load, SSL_CERT_FILE=str(path)) == (
        f"SSL_CERT_FILE must name a file of certificates in PEM, but {path} cannot be read as one."
    )


# --- Without any configuration --------------------------------------------------------------------


def test_nothing_needs_to_be_set(load: Load) -> None:
    settings = load()
    expected = {
        "API_HOST": "127.0.0.1",
        "API_PORT": 8000,
        "ALLOWED_HOSTS": ["localhost", "127.0.0.1", "[::1]"],
        "REQUEST_TIMEOUT_SECONDS": 120,
        "STREAM_TIMEOUT_SECONDS": 600,
        "STREAM_IDLE_SECONDS": 60,
        "MAX_BODY_BYTES": 10 * 1024 * 1024,
        "PROMPT_MAX_LENGTH": 200_000,
        "REQUIRE_API_KEY": False,
        "API_KEYS": [],
        "RATE_LIMIT_PER_MINUTE": 60,
        "LLM_PROVIDER": "mock",
        "PROVIDERS": {"mock": {"directives": ""}},
        "ALLOWED_MODELS": [],
        "STORAGE": "sqlite",
        "DATABASE_PATH": ROOT / "chat_history.db",
        "LOG_LEVEL": "INFO",
        "METRICS": False,
    }
    assert {name: settings[name] for name in expected} == expected
    assert not settings.get("DEBUG", False)


@pytest.mark.parametrize(
    ("mode", "seconds"), [("", 28), ("buffered", 28), ("streaming", 900)], ids=repr
)
def test_on_lambda_the_deadlines_fit_the_front(load: Load, mode: str, seconds: float) -> None:
    on_lambda = {"AWS_LAMBDA_FUNCTION_NAME": "chat", "SECRET_KEY": "secret"}
    settings = load(**on_lambda, LAMBDA_RESPONSE_MODE=mode)
    assert settings["REQUEST_TIMEOUT_SECONDS"] == settings["STREAM_TIMEOUT_SECONDS"] == seconds


# --- Values that cannot be used -------------------------------------------------------------------

BAD = [
    ("LAMBDA_RESPONSE_MODE", "stream"),
    ("PORT", "0"),
    ("PORT", "tcp://10.0.0.1:80"),
    ("CORS_ALLOWED_ORIGINS", "app.example.org"),
    ("CORS_ALLOWED_ORIGINS", "https://app.example.org/"),
    ("CORS_ALLOWED_ORIGINS", "https://*.example.org"),
    ("CORS_ALLOWED_ORIGINS", "https://"),
    ("CSRF_TRUSTED_ORIGINS", "chat.example.org"),
    ("CSRF_TRUSTED_ORIGINS", "https://chat.example.org/admin"),
    ("CSRF_TRUSTED_ORIGINS", "*"),
    ("TRUST_FORWARDED_PROTO", "https"),
    ("ALLOWED_HOSTS", "https://chat.example.org"),
    ("ALLOWED_HOSTS", "chat.example.org:8000"),
    ("ALLOWED_HOSTS", "chat.example.org/v1"),
    ("AWS_REGION", "Frankfurt"),
    ("AWS_REGION", "eu-west-1/"),
    ("AWS_DEFAULT_REGION", "eu west 1"),
    ("API_PORT", "0"),
    ("API_PORT", "65536"),
    ("API_PORT", "http"),
    ("API_PORT", "-1"),
    ("API_PORT", "80.0"),
    ("API_PORT", "8e3"),
    ("API_PORT", "٨٠٨٠"),
    ("WEB_CONCURRENCY", "0"),
    ("WEB_CONCURRENCY", "65"),
    ("WEB_THREADS", "0"),
    ("WEB_THREADS", "many"),
    ("REQUEST_TIMEOUT_SECONDS", "0"),
    ("REQUEST_TIMEOUT_SECONDS", "-1"),
    ("REQUEST_TIMEOUT_SECONDS", "901"),
    ("REQUEST_TIMEOUT_SECONDS", "nan"),
    ("REQUEST_TIMEOUT_SECONDS", "inf"),
    ("REQUEST_TIMEOUT_SECONDS", "25s"),
    ("STREAM_TIMEOUT_SECONDS", "0"),
    ("STREAM_TIMEOUT_SECONDS", "3601"),
    ("STREAM_IDLE_SECONDS", "0"),
    ("STREAM_IDLE_SECONDS", "a minute"),
    ("MAX_BODY_BYTES", "1023"),
    ("MAX_BODY_BYTES", "1MiB"),
    ("PROMPT_MAX_LENGTH", "0"),
    ("PROMPT_MAX_LENGTH", "1.5"),
    ("REQUIRE_API_KEY", "maybe"),
    ("REQUIRE_API_KEY", "2"),
    ("RATE_LIMIT_PER_MINUTE", "-1"),
    ("RATE_LIMIT_PER_MINUTE", "sixty"),
    ("RATE_LIMIT_PER_MINUTE", "60/m"),
    ("LLM_PROVIDER", "chatgpt"),
    ("LLM_PROVIDER", "OpenRouter"),
    ("BEDROCK_MODEL", "../x"),
    ("BEDROCK_MODEL", "claude sonnet"),
    ("AWS_REGION", "eu west-1"),
    ("AWS_DEFAULT_REGION", "EU-WEST-1"),
    ("BEDROCK_REGION", "Frankfurt"),
    ("BEDROCK_REGION", "us-east-1.example.org/"),
    ("BEDROCK_GUARDRAIL", "abc123"),
    ("BEDROCK_GUARDRAIL", "abc123:0"),
    ("BEDROCK_GUARDRAIL", "arn:aws:bedrock:us-east-1:123456789012:guardrail/abc123"),
    ("STORAGE", "postgres"),
    ("LOG_LEVEL", "VERBOSE"),
    ("LOG_FORMAT", "xml"),
    ("METRICS", "emf"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_invalid_value_stops_the_start(load: Load, name: str, value: str) -> None:
    sentence = refusal(load, **{name: value})
    assert sentence.startswith(f"{name} must be ")
    assert sentence.endswith(f", not {value!r}.")


SECRETS = ["OPENROUTER_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"]
ALL = dict.fromkeys(SECRETS, "k")
LISTED = ["openrouter", "gemini", "openai"]


def test_bedrock_is_configured_by_its_model(load: Load) -> None:
    model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    settings = load(BEDROCK_MODEL=model, AWS_REGION="us-east-1", **keys)
    assert settings["LLM_PROVIDER"] == "bedrock"
    assert settings["PROVIDERS"] == {
        "bedrock": {
            "api_key": "",
            "base_url": "",
            "model": model,
            "region": "us-east-1",
            "keys": ("a", "b", "c"),
            "guardrail": "",
        }
    }


def test_the_region_of_bedrock_is_that_of_the_models_arn(load: Load) -> None:
    arn = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc123"
    options = load(BEDROCK_MODEL=arn, AWS_REGION="us-east-1")["PROVIDERS"]["bedrock"]
    assert options["region"] == "us-west-2"
    options = load(BEDROCK_MODEL=arn, BEDROCK_REGION="us-east-1")["PROVIDERS"]["bedrock"]
    assert options["region"] == "us-east-1"


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_dynamodb_local_takes_any_region(load: Load, name: str) -> None:
    assert load(**{name: "local"})["AWS_REGION"] == "local"


def test_bedrock_has_variables_of_its_own(load: Load) -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:guardrail/abc123:7"
    settings = load(
        BEDROCK_MODEL="a.b",
        BEDROCK_REGION="eu-west-1",
        BEDROCK_GUARDRAIL=arn,
        AWS_REGION="us-east-1",
        AWS_BEARER_TOKEN_BEDROCK="token",
        AWS_ENDPOINT_URL="http://all:1",
        AWS_ENDPOINT_URL_BEDROCK_RUNTIME="http://bedrock:1/",
    )
    options = settings["PROVIDERS"]["bedrock"]
    assert (options["region"], options["guardrail"], options["api_key"]) == (
        "eu-west-1",
        arn,
        "token",
    )
    assert options["base_url"] == "http://bedrock:1"
    assert load(BEDROCK_MODEL="a.b", AWS_ENDPOINT_URL="http://all:1")["PROVIDERS"]["bedrock"][
        "base_url"
    ] == ("http://all:1")


def test_bedrock_without_a_model_stops_the_start(load: Load) -> None:
    assert refusal(load, LLM_PROVIDER="bedrock") == (
        "LLM_PROVIDER is bedrock, which needs BEDROCK_MODEL to be set."
    )


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "value", ["sk two", "sk\ttab", "chave-ç", "sk\x7f", "sk\nX-Header: 1", "“sk”"]
)
def test_a_key_unfit_for_a_header_stops_the_start_without_being_shown(
    load: Load, name: str, value: str
) -> None:
    assert refusal(load, **{name: value}) == f"{name} must be printable ASCII without spaces."


URLS = ["OPENROUTER_BASE_URL", "GEMINI_BASE_URL", "OPENAI_BASE_URL"]
ENDPOINTS = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
NO_URLS = {
    "no scheme": "localhost:11434/v1",
    "another scheme": "ftp://host/v1",
    "a path": "/v1",
    "no host": "http://",
    "no host but a port": "http://:8080/v1",
    "a user": "http://user@host/v1",
    "a user and a password": "http://user:password@host/v1",
    "half a bracket": "http://[::1/v1",
    "a port too high": "http://host:99999/v1",
    "a port that is no number": "http://host:port/v1",
    "a space": "http://my host/v1",
    "a fragment": "http://host/v1#top",
}


@pytest.mark.parametrize("value", NO_URLS.values(), ids=NO_URLS)
def test_an_invalid_url_stops_the_start(load: Load, value: str) -> None:
    assert "OPENAI_BASE_URL" in refusal(load, OPENAI_BASE_URL=value)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_only_vendors_have_a_query_in_their_url(load: Load, name: str) -> None:
    assert refusal(load, **{name: "http://host/v1?key=1"}).startswith(f"{name} must be ")


@pytest.mark.parametrize("name", [*URLS, *ENDPOINTS])
def test_the_error_about_a_url_names_its_variable(load: Load, name: str) -> None:
    assert refusal(load, **{name: "localhost"}).startswith(f"{name} must be ")


@pytest.mark.parametrize("name", ["SSM", "SECRETS_MANAGER"])
def test_an_invalid_address_of_secrets_stops_the_start(load: Load, name: str) -> None:
    variables = {"GEMINI_API_KEY_SSM": "/chat/gemini", "AWS_REGION": "eu-west-1"}
    sentence = refusal(load, **variables, **{f"AWS_ENDPOINT_URL_{name}": "localhost"})
    assert sentence.startswith(f"AWS_ENDPOINT_URL_{name} must be ")


def test_directives_of_the_mock_without_a_directive_stop_the_start(load: Load) -> None:
    assert refusal(load, MOCK_DIRECTIVES="delay=1") == (
        "MOCK_DIRECTIVES must have a directive such as mock:delay=0.5, not 'delay=1'."
    )
    for value in (
        *("mock:delay=1", "mock:fail=503 Hello", 'Hi mock:tool=add {"a": 1}', "mock:ok"),
        'mock:think="Is mock:fial one?" mock:tool=add {"a": "mock:"} mock:pace=0.1',
    ):
        assert load(MOCK_DIRECTIVES=value)["PROVIDER_OPTIONS"]["mock"]["directives"] == value


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("mock:delay=0.5 mock:fial=503", "mock:fial=503"),
        ("mock:delay mock:ok", "mock:delay"),
        ('Hello mock:tool=add {"a": 1} mock:pace=fast', "mock:pace=fast"),
        ("mock:fail=429,mock:delay=1 mock:ok", "mock:fail=429,mock:delay=1"),
        ("mock:ok MOCK:FAIL", "MOCK:FAIL"),
        ('mock:think="I should mock:ok', 'mock:think="I'),
    ],
)
def test_an_invalid_directive_beside_a_valid_one_stops_the_start(
    load: Load, value: str, wrong: str
) -> None:
    sentence = f"MOCK_DIRECTIVES must have a directive such as mock:delay=0.5, not {wrong!r}."
    assert refusal(load, MOCK_DIRECTIVES=value) == sentence


def test_invalid_headers_for_traces_stop_the_start(load: Load) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    sentence = refusal(load, **variables, OTEL_EXPORTER_OTLP_HEADERS="no headers")
    assert sentence.startswith("OTEL_EXPORTER_OTLP_HEADERS must be ")


def test_on_lambda_a_body_may_be_as_long_as_lambda_takes(load: Load) -> None:
    on_lambda = {"AWS_LAMBDA_FUNCTION_NAME": "chat", "SECRET_KEY": "s" * 50}
    assert load(**on_lambda)["MAX_BODY_BYTES"] == 6 * 1024 * 1024


@pytest.mark.parametrize("name", ["openrouter", "gemini", "openai"])
def test_a_chosen_provider_without_its_key_stops_the_start(load: Load, name: str) -> None:
    others = {other: "sk-1" for other in SECRETS if not other.startswith(name.upper())}
    assert refusal(load, LLM_PROVIDER=name, **others) == (
        f"LLM_PROVIDER is {name}, which needs {name.upper()}_API_KEY to be set."
    )


@pytest.mark.parametrize("command", ["check", "serve", "migrate"])
def test_a_failed_start_prints_an_error_and_leaves_no_files(command: str, tmp_path: Path) -> None:
    ended = start(command, API_PORT="http", DATABASE_PATH=str(tmp_path / "chat.db"))
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1].endswith(
        "API_PORT must be a whole number from 1 to 65535, not 'http'."
    )
    assert list(tmp_path.iterdir()) == []


# --- Values that can ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meant"),
    [(value, True) for value in ("true", "True", "TRUE", "1", "yes", "on", " true ")]
    + [(value, False) for value in ("false", "False", "0", "no", "off", "", " ")],
)
def test_booleans_have_several_spellings(load: Load, value: str, meant: bool) -> None:
    assert load(REQUIRE_API_KEY=value)["REQUIRE_API_KEY"] is meant


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("API_PORT", "1", 1),
        ("API_PORT", " 65535 ", 65535),
        ("RATE_LIMIT_PER_MINUTE", "0", 0),
        ("REQUEST_TIMEOUT_SECONDS", "0.1", 0.1),
        ("REQUEST_TIMEOUT_SECONDS", "900", 900),
        ("STREAM_TIMEOUT_SECONDS", "3600", 3600),
        ("STREAM_IDLE_SECONDS", "0.1", 0.1),
        ("MAX_BODY_BYTES", "1024", 1024),
        ("LOG_LEVEL", "DEBUG", "DEBUG"),
        ("LOG_FORMAT", "simple", "simple"),
        ("ALLOWED_MODELS", "a, b:c ,,*,", ["a", "b:c", "*"]),
        ("ALLOWED_HOSTS", "chat.example.org, localhost", ["chat.example.org", "localhost"]),
        ("ALLOWED_HOSTS", "*,.example.org,[::1],a_b", ["*", ".example.org", "[::1]", "a_b"]),
        ("AWS_REGION", "local", "local"),
        ("DATABASE_PATH", "/var/lib/chat.db", Path("/var/lib/chat.db")),
        ("DATABASE_PATH", "tests/chat.db", ROOT / "tests" / "chat.db"),
    ],
)
def test_a_valid_value_is_parsed(load: Load, name: str, value: str, meant: object) -> None:
    assert load(**{name: value})[name] == meant


@pytest.mark.parametrize(
    "name",
    [
        *("API_HOST", "API_PORT", "API_KEY", "API_KEYS", "ALLOWED_HOSTS", "ALLOWED_MODELS"),
        *("WEB_CONCURRENCY", "WEB_THREADS", "REQUEST_TIMEOUT_SECONDS", "MAX_BODY_BYTES"),
        *("STREAM_TIMEOUT_SECONDS", "STREAM_IDLE_SECONDS"),
        *("PROMPT_MAX_LENGTH", "REQUIRE_API_KEY", "RATE_LIMIT_PER_MINUTE", "STORAGE"),
        *("OPENROUTER_API_KEY", "OPENROUTER_BASE_URL", "OPENROUTER_MODEL", "GEMINI_API_KEY"),
        *("GEMINI_BASE_URL", "GEMINI_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"),
        "OPENAI_HEADERS",
        *("BEDROCK_MODEL", "BEDROCK_REGION", "BEDROCK_GUARDRAIL", "AWS_BEARER_TOKEN_BEDROCK"),
        *(
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
            "PORT",
            "CORS_ALLOWED_ORIGINS",
            "CSRF_TRUSTED_ORIGINS",
            "TRUST_FORWARDED_PROTO",
        ),
        *("MOCK_DIRECTIVES", "LLM_PROVIDER", "DATABASE_PATH", "LOG_LEVEL", "LOG_FORMAT", "METRICS"),
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"),
    ],
)
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_unset(load: Load, name: str, empty: str) -> None:
    plain, changed = load(), load(**{name: empty})
    for settings in (plain, changed):
        del settings["LOGGING"]["filters"]  # a function, which is made anew each time
    names = [each for each in plain if each.isupper()]
    assert {each: changed[each] for each in names} == {each: plain[each] for each in names}


@pytest.mark.parametrize(
    ("variables", "host", "port"),
    [
        ({"PORT": "3000"}, "0.0.0.0", 3000),
        ({"PORT": "3000", "API_HOST": "::1"}, "::1", 3000),
        ({"PORT": "3000", "API_PORT": "9000"}, "127.0.0.1", 9000),
        ({}, "127.0.0.1", 8000),
    ],
)
def test_a_platform_s_port_is_served_unless_api_port_is_set(
    load: Load, variables: dict[str, str], host: str, port: int
) -> None:
    settings = load(**variables)
    assert (settings["API_HOST"], settings["API_PORT"]) == (host, port)
    assert settings["ALLOWED_HOSTS"] == (["*"] if host.startswith("0") else settings["LOOPBACK"])


@pytest.mark.parametrize(
    ("value", "origins", "all_allowed"),
    [
        ("https://App.example.org, http://b:3", ["https://app.example.org", "http://b:3"], False),
        ("capacitor://localhost,null", ["capacitor://localhost", "null"], False),
        ("*", [], True),
        ("", [], False),
    ],
)
def test_cors_is_installed_for_the_allowed_origins(
    load: Load, value: str, origins: list[str], all_allowed: bool
) -> None:
    settings = load(CORS_ALLOWED_ORIGINS=value)
    assert settings["CORS_ALLOWED_ORIGINS"] == origins
    assert settings["CORS_ALLOW_ALL_ORIGINS"] is all_allowed
    installed = "corsheaders.middleware.CorsMiddleware" in settings["MIDDLEWARE"]
    assert installed is bool(value)
    assert ("corsheaders" in settings["INSTALLED_APPS"]) is bool(value)


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:4318/"}, "http://host:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": " http://host/in "}, "http://host/in"),
        (dict.fromkeys(ENDPOINTS, "http://host/in"), "http://host/in"),
    ],
)
def test_an_endpoint_turns_traces_on(load: Load, variables: dict[str, str], endpoint: str) -> None:
    settings = load(**variables)
    assert (settings["TRACES_ENDPOINT"], settings["TRACING_ENABLED"]) == (endpoint, bool(endpoint))
    assert load(**variables, OTEL_SDK_DISABLED="true")["TRACING_ENABLED"] is False


def test_an_unsupported_trace_protocol_stops_the_start(load: Load) -> None:
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert load(**grpc)["TRACING_ENABLED"] is False
    assert refusal(load, OTEL_EXPORTER_OTLP_ENDPOINT="http://host:4317", **grpc) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL must be one of http/protobuf, not 'grpc'."
    )


def test_the_version_has_one_source(load: Load) -> None:
    settings = load()
    assert settings["VERSION"] == chatproject.__version__
    assert settings["SPECTACULAR_SETTINGS"]["VERSION"] == chatproject.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "chatproject.__version__"


def test_a_build_follows_the_version(load: Load) -> None:
    assert load(BUILD="0123456789ab")["VERSION"] == f"{load()['VERSION']}+0123456789ab"


def test_keys_come_from_both_variables(load: Load) -> None:
    assert load(API_KEY="one", API_KEYS="two, three,")["API_KEYS"] == ["one", "two", "three"]
    assert load(API_KEY=" , ")["API_KEYS"] == []


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "[::1]"]),
        ("::1", ["localhost", "127.0.0.1", "[::1]"]),
        ("0.0.0.0", ["*"]),
        ("10.0.0.7", ["*"]),
    ],
)
def test_a_server_on_a_loopback_address_allows_loopback_hosts_only(
    load: Load, host: str, allowed: list[str]
) -> None:
    assert load(API_HOST=host)["ALLOWED_HOSTS"] == allowed
    assert load(API_HOST=host, ALLOWED_HOSTS="a.example")["ALLOWED_HOSTS"] == ["a.example"]


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize(
    "pasted",
    [
        "http://host:8080/v1",
        "http://host:8080/v1/",
        "http://host:8080/v1//",
        " http://host:8080/v1 ",
        "http://host:8080/v1/chat/completions",
        "http://host:8080/v1/chat/completions/",
    ],
)
def test_a_base_url_may_be_pasted_in_many_ways(load: Load, name: str, pasted: str) -> None:
    provider = name.removesuffix("_BASE_URL")
    settings = load(**{name: pasted, f"{provider}_API_KEY": "sk-1"})
    assert settings["PROVIDERS"][provider.lower()]["base_url"] == "http://host:8080/v1"


@pytest.mark.parametrize("path", ["", "/", "/chat/completions", "/chat/completions/"])
@pytest.mark.parametrize("name", URLS)
def test_a_base_url_keeps_its_query(load: Load, name: str, path: str) -> None:
    provider = name.removesuffix("_BASE_URL")
    url = f"http://host/deployments/gpt{path}?api-version=2024-10-21"
    settings = load(**{name: url, f"{provider}_API_KEY": "sk-1"})
    kept = "http://host/deployments/gpt?api-version=2024-10-21"
    assert settings["PROVIDERS"][provider.lower()]["base_url"] == kept


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ("api-key=123", {"api-key": "123"}),
        (" API-Key = a=b== , x-team=blue or red ,", {"api-key": "a=b==", "x-team": "blue or red"}),
    ],
)
def test_openai_gets_headers(load: Load, value: str, headers: dict[str, str]) -> None:
    assert load(OPENAI_HEADERS=value, **ALL)["PROVIDERS"]["openai"]["headers"] == headers


@pytest.mark.parametrize(
    "value",
    [
        "secret",
        "=secret",
        "api-key=",
        "api key=secret",
        "api-key:secret",
        "x=sécret",
        "x=a\nsecret",
    ],
)
def test_invalid_headers_stop_the_start_without_being_shown(load: Load, value: str) -> None:
    assert refusal(load, OPENAI_HEADERS=value) == (
        "OPENAI_HEADERS must be a list such as api-key=123,x-team=blue, in printable ASCII."
    )


# --- Which provider is asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "order"),
    [
        ({}, ["mock"]),
        ({"OPENROUTER_API_KEY": "k"}, ["openrouter"]),
        ({"GEMINI_API_KEY": "k"}, ["gemini"]),
        ({"OPENAI_API_KEY": "k"}, ["openai"]),
        ({"OPENAI_BASE_URL": "http://host/v1"}, ["openai"]),
        ({"OPENROUTER_BASE_URL": "http://host/v1"}, ["mock"]),
        ({"OPENROUTER_MODEL": "a", "GEMINI_MODEL": "b", "OPENAI_MODEL": "c"}, ["mock"]),
        ({"GEMINI_API_KEY": "k", "OPENAI_API_KEY": "k"}, ["gemini", "openai"]),
        ({"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k"}, ["openrouter", "openai"]),
        (ALL, ["openrouter", "gemini", "openai"]),
        (ALL | {"LLM_PROVIDER": "gemini"}, ["gemini", "openrouter", "openai"]),
        (ALL | {"LLM_PROVIDER": "openai"}, ["openai", "openrouter", "gemini"]),
        (ALL | {"BEDROCK_MODEL": "a.b"}, ["openrouter", "gemini", "openai", "bedrock"]),
        ({"BEDROCK_MODEL": "a.b", "LLM_PROVIDER": "bedrock", **ALL}, ["bedrock", *LISTED]),
        ({"OPENROUTER_API_KEY": "k", "LLM_PROVIDER": "mock"}, ["mock", "openrouter"]),
        ({"OPENAI_BASE_URL": "http://host/v1", "LLM_PROVIDER": "openai"}, ["openai"]),
    ],
)
def test_the_provider_is_set_or_inferred_from_the_keys(
    load: Load, variables: dict[str, str], order: list[str]
) -> None:
    settings = load(**variables)
    assert settings["LLM_PROVIDER"] == order[0]
    assert list(settings["PROVIDERS"]) == order


def test_a_provider_gets_its_key_url_and_model(load: Load) -> None:
    given = {
        "OPENROUTER_API_KEY": "sk-or",
        "OPENROUTER_MODEL": "meta/llama:free",
        "GEMINI_API_KEY": "AIza",
        "GEMINI_BASE_URL": "https://proxy.example/v1beta",
        "OPENAI_BASE_URL": "http://127.0.0.1:11434/v1",
        "OPENAI_MODEL": "llama3:8b",
    }
    defaults = load(**ALL)["PROVIDERS"]
    assert load(**given)["PROVIDERS"] == {
        "openrouter": {
            "api_key": "sk-or",
            "base_url": "https://openrouter.ai/api/v1",
            "model": "meta/llama:free",
        },
        "gemini": {
            "api_key": "AIza",
            "base_url": "https://proxy.example/v1beta",
            "model": defaults["gemini"]["model"],
        },
        "openai": {"api_key": "", "base_url": "http://127.0.0.1:11434/v1", "model": "llama3:8b"},
    }
    assert defaults["openai"]["base_url"] == "https://api.openai.com/v1"
    assert defaults["gemini"]["base_url"] == ("https://generativelanguage.googleapis.com/v1beta")


# --- The file .env --------------------------------------------------------------------------------


def test_the_file_sets_what_the_environment_does_not(load: Load) -> None:
    file = "API_PORT=9000\n\n# a comment\nexport LOG_LEVEL=\"DEBUG\"\nAPI_KEY='olá'\n"
    settings = load(file)
    assert (settings["API_PORT"], settings["LOG_LEVEL"]) == (9000, "DEBUG")
    assert settings["API_KEYS"] == ["olá"]


def test_the_environment_wins_over_the_file(load: Load) -> None:
    settings = load("API_PORT=9000\nLOG_LEVEL=DEBUG\n", API_PORT="9001")
    assert (settings["API_PORT"], settings["LOG_LEVEL"]) == (9001, "DEBUG")


def test_an_invalid_value_in_the_file_stops_the_start(load: Load) -> None:
    with pytest.raises(ImproperlyConfigured, match="API_PORT must be"):
        load("API_PORT=http\n")


def test_an_interrupt_during_the_start_is_no_traceback(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "env")  # the start waits for what is written into it
    started = subprocess.Popen(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": str(pipe)},
        stderr=subprocess.PIPE,
    )
    with pipe.open("w"):  # waits for the reader
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, b"")


def test_an_env_file_must_be_readable(load: Load, tmp_path: Path) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes("BUILD=café\n".encode("latin-1"))
    assert refusal(load, ENV_FILE=str(latin)) == f"{latin} (ENV_FILE) must be a text in UTF-8."
    assert refusal(load, ENV_FILE=str(tmp_path)) == (
        f"{tmp_path} (ENV_FILE) cannot be read: Is a directory."
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('LOG_LEVEL=DEBUG\nAPI_KEYS="secret\nBUILD=1\n', 2),
        ("# a comment\n\nBUILD=\n\nAPI_KEYS secret\n", 5),
        ("BUILD=1\n\nexport REQUIRE_API_KEY\n", 3),
        ('$env:API_KEYS="secret"\n', 1),
        ('{"API_KEYS":"secret"}\n', 1),
        ("API-KEYS=secret\n", 1),
        ("API_KEYS: secret=1\n", 1),
        ("API_KEYS='secret' secret\n", 1),
        ("=secret\n", 1),
        ("API_KEYS=sec\0ret\n", 1),
    ],
)
def test_a_line_of_the_env_file_that_cannot_be_read_stops_the_start(
    load: Load, tmp_path: Path, content: str, line: int
) -> None:
    (path := tmp_path / "broken").write_text(content, encoding="utf-8")
    assert refusal(load, ENV_FILE=str(path)) == (
        f"{path} (ENV_FILE), line {line}: must be NAME=value, and a quote must be closed."
    )


def test_a_named_env_file_must_exist(load: Load, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(load, ENV_FILE=str(missing)) == (
        f"ENV_FILE names {missing}, which does not exist."
    )


# --- The secret key -------------------------------------------------------------------------------


def test_the_secret_key_file_is_created_once_and_readable_by_its_owner_only(
    load: Load, tmp_path: Path
) -> None:
    variables = {"SECRET_KEY": "", "DATABASE_PATH": str(tmp_path / "chat.db")}
    first = load(**variables)["SECRET_KEY"]
    file = tmp_path / ".secret_key"
    assert len(first) >= 50
    assert file.read_text() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load(**variables)["SECRET_KEY"] == first
    assert {path.name for path in tmp_path.iterdir()} == {".secret_key", "env"}


def test_processes_that_start_at_once_share_one_secret_key(tmp_path: Path) -> None:
    def key(_: int) -> str:
        shown = start(
            "shell",
            "--no-imports",
            "--command=from django.conf import settings; print(settings.SECRET_KEY)",
            SECRET_KEY="",
            DATABASE_PATH=str(tmp_path / "chat.db"),
        )
        return shown.stdout.strip()

    with ThreadPoolExecutor(3) as pool:
        keys = set(pool.map(key, range(3)))
    assert keys == {(tmp_path / ".secret_key").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == [".secret_key"]


def test_a_given_secret_key_creates_no_file(load: Load, tmp_path: Path) -> None:
    settings = load(SECRET_KEY="given", DATABASE_PATH=str(tmp_path / "chat.db"))
    assert settings["SECRET_KEY"] == "given"
    assert not (tmp_path / ".secret_key").exists()


def test_a_database_without_a_folder_stops_the_start(load: Load, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert refusal(load, SECRET_KEY="", DATABASE_PATH=str(gone / "chat.db")) == (
        f"DATABASE_PATH must name a file in a folder, not {gone / 'chat.db'}."
    )


# --- Start-up checks ------------------------------------------------------------------------------


def test_the_default_configuration_passes_the_checks(tmp_path: Path) -> None:
    checked = start("check", "--fail-level", "WARNING", DATABASE_PATH=str(tmp_path / "chat.db"))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "no issues" in checked.stdout


def test_requiring_keys_without_any_gives_a_hint(tmp_path: Path) -> None:
    checked = start("check", REQUIRE_API_KEY="true", DATABASE_PATH=str(tmp_path / "chat.db"))
    assert checked.returncode == 0
    assert "chat.I001" in checked.stderr
    assert "HINT: Create one with `manage.py create_api_key`" in checked.stderr


@pytest.mark.parametrize(("required", "keys"), [(True, ["one"]), (False, []), (False, ["one"])])
def test_other_key_settings_pass_the_checks(settings: Any, required: bool, keys: list[str]) -> None:
    settings.REQUIRE_API_KEY = required
    settings.API_KEYS = keys
    call_command("check")


def test_the_migrations_are_those_of_the_models(db: None) -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
