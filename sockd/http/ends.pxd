from libc.stdint cimport int64_t, uint32_t, uint64_t

from sockd.board cimport Slot
from sockd.http.connections cimport Connection, Connections
from sockd.http.forwarded cimport Trust
from sockd.http.handover cimport Channel
from sockd.http.helper cimport Helper
from sockd.http.listening cimport Listening
from sockd.http.pool cimport Pool
from sockd.http.response cimport Response


cdef class Handler:
    """What a calling convention (WSGI, ASGI) does with requests; see ends.pyx."""
    cdef public object report
    cdef bint streams
    cdef int turned_away
    cdef uint64_t turned_away_usec

    cdef Response open(self, Ends loop, Connection* connection, const char* head)
    cdef int recycle(self, Response response) except -1
    cdef bint busy(self)
    cdef int drain(self) except -1
    cdef bint turns_away(self, Ends loop, Response response) except -1


cdef class Ends:
    cdef readonly Handler handler
    cdef readonly list listeners
    cdef readonly int aborted
    cdef readonly int left_over
    cdef readonly Trust trust
    cdef public object overruns
    cdef Connections all
    cdef Channel channel
    cdef Slot* slot
    cdef Listening listening
    cdef int batch
    cdef uint64_t admitted_usec
    cdef Helper* helper
    cdef bytes health
    cdef bytes late_head
    cdef int64_t body_limit
    cdef double stream_timeout  # seconds; 0: bodies are read before the application is called
    cdef uint64_t queue_limit
    cdef uint32_t connection_limit
    cdef uint32_t concurrency  # requests in hand at once, 0 for no limit
    cdef long long date
    cdef char* scratch
    cdef Pool pool
    cdef dict watchers
    cdef object access  # what notes requests that have ended; None if nothing does
    cdef uint64_t full_turns
    cdef uint64_t asked_usec
    cdef uint64_t ready_usec  # what is read has waited at least since then
    cdef bint stopping
    cdef bint draining
    cdef bint handing_over  # while it drains, others take the connections
    cdef int takers  # workers that take them
    cdef bint closes_idle
    cdef bint closing  # while it drains, no connection outlives its response
    cdef object drain_wish
    cdef uint64_t drain_deadline

    cdef bint hush(self, Response response) noexcept
    cdef int _cut(self, Connection* c, str why) except -1
    cdef bint _leaves(self) noexcept
    cdef int _want(self, Connection* c, uint32_t events) except -1
    cdef int _keep(self, Connection* c, const char* data, size_t size) except -1
    cdef _complain(self, Connection* c, str what, bint of_app=*)
    cdef int _note_access(self, Connection* c, int status, uint64_t sent, str why) except -1
    cdef _note_refusal(self, Connection* c, int verdict)
    cdef int _refuse(self, Connection* c, int verdict) except -1
    cdef int _refuse_body(self, Connection* c, int verdict) except -1
    cdef int _linger(self, Connection* c) except -1
    cdef void _forget(self, Connection* c) noexcept
    cdef void _close(self, Connection* c) noexcept
    cdef void _broken(self, Connection* c) noexcept
    cdef void _report_fault(self) noexcept
    cdef void _listen_if_free(self) noexcept
    cdef int _release(self, Connection* c) except -1
