"""The compiled part of sockd; everything else is declared in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("SOCKD_SANITIZE")  # e.g. "address": a build for the tests only

FLAGS = [os.environ.get("SOCKD_OPTIMIZE", "-O3"), "-fno-strict-aliasing"]
LINK: list[str] = []
if SANITIZE:
    FLAGS = ["-O1", "-g", f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    LINK = [f"-fsanitize={SANITIZE}"]

MODULES = {
    "sockd.linux": "sockd/linux.pyx",
    "sockd.board": "sockd/board.pyx",
    "sockd.http.parser": "sockd/http/parser.pyx",
    "sockd.http.body": "sockd/http/body.pyx",
    "sockd.http.date": "sockd/http/date.pyx",
    "sockd.http.response": "sockd/http/response.pyx",
    "sockd.http.current": "sockd/http/current.pyx",
    "sockd.http.forwarded": "sockd/http/forwarded.pyx",
    "sockd.http.forks": "sockd/http/forks.pyx",
    "sockd.http.connections": "sockd/http/connections.pyx",
    "sockd.http.stream": "sockd/http/stream.pyx",
    "sockd.http.health": "sockd/http/health.pyx",
    "sockd.http.handover": "sockd/http/handover.pyx",
    "sockd.http.helper": "sockd/http/helper.pyx",
    "sockd.http.listening": "sockd/http/listening.pyx",
    "sockd.http.pool": "sockd/http/pool.pyx",
    "sockd.http.websocket": "sockd/http/websocket.pyx",
    "sockd.http.loop": "sockd/http/loop.pyx",
    "sockd.worker.wsgi": "sockd/worker/wsgi.pyx",
}

setup(
    ext_modules=cythonize(
        [
            Extension(name, [source], extra_compile_args=FLAGS, extra_link_args=LINK)
            for name, source in MODULES.items()
        ],
        build_dir="build/cython",  # beside its source, the C would be packed as data
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
)
