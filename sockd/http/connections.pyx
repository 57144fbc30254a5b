# cython: language_level=3
"""The connections of a worker: their states, deadlines, input, and what epoll is to tell of them.

Plain memory and system calls, so that the native helper can work on it while the interpreter is
busy; `peer_of` and `bury` alone need Python.

A connection is always in one state; each state has one queue, ordered by deadline because all of
its members are given the same span:

    state      waits for    deadline             leads to
    NEW        input        timeouts.keepalive   HEAD, BODY, ACTIVE, LINGERING, CLOSED
    IDLE       input        timeouts.keepalive   HEAD, BODY, ACTIVE, LINGERING, CLOSED
    HEAD       input        timeouts.header      IDLE, BODY, ACTIVE, LINGERING, CLOSED
    BODY       input        timeouts.body        ACTIVE, LINGERING, CLOSED
    ACTIVE     the handler  (none)               WRITING, IDLE, LINGERING, CLOSED
    WRITING    room         timeouts.write       IDLE, LINGERING, CLOSED
    LINGERING  the peer     LINGER_USEC          CLOSED
    CLOSED     (gone)
"""

import socket

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from sockd.http.body cimport body_free
from sockd.http.parser cimport head_free, head_new, head_reset
from sockd.http.response cimport Buffer, buffer_free

cdef extern from "netinet/in.h" nogil:
    cdef struct in_port_holder "sockaddr_in6":
        unsigned short sin6_family
        unsigned short sin6_port
    unsigned short ntohs(unsigned short port)
    int AF_INET
    int AF_INET6

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* value)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME


cdef inline uint64_t _usec(int clock) noexcept nogil:
    cdef timespec value
    clock_gettime(clock, &value)
    return <uint64_t>value.tv_sec * 1000000 + value.tv_nsec // 1000


cdef uint64_t monotonic_usec() noexcept nogil:
    return _usec(CLOCK_MONOTONIC)


cdef uint64_t realtime_usec() noexcept nogil:
    return _usec(CLOCK_REALTIME)


cdef Connection* connection_new(
    Connections* all, int fd, int listener, const sockaddr_in6* address
) noexcept nogil:
    """A connection that was just accepted, in state NEW; NULL without memory."""
    # malloc(3) takes what free(3) has just put aside; calloc(3) of glibc does not before 2.41.
    cdef Connection* c = <Connection*>malloc(sizeof(Connection))
    if c != NULL:
        memset(c, 0, sizeof(Connection))
        c.fd = fd
        c.listener = listener
        c.address = address[0]
        c.state = CLOSED
        enter(all, c, NEW)
        all.slot.connections += 1
    return c


cdef void enter(Connections* all, Connection* c, int state) noexcept nogil:
    """Move to a state's queue, at its end: its deadline is the latest."""
    cdef Queue* queue
    if c.state != CLOSED:
        queue = &all.queues[c.state]
        if c.previous != NULL:
            c.previous.next = c.next
        else:
            queue.first = c.next
        if c.next != NULL:
            c.next.previous = c.previous
        else:
            queue.last = c.previous
    c.state = state
    c.next = NULL
    if state == CLOSED:
        return
    queue = &all.queues[state]
    c.deadline = all.now + queue.span
    c.progress = 0
    c.previous = queue.last
    if queue.last != NULL:
        queue.last.next = c
    else:
        queue.first = c
    queue.last = c


cdef void enter_since(
    Connections* all, Connection* c, int state, uint64_t since, Connection* before
) noexcept nogil:
    """Move to the place in a state's queue that it would have if it had entered then, but not
    before it could be looked at once. The search begins at `before`, if that is in the queue."""
    cdef Queue* queue = &all.queues[state]
    cdef uint64_t deadline = max(min(since, all.now) + queue.span, all.now + 1)
    cdef Connection* at
    enter(all, c, state)
    c.deadline = min(deadline, c.deadline)
    at = c.previous
    if before != NULL and before != c and before.state == state:
        if before.deadline <= c.deadline:
            at = before
            while at.next != c and at.next.deadline <= c.deadline:
                at = at.next
        else:
            at = before.previous
    while at != NULL and at.deadline > c.deadline:
        at = at.previous
    if at == c.previous:
        return
    # Out of its place at the end: another one is before it, and stays the last.
    queue.last = c.previous
    queue.last.next = NULL
    c.previous = at
    c.next = at.next if at != NULL else queue.first
    c.next.previous = c
    if at != NULL:
        at.next = c
    else:
        queue.first = c


