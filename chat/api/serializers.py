"""Serializers of requests and responses. Their docstrings and help texts appear in OpenAPI."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar, get_args

from django.conf import settings
from django.core.validators import MinValueValidator
from django.utils import timezone
from rest_framework import serializers

from chat.api import fields
from chat.api.serializer_base import AttributesSerializer, BodySerializer
from chat.storage.base import InteractionRecord, Status, format_utc
from chat.storage.transcripts import sent_messages
from chat.usage import DEFAULT_DAYS, MAX_DAYS, DateRange, UsageGroup
from providers.base import FinishReason, Usage, reasoning_text
from providers.router import Attempt

S = TypeVar("S", bound=serializers.Serializer[Any])

MAX_PAGE = 100
FINISH_REASONS = get_args(FinishReason)
EARLIEST_DAY = date(2000, 1, 1)
# The fields of a chat request that are parameters of the model.
PARAMETERS = (
    *("temperature", "top_p", "max_tokens", "stop"),
    *("response_format", "reasoning_effort", "seed"),
)

# Values of parameters that change nothing.
NEUTRAL: tuple[Any, ...] = (None, [], {"type": "text"})


def build_once(serializer_class: type[S]) -> S:
    """Return an instance that serves all requests, with its fields built.

    DRF copies all fields for each instance; one per request would cost CPU on every call. Views
    build theirs at import, so that threads do not do it at once during the first requests. Settings
    such as PROMPT_MAX_LENGTH are therefore read at import, too.
    """
    serializer = serializer_class()
    for field in serializer.fields.values():
        inner = getattr(field, "child", field)
        if isinstance(inner, serializers.Serializer):
            list(inner.fields)
    return serializer


class ChatSerializer(BodySerializer):
    """A chat request."""

    userId = fields.UserIdField(
        source="user_id", help_text="Your id for the end user. Opaque to this service."
    )
    prompt = fields.PromptField(
        max_length=settings.PROMPT_MAX_LENGTH, help_text="The question, kept as it came."
    )
    system = fields.PromptField(
        **fields.OPTIONAL,
        allow_blank=True,
        max_length=settings.PROMPT_MAX_LENGTH,
        help_text="Instructions for the model, ahead of the conversation.",
    )
    previous_interaction_id = fields.InteractionIdField(
        **fields.OPTIONAL,
        max_length=64,
        help_text="The id of the turn to continue.",
    )
    model = fields.ModelIdField(
        **fields.OPTIONAL,
        help_text="An allowed model: its id, or `provider:id`. Default: the configured one.",
    )
    temperature = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=2)
    top_p = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=1)
    max_tokens = fields.StrictIntegerField(
        **fields.OPTIONAL,
        min_value=1,
        max_value=1_000_000,
        help_text="Maximum output tokens, including reasoning tokens.",
    )
    stop = fields.StopField(
        **fields.OPTIONAL,
        max_length=fields.MAX_STOPS,
        help_text=(
            f"Up to {fields.MAX_STOPS} strings that end the answer; a single one needs no list."
        ),
    )
    metadata = fields.MetadataField(
        **fields.OPTIONAL,
        help_text=f"Up to {fields.MAX_METADATA} string pairs, kept with the record.",
    )
    stream = fields.StrictBooleanField(
        **fields.OPTIONAL, help_text="Stream the answer as server-sent events."
    )
    images = fields.BoundedListField(
        child=fields.ImageUrlField(),
        **fields.OPTIONAL,
        max_length=fields.MAX_IMAGES,
        help_text=(
            f"Up to {fields.MAX_IMAGES} images that the prompt is about: `https:` or `data:` URLs."
        ),
    )
    response_format = fields.ResponseFormatField(
        **fields.OPTIONAL,
        help_text=(
            'JSON instead of text: `{"type": "json_object"}`, or '
            '`{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`.'
        ),
    )
    reasoning_effort = fields.StrictCharField(
        **fields.OPTIONAL,
        max_length=32,
        help_text="How long the model thinks first: `none`, `low`, `medium`, `high`, ….",
    )
    seed = fields.StrictIntegerField(
        **fields.OPTIONAL,
        # orjson and SQLite have integers of 64 bits.
        min_value=-(2**63),
        max_value=2**63 - 1,
        help_text="With the same seed the vendor tries to give the same answer.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a `ChatRequest`, and `stream`."""
        given = {name: attrs[name] for name in PARAMETERS if attrs.get(name) not in NEUTRAL}
        images = attrs.get("images")
        return {
            **{name: value for name, value in attrs.items() if name not in (*PARAMETERS, "images")},
            "system": attrs.get("system") or None,
            "parameters": given,
            "messages": [_user_message(attrs["prompt"], images)] if images else None,
        }


def _user_message(prompt: str, images: list[str]) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {"role": "user", "content": [{"type": "text", "text": prompt}, *parts]}


