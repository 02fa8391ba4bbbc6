"""What may be kept of an interaction (STORE_CONTENT, MASK_PII)."""

from dataclasses import replace

from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.storage.base import InteractionRecord

# The parameters that hold nothing of what was asked.
ACCOUNTED = ("temperature", "top_p", "max_tokens")


def redact(record: InteractionRecord) -> InteractionRecord:
    """What may be written of a record, whose question is masked already if it has to be."""
    if not settings.STORE_CONTENT:
        return strip_content(record)
    if settings.MASK_PII and (record.response or record.tool_calls):
        from chat.masking import mask_text, mask_value

        response = record.response and mask_text(record.response)
        return replace(record, response=response, tool_calls=tuple(mask_value(record.tool_calls)))
    return record


def redact_imported(record: InteractionRecord) -> InteractionRecord:
    """What may be written of a record from elsewhere, whose question was not masked here."""
    if settings.MASK_PII and settings.STORE_CONTENT:
        from chat.masking import mask_text, mask_value

        record = replace(
            record,
            prompt=mask_text(record.prompt),
            system=mask_value(record.system),
            parameters=mask_value(record.parameters),
            metadata={mask_text(name): mask_text(value) for name, value in record.metadata.items()},
        )
    return redact(record)


def strip_content(record: InteractionRecord) -> InteractionRecord:
    """A record without what was said: who, when, which model, how much, and how it ended."""
    parameters = record.parameters
    return replace(
        record,
        prompt="",
        system=None,
        parameters={name: parameters[name] for name in ACCOUNTED if name in parameters},
        metadata={},
        response=None,
        tool_calls=(),
        # Its detail may name a parameter of the request, as the vendor does.
        error=record.error and replace(record.error, detail=""),
    )


def keyed_digest(digest: str) -> str:
    """A digest from which nobody without SECRET_KEY can guess a short text."""
    return salted_hmac("chat.privacy", digest, algorithm="sha256").hexdigest()
