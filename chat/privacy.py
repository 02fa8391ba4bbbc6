"""What may be kept of an interaction (STORE_CONTENT, MASK_PII)."""

from dataclasses import replace

from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.storage.base import Record

# The parameters that hold nothing of what was asked.
ACCOUNTED = ("temperature", "top_p", "max_tokens")


def kept(record: Record) -> Record:
    """What may be written of a record, whose question is masked already if it has to be."""
    if not settings.STORE_CONTENT:
        return accounting(record)
    if settings.MASK_PII and (record.response or record.tool_calls):
        from chat.masking import mask, masked

        response = record.response and mask(record.response)
        return replace(record, response=response, tool_calls=tuple(masked(record.tool_calls)))
    return record


def taken_over(record: Record) -> Record:
    """What may be written of a record from elsewhere, whose question was not masked here."""
    if settings.MASK_PII and settings.STORE_CONTENT:
        from chat.masking import mask, masked

        record = replace(
            record,
            prompt=mask(record.prompt),
            system=masked(record.system),
            parameters=masked(record.parameters),
            metadata={mask(name): mask(value) for name, value in record.metadata.items()},
        )
    return kept(record)


def accounting(record: Record) -> Record:
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


def keyed(digest: str) -> str:
    """A digest from which nobody without SECRET_KEY can guess a short text."""
    return salted_hmac("chat.privacy", digest, algorithm="sha256").hexdigest()
