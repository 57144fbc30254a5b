"""Pages that ask different things of a server: a template, a stream, an upload, time, an error."""

import hashlib
import socket
import subprocess
import time

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from catalogue.models import Article


def index(request):
    return render(request, "catalogue/index.html", {"articles": Article.objects.order_by("name")})


def export(request):
    """All articles as CSV, ten thousand times, sent as it is made."""

    def lines():
        yield "name,cents\n"
        rows = [f"{article.name},{article.cents}\n" for article in Article.objects.all()]
        for _ in range(10_000):
            yield from rows

    return StreamingHttpResponse(lines(), content_type="text/csv")


@csrf_exempt  # so that curl can post
@require_POST
def picture(request):
    """Take a file of any size; answer with what arrived."""
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return JsonResponse({"name": file.name, "size": file.size, "sha256": digest.hexdigest()})


def host(request):
    """The addresses of a name, as the service can resolve it."""
    try:
        found = socket.getaddrinfo(request.GET["name"], None, type=socket.SOCK_STREAM)
    except OSError as error:
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"addresses": sorted({address[0] for *_, address in found})})


def kernel(request):
    """What a program says that the application runs."""
    done = subprocess.run(["uname", "-s"], capture_output=True, text=True, check=True)
    return HttpResponse(done.stdout, content_type="text/plain")


def sleep(request):
    seconds = float(request.GET.get("seconds", 1))
    time.sleep(seconds)
    return HttpResponse(f"slept {seconds} s\n", content_type="text/plain")


def fail(request):
    raise RuntimeError("raised on purpose")
