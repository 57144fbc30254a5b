from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Buffer:
    char* data
    size_t size
    size_t capacity

# The texts of a request: str objects (Latin-1) that its response keeps; NULL where there is none.
cdef struct Words:
    PyObject* method
    PyObject* target
    PyObject* client
    PyObject* id
    uint64_t number  # of which its id is made where it came without

cdef int buffer_add(Buffer* buffer, const char* data, size_t size) except -1
cdef void buffer_free(Buffer* buffer) noexcept nogil

cdef enum Sent:
    GONE = -1
    BLOCKED = 0
    ALL_SENT = 1


# What a thread of the pool is to do with a response.
cdef enum Job:
    BEGIN
    PULL
    CLOSE


cdef class Response:
    # The loop's and the pool's: whose it is.
    cdef void* connection
    cdef int thread
    cdef int job
    cdef bint in_pool
    cdef Response next_in_line
    cdef bint closed
    cdef bint light  # its close() calls nothing of the application's
    # What the board and the access log know it by: its entry, -1 if it has none, the number that
    # its id is made of, the id that it came with, if any.
    cdef int entry
    cdef uint64_t number
    cdef str request_id
    cdef bint tell_id  # to the client
    cdef uint64_t begun_usec  # when the application was called, CLOCK_MONOTONIC; 0: it was not
    cdef uint64_t sent_bytes
    cdef object body
    cdef object stream  # the body if it is read while it comes (sockd.http.stream), else None
    cdef bint awaits_body  # its task waits for more of the body
    cdef bint of_task  # it comes when its task gives it, and `event` is told of its connection
    # Since when the request waits for the application (CLOCK_MONOTONIC, microseconds).
    cdef uint64_t waiting_since
    cdef Words words
    # What the request allows.
    cdef bint http11
    cdef bint head_only
    cdef bint keep_alive
    # Bytes of a request body that came without a declared length, else -1.
    cdef int64_t received
    # What the application said.
    cdef readonly int code
    cdef bint started
    cdef int64_t length
    cdef bint has_date
    cdef list headers  # as the application gave them, for the access log
    # How it goes out.
    cdef bint head_written
    cdef bint chunked
    cdef bint bodyless
    cdef bint complete
    cdef bint cut
    cdef int64_t body_size
    cdef str complaint
    # What is to be sent: the buffer, then a large piece or a part of a file, then a CRLF.
    cdef Buffer buffer
    cdef size_t buffer_at
    cdef bytes piece
    cdef size_t piece_at
    cdef int file_fd
    cdef int64_t file_at
    cdef int64_t file_left
    cdef bint crlf_after_file
    cdef bint crlf_after
    cdef int crlf_at

    cdef void reset(self, bint http11, bint head_only, bint keep_alive) noexcept
    cdef int start(self, str status, list headers) except -1
    cdef int start_bytes(self, int code, headers) except -1
    cdef void _start_anew(self) noexcept
    cdef int add(self, bytes data, int64_t known_length) except -1
    cdef int add_file(self, int fd, int64_t at, int64_t size, int64_t known_length) except -1
    cdef int end(self) except -1
    cdef int fail(self, int code, list headers=*) except -1
    cdef void give_up(self) noexcept
    cdef void _cut(self) noexcept
    cdef bint pending(self) noexcept
    cdef int work(self) except -1
    cdef int begin(self) except -1
    cdef int pull(self) except -1
    cdef int close(self) except -1
    cdef int event(self, uint32_t events) except -1
    cdef bint leaves_input(self) noexcept
    cdef str describe(self)
    cdef object told(self)
    cdef int _send_memory(self, int fd, uint32_t* sent_bytes) noexcept
    cdef int _send_file(self, int fd, uint32_t* sent_bytes) noexcept
    cdef int send(self, int fd, uint32_t* sent_bytes) noexcept
    cdef bint _is_ours(self, const char* name, Py_ssize_t size, const char* value,
                       Py_ssize_t value_size) except? -1
    cdef int _add_field(self, const char* name, Py_ssize_t size, const char* value,
                        Py_ssize_t value_size) except -1
    cdef int _write_head(self, int64_t known_length) except -1


cdef int set_date(long long seconds) except -1
cdef str plain_text(object text)
cdef send_early_hints(int fd, list headers)
cdef bytes plain_response(int code, str text)
