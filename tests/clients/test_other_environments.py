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
    signed = [part["thoughtSignature"] for part in parts_sent(vendor) if "thoughtSignature" in part]
    assert signed[:2] == [stub_model.SIGNATURE] * 2  # of `createOpenAICompatible`


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
