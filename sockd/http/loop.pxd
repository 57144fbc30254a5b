from libc.stdint cimport int64_t, uint32_t, uint64_t

from sockd.board cimport Board, Slot
from sockd.http.connections cimport Connection, Connections
from sockd.http.forwarded cimport Trust
from sockd.http.handover cimport Channel
from sockd.http.helper cimport Helper
from sockd.http.listening cimport Listening
from sockd.http.pool cimport Pool
from sockd.http.response cimport Response


cdef class Handler:
    """What a calling convention (WSGI, ASGI) does with requests; see loop.pyx."""
    cdef public object report

    cdef Response open(self, Loop loop, Connection* connection, const char* head)
    cdef int recycle(self, Response response) except -1


cdef class Loop:
    cdef readonly Handler handler
    cdef readonly list listeners
    cdef readonly int aborted
    cdef readonly int left_over
    cdef readonly Trust trust
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
    cdef bint closing  # while it drains, no connection outlives its response
    cdef object drain_wish
    cdef uint64_t drain_deadline

    cdef _instruct_helper(self, settings, Board board)
    cdef void _tell_date(self) noexcept
    cdef int _turn(self) except -1
    cdef int _timeout(self)
    cdef void _expire(self, uint64_t now) noexcept
    cdef int _cut(self, Connection* c, str why) except -1
    cdef void _listen_if_free(self) noexcept
    cdef void _admit(self) noexcept
    cdef void _accept_some(self, int index, bint waits) noexcept
    cdef void _accept_rest(self, int index) noexcept
    cdef Connection* _accept(self, int index, bint waits) noexcept
    cdef void _greet(self, Connection* c) noexcept
    cdef bint _make_room(self) noexcept
    cdef Connection* _longest_idle(self) noexcept
    cdef void _end_unless_it_asks(self, Connection* c) noexcept
    cdef int _begin_drain(self) except -1
    cdef void _begin_close(self) noexcept
    cdef void _take_over(self) noexcept
    cdef void _hand_over(self) noexcept
    cdef void _end_left_over(self) noexcept
    cdef bint _leaves(self) noexcept
    cdef bint _holds_idle(self) noexcept
    cdef int _want(self, Connection* c, uint32_t events) except -1
    cdef int _readable(self, Connection* c) except -1
    cdef int _discard(self, Connection* c) except -1
    cdef int _keep(self, Connection* c, const char* data, size_t size) except -1
    cdef int _eof(self, Connection* c) except -1
    cdef int _consume(self, Connection* c, char* data, size_t size) except -1
    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2
    cdef int64_t _begin_stream(
        self, Connection* c, const char* data, size_t size, bint expects) except -2
    cdef int64_t _tell_health(self, Connection* c, const char* head) except -2
    cdef int _run_with_body(self, Connection* c) except -1
    cdef int _run(self, Connection* c, object body) except -1
    cdef int _drive(self, Connection* c) except -1
    cdef int _await_room(self, Connection* c, uint32_t sent) except -1
    cdef int _resume(self, Connection* c) except -1
    cdef int _collect(self) except -1
    cdef int _finish(self, Connection* c) except -1
    cdef int _release(self, Connection* c) except -1
    cdef void _end_entry(self, Response response) noexcept
    cdef _complain(self, Connection* c, str what, bint of_app=*)
    cdef int _note_access(self, Connection* c, int status, uint64_t sent, str why) except -1
    cdef _note_refusal(self, Connection* c, int verdict)
    cdef int _refuse(self, Connection* c, int verdict) except -1
    cdef int _linger(self, Connection* c) except -1
    cdef void _forget(self, Connection* c) noexcept
    cdef void _close(self, Connection* c) noexcept
    cdef void _broken(self, Connection* c) noexcept
    cdef void _report_fault(self) noexcept
