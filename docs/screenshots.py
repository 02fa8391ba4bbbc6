"""Take the pictures of README: `.venv/bin/python -m docs.screenshots` (needs Chromium).

They show the product's server. A scripted vendor answers in place of OpenRouter, and a month of
made-up records is imported for the usage page.
"""

import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Browser, Page, sync_playwright

from chat.storage.base import ErrorInfo, InteractionRecord, Status
from chat.storage.jsonl import to_line
from providers.base import Usage
from providers.router import Attempt
from tests.browser import NAMES, QUIET
from tests.server_process import ROOT, Server, base_environment
from tests.stub_vendor import DONE, StubVendor, chunk

PICTURES = ROOT / "docs/pictures"
MAX_BYTES = 200_000
PASSWORD = "only for the pictures"
VIEW = {"width": 1280, "height": 985}

MODEL = "google/gemini-3.5-flash-lite"
QUESTIONS = (
    "A payment request timed out. How do I retry it without charging the customer twice?",
    "And if the server crashes between charging the card and storing its answer?",
)
THOUGHTS = (
    "The request may have succeeded although its answer was lost. "
    "The server must recognise the second attempt: an idempotency key."
)
ANSWERS = (
    """\
Send an **idempotency key** with the first attempt, and the same key with every retry:

```bash
curl https://api.example.org/payments -d amount=1990 \\
  -H "Idempotency-Key: order-4711"
```

1. The server stores the key together with its answer.
2. A retry with the same key gets the stored answer. The card is charged **once**.
""",
    """\
Then the key must be on record **before** the card is charged:

- Claim the key in one conditional write, with the status `pending`.
- Charge the card, and pass the key on to the payment provider.
- Settle the claim with the answer. A retry that finds `pending` asks the payment provider.
""",
)
# Of each answer: tokens of the prompt and of the answer, US dollars.
USAGES = ((24, 118, 0.0003022), (163, 86, 0.0002639))

# Model, share of the requests, median latency in ms, US dollars for a million tokens in and out.
MODELS = (
    (MODEL, 0.55, 900, "0.30", "2.50"),
    ("gpt-5-nano", 0.30, 1400, "0.05", "0.40"),
    ("amazon.nova-lite-v1:0", 0.15, 700, "0.06", "0.24"),
)
PROVIDERS = ("openrouter", "openai", "bedrock")
CODES = ("provider_unavailable", "provider_timeout", "content_filtered", "provider_rejected")
OWNERS = ("mobile-app", "support-desk", "website")
DAYS = 30


def main() -> None:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        sys.exit(f"One of {', '.join(NAMES)} is needed.")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        show_playground(browser, Path(folder))
        show_usage(browser, Path(folder))
        browser.close()


def show_playground(browser: Browser, folder: Path) -> None:
    with StubVendor() as vendor:
        for number, answer in enumerate(ANSWERS):
            thoughts = "" if number else THOUGHTS
            vendor.stream(answer_events(thoughts, answer, *USAGES[number]), gap=0.02)
        variables = {
            "OPENROUTER_API_KEY": "sk-or-not-a-key",
            "OPENROUTER_BASE_URL": vendor.url,
            "WEB_CONCURRENCY": "1",
        }
        with Server(folder, **variables) as server:
            page = open_page(browser, server, "/")
            for number, question in enumerate(QUESTIONS):
                page.get_by_label("Your question").fill(question)
                page.get_by_label("Your question").press("Enter")
                page.get_by_role("button", name="Copy as curl").nth(number).wait_for()
                page.get_by_role("button", name="Send").wait_for()
            save(page, "playground.png")


def answer_events(
    thoughts: str, answer: str, prompt_tokens: int, completion_tokens: int, cost: float
) -> list[str]:
    deltas = [{"reasoning": word} for word in split(thoughts)] if thoughts else []
    deltas += [{"content": word} for word in split(answer)]
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "cost": cost,
    }
    last = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    return [
        *(delta(fields) for fields in deltas),
        chunk(choices=last, model=MODEL),
        chunk(choices=[], usage=usage, model=MODEL),
        DONE,
    ]


