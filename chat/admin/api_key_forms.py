"""The forms of the admin that create and rotate API keys."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.utils import timezone

from chat.management import arguments
from chat.models import ApiKey

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[ApiKey]
else:
    ModelForm = forms.ModelForm

# Days for which the old secret stays valid.
GRACES = [("0", "at once"), ("1", "after a day"), ("7", "after 7 days"), ("30", "after 30 days")]


def _validator(parse: Callable[[str], Any]) -> Callable[[Any], None]:
    """Turn a command-line argument's parser into a form's validator."""

    def validate(value: Any) -> None:
        try:
            parse(str(value))
        except ArgumentTypeError as exc:
            raise ValidationError(str(exc)) from exc

    return validate


class KeyForm(ModelForm):
    owner = forms.CharField(
        initial="default",
        validators=[_validator(arguments.parse_owner)],
        help_text="The owner it acts for. All keys of an owner see the same records.",
    )
    name = forms.CharField(
        validators=[_validator(arguments.parse_key_name)],
        help_text="A label for people: “mobile app”.",
    )
    expires_at = forms.SplitDateTimeField(
        required=False,
        widget=AdminSplitDateTime,
        label="Expires",
        help_text="In UTC. Empty: never.",
    )
    rate_limit = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=arguments.MAX_RATE_LIMIT,
        label="Requests per minute",
        help_text="Of all its users. Empty: RATE_LIMIT_PER_MINUTE for each; 0: no limit.",
    )
    monthly_budget_usd = forms.DecimalField(
        required=False,
        validators=[_validator(arguments.parse_dollars)],
        label="Monthly budget (USD)",
        help_text="Empty: none.",
    )
    user_monthly_budget_usd = forms.DecimalField(
        required=False,
        validators=[_validator(arguments.parse_dollars)],
        label="Monthly budget of each user (USD)",
        help_text="Empty: none.",
    )
    models = forms.CharField(
        required=False,
        help_text="Allowed models, separated by commas; the first is the default. Empty: all.",
    )

    class Meta:
        model = ApiKey
        fields = (
            *("owner", "name", "expires_at", "rate_limit"),
            *("monthly_budget_usd", "user_monthly_budget_usd"),
        )

    def clean_expires_at(self) -> datetime | None:
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now():
            raise ValidationError("The time is in the past.")
        return moment

    def clean_models(self) -> list[str]:
        names: str = self.cleaned_data["models"]
        models = [name for each in names.split(",") if (name := each.strip())]
        for model in models:
            _validator(arguments.parse_model)(model)
        return models


class RotateForm(forms.Form):
    grace = forms.ChoiceField(choices=GRACES, initial="1", label="The old secret ends")
