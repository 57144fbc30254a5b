# cython: language_level=3
"""Request heads of HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112): sans-I/O and strict.

The parser is fed a head from its first byte, as often as more of it has come, and looks at each
complete line once. Only complete lines are judged, and a line's length before its bytes, so every
split of the same bytes has the same verdict. It allocates nothing and never needs Python.

A head ends in one of three ways: its length in bytes (it is complete), MORE, or a refusal, which
is a negative verdict.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char* text, void* address)
    int AF_INET6

# What is refused: its name, the status of the answer, the reason that answer and journal give, and
# the rule. The order is that of `enum Verdict`; docs/http.md has the same rows for operators.
REFUSALS = (
    ("MORE", 0, "incomplete", ""),
    ("BARE_CR", 400, "bare CR", "RFC 9112 2.2"),
    ("BARE_LF", 400, "bare LF as line end", "RFC 9112 2.2"),  # MAY be accepted
    ("BAD_METHOD", 400, "malformed method", "RFC 9110 9.1"),
    ("BAD_REQUEST_LINE", 400, "malformed request line", "RFC 9112 3"),
    ("BAD_TARGET", 400, "malformed request target", "RFC 9112 3.2"),
    ("CONNECT_REFUSED", 400, "CONNECT is for proxies", "RFC 9110 9.3.6"),
    ("BAD_VERSION", 400, "malformed HTTP version", "RFC 9112 2.3"),
    ("UNKNOWN_VERSION", 505, "HTTP version not supported", "RFC 9110 15.6.6"),
    ("LINE_TOO_LONG", 414, "request line too long", "RFC 9112 3"),
    ("FIELD_TOO_LONG", 431, "header field too long", "RFC 6585 5"),
    ("TOO_MANY_FIELDS", 431, "too many header fields", "RFC 6585 5"),
    ("HEAD_TOO_LARGE", 431, "request head too large", "RFC 6585 5"),
    ("BAD_FIELD_NAME", 400, "malformed field name", "RFC 9110 5.1"),
    ("SPACE_BEFORE_COLON", 400, "space before the colon of a field", "RFC 9112 5.1"),
    ("OBS_FOLD", 400, "folded field line", "RFC 9112 5.2"),
    ("BAD_FIELD_VALUE", 400, "control byte in a field value", "RFC 9110 5.5"),
    ("BAD_CONTENT_LENGTH", 400, "malformed Content-Length", "RFC 9110 8.6"),
    ("REPEATED_CONTENT_LENGTH", 400, "repeated Content-Length", "RFC 9110 8.6"),  # MAY be rejected
    ("LENGTH_AND_CODING", 400, "Content-Length beside Transfer-Encoding", "RFC 9112 6.1"),
    ("UNKNOWN_CODING", 501, "unknown transfer coding", "RFC 9112 6.1"),
    ("BAD_CODING", 400, "transfer coding other than one final chunked", "RFC 9112 6.3"),
    ("CODING_ON_10", 400, "Transfer-Encoding on HTTP/1.0", "RFC 9112 6.1"),
    ("HOST_MISSING", 400, "Host is missing", "RFC 9112 3.2"),
    ("HOST_REPEATED", 400, "repeated Host", "RFC 9112 3.2"),
    ("BAD_HOST", 400, "malformed Host", "RFC 9110 7.2, RFC 3986 3.2.2"),
    ("UNKNOWN_EXPECTATION", 417, "unknown expectation", "RFC 9110 10.1.1"),
    ("BODY_TOO_LARGE", 413, "request body too large", "RFC 9110 15.5.14"),
    ("BAD_CHUNK_SIZE", 400, "malformed chunk size", "RFC 9112 7.1"),
    ("BAD_CHUNK_EXTENSION", 400, "malformed chunk extension", "RFC 9112 7.1.1"),
    ("BAD_CHUNK_END", 400, "chunk data not followed by CRLF", "RFC 9112 7.1"),
    ("CHUNK_LINE_TOO_LONG", 400, "chunk framing too long", "RFC 9112 7.1.1"),
    ("HEAD_TIMEOUT", 408, "request head not complete in time", "RFC 9110 15.5.9"),
    ("BODY_TIMEOUT", 408, "request body not complete in time", "RFC 9110 15.5.9"),
    ("SPOOL_FAILED", 507, "no room for the request body", "RFC 4918 11.5"),
)

assert len(REFUSALS) == VERDICTS <= 64

cdef Refusal _refusals[64]
_kept_alive = [reason.encode() for _, _, reason, _ in REFUSALS]
for _i in range(VERDICTS):
    _refusals[_i].status = REFUSALS[_i][1]
    _refusals[_i].reason = <const char*><bytes>_kept_alive[_i]


cdef const Refusal* refusal(int verdict) noexcept nogil:
    """Status and reason of a verdict, negative or positive."""
    return &_refusals[-verdict if verdict < 0 else verdict]


# Classes of bytes, one bit each.
cdef enum:
    TOKEN = 1  # RFC 9110 5.6.2
    TARGET = 2  # RFC 3986: ASCII that is visible, less the fragment's "#"
    REGNAME = 4  # RFC 3986 3.2.2: unreserved, sub-delims; "%" is looked at apart

cdef uint8_t CLASS[256]
cdef uint8_t LOWER[256]


def _fill_classes():
    token = set(b"!#$%&'*+-.^_`|~0123456789"
                b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    regname = set(b"-._~!$&'()*+,;=0123456789"
                  b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    for byte in range(256):
        bits = 0
        if byte in token:
            bits |= TOKEN
        if 0x21 <= byte <= 0x7E and byte != 0x23:
            bits |= TARGET
        if byte in regname:
            bits |= REGNAME
        CLASS[byte] = bits
        LOWER[byte] = byte + 32 if 65 <= byte <= 90 else byte


_fill_classes()


cdef bint is_word(const char* text, uint32_t size, const char* lowercase) noexcept nogil:
    """Whether `text` is the ASCII word `lowercase` in any case."""
    cdef uint32_t i
    if size != strlen(lowercase):
        return False
    for i in range(size):
        if LOWER[<uint8_t>text[i]] != <uint8_t>lowercase[i]:
            return False
    return True


cdef bint is_token(const char* text, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        if not CLASS[<uint8_t>text[i]] & TOKEN:
            return False
    return size > 0


cdef bint is_field_value(const char* text, uint32_t size) noexcept nogil:
    """VCHAR, SP, HTAB and obs-text (RFC 9110 5.5): all but control bytes."""
    cdef uint64_t word
    cdef uint32_t at
    if size >= 8:
        at = 0
        while True:
            # Eight bytes at a time; the last eight may overlap those before.
            memcpy(&word, text + at, 8)
            if _has_control_byte(word):
                break
            if at == size - 8:
                return True
            at = min(at + 8, size - 8)
    for at in range(size):
        if <uint8_t>text[at] < 32 and text[at] != 9 or text[at] == 127:
            return False
    return True


cdef inline bint _has_control_byte(uint64_t word) noexcept nogil:
    """Whether any byte is below 32 or is 127; a HTAB counts as one."""
    cdef uint64_t ones = <uint64_t>0x0101010101010101
    cdef uint64_t tops = <uint64_t>0x8080808080808080
    cdef uint64_t deletes = word ^ (ones * 127)
    return ((word - ones * 32) & ~word | (deletes - ones) & ~deletes) & tops != 0


cdef Head* head_new(const Limits* limits) noexcept nogil:
    """A head ready for its first byte, or NULL without memory."""
    cdef Head* head = <Head*>calloc(1, sizeof(Head))
    if head == NULL:
        return NULL
    head.fields = <Field*>malloc(sizeof(Field) * (limits.headers if limits.headers else 1))
    if head.fields == NULL:
        free(head)
        return NULL
    head_reset(head)
    return head


cdef void head_free(Head* head) noexcept nogil:
    if head != NULL:
        free(head.fields)
        free(head)


cdef void head_reset(Head* head) noexcept nogil:
    cdef Field* fields = head.fields
    memset(head, 0, sizeof(Head))
    head.fields = fields
    head.content_length = -1


cdef bint head_begun(const Head* head, uint32_t size) noexcept nogil:
    """Whether a head that is not complete has more in its `size` bytes than the empty line that
    may come before it (RFC 9112 2.2): old clients send that behind a body, and then nothing."""
    return head.phase == FIELDS or size > head.line


cdef int parse_head(
    Head* head, const char* data, uint32_t size, const Limits* limits
) noexcept nogil:
    """Go on with `head`; `data` holds it from its first byte.

    Returns the size of the whole head, 0 (MORE), or a negative verdict."""
    cdef const char* end
    cdef uint32_t start
    cdef uint32_t line_size
    cdef int verdict
    while True:
        start = head.line
        end = NULL
        if head.scanned < size:
            end = <const char*>memchr(data + head.scanned, 10, size - head.scanned)
        if end == NULL:
            head.scanned = size
            return _judge_size(head, start, size, size, limits)
        head.scanned = <uint32_t>(end - data) + 1
        verdict = _judge_size(head, start, head.scanned - 1, head.scanned, limits)
        if verdict:
            return verdict
        line_size = head.scanned - 1 - start
        if line_size == 0 or data[head.scanned - 2] != 13:
            return -BARE_LF
        line_size -= 1
        head.line = head.scanned
        if head.phase == FIELDS:
            if line_size == 0:
                verdict = _judge_head(head, data)
                return verdict if verdict else <int>head.scanned
            verdict = _field(head, data, start, line_size, limits)
        elif line_size == 0 and head.phase == START:
            # RFC 9112 2.2: one empty line before the request line is ignored.
            head.phase = REQUEST_LINE
        else:
            verdict = _request_line(head, data, start, line_size)
            head.phase = FIELDS
        if verdict:
            return verdict


cdef inline int _judge_size(
    Head* head, uint32_t start, uint32_t before_lf, uint32_t reached, const Limits* limits
) noexcept nogil:
    """The limit that is passed first, counted in bytes from the start of the head, decides; so it
    is the same one whether the line's end is there or not. `limits` do not count a line's CRLF."""
    cdef uint64_t line_limit = limits.header_field
    if head.phase != FIELDS:
        line_limit = limits.request_line
    cdef uint64_t line_hit = start + line_limit + 2
    cdef uint64_t head_hit = <uint64_t>limits.head + 1
    if before_lf >= line_hit and line_hit <= head_hit:
        return -FIELD_TOO_LONG if head.phase == FIELDS else -LINE_TOO_LONG
    if reached >= head_hit:
        return -HEAD_TOO_LARGE
    return 0


cdef int _request_line(
    Head* head, const char* data, uint32_t start, uint32_t size
) noexcept nogil:
    # RFC 9112 3: method SP request-target SP HTTP-version, each SP exactly one.
    cdef uint32_t end = start + size
    cdef uint32_t at = start
    cdef const char* version
    while at < end and CLASS[<uint8_t>data[at]] & TOKEN:
        at += 1
    head.method.start = start
    head.method.size = at - start
    if head.method.size == 0:
        return -BAD_METHOD
    if at == end or data[at] != 32:
        return -BAD_METHOD
    at += 1
    head.target.start = at
    while at < end and CLASS[<uint8_t>data[at]] & TARGET:
        at += 1
    head.target.size = at - head.target.start
    if at == end:
        return -BAD_REQUEST_LINE
    if data[at] != 32:
        return -BAD_TARGET
    if head.target.size == 0:
        return -BAD_REQUEST_LINE
    at += 1
    version = data + at
    if end - at != 8 or memcmp(version, b"HTTP/", 5) != 0 or version[6] != 46:
        return -BAD_VERSION
    if not (48 <= version[5] <= 57 and 48 <= version[7] <= 57):
        return -BAD_VERSION
    if version[5] != 49 or version[7] > 49:
        return -UNKNOWN_VERSION
    head.minor = version[7] - 48
    return _target(head, data)


cdef int _target(Head* head, const char* data) noexcept nogil:
    cdef const char* target = data + head.target.start
    cdef uint32_t size = head.target.size
    cdef uint32_t at = 0
    cdef uint32_t skip
    cdef const char* mark
    if head.method.size == 7 and memcmp(data + head.method.start, b"CONNECT", 7) == 0:
        return -CONNECT_REFUSED
    if target[0] == 42:  # "*", RFC 9112 3.2.4: for OPTIONS alone
        if size != 1 or head.method.size != 7:
            return -BAD_TARGET
        if memcmp(data + head.method.start, b"OPTIONS", 7) != 0:
            return -BAD_TARGET
        head.path = head.target
        return 0
    if target[0] != 47:  # not "/": absolute-form, RFC 9112 3.2.2
        skip = 0
        if size > 7 and is_word(target, 7, b"http://"):
            skip = 7
        elif size > 8 and is_word(target, 8, b"https://"):
            skip = 8
        if not skip:
            return -BAD_TARGET
        at = skip
        while at < size and target[at] != 47 and target[at] != 63:
            at += 1
        if not _is_host(target + skip, at - skip):
            return -BAD_TARGET
        head.authority.start = head.target.start + skip
        head.authority.size = at - skip
    head.path.start = head.target.start + at
    mark = <const char*>memchr(target + at, 63, size - at) if at < size else NULL
    if mark == NULL:
        head.path.size = size - at
    else:
        head.has_query = True
        head.path.size = <uint32_t>(mark - target) - at
        head.query.start = head.path.start + head.path.size + 1
        head.query.size = head.target.start + size - head.query.start
    return 0


cdef bint _is_host(const char* text, uint32_t size) noexcept nogil:
    """uri-host [ ":" port ] (RFC 9110 7.2) that is not empty (RFC 9110 4.2.1)."""
    cdef uint32_t at = 0
    cdef uint32_t port = 0
    cdef uint32_t digits = 0
    if size == 0:
        return False
    if text[0] == 91:  # "[": an IPv6 address; RFC 3986's IPvFuture has no user
        while at < size and text[at] != 93:
            at += 1
        if at == size or not _is_ipv6(text + 1, at - 1):
            return False
        at += 1
    else:
        while at < size and text[at] != 58:
            if text[at] == 37:  # "%": two hexadecimal digits follow
                if at + 2 >= size or not (_is_hex(text[at + 1]) and _is_hex(text[at + 2])):
                    return False
                at += 2
            elif not CLASS[<uint8_t>text[at]] & REGNAME:
                return False
            at += 1
        if at == 0:
            return False
    if at == size:
        return True
    if text[at] != 58:
        return False
    for at in range(at + 1, size):
        if not 48 <= text[at] <= 57:
            return False
        port = port * 10 + (text[at] - 48)
        digits += 1
        if digits > 5 or port > 65535:
            return False
    return True


cdef bint _is_ipv6(const char* text, uint32_t size) noexcept nogil:
    cdef char address[46]  # INET6_ADDRSTRLEN
    cdef char parsed[16]
    if size >= sizeof(address) or memchr(text, 0, size) != NULL:
        return False
    memcpy(address, text, size)
    address[size] = 0
    return inet_pton(AF_INET6, address, parsed) == 1


cdef inline bint _is_hex(char byte) noexcept nogil:
    return 48 <= byte <= 57 or 97 <= LOWER[<uint8_t>byte] <= 102


cdef int parse_field_line(const char* line, uint32_t size, Field* field) noexcept nogil:
    """field-name ":" OWS field-value OWS (RFC 9112 5), also of a trailer; spans count from
    `line`. Returns 0 or a negative verdict."""
    cdef uint32_t at = 0
    cdef uint32_t end = size
    while at < size and CLASS[<uint8_t>line[at]] & TOKEN:
        at += 1
    if at == size or line[at] != 58:
        if at == 0 and (line[0] == 32 or line[0] == 9):
            return -OBS_FOLD
        if at < size and at > 0 and (line[at] == 32 or line[at] == 9):
            return -SPACE_BEFORE_COLON
        return -BAD_FIELD_NAME
    if at == 0:
        return -BAD_FIELD_NAME
    field.name.start = 0
    field.name.size = at
    at += 1
    while at < end and (line[at] == 32 or line[at] == 9):
        at += 1
    while end > at and (line[end - 1] == 32 or line[end - 1] == 9):
        end -= 1
    field.value.start = at
    field.value.size = end - at
    if not is_field_value(line + at, end - at):
        if memchr(line + at, 13, end - at) != NULL:
            return -BARE_CR
        return -BAD_FIELD_VALUE
    return 0


cdef inline uint32_t _field_id(const char* name, uint32_t size) noexcept nogil:
    if size == 4:
        return HOST if is_word(name, 4, b"host") else OTHER
    if size == 5:
        return PROXY if is_word(name, 5, b"proxy") else OTHER
    if size == 6:
        if is_word(name, 6, b"cookie"):
            return COOKIE
        return EXPECT if is_word(name, 6, b"expect") else OTHER
    if size == 7:
        return UPGRADE if is_word(name, 7, b"upgrade") else OTHER
    if size == 9:
        if is_word(name, 9, b"forwarded"):
            return FORWARDED
        return FORWARDED_OTHER if is_word(name, 9, b"x-real-ip") else OTHER
    if size == 10:
        return CONNECTION if is_word(name, 10, b"connection") else OTHER
    if size == 11:
        return TRACE_PARENT if is_word(name, 11, b"traceparent") else OTHER
    if size == 12:
        if is_word(name, 12, b"x-request-id"):
            return REQUEST_ID
        return CONTENT_TYPE if is_word(name, 12, b"content-type") else OTHER
    if size == 14:
        return CONTENT_LENGTH if is_word(name, 14, b"content-length") else OTHER
    if size == 15 and is_word(name, 15, b"x-request-start"):
        return REQUEST_START
    if size == 17 and is_word(name, 17, b"transfer-encoding"):
        return TRANSFER_ENCODING
    if size > 12 and is_word(name, 12, b"x-forwarded-"):
        if is_word(name + 12, size - 12, b"for"):
            return FORWARDED_FOR
        if is_word(name + 12, size - 12, b"proto"):
            return FORWARDED_PROTO
        if is_word(name + 12, size - 12, b"host"):
            return FORWARDED_HOST
        if is_word(name + 12, size - 12, b"port"):
            return FORWARDED_PORT
        return FORWARDED_OTHER
    return OTHER


cdef int _field(
    Head* head, const char* data, uint32_t start, uint32_t size, const Limits* limits
) noexcept nogil:
    cdef Field field
    cdef int verdict
    cdef const char* value
    if head.seen == limits.headers:
        return -TOO_MANY_FIELDS
    head.seen += 1
    verdict = parse_field_line(data + start, size, &field)
    if verdict:
        return verdict
    field.name.start += start
    field.value.start += start
    field.id = _field_id(data + field.name.start, field.name.size)
    value = data + field.value.start
    if field.id == HOST:
        if head.host_seen:
            return -HOST_REPEATED
        if not _is_host(value, field.value.size):
            return -BAD_HOST
        head.host_seen = True
        if head.authority.size == 0:
            head.authority = field.value
        # Else RFC 9112 3.2.2: the authority of an absolute-form target replaces Host.
        return 0
    elif field.id == CONTENT_LENGTH:
        if head.content_length >= 0:
            return -REPEATED_CONTENT_LENGTH
        head.content_length = _length(value, field.value.size)
        if head.content_length < 0:
            return -BAD_CONTENT_LENGTH
    elif field.id == TRANSFER_ENCODING:
        if head.coding_seen:
            return -BAD_CODING
        head.coding_seen = True
        verdict = _coding(value, field.value.size)
        if verdict:
            return verdict
        head.chunked = True
    elif field.id == CONNECTION:
        _connection(head, value, field.value.size)
    elif field.id == EXPECT:
        if not is_word(value, field.value.size, b"100-continue"):
            return -UNKNOWN_EXPECTATION
        # RFC 9110 10.1.1: ignored in an HTTP/1.0 request.
        head.expect_continue = head.minor == 1
    elif field.id == PROXY:
        return 0  # it would become HTTP_PROXY, which libraries take for configuration
    if memchr(data + field.name.start, 95, field.name.size) != NULL:
        return 0  # "_" would alias "-" in CGI names, past whatever guards the real field
    head.fields[head.count] = field
    head.count += 1
    return 0


cdef int64_t _length(const char* text, uint32_t size) noexcept nogil:
    """1*DIGIT (RFC 9110 8.6) that fits 63 bits, or -1."""
    cdef uint64_t length = 0
    cdef uint32_t i
    if size == 0 or size > 19:
        return -1
    for i in range(size):
        if not 48 <= text[i] <= 57:
            return -1
        length = length * 10 + (text[i] - 48)
    if length > <uint64_t>0x7FFFFFFFFFFFFFFF:
        return -1
    return <int64_t>length


cdef int _coding(const char* text, uint32_t size) noexcept nogil:
    """0 for one `chunked` and nothing else (RFC 9112 6.1, 6.3)."""
    cdef uint32_t start = 0
    cdef uint32_t end
    cdef uint32_t stop
    cdef uint32_t chunked = 0
    cdef uint32_t others = 0
    cdef bint last_is_chunked = False
    while start <= size:
        end = start
        while end < size and text[end] != 44:
            end += 1
        stop = end
        while start < stop and (text[start] == 32 or text[start] == 9):
            start += 1
        while stop > start and (text[stop - 1] == 32 or text[stop - 1] == 9):
            stop -= 1
        if not is_token(text + start, stop - start):
            return -BAD_CODING
        last_is_chunked = is_word(text + start, stop - start, b"chunked")
        if last_is_chunked:
            chunked += 1
        else:
            others += 1
        start = end + 1
    if chunked > 1 or (chunked and not last_is_chunked):
        return -BAD_CODING
    if others:
        return -UNKNOWN_CODING
    return 0


cdef void _connection(Head* head, const char* text, uint32_t size) noexcept nogil:
    cdef uint32_t start = 0
    cdef uint32_t end
    cdef uint32_t stop
    while start < size:
        end = start
        while end < size and text[end] != 44:
            end += 1
        stop = end
        while start < stop and (text[start] == 32 or text[start] == 9):
            start += 1
        while stop > start and (text[stop - 1] == 32 or text[stop - 1] == 9):
            stop -= 1
        if is_word(text + start, stop - start, b"close"):
            head.close = True
        elif is_word(text + start, stop - start, b"keep-alive"):
            head.keep_alive = True
        elif is_word(text + start, stop - start, b"upgrade"):
            head.upgrade = True
        start = end + 1


cdef int _judge_head(Head* head, const char* data) noexcept nogil:
    """What can be said only of the whole head."""
    if head.minor == 1 and not head.host_seen:
        return -HOST_MISSING
    if head.coding_seen:
        if head.minor == 0:
            return -CODING_ON_10
        if head.content_length >= 0:
            return -LENGTH_AND_CODING
    # RFC 9112 9.3: persistence.
    if head.close or (head.minor == 0 and not head.keep_alive):
        head.keep_alive = False
    else:
        head.keep_alive = True
    return 0


class Refused(Exception):
    """A request that is not HTTP as sockd accepts it: the peer's fault. `status` is the answer."""

    def __init__(self, int verdict):
        super().__init__((<bytes>_refusals[-verdict].reason).decode())
        self.status = _refusals[-verdict].status