def split(text: str) -> list[str]:
    """Return words with the spaces after them."""
    return [f"{word} " for word in text.split(" ")]


def delta(fields: dict[str, str]) -> str:
    choice = {"index": 0, "delta": fields, "finish_reason": None}
    return chunk(choices=[choice], model=MODEL)


def show_usage(browser: Browser, folder: Path) -> None:
    records = folder / "records.jsonl"
    records.write_bytes(b"".join(map(to_line, made_up_records())))
    with Server(folder, WEB_CONCURRENCY="1") as server:
        manage(folder, "import_interactions", str(records))
        manage(folder, "createsuperuser", "--noinput", "--username=ana", "--email=ana@example.org")
        page = open_page(browser, server, "/admin/")
        page.get_by_label("Username").fill("ana")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.goto(f"http://127.0.0.1:{server.port}/admin/usage/?days={DAYS}")
        page.wait_for_timeout(2000)  # the charts are animated
        save(page, "usage.png")


def manage(folder: Path, *words: str) -> None:
    variables = {
        "DATABASE_PATH": str(folder / "server.db"),
        "ENV_FILE": os.devnull,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    command = [sys.executable, str(ROOT / "manage.py"), *words]
    subprocess.run(command, env={**base_environment(), **variables}, check=True)


def made_up_records() -> Iterator[InteractionRecord]:
    """Return the records of a month, the same ones for each day on which this runs."""
    dice = random.Random(17)
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(DAYS):
        date = midnight - timedelta(days=DAYS - 1 - day)
        weekend = date.weekday() > 4
        for _ in range(int(dice.gauss(110 if weekend else 260, 18) * (1 + day / 60))):
            record = made_up_record(dice, date + timedelta(seconds=dice.uniform(0, 86399)))
            if record.created_at < now:
                yield record


def made_up_record(dice: random.Random, time: datetime) -> InteractionRecord:
    weights = [share for _, share, *_ in MODELS]
    number = dice.choices(range(len(MODELS)), weights)[0]
    model, _, median, price_in, price_out = MODELS[number]
    asked, answered = dice.randint(300, 4000), dice.randint(60, 900)
    cost = (asked * Decimal(price_in) + answered * Decimal(price_out)) / 1_000_000
    usage = Usage(
        prompt_tokens=asked,
        completion_tokens=answered,
        total_tokens=asked + answered,
        cost_usd=cost,
    )
    latency = int(dice.lognormvariate(math.log(median), 0.45))
    attempt = Attempt(
        provider=PROVIDERS[number], model=model, outcome="ok", latency_ms=latency, usage=usage
    )
    id_ = str(UUID(int=dice.getrandbits(128), version=4))
    record = InteractionRecord(
        interaction_id=id_,
        owner=dice.choice(OWNERS),
        user_id=f"user-{dice.randint(1, 400)}",
        prompt="…",
        created_at=time,
        deadline_at=time + timedelta(seconds=120),
        conversation_id=id_,
        model=model,
        provider=attempt.provider,
        status=Status.OK,
        response="…",
        finish_reason="stop",
        latency_ms=latency,
        usage=usage,
        attempts=(attempt,),
    )
    return failed(record, dice) if dice.random() < 0.015 else record


def failed(record: InteractionRecord, dice: random.Random) -> InteractionRecord:
    code = dice.choice(CODES)
    attempts = tuple(replace(each, outcome=code, usage=Usage()) for each in record.attempts)
    return replace(
        record,
        status=Status.ERROR,
        response=None,
        finish_reason=None,
        usage=Usage(),
        error=ErrorInfo(code=code, detail="…"),
        attempts=attempts,
    )


def open_page(browser: Browser, server: Server, path: str) -> Page:
    page = browser.new_context(viewport=VIEW, color_scheme="light").new_page()
    page.goto(f"http://127.0.0.1:{server.port}{path}")
    return page


def save(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / name)
    size = (PICTURES / name).stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{name} has {size} bytes, more than {MAX_BYTES}.")
    print(f"{name}: {size} bytes")


if __name__ == "__main__":
    main()
