"""Deliberate faults in what is compiled and in the handshake: the tests have to see each.

`make mutants`, or `make mutants FAULT=WORD` for those with the word in their name. Each fault is
put into a copy of the tree, in which only its module is compiled anew; a fault that no test sees
is an error here, and a test is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mutants_websocket import HANDSHAKE, WEBSOCKET

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "mutants"

PARSING = ["tests/engine/test_parser.py", "tests/engine/test_corpus.py::test_parser"]
SERVING = ["tests/engine/test_wire.py"]
TIMING = ["tests/engine/test_deadlines.py"]
FRAMING = ["tests/engine/test_websocket.py"]
OPENING = ["tests/engine/test_handshake.py"]


class Mutant(NamedTuple):
    fault: str
    old: str
    new: str


PARSER = [
    Mutant(
        "a bare LF ends a line",
        "if line_size == 0 or data[head.scanned - 2] != 13:\n            return -BARE_LF\n"
        "        line_size -= 1",
        "if line_size and data[head.scanned - 2] == 13:\n            line_size -= 1",
    ),
    Mutant("any number of empty lines may come first", "head.phase = REQUEST_LINE", "pass"),
    Mutant("a split loses a byte", "head.scanned = size\n", "head.scanned = size + 1\n"),
    Mutant("a line may be one byte longer", "line_limit + 2", "line_limit + 3"),
    Mutant("a head may be one byte larger", "limits.head + 1", "limits.head + 2"),
    Mutant("one field more than the limit", "head.seen == limits", "head.seen > limits"),
    Mutant("CONNECT is served", "return -CONNECT_REFUSED", "pass"),
    Mutant("* for any method of seven letters", 'b"OPTIONS", 7) != 0', 'b"OPTIONS", 0) != 0'),
    Mutant("a fragment in the target", " and byte != 0x23", ""),
    Mutant("DEL in the target", "0x21 <= byte <= 0x7E", "0x21 <= byte <= 0x7F"),
    Mutant("HTTP/1.2 is served", "version[7] > 49", "version[7] > 50"),
    Mutant("HTTP/1,1 is served", "or version[6] != 46", ""),
    Mutant(
        "Host counts beside an absolute-form target",
        "if head.authority.size == 0:\n            head.authority",
        "if True:\n            head.authority",
    ),
    Mutant("an escape in Host needs one digit", " and _is_hex(text[at + 2])", ""),
    Mutant("a port beyond 65535", " or port > 65535", ""),
    Mutant("anything in brackets is IPv6", "parsed) == 1", "parsed) >= 0"),
    Mutant(
        "Host may be a port alone",
        "if at == 0:\n            return False\n    if at == size",
        "pass\n    if at == size",
    ),
    Mutant(
        "spaces before the colon",
        "while at < size and CLASS[<uint8_t>line[at]] & TOKEN:",
        "while at < size and (CLASS[<uint8_t>line[at]] & TOKEN or line[at] == 32):",
    ),
    Mutant(
        "a field without a name", "if at == 0:\n        return -BAD_FIELD_NAME", "if False: pass"
    ),
    Mutant(
        "spaces behind a value stay",
        "while end > at and (line[end - 1] == 32 or line[end - 1] == 9):",
        "while end > at and line[end - 1] == 9:",
    ),
    Mutant("a vertical tab in a value", "text[at] != 9 or", "text[at] != 9 and text[at] != 11 or"),
    Mutant("DEL in a value", "9 or text[at] == 127", "9"),
    Mutant("DEL in a long value", " | (deletes - ones) & ~deletes", ""),
    Mutant("a control byte in a long value", "(word - ones * 32) & ~word | ", ""),
    Mutant(
        "a control byte at the end of a long value", "if at == size - 8", "if at + 8 > size - 8"
    ),
    Mutant("Host may be missing", "return -HOST_MISSING", "pass"),
    Mutant("Host may be repeated", "return -HOST_REPEATED", "pass"),
    Mutant("Host is not checked", "return -BAD_HOST", "pass"),
    Mutant("Content-Length may be repeated", "return -REPEATED_CONTENT_LENGTH", "pass"),
    Mutant("a length of twenty digits", "size > 19", "size > 20"),
    Mutant(
        "a sign before a length",
        "for i in range(size):\n        if not 48 <=",
        "for i in range(size):\n        if text[i] == 43:\n            continue\n"
        "        if not 48 <=",
    ),
    Mutant("a length beside a coding", "return -LENGTH_AND_CODING", "pass"),
    Mutant("a coding on HTTP/1.0", "return -CODING_ON_10", "pass"),
    Mutant(
        "a second Transfer-Encoding",
        "if head.coding_seen:\n            return -BAD_CODING",
        "if False: pass",
    ),
    Mutant("chunked twice", "chunked > 1 or ", ""),
    Mutant("other codings are ignored", "return -UNKNOWN_CODING", "return 0"),
    Mutant(
        "words are told by their start",
        "if size != strlen(lowercase):\n        return False\n    for i in range(size):",
        "if size < strlen(lowercase):\n        return False\n"
        "    for i in range(strlen(lowercase)):",
    ),
    Mutant("an underscore aliases a hyphen", "return 0  # it would", "pass  # it would"),
    Mutant("Proxy becomes HTTP_PROXY", 'return 0  # "_"', 'pass  # "_"'),
    Mutant("any expectation is met", "return -UNKNOWN_EXPECTATION", "pass"),
    Mutant("HTTP/1.0 expects 100", "expect_continue = head.minor == 1", "expect_continue = True"),
    Mutant("close is ignored", "head.close = True", "pass"),
    Mutant("HTTP/1.0 persists unasked", "(head.minor == 0 and not head.keep_alive)", "False"),
]

BODY = [
    Mutant(
        "anything for the CR behind a chunk",
        "return 0 if byte == 13 else -BAD_CHUNK_END",
        "return 0",
    ),
    Mutant(
        "anything for the LF behind a chunk",
        "return 0 if byte == 10 else -BAD_CHUNK_END",
        "return 0",
    ),
    Mutant("sixteen digits of a size", "body.digits > 15", "body.digits > 16"),
    Mutant("a size without digits", "elif body.digits == 0:", "elif False:"),
    Mutant("digits count through all chunks", "body.left = body.digits = 0", "body.left = 0"),
    Mutant("G is a digit", "65 <= byte <= 70", "65 <= byte <= 71"),
    Mutant("g is a digit", "97 <= byte <= 102", "97 <= byte <= 103"),
    Mutant(
        "a space behind the size",
        'elif byte == 59:  # ";"',
        "elif byte == 32:\n            pass\n        elif byte == 59:",
    ),
    Mutant(
        "anything for the LF behind a size",
        "if byte != 10:\n            return -BARE_CR\n        if body.received",
        "if body.received",
    ),
    Mutant("each chunk has the limit for itself", "body.received + body.left >", "body.left >"),
    Mutant("a body takes what is behind it", "if <int64_t>part > body.left:", "if False:"),
    Mutant("a semicolon ends a quoted string", "if byte == 34:", "if byte == 34 or byte == 59:"),
    Mutant("no escape in a quoted string", "body.phase = EXTENSION_ESCAPE", "pass"),
    Mutant("an empty extension", "elif phase == EXTENSION_START or phase", "elif phase"),
    Mutant("bytes behind a quoted string", "phase != EXTENSION_QUOTED_END and ", ""),
    Mutant("framing without end", "> FRAMING_ALLOWANCE", "> 1 << 30"),
    Mutant(
        "framing is never forgiven", "if body.excess > 16 + 2", "if False and body.excess > 16 + 2"
    ),
    Mutant(
        "a folded trailer",
        "elif byte == 32 or byte == 9:\n            return -OBS_FOLD",
        "elif byte == 32:\n            body.phase = TRAILER_VALUE",
    ),
    Mutant("trailers without number", "body.trailers > limits.headers", "False"),
    Mutant("trailers without size", "body.trailer_bytes > limits.head", "False"),
    Mutant("a trailer one byte longer", "limits.header_field + 2", "limits.header_field + 3"),
    Mutant(
        "any byte in a trailer",
        "body.phase = TRAILER_LF\n        elif not is_field_value(&byte, 1):",
        "body.phase = TRAILER_LF\n        elif False:",
    ),
    Mutant(
        "any byte for the last LF",
        "else:  # END_LF\n        if byte != 10:\n            return -BARE_CR",
        "else:",
    ),
]

RESPONSE = [
    Mutant(
        "CR and LF in a value",
        "if not is_field_value(value, <uint32_t>value_size):",
        "if False:",
    ),
    Mutant("CR and LF in a name", "if not is_token(text, <uint32_t>size):", "if False:"),
    Mutant("CR and LF in the status", " and is_field_value(text, <uint32_t>size)):", "):"),
    Mutant("an interim status", "if self.code < 200:", "if self.code < 100:"),
    Mutant("Content-Length twice", 'raise ValueError("Content-Length is set twice")', "pass"),
    Mutant("a length that is none", "wrong |= not 48 <= digits[i] <= 57", "pass"),
    Mutant("hop-by-hop fields pass", "if kind == PLAIN:", "if kind in (PLAIN, HOP_BY_HOP):"),
    Mutant(
        "Connection: close is ignored",
        'if b"close" in value[:value_size].lower():',
        "if False:",
    ),
    Mutant("Date twice", "self.has_date = True", "pass"),
    Mutant(
        "a body after HEAD",
        "self.bodyless = self.head_only or no_content",
        "self.bodyless = no_content",
    ),
    Mutant("a body after 204", "self.code == 204 or self.code == 304", "self.code == 304"),
    Mutant("a body after 304", "self.code == 204 or self.code == 304", "self.code == 204"),
    Mutant(
        "a length with 204", "if self.code == 204:\n            self.length = -1", "if False: pass"
    ),
    Mutant(
        "chunks for HTTP/1.0",
        "if self.http11:\n                self.chunked",
        "if True:\n                self.chunked",
    ),
    Mutant("no last chunk", '_add_literal(&self.buffer, b"0\\r\\n\\r\\n")', "pass"),
    Mutant(
        "more than Content-Length",
        "if self.length >= 0 and self.body_size + <int64_t>size > self.length:",
        "if False:",
    ),
    Mutant("less than Content-Length", "and self.body_size < self.length:", "and False:"),
    Mutant(
        "HTTP/1.0 persists without a length",
        "else:\n                self.keep_alive = False\n        if not",
        "else: pass\n        if not",
    ),
    Mutant(
        "the connection of a cut response lives",
        "self.keep_alive = False\n        self.complete = self.cut = True",
        "self.complete = True",
    ),
    Mutant(
        "no CRLF behind a large chunk", "self.crlf_after = self.chunked", "self.crlf_after = False"
    ),
]

ANSWERS = [
    Mutant("closed under unread input", "at_once = c.done_asking", "at_once = True"),
]

INTAKE = [
    Mutant(
        "an empty line begins a request",
        "if c.state != HEAD and head_begun(c.head, <uint32_t>(size - at)):",
        "if c.state != HEAD:",
    ),
]

MUTANTS = [
    *(("sockd/http/parser.pyx", mutant, PARSING) for mutant in PARSER),
    *(("sockd/http/body.pyx", mutant, PARSING) for mutant in BODY),
    *(("sockd/http/response.pyx", mutant, SERVING) for mutant in RESPONSE),
    *(("sockd/http/answers.pyx", mutant, [*SERVING, *TIMING]) for mutant in ANSWERS),
    *(("sockd/http/intake.pyx", mutant, [*SERVING, *TIMING]) for mutant in INTAKE),
    *(("sockd/http/websocket.pyx", Mutant(*row), FRAMING) for row in WEBSOCKET),
    *(("sockd/http/handshake.py", Mutant(*row), OPENING) for row in HANDSHAKE),
]


def copy_of_the_tree(name: str) -> Path:
    """With the times of all files, so that only what is changed afterwards is compiled."""
    place = PLACE / name
    place.mkdir(parents=True)
    for part in ("sockd", "tests/engine"):
        shutil.copytree(
            ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__", "*.c")
        )
    for part in ("__init__.py", "conftest.py", "seed.py"):
        shutil.copy2(ROOT / "tests" / part, place / "tests" / part)
    for part in ("setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / part, place / part)
    shutil.copytree(ROOT / "build" / "cython", place / "build" / "cython")
    return place


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", *arguments],
        cwd=place,
        env={**os.environ, "CFLAGS": "-w", "SOCKD_OPTIMIZE": "-O0"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def survives(place: Path, tests: list[str]) -> str:
    """Empty if a test fails, else what happened instead."""
    done = run(place, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
    if done.returncode == 1 or done.returncode < 0:  # a crash is a failure as well
        return ""
    return "no test sees it" if done.returncode == 0 else f"pytest: {done.stdout}{done.stderr}"


def judge(number: int) -> str:
    file, mutant, tests = MUTANTS[number]
    place = copy_of_the_tree(str(number))
    try:
        source = (place / file).read_text()
        if source.count(mutant.old) != 1:
            return f"its place is there {source.count(mutant.old)} times"
        (place / file).write_text(source.replace(mutant.old, mutant.new))
        built = run(place, "-W", "ignore", "setup.py", "--quiet", "build_ext", "--inplace")
        if built.returncode:
            return f"it does not compile: {built.stdout}{built.stderr}"
        return survives(place, tests)
    finally:
        shutil.rmtree(place)


def main(word: str = "") -> int:
    shutil.rmtree(PLACE, ignore_errors=True)
    place = copy_of_the_tree("none")
    if not survives(place, [*PARSING, *SERVING, *TIMING, *FRAMING, *OPENING]):
        print("the tests fail without any fault")
        return 1
    chosen = [number for number, (_, mutant, _) in enumerate(MUTANTS) if word in mutant.fault]
    failures = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, outcome in zip(chosen, pool.map(judge, chosen), strict=True):
            file, mutant, _ = MUTANTS[number]
            failures += bool(outcome)
            print(f"{Path(file).stem}: {mutant.fault}: {outcome or 'seen'}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} faults are seen by the tests")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
