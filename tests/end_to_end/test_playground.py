"""The playground in a real browser: on the product's server, and on scripts of its streams.

Whatever a test does, nothing may be asked of another host, and nothing may be wrong in the
browser's console (tests/browser.py).
"""

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import Playground, Script
from tests.factories import KEY
from tests.server_process import Server

Visit = Callable[..., Playground]

ANSWER = {
    "interaction_id": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    "response": "",
    "model": "model-1",
    "finish_reason": "stop",
    "cached": False,
    "latency_ms": 2412,
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "cost_usd": "0.000104"},
}
PROBLEM = {
    "title": "Too many requests",
    "status": 429,
    "detail": "No more than 60 requests a minute.",
    "code": "rate_limited",
    "request_id": "request-1",
    "errors": [],
}
RICH = """\
# A heading

Some *emphasis*, `code`, and [a link](https://example.org/page).

1. one
2. two

   - nested

| left | right |
|---|---:|
| a cell that is rather wide, so that the table does not fit | 1 |

```python
print("a line of code that is certainly wider than the screen of a phone, however it is held")
```

> A_very_long_word_that_cannot_be_broken_anywhere_but_has_to_be_on_the_screen_of_a_phone
"""
HOSTILE = {
    "script": "<script>document.title = 'owned'</script>",
    "image": "<img src=x onerror=\"document.title = 'owned'\">",
    "inline": "hello <b onmouseover=\"document.title = 'owned'\">you</b> <svg onload=alert(1)>",
    "frame": "<iframe src='https://evil.example/'></iframe>",
    "style": "<style>@import 'https://evil.example/a.css'</style>",
    "style sheet": "<link rel=stylesheet href=//evil.example/a.css>",
    "form": "<form action='https://evil.example/'><input autofocus onfocus=alert(1)></form>",
    "mutation": "<math><mtext><table><mglyph><style><!--</style>"
    "<img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "markdown image": "![a picture](https://evil.example/x.png) ![](//evil.example/y.png)",
    "reference image": "![a picture][1]\n\n[1]: https://evil.example/x.png",
    "link": "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](java&#115;cript:alert(1))",
    "other links": "[a](data:text/html,<script>alert(1)</script>) [b](vbscript:x) [c](file:///etc)",
    "automatic link": "<javascript:alert(1)> <data:text/html,x>",
    "attribute": '[a](https://example.org/"onmouseover="alert(1))',
    "title": '[a](https://example.org "\\" onmouseover=\\"alert(1)")',
    "language": '```"><img src=x onerror=alert(1)>\ncode\n```',
    "code": "`<img src=x onerror=alert(1)>`\n\n    <script>alert(1)</script>",
    "table": "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <script>alert(1)</script> | d |",
}


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def stream(*texts: str, end: bool = True, **options: Any) -> Script:
    """The script of an answer that comes in these pieces."""
    pieces = [event("delta", {"text": text}) for text in texts]
    return {"pieces": [*pieces, *([event("done", ANSWER)] if end else [])], **options}


# --- On the product's server ----------------------------------------------------------------------


def test_an_answer_streams_in_and_shows_its_usage(playground: Playground) -> None:
    with playground.page.expect_response("**/v1/chat") as answered:
        body = playground.asked("Olá!")
    assert body == {"userId": "playground", "prompt": "Olá!", "stream": True}
    assert answered.value.headers["content-type"].startswith("text/event-stream")
    expect(playground.answer).to_have_text("You said: Olá!")
    facts = playground.turn.locator(".facts").inner_text().replace("\xa0", " ")
    assert re.fullmatch(r"mock-1 · 1 token in, 3 out · \$0 · \d+ ms", facts)
    expect(playground.page.get_by_role("status")).to_have_text("Answer complete.")
    expect(playground.page.get_by_label("Your question")).to_be_focused()


def test_the_next_question_continues_the_conversation(
    playground: Playground, server: Server
) -> None:
    playground.asked("one")
    body = playground.asked("two")
    parent = server.client.get(f"/v1/interactions/{body['previous_interaction_id']}").json()
    assert parent["prompt"] == "one"
    body = playground.asked("three")
    parent = server.client.get(f"/v1/interactions/{body['previous_interaction_id']}").json()
    assert parent["prompt"] == "two"
    expect(playground.answer).to_have_text("You said: three")
    expect(playground.page.get_by_role("article")).to_have_count(3)


def test_a_new_chat_continues_nothing(playground: Playground) -> None:
    playground.asked("one")
    playground.page.get_by_role("button", name="New chat").click()
    expect(playground.page.get_by_role("article")).to_have_count(0)
    assert "previous_interaction_id" not in playground.asked("two")


def test_another_user_continues_nothing(playground: Playground) -> None:
    playground.asked("one")
    playground.page.get_by_role("button", name="Settings").click()
    playground.page.get_by_label("User id").fill("somebody@example.org")
    body = playground.asked("two")
    assert body["userId"] == "somebody@example.org"
    assert "previous_interaction_id" not in body
    expect(playground.answer).to_have_text("You said: two")


@pytest.mark.parametrize("how", ["Stop", "Escape"])
def test_a_question_can_be_stopped(playground: Playground, how: str) -> None:
    playground.ask("mock:delay=20")
    stop = playground.page.get_by_role("button", name="Stop")
    stop.wait_for()
    if how == "Stop":
        stop.click()
    else:
        playground.page.keyboard.press("Escape")
    playground.wait()
    assert playground.note == "Stopped. It is not part of the conversation."
    assert "previous_interaction_id" not in playground.asked("on")
    expect(playground.answer).to_have_text("You said: on")


def test_a_failure_is_explained_and_can_be_retried(playground: Playground) -> None:
    with playground.page.expect_response("**/v1/chat") as answered:
        playground.asked("mock:fail=429")
    problem = answered.value.json()
    sentence, wait, code = playground.note.splitlines()
    assert sentence == problem["detail"]
    assert wait == f"Try again in {answered.value.headers['retry-after']} seconds."
    assert code == f"provider_unavailable, request {problem['request_id']}"
    expect(playground.page.get_by_role("status")).to_have_text(problem["detail"])
    with playground.page.expect_request("**/v1/chat") as sent:
        playground.turn.get_by_role("button", name="Try again").click()
    assert sent.value.post_data_json["prompt"] == "mock:fail=429"
    expect(playground.page.get_by_role("article")).to_have_count(1)


def test_fields_at_fault_are_named(playground: Playground) -> None:
    playground.page.get_by_role("button", name="Settings").click()
    playground.page.get_by_label("User id").fill("not/valid")
    playground.asked("hi")
    assert re.search(r"^userId: Any characters but /", playground.note, re.MULTILINE)


def test_a_model_can_be_chosen(playground: Playground, server: Server) -> None:
    listed = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
    model = playground.page.get_by_label("Model", exact=True)
    ids = [id_ for id_ in listed if id_ != "default"]
    expect(model.locator("option")).to_have_text(["Default model", *ids])
    model.select_option(ids[0])
    assert playground.asked("hi")["model"] == ids[0]
    expect(playground.answer).to_have_text("You said: hi")
    playground.page.reload()
    expect(model).to_have_value(ids[0])


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_answer_becomes_anything_but_text(playground: Playground, text: str) -> None:
    playground.asked(f"\n\n{text}")  # a block of its own, after what the mock says first
    expect(playground.answer).to_contain_text("You said:")
    assert playground.answer.locator("script, img, svg, style, iframe, form, input").count() == 0
    attributes = playground.answer.evaluate(
        "(answer) => [...answer.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())"
    )
    assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]
    links = playground.answer.locator("a[href]")
    for number in range(links.count()):
        assert re.match("https?://", links.nth(number).get_attribute("href"))
    playground.page.wait_for_timeout(100)  # for whatever would be loaded or run
    assert playground.page.title() == "Playground · Serverless Chat API"


