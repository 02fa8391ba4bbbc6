from django.urls import URLResolver, path, register_converter
from django.urls.converters import StringConverter
from django.urls.resolvers import RoutePattern

from chat.api import views
from chat.api.openai import views as openai

# Other endpoints of OpenAI: their 404 has OpenAI's error shape, which its clients can read.
UNSUPPORTED_OPENAI_PATHS = (
    *("audio", "batches", "chat/completions", "completions", "embeddings", "files", "fine_tuning"),
    *("images", "models", "moderations", "responses", "uploads", "vector_stores"),
)
PATH_SUFFIXES = ("", "/", "/<anything:rest>")
unsupported = openai.UnsupportedEndpointView.as_view()


class AnythingConverter(StringConverter):
    """Like `path`, but with line feeds, so that no name of a model gets Django's own 404."""

    regex = r"[\s\S]+"


register_converter(AnythingConverter, "anything")

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("v1/chat", views.ChatView.as_view(), name="chat"),
    path("v1/usage", views.UsageView.as_view(), name="usage"),
    path("v1/health", views.HealthView.as_view(), name="health"),
    path("v1/ready", views.ReadyView.as_view(), name="ready"),
    path("v1/chat/completions", openai.CompletionsView.as_view(), name="chat-completions"),
    # Unlike `include`, a resolver imports its URLs at their first request: a cold start is 12 ms
    # shorter where nobody uses the Responses API.
    URLResolver(RoutePattern("v1/responses"), "chat.api.openai.responses.urls"),
    path("v1/models", openai.ModelsView.as_view(), name="models"),
    path("v1/models/<anything:model_id>", openai.ModelView.as_view(), name="model"),
    path(
        "v1/conversations/<str:conversation_id>",
        views.ConversationView.as_view(),
        name="conversation",
    ),
    path(
        "v1/users/<str:user_id>/interactions",
        views.UserInteractionsView.as_view(),
        name="user-interactions",
    ),
    path(
        "v1/interactions/<str:interaction_id>", views.InteractionView.as_view(), name="interaction"
    ),
    *(
        path(f"v1/{name}{end}", unsupported)
        for name in UNSUPPORTED_OPENAI_PATHS
        for end in PATH_SUFFIXES
    ),
]
