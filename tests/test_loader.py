"""Loading an application, in an interpreter of its own as a fork server is one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sockd import loader

SCRIPT = """
import json, sys
from sockd import loader
from sockd.errors import AppError
sys.path.insert(0, sys.argv[1])
try:
    found = loader.load(sys.argv[2])
    print(json.dumps(["ok", repr(found), ""]))
except AppError as error:
    print(json.dumps(["error", str(error), error.detail]))
"""

FILES = {
    "good.py": """
def app(environ, start_response): return []
def make(): return app
def fails(): raise KeyError("SECRET_KEY")
def returns_none(): return None
def ends(): raise SystemExit("no")
class Site:
    application = app
    number = 3
number = 3
""",
    "broken.py": "def app(:\n",
    "divides.py": "def inner():\n    return 1 / 0\n\ninner()\n",
    "needs.py": "import not_installed_anywhere\n",
    "needs_from.py": "from json import nothing\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "interrupted.py": "raise KeyboardInterrupt\n",
    "chained.py": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('later')\n",
    "recursive.py": "def f(): f()\nf()\n",
    "long.py": "raise ValueError('x' * 300_000)\n",
    "unprintable.py": "class E(Exception):\n    def __str__(self): 1/0\nraise E\n",
    "package/__init__.py": "",
    "package/web.py": "def app(environ, start_response): return []\n",
    "package/needs.py": "import package.missing\n",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    made = tmp_path_factory.mktemp("apps")
    (made / "package").mkdir()
    for name, text in FILES.items():
        (made / name).write_text(text)
    return made


def load(directory, target):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory), target],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "target", ["good:app", "good:make()", "good:Site.application", "package.web:app"]
)
def test_good_ones(directory, target):
    assert load(directory, target)[0] == "ok"


@pytest.mark.parametrize(
    ("target", "message", "in_detail"),
    [
        ("good", "'good' names no application; write module:attribute", None),
        ("good:app.", "names no application", None),
        ("goood:app", "module goood not found in {}; did you mean good?", None),
        ("package.webb:app", "module package.webb not found in package package", None),
        ("good:aap", "module good has no attribute aap; did you mean app?", None),
        ("good:Site.app", "a type good:Site has no attribute app", None),
        ("good:number", "good:number is an int, not a callable application", None),
        ("good:returns_none()", "good:returns_none() is a NoneType, not a callable", None),
        ("good:number()", "good:number is an int, which cannot be called", None),
        ("good:fails()", "good:fails() raised KeyError: 'SECRET_KEY'", "in fails"),
        ("good:ends()", "good:ends() ended the process: sys.exit('no')", "in ends"),
        ("broken:app", "module broken cannot be imported: SyntaxError", "def app(:"),
        ("divides:app", "cannot be imported: ZeroDivisionError: division", "in inner"),
        ("needs:app", "module needs imports not_installed_anywhere, which is not", "needs.py"),
        ("package.needs:app", "imports package.missing, which is not installed", "needs.py"),
        ("needs_from:app", "cannot be imported: ImportError: cannot import name", "needs_from.py"),
        ("exits:app", "module exits ended the process: sys.exit(3)", "exits.py"),
        ("interrupted:app", "module interrupted was interrupted", "interrupted.py"),
        ("chained:app", "ValueError: later", "ZeroDivisionError"),
        ("recursive:app", "RecursionError", "repeated"),
        ("long:app", "ValueError: xxx", "bytes ...]"),
        ("unprintable:app", "cannot be imported: unprintable.E", "unprintable.py"),
        ("", "'' names no application", None),
        ("../x:app", "names no application", None),
    ],
)
def test_what_its_author_can_act_on(directory, target, message, in_detail):
    outcome, text, detail = load(directory, target)
    assert outcome == "error"
    assert message.format(directory) in text
    if in_detail is None:
        assert detail == ""
    else:
        assert in_detail in detail
        assert detail.count("sockd/loader.py") == 0
        assert "importlib" not in detail
        assert len(detail.encode()) < loader.DETAIL_LIMIT + 100
    assert "\n" not in text
    assert len(text) < 1000
