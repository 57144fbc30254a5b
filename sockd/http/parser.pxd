from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef struct Span:
    uint32_t start
    uint32_t size

# Fields that change how a request is framed or routed; all others are Other.
cdef enum FieldId:
    OTHER
    HOST
    CONNECTION
    CONTENT_LENGTH
    CONTENT_TYPE
    COOKIE
    EXPECT
    PROXY
    TRANSFER_ENCODING
    UPGRADE
    # Which request it is; of trusted peers.
    REQUEST_ID
    TRACE_PARENT
    # What a proxy says of a request's origin; only trusted peers may.
    FORWARDED
    FORWARDED_FOR
    FORWARDED_PROTO
    FORWARDED_HOST
    FORWARDED_PORT
    FORWARDED_OTHER
    REQUEST_START

cdef struct Field:
    Span name
    Span value
    uint32_t id

cdef struct Limits:
    uint32_t request_line
    uint32_t header_field
    uint32_t headers
    uint32_t head

cdef enum Phase:
    START
    REQUEST_LINE
    FIELDS

cdef struct Head:
    # Where the parser stands.
    int phase
    uint32_t line
    uint32_t scanned
    uint32_t seen
    # What it found. Spans count from the first byte of the head. Host is `authority`, no field.
    Span method
    Span target
    Span path
    Span query
    Span authority
    int minor
    bint has_query
    bint close
    bint keep_alive
    bint chunked
    bint expect_continue
    bint upgrade
    bint host_seen
    bint coding_seen
    int64_t content_length
    uint32_t count
    Field* fields

cdef enum Verdict:
    MORE
    BARE_CR
    BARE_LF
    BAD_METHOD
    BAD_REQUEST_LINE
    BAD_TARGET
    CONNECT_REFUSED
    BAD_VERSION
    UNKNOWN_VERSION
    LINE_TOO_LONG
    FIELD_TOO_LONG
    TOO_MANY_FIELDS
    HEAD_TOO_LARGE
    BAD_FIELD_NAME
    SPACE_BEFORE_COLON
    OBS_FOLD
    BAD_FIELD_VALUE
    BAD_CONTENT_LENGTH
    REPEATED_CONTENT_LENGTH
    LENGTH_AND_CODING
    UNKNOWN_CODING
    BAD_CODING
    CODING_ON_10
    HOST_MISSING
    HOST_REPEATED
    BAD_HOST
    UNKNOWN_EXPECTATION
    BODY_TOO_LARGE
    BAD_CHUNK_SIZE
    BAD_CHUNK_EXTENSION
    BAD_CHUNK_END
    CHUNK_LINE_TOO_LONG
    HEAD_TIMEOUT
    BODY_TIMEOUT
    SPOOL_FAILED
    VERDICTS

cdef struct Refusal:
    int status
    const char* reason

cdef const Refusal* refusal(int verdict) noexcept nogil
cdef Head* head_new(const Limits* limits) noexcept nogil
cdef void head_free(Head* head) noexcept nogil
cdef void head_reset(Head* head) noexcept nogil
cdef bint head_begun(const Head* head, uint32_t size) noexcept nogil
cdef int parse_head(Head* head, const char* data, uint32_t size, const Limits* limits) noexcept nogil
cdef int parse_field_line(const char* line, uint32_t size, Field* field) noexcept nogil
cdef bint is_word(const char* text, uint32_t size, const char* lowercase) noexcept nogil
cdef bint is_token(const char* text, uint32_t size) noexcept nogil
cdef bint is_field_value(const char* text, uint32_t size) noexcept nogil
