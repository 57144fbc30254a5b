"""What a uWSGI was told in an ini file. Source: its manual, Configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sockd.errors import SockdError
from sockd.init.draft import Draft
from sockd.init.options import Given
from sockd.init.uwsgi_options import OPTIONS

ORDER = ("chdir", "chdir2", "home", "module", "wsgi-file", "mount", "callable")
"""What the target is put together of, in this order; everything else as it stands."""

_PLACEHOLDER = re.compile(r"%\(([^)]+)\)")
_VARIABLE = re.compile(r"\$\(([^)]+)\)|@\(([^)]+)\)")


def read(path: Path, draft: Draft) -> list[Given]:
    """The options of the section [uwsgi]. SockdError when it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SockdError(f"--from: {path} cannot be read: {error}") from None
    found: list[Given] = []
    known: dict[str, str] = {}
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            inside = line == "[uwsgi]"
            continue
        if not inside:
            continue
        name, sign, value = (part.strip() for part in line.partition("="))
        value = _expanded(value if sign else "true", path, known)
        known[name] = value
        option = OPTIONS.get(name.replace("_", "-"))
        origin = f"{path.name}:{number}"
        if _VARIABLE.search(value) and option and option.convert:
            draft.say("left", f"{origin}: {name}: {value} is known when uWSGI runs")
        elif option:
            found.append(Given(name.replace("_", "-"), value, origin))
        elif f"%({name})" not in text:  # else a variable of the file's own
            found.append(Given(name, value, origin))
    if not found:
        raise SockdError(f"--from: {path} has no section [uwsgi] with options")

    def place(given: Given) -> int:
        name = OPTIONS[given.name].name if given.name in OPTIONS else ""
        return ORDER.index(name) if name in ORDER else len(ORDER)

    return sorted(found, key=place)


def _expanded(value: str, path: Path, known: Mapping[str, str]) -> str:
    """The magic variables of the file's own place, and placeholders."""
    value = _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), value)
    here = path.absolute()
    magic = {
        "%p": str(here),
        "%d": f"{here.parent}/",
        "%s": here.name,
        "%n": here.stem,
        "%e": here.suffix.lstrip("."),
        "%c": here.parent.name,
    }
    for mark, text in magic.items():
        value = value.replace(mark, text)
    return value
