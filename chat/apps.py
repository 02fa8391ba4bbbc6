from django.apps import AppConfig
from django.conf import settings


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = "Chat API"

    def import_models(self) -> None:
        """Import the models of the local store only if it is used: they cost startup time."""
        if settings.STORAGE == "sqlite":
            super().import_models()
        else:
            self.models = {}

    def ready(self) -> None:
        from chat import checks  # noqa: F401  (registers the start-up checks)
