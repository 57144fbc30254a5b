from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from sockd.board cimport Slot
from sockd.http.body cimport Body
from sockd.http.parser cimport Head, Limits
from sockd.http.response cimport Buffer

cdef extern from "netinet/in.h" nogil:
    cdef struct sockaddr_in6:
        pass

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void* ptr
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms)
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    int EPOLL_CTL_MOD
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLRDHUP
    uint32_t EPOLLEXCLUSIVE

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
    uint64_t arrived_usec  # when a request was read that waits in `input`; 0: none does
    bint late  # the helper has ended it at its deadline
    bint taken  # the helper has accepted it
    bint moved  # another process accepted it: copies may be anywhere
    bint done_asking  # its peer announced that this is its last request, and nothing came behind it
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

cdef struct Connections:
    int epoll
    uint64_t now
    Slot* slot
    Limits limits
    Head* spare_head
    Connection* graveyard
    Queue queues[8]

# What an event of the epoll is about.
cdef enum Tag:
    OF_CONNECTION = 0
    OF_LISTENER = 1
    OF_WATCHER = 3


cdef inline uint64_t tagged(uint64_t number, Tag tag) noexcept nogil:
    """Epoll data of what is no connection: odd, so never a pointer."""
    return number * 4 + tag


cdef uint64_t monotonic_usec() noexcept nogil
cdef uint64_t realtime_usec() noexcept nogil
cdef Connection* connection_new(
    Connections* all, int fd, int listener, const sockaddr_in6* address) noexcept nogil
cdef void enter(Connections* all, Connection* c, int state) noexcept nogil
cdef void enter_since(
    Connections* all, Connection* c, int state, uint64_t since, Connection* before) noexcept nogil
cdef int want(Connections* all, Connection* c, uint32_t events) noexcept nogil
cdef bint reserve(Buffer* buffer, size_t capacity) noexcept nogil
cdef bint keep_input(Connection* c, const char* data, size_t size) noexcept nogil
cdef bint take_head(Connections* all, Connection* c) noexcept nogil
cdef void drop_head(Connections* all, Connection* c) noexcept nogil
cdef uint64_t next_deadline(Connections* all) noexcept nogil
cdef void forget(Connections* all, Connection* c) noexcept nogil
cdef void bury(Connections* all) noexcept
cdef tuple peer_of(Connection* c)