def test_an_answer_can_be_copied(playground: Playground) -> None:
    playground.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.asked("**bold**")
    playground.turn.get_by_role("button", name="Copy answer").click()
    expect(playground.turn.get_by_role("button", name="Copied")).to_be_visible()
    assert copied(playground.page) == "You said: **bold**"


def test_the_button_has_its_name_again_after_two_clicks(playground: Playground) -> None:
    playground.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.asked("twice")
    playground.turn.get_by_role("button", name="Copy answer").click()
    playground.turn.get_by_role("button", name="Copied").click()
    playground.page.wait_for_timeout(3100)  # each click shows its result for 1.5 s
    expect(playground.turn.get_by_role("button", name="Copy answer")).to_be_visible()


# --- Keys -----------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path, visit: Visit) -> Any:
    """A playground whose server asks for a key."""
    variables = {"REQUIRE_API_KEY": "true", "API_KEY": KEY, "WEB_CONCURRENCY": "1"}
    with Server(tmp_path, LLM_PROVIDER="mock", **variables) as server:
        yield visit(server)


def test_a_key_is_asked_for_and_stays_in_its_tab(locked: Playground) -> None:
    key = locked.page.get_by_label("API key")
    expect(key).to_be_visible()
    expect(locked.page.get_by_text("Models cannot be listed")).to_be_visible()
    locked.asked("hi")
    assert (
        locked.note.splitlines()[0]
        == "Send your key as `X-API-Key: …` or `Authorization: Bearer …`."
    )

    key.fill(KEY)
    key.press("Tab")
    expect(locked.page.get_by_text("Models cannot be listed")).to_be_hidden()
    locked.asked("hi again")
    expect(locked.answer).to_have_text("You said: hi again")

    assert locked.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert locked.context.cookies() == []
    assert KEY not in locked.page.url
    locked.page.reload()
    expect(key).to_have_value(KEY)
    expect(locked.tab().get_by_label("API key")).to_have_value("")


