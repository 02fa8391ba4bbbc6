"""How long the admin's pages take in a browser, with a million records.

    python -m benchmarks.admin FILE [--records 1000000] [--screenshots FOLDER]

The records (90 days, five models, three owners, 5% of failures) are put into the SQLite file FILE,
unless it is there already: that takes minutes, and the file may serve again.
"""

import argparse
import gc
import itertools
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uuid_utils

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
    options = parser.parse_args()
    made = options.file.exists()
    _set_up(options.file)
    if not made:
        _fill(options.file, options.records)


def _set_up(file: Path) -> None:
    os.environ |= {
        "DATABASE_PATH": str(file.resolve()),
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "STORAGE": "sqlite",
    }
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


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
