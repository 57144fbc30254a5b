import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
application = get_wsgi_application()
# Django imports the URLconf, and the views with it, at the first request. Imported here, one that
# is broken fails the reload, and the workers share its memory.
get_resolver().url_patterns  # noqa: B018
