"""Base classes of the serializers on the path of a chat, which do less than DRF's."""

from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from typing import Any

from rest_framework import serializers
from rest_framework.fields import empty


class BodySerializer(serializers.Serializer[Any]):
    """Validates the required fields of a JSON object, and those that it has.

    DRF would raise and catch an exception for each optional field that is absent.
    """

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            return super().to_internal_value(data)  # raises
        values: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for name, field in self.fields.items():
            if field.required or name in data:
                try:
                    values[str(field.source)] = field.run_validation(data.get(name, empty))
                except serializers.ValidationError as exc:
                    errors[name] = exc.detail
        if errors:
            raise serializers.ValidationError(errors)
        return values


class AttributesSerializer(serializers.Serializer[Any]):
    """Writes an object's attributes.

    Fields with `required=False` are left to `to_representation` of the subclass. DRF would also
    read mappings and call functions, which takes three times as long.
    """

    @cached_property
    def _written(self) -> list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]:
        return [
            (
                name,
                _itself if field.source == "*" else attrgetter(str(field.source)),
                field.to_representation,
            )
            for name, field in self.fields.items()
            if field.required or field.read_only
        ]

    def to_representation(self, instance: Any) -> dict[str, Any]:
        body = {}
        for name, read, write in self._written:
            value = read(instance)
            body[name] = None if value is None else write(value)
        return body


def _itself(instance: Any) -> Any:
    return instance
