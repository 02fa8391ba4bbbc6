"""The examples of docs/api.md and docs/errors.md run, and answer as the documents say."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.http import HttpResponse

from providers.base import CompletionRequest
from providers.gemini import Gemini
from tests.client import ApiClient
from tests.stub_vendor import GEMINI_ANSWER, StubVendor

DOCUMENT, ERRORS = (
    (Path(__file__).parent.parent / "docs" / name).read_text() for name in ("api.md", "errors.md")
)
GEMINI = {"api_key": "key", "base_url": "http://gemini.test", "model": "gemini-3.5-flash-lite"}

IDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|call_[0-9a-f]{32}")
# Values that differ from run to run, and their patterns.
CHANGING = {
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "created": r"\d+",
    "created_at": r"\d+",
    "completed_at": r"\d+",
    "latency_ms": r"\d+",
}


class Example(NamedTuple):
    """A request, and the text of its documented answer."""

    method: str
    path: str
    body: str | None
    headers: dict[str, str]
    answer: str


def examples(document: str = DOCUMENT) -> Iterator[Example]:
    blocks = re.finditer(r"```bash\n(.*?)```\n```\w+\n(.*?)```", document, re.DOTALL)
    for request, answer in (block.groups() for block in blocks):
        words = shlex.split(request.replace("curl -N ", "curl "))
        assert words[0] == "curl"
        options = list(zip(words[2::2], words[3::2], strict=True))
        assert {option for option, _ in options} <= {"--json", "-H", "-X"}
        headers = dict(value.split(": ") for option, value in options if option == "-H")
        path = words[1].removeprefix("localhost:8000")
        body = dict(options).get("--json")
        method = dict(options).get("-X", "POST" if body else "GET")
        yield Example(method, path, body, headers, answer)


@pytest.mark.parametrize("document", [DOCUMENT, ERRORS], ids=["api", "errors"])
def test_every_request_of_a_document_is_an_example(document: str):
    assert len(list(examples(document))) == document.count("```bash")


def call_part(signature: str) -> dict[str, Any]:
    call = {"name": "add", "args": {"a": 1, "b": 2}}
    return {"functionCall": call, "thoughtSignature": signature}


def gemini_answer(part: dict[str, Any]) -> dict[str, Any]:
    return {**GEMINI_ANSWER, "candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}


@pytest.fixture
def gemini(change_settings: Callable[..., None]) -> Iterator[StubVendor]:
    """The mock as the default provider, and a stub of Gemini beside it."""
    with StubVendor() as stub:
        options = {**GEMINI, "base_url": f"{stub.url}/v1beta"}
        change_settings(PROVIDERS={"mock": {}, "gemini": options})
        yield stub


@pytest.mark.django_db(transaction=True)
def test_each_request_of_the_document_gets_its_answer(api: ApiClient, gemini: StubVendor):
    gemini.reply(gemini_answer(call_part("CpcBAdHtim9x")))
    gemini.reply(gemini_answer({"text": "1 + 2 is 3."}))
    assert_answers(api, DOCUMENT)
    assert len(gemini.requests) == 2
    assert call_part("CpcBAdHtim9x").items() <= sent_call(gemini).items()


@pytest.mark.django_db(transaction=True)
def test_each_request_of_the_document_of_errors_gets_its_answer(api: ApiClient):
    assert_answers(api, ERRORS)


def assert_answers(api: ApiClient, document: str) -> None:
    ids: dict[str, str] = {}  # in the document -> in this run
    for example in examples(document):
        response = ask(api, example, ids)
        read = events if "data: " in example.answer else json_values
        expected, found = read(example.answer), read(text(response))
        assert_like(found, expected, ids, whole="…" not in example.answer)


def ask(api: ApiClient, example: Example, ids: dict[str, str]) -> HttpResponse:
    """Send the request, with this run's ids in place of the document's."""

    def with_ids(text: str) -> str:
        return IDS.sub(lambda id_: ids[id_[0]], text)

    if example.body is None:
        return api.request(example.method, with_ids(example.path), headers=example.headers)
    body = with_ids(example.body).encode()
    return api.post(example.path, body, headers=example.headers)


def sent_call(gemini: StubVendor) -> dict[str, Any]:
    """Return the tool call that Gemini got back, without its id."""
    part: dict[str, Any] = gemini.requests[-1].json["contents"][1]["parts"][0]
    del part["functionCall"]["id"]
    return part


def text(response: HttpResponse) -> str:
    content = response.streaming_content if response.streaming else [response.content]
    return b"".join(content).decode()


def json_values(answer: str) -> list[Any]:
    return [json.loads(without_ellipsis(answer))]


def events(answer: str) -> list[Any]:
    """Return the name and the data of each event of a stream."""
    found = re.findall(r"(?:event: ([\w.]+)\n)?data: (.+)\n", answer)
    return [
        [name, data if data == "[DONE]" else json.loads(without_ellipsis(data))]
        for name, data in found
    ]


def without_ellipsis(answer: str) -> str:
    return re.sub(r"\s*// …|, …(?=\}$)", "", answer)


def assert_like(found: Any, expected: Any, ids: dict[str, str], *, whole: bool) -> None:
    """Compare values; of objects that are not `whole`, the expected fields. Add to `ids`."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys() if whole else found.keys() >= expected.keys()
        for name, value in expected.items():
            if name in CHANGING:
                assert re.fullmatch(CHANGING[name], str(found[name]))
                assert re.fullmatch(CHANGING[name], str(value))
            else:
                assert_like(found[name], value, ids, whole=whole)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_like(one, other, ids, whole=whole)
    elif isinstance(expected, str):
        assert IDS.sub("ID", found) == IDS.sub("ID", expected)
        for own, documented in zip(IDS.findall(found), IDS.findall(expected), strict=True):
            assert ids.setdefault(documented, own) == own
        assert len(set(ids.values())) == len(ids)
    else:
        assert found == expected


def gemini_rows() -> Iterator[tuple[str, list[Any]]]:
    """Return each parameter of the table, and values that Gemini takes."""
    table = DOCUMENT.split("| parameter |")[1].split("\n\n")[0]
    for row in table.splitlines():
        if row.startswith("| `"):
            names, values = (re.findall(r"`(.+?)`", cell) for cell in row.split("|")[1:3])
            for name in names:
                yield name, [json.loads(value) for value in values] or ["anything"]


def lacking(name: str, value: Any) -> list[str]:
    """Return what Gemini cannot be told, of a request with this parameter."""
    message = {"role": "user", "content": "Hello"}
    parameters = {"tools": [{"type": "function", "function": {"name": "add"}}], name: value}
    request = CompletionRequest(
        model=GEMINI["model"], messages=(message,), parameters=parameters, end_user="3f1c"
    )
    return list(Gemini(**GEMINI).unsupported(request))


def test_gemini_takes_what_the_table_says():
    rows = dict(gemini_rows())
    del rows["max_completion_tokens"]  # the API sends it on as `max_tokens`
    refused = [name for name, values in rows.items() for value in values if lacking(name, value)]
    assert refused == []
