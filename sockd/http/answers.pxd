from libc.stdint cimport uint32_t

from sockd.http.connections cimport Connection
from sockd.http.overdue cimport Overdue
from sockd.http.response cimport Response


cdef class Answers(Overdue):
    cdef int _run_with_body(self, Connection* c) except -1
    cdef int _run(self, Connection* c, object body) except -1
    cdef int _drive(self, Connection* c) except -1
    cdef int _await_room(self, Connection* c, uint32_t sent) except -1
    cdef int _resume(self, Connection* c) except -1
    cdef int _collect(self) except -1
    cdef int _finish(self, Connection* c) except -1
    cdef void _end_entry(self, Response response) noexcept
    cdef int _consume(self, Connection* c, char* data, size_t size) except -1
    cdef void _admit(self) noexcept
