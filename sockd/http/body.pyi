from typing import BinaryIO

class BodyReader:
    complete: bool
    def __init__(
        self,
        *,
        chunked: bool = False,
        length: int = 0,
        limit: int = 1 << 30,
        header_field: int = 8192,
        headers: int = 100,
        head: int = 65536,
    ) -> None: ...
    def feed(self, data: bytes) -> int: ...
    def take(self) -> BinaryIO: ...
