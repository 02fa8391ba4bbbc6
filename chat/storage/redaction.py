"""Remove from records what may not be stored (STORE_CONTENT, MASK_PII)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.storage.base import (
    Backend,
    BulkStore,
    ImportResult,
    InteractionRecord,
    InteractionStore,
    Reservation,
)

# Parameters that reveal nothing of the request's content.
ACCOUNTING_PARAMETERS = ("temperature", "top_p", "max_tokens")
ANSWER = ("response", "tool_calls", "message", "extras")


def redact(record: InteractionRecord) -> InteractionRecord:
    """Return a record as it may be stored. Its request was masked on acceptance."""
    if not settings.STORE_CONTENT:
        return strip_content(record)
    if settings.MASK_PII and any(getattr(record, name) for name in (*ANSWER, "error")):
        # Imported here because its libraries are slow to import, and few deployments mask.
        from chat.masking import mask_text, mask_value

        return replace(
            record,
            response=record.response and mask_text(record.response),
            tool_calls=tuple(mask_value(record.tool_calls)),
            message=mask_value(record.message),
            extras=mask_value(_without_tokens(record.extras)),
            error=record.error and replace(record.error, detail=mask_text(record.error.detail)),
        )
    return record


def redact_text(text: str) -> str:
    """Return a text that may quote a request as it may be logged."""
    if not settings.STORE_CONTENT:
        return ""
    if text and settings.MASK_PII:
        from chat.masking import mask_text

        return mask_text(text)
    return text


def _without_tokens(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the answer's tokens, which spell personal data in pieces."""
    return {name: value for name, value in extras.items() if name != "logprobs"}


def redact_imported(record: InteractionRecord) -> InteractionRecord:
    """Return a record from elsewhere as it may be stored, its request masked too."""
    if settings.MASK_PII and settings.STORE_CONTENT:
        from chat.masking import mask_metadata, mask_text, mask_value

        masked = redact(
            replace(
                record,
                prompt=mask_text(record.prompt),
                system=mask_value(record.system),
                parameters=mask_value(record.parameters),
                metadata=mask_metadata(record.metadata),
            )
        )
        # The transcript's digests are of the unmasked texts.
        return masked if masked == record else replace(masked, transcript=None)
    return redact(record)


def strip_content(record: InteractionRecord) -> InteractionRecord:
    """Return the accounting of a record: user, time, model, usage and outcome, without texts."""
    parameters = record.parameters
    return replace(
        record,
        prompt="",
        system=None,
        parameters={name: parameters[name] for name in ACCOUNTING_PARAMETERS if name in parameters},
        metadata={},
        response=None,
        tool_calls=(),
        message={},
        extras={},
        earlier=None,
        transcript=None,
        # The detail may quote the request, as the vendor does.
        error=record.error and replace(record.error, detail=""),
    )


def keyed_digest(digest: str) -> str:
    """Return an HMAC of a digest, so that short texts cannot be guessed without SECRET_KEY."""
    return salted_hmac("chat.privacy", digest, algorithm="sha256").hexdigest()


def redacting(stores: Backend) -> Backend:
    """Return the backend with every write of records redacted."""
    return stores._replace(
        interactions=RedactingStore(stores.interactions),
        bulk=RedactingBulkStore(stores.bulk),
    )


# Around the stores themselves (storage/__init__.py), so that no caller can forget it.
class RedactingStore:
    """Redact records before they are written."""

    def __init__(self, store: InteractionStore) -> None:
        self.store = store
        self.get, self.get_many = store.get, store.get_many
        self.find_turn = store.find_turn
        self.list_by_user = store.list_by_user
        self.list_by_conversation = store.list_by_conversation
        self.delete, self.delete_by_user = store.delete, store.delete_by_user
        self.check = store.check

    def claim(
        self, record: InteractionRecord, *reservations: Reservation
    ) -> InteractionRecord | None:
        return self.store.claim(redact(record), *reservations)

    def take_over(
        self, record: InteractionRecord, holder: InteractionRecord, *reservations: Reservation
    ) -> bool:
        return self.store.take_over(redact(record), holder, *reservations)

    def settle(self, record: InteractionRecord, *reservations: Reservation) -> bool:
        return self.store.settle(redact(record), *reservations)


class RedactingBulkStore:
    """Redact imported records before they are written."""

    def __init__(self, store: BulkStore) -> None:
        self.store = store
        self.estimate, self.scan, self.purge = store.estimate, store.scan, store.purge

    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        return self.store.import_records(list(map(redact_imported, records)))
