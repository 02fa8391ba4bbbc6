"""Clients in environments of their own: Node's, and Python's with other requirements than ours.

Each is a script that prints lines of JSON: a model, what was asked of it, and the answer.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients import installation, stub_model
from tests.clients.conftest import GEMINI, MODELS, PROMPT, REASONER
from tests.factories import KEY
from tests.stub_vendor import StubVendor

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def node() -> Path:
    return installation.node()


@pytest.fixture(scope="module")
def python() -> Path:
    return installation.python()


def run(base_url: str, *command: str | Path) -> dict[str, set[str]]:
    """Run a script and check what it prints; return what it asked of each model.

    An agent's answer names the results of both tools, an object has the fields of the schema, and
    the thoughts are whole.
    """
    variables = {"BASE_URL": base_url, "API_KEY": KEY, "MODELS": " ".join(MODELS), "PROMPT": PROMPT}
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked: dict[str, set[str]] = {}
    for model, name, value in map(json.loads, done.stdout.splitlines()):
        asked.setdefault(model, set()).add(name)
        if name.startswith("reasoning"):
            assert value == stub_model.THOUGHT, (model, name)
        elif isinstance(value, str):
            assert all(f"18 °C in {city}" in value for city in stub_model.CITIES), (model, name)
        else:
            assert value.keys() == stub_model.FORECAST.keys(), (model, name)
    return asked


def test_openai_node(node: Path, base_url: str) -> None:
    answers = {"parse", "parse streamed", "reasoning", "reasoning streamed"}
    agents = {"runTools", "runTools streamed"}
    all_of_it = dict.fromkeys(MODELS, answers | agents)
    assert run(base_url, "node", node / "openai.mjs") == all_of_it | {REASONER: answers}


def test_the_vercel_ai_sdk(node: Path, base_url: str, vendor: StubVendor) -> None:
    names = {"generateText", "streamText", "generateObject"}
    answers = {f"{name} compatible" for name in names} | {"reasoning", "reasoning streamed"}
    all_of_it = dict.fromkeys(MODELS, answers | {f"{name} openai" for name in names})
    assert run(base_url, "node", node / "ai-sdk.mjs") == all_of_it | {
        REASONER: answers | {"generateObject openai"}
    }
    assert signatures_sent(vendor)[:2] == [stub_model.SIGNATURE] * 2  # of `createOpenAICompatible`


def test_openai_node_with_responses(node: Path, base_url: str, vendor: StubVendor) -> None:
    answers = {"agent", "parse", "reasoning"}
    streamed = {f"{name} streamed" for name in answers}
    assert run(base_url, "node", node / "responses.mjs") == dict.fromkeys(
        MODELS, answers | streamed
    )
    assert signatures_sent(vendor) == [stub_model.SIGNATURE] * 2


def test_the_vercel_ai_sdk_with_responses(node: Path, base_url: str, vendor: StubVendor) -> None:
    agents = {
        f"{kind}{name}" for kind in ("", "stateless ") for name in ("generateText", "streamText")
    }
    answers = agents | {"generateObject", "reasoning", "reasoning streamed"}
    assert run(base_url, "node", node / "ai-sdk-responses.mjs") == dict.fromkeys(MODELS, answers)
    assert signatures_sent(vendor) == [stub_model.SIGNATURE] * 4


def test_the_agents_sdk(python: Path, base_url: str, vendor: StubVendor) -> None:
    answers = {"agent", "stateless agent", "continued agent", "hand-off"}
    streamed = {f"{name} streamed" for name in answers}
    asked = run(base_url, python, HERE / "python" / "agents_client.py")
    assert asked == dict.fromkeys(MODELS, answers | streamed)
    assert signatures_sent(vendor) == [stub_model.SIGNATURE] * 8


def signatures_sent(vendor: StubVendor) -> list[str]:
    """Return the signatures that Gemini got back."""
    return [part["thoughtSignature"] for part in parts_sent(vendor) if "thoughtSignature" in part]


def parts_sent(vendor: StubVendor) -> list[dict[str, Any]]:
    """Return the parts that Gemini got."""
    bodies = [received.json for received in vendor.requests if GEMINI in received.path]
    return [part for body in bodies for content in body["contents"] for part in content["parts"]]


def test_instructor(python: Path, base_url: str) -> None:
    answers = {"TOOLS", "TOOLS streamed", "JSON_SCHEMA", "JSON_SCHEMA streamed"}
    asked = run(base_url, python, HERE / "python" / "instructor_client.py")
    assert asked == dict.fromkeys(MODELS, answers)


def test_litellm(python: Path, base_url: str) -> None:
    answers = {"agent", "agent streamed", "reasoning", "reasoning streamed", "object"}
    asked = run(base_url, python, HERE / "python" / "litellm_client.py")
    assert asked == dict.fromkeys(MODELS, answers)
