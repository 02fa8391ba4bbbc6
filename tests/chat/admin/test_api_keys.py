"""Managed API keys in the admin: created and shown once, rotated, revoked."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.core.cache import caches

from chat import api_keys
from chat.errors import InvalidApiKey
from chat.storage import backend
from chat.storage.base import ApiKey
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import store_record

LIST = "/admin/chat/apikey/"
ADD = f"{LIST}add/"
TERMS = {"owner": "team-blue", "name": "mobile app"}


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return str(page.content.decode())


def shown(page: Any) -> str:
    """Return the key that a page shows."""
    [text] = re.findall(r"sca_[0-9a-f]{16}_[0-9a-f]{64}", text_of(page))
    return str(text)


def the_key() -> ApiKey:
    [key] = backend().api_keys.all()
    return key


def errors(page: Any) -> list[str]:
    return re.findall(r'<ul class="errorlist"[^>]*><li>([^<]*)', text_of(page))


def revoke(admin: ApiClient, *chosen: str, **form: str) -> Any:
    return admin.http.post(LIST, {"action": "revoke", "_selected_action": chosen, **form})


def may(api: ApiClient, *codenames: str) -> None:
    """Log in a user with this permission only."""
    user = User.objects.create(username="clerk", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    api.http.force_login(user)


def test_a_key_is_created_and_shown_once(
    admin: ApiClient, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    page = admin.http.post(ADD, TERMS)
    text = shown(page)
    key = api_keys.verify(text)
    assert (key.owner, key.name) == ("team-blue", "mobile app")
    assert "no-store" in page["Cache-Control"]
    secret = text.split("_")[2]
    kept = [*log_lines(), *LogEntry.objects.values(), *Session.objects.values(), dict(page.cookies)]
    kept += [session.get_decoded() for session in Session.objects.all()]
    pages = [text_of(admin.get(path)) for path in (LIST, f"{LIST}{key.key_id}/change/", "/admin/")]
    assert secret not in str(kept)
    assert secret not in "".join(pages)
    assert key.digest not in "".join(pages)


def test_a_key_has_the_terms_that_it_was_given(
    admin: ApiClient, change_settings: Callable[..., None]
) -> None:
    change_settings(ALLOWED_MODELS=["model-2"])
    form = {
        **TERMS,
        "expires_at_0": "2030-01-02",
        "expires_at_1": "03:04:05",
        "rate_limit": "0",
        "monthly_budget_usd": "12.50",
        "models": "model-2, mock:mock-1",
    }
    shown(admin.http.post(ADD, form))
    key = the_key()
    assert key.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (key.rate_limit, key.monthly_budget_usd) == (0, Decimal("12.50"))
    assert key.allowed_models == ("model-2", "mock:mock-1")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("owner", "", "required"),
        ("owner", "team blue", "an owner has 1 to 128"),
        ("owner", "..", "neither . nor .."),
        ("name", "x" * 129, "1 to 128"),
        ("name", "a\u200bb", "printable"),
        ("expires_at_0", "2020-01-01", "past"),
        ("rate_limit", "-1", "greater than or equal to 0"),
        ("rate_limit", "1000001", "less than or equal to 1000000"),
        ("monthly_budget_usd", "-1", "is not an amount"),
        ("monthly_budget_usd", "much", "Enter a number"),
        ("models", "gpt-0", "is not allowed here"),
    ],
)
def test_impossible_terms_are_refused_with_the_reason(
    admin: ApiClient, field: str, value: str, said: str
) -> None:
    form = {**TERMS, "expires_at_1": "00:00:00" if field == "expires_at_0" else "", field: value}
    found = errors(admin.http.post(ADD, form))
    assert any(said in error for error in found), found
    assert backend().api_keys.all() == []


def test_the_list_shows_keys_without_their_secrets(admin: ApiClient) -> None:
    from dataclasses import replace

    from tests.factories import ANSWERED

    now = datetime.now(UTC)
    key, _ = api_keys.create(owner="default", name="batch", monthly_budget_usd=Decimal(25))
    gone, _ = api_keys.create(owner="default", name="old", expires_at=now - timedelta(days=1))
    spent = Usage(cost_usd=Decimal("1.5"))
    store_record(replace(ANSWERED, key_id=key.key_id, created_at=now, usage=spent))
    text = text_of(admin.get(LIST))
    for told in (key.prefix, gone.prefix, "batch", "active", "expired", ">25<", ">1.5<"):
        assert told in text, told
    assert key.digest not in text
    only = text_of(admin.get(f"{LIST}?status=expired"))
    assert gone.prefix in only
    assert key.prefix not in only


def test_a_key_is_revoked_after_a_question(admin: ApiClient) -> None:
    key, text = api_keys.create(owner="default", name="batch")
    other, _ = api_keys.create(owner="default", name="other")
    question = text_of(revoke(admin, key.key_id))
    assert key.prefix in question
    assert other.prefix not in question
    assert api_keys.verify(text)
    assert revoke(admin, key.key_id, confirmed="yes").status_code == 302
    revoked = backend().api_keys.get(key.key_id)
    assert revoked
    assert revoked.revoked_at
    assert f"Revoked: {key.prefix} (batch)." in text_of(admin.get(LIST))
    assert "revoked" in text_of(admin.get(f"{LIST}{key.key_id}/change/"))
    assert [str(entry.get_change_message()) for entry in LogEntry.objects.all()] == ["Revoked."]
    assert "All selected keys are already revoked." in text_of(revoke(admin, key.key_id))


def test_a_rotated_key_is_shown_once_and_the_old_secret_has_its_time(admin: ApiClient) -> None:
    key, old = api_keys.create(owner="default", name="batch")
    page = f"{LIST}{key.key_id}/rotate/"
    assert "gets a new secret" in text_of(admin.get(page))
    new = shown(admin.http.post(page, {"grace": "7"}))
    assert new != old
    assert api_keys.verify(new).key_id == api_keys.verify(old).key_id == key.key_id
    newest = shown(admin.http.post(page, {"grace": "0"}))
    caches["keys"].clear()  # half a minute later
    with pytest.raises(InvalidApiKey):
        api_keys.verify(old)
    assert api_keys.verify(newest)


def test_an_inactive_key_is_not_rotated(admin: ApiClient) -> None:
    key, _ = api_keys.create(owner="default", name="batch")
    api_keys.revoke(key)
    for key_id in (key.key_id, "nothing"):
        assert admin.http.post(f"{LIST}{key_id}/rotate/", {"grace": "0"}).status_code == 404


def test_a_key_is_neither_edited_nor_deleted(admin: ApiClient) -> None:
    key, _ = api_keys.create(owner="default", name="batch")
    for path in ("change", "delete"):
        page = f"{LIST}{key.key_id}/{path}/"
        assert admin.http.post(page, {**TERMS, "post": "yes"}).status_code == 403
    assert the_key() == key


def test_the_view_permission_does_not_allow_changing_keys(api: ApiClient) -> None:
    key, _ = api_keys.create(owner="default", name="batch")
    may(api, "view_apikey")
    page = text_of(api.get(f"{LIST}{key.key_id}/change/"))
    assert key.prefix in page
    assert "Revoke…" not in page
    revoke(api, key.key_id, confirmed="yes")
    assert api.http.post(ADD, TERMS).status_code == 403
    assert api.http.post(f"{LIST}{key.key_id}/rotate/", {"grace": "0"}).status_code == 403
    assert the_key() == key


def test_keys_are_hidden_without_permissions(api: ApiClient) -> None:
    assert api.get(LIST).status_code == 302
    may(api, "view_interaction")
    assert api.get(LIST).status_code == 403


def test_a_forged_form_changes_nothing(admin: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = api_keys.create(owner="default", name="batch")
    monkeypatch.setattr(admin.http.handler, "enforce_csrf_checks", True)
    for path, form in (
        (ADD, TERMS),
        (LIST, {"action": "revoke", "_selected_action": key.key_id, "confirmed": "yes"}),
        (f"{LIST}{key.key_id}/rotate/", {"grace": "0"}),
    ):
        assert admin.http.post(path, form).status_code == 403
    assert the_key() == key
