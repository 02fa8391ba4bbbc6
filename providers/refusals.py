"""What models refuse in requests, so that they are asked without it from then on."""

from collections.abc import Set

# With ALLOWED_MODELS=* clients choose the models, which must not fill the memory.
MAX_REMEMBERED = 1000


class Refusals:
    """The names of the fields or features that each model has refused in this process."""

    def __init__(self) -> None:
        self._by_model: dict[str, frozenset[str]] = {}

    def of(self, model: str) -> frozenset[str]:
        return self._by_model.get(model, frozenset())

    def add(self, model: str, names: Set[str]) -> None:
        known = self.of(model)
        if len(self._by_model) >= MAX_REMEMBERED:
            self._by_model.clear()
        self._by_model[model] = (known if len(known) < MAX_REMEMBERED else frozenset()) | names
