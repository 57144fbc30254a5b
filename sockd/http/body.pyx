# cython: language_level=3
"""Request bodies: framing by Content-Length or chunked (RFC 9112 6, 7.1), and where they are kept.

The framing is a state machine over bytes, so a split changes nothing. Data stays in memory up to
1 MiB, or 16 KiB when those of all connections have 64 MiB; beyond that it goes to a file without a
name in /var/tmp (/tmp is memory on Debian 13).
"""

import io
import os

from libc.errno cimport EINTR, ENOENT, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_FromStringAndSize

from sockd.http.parser cimport (
    BAD_CHUNK_END,
    BAD_CHUNK_EXTENSION,
    BAD_CHUNK_SIZE,
    BAD_FIELD_NAME,
    BAD_FIELD_VALUE,
    BARE_CR,
    BARE_LF,
    BODY_TOO_LARGE,
    CHUNK_LINE_TOO_LONG,
    FIELD_TOO_LONG,
    HEAD_TOO_LARGE,
    OBS_FOLD,
    SPACE_BEFORE_COLON,
    SPOOL_FAILED,
    TOO_MANY_FIELDS,
    Limits,
    is_field_value,
    is_token,
)

from sockd.http.parser import Refused

cdef extern from "fcntl.h" nogil:
    int open(const char* path, int flags, int mode)
    int O_RDWR
    int O_CLOEXEC
    int O_TMPFILE

cdef extern from "sys/mman.h" nogil:
    int memfd_create(const char* name, unsigned int flags)
    unsigned int MFD_CLOEXEC

cdef extern from "unistd.h" nogil:
    ssize_t write(int fd, const void* data, size_t size)
    int close(int fd)

cdef enum:
    IN_MEMORY = 1 << 20
    ALL_IN_MEMORY = 64 << 20
    # What a body may have in memory in any case; a file gets its data in pieces of that size, since
    # chunks may be of one byte.
    BLOCK = 16384
    # A sender may spend this many bytes of chunk framing beyond 16 and twice the data of a chunk.
    FRAMING_ALLOWANCE = 16384

cdef const char* SPOOL_DIRECTORY = b"/var/tmp"

cdef size_t in_memory = 0  # bytes of buffers, of all bodies of this process


cdef Body* body_new(bint chunked, int64_t length, int64_t limit) noexcept nogil:
    """A body about to be read, or NULL without memory. `length` counts unless `chunked`."""
    cdef Body* body = <Body*>calloc(1, sizeof(Body))
    if body == NULL:
        return NULL
    body.fd = -1
    body.chunked = chunked
    body.limit = limit
    body.length = -1 if chunked else length
    body.left = 0 if chunked else length
    body.phase = CHUNK_SIZE if chunked else LENGTH
    if not chunked and length == 0:
        body.phase = COMPLETE
    return body


cdef void body_free(Body* body) noexcept nogil:
    if body != NULL:
        _drop_data(body)
        if body.fd >= 0:
            close(body.fd)
        free(body)


cdef void _drop_data(Body* body) noexcept nogil:
    global in_memory
    in_memory -= body.capacity
    free(body.data)
    body.data = NULL
    body.size = body.capacity = 0


cdef bint _reserve(Body* body, size_t capacity) noexcept nogil:
    global in_memory
    cdef char* grown = <char*>realloc(body.data, capacity)
    if grown == NULL:
        return False
    in_memory += capacity - body.capacity
    body.data = grown
    body.capacity = capacity
    return True


cdef bint _write_all(int fd, const char* data, size_t size) noexcept nogil:
    cdef ssize_t written
    while size:
        written = write(fd, data, size)
        if written < 0:
            if errno == EINTR:
                continue
            return False
        data += written
        size -= written
    return True


cdef bint _flush(Body* body) noexcept nogil:
    cdef size_t size = body.size
    body.size = 0
    return _write_all(body.fd, body.data, size)


cdef int _keep(Body* body, const char* data, size_t size) noexcept nogil:
    cdef size_t needed = body.size + size
    cdef size_t capacity
    body.received += size
    if body.fd >= 0:
        if needed > BLOCK:
            if not _flush(body):
                return -SPOOL_FAILED
            if size > BLOCK:
                return 0 if _write_all(body.fd, data, size) else -SPOOL_FAILED
    elif needed > IN_MEMORY and not body.streamed:
        return _keep_in_file(body, data, size)
    elif needed > body.capacity:
        capacity = body.capacity * 2 if body.capacity else 4096
        if body.length > 0 and body.length <= IN_MEMORY and body.length > <int64_t>capacity:
            capacity = <size_t>body.length
        while capacity < needed:
            capacity *= 2
        if (capacity > BLOCK and in_memory + capacity - body.capacity > ALL_IN_MEMORY
                and not body.streamed):
            return _keep_in_file(body, data, size)
        if not _reserve(body, capacity):
            return -SPOOL_FAILED
    memcpy(body.data + body.size, data, size)
    body.size += size
    return 0