def test_the_copied_command_has_no_key(locked: Playground) -> None:
    locked.context.grant_permissions(["clipboard-read", "clipboard-write"])
    locked.page.get_by_label("API key").fill(KEY)
    locked.asked("hi")
    locked.turn.get_by_role("button", name="Copy as curl").click()
    assert KEY not in copied(locked.page)
    assert f"X-API-Key: {KEY}" in words_of(copied(locked.page), API_KEY=KEY)


@pytest.mark.parametrize(
    "prompt",
    ["Olá!", 'it\'s $HOME `id` $(id) "quoted" \\ ! # ;', "two\nlines", "'; id; '", "@file"],
)
def test_the_request_can_be_copied_for_a_shell(playground: Playground, prompt: str) -> None:
    playground.context.grant_permissions(["clipboard-read", "clipboard-write"])
    body = playground.asked(prompt)
    playground.turn.get_by_role("button", name="Copy as curl").click()
    words = words_of(copied(playground.page))
    header = "Content-Type: application/json"
    assert words[:-1] == ["-N", f"{playground.url}/v1/chat", "-H", header, "-d"]
    assert json.loads(words[-1]) == body


def copied(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def words_of(command: str, **variables: str) -> list[str]:
    """What a shell hands to curl."""
    script = f"curl() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    done = subprocess.run(
        ["bash", "-c", script], env=variables, check=True, capture_output=True, text=True
    )
    assert not done.stderr
    return done.stdout.split("\0")[:-1]


# --- Thoughts -------------------------------------------------------------------------------------


def test_thoughts_are_folded_away(playground: Playground) -> None:
    playground.asked('mock:think="A greeting. I greet back." Olá!')
    thoughts = playground.turn.get_by_role("group")
    expect(thoughts.locator("p")).to_be_hidden()
    thoughts.get_by_text("Thoughts").click()
    expect(thoughts.locator("p")).to_have_text("A greeting. I greet back.")
    expect(playground.answer).to_contain_text("You said:")
    playground.asked("Olá!")
    expect(playground.turn.locator(".thoughts")).to_be_hidden()


