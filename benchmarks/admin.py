"""Time the admin's pages in a browser, with a million records.

    python -m benchmarks.admin FILE [--records 1000000] [--screenshots FOLDER]

The SQLite file FILE is filled with records (90 days, five models, three owners, 5% failures), which
takes minutes, unless it exists. Then headless Chromium opens each page of a server on it five
times. Printed are the median and the worst time until the page has loaded, in milliseconds.
"""

import argparse
import gc
import itertools
import json
import os
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uuid_utils
from playwright.sync_api import Page, sync_playwright

from tests.server_process import Server

NAME, PASSWORD = "benchmark", "of no use elsewhere"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIST = "chat/interaction/"
TIMES = 5
DAYS = 90
BATCH = 10_000
OWNERS = {"default": 80, "team-blue": 18, "acme": 2}
MODELS = {
    ("openrouter", "google/gemini-3.5-flash-lite"): (55, 900),
    ("gemini", "gemini-3.5-flash-lite"): (25, 700),
    ("openai", "gpt-5-nano"): (15, 1400),
    ("openai", "llama3.2"): (4, 2600),
    ("openrouter", "anthropic/claude-haiku-4.5"): (1, 1800),
}
CODES = {
    "provider_error": 40,
    "provider_timeout": 25,
    "provider_unavailable": 25,
    "content_filtered": 8,
    "provider_rejected": 2,
}
TEXT = (
    "how can I change my invoice address after the order was sent and what happens with the "
    "delivery if nobody is at home on that day because we travel para o Brasil no próximo mês "
    "please answer in one short list with reasons and examples ledger refund parcel warranty"
)
WORDS = TEXT.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of each page")
    options = parser.parse_args()
    made = options.file.exists()
    _set_up(options.file)
    if not made:
        _fill(options.file, options.records)
    _administrator()
    with TemporaryDirectory() as folder, Server(Path(folder), **_variables(options.file)) as server:
        for name, times in _visit(f"http://127.0.0.1:{server.port}/admin/", options.screenshots):
            print(f"{name:<28} {statistics.median(times):6.0f} {max(times):6.0f} ms", flush=True)


def _variables(file: Path) -> dict[str, str]:
    return {"DATABASE_PATH": str(file.resolve()), "ENV_FILE": os.devnull, "STORAGE": "sqlite"}


def _set_up(file: Path) -> None:
    os.environ |= {**_variables(file), "DJANGO_SETTINGS_MODULE": "chatproject.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def _administrator() -> None:
    from django.contrib.auth.models import User

    user, _ = User.objects.get_or_create(username=NAME, is_staff=True, is_superuser=True)
    user.set_password(PASSWORD)
    user.save()


def _visit(admin: str, screenshots: Path | None) -> Iterator[tuple[str, list[float]]]:
    """Yield each page's name and its times in milliseconds."""
    pages = _pages()  # before Playwright starts an event loop, in which Django refuses queries
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, BROWSERS)))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.goto(admin)
        page.fill("#id_username", NAME)
        page.fill("#id_password", PASSWORD)
        page.click("[type=submit]")
        for name, address in pages.items():
            yield name, [_seconds(page, admin + address) * 1000 for _ in range(TIMES)]
            if screenshots:
                _shoot(page, screenshots / name.replace(" ", "-").replace(",", ""))
        browser.close()


def _seconds(page: Page, address: str) -> float:
    started = time.perf_counter()
    response = page.goto(address, wait_until="load")
    assert response
    assert response.status == 200, f"{address}: {response.status}"
    return time.perf_counter() - started


def _shoot(page: Page, path: Path) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        page.screenshot(path=f"{path}-{scheme}.png", full_page=True)


def _pages() -> dict[str, str]:
    from chat.models import Interaction

    record = Interaction.objects.filter(previous_interaction_id__isnull=False).last()
    assert record
    day, found = record.created_at.date(), f"{LIST}?q="
    return {
        "index": "",
        "list": LIST,
        "list, page 2": f"{LIST}?p=2",
        "list, page 100": f"{LIST}?p=100",
        "a day": f"{LIST}?created_at__gte={day}&created_at__lt={day + timedelta(days=1)}",
        "status ok": f"{LIST}?status=ok",
        "status error": f"{LIST}?status=error",
        "status pending, none": f"{LIST}?status=pending",
        "error provider_rejected": f"{LIST}?error_code=provider_rejected",
        "error any, page 100": f"{LIST}?error_code=any&p=100",
        "model, frequent": f"{LIST}?model=google/gemini-3.5-flash-lite",
        "model, rare": f"{LIST}?model=anthropic/claude-haiku-4.5",
        "provider openai": f"{LIST}?provider=openai",
        "provider mock, none": f"{LIST}?provider=mock",
        "owner, frequent": f"{LIST}?owner=default",
        "owner, rare": f"{LIST}?owner=acme",
        "owner, model and error": f"{LIST}?owner=acme&model=llama3.2&error_code=content_filtered",
        "search, interaction": found + record.pk,
        "search, request": found + record.request_id,
        "search, conversation": found + record.conversation_id,
        "search, frequent user": f"{found}user-1",
        "search, user": found + record.user_id,
        "search, frequent word": f"{found}warranty",
        "search, absent word": f"{found}zebra",
        "search, word, owner, status": f"{found}zebra&owner=acme&status=error",
        "record": f"{LIST}{record.pk}/change/",
        "conversation": f"{LIST}conversation/{record.conversation_id}/",
        "keys": "chat/apikey/",
        "usage, 7 days": "usage/?days=7",
        "usage, 30 days": "usage/",
        "usage, 90 days": "usage/?days=90",
        "usage, 90 days, owner, model": "usage/?days=90&owner=acme&model=gpt-5-nano",
    }