cdef class RequestHead:
    """A head parser for Python: the control socket's and the tests'.

    Attributes hold what `feed` found once it has returned the head's size."""

    cdef Head* _head
    cdef Limits _limits
    cdef readonly bytes method
    cdef readonly bytes target
    cdef readonly bytes path
    cdef readonly bytes query
    cdef readonly bytes authority
    cdef readonly int minor
    cdef readonly bint keep_alive
    cdef readonly bint chunked
    cdef readonly bint expect_continue
    cdef readonly long long content_length
    cdef readonly list fields

    def __cinit__(self, *, uint32_t request_line=8192, uint32_t header_field=8192,
                  uint32_t headers=100, uint32_t head=65536):
        self._limits.request_line = request_line
        self._limits.header_field = header_field
        self._limits.headers = headers
        self._limits.head = head
        self._head = head_new(&self._limits)
        if self._head == NULL:
            raise MemoryError

    def __dealloc__(self):
        head_free(self._head)

    def feed(self, bytes data):
        """All of the head that has come, from its first byte: each call repeats the bytes before.

        Returns the head's size in bytes when it is complete, else 0; raises Refused."""
        cdef Head* head = self._head
        cdef int size = parse_head(head, data, <uint32_t>len(data), &self._limits)
        if size < 0:
            raise Refused(size)
        if size:
            self.method = _cut(data, &head.method)
            self.target = _cut(data, &head.target)
            self.path = _cut(data, &head.path)
            self.query = _cut(data, &head.query)
            self.authority = _cut(data, &head.authority)
            self.minor = head.minor
            self.keep_alive = head.keep_alive
            self.chunked = head.chunked
            self.expect_continue = head.expect_continue
            self.content_length = head.content_length
            self.fields = [
                (_cut(data, &head.fields[i].name), _cut(data, &head.fields[i].value))
                for i in range(head.count)
            ]
        return size


cdef bytes _cut(bytes data, Span* span):
    return data[span.start : span.start + span.size]
