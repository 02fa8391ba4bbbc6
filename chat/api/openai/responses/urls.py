from django.urls import path

from chat.api.openai.responses import views

urlpatterns = [
    path("", views.ResponsesView.as_view(), name="responses"),
    path("/<str:response_id>", views.ResponseView.as_view(), name="response"),
    path(
        "/<str:response_id>/input_items",
        views.ResponseItemsView.as_view(),
        name="response-input-items",
    ),
]
