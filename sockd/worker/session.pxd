from libc.stdint cimport uint64_t

from sockd.http.connections cimport Connection
from sockd.http.websocket cimport WebSocket
from sockd.worker.tasks cimport Exchange


cdef enum Stage:
    CONNECTING
    DENYING
    OPEN
    ENDED


cdef class Session(Exchange):
    cdef object opening  # None: the handshake is refused with `refusal`
    cdef bytes refusal
    cdef WebSocket engine
    cdef int stage
    cdef bint connect_told
    cdef object held  # an event that the application has not taken
    cdef object ending  # code and reason of what ended it
    cdef size_t input_at
    cdef double ping
    cdef object timer
    cdef uint64_t heard_usec
    cdef bint pinged
    cdef uint64_t limit

    cdef int _accept(self, object message) except -1
    cdef int _deny(self, str kind, object message) except -1
    cdef int _close(self, int code, str reason) except -1
    cdef int _advance(self, Connection* c) except -1
    cdef int _heard(self, object event) except -1
    cdef int _lost(self, Connection* c) except -1
    cdef int _flush(self, Connection* c) except -1
    cdef int _load(self) except -1
    cdef int _watch(self) except -1
    cdef int go_away(self) except -1
    cdef object _disconnect(self)
