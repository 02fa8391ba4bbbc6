"""Records as JSON, in the log and back."""

import json

import pytest

from chat.storage.base import Record
from chat.storage.jsonl import from_json, to_json
from tests.cast import ANSWERED, FAILED, PENDING
from tests.chat.storage.contract import FULL_ANSWER


@pytest.mark.parametrize("record", [PENDING, ANSWERED, FAILED, FULL_ANSWER])
def test_a_record_comes_back_whole(record: Record) -> None:
    assert from_json(json.loads(json.dumps(to_json(record)))) == record


def test_a_record_of_before_there_was_retention_never_expires() -> None:
    line = to_json(ANSWERED)
    del line["expires_at"]
    assert from_json(line) == ANSWERED