def test_thoughts_are_shown_while_more_is_to_come(visit: Visit, server: Server) -> None:
    pieces = [event("reasoning", {"text": text}) for text in ("Let me", " <b>see</b>\n- a")]
    playground = visit(server, {"pieces": [*pieces, "hold"]})
    playground.ask("hi")
    playground.turn.get_by_text("Thinking…").click()
    expect(playground.turn.locator(".thoughts p")).to_have_text("Let me <b>see</b>\n- a")
    expect(playground.answer).to_have_attribute("aria-busy", "true")
    playground.page.get_by_role("button", name="Stop").click()
    expect(playground.turn.get_by_text("Thoughts")).to_be_visible()
    expect(playground.turn.locator(".thoughts p")).to_be_visible()


@pytest.mark.parametrize("type_", ["application/json", "text/event-stream"])
def test_the_thoughts_of_a_stored_answer_are_shown(
    visit: Visit, server: Server, type_: str
) -> None:
    answer = {**ANSWER, "response": "18 °C.", "reasoning": "Let me see."}
    stored = json.dumps(answer) if type_ == "application/json" else event("done", answer)
    playground = visit(server, {"pieces": [stored], "type": type_})
    playground.asked_scripted()
    playground.turn.get_by_text("Thoughts").click()
    expect(playground.turn.locator(".thoughts p")).to_have_text("Let me see.")


# --- Images ---------------------------------------------------------------------------------------

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mPgzg7HihiGlgQA8+UzQePg"
    "luoAAAAASUVORK5CYII="
)
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
# Hands a picture to the page like the clipboard or a dragged file.
HAND_OVER = """([type, data]) => {
  const bytes = Uint8Array.from(atob(data.split(",")[1]), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "picture.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const event = type === "paste"
    ? new ClipboardEvent(type, { ...options, clipboardData: transfer })
    : new DragEvent(type, { ...options, dataTransfer: transfer });
  document.getElementById("prompt").dispatchEvent(event);
}"""


def choose(playground: Playground, *names: str, type_: str = "image/png") -> None:
    with playground.page.expect_file_chooser() as chooser:
        playground.page.get_by_role("button", name="Add images").click()
    files: Any = [{"name": name, "mimeType": type_, "buffer": PNG} for name in names]
    chooser.value.set_files(files)


@pytest.mark.parametrize("how", ["button", "paste", "drop"])
def test_images_go_with_the_question(playground: Playground, how: str) -> None:
    if how == "button":
        choose(playground, "picture.png")
    else:
        playground.page.evaluate(HAND_OVER, [how, DATA_URL])
    expect(playground.page.get_by_role("img", name="picture.png")).to_be_visible()
    expect(playground.page.locator("#size")).to_have_text("1 image, 0.1 MB to send")
    expect(playground.page.get_by_label("Your question")).to_be_focused()
    body = playground.asked("What is it?")
    assert body["images"] == [DATA_URL]
    expect(playground.answer).to_have_text("You said: What is it? (1 image)")
    expect(playground.turn.get_by_role("img")).to_have_attribute("src", DATA_URL)
    expect(playground.page.locator("#images")).to_be_hidden()
    assert "images" not in playground.asked("And now?")


def test_images_can_be_removed(playground: Playground) -> None:
    choose(playground, "one.png", "two.png")
    expect(playground.page.locator("#size")).to_have_text("2 images, 0.1 MB to send")
    playground.page.get_by_role("button", name="Remove one.png").click()
    expect(playground.page.get_by_role("img")).to_have_count(1)
    assert len(playground.asked("hi")["images"]) == 1


def test_sixteen_images_are_the_most_and_other_files_are_refused(playground: Playground) -> None:
    choose(playground, "notes.txt", type_="text/plain")
    expect(playground.page.locator("#size")).to_have_text("Only images can be added.")
    choose(playground, *(f"{number}.png" for number in range(17)))
    expect(playground.page.locator("#size")).to_have_text("No more than 16 images.")
    expect(playground.page.locator("#images").get_by_role("img")).to_have_count(16)


