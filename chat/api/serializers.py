"""Shapes in and out. Requests are read strictly: a number is not a string, nor the reverse."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, get_args
from uuid import UUID

from django.conf import settings
from django.core.validators import MinValueValidator, RegexValidator
from django.utils import timezone
from rest_framework import serializers

from chat.storage.base import InteractionRecord
from chat.usage import DEFAULT_DAYS, MAX_DAYS, DateRange, UsageGroup
from providers.base import FinishReason

S = TypeVar("S", bound=serializers.Serializer[Any])

MAX_STOPS = 4
MAX_STOP_LENGTH = 256
MAX_METADATA = 16
MAX_PAGE = 100
FINISH_REASONS = get_args(FinishReason)
FROM_TO = ("from", "to")
EARLIEST_DAY = date(2000, 1, 1)


def build_once(kind: type[S]) -> S:
    """An instance that serves all requests, with its fields, of which each instance has copies.

    They are made now: the threads of the first requests would each make them.
    """
    made = kind()
    for field in made.fields.values():
        inner = getattr(field, "child", field)
        if isinstance(inner, serializers.Serializer):
            list(inner.fields)
    return made


class StrictCharField(serializers.CharField):
    """A string, kept as it came."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


class PromptField(StrictCharField):
    """A string that says something."""

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, str) and not data.strip():
            self.fail("blank")
        return super().to_internal_value(data)


class StrictFloatField(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if not isinstance(data, int | float) or isinstance(data, bool):
            self.fail("invalid")
        return float(super().to_internal_value(data))


class StrictIntegerField(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class StrictBooleanField(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class UserIdField(StrictCharField):
    """Who asks, in the client's application."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            max_length=128,
            validators=[
                RegexValidator(
                    r"\A(?!\.{1,2}\Z)[A-Za-z0-9._:@|+-]+\Z",
                    "ASCII letters, digits and . _ : @ | + - only, and neither . nor ..",
                )
            ],
            **options,
        )


class InteractionIdField(StrictCharField):
    """A record's id as it is kept, however its UUID is spelled; any other text is of no record."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        with suppress(ValueError):
            return str(UUID(text))
        return text


class ModelIdField(StrictCharField):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            max_length=256,
            validators=[RegexValidator(r"\A[!-~]+\Z", "Printable ASCII without spaces only.")],
            **options,
        )


class StopField(serializers.ListField):
    """One string or a list of them."""

    child = StrictCharField(max_length=MAX_STOP_LENGTH)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(super().to_internal_value([data] if isinstance(data, str) else data))


class MetadataField(serializers.DictField):
    """A few strings of the client's own, kept with the record."""

    child = StrictCharField(max_length=512, allow_blank=True)
    default_error_messages = {
        "max_length": f"No more than {MAX_METADATA} pairs.",
        "key_length": "A key has 1 to 64 characters.",
    }

    def to_internal_value(self, data: Any) -> dict[str, str]:
        value: dict[str, str] = super().to_internal_value(data)
        if len(value) > MAX_METADATA:
            self.fail("max_length")
        if not all(0 < len(key) <= 64 and "\0" not in key for key in value):
            self.fail("key_length")
        return value


class ChatSerializer(serializers.Serializer[Any]):
    """What a client asks."""

    userId = UserIdField(source="user_id", help_text="Who asks, in your application: an opaque id.")
    prompt = PromptField(
        max_length=settings.PROMPT_MAX_LENGTH, help_text="The question, kept as it came."
    )
    system = PromptField(
        required=False,
        allow_null=True,
        max_length=settings.PROMPT_MAX_LENGTH,
        help_text="Instructions that stand above the conversation.",
    )
    previous_interaction_id = InteractionIdField(
        required=False,
        allow_null=True,
        max_length=64,
        help_text="The turn before this one, whose conversation is continued.",
    )
    model = ModelIdField(
        required=False,
        allow_null=True,
        help_text="An allowed model: its id, or `provider:id`. Default: the configured one.",
    )
    temperature = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=2)
    top_p = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=1)
    max_tokens = StrictIntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=1_000_000,
        help_text="The longest answer, in tokens, the model's thinking included.",
    )
    stop = StopField(
        required=False,
        allow_null=True,
        max_length=MAX_STOPS,
        help_text=f"Up to {MAX_STOPS} strings that end the answer; one may stand without a list.",
    )
    metadata = MetadataField(
        required=False,
        allow_null=True,
        help_text=f"Up to {MAX_METADATA} string pairs, kept with the record.",
    )
    stream = StrictBooleanField(
        required=False,
        allow_null=True,
        help_text="Answer with server-sent events, as the text comes.",
    )