cdef int want(Connections* all, Connection* c, uint32_t events) noexcept nogil:
    """Have epoll tell of `events`; -1 (errno) if it cannot."""
    cdef epoll_event event
    cdef int operation = EPOLL_CTL_ADD
    if c.interest == events:
        return 0
    event.events = events
    event.data.ptr = c
    if c.interest:
        operation = EPOLL_CTL_MOD if events else EPOLL_CTL_DEL
    if epoll_ctl(all.epoll, operation, c.fd, &event) < 0:
        return -1
    c.interest = events
    return 0


cdef bint reserve(Buffer* buffer, size_t capacity) noexcept nogil:
    """Room for `capacity` bytes in all; false without memory."""
    cdef char* grown
    if buffer.capacity < capacity:
        capacity = max(capacity, buffer.capacity * 2)
        grown = <char*>realloc(buffer.data, capacity)
        if grown == NULL:
            return False
        buffer.data = grown
        buffer.capacity = capacity
    return True


cdef bint keep_input(Connection* c, const char* data, size_t size) noexcept nogil:
    """Keep bytes that cannot be used yet; `data` may lie in the buffer itself. False without
    memory."""
    if size == 0:
        if c.input.data != NULL:
            buffer_free(&c.input)
        return True
    if data >= c.input.data and data < c.input.data + c.input.capacity:
        memmove(c.input.data, data, size)
    else:
        if not reserve(&c.input, size):
            return False
        memcpy(c.input.data, data, size)
    c.input.size = size
    return True


cdef bint take_head(Connections* all, Connection* c) noexcept nogil:
    """A parser for the next head; false without memory."""
    c.head = all.spare_head
    all.spare_head = NULL
    if c.head == NULL:
        c.head = head_new(&all.limits)
    return c.head != NULL


cdef void drop_head(Connections* all, Connection* c) noexcept nogil:
    if c.head == NULL:
        return
    if all.spare_head == NULL:
        head_reset(c.head)
        all.spare_head = c.head
    else:
        head_free(c.head)
    c.head = NULL


cdef uint64_t next_deadline(Connections* all) noexcept nogil:
    """The earliest of all connections (CLOCK_MONOTONIC, microseconds), 0 for none."""
    cdef uint64_t earliest = 0
    cdef int state
    cdef Connection* c
    for state in range(<int>STATES_COUNT):
        c = all.queues[state].first
        if c != NULL and all.queues[state].span and (earliest == 0 or c.deadline < earliest):
            earliest = c.deadline
    return earliest


cdef void forget(Connections* all, Connection* c) noexcept nogil:
    """Let go of what has been read."""
    drop_head(all, c)
    body_free(c.body)
    c.body = NULL
    buffer_free(&c.input)


cdef void bury(Connections* all) noexcept:
    """Free what was closed, once no event in hand can name it."""
    cdef Connection* c
    while all.graveyard != NULL:
        c = all.graveyard
        all.graveyard = c.next
        if c.peer != NULL:
            Py_DECREF(<object>c.peer)
        free(c)


# The last client's address and its text: most connections are from one that was seen just before.
cdef uint8_t _last_address[20]
cdef object _last_host = ""
cdef tuple UNIX_PEER = ("", "")


cdef tuple peer_of(Connection* c):
    """Address and port of the peer as text; empty for a Unix socket."""
    if c.peer == NULL:
        found = _peer(&c.address)
        Py_INCREF(found)
        c.peer = <PyObject*>found
    return <tuple>c.peer


cdef tuple _peer(const sockaddr_in6* address):
    global _last_host
    cdef unsigned short family = (<in_port_holder*>address).sin6_family
    cdef const uint8_t* at = <const uint8_t*>address
    cdef size_t size
    cdef unsigned int number
    cdef char port[8]
    if family == AF_INET:
        at += 4
        size = 4
    elif family == AF_INET6:
        at += 8
        size = 16
    else:
        return UNIX_PEER
    if _last_address[0] != size or memcmp(_last_address + 1, at, size) != 0:
        host = socket.inet_ntop(family, PyBytes_FromStringAndSize(<const char*>at, size))
        if host.startswith("::ffff:") and "." in host:
            host = host[7:]  # an IPv4 peer on a dual-stack listener
        _last_address[0] = <uint8_t>size
        memcpy(_last_address + 1, at, size)
        _last_host = host
    number = ntohs((<in_port_holder*>address).sin6_port)
    size = sizeof(port)
    while True:
        size -= 1
        port[size] = <char>(48 + number % 10)
        number //= 10
        if number == 0:
            break
    return (_last_host, PyUnicode_DecodeLatin1(port + size, sizeof(port) - size, NULL))
