from libc.stdint cimport int64_t, uint64_t

from sockd.http.connections cimport Connection
from sockd.http.guest cimport Guest
from sockd.http.parser cimport Head
from sockd.worker.tasks cimport Exchange, TaskHandler


cdef class ASGIHandler(TaskHandler):
    cdef public object state
    cdef list templates
    cdef list spares
    cdef str root
    cdef bytes raw_root
    cdef bint early_hints

    cdef object deflate
    cdef uint64_t message_limit
    cdef double ping

    cdef Exchange _open_session(self, Guest loop, Connection* c, const char* data)
    cdef _make_templates(self, Guest loop)
    cdef _add_path(self, dict scope, const char* data, Head* head)
    cdef _apply_forwarded(self, dict scope, dict forwarded, Guest loop, Exchange exchange)
    cdef dict _scope(self, Guest loop, Connection* c, const char* data, Exchange exchange)


cdef class Call(Exchange):
    cdef bint body_told
    cdef bint half_closed
    cdef bint trailers
    cdef object file
    cdef uint64_t waited_usec
    cdef uint64_t waits_since
    cdef int64_t progress

    cdef object _more_body(self)
    cdef object _next_piece(self, Connection* c)
    cdef int _receive(self, Connection* c) except -2
    cdef int _read_rest(self, Connection* c) except -1
    cdef int _send_path(self, path) except -1
    cdef bint _hint(self, links) except -1
    cdef int _decide_end(self, bint more) except -1
    cdef int _body(self, dict message) except -1
    cdef uint64_t body_span(self) noexcept
    cdef int _end_early(self, str what, object error) except -1
