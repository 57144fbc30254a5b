from libc.stdint cimport int64_t

from sockd.http.answers cimport Answers
from sockd.http.connections cimport Connection


cdef class Intake(Answers):
    cdef int _readable(self, Connection* c) except -1
    cdef int _discard(self, Connection* c) except -1
    cdef int _eof(self, Connection* c) except -1
    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2
    cdef int64_t _begin_stream(
        self, Connection* c, const char* data, size_t size, bint expects) except -2
    cdef int64_t _begin_early(
        self, Connection* c, const char* data, size_t size, bint expects) except -2
    cdef int64_t _tell_health(self, Connection* c, const char* head) except -2