class UsageSerializer(serializers.Serializer[Any]):
    """Tokens and cost; null is unknown."""

    prompt_tokens = serializers.IntegerField(allow_null=True)
    completion_tokens = serializers.IntegerField(allow_null=True)
    total_tokens = serializers.IntegerField(allow_null=True)
    cached_tokens = serializers.IntegerField(
        allow_null=True, help_text="The part of the prompt that the vendor had cached."
    )
    reasoning_tokens = serializers.IntegerField(
        allow_null=True, help_text="The part of the completion that was thinking."
    )
    cost_usd = serializers.SerializerMethodField()

    def get_cost_usd(self, usage: Any) -> str | None:
        cost: Decimal | None = usage.cost_usd
        return None if cost is None else f"{cost.normalize():f}"


class InteractionSerializer(serializers.Serializer[InteractionRecord]):
    """What an answer and a record have in common."""

    interaction_id = serializers.UUIDField()
    userId = serializers.CharField(source="user_id")
    prompt = serializers.CharField()
    response = serializers.CharField(allow_null=True)
    model = serializers.CharField(help_text="The model that answered, or else was to be asked.")
    timestamp = serializers.SerializerMethodField(help_text="When the request was accepted, UTC.")
    conversation_id = serializers.UUIDField()
    previous_interaction_id = serializers.UUIDField(allow_null=True)
    provider = serializers.CharField()
    finish_reason = serializers.ChoiceField(choices=FINISH_REASONS, allow_null=True)
    cached = serializers.BooleanField()
    latency_ms = serializers.IntegerField(allow_null=True)
    usage = UsageSerializer()
    metadata = serializers.DictField(child=serializers.CharField())

    def get_timestamp(self, record: InteractionRecord) -> str:
        return utc(record.created_at)


class AnswerSerializer(InteractionSerializer):
    """The answer to a chat request. The first six fields are fixed; others may be added."""

    response = serializers.CharField()
    finish_reason = serializers.ChoiceField(choices=FINISH_REASONS)
    latency_ms = serializers.IntegerField()
    recorded = serializers.BooleanField(
        required=False, help_text="Only when false: the answer could not be written to the ledger."
    )


class FailureSerializer(serializers.Serializer[Any]):
    """Why there is no answer, as the client was told."""

    code = serializers.CharField()
    detail = serializers.CharField()


class AttemptSerializer(serializers.Serializer[Any]):
    """One call to a provider."""

    provider = serializers.CharField()
    model = serializers.CharField()
    outcome = serializers.CharField(help_text="`ok`, or the code of the error.")
    latency_ms = serializers.IntegerField()


class RecordSerializer(InteractionSerializer):
    """One interaction: the answer, or why there is none."""

    status = serializers.SerializerMethodField()
    error = FailureSerializer(allow_null=True)
    attempts = AttemptSerializer(many=True)
    tool_calls = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text="Only where the model wants tools called, in OpenAI's terms.",
    )

    def get_status(self, record: InteractionRecord) -> str:
        return record.status_at(timezone.now()).value

    def to_representation(self, record: InteractionRecord) -> dict[str, Any]:
        body: dict[str, Any] = super().to_representation(record)
        if not record.tool_calls:
            del body["tool_calls"]
        return body


