"""The store on SQLite."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
from django.db import connection

from chat.errors import StorageUnavailable
from chat.models import Interaction
from chat.storage import orm
from chat.storage.base import InteractionStore
from chat.storage.orm import OrmStore
from tests.cast import PENDING, Clock
from tests.chat.storage.contract import OTHER_ID, YESTERDAY, InteractionStoreContract


class TestOrmStore(InteractionStoreContract):
    @pytest.fixture
    def store(self, transactional_db: None) -> InteractionStore:
        return OrmStore()

    @pytest.fixture
    def unreachable_store(self, unreachable_database: None) -> InteractionStore:
        return OrmStore()


def test_a_database_without_tables_is_unavailable(
    unreachable_database: None, tmp_path: Path
) -> None:
    connection.settings_dict["NAME"] = str(tmp_path / "empty.db")
    for call in (OrmStore().ping, lambda: OrmStore().claim(PENDING)):
        with pytest.raises(StorageUnavailable):
            call()


# Django lets go of a connection that it could not set up without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_that_is_no_database_is_unavailable(
    unreachable_database: None, tmp_path: Path
) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    connection.settings_dict["NAME"] = str(tmp_path / "letter.db")
    with pytest.raises(StorageUnavailable):
        OrmStore().ping()
    gc.collect()


def test_what_has_expired_is_deleted_a_minute_later(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(orm, "time", clock)
    store = OrmStore()
    store.claim(replace(PENDING, expires_at=YESTERDAY))
    clock.now += 61
    store.claim(replace(PENDING, interaction_id=OTHER_ID))
    assert [row.interaction_id for row in Interaction.objects.all()] == [OTHER_ID]
