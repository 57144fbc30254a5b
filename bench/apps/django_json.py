"""Django, one view, and the middleware that gives a response its Content-Length."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path


def index(request):
    return JsonResponse({"message": "Hello, World!"})


urlpatterns = [path("", index)]
settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
)
app = get_wsgi_application()