def test_images_that_come_at_once_are_sixteen_at_most(playground: Playground) -> None:
    many = HAND_OVER.replace("transfer.items", "for (let i = 0; i < 9; i++) transfer.items")
    playground.page.evaluate(f"(one) => [one, one].map({many})", ["drop", DATA_URL])
    expect(playground.page.locator("#size")).to_have_text("No more than 16 images.")
    expect(playground.page.locator("#images").get_by_role("img")).to_have_count(16)


def test_many_images_leave_room_on_a_phone(server: Server, visit: Visit) -> None:
    playground = visit(server, viewport={"width": 360, "height": 640})
    choose(playground, *(f"{number}.png" for number in range(16)))
    expect(playground.page.locator("#images").get_by_role("img")).to_have_count(16)
    height = playground.page.locator("#ask").evaluate("form => form.clientHeight")
    assert height < 640 * 2 / 3
    playground.page.get_by_role("button", name="Remove 15.png").click()
    expect(playground.page.locator("#images").get_by_role("img")).to_have_count(15)


def test_images_need_a_question(playground: Playground) -> None:
    choose(playground, "one.png")
    playground.page.get_by_label("Your question").press("Enter")
    expect(playground.page.locator("#size")).to_have_text("Write a question about the images.")
    expect(playground.page.get_by_role("article")).to_have_count(0)


def test_pasted_text_stays_text(playground: Playground) -> None:
    """Cells of a spreadsheet are in the clipboard as text and as a picture of them."""
    both = HAND_OVER.replace(
        "const options", "transfer.setData('text/plain', 'a');\n  const options"
    )
    playground.page.evaluate(both, ["paste", DATA_URL])
    playground.page.wait_for_timeout(100)
    expect(playground.page.locator("#images")).to_be_hidden()


def test_a_failed_question_is_tried_again_with_its_images(playground: Playground) -> None:
    choose(playground, "one.png")
    playground.asked("mock:fail=429")
    with playground.page.expect_request("**/v1/chat") as sent:
        playground.turn.get_by_role("button", name="Try again").click()
    assert sent.value.post_data_json["images"] == [DATA_URL]
    playground.wait()


# --- Streams --------------------------------------------------------------------------------------

UTF8 = "Olá, 世界 👋"
STREAMS: dict[str, tuple[list[Any], str]] = {
    "one piece": (["".join(stream("Hello ", "you")["pieces"])], "Hello you"),
    "CRLF": ([event("delta", {"text": "Hello"}).replace("\n", "\r\n")], "Hello"),
    "CR": ([event("delta", {"text": "Hello"}).replace("\n", "\r")], "Hello"),
    "comments": ([": waiting\n\n", ":\n", *stream("Hello", end=False)["pieces"]], "Hello"),
    "byte by byte": ([[byte] for byte in event("delta", {"text": UTF8}).encode()], UTF8),
    "line separators": (stream("a\u2028b\u0085c", end=False)["pieces"], "a\u2028b\u0085c"),
    "data of two lines": (['event: delta\ndata: {"text":\ndata: "Hello"}\n\n'], "Hello"),
    "unknown events": ([event("usage", {}), *stream("Hello", end=False)["pieces"]], "Hello"),
}


