"""The written file: whole or not at all, and never over another unless that is wanted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sockd import config
from sockd.errors import PermissionDenied, SockdError


def write(path: Path, text: str, *, force: bool = False) -> None:
    """SockdError when there is something already and not `force`; PermissionDenied."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.parent == config.DIRECTORY:
            path.parent.mkdir(exist_ok=True)
        with temporary.open("x") as file:
            # The service's own user reads it.
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.rename(path)
        else:
            path.hardlink_to(temporary)
    except FileExistsError:
        raise SockdError(
            f"{path} is there already; nothing was written. --force replaces it, --output FILE "
            "writes another"
        ) from None
    except PermissionError as error:
        raise PermissionDenied(
            f"{error.filename2 or error.filename}: no permission to write; run this as root, or "
            "choose a place with --output FILE"
        ) from None
    except OSError as error:
        raise SockdError(f"{path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
