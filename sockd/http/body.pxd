from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sockd.http.parser cimport Limits

cdef enum BodyPhase:
    LENGTH
    CHUNK_SIZE
    EXTENSION_START
    EXTENSION_NAME
    EXTENSION_VALUE_START
    EXTENSION_VALUE
    EXTENSION_QUOTED
    EXTENSION_ESCAPE
    EXTENSION_QUOTED_END
    CHUNK_SIZE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF
    TRAILER_START
    TRAILER_NAME
    TRAILER_VALUE
    TRAILER_LF
    END_LF
    COMPLETE

cdef struct Body:
    int phase
    bint chunked
    int64_t length  # declared by Content-Length, -1 when chunked
    int64_t left  # of the length, or of the chunk in hand
    int64_t received  # bytes of data so far
    int64_t limit
    uint32_t digits
    uint32_t line  # bytes of framing in the line in hand
    uint32_t excess  # framing out of proportion to data
    uint32_t trailers
    uint32_t trailer_bytes
    char* data  # in memory, or
    size_t size
    size_t capacity
    int fd  # in a file without a name, else -1
    bint expects  # 100 Continue is due before more of it is asked for
    bint streamed  # its data is taken away as it comes, and never goes to a file

cdef Body* body_new(bint chunked, int64_t length, int64_t limit) noexcept nogil
cdef void body_free(Body* body) noexcept nogil
cdef int64_t body_feed(Body* body, const char* data, size_t size, const Limits* limits) noexcept nogil
cdef void body_release(Body* body) noexcept nogil
cdef object body_take(Body* body)
