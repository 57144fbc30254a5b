REFUSALS: tuple[tuple[str, int, str, str], ...]
"""Name, status, reason and rule of each verdict; the first is no refusal but MORE."""

class Refused(Exception):
    status: int

class RequestHead:
    method: bytes
    target: bytes
    path: bytes
    query: bytes
    authority: bytes
    minor: int
    keep_alive: bool
    chunked: bool
    expect_continue: bool
    content_length: int
    fields: list[tuple[bytes, bytes]]
    def __init__(
        self,
        *,
        request_line: int = 8192,
        header_field: int = 8192,
        headers: int = 100,
        head: int = 65536,
    ) -> None: ...
    def feed(self, data: bytes) -> int: ...