class PageQuerySerializer(serializers.Serializer[Any]):
    """Which part of a list."""

    limit = serializers.IntegerField(
        min_value=1,
        max_value=MAX_PAGE,
        default=20,
        help_text="How many records at most; a page of long texts has fewer, and a `next_cursor`.",
    )
    cursor = serializers.CharField(
        default=None, max_length=512, help_text="The `next_cursor` of the page before."
    )


class UserQuerySerializer(PageQuerySerializer):
    """Which part of a user's records."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
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
    userId = UserIdField(source="user_id")


class PageSerializer(serializers.Serializer[Any]):
    """Records, the newest first."""

    items = RecordSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="Null at the end.")


class ConversationSerializer(serializers.Serializer[Any]):
    """The turns of a conversation, the oldest first."""

    conversation_id = serializers.UUIDField()
    items = RecordSerializer(many=True)
    next_cursor = serializers.CharField(allow_null=True, help_text="Null at the end.")


class DeletionSerializer(serializers.Serializer[Any]):
    """How many records were erased."""

    deleted = serializers.IntegerField()


class HealthSerializer(serializers.Serializer[Any]):
    """The process is up."""

    status = serializers.ChoiceField(choices=["healthy"])
    version = serializers.CharField()
    timestamp = serializers.CharField()


class ChecksSerializer(serializers.Serializer[Any]):
    """`ok`, or what is wrong."""

    storage = serializers.CharField()
    provider = serializers.CharField()


class ReadySerializer(serializers.Serializer[Any]):
    """Whether requests can be served."""

    status = serializers.ChoiceField(choices=["ready", "not_ready"])
    checks = ChecksSerializer()
    timestamp = serializers.CharField()


class IndexSerializer(serializers.Serializer[Any]):
    """What this server is, and where to go."""

    name = serializers.CharField()
    version = serializers.CharField()
    links = serializers.DictField(child=serializers.CharField())


class UsageQuerySerializer(serializers.Serializer[Any]):
    """Which usage is asked for; by default that of the last 30 days, by date."""

    group_by = serializers.ChoiceField(choices=[each.value for each in UsageGroup], default="date")
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=100)
    cursor = serializers.CharField(default=None)
    default_error_messages = {
        "order": "The period must not end before it begins.",
        "length": f"No more than {MAX_DAYS} days.",
    }

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` cannot be an attribute."""
        after = [MinValueValidator(EARLIEST_DAY)]
        days = {each: serializers.DateField(default=None, validators=after) for each in FROM_TO}
        return {**days, **super().get_fields()}

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
    """Sums over settled records; what a record does not know adds nothing."""

    requests = serializers.IntegerField()
    errors = serializers.IntegerField(  # type: ignore[assignment]  # a field all the same
        help_text="Those of the requests that failed."
    )
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    cost_usd = serializers.SerializerMethodField(help_text="What is known of the cost.")

    def get_cost_usd(self, counts: Any) -> str:
        return f"{counts.cost_usd.normalize():f}"


class UsageGroupSerializer(UsageCountsSerializer):
    """The counts of one date, model or user."""

    date = serializers.DateField(required=False)
    model = serializers.CharField(required=False)
    user = serializers.CharField(required=False)


class UsageReportSerializer(serializers.Serializer[Any]):
    """What was used, by group and as a whole."""

    items = UsageGroupSerializer(many=True)
    total = UsageCountsSerializer()
    next_cursor = serializers.CharField(
        allow_null=True, help_text="Of the next page of users; null is the end."
    )


class FieldErrorSerializer(serializers.Serializer[Any]):
    """What is wrong with one field."""

    field = serializers.CharField(allow_blank=True, help_text="Dotted path; empty: the whole body.")
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable; the field for programs to read.")
    request_id = serializers.CharField()
    errors = FieldErrorSerializer(many=True)  # type: ignore[assignment]  # a field all the same


def utc(moment: datetime) -> str:
    """ISO 8601 of fixed width, which sorts as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