cdef int _keep_in_file(Body* body, const char* data, size_t size) noexcept nogil:
    body.fd = open(SPOOL_DIRECTORY, O_RDWR | O_TMPFILE | O_CLOEXEC, 0o600)
    if body.fd < 0 and errno == ENOENT:
        # A restart has taken this worker's own /var/tmp away (PrivateTmp=), and it finishes.
        body.fd = memfd_create(b"sockd-body", MFD_CLOEXEC)
    if body.fd < 0 or not _flush(body) or not _write_all(body.fd, data, size):
        return -SPOOL_FAILED
    _drop_data(body)
    return 0 if _reserve(body, BLOCK) else -SPOOL_FAILED


cdef inline int _hex_value(char byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    if 65 <= byte <= 70:
        return byte - 55
    return -1


cdef int64_t body_feed(
    Body* body, const char* data, size_t size, const Limits* limits
) noexcept nogil:
    """Take bytes of the body. Returns how many were its own (the rest belongs to the next
    request; `phase` is COMPLETE then), or a negative verdict."""
    cdef size_t at = 0
    cdef size_t part
    cdef int verdict
    while at < size and body.phase != COMPLETE:
        if body.phase == LENGTH or body.phase == CHUNK_DATA:
            part = size - at
            if <int64_t>part > body.left:
                part = <size_t>body.left
            verdict = _keep(body, data + at, part)
            if verdict:
                return verdict
            body.left -= part
            at += part
            if body.left == 0:
                body.phase = COMPLETE if body.phase == LENGTH else CHUNK_DATA_CR
        else:
            verdict = _framing(body, data[at], limits)
            if verdict:
                return verdict
            at += 1
    if body.phase == COMPLETE and body.fd >= 0 and not _flush(body):
        return -SPOOL_FAILED
    return <int64_t>at


cdef int _framing(Body* body, char byte, const Limits* limits) noexcept nogil:
    """One byte of chunk framing: each state, what it accepts, and where that leads."""
    cdef int digit
    cdef int verdict
    cdef int phase = body.phase
    if phase == CHUNK_SIZE:
        digit = _hex_value(byte)
        if digit >= 0:
            # 15 digits count to 2^60; leading zeros are digits as well.
            body.digits += 1
            if body.digits > 15:
                return -BAD_CHUNK_SIZE
            body.left = body.left * 16 + digit
        elif body.digits == 0:
            return -BAD_CHUNK_SIZE
        elif byte == 59:  # ";"
            body.phase = EXTENSION_START
        elif byte == 13:
            body.phase = CHUNK_SIZE_LF
        else:
            return -BARE_LF if byte == 10 else -BAD_CHUNK_SIZE
        return _count_framing(body)
    if EXTENSION_START <= phase <= EXTENSION_QUOTED_END:
        verdict = _extension(body, byte)
        return verdict if verdict else _count_framing(body)
    if phase == CHUNK_SIZE_LF:
        if byte != 10:
            return -BARE_CR
        if body.received + body.left > body.limit:
            return -BODY_TOO_LARGE
        body.excess += body.line
        body.line = 0
        if body.left == 0:
            body.phase = TRAILER_START
        else:
            body.phase = CHUNK_DATA
            if body.excess > 16 + 2 * <uint64_t>body.left:
                body.excess -= <uint32_t>(16 + 2 * body.left)
            else:
                body.excess = 0
        return 0
    if phase == CHUNK_DATA_CR:
        body.phase = CHUNK_DATA_LF
        return 0 if byte == 13 else -BAD_CHUNK_END
    if phase == CHUNK_DATA_LF:
        body.phase = CHUNK_SIZE
        body.left = body.digits = 0
        return 0 if byte == 10 else -BAD_CHUNK_END
    return _trailer(body, byte, limits)


cdef int _extension(Body* body, char byte) noexcept nogil:
    """";" name [ "=" ( token | quoted-string ) ] (RFC 9112 7.1.1), ignored. Spaces around ";" and
    "=", which a sender MUST NOT generate, are refused: parsers differ on them."""
    cdef int phase = body.phase
    if byte == 10:
        return -BARE_LF
    if phase == EXTENSION_QUOTED:
        if byte == 34:
            body.phase = EXTENSION_QUOTED_END
        elif byte == 92:
            body.phase = EXTENSION_ESCAPE
        elif not is_field_value(&byte, 1):
            return -BAD_CHUNK_EXTENSION
    elif phase == EXTENSION_ESCAPE:
        if not is_field_value(&byte, 1):
            return -BAD_CHUNK_EXTENSION
        body.phase = EXTENSION_QUOTED
    elif phase != EXTENSION_QUOTED_END and is_token(&byte, 1):
        if phase == EXTENSION_START:
            body.phase = EXTENSION_NAME
        elif phase == EXTENSION_VALUE_START:
            body.phase = EXTENSION_VALUE
    elif phase == EXTENSION_VALUE_START and byte == 34:
        body.phase = EXTENSION_QUOTED
    elif phase == EXTENSION_START or phase == EXTENSION_VALUE_START:
        return -BAD_CHUNK_EXTENSION
    elif byte == 13:
        body.phase = CHUNK_SIZE_LF
    elif byte == 59:
        body.phase = EXTENSION_START
    elif byte == 61 and phase == EXTENSION_NAME:
        body.phase = EXTENSION_VALUE_START
    else:
        return -BAD_CHUNK_EXTENSION
    return 0


cdef int _count_framing(Body* body) noexcept nogil:
    body.line += 1
    if body.excess + body.line > FRAMING_ALLOWANCE:
        return -CHUNK_LINE_TOO_LONG
    return 0


cdef int _trailer(Body* body, char byte, const Limits* limits) noexcept nogil:
    """Trailers are checked as fields are (RFC 9112 7.1.2), bounded alike, and dropped."""
    cdef int phase = body.phase
    body.trailer_bytes += 1
    if body.trailer_bytes > limits.head:
        return -HEAD_TOO_LARGE
    body.line += 1
    if body.line > limits.header_field + 2:
        return -FIELD_TOO_LONG
    if phase == TRAILER_START:
        if byte == 13:
            body.phase = END_LF
        elif is_token(&byte, 1):
            body.trailers += 1
            body.line = 1
            if body.trailers > limits.headers:
                return -TOO_MANY_FIELDS
            body.phase = TRAILER_NAME
        elif byte == 32 or byte == 9:
            return -OBS_FOLD
        else:
            return -BARE_LF if byte == 10 else -BAD_FIELD_NAME
    elif phase == TRAILER_NAME:
        if byte == 58:
            body.phase = TRAILER_VALUE
        elif byte == 32 or byte == 9:
            return -SPACE_BEFORE_COLON
        elif not is_token(&byte, 1):
            return -BAD_FIELD_NAME
    elif phase == TRAILER_VALUE:
        if byte == 13:
            body.phase = TRAILER_LF
        elif not is_field_value(&byte, 1):
            return -BARE_LF if byte == 10 else -BAD_FIELD_VALUE
    elif phase == TRAILER_LF:
        if byte != 10:
            return -BARE_CR
        body.line = 0
        body.phase = TRAILER_START
    else:  # END_LF
        if byte != 10:
            return -BARE_CR
        body.phase = COMPLETE
    return 0


cdef void body_release(Body* body) noexcept nogil:
    """All data so far has been read and is not needed any more."""
    body.size = 0


cdef object body_take(Body* body):
    """The complete body as a binary file at its start; the file owns the data from here on."""
    if body.fd < 0:
        return io.BytesIO(PyBytes_FromStringAndSize(body.data, body.size))
    os.lseek(body.fd, 0, os.SEEK_SET)
    raw = io.FileIO(body.fd, "rb")
    body.fd = -1
    return io.BufferedReader(raw)


cdef class BodyReader:
    """A body's framing for Python: the tests'. `length` counts unless `chunked`.

    Trailers are held to the limits of a head: `header_field`, `headers`, `head`."""

    cdef Body* _body
    cdef Limits _limits

    def __cinit__(self, *, bint chunked=False, int64_t length=0, int64_t limit=1 << 30,
                  uint32_t header_field=8192, uint32_t headers=100, uint32_t head=65536):
        self._limits.header_field = header_field
        self._limits.headers = headers
        self._limits.head = head
        if not chunked and length > limit:
            raise Refused(-BODY_TOO_LARGE)
        self._body = body_new(chunked, length, limit)
        if self._body == NULL:
            raise MemoryError

    def __dealloc__(self):
        body_free(self._body)

    @property
    def complete(self):
        return self._body.phase == COMPLETE

    def feed(self, bytes data):
        """Take what comes after the bytes before; returns how many were the body's own, which is
        all of them until it is complete; raises Refused."""
        cdef int64_t taken = body_feed(self._body, data, len(data), &self._limits)
        if taken < 0:
            raise Refused(<int>taken)
        return taken

    def take(self):
        """The complete body as a binary file."""
        return body_take(self._body)
