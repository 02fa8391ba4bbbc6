from django.urls import path

from chat.api.openai.responses import views
from chat.api.openai.views import UnsupportedEndpointView

urlpatterns = [
    path("", views.ResponsesView.as_view(), name="responses"),
    # Operations that this service lacks, and no ids.
    path("/compact", UnsupportedEndpointView.as_view()),
    path("/input_tokens", UnsupportedEndpointView.as_view()),
    path("/<str:response_id>", views.ResponseView.as_view(), name="response"),
    path(
        "/<str:response_id>/input_items",
        views.ResponseItemsView.as_view(),
        name="response-input-items",
    ),
]
