# cython: language_level=3
"""WebSocket connections (RFC 6455) with permessage-deflate (RFC 7692), the server's side: sans-I/O.

Bytes go in, and one event at a time comes out: a message, which is a str or bytes, Ping, Pong, and
as the last one Closed. Messages go in, and bytes to be sent come out. Pongs and the answer to Close
are written here. Every split of the input gives the same events.

What is kept of a peer's bytes is bounded: a message by the limit, and it is counted after it was
inflated, in steps; a control frame by its 125 bytes; pongs by 4 KiB that are still to be sent.
"""

import zlib
from collections import namedtuple

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from sockd.http.response cimport Buffer, buffer_add, buffer_free

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char* data, Py_ssize_t size, int flags)
    object PyUnicode_DecodeUTF8(const char* data, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    int PyBUF_READ
    int PyBUF_SIMPLE
    int PyObject_GetBuffer(object source, Py_buffer* view, int flags) except -1
    void PyBuffer_Release(Py_buffer* view)

# What fails a connection: its name, the code of the Close that says so, its reason, and the rule.
# The order is that of `enum Failure`.
FAILURES = (
    ("FINE", 0, "", ""),
    ("NOT_MASKED", 1002, "frame without a mask", "RFC 6455 5.1"),
    ("RESERVED_BIT", 1002, "reserved bit that was not agreed upon", "RFC 6455 5.2, RFC 7692 6"),
    ("UNKNOWN_OPCODE", 1002, "unknown opcode", "RFC 6455 5.2"),
    ("CONTROL_IN_FRAGMENTS", 1002, "control frame in fragments", "RFC 6455 5.5"),
    ("LONG_CONTROL", 1002, "control frame longer than 125 bytes", "RFC 6455 5.5"),
    ("LONG_FORM", 1002, "length not in its shortest form", "RFC 6455 5.2"),
    ("LENGTH_BEYOND", 1002, "length beyond 63 bits", "RFC 6455 5.2"),
    ("NOTHING_TO_CONTINUE", 1002, "continuation of no message", "RFC 6455 5.4"),
    ("MESSAGE_WITHIN", 1002, "message within another one", "RFC 6455 5.4"),
    ("CLOSE_OF_ONE_BYTE", 1002, "close frame of one byte", "RFC 6455 5.5.1"),
    ("BAD_CLOSE_CODE", 1002, "close code that is not for the wire", "RFC 6455 7.4"),
    ("BAD_CLOSE_REASON", 1007, "close reason is not UTF-8", "RFC 6455 5.5.1"),
    ("BAD_TEXT", 1007, "text is not UTF-8", "RFC 6455 8.1"),
    ("BAD_DEFLATE", 1007, "malformed compressed data", "RFC 7692 7.2.2"),
    ("TOO_LARGE", 1009, "message too large", "RFC 6455 7.4.1"),
)

assert len(FAILURES) == FAILURE_COUNT

cdef enum:
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

cdef enum:
    BEGIN = -1
    GO_ON = -2
    CONTROL = -3

# What a frame does to what is read (RFC 6455 5.4, 5.5): a deed, or the failure that it is. All
# other opcodes are unknown, and once Close has come, or the connection failed, nothing is read.
#    opcode         between messages     within a message
cdef int DOES[16][2]
for _opcode in range(16):
    DOES[_opcode][0] = DOES[_opcode][1] = UNKNOWN_OPCODE
for _opcode, _between, _within in (
    (CONTINUATION,  NOTHING_TO_CONTINUE, GO_ON),
    (TEXT,          BEGIN,               MESSAGE_WITHIN),
    (BINARY,        BEGIN,               MESSAGE_WITHIN),
    (CLOSE,         CONTROL,             CONTROL),
    (PING,          CONTROL,             CONTROL),
    (PONG,          CONTROL,             CONTROL),
):
    DOES[_opcode][0] = _between
    DOES[_opcode][1] = _within

Ping = namedtuple("Ping", "data", module=__name__)
Pong = namedtuple("Pong", "data", module=__name__)
Closed = namedtuple("Closed", "code reason failed", module=__name__)
Event = str | bytes | Ping | Pong | Closed

# RFC 6455 7.4.1: what Closed says of a Close without a code, and of no Close at all.
NO_CODE = 1005
NO_CLOSE = 1006

cdef enum:
    # Compressed data is inflated in blocks of this many bytes, counted from the start of a frame,
    # and inflated at most this many bytes at a time: whatever the split, zlib sees the same calls.
    BLOCK = 16384
    STEP = 65536
    # A sender may end its deflate stream and begin another (RFC 7692 7.2.3.4). Each costs an
    # inflater and only two bytes, so a message may have no more of them.
    STREAM_ENDS = 64
    # Where a message is not here as a whole, this much is reserved at once.
    RESERVED = 65536
    # Pings are all answered while less than this is to be sent.
    PONGS = 4096
    # Shorter messages are sent as they are.
    DEFLATE_FROM = 64


cdef inline void unmask(
    uint8_t* target, const uint8_t* source, size_t size, const uint8_t* mask, uint32_t at
) noexcept nogil:
    """RFC 6455 5.3; `at` is how many bytes of the frame came before."""
    cdef uint8_t key[8]
    cdef uint64_t long_key
    cdef uint64_t word
    cdef size_t i
    for i in range(8):
        key[i] = mask[(at + i) & 3]
    memcpy(&long_key, key, 8)
    for i in range(size >> 3):
        memcpy(&word, source + 8 * i, 8)
        word ^= long_key
        memcpy(target + 8 * i, &word, 8)
    for i in range(size & ~<size_t>7, size):
        target[i] = source[i] ^ key[i & 7]


cdef bint text_goes_on(Text* text, const uint8_t* data, size_t size) noexcept nogil:
    """Whether `data` may follow what was seen; False at the first byte that may not (RFC 3629 4:
    neither overlong forms nor surrogates, and nothing above U+10FFFF)."""
    cdef size_t at = 0
    cdef uint64_t word
    cdef uint8_t byte
    while at < size:
        if text.missing == 0:
            while at + 8 <= size:
                memcpy(&word, data + at, 8)
                if word & <uint64_t>0x8080808080808080:
                    break
                at += 8
            if at == size:
                break
        byte = data[at]
        at += 1
        if text.missing:
            if byte < text.low or byte > text.high:
                return False
            text.missing -= 1
            text.low, text.high = 0x80, 0xBF
        elif byte >= 0x80:
            if byte < 0xC2 or byte > 0xF4:
                return False
            text.missing = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            text.low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
            text.high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
    return True


cdef int frame_head(uint8_t* head, int opcode, bint deflated, uint64_t size) noexcept nogil:
    """The head of an unmasked, unfragmented frame (RFC 6455 5.2); up to ten bytes. Returns how
    many."""
    cdef int i
    head[0] = 0x80 | (0x40 if deflated else 0) | opcode
    if size < 126:
        head[1] = <uint8_t>size
        return 2
    if size < 65536:
        head[1] = 126
        head[2] = <uint8_t>(size >> 8)
        head[3] = <uint8_t>size
        return 4
    head[1] = 127
    for i in range(8):
        head[2 + i] = <uint8_t>(size >> (56 - 8 * i))
    return 10


cdef inline bint may_be_sent(int code) noexcept nogil:
    """RFC 6455 7.4 and the registry of IANA."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef class WebSocket:
    """A connection behind its opening handshake. `limit` is the size of a message in bytes, `deflate`
    what was agreed upon (handshake.Deflate), or None.

    `close_sent`: nothing more can be sent. `over`: nothing more will come."""

    def __cinit__(self, *, uint64_t limit=1 << 24, deflate=None):
        self.limit = limit
        self.deflate = deflate
        self.pong_at = -1
        self.head_whole = 2

    def __dealloc__(self):
        buffer_free(&self.out)
        buffer_free(&self.message)
        free(self.block)

    # Bytes in, events out.

    cdef object next_event(self, const char* data, size_t size, size_t* used):
        """The first event of `data`, which follows the bytes that were used before; None if there
        is none in it yet. `used` is how many bytes have been taken: all of them without event."""
        cdef const uint8_t* bytes_ = <const uint8_t*>data
        cdef size_t at = 0
        cdef size_t part
        cdef int failure
        cdef object event = None
        while event is None:
            if self.over:
                at = size  # RFC 6455 1.4: what comes behind Close is discarded
                break
            if not self.in_payload:
                failure = self._read_head(bytes_ + at, size - at, &part)
                at += part
                if failure:
                    event = self._fail(failure)
                    continue
                if not self.in_payload:
                    break
            part = size - at
            if part > self.left:
                part = <size_t>self.left
            failure = self._payload(bytes_ + at, part)
            at += part
            self.left -= part
            self.mask_at += <uint32_t>part
            if failure:
                event = self._fail(failure)
            elif self.left:
                break
            else:
                event = self._end_frame()
        used[0] = at
        return event

    cdef int _read_head(self, const uint8_t* data, size_t size, size_t* used) noexcept:
        cdef size_t at = 0
        cdef size_t part
        cdef int failure = FINE
        while not self.in_payload and not failure and at < size:
            part = self.head_whole - self.head_size
            if part > size - at:
                part = size - at
            memcpy(self.head + self.head_size, data + at, part)
            self.head_size += <uint32_t>part
            at += part
            if self.head_size == self.head_whole:
                failure = self._begin_frame()
        used[0] = at
        return failure

    cdef int _begin_frame(self) noexcept:
        """Judge the first two bytes of the head, then all of it (RFC 6455 5.2)."""
        cdef uint8_t* head = self.head
        cdef int short_length = head[1] & 0x7F
        cdef int extended = 8 if short_length == 127 else 2 if short_length == 126 else 0
        cdef int does
        cdef int i
        if self.head_size == 2:
            self.final = (head[0] & 0x80) != 0
            self.opcode = head[0] & 0x0F
            does = DOES[self.opcode][self.within]
            if head[0] & 0x30 or (head[0] & 0x40 and (self.deflate is None or does == CONTROL
                                                      or does == GO_ON)):
                return RESERVED_BIT
            if does >= 0:
                return does
            if not head[1] & 0x80:
                return NOT_MASKED
            if does == CONTROL:
                if not self.final:
                    return CONTROL_IN_FRAGMENTS
                if extended:
                    return LONG_CONTROL
            elif does == BEGIN:
                self.is_text = self.opcode == TEXT
                self.deflated = (head[0] & 0x40) != 0
                self.within = True
            self.head_whole = 6 + extended
            return FINE
        self.left = short_length
        if extended:
            self.left = 0
            for i in range(extended):
                self.left = self.left << 8 | head[2 + i]
            if self.left >> 63:
                return LENGTH_BEYOND
            if self.left < 126 or (extended == 8 and self.left < 65536):
                return LONG_FORM
        if self.opcode < CLOSE:
            if not self.deflated and self.size + self.left > self.limit:
                return TOO_LARGE
            self.wire_size += self.left
        memcpy(self.mask, head + 2 + extended, 4)
        self.mask_at = 0
        self.in_payload = True
        self.head_size = 0
        self.head_whole = 2
        return FINE

    cdef int _payload(self, const uint8_t* data, size_t size) except -1:
        if self.opcode >= CLOSE:
            unmask(self.control + self.control_size, data, size, self.mask, self.mask_at)
            self.control_size += <uint32_t>size
            return FINE
        if self.deflated:
            return self._deflated(data, size)
        return self._plain(data, size)

    cdef int _plain(self, const uint8_t* data, size_t size) except -1:
        cdef Buffer* message = &self.message
        cdef uint8_t* target
        cdef size_t capacity
        if self.final and size == self.left and self.size == 0:
            # The message is here as a whole; its decoding finds what is not UTF-8.
            self.piece = PyBytes_FromStringAndSize(NULL, size)
            self.size = size
            unmask(<uint8_t*>PyBytes_AS_STRING(self.piece), data, size, self.mask, self.mask_at)
            return FINE
        if message.size + size > message.capacity:
            capacity = 2 * message.capacity
            if capacity == 0:
                capacity = <size_t>self.left if self.left < RESERVED else RESERVED
            if capacity < message.size + size:
                capacity = message.size + size
            target = <uint8_t*>realloc(message.data, capacity)
            if target == NULL:
                raise MemoryError
            message.data = <char*>target
            message.capacity = capacity
        target = <uint8_t*>message.data + message.size
        unmask(target, data, size, self.mask, self.mask_at)
        message.size += size
        self.size += size
        if self.is_text and not text_goes_on(&self.text, target, size):
            return BAD_TEXT
        return FINE

    cdef int _deflated(self, const uint8_t* data, size_t size) except -1:
        cdef size_t at = 0
        cdef size_t part
        cdef int failure
        if self.block == NULL:
            self.block = <uint8_t*>malloc(BLOCK + 4)
            if self.block == NULL:
                raise MemoryError
        while True:
            part = BLOCK - self.block_size
            if part > size - at:
                part = size - at
            unmask(self.block + self.block_size, data + at, part, self.mask,
                   self.mask_at + <uint32_t>at)
            self.block_size += <uint32_t>part
            at += part
            if self.left == at:
                return self._inflate(self.final)
            if self.block_size < BLOCK:
                return FINE
            failure = self._inflate(False)
            if failure:
                return failure

    cdef int _inflate(self, bint last) except -1:
        """Inflate the block (RFC 7692 7.2.2)."""
        cdef uint64_t room
        cdef bytes part
        cdef int failure
        if last:
            if self.wire_size == 0:
                return BAD_DEFLATE  # RFC 7692 7.2.3.6: an empty message is one byte of zero
            memcpy(self.block + self.block_size, b"\x00\x00\xff\xff", 4)
            self.block_size += 4
        data = PyMemoryView_FromMemory(<char*>self.block, self.block_size, PyBUF_READ)
        self.block_size = 0
        while True:
            if self.inflater is None:
                self.inflater = zlib.decompressobj(-self.deflate.client_max_window_bits)
            room = self.limit - self.size
            room = room + 1 if room < STEP else STEP
            try:
                part = self.inflater.decompress(data, room)
            except zlib.error:
                return BAD_DEFLATE
            failure = self._keep(part)
            if failure:
                return failure
            if self.inflater.eof:
                data = self.inflater.unused_data
                self.inflater = None
                self.ends += 1
                if self.ends > STREAM_ENDS:
                    return BAD_DEFLATE
                if not data:
                    return FINE
            elif <uint64_t>len(part) < room:
                return FINE
            else:
                data = self.inflater.unconsumed_tail

    cdef int _keep(self, bytes part) except -1:
        """Add what was inflated to the message."""
        cdef const char* data = PyBytes_AS_STRING(part)
        cdef size_t size = PyBytes_GET_SIZE(part)
        if size == 0:
            return FINE
        self.size += size
        if self.size > self.limit:
            return TOO_LARGE
        if self.is_text and not text_goes_on(&self.text, <const uint8_t*>data, size):
            return BAD_TEXT
        if self.piece is None and self.message.size == 0:
            self.piece = part
            return FINE
        if self.piece is not None:
            buffer_add(&self.message, PyBytes_AS_STRING(self.piece), PyBytes_GET_SIZE(self.piece))
            self.piece = None
        return buffer_add(&self.message, data, size)

    cdef object _end_frame(self):
        cdef bytes data
        self.in_payload = False
        if self.opcode < CLOSE:
            return self._end_message() if self.final else None
        if self.opcode == CLOSE:
            return self._close_came()
        data = PyBytes_FromStringAndSize(<char*>self.control, self.control_size)
        self.control_size = 0
        if self.opcode == PONG:
            return Pong(data)
        if not self.close_sent:
            if self.pong_at >= 0 and self.out.size > PONGS:
                self.out.size = self.pong_at  # RFC 6455 5.5.3: the latest ping is to be answered
            self.pong_at = self.out.size
            self._control(PONG, data)
        return Ping(data)

    cdef object _end_message(self):
        cdef const char* data = self.message.data
        cdef size_t size = self.message.size
        cdef object message
        if self.piece is not None:
            data = PyBytes_AS_STRING(self.piece)
            size = PyBytes_GET_SIZE(self.piece)
        if not self.is_text:
            message = self.piece
            if message is None:
                message = PyBytes_FromStringAndSize(data, size)
        else:
            try:
                message = PyUnicode_DecodeUTF8(data, size, NULL)
            except UnicodeDecodeError:
                return self._fail(BAD_TEXT)
        if self.deflated and self.deflate.client_no_context_takeover:
            self.inflater = None
        self._forget_message()
        return message

    cdef object _close_came(self):
        """RFC 6455 5.5.1, 7.1.5, 7.1.6; the answer repeats what came."""
        cdef uint8_t* payload = self.control
        cdef int code = NO_CODE
        cdef str reason = ""
        if self.control_size == 1:
            return self._fail(CLOSE_OF_ONE_BYTE)
        if self.control_size:
            code = payload[0] << 8 | payload[1]
            if not may_be_sent(code):
                return self._fail(BAD_CLOSE_CODE)
            try:
                reason = PyUnicode_DecodeUTF8(<char*>payload + 2, self.control_size - 2, NULL)
            except UnicodeDecodeError:
                return self._fail(BAD_CLOSE_REASON)
        if not self.close_sent:
            self._control(CLOSE, PyBytes_FromStringAndSize(<char*>payload, self.control_size))
            self.close_sent = True
        self.over = True
        self._forget_message()
        return Closed(code, reason, False)

    cdef object _fail(self, int failure):
        """RFC 6455 7.1.7."""
        _, code, reason, _ = FAILURES[failure]
        if not self.close_sent:
            self.close(code, reason)
        self.over = True
        self._forget_message()
        return Closed(code, reason, True)

    cdef void _forget_message(self) noexcept:
        self.within = False
        self.wire_size = self.size = 0
        self.piece = None
        buffer_free(&self.message)
        free(self.block)
        self.block = NULL
        self.block_size = 0
        self.ends = 0
        if self.over:
            self.inflater = self.deflater = None

    def receive(self, data, size_t start=0):
        """The first event of `data` from `start` on, and where what comes behind it begins. None and
        the end of `data` if there is no event: what is given next follows it.

        The application should see an event before the next one is asked for: behind its Close a
        peer is sent nothing, not even the answer to a message before it."""
        cdef Py_buffer view
        cdef size_t used
        cdef object event
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if start > <size_t>view.len:
                raise IndexError("no such place in the data")
            event = self.next_event(<const char*>view.buf + start, view.len - start, &used)
        finally:
            PyBuffer_Release(&view)
        return event, start + used

    def eof(self):
        """The peer sends nothing more: Closed, or None when it is closed already."""
        if self.over:
            return None
        self.over = self.close_sent = True  # RFC 6455 7.1.4: without Close nothing is answered
        self._forget_message()
        return Closed(NO_CLOSE, "", True)

    # Messages in, bytes out.

    def send(self, message):
        """A message: text if it is a str, binary if it is bytes.

        RuntimeError once Close has been sent; UnicodeEncodeError for what is no text."""
        self.put(message)

    cdef int put(self, object message) except -1:
        cdef const char* data
        cdef Py_ssize_t size
        cdef uint8_t head[10]
        cdef int opcode = BINARY
        cdef bint deflated
        cdef bytes kept
        if self.close_sent:
            raise RuntimeError("a message behind the close of the WebSocket")
        if isinstance(message, str):
            opcode = TEXT
            data = PyUnicode_AsUTF8AndSize(message, &size)
        else:
            kept = message if isinstance(message, bytes) else bytes(memoryview(message))
            data = PyBytes_AS_STRING(kept)
            size = PyBytes_GET_SIZE(kept)
        deflated = self.deflate is not None and size >= DEFLATE_FROM
        if deflated:
            kept = self._compress(PyMemoryView_FromMemory(<char*>data, size, PyBUF_READ))
            data = PyBytes_AS_STRING(kept)
            size = PyBytes_GET_SIZE(kept) - 4  # RFC 7692 7.2.1: the last block stays away
        self.pong_at = -1
        buffer_add(&self.out, <char*>head, frame_head(head, opcode, deflated, size))
        return buffer_add(&self.out, data, size)

    cdef bytes _compress(self, object data):
        agreed = self.deflate
        if self.deflater is None:
            bits = agreed.server_max_window_bits
            # memLevel: as much memory for the hash as for the window (zlib.h: deflateInit2).
            self.deflater = zlib.compressobj(wbits=-bits, memLevel=min(max(bits - 7, 1), 8))
        compressed = self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
        if agreed.server_no_context_takeover:
            self.deflater = None
        return compressed

    def ping(self, bytes data=b""):
        """At most 125 bytes, which the Pong repeats."""
        if len(data) > 125:
            raise ValueError("a ping has at most 125 bytes")
        if self.close_sent:
            raise RuntimeError("a ping behind the close of the WebSocket")
        self.pong_at = -1
        self._control(PING, data)

    def close(self, int code=1000, str reason=""):
        """Say that nothing more will be sent; what still comes is read on until the peer's Close.

        ValueError for a code that is not for the wire or a reason of more than 123 bytes."""
        cdef bytes text = reason.encode()
        if not may_be_sent(code):
            raise ValueError(f"{code} is no close code to be sent (RFC 6455 7.4)")
        if len(text) > 123:
            raise ValueError("a close reason has at most 123 bytes of UTF-8")
        if self.close_sent:
            raise RuntimeError("the WebSocket is closed already")
        self.pong_at = -1
        self._control(CLOSE, code.to_bytes(2, "big") + text)
        self.close_sent = True

    cdef int _control(self, int opcode, bytes payload) except -1:
        cdef uint8_t head[10]
        cdef int size = frame_head(head, opcode, False, len(payload))
        buffer_add(&self.out, <char*>head, size)
        return buffer_add(&self.out, payload, len(payload))

    def take(self):
        """What is to be sent, once. To be called when all that was taken before is sent: what is not
        taken is what bounds the pongs."""
        out = PyBytes_FromStringAndSize(self.out.data, self.out.size)
        self.taken()
        return out

    cdef void taken(self) noexcept:
        """`out` was sent, or is kept elsewhere. Its memory is given back: most connections idle."""
        self.pong_at = -1
        buffer_free(&self.out)
