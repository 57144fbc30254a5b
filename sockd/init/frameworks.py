"""What makes an application of a Python expression."""

from __future__ import annotations

from typing import Literal

Interface = Literal["WSGI", "ASGI"]

FRAMEWORKS: dict[str, tuple[str, Interface]] = {
    "flask.Flask": ("Flask", "WSGI"),
    "apiflask.APIFlask": ("Flask", "WSGI"),
    "flask_openapi3.OpenAPI": ("Flask", "WSGI"),
    "django.core.wsgi.get_wsgi_application": ("Django", "WSGI"),
    "django.core.asgi.get_asgi_application": ("Django", "ASGI"),
    "channels.routing.ProtocolTypeRouter": ("Django Channels", "ASGI"),
    "fastapi.FastAPI": ("FastAPI", "ASGI"),
    "starlette.applications.Starlette": ("Starlette", "ASGI"),
    "starlette.Starlette": ("Starlette", "ASGI"),
    "quart.Quart": ("Quart", "ASGI"),
    "litestar.Litestar": ("Litestar", "ASGI"),
    "blacksheep.Application": ("BlackSheep", "ASGI"),
    "sanic.Sanic": ("Sanic", "ASGI"),
    "falcon.App": ("Falcon", "WSGI"),
    "falcon.API": ("Falcon", "WSGI"),
    "falcon.asgi.App": ("Falcon", "ASGI"),
    "bottle.Bottle": ("Bottle", "WSGI"),
    "bottle.default_app": ("Bottle", "WSGI"),
    "bottle.app": ("Bottle", "WSGI"),
    "connexion.FlaskApp": ("Connexion", "ASGI"),
    "connexion.AsyncApp": ("Connexion", "ASGI"),
    "paste.deploy.loadapp": ("Paste", "WSGI"),
    "pyramid.paster.get_app": ("Pyramid", "WSGI"),
    "cherrypy.Application": ("CherryPy", "WSGI"),
    "tornado.wsgi.WSGIContainer": ("Tornado", "WSGI"),
}
"""Full name of what is called → framework, interface of what it returns."""

METHODS: dict[str, tuple[str, Interface]] = {
    "make_wsgi_app": ("Pyramid", "WSGI"),
    "wsgifunc": ("web.py", "WSGI"),
}
"""The same for methods of whatever object."""

DASH = "dash.Dash"
"""Its attribute `server` is a Flask."""

START_RESPONSE = ("start_response", "start_resp", "respond", "start")
SCOPE = ("scope", "receive", "send")
