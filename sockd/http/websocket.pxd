from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sockd.http.response cimport Buffer

# In the order of FAILURES; zero is none.
cdef enum Failure:
    FINE
    NOT_MASKED
    RESERVED_BIT
    UNKNOWN_OPCODE
    CONTROL_IN_FRAGMENTS
    LONG_CONTROL
    LONG_FORM
    LENGTH_BEYOND
    NOTHING_TO_CONTINUE
    MESSAGE_WITHIN
    CLOSE_OF_ONE_BYTE
    BAD_CLOSE_CODE
    BAD_CLOSE_REASON
    BAD_TEXT
    BAD_DEFLATE
    TOO_LARGE
    FAILURE_COUNT


# UTF-8 so far (RFC 3629 4): bytes that are missing, and what the next one may be.
cdef struct Text:
    uint8_t missing
    uint8_t low
    uint8_t high


cdef int frame_head(uint8_t* head, int opcode, bint deflated, uint64_t size) noexcept nogil


cdef class WebSocket:
    # To be sent, in this order; `take` or `taken` empties it.
    cdef Buffer out
    cdef Py_ssize_t pong_at
    cdef readonly bint close_sent
    cdef readonly bint over
    cdef uint64_t limit
    cdef object deflate
    cdef object inflater
    cdef object deflater
    # The frame that is being read.
    cdef uint8_t head[14]
    cdef uint32_t head_size
    cdef uint32_t head_whole
    cdef bint in_payload
    cdef bint final
    cdef int opcode
    cdef uint64_t left
    cdef uint8_t mask[4]
    cdef uint32_t mask_at
    cdef uint8_t control[125]
    cdef uint32_t control_size
    # The message that is being read: `piece` if it is in one, else `message`.
    cdef bint within
    cdef bint is_text
    cdef bint deflated
    cdef uint64_t wire_size
    cdef uint64_t size
    cdef bytes piece
    cdef Buffer message
    cdef Text text
    # What is to be inflated next, and how often the deflate stream ended in this message.
    cdef uint8_t* block
    cdef uint32_t block_size
    cdef int ends

    cdef object next_event(self, const char* data, size_t size, size_t* used)
    cdef int put(self, object message) except -1
    cdef void taken(self) noexcept
    cdef int _read_head(self, const uint8_t* data, size_t size, size_t* used) noexcept
    cdef int _begin_frame(self) noexcept
    cdef int _payload(self, const uint8_t* data, size_t size) except -1
    cdef int _plain(self, const uint8_t* data, size_t size) except -1
    cdef int _deflated(self, const uint8_t* data, size_t size) except -1
    cdef int _inflate(self, bint last) except -1
    cdef int _keep(self, bytes part) except -1
    cdef object _end_frame(self)
    cdef object _end_message(self)
    cdef object _close_came(self)
    cdef object _fail(self, int failure)
    cdef bytes _compress(self, object data)
    cdef int _control(self, int opcode, bytes payload) except -1
    cdef void _forget_message(self) noexcept
