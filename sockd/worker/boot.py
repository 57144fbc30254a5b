"""The script that an application's interpreter runs to become a fork server: `boot.py FD VERSION`,
of the sockd that the master is.

It makes sockd importable without a sys.path entry, so that the application finds none of the
packages that lie beside sockd: that of the interpreter's own environment when it has one, else
the one that this file belongs to. It must run, and say what is wrong, on any Python 3.
"""

import contextlib
import importlib.util
import json
import socket
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        del sys.path[0]  # a script's directory; the application's takes this place later
    python = f"{sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})"
    try:
        complaint = import_sockd(here.parent, sys.argv[2])
        if complaint:
            refuse(f"{python} {complaint}")
        from sockd.worker import forkserver
    except (ImportError, SyntaxError) as error:
        refuse(f"{python} cannot run sockd: {error}; install the same sockd there")
    forkserver.main(int(sys.argv[1]))


def import_sockd(package: Path, master: str) -> str:
    """What is wrong with the version that was found, if anything. `package` is where the master's
    lies, which may have been replaced since that was started."""
    spec = importlib.util.spec_from_file_location(
        "sockd", str(package / "__init__.py"), submodule_search_locations=[str(package)]
    )
    assert spec and spec.loader
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    if importlib.util.find_spec("sockd") is None:
        sys.modules["sockd"] = ours
    import sockd

    found, remedy = sockd.__version__, "install the same sockd there"
    if found == ours.__version__ != master:
        remedy = "`sockd upgrade` has the master follow"
    elif ours.__version__ != master:
        remedy = f"install sockd {ours.__version__} there and run `sockd upgrade`"
    elif found != master:
        remedy += ", or that one for the master and run `sockd upgrade`"
    if found != master:
        return f"has sockd {found}, but the master is sockd {master}; {remedy}"
    if importlib.util.find_spec("sockd.linux") is None:
        return f"has no sockd, and that of the master is compiled for another Python; {remedy}"
    return ""


def refuse(message: str) -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    failed = {"failed": {"message": message, "detail": ""}}
    with contextlib.suppress(OSError):  # the master is gone
        sock.send(json.dumps(failed).encode())
    sys.exit(1)


if __name__ == "__main__":
    main()
