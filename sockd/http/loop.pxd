from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from sockd.board cimport Board, Slot
from sockd.http.body cimport Body
from sockd.http.forwarded cimport Trust
from sockd.http.parser cimport Head, Limits
from sockd.http.pool cimport Pool
from sockd.http.response cimport Buffer, Response

cdef extern from "netinet/in.h" nogil:
    cdef struct sockaddr_in6:
        pass

cdef enum State:
    NEW
    IDLE
    HEAD
    BODY
    ACTIVE
    WRITING
    LINGERING
    CLOSED
    STATES_COUNT

cdef enum:
    LISTENERS = 64

cdef struct Connection:
    Connection* previous
    Connection* next
    uint64_t deadline
    int fd
    int state
    int listener
    uint32_t interest
    uint32_t served
    uint32_t progress
    Buffer input
    Head* head
    Body* body
    PyObject* response
    PyObject* peer
    sockaddr_in6 address

# All connections of one state, the one with the next deadline first.
cdef struct Queue:
    Connection* first
    Connection* last
    uint64_t span


# Whether this process is a fork of a worker, and whether this worker has forked.
cdef bint in_child
cdef bint has_forked

cdef void leave_child() noexcept


cdef class Handler:
    """What a calling convention (WSGI, ASGI) does with requests; see loop.pyx."""
    cdef public object report

    cdef Response open(self, Loop loop, Connection* connection, const char* head)
    cdef int recycle(self, Response response) except -1


cdef class Loop:
    cdef readonly Handler handler
    cdef readonly list listeners
    cdef readonly int aborted
    cdef int listener_fds[64]
    cdef int listener_count
    cdef Limits limits
    cdef int64_t body_limit
    cdef uint32_t connection_limit
    cdef Board board
    cdef Slot* slot
    cdef int epoll
    cdef uint64_t now
    cdef long long date
    cdef Queue queues[8]
    cdef Head* spare_head
    cdef char* scratch
    cdef Connection* graveyard
    cdef Pool pool
    cdef bint rotate
    cdef readonly Trust trust
    cdef dict watchers
    cdef bint accepting
    cdef uint64_t accept_again
    cdef bint stopping
    cdef bint draining
    cdef object drain_wish
    cdef uint64_t drain_deadline

    cdef _tell_date(self)
    cdef int _reserve(self, Buffer* buffer, size_t capacity) except -1
    cdef _take_head(self, Connection* c)
    cdef _drop_head(self, Connection* c)
    cdef int _await_room(self, Connection* c, uint32_t sent) except -1
    cdef _complain(self, Connection* c, str what, bint of_app=*)
    cdef _forget(self, Connection* c)
    cdef tuple peer(self, Connection* connection)
    cdef int _turn(self) except -1
    cdef int _timeout(self)
    cdef int _expire(self, uint64_t now) except -1
    cdef bint _shed(self) except -1
    cdef int _begin_drain(self) except -1
    cdef int _listen(self, bint on) except -1
    cdef int _listen_if_free(self) except -1
    cdef int _watch_listener(self, int index, bint on) except -1
    cdef int _accept(self, int index) except -1
    cdef void _enter(self, Connection* c, int state) noexcept
    cdef int _want(self, Connection* c, uint32_t events) except -1
    cdef int _readable(self, Connection* c) except -1
    cdef int _discard(self, Connection* c) except -1
    cdef int _eof(self, Connection* c) except -1
    cdef int _consume(self, Connection* c, char* data, size_t size) except -1
    cdef int _keep_input(self, Connection* c, char* data, size_t size) except -1
    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2
    cdef int _run(self, Connection* c, object body) except -1
    cdef int _drive(self, Connection* c) except -1
    cdef int _collect(self) except -1
    cdef int _resume(self, Connection* c) except -1
    cdef int _finish(self, Connection* c) except -1
    cdef int _release(self, Connection* c) except -1
    cdef int _refuse(self, Connection* c, int verdict) except -1
    cdef int _linger(self, Connection* c) except -1
    cdef int _close(self, Connection* c) except -1
    cdef void _bury(self) noexcept
    cdef int _broken(self, Connection* c) except -1
