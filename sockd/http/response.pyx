# cython: language_level=3
"""Responses: the head that the application asked for, framing, and what is still to be sent.

The application's headers are checked here, and its Content-Length is held against what it sends.
`complaint` says what it did wrong, for the journal; the connection is closed then.
"""

from http import HTTPStatus

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from sockd.http.date cimport DATE_LINE, date_line
from sockd.http.parser cimport is_field_value, is_token, is_word

cdef extern from "Python.h":
    int PyUnicode_1BYTE_KIND
    int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    char* PyBytes_AS_STRING(object data)
    Py_ssize_t PyBytes_GET_SIZE(object data)

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "sys/socket.h" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int SHUT_RDWR
    int MSG_NOSIGNAL
    int MSG_MORE

cdef extern from "sys/sendfile.h" nogil:
    ssize_t sendfile(int out_fd, int in_fd, long* offset, size_t count)

cdef enum:
    # Up to here a piece is copied behind the head: one system call, no vector.
    COPIED = 8192
    # A buffer that grew larger than this is given back after its response.
    KEPT = 65536

# What a field of the application's is to the framing.
cdef enum Kind:
    PLAIN
    LENGTH_FIELD
    DATE_FIELD
    CONNECTION_FIELD
    ID_FIELD
    # RFC 9110 7.6.1 and PEP 3333: the connection is the server's business.
    HOP_BY_HOP


cdef Kind _kind(const char* name, Py_ssize_t size) noexcept nogil:
    if size == 2:
        return HOP_BY_HOP if is_word(name, size, b"te") else PLAIN
    if size == 4:
        return DATE_FIELD if is_word(name, size, b"date") else PLAIN
    if size == 7:
        if is_word(name, size, b"trailer") or is_word(name, size, b"upgrade"):
            return HOP_BY_HOP
    elif size == 10:
        if is_word(name, size, b"connection"):
            return CONNECTION_FIELD
        if is_word(name, size, b"keep-alive"):
            return HOP_BY_HOP
    elif size == 12:
        return ID_FIELD if is_word(name, size, b"x-request-id") else PLAIN
    elif size == 14:
        return LENGTH_FIELD if is_word(name, size, b"content-length") else PLAIN
    elif size == 16:
        return HOP_BY_HOP if is_word(name, size, b"proxy-connection") else PLAIN
    elif size == 17:
        return HOP_BY_HOP if is_word(name, size, b"transfer-encoding") else PLAIN
    return PLAIN

cdef bytes date_field = b""


cdef int set_date(long long seconds) except -1:
    """The time of all responses from here on, in seconds since the epoch (RFC 9110 6.6.1)."""
    global date_field
    cdef char line[DATE_LINE]
    date_line(line, seconds)
    date_field = line[:DATE_LINE]
    return 0


cdef bytes plain_response(int code, str text):
    """A whole response of sockd's own, after which the connection closes."""
    body = (text + "\n").encode()
    head = (
        f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n"
    )
    return head.encode() + date_field + b"\r\n" + body


cdef send_early_hints(int fd, list headers):
    """103 with `headers` (RFC 8297), before a response has begun. What the socket has no room for
    is left out: it is a hint. Raises ValueError or TypeError for what must not go on the wire."""
    lines = ["HTTP/1.1 103 Early Hints\r\n"]
    for first, second in headers:
        name, value = plain_text(first), plain_text(second)
        line = f"{name}: {value}"
        data = line.encode("latin-1")
        if not is_token(data, <uint32_t>len(name)):
            raise ValueError(f"header name is not a token: {name!r}")
        if not is_field_value(data, <uint32_t>len(data)):
            raise ValueError(f"control character in header {name!r}: {value!r}")
        if _kind(data, len(name)) in (PLAIN, ID_FIELD):
            lines.append(f"{line}\r\n")
    answer = "".join([*lines, "\r\n"]).encode("latin-1")
    cdef ssize_t sent = c_send(fd, <char*><bytes>answer, len(answer), MSG_NOSIGNAL)
    if 0 < sent < <ssize_t>len(answer):
        shutdown(fd, SHUT_RDWR)  # what follows would be read as its rest


cdef str plain_text(object text):
    """`text` as a str proper: frameworks have subclasses of it, safe strings and enumerations."""
    if type(text) is str:
        return <str>text
    if isinstance(text, str):
        return str.__str__(text)
    raise TypeError(f"status and headers have to be strings, not {text!r}")


