"""Tables of the local store; chat/storage/base.py explains their columns."""

from django.db import models


class Interaction(models.Model):
    """An `InteractionRecord`, flat."""

    interaction_id = models.CharField(max_length=36, primary_key=True)
    owner = models.CharField(max_length=128)
    user_id = models.CharField("user", max_length=128)
    created_at = models.DateTimeField("time", db_index=True)
    deadline_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, db_index=True)
    request_id = models.CharField(max_length=128)
    request_hash = models.CharField(max_length=64, null=True)
    key_id = models.CharField(max_length=16, null=True)
    conversation_id = models.CharField(max_length=36)
    previous_interaction_id = models.CharField(max_length=36, null=True)
    ancestors = models.JSONField(default=list)

    prompt = models.TextField()
    system = models.TextField(null=True)
    parameters = models.JSONField()
    metadata = models.JSONField()

    status = models.CharField(max_length=16)
    provider = models.CharField(max_length=32)
    model = models.CharField(max_length=256)
    response = models.TextField(null=True)
    tool_calls = models.JSONField(default=list)
    message = models.JSONField(null=True)
    extras = models.JSONField(null=True)
    finish_reason = models.CharField(max_length=32, null=True)
    cached = models.BooleanField()
    latency_ms = models.PositiveIntegerField("latency (ms)", null=True)
    attempts = models.JSONField()

    error_code = models.CharField("error", max_length=64, null=True)
    error_detail = models.TextField(null=True)

    prompt_tokens = models.PositiveBigIntegerField(null=True)
    completion_tokens = models.PositiveBigIntegerField(null=True)
    total_tokens = models.PositiveBigIntegerField("tokens", null=True)
    cached_tokens = models.PositiveBigIntegerField(null=True)
    reasoning_tokens = models.PositiveBigIntegerField(null=True)
    cost_usd = models.DecimalField("cost (USD)", max_digits=24, decimal_places=12, null=True)
    estimated = models.BooleanField("tokens estimated", null=True)

    earlier = models.JSONField(null=True)
    digest = models.CharField(max_length=32, null=True)
    transcript = models.JSONField(null=True)

    class Meta:
        ordering = ("-created_at",)
        indexes = (
            # These two have the order of their pages, so that SQLite sorts none.
            models.Index(
                fields=("owner", "user_id", "-created_at", "-interaction_id"), name="user_index"
            ),
            models.Index(
                fields=("conversation_id", "created_at", "interaction_id"),
                name="conversation_index",
            ),
            # For the admin: its lists, and (from the index alone) latencies and errors by day.
            models.Index(fields=("owner", "created_at"), name="owner_index"),
            models.Index(fields=("model", "created_at", "latency_ms", "owner"), name="model_index"),
            models.Index(
                fields=("created_at", "error_code", "model", "owner"),
                name="error_index",
                condition=models.Q(error_code__isnull=False),
            ),
            models.Index(fields=("request_id", "created_at"), name="request_index"),
            models.Index(
                fields=("digest", "created_at"),
                name="digest_index",
                condition=models.Q(digest__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.interaction_id


class ApiKey(models.Model):
    """A managed API key: `chat.storage.base.ApiKey`."""

    key_id = models.CharField(max_length=16, primary_key=True)
    owner = models.CharField(max_length=128)
    name = models.CharField(max_length=128)
    digest = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    previous_digest = models.CharField(max_length=64, null=True)
    previous_until = models.DateTimeField(null=True)
    rate_limit = models.PositiveIntegerField("requests per minute", null=True)
    monthly_budget_usd = models.DecimalField(
        "monthly budget (USD)", max_digits=24, decimal_places=12, null=True
    )
    user_monthly_budget_usd = models.DecimalField(
        "monthly budget of each user (USD)", max_digits=24, decimal_places=12, null=True
    )
    allowed_models = models.JSONField()

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"


class UsageCount(models.Model):
    """`UsageCounts` of a name on a day. Those of users expire with their records."""

    owner = models.CharField(max_length=128)
    by = models.CharField(max_length=8)
    name = models.CharField(max_length=256)
    date = models.DateField()
    expires_at = models.DateTimeField(null=True, db_index=True)
    requests = models.BigIntegerField()
    errors = models.BigIntegerField()
    prompt_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    total_tokens = models.BigIntegerField()
    # Integers add up exactly; SQLite would sum decimals as floats.
    cost = models.BigIntegerField("cost (10^-12 USD)")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("owner", "by", "name", "date"), name="usage_count"),
        )

    def __str__(self) -> str:
        return f"{self.owner} {self.by} {self.name} {self.date}"


class Reservation(models.Model):
    """`Reservation` of a request in flight: its estimated cost, in 10^-12 USD."""

    interaction_id = models.CharField(max_length=36, db_index=True)
    owner = models.CharField(max_length=128)
    by = models.CharField(max_length=8)
    name = models.CharField(max_length=256)
    amount = models.BigIntegerField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        indexes = (models.Index(fields=("owner", "by", "name"), name="reservation_index"),)

    def __str__(self) -> str:
        return self.interaction_id


class CacheEntry(models.Model):
    """A counter or a value of `OrmCache`. `expires_at` is in epoch seconds."""

    key = models.CharField(max_length=255, primary_key=True)
    counter = models.BigIntegerField(null=True)
    value = models.BinaryField(null=True)
    expires_at = models.FloatField(null=True, db_index=True)

    class Meta:
        verbose_name_plural = "cache entries"

    def __str__(self) -> str:
        return self.key
