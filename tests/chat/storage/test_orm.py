"""The store on SQLite."""

from pathlib import Path

import pytest
from django.db import connection

from chat.errors import StorageUnavailable
from chat.storage.base import InteractionStore
from chat.storage.orm import OrmStore
from tests.cast import PENDING
from tests.chat.storage.contract import InteractionStoreContract


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


def test_a_file_that_is_no_database_is_unavailable(
    unreachable_database: None, tmp_path: Path
) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    connection.settings_dict["NAME"] = str(tmp_path / "letter.db")
    with pytest.raises(StorageUnavailable):
        OrmStore().ping()