@pytest.mark.parametrize(("pieces", "text"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_read_however_it_is_cut(
    visit: Visit, server: Server, pieces: list[Any], text: str
) -> None:
    playground = visit(server, {"pieces": [*pieces, event("done", ANSWER)]})
    playground.asked_scripted()
    assert playground.answer.evaluate("(answer) => answer.textContent") == text
    assert playground.turn.locator(".facts").inner_text().startswith("model-1")


def test_text_is_shown_while_more_is_to_come(visit: Visit, server: Server) -> None:
    script = stream("The **first** ", "words", end=False)
    playground = visit(server, {"pieces": [*script["pieces"], "hold"]})
    playground.ask("hi")
    expect(playground.answer).to_have_text("The first words")
    expect(playground.answer).to_have_attribute("aria-busy", "true")
    playground.page.get_by_role("button", name="Stop").click()
    expect(playground.answer).to_have_text("The first words")
    assert playground.note == "Stopped. It is not part of the conversation."
    expect(playground.page.get_by_role("status")).to_have_text("Stopped.")


BROKEN: dict[str, tuple[list[str], str, list[str]]] = {
    "an error": (
        [event("error", PROBLEM)],
        "half",
        [PROBLEM["detail"], "rate_limited, request request-1"],
    ),
    "no end": ([], "half", ["The connection broke off before the answer was complete."]),
    "a reset": (["reset"], "half", ["The connection broke off before the answer was complete."]),
    "garbage": (["event: done\ndata: {\n\n"], "half", ["The server's answer cannot be read."]),
}


@pytest.mark.parametrize(("pieces", "text", "note"), BROKEN.values(), ids=BROKEN)
def test_pieces_before_a_failure_stay_visible(
    visit: Visit, server: Server, pieces: list[str], text: str, note: list[str]
) -> None:
    script = {"pieces": [*stream("half", end=False)["pieces"], *pieces]}
    playground = visit(server, script)
    playground.asked_scripted()
    expect(playground.answer).to_have_text(text)
    assert playground.note.splitlines() == note


def test_an_answer_that_is_not_streamed_is_shown_as_well(visit: Visit, server: Server) -> None:
    whole = json.dumps({**ANSWER, "response": "All **at once**"})
    playground = visit(server, {"pieces": [whole], "type": "application/json"})
    playground.asked_scripted()
    expect(playground.answer.locator("strong")).to_have_text("at once")


def test_unknown_values_are_left_out_and_unusual_ones_shown(visit: Visit, server: Server) -> None:
    usage = {"prompt_tokens": None, "completion_tokens": None, "cost_usd": None}
    odd = {"usage": usage, "finish_reason": "length", "cached": True, "recorded": False}
    playground = visit(server, {"pieces": [event("done", {**ANSWER, **odd})]})
    playground.asked_scripted()
    facts = playground.turn.locator(".facts").inner_text().replace("\xa0", " ")
    assert facts == "model-1 · 2.4 s · from the cache · not recorded · cut off: too long"


def test_a_gateway_failure_is_explained(visit: Visit, server: Server) -> None:
    script = {"pieces": ["<h1>Bad gateway</h1>"], "type": "text/html", "status": 502}
    playground = visit(server, {**script, "headers": {"Retry-After": "1"}})
    playground.asked_scripted()
    assert playground.note.splitlines() == [
        "The server refused the request or failed.",
        "Try again in 1 second.",
        "HTTP 502",
    ]


def test_an_unreachable_server_is_explained(playground: Playground) -> None:
    playground.page.route("**/v1/chat", lambda route: route.abort())
    playground.asked("hi")
    assert playground.note == "The server could not be reached."


# --- Markdown -------------------------------------------------------------------------------------


def test_markdown_is_shown_the_same_however_it_arrives(visit: Visit, server: Server) -> None:
    at_once = visit(server, stream(RICH))
    at_once.asked_scripted()
    piecemeal = visit(server, stream(*re.findall(r"(?s).{1,3}", RICH), pause=2))
    piecemeal.asked_scripted()
    assert piecemeal.answer.inner_html() == at_once.answer.inner_html()
    for selector in ("h1", "em", "ol > li > ul > li", "td[align=right]", "pre code", "blockquote"):
        expect(at_once.answer.locator(selector)).to_have_count(1)
    link = at_once.answer.get_by_role("link", name="a link")
    assert link.get_attribute("rel") == "noopener noreferrer"


def test_a_code_block_can_be_copied(visit: Visit, server: Server) -> None:
    playground = visit(server, stream("```sh\nls -l\n```"))
    playground.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.asked_scripted()
    playground.answer.get_by_role("button", name="Copy").click()
    assert copied(playground.page) == "ls -l\n"


def test_a_selection_survives_a_growing_answer(visit: Visit, server: Server) -> None:
    texts = ["The first paragraph.\n\n", *(f"Paragraph {n}.\n\n" for n in range(100))]
    playground = visit(server, stream(*texts, pause=10))
    playground.ask("hi")
    playground.answer.get_by_text("The first paragraph.").select_text()
    playground.wait()
    assert playground.page.evaluate("String(getSelection())") == "The first paragraph."


def test_the_page_follows_the_answer_unless_scrolled_up(visit: Visit, server: Server) -> None:
    texts = [f"Paragraph {number}.\n\n" for number in range(200)]
    playground = visit(server, stream(*texts, pause=10), viewport={"width": 800, "height": 600})
    left = "document.documentElement.scrollHeight - innerHeight - scrollY"
    playground.ask("hi")
    playground.answer.get_by_text("Paragraph 40.").wait_for()
    assert playground.page.evaluate(left) < 40
    playground.page.mouse.move(400, 300)
    playground.page.mouse.wheel(0, -500)
    while playground.page.evaluate(left) < 300:
        playground.page.wait_for_timeout(20)
    place = playground.page.evaluate("scrollY")
    playground.wait()
    assert playground.page.evaluate("scrollY") == place


LONG = {
    "paragraphs": ["A **paragraph** with `code` in it.\n\n" * 5] * 600,
    "a code block": ["```\n", *["a line of code that is one of very many\n" * 5] * 600],
}


@pytest.mark.parametrize("texts", LONG.values(), ids=LONG)
def test_a_long_answer_does_not_keep_the_page_busy(
    visit: Visit, server: Server, texts: list[str]
) -> None:
    """Seconds of CPU: what grows with the square of the length takes many times as long."""
    playground = visit(server, stream(*texts, pause=1))
    browser = playground.context.new_cdp_session(playground.page)
    browser.send("Performance.enable", {"timeDomain": "threadTicks"})
    playground.asked_scripted()
    metrics = browser.send("Performance.getMetrics")["metrics"]
    [seconds] = [each["value"] for each in metrics if each["name"] == "TaskDuration"]
    assert seconds < 5


# --- Everybody ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(visit: Visit, server: Server, scheme: str) -> None:
    script = stream(RICH)
    script["pieces"].insert(0, event("reasoning", {"text": "Let me see."}))
    playground = visit(server, script, color_scheme=scheme, reduced_motion="reduce")
    assert violations(playground.page) == []
    choose(playground, "one.png")
    expect(playground.page.get_by_role("img")).to_be_visible()
    assert violations(playground.page) == []
    playground.asked_scripted()
    playground.turn.get_by_text("Thoughts").click()
    assert violations(playground.page) == []
    playground.page.evaluate("(script) => { window.script = script; }", refusal())
    playground.ask("hi")
    playground.turn.get_by_role("button", name="Try again").wait_for()
    playground.page.get_by_role("button", name="Settings").click()
    assert violations(playground.page) == []


def refusal() -> Script:
    return {"pieces": [json.dumps(PROBLEM)], "type": "application/problem+json", "status": 429}


def violations(page: Page) -> list[Any]:
    found = Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def test_enter_sends_and_shift_enter_starts_a_line(playground: Playground) -> None:
    field = playground.page.get_by_label("Your question")
    expect(field).to_be_focused()
    field.press_sequentially("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    with playground.page.expect_request("**/v1/chat") as sent:
        field.press("Enter")
    assert sent.value.post_data_json["prompt"] == "one\ntwo"
    expect(field).to_have_value("")


def test_nothing_is_sent_when_nothing_is_asked(playground: Playground) -> None:
    playground.ask(" \n ")
    expect(playground.page.get_by_role("article")).to_have_count(0)


@pytest.mark.parametrize("settings", [False, True], ids=["", "settings"])
def test_nothing_is_wider_than_a_phone(visit: Visit, server: Server, settings: bool) -> None:
    playground = visit(server, stream(RICH), viewport={"width": 360, "height": 740})
    playground.asked_scripted("a_word_without_an_end_" * 20)
    if settings:
        playground.page.get_by_role("button", name="Settings").click()
    assert playground.page.evaluate("document.documentElement.scrollWidth") == 360
