"""The same question again, with ENABLE_CACHE."""

import pytest
from django.test import Client

from chat.models import Interaction
from providers.base import Completion
from tests.factories import FakeProvider, all_records

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def cache_enabled(settings):
    settings.ENABLE_CACHE = True


def ask(client: Client, headers=None, **fields):
    body = {"userId": "user123", "prompt": "Olá!", **fields}
    return client.post("/v1/chat", body, content_type="application/json", headers=headers).json()


def test_the_same_question_is_answered_from_the_cache_with_a_record_of_its_own(client):
    first, second = ask(client), ask(client)
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["response"] == first["response"]
    assert second["interaction_id"] != first["interaction_id"]
    assert second["usage"] == {**first["usage"], "cost_usd": "0"}
    cached = Interaction.objects.get(interaction_id=second["interaction_id"])
    assert (cached.status, cached.cached, cached.attempts) == ("ok", True, [])


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_and_images_are_answered_from_the_cache_too(client, use_provider, stream):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    details = [{"type": "reasoning.text", "text": "Hm.", "signature": "EqoB+/=="}]
    message = {"reasoning": "Hm.", "reasoning_details": details, "images": [image]}
    provider = FakeProvider(
        Completion(
            message={"content": "Here.", **message},
            model="mock-1",
            finish_reason="stop",
            extras={"citations": ["https://example.org/"]},
        )
    )
    use_provider(provider)
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "Draw."}],
        "stream": stream,
    }
    for _ in range(2):
        response = client.post("/v1/chat/completions", body, content_type="application/json")
        text = b"".join(response).decode()
        for part in ("Here.", '"reasoning":"Hm."', "EqoB+/==", "iVBORw0KGgo=", "example.org"):
            assert part in text
    assert len(provider.requests) == 1
    first, second = all_records()
    assert (first.message, second.message) == (message, message)
    assert second.cached
    assert second.extras == first.extras == {"citations": ["https://example.org/"]}


@pytest.mark.parametrize(
    "other",
    [
        {"userId": "user124"},
        {"prompt": "Olá"},
        {"system": "Be brief."},
        {"temperature": 0.1},
        {"max_tokens": 5},
        {"stop": "x"},
        {"seed": 7},
        {"reasoning_effort": "low"},
        {"response_format": {"type": "json_object"}},
        {"images": ["https://example.org/a.png"]},
    ],
    ids=str,
)
def test_every_field_that_affects_the_answer_is_in_the_cache_key(client, other):
    ask(client)
    assert ask(client, **other)["cached"] is False


def test_metadata_does_not_affect_the_cached_answer(client):
    ask(client)
    assert ask(client, metadata={"page": "2"})["cached"] is True


def test_no_cache_asks_the_model(client):
    ask(client)
    assert ask(client, headers={"Cache-Control": "no-cache"})["cached"] is False


def test_a_cut_off_answer_is_not_kept(client):
    ask(client, max_tokens=1)
    assert ask(client, max_tokens=1)["cached"] is False


def test_an_erased_answer_is_not_replayed(client):
    ask(client)
    Interaction.objects.all().delete()
    assert ask(client)["cached"] is False


def test_the_cache_is_off_by_default(client, settings):
    settings.ENABLE_CACHE = False
    ask(client)
    assert ask(client)["cached"] is False