class UsageSerializer(AttributesSerializer):
    """Tokens and cost; null means unknown."""

    prompt_tokens = serializers.IntegerField(allow_null=True)
    completion_tokens = serializers.IntegerField(allow_null=True)
    total_tokens = serializers.IntegerField(allow_null=True)
    cached_tokens = serializers.IntegerField(
        allow_null=True, help_text="The part of the prompt that the vendor had cached."
    )
    reasoning_tokens = serializers.IntegerField(
        allow_null=True, help_text="The part of the completion that was thinking."
    )
    cost_usd = fields.UsdField(allow_null=True)

    estimated = serializers.BooleanField(
        required=False,
        help_text="Only when true: the vendor did not report the tokens, and they are estimated.",
    )

    def to_representation(self, usage: Usage) -> dict[str, Any]:
        body = super().to_representation(usage)
        if usage.estimated:
            body["estimated"] = True
        return body


class InteractionSerializer(AttributesSerializer):
    """The fields that answers and records share."""

    interaction_id = serializers.UUIDField()
    userId = serializers.CharField(source="user_id")
    prompt = serializers.CharField()
    response = serializers.CharField(allow_null=True)
    model = serializers.CharField(
        help_text="The model that answered, or else the first one to call."
    )
    timestamp = serializers.SerializerMethodField(help_text="When the request was accepted, UTC.")
    reasoning = serializers.SerializerMethodField(
        help_text="The model's visible thinking; null if there is none."
    )
    conversation_id = serializers.UUIDField()
    previous_interaction_id = serializers.UUIDField(allow_null=True)
    provider = serializers.CharField()
    finish_reason = serializers.ChoiceField(choices=FINISH_REASONS, allow_null=True)
    cached = serializers.BooleanField()
    latency_ms = serializers.IntegerField(allow_null=True)
    usage = UsageSerializer()
    metadata = serializers.DictField(child=serializers.CharField())

    def get_timestamp(self, record: InteractionRecord) -> str:
        return format_utc(record.created_at)

    def get_reasoning(self, record: InteractionRecord) -> str | None:
        return reasoning_text(record.message)


class AnswerSerializer(InteractionSerializer):
    """The answer to a chat request. The first six fields are fixed; others may be added."""

    response = serializers.CharField()
    finish_reason = serializers.ChoiceField(choices=FINISH_REASONS)
    latency_ms = serializers.IntegerField()
    recorded = serializers.BooleanField(
        required=False, help_text="Only when false: the answer could not be written to the ledger."
    )


class FailureSerializer(AttributesSerializer):
    """The error that the client received instead of an answer."""

    code = serializers.CharField()
    detail = serializers.CharField()


class AttemptSerializer(AttributesSerializer):
    """One call to a provider."""

    provider = serializers.CharField()
    model = serializers.CharField()
    outcome = serializers.CharField(help_text="`ok`, `aborted`, or the code of the error.")
    latency_ms = serializers.IntegerField()
    usage = UsageSerializer(required=False, help_text="Only if it is known.")

    def to_representation(self, attempt: Attempt) -> dict[str, Any]:
        body = super().to_representation(attempt)
        if attempt.usage.known:
            body["usage"] = self.fields["usage"].to_representation(attempt.usage)
        return body


class RecordSerializer(InteractionSerializer):
    """One interaction: the request, and its answer or error."""

    status = serializers.SerializerMethodField()
    error = FailureSerializer(allow_null=True)
    attempts = AttemptSerializer(many=True)
    tool_calls = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text="Only if the model calls tools: the calls, in OpenAI's format.",
    )
    message = serializers.DictField(
        required=False,
        help_text="Only if the model's message has other fields: those.",
    )

    def get_status(self, record: InteractionRecord) -> Status:
        return record.status_at(timezone.now())

    def to_representation(self, record: InteractionRecord) -> dict[str, Any]:
        body = super().to_representation(record)
        if record.tool_calls:
            body["tool_calls"] = list(record.tool_calls)
        if record.message:
            body["message"] = record.message
        return body


class WholeRecordSerializer(RecordSerializer):
    """A record with all messages that its client sent."""

    messages = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text="Only if the client sent messages: all of them, unchanged.",
    )
    missing_messages = serializers.IntegerField(
        required=False,
        help_text=(
            "Only where an earlier record of the conversation is erased: so many messages are "
            "missing at the beginning of `messages`."
        ),
    )

    def to_representation(self, record: InteractionRecord) -> dict[str, Any]:
        body = super().to_representation(record)
        if record.transcript or "messages" in record.parameters:
            body["messages"] = sent_messages(record)
        if record.earlier:
            body["missing_messages"] = record.earlier.messages
        return body


class PageQuerySerializer(serializers.Serializer[Any]):
    """The page of a list."""

    limit = serializers.IntegerField(
        min_value=1,
        max_value=MAX_PAGE,
        default=20,
        help_text="Maximum number of records. A page of long texts has fewer, and a `next_cursor`.",
    )
    cursor = serializers.CharField(
        default=None, max_length=512, help_text="The `next_cursor` of the page before."
    )