cdef int buffer_add(Buffer* buffer, const char* data, size_t size) except -1:
    cdef size_t capacity
    cdef char* grown
    if buffer.size + size > buffer.capacity:
        capacity = buffer.capacity if buffer.capacity else 2048
        while capacity < buffer.size + size:
            capacity *= 2
        grown = <char*>realloc(buffer.data, capacity)
        if grown == NULL:
            raise MemoryError
        buffer.data = grown
        buffer.capacity = capacity
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return 0


cdef void buffer_free(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    memset(buffer, 0, sizeof(Buffer))


cdef inline int _add_literal(Buffer* buffer, bytes text) except -1:
    return buffer_add(buffer, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef int64_t _length(const char* digits, Py_ssize_t size) except -1:
    cdef int64_t length = 0
    cdef Py_ssize_t i
    cdef bint wrong = not 0 < size <= 18
    if not wrong:
        for i in range(size):
            wrong |= not 48 <= digits[i] <= 57
            length = length * 10 + digits[i] - 48
    if wrong:
        raise ValueError(f"Content-Length is not a number: {digits[:size].decode('latin-1')!r}")
    return length


cdef dict _status_lines = {}


cdef bytes _status_line(int code):
    line = _status_lines.get(code)
    if line is None:
        try:
            phrase = HTTPStatus(code).phrase
        except ValueError:
            phrase = ""
        line = _status_lines[code] = f"HTTP/1.1 {code} {phrase}\r\n".encode()
    return line


cdef int _add_length(Buffer* buffer, int64_t length) except -1:
    """The field Content-Length."""
    cdef char line[48]
    cdef char* at = line + sizeof(line) - 2
    memcpy(at, b"\r\n", 2)
    while True:
        at -= 1
        at[0] = <char>(48 + length % 10)
        length //= 10
        if length == 0:
            break
    at -= 16
    memcpy(at, b"Content-Length: ", 16)
    return buffer_add(buffer, at, line + sizeof(line) - at)


cdef class Response:
    """One response: started by the application, framed here, sent by the connection loop.

    A calling convention derives from it: `begin` calls the application with `body`, `pull` adds a
    piece whenever all added so far was sent, or ends the response, `close` is called once, on
    every path. None of them raises for what the application does.

    If it is `of_task`, `begin` starts a task of an event loop, `pull` tells that task that all so
    far was sent, and what the task gives later it sends itself (sockd.http.guest)."""

    def __cinit__(self):
        memset(&self.buffer, 0, sizeof(Buffer))

    def __dealloc__(self):
        buffer_free(&self.buffer)

    cdef void reset(self, bint http11, bint head_only, bint keep_alive) noexcept:
        """Ready for the response to another request."""
        if self.buffer.capacity > KEPT:
            buffer_free(&self.buffer)
        self.connection = NULL
        self.entry = -1
        self.number = self.begun_usec = self.sent_bytes = 0
        self.request_id = None
        self.tell_id = False
        self.headers = None
        self.thread = -1
        self.in_pool = self.closed = self.light = self.awaits_body = False
        self.body = self.stream = None
        self.http11 = http11
        self.head_only = head_only
        self.keep_alive = keep_alive
        self.received = -1
        self.code = 0
        self.started = False
        self.length = -1
        self.has_date = False
        self.head_written = False
        self.chunked = False
        self.bodyless = False
        self.complete = False
        self.cut = False
        self.body_size = 0
        self.complaint = None
        self.buffer.size = 0
        self.buffer_at = 0
        self.piece = None
        self.piece_at = 0
        self.file_fd = -1
        self.file_left = 0
        self.crlf_after_file = False
        self.crlf_after = False
        self.crlf_at = 0

    cdef int start(self, str status, list headers) except -1:
        """Take status and headers (PEP 3333), in place of earlier ones that were not sent.

        Raises ValueError or TypeError for what must not go on the wire."""
        cdef Buffer* buffer = &self.buffer
        cdef const char* text
        cdef Py_ssize_t size
        cdef object header
        cdef object first
        cdef object second
        cdef str name
        cdef str value
        self._start_anew()
        if PyUnicode_KIND(status) != PyUnicode_1BYTE_KIND:
            raise ValueError(f"status is not Latin-1: {status!r}")
        text = <const char*>PyUnicode_DATA(status)
        size = PyUnicode_GET_LENGTH(status)
        if not (size >= 3 and 49 <= text[0] <= 57 and 48 <= text[1] <= 57 and 48 <= text[2] <= 57
                and (size == 3 or text[3] == 32) and is_field_value(text, <uint32_t>size)):
            raise ValueError(f"status is not of the form '200 OK': {status!r}")
        self.code = (text[0] - 48) * 100 + (text[1] - 48) * 10 + (text[2] - 48)
        if self.code < 200:
            raise ValueError(f"not a final status: {status!r}")
        _add_literal(buffer, b"HTTP/1.1 ")
        buffer_add(buffer, text, size)
        if size == 3:
            _add_literal(buffer, b" ")
        _add_literal(buffer, b"\r\n")
        for header in headers:
            if not isinstance(header, tuple) or len(<tuple>header) != 2:
                raise TypeError(f"header is not a tuple of name and value: {header!r}")
            first, second = <tuple>header
            name = plain_text(first)
            value = plain_text(second)
            if PyUnicode_KIND(name) != PyUnicode_1BYTE_KIND:
                raise ValueError(f"header name is not a token: {name!r}")
            text = <const char*>PyUnicode_DATA(name)
            size = PyUnicode_GET_LENGTH(name)
            if not is_token(text, <uint32_t>size):
                raise ValueError(f"header name is not a token: {name!r}")
            if PyUnicode_KIND(value) != PyUnicode_1BYTE_KIND:
                raise ValueError(f"not Latin-1: {value!r}")
            self._add_field(
                text, size, <const char*>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
        self.headers = headers
        self.started = True
        return 0

    cdef void _start_anew(self) noexcept:
        self.started = False
        self.buffer.size = 0
        self.length = -1
        self.has_date = False

    cdef int start_bytes(self, int code, headers) except -1:
        """As `start`, from what ASGI has: `code` alone, and pairs of bytes."""
        cdef object header
        cdef object name
        cdef object value
        self._start_anew()
        if not 200 <= code <= 999:
            raise ValueError(f"not a final status: {code}")
        self.code = code
        _add_literal(&self.buffer, _status_line(code))
        for header in headers:
            name, value = header
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise TypeError(f"name and value of a header have to be bytes: {header!r}")
            if not is_token(PyBytes_AS_STRING(name), <uint32_t>PyBytes_GET_SIZE(name)):
                raise ValueError(f"header name is not a token: {name!r}")
            self._add_field(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                            PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        self.started = True
        return 0

    cdef int _add_field(self, const char* name, Py_ssize_t size, const char* value,
                        Py_ssize_t value_size) except -1:
        cdef Buffer* buffer = &self.buffer
        if not is_field_value(value, <uint32_t>value_size):
            raise ValueError(
                f"control character in header {name[:size].decode('latin-1')!r}: "
                f"{value[:value_size].decode('latin-1')!r}")
        if not self._is_ours(name, size, value, value_size):
            buffer_add(buffer, name, size)
            _add_literal(buffer, b": ")
            buffer_add(buffer, value, value_size)
            _add_literal(buffer, b"\r\n")
        return 0

    cdef bint _is_ours(self, const char* name, Py_ssize_t size, const char* value,
                       Py_ssize_t value_size) except? -1:
        """Look at a header that concerns framing; true if it does not go out as it is."""
        cdef Kind kind = _kind(name, size)
        if kind == PLAIN:
            return False
        if kind == LENGTH_FIELD:
            if self.length >= 0:
                raise ValueError("Content-Length is set twice")
            self.length = _length(value, value_size)
            # Whether it may go out depends on the status; _write_head decides.
        elif kind == DATE_FIELD:
            self.has_date = True
            return False
        elif kind == ID_FIELD:
            self.tell_id = False  # the application does
            return False
        elif kind == CONNECTION_FIELD:
            if b"close" in value[:value_size].lower():
                self.keep_alive = False
        elif self.complaint is None:
            self.complaint = f"dropped the hop-by-hop header {name[:size].decode('latin-1')}"
        return True

    cdef int _write_head(self, int64_t known_length) except -1:
        """Decide the framing (RFC 9112 6.3) and close the head. `known_length` is the size of the
        whole body where it is known, else -1."""
        cdef Buffer* buffer = &self.buffer
        cdef bint no_content = self.code == 204 or self.code == 304
        self.bodyless = self.head_only or no_content
        if self.length < 0 and not no_content and not (self.head_only and known_length <= 0):
            self.length = known_length
        if self.code == 204:
            self.length = -1  # RFC 9110 8.6: a server MUST NOT send it
        if self.length >= 0:
            _add_length(buffer, self.length)
        elif not self.bodyless:
            if self.http11:
                self.chunked = True
                _add_literal(buffer, b"Transfer-Encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.has_date:
            _add_literal(buffer, date_field)
        if self.tell_id and self.request_id is not None:
            _add_literal(buffer, b"X-Request-ID: ")
            buffer_add(buffer, <const char*>PyUnicode_DATA(self.request_id),
                       PyUnicode_GET_LENGTH(self.request_id))
            _add_literal(buffer, b"\r\n")
        if not self.keep_alive:
            _add_literal(buffer, b"Connection: close\r\n\r\n")
        elif not self.http11:
            _add_literal(buffer, b"Connection: keep-alive\r\n\r\n")
        else:
            _add_literal(buffer, b"\r\n")
        self.head_written = True
        return 0

    cdef int add(self, bytes data, int64_t known_length) except -1:
        """A piece of the body. `known_length` as in `_write_head`. What was added before must have
        been sent."""
        cdef Buffer* buffer = &self.buffer
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef char frame[24]
        cdef int frame_size
        if not self.head_written:
            self._write_head(known_length)
        if self.bodyless or size == 0:
            return 0
        if self.length >= 0 and self.body_size + <int64_t>size > self.length:
            self.complaint = "the application sent more than its Content-Length"
            self.keep_alive = False
            size = <size_t>(self.length - self.body_size)
            data = data[:size]
            if size == 0:
                return 0
        self.body_size += size
        if self.chunked:
            frame_size = snprintf(frame, sizeof(frame), b"%zx\r\n", size)
            buffer_add(buffer, frame, frame_size)
        if size <= COPIED:
            buffer_add(buffer, PyBytes_AS_STRING(data), size)
            if self.chunked:
                _add_literal(buffer, b"\r\n")
        else:
            self.piece = data
            self.piece_at = 0
            self.crlf_after = self.chunked
            self.crlf_at = 0
        return 0

    cdef int add_file(self, int fd, int64_t at, int64_t size, int64_t known_length) except -1:
        """A piece of the body: `size` bytes of a regular file from offset `at`, which stays open
        until they were sent. `known_length` as in `_write_head`."""
        cdef char frame[24]
        cdef int frame_size
        if not self.head_written:
            self._write_head(known_length)
        if self.bodyless or size == 0:
            return 0
        if self.length >= 0 and self.body_size + size > self.length:
            size = self.length - self.body_size
            self.complaint = "the application sent more than its Content-Length"
            self.keep_alive = False
        if self.chunked:
            frame_size = snprintf(frame, sizeof(frame), b"%llx\r\n", <unsigned long long>size)
            buffer_add(&self.buffer, frame, frame_size)
            self.crlf_after_file = True
        self.body_size += size
        self.file_fd = fd
        self.file_at = at
        self.file_left = size
        return 0

    cdef int end(self) except -1:
        """No more body."""
        if not self.head_written:
            self._write_head(0)
        if self.chunked:
            _add_literal(&self.buffer, b"0\r\n\r\n")
        elif not self.bodyless and self.length >= 0 and self.body_size < self.length:
            self.complaint = (
                f"the application sent {self.body_size} bytes of its Content-Length {self.length}"
            )
            self.keep_alive = False
            self.cut = True
        self.complete = True
        return 0

    cdef int fail(self, int code, list headers=[]) except -1:
        """Answer with sockd's own plain `code`, if nothing was sent; else cut the response, which
        the peer can tell by its framing."""
        if self.head_written:
            self._cut()
            return 0
        self.piece = None
        self.file_left = 0
        if self.leaves_input():
            self.keep_alive = False
        phrase = HTTPStatus(code).phrase
        self.start(
            f"{code} {phrase}", [("Content-Type", "text/plain; charset=utf-8"), *headers])
        body = f"{phrase}\n".encode()
        self.add(body, len(body))
        return self.end()

    cdef void give_up(self) noexcept:
        """Cut the response after an error that could not even be answered with a 500."""
        self.complaint = "an internal error, or too little memory, ended the response"
        self._cut()

    cdef void _cut(self) noexcept:
        self.piece = None
        self.file_left = 0
        self.keep_alive = False
        self.complete = self.cut = True

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int pull(self) except -1:
        raise NotImplementedError

    cdef int close(self) except -1:
        raise NotImplementedError

    cdef int event(self, uint32_t events) except -1:
        """epoll(7) tells this of the connection, of a response that is `of_task`."""
        raise NotImplementedError

    cdef bint leaves_input(self) noexcept:
        """Whether a part of the request's body was not read."""
        return False

    cdef str describe(self):
        """The request for the journal: "GET /path"."""
        raise NotImplementedError

    cdef object told(self):
        """The request for the access log, as an environ (PEP 3333)."""
        return {}

    cdef bint pending(self) noexcept:
        return self.head_written and (
            self.buffer_at < self.buffer.size or self.piece is not None or self.file_left > 0)

    cdef int work(self) except -1:
        """Do the job, in a thread: until there is something to send, or no more to produce."""
        if self.job == CLOSE:
            return self.close()
        if self.job == BEGIN:
            self.begin()
        while not self.complete and not self.pending():
            self.pull()
        if self.complete and self.file_left == 0:
            self.close()
        return 0

    cdef int send(self, int fd, uint32_t* sent_bytes) noexcept:
        """Send what is pending. `sent_bytes` is increased by what the socket took."""
        if not self.head_written:
            return ALL_SENT  # the head is open still: the application may yet replace it
        cdef int outcome = self._send_memory(fd, sent_bytes)
        if outcome == ALL_SENT and self.file_left > 0:
            outcome = self._send_file(fd, sent_bytes)
            if outcome == ALL_SENT and self.crlf_after_file:
                self.crlf_after_file = False
                self.buffer.data[0] = 13  # the head was in it: it has room for two bytes
                self.buffer.data[1] = 10
                self.buffer.size = 2
                outcome = self._send_memory(fd, sent_bytes)
        return outcome

    cdef int _send_memory(self, int fd, uint32_t* sent_bytes) noexcept:
        cdef iovec parts[3]
        cdef msghdr message
        cdef size_t count
        cdef ssize_t sent
        cdef size_t step
        while self.buffer_at < self.buffer.size or self.piece is not None:
            count = 0
            if self.buffer_at < self.buffer.size:
                parts[count].iov_base = self.buffer.data + self.buffer_at
                parts[count].iov_len = self.buffer.size - self.buffer_at
                count += 1
            if self.piece is not None:
                parts[count].iov_base = PyBytes_AS_STRING(self.piece) + self.piece_at
                parts[count].iov_len = PyBytes_GET_SIZE(self.piece) - self.piece_at
                count += 1
                if self.crlf_after:
                    parts[count].iov_base = <char*>b"\r\n" + self.crlf_at
                    parts[count].iov_len = 2 - self.crlf_at
                    count += 1
            if count == 1:
                sent = c_send(fd, parts[0].iov_base, parts[0].iov_len,
                              MSG_NOSIGNAL | (MSG_MORE if self.file_left else 0))
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = count
                sent = sendmsg(fd, &message, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                return BLOCKED if errno == EAGAIN else GONE
            sent_bytes[0] += <uint32_t>sent
            step = min(<size_t>sent, self.buffer.size - self.buffer_at)
            self.buffer_at += step
            sent -= step
            if self.piece is not None:
                step = min(<size_t>sent, <size_t>PyBytes_GET_SIZE(self.piece) - self.piece_at)
                self.piece_at += step
                self.crlf_at += <int>(sent - step)
                if (self.piece_at == <size_t>PyBytes_GET_SIZE(self.piece)
                        and (not self.crlf_after or self.crlf_at == 2)):
                    self.piece = None
        self.buffer.size = self.buffer_at = 0
        return ALL_SENT

    cdef int _send_file(self, int fd, uint32_t* sent_bytes) noexcept:
        cdef ssize_t sent
        cdef long offset
        while self.file_left > 0:
            offset = self.file_at
            sent = sendfile(fd, self.file_fd, &offset, <size_t>min(self.file_left, 1 << 20))
            if sent < 0:
                if errno == EINTR:
                    continue
                return BLOCKED if errno == EAGAIN else GONE
            if sent == 0:  # the file became shorter than its announced length
                self.complaint = "the file ended before its announced length"
                return GONE
            sent_bytes[0] += <uint32_t>sent
            self.file_at += sent
            self.file_left -= sent
        return ALL_SENT
