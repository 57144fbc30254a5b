"""Requests made by hypothesis: valid ones, whose parts are known, and what can befall them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Made:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """Without Host and those of the framing."""
    body: bytes
    wire: bytes


METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"M-SEARCH"])
PATHS = st.sampled_from([b"/", b"/a/b", b"/a%20b?c=d&e", b"/?", b"//a;b=c/../.", b"/'()*,!$:@"])
ABSOLUTE = st.sampled_from([b"http://b", b"https://b:80", b"http://[::1]:8000", b"HTTP://b.c:"])
HOSTS = st.sampled_from([b"a", b"example.org:8000", b"[::1]", b"a_b", b"1.2.3.4:", b"a%2D"])
NAMES = st.sampled_from([b"X", b"accept", b"X-Long-Name", b"Cookie", b"TE", b"!#$%&'*+-.^`|~"])
VALUES = st.sampled_from([b"", b"1", b"a, b", b"a  b\tc", b'"q;\\""', b"\xe9\xff\x80", b"x" * 60])
SPACES = st.sampled_from([b" ", b"", b"\t", b" \t "])
BODIES = st.sampled_from([b"", b"a", b"\r\n", b"0\r\n\r\n", b"abcdefghijklmnop", b"\0\xff" * 20])
EXTENSIONS = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b c";d', b';a="\\""'])
TRAILERS = st.sampled_from([b"", b"", b"X: 1\r\n", b"X:\r\nContent-Length: 5\r\n"])


@st.composite
def made(draw: st.DrawFn) -> Made:
    method, target = draw(METHODS), draw(PATHS)
    if draw(st.integers(0, 7)) == 7:
        target = draw(ABSOLUTE) + target
    fields = tuple(draw(st.lists(st.tuples(NAMES, VALUES), max_size=3)))
    lines = [name + b":" + draw(SPACES) + value for name, value in fields]
    host = b"Host:" + draw(SPACES) + draw(HOSTS)
    lines.insert(draw(st.integers(0, len(lines))), host)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    chunks = []
    if framing != "none":
        chunks = draw(st.lists(BODIES, max_size=3))
    body = b"".join(chunks)
    content = body
    if framing == "length":
        lines.append(b"Content-Length: " + draw(st.sampled_from([b"", b"0"])) + b"%d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"Chunked"])))
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"]))
        content = b"".join(
            size % len(chunk) + draw(EXTENSIONS) + b"\r\n" + chunk + b"\r\n"
            for chunk in chunks
            if chunk
        )
        content += b"0" + draw(EXTENSIONS) + b"\r\n" + draw(TRAILERS) + b"\r\n"
    head = b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", b""])
    return Made(method, target, fields, body, head + content)


CONVERSATIONS = st.lists(made(), min_size=1, max_size=2)

# What breaks parsers: every byte that ends or starts something, and framing in disguise.
SNIPPETS = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'\r\n\t \0\x0b\x0c\x7f\x80\xff:;,="\\_/?#*%@[]+-.'),
        *(bytes([byte]) for byte in b"019aAfgxX|"),
        *(b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r\n", b"\r\n ", b"\r\n\t", b"0x"),
        *(b"0\r\n\r\n", b"1\r\na\r\n", b"18446744073709551617", b"ffffffffffffffff"),
        *(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.0", b" HTTP/1.1", b"http://"),
        *(b"CONNECT", b"chunked", b", chunked", b"Host: a\r\n", b"X_Y: 1\r\n", b"Proxy: 1\r\n"),
        *(b"Content-Length: 1\r\n", b"Content-Length: 0\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n"),
        *(b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: x\r\n"),
        *(b"Expect: 100-continue\r\n",),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A conversation, and up to three mutations."""
    data = b"".join(one.wire for one in draw(CONVERSATIONS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["insert", "replace", "delete", "repeat", "cut"]))
        end = min(len(data), at + draw(st.sampled_from([1, 1, 2, 8])))
        if kind == "insert":
            data = data[:at] + draw(SNIPPETS) + data[at:]
        elif kind == "replace":
            data = data[:at] + draw(SNIPPETS) + data[end:]
        elif kind == "delete":
            data = data[:at] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[at:]
        else:
            data = data[:at]
    return data