class UserQuerySerializer(PageQuerySerializer):
    """The page of a user's records, and their period."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # Declared here because `from` is a keyword in a class body.
        return {
            **super().get_fields(),
            "from": serializers.DateTimeField(
                source="since", default=None, help_text="Not older than this (ISO 8601)."
            ),
            "to": serializers.DateTimeField(
                source="before", default=None, help_text="Older than this (ISO 8601)."
            ),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["since"] and attrs["before"] and attrs["since"] >= attrs["before"]:
            raise serializers.ValidationError({"to": ["Must be later than `from`."]})
        return attrs


class UserIdSerializer(serializers.Serializer[Any]):
    userId = fields.UserIdField(source="user_id")


class PageSerializer(serializers.Serializer[Any]):
    """Records, newest first."""

    items = RecordSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="Null on the last page.")


class ConversationSerializer(PageSerializer):
    """The turns of a conversation, oldest first."""

    conversation_id = serializers.UUIDField()


class DeletionSerializer(serializers.Serializer[Any]):
    """The number of erased records."""

    deleted = serializers.IntegerField()


class HealthSerializer(serializers.Serializer[Any]):
    """The process is up."""

    status = serializers.ChoiceField(choices=["healthy"])
    version = serializers.CharField()
    timestamp = serializers.CharField()


class ChecksSerializer(serializers.Serializer[Any]):
    """`ok`, or the problem, for each dependency."""

    storage = serializers.CharField()
    provider = serializers.CharField()
    server = serializers.CharField(required=False, help_text="Only if the server is full.")


class ReadySerializer(serializers.Serializer[Any]):
    """Readiness to serve requests."""

    status = serializers.ChoiceField(choices=["ready", "not_ready"])
    checks = ChecksSerializer()
    timestamp = serializers.CharField()


class IndexSerializer(serializers.Serializer[Any]):
    """Name, version and links of this server."""

    name = serializers.CharField()
    version = serializers.CharField()
    links = serializers.DictField(child=serializers.CharField())


class UsageQuerySerializer(serializers.Serializer[Any]):
    """Period, grouping and page of a usage report."""

    group_by = serializers.ChoiceField(choices=[each.value for each in UsageGroup], default="date")
    limit = serializers.IntegerField(
        min_value=1, max_value=1000, default=100, help_text="Users on a page."
    )
    cursor = serializers.CharField(default=None, help_text="The `next_cursor` of the page before.")
    default_error_messages = {
        "order": "The period must not end before it begins.",
        "length": f"No more than {MAX_DAYS} days.",
    }

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # Declared here because `from` is a keyword in a class body.
        not_before = [MinValueValidator(EARLIEST_DAY)]
        return {
            "from": serializers.DateField(
                default=None,
                validators=not_before,
                help_text=f"The first day, in UTC; default: {DEFAULT_DAYS} days in all.",
            ),
            "to": serializers.DateField(
                default=None,
                validators=not_before,
                help_text=f"The last day; default: today. No more than {MAX_DAYS} in all.",
            ),
            **super().get_fields(),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        last = attrs.pop("to") or datetime.now(UTC).date()
        first = attrs.pop("from") or last - timedelta(days=DEFAULT_DAYS - 1)
        if last < first:
            self.fail("order")
        if (last - first).days >= MAX_DAYS:
            self.fail("length")
        group_by = UsageGroup(attrs.pop("group_by"))
        return {**attrs, "group_by": group_by, "period": DateRange(first=first, last=last)}


class UsageCountsSerializer(serializers.Serializer[Any]):
    """Sums over settled records. Unknown counts add nothing."""

    requests = serializers.IntegerField()
    # DRF makes it a field, and keeps its own property `errors`.
    errors = serializers.IntegerField(  # type: ignore[assignment]
        help_text="Requests that failed."
    )
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    cost_usd = fields.UsdField(help_text="The sum of the known costs.")


class UsageGroupSerializer(UsageCountsSerializer):
    """The sums of one date, model or user."""

    date = serializers.DateField(required=False)
    model = serializers.CharField(required=False)
    user = serializers.CharField(required=False)


class BudgetsSerializer(serializers.Serializer[Any]):
    """The monthly budgets of the caller's key, and what the key has spent this month (UTC)."""

    monthly_usd = fields.UsdField(allow_null=True, help_text="Of the key as a whole.")
    spent_usd = fields.UsdField(allow_null=True)
    user_monthly_usd = fields.UsdField(allow_null=True, help_text="Of each of its users.")


class UsageReportSerializer(serializers.Serializer[Any]):
    """Usage by group, and in total."""

    items = UsageGroupSerializer(many=True)
    total = UsageCountsSerializer()
    next_cursor = serializers.CharField(
        allow_null=True, help_text="Cursor of the next page of users; null on the last page."
    )
    budget = BudgetsSerializer(required=False, help_text="Only if the caller's key has one.")


class FieldErrorSerializer(serializers.Serializer[Any]):
    """The error of one field."""

    field = serializers.CharField(allow_blank=True, help_text="Dotted path; empty: the whole body.")
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable: programs should read this field.")
    request_id = serializers.CharField()
    # DRF makes it a field, and keeps its own property `errors`.
    errors = FieldErrorSerializer(many=True)  # type: ignore[assignment]
