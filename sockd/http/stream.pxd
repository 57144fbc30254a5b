from libc.stdint cimport int64_t

from sockd.http.body cimport Body
from sockd.http.parser cimport Limits
from sockd.http.response cimport Buffer


cdef class Stream:
    cdef int fd
    cdef Body* body
    cdef Limits limits
    cdef int64_t timeout_usec
    cdef int64_t left_usec  # that the client may be waited for until it has sent PROGRESS bytes
    cdef int64_t progress
    cdef bint ask  # 100 Continue is due
    cdef Buffer rest
    cdef size_t at
    cdef readonly int verdict
    cdef readonly bint cut

    cdef bint complete(self) noexcept
    cdef void end(self) noexcept
    cdef int _feed(self, const char* data, size_t size) except -1
    cdef int _receive(self) except -1
    cdef int _refuse(self, int verdict) except -1


cdef Stream stream_new(int fd, Body* body, const Limits* limits, double timeout, bint ask)
cdef object stream_file(Stream stream)