def _fill(file: Path, count: int) -> None:
    gc.disable()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA synchronous = OFF")
    rows = _rows(count)
    for done in range(0, count, BATCH):
        batch = list(itertools.islice(rows, BATCH))
        names = ", ".join(batch[0])
        marks = ", ".join("?" * len(batch[0]))
        connection.executemany(
            f"INSERT INTO chat_interaction ({names}) VALUES ({marks})",
            [tuple(row.values()) for row in batch],
        )
        connection.commit()
        print(f"\r{done + len(batch):,} of {count:,} records", end="", flush=True)
    for by, name in (("model", "model"), ("user", "user_id")):
        connection.execute(
            f"""INSERT INTO chat_usagecount (owner, by, name, date, requests, errors,
                    prompt_tokens, completion_tokens, total_tokens, cost)
                SELECT owner, '{by}', {name}, substr(created_at, 1, 10), count(*),
                    sum(status = 'error'), total(prompt_tokens), total(completion_tokens),
                    total(total_tokens), CAST(total(cost_usd) * 1e12 AS INTEGER)
                FROM chat_interaction GROUP BY 1, 3, 4"""
        )
    connection.commit()
    connection.close()
    print()


def _rows(count: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(1)
    now = datetime.now(UTC)
    step = timedelta(days=DAYS) / count
    open_: list[tuple[str, str, str, list[str]]] = []
    for number in range(count):
        made = now - timedelta(days=DAYS) + step * number
        id_ = str(uuid_utils.uuid7())
        if open_ and dice.random() < 0.6:
            place = dice.randrange(len(open_))
            owner, user, conversation, earlier = open_[place]
            if len(earlier) > 8:
                del open_[place]
        else:
            [owner] = dice.choices(list(OWNERS), OWNERS.values())
            user, conversation, earlier = f"user-{int(dice.paretovariate(0.3)) % 5000}", id_, []
            open_ = [*open_[-50:], (owner, user, conversation, earlier)]
        yield _row(dice, made, id_, owner, user, conversation, list(earlier))
        earlier.append(id_)


def _row(
    dice: random.Random,
    made: datetime,
    id_: str,
    owner: str,
    user: str,
    conversation: str,
    earlier: list[str],
) -> dict[str, Any]:
    [(provider, model)] = dice.choices(list(MODELS), [share for share, _ in MODELS.values()])
    failed = dice.random() < 0.05
    [code] = dice.choices(list(CODES), CODES.values()) if failed else [None]
    latency = 25_000 if code == "provider_timeout" else None
    latency = latency or int(MODELS[provider, model][1] * dice.lognormvariate(0, 0.6))
    asked, said = dice.randrange(10, 100), 0 if failed else dice.randrange(50, 400)
    attempt = {"provider": provider, "model": model, "outcome": code or "ok", "latency_ms": latency}
    return {
        "interaction_id": id_,
        "owner": owner,
        "user_id": user,
        "created_at": made.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "deadline_at": (made + timedelta(seconds=25)).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "request_id": str(uuid_utils.uuid7()),
        "conversation_id": conversation,
        "previous_interaction_id": earlier[-1] if earlier else None,
        "ancestors": json.dumps(earlier),
        "prompt": _text(dice, asked),
        "parameters": "{}",
        "metadata": "{}",
        "status": "error" if failed else "ok",
        "provider": provider,
        "model": model,
        "response": None if failed else _text(dice, said),
        "tool_calls": "[]",
        "finish_reason": None if failed else "stop",
        "cached": 0,
        "latency_ms": latency,
        "attempts": json.dumps([attempt]),
        "error_code": code,
        "error_detail": code and "The provider failed.",
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "cost_usd": round(asked * 1e-7 + said * 4e-7, 12),
    }


def _text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(WORDS, k=words))


if __name__ == "__main__":
    main()
