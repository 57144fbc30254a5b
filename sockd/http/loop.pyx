# cython: language_level=3
"""The connection loop of a worker: epoll, connections, deadlines, drain.

One thread, level-triggered epoll, no system call that can block on a peer. A request is read whole
before the handler is called; the handler's response is sent piece by piece by the loop, so what a
slow client has not read yet never holds the application.

A connection is always in one state; each state has one queue, ordered by deadline because all of
its members are given the same span:

    state      waits for    deadline             leads to
    NEW        input        timeouts.keepalive   HEAD, BODY, ACTIVE, LINGERING, CLOSED
    IDLE       input        timeouts.keepalive   HEAD, BODY, ACTIVE, LINGERING, CLOSED
    HEAD       input        timeouts.header      BODY, ACTIVE, LINGERING, CLOSED
    BODY       input        timeouts.body        ACTIVE, LINGERING, CLOSED
    ACTIVE     the handler  (none)               WRITING, IDLE, LINGERING, CLOSED
    WRITING    room         timeouts.write       IDLE, LINGERING, CLOSED
    LINGERING  the peer     LINGER_USEC          CLOSED
    CLOSED     (gone)
"""

import contextlib
import os
import socket
import sys
import traceback
from io import BytesIO

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from sockd.board cimport DRAINING, Board, note_response
from sockd.http.body cimport COMPLETE, body_feed, body_free, body_new, body_take
from sockd.http.forwarded cimport Trust
from sockd.http.parser cimport (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    HEAD_TIMEOUT,
    SPOOL_FAILED,
    head_free,
    head_new,
    head_reset,
    parse_head,
    refusal,
)
from sockd.http.pool cimport Pool
from sockd.http.response cimport (
    ALL_SENT,
    BEGIN,
    BLOCKED,
    CLOSE,
    PULL,
    Buffer,
    Response,
    buffer_free,
    plain_response,
    set_date,
)

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
    uint32_t EPOLLEXCLUSIVE

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        pass
    cdef struct linger_option "linger":
        int l_onoff
        int l_linger
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int MSG_NOSIGNAL
    int SHUT_WR
    int SHUT_RDWR
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_LINGER

cdef extern from "netinet/in.h" nogil:
    cdef struct in_port_holder "sockaddr_in6":
        unsigned short sin6_family
        unsigned short sin6_port
    unsigned short ntohs(unsigned short port)
    int AF_INET
    int AF_INET6

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object value)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* value)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME

cdef enum:
    EVENTS = 256
    SCRATCH = 65536
    # A deadline of body and write is renewed by this many bytes of progress.
    PROGRESS = 65536
    # What one connection may do before the others get their turn.
    PIPELINED = 16
    PIECES = 16
    LINGER_USEC = 2000000
    LINGER_BYTES = 1 << 20
    # A connection that has not asked anything yet, when its worker is told to close idle ones.
    GRACE_USEC = 1000000
    ACCEPT_AGAIN_USEC = 200000

# epoll data of what is no connection: odd, so never a pointer.
cdef inline uint64_t _listener_tag(uint64_t index) noexcept nogil:
    return index * 4 + 1


cdef inline uint64_t _watcher_tag(uint64_t fd) noexcept nogil:
    return fd * 4 + 3


cdef inline uint64_t _monotonic_usec() noexcept nogil:
    cdef timespec value
    clock_gettime(CLOCK_MONOTONIC, &value)
    return <uint64_t>value.tv_sec * 1000000 + value.tv_nsec // 1000


cdef bint in_child = False
cdef bint has_forked = False


def _after_fork_in_child():
    global in_child
    in_child = True


def _after_fork_in_parent():
    global has_forked
    has_forked = True


os.register_at_fork(
    after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)


def _end_child():
    error = sys.exc_info()[1]
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status & 0xFF)


cdef void leave_child() noexcept:
    """End a fork that came back out of the application: it holds the worker's connections, and
    would answer for it."""
    _end_child()


cdef class Handler:
    """A calling convention, such as WSGI.

    The loop calls `open` when a head is read. The response to be that it returns holds the
    request, and does the rest; see `Response`."""

    cdef Response open(self, Loop loop, Connection* connection, const char* head):
        raise NotImplementedError

    cdef int recycle(self, Response response) except -1:
        """A closed response that nobody holds any more, to be used for another request."""
        return 0


cdef class Loop:
    """The loop over `listeners` (listening sockets), with limits and timeouts from `settings`
    (sockd.settings.Settings), counting in slot number `slot` of `board`."""

    def __cinit__(self, Handler handler, listeners, settings, Board board, int slot):
        global in_child, has_forked
        in_child = has_forked = False  # the process that makes a loop is the worker, itself a fork
        self.handler = handler
        self.listeners = list(listeners)
        if len(self.listeners) > LISTENERS:
            raise ValueError(f"more than {LISTENERS} listeners")
        self.listener_count = len(self.listeners)
        for index in range(self.listener_count):
            self.listener_fds[index] = self.listeners[index].fileno()
        self.board = board
        self.slot = board.slot(slot)
        self.watchers = {}
        self.rotate = settings.workers != 1
        self.trust = Trust(settings.server.trusted)
        limits = settings.limits
        self.limits.request_line = limits.request_line
        self.limits.header_field = limits.header_field
        self.limits.headers = limits.headers
        self.limits.head = limits.head
        self.body_limit = limits.body
        self.connection_limit = limits.connections
        timeouts = settings.timeouts
        for state, seconds in (
            (NEW, timeouts.keepalive),
            (IDLE, timeouts.keepalive),
            (HEAD, timeouts.header),
            (BODY, timeouts.body),
            (WRITING, timeouts.write),
        ):
            self.queues[<int>state].span = max(<uint64_t>(seconds * 1000000), <uint64_t>1)
        self.queues[<int>LINGERING].span = LINGER_USEC
        self.scratch = <char*>malloc(SCRATCH)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.scratch == NULL or self.epoll < 0:
            raise MemoryError("no memory for the connection loop")
        self.now = _monotonic_usec()
        self._tell_date()

    def __init__(self, Handler handler, listeners, settings, Board board, int slot):
        for listener in self.listeners:
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                # Inherited by what is accepted: no system call for each connection.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings.threads > 1:
            self.pool = Pool(settings.threads)
            self.watch(self.pool.fd, self._collect_done)

    def __dealloc__(self):
        if self.epoll > 0:
            close(self.epoll)
        head_free(self.spare_head)
        free(self.scratch)

    # -- what the worker's process calls -----------------------------------------------------

    def watch(self, int fd, callback):
        """Call `callback()` in the loop whenever `fd` is readable."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = _watcher_tag(fd)
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "cannot watch a descriptor")
        self.watchers[fd] = callback

    def unwatch(self, int fd):
        if self.watchers.pop(fd, None) is not None:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, NULL)

    def stop(self):
        """Quick end: `run` closes every connection and returns."""
        self.stopping = True

    def drain(self, double seconds, *, bint close_idle, bint accept_rest=False):
        """End gracefully: accept no more, finish the requests in hand, let `run` return when no
        connection is left, or after `seconds` (what is in hand then is cut; `aborted` counts it).

        Idle connections are closed at once if `close_idle`; else each is answered once more, with
        `Connection: close`, until its keep-alive time is over. `accept_rest` takes what the
        kernel has queued first: for listeners that nobody serves afterwards."""
        # Also called in the middle of a request, by a signal: its response says so already.
        self.draining = True
        self.drain_wish = (seconds, close_idle, accept_rest)

    def run(self):
        """Serve until stopped or drained."""
        self._listen(True)
        while not self.stopping:
            if self.drain_wish is not None:
                self._begin_drain()
            if self.drain_deadline and self.slot.connections == 0:
                break
            self._turn()
        for state in range(<int>STATES_COUNT):
            while self.queues[<int>state].first != NULL:
                self._close(self.queues[<int>state].first)
        self._bury()

    # -- one turn ----------------------------------------------------------------------------

    cdef int _turn(self) except -1:
        cdef epoll_event events[EVENTS]
        cdef int count
        cdef int i
        cdef int timeout
        cdef uint64_t tag
        cdef uint64_t woken
        cdef Connection* c
        timeout = self._timeout()
        with nogil:
            count = epoll_wait(self.epoll, events, EVENTS, timeout)
        if count < 0 and errno != EINTR:
            raise OSError(errno, "epoll_wait failed")
        PyErr_CheckSignals()
        woken = self.now = _monotonic_usec()
        self.slot.beat_usec = woken
        self._tell_date()
        for i in range(count):
            tag = events[i].data.u64
            if tag & 3 == 1:
                self._accept(<int>(tag >> 2))
            elif tag & 3 == 3:
                callback = self.watchers.get(<int>(tag >> 2))
                if callback is not None:
                    callback()
            else:
                c = <Connection*>events[i].data.ptr
                if c.state == CLOSED:
                    continue
                try:
                    if c.state == WRITING:
                        self._drive(c)
                        self._resume(c)
                    elif c.state == ACTIVE:
                        # Input, or an end, while a thread has the request: later.
                        self._want(c, 0)
                    else:
                        self._readable(c)
                except Exception:
                    self._broken(c)
        if count < EVENTS:
            # What was readable when epoll answered has had its turn, so time that the application
            # took since is held against nobody.
            self._expire(woken)
        self._bury()
        if self.accept_again and self.now >= self.accept_again:
            self.accept_again = 0
            self._listen_if_free()
        return 0

    cdef _tell_date(self):
        cdef timespec value
        clock_gettime(CLOCK_REALTIME, &value)
        if value.tv_sec != self.date:
            self.date = value.tv_sec
            set_date(self.date)

    cdef int _timeout(self):
        """Milliseconds until the next deadline, -1 for none."""
        cdef uint64_t next_deadline = 0
        cdef int state
        cdef Connection* c
        if self.drain_wish is not None or self.stopping:
            return 0
        for state in range(<int>STATES_COUNT):
            c = self.queues[state].first
            if c != NULL and self.queues[state].span:
                if next_deadline == 0 or c.deadline < next_deadline:
                    next_deadline = c.deadline
        if self.drain_deadline and (next_deadline == 0 or self.drain_deadline < next_deadline):
            next_deadline = self.drain_deadline
        if self.accept_again and (next_deadline == 0 or self.accept_again < next_deadline):
            next_deadline = self.accept_again
        if next_deadline == 0:
            return -1
        if next_deadline <= self.now:
            return 0
        return <int>min((next_deadline - self.now) // 1000 + 1, <uint64_t>3600000)

    cdef int _expire(self, uint64_t now) except -1:
        cdef int state
        cdef Connection* c
        for state in range(<int>STATES_COUNT):
            while True:
                c = self.queues[state].first
                if c == NULL or not self.queues[state].span or c.deadline > now:
                    break
                if state == HEAD:
                    self._refuse(c, -HEAD_TIMEOUT)
                elif state == BODY:
                    self._refuse(c, -BODY_TIMEOUT)
                else:
                    if state == WRITING:
                        self._complain(c, "cut: the client took too long to read the response")
                    self._close(c)
        if self.drain_deadline and now >= self.drain_deadline:
            for state in (HEAD, BODY, ACTIVE, WRITING):
                while self.queues[state].first != NULL:
                    self.aborted += 1
                    self._complain(self.queues[state].first, "cut at the drain deadline")
                    self._close(self.queues[state].first)
            self.stopping = True
        return 0

    # -- listening ---------------------------------------------------------------------------

    cdef int _listen(self, bint on) except -1:
        """Take the listeners into epoll, or out (an exclusive entry cannot be modified)."""
        cdef int index
        if on == self.accepting:
            return 0
        for index in range(self.listener_count):
            self._watch_listener(index, on)
        self.accepting = on
        self.accept_again = 0
        return 0

    cdef int _watch_listener(self, int index, bint on) except -1:
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        event.data.u64 = _listener_tag(index)
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL,
                     self.listener_fds[index], &event) < 0:
            raise OSError(errno, "cannot watch a listening socket")
        return 0

    cdef int _listen_if_free(self) except -1:
        """What cannot run is not accepted: another worker may have room for it."""
        if self.draining or self.accept_again:
            return 0
        return self._listen(
            (self.pool is None or self.pool.busy < self.pool.size)
            and self.slot.connections < self.connection_limit
        )

    cdef int _accept(self, int index) except -1:
        """One connection: accepted, and served at once if its request is there already. Returns
        1 if there may be more."""
        cdef Connection* c
        cdef socklen_t size = sizeof(sockaddr_in6)
        cdef sockaddr_in6 address
        cdef int fd
        cdef int error
        if not self.accepting:
            return 0
        memset(&address, 0, sizeof(address))
        fd = accept4(self.listener_fds[index], <sockaddr*>&address, &size,
                     SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            error = errno
            if error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM:
                if self._shed():
                    return 1
                # Without this the loop would turn at full speed on a connection it cannot take.
                self._listen(False)
                self.accept_again = self.now + ACCEPT_AGAIN_USEC
                return 0
            return error != EAGAIN
        c = <Connection*>calloc(1, sizeof(Connection))
        if c == NULL:
            close(fd)
            return 1
        c.fd = fd
        c.listener = index
        c.address = address
        c.state = CLOSED
        self._enter(c, NEW)
        self.slot.connections += 1
        if self.rotate:
            # The kernel wakes the first idle worker in the order of their registration: the last
            # one to accept goes to the end of that line.
            self._watch_listener(index, False)
            self._watch_listener(index, True)
        try:
            self._readable(c)
        except Exception:
            self._broken(c)
        if self.rotate and c.state == NEW:
            # In a burst of connections that ask nothing yet: the others were woken for theirs.
            sched_yield()
        if self.slot.connections >= self.connection_limit and not self._shed():
            self._listen(False)
        return 1

    cdef bint _shed(self) except -1:
        """Close the connection that has been idle longest, to make room. False if none is."""
        cdef Connection* c = self.queues[<int>IDLE].first
        while c != NULL:
            self._readable(c)  # a request may be in the socket already
            if c.state == IDLE:
                self._close(c)
            if c.state == CLOSED:
                return True
            c = self.queues[<int>IDLE].first
        return False

    cdef int _begin_drain(self) except -1:
        cdef Connection* c
        cdef Connection* following
        cdef int index
        seconds, close_idle, accept_rest = self.drain_wish
        self.drain_wish = None
        self.now = _monotonic_usec()
        first = not self.drain_deadline
        self.drain_deadline = self.now + <uint64_t>(seconds * 1000000)
        if first:
            self.slot.state = DRAINING
            if accept_rest:
                self._listen(True)
                for index in range(self.listener_count):
                    while self._accept(index):
                        pass
            self._listen(False)
        self.accept_again = 0
        if close_idle:
            # A request may be in the socket already: look once more before closing.
            c = self.queues[<int>IDLE].first
            while c != NULL:
                following = c.next
                self._readable(c)
                if c.state == IDLE:
                    self._close(c)
                c = following
            self.queues[<int>NEW].span = GRACE_USEC
            c = self.queues[<int>NEW].first
            while c != NULL:
                c.deadline = self.now + GRACE_USEC
                c = c.next
        return 0

    cdef tuple peer(self, Connection* c):
        """Address and port of the peer as text; empty for a Unix socket."""
        cdef unsigned short family
        cdef unsigned short port
        if c.peer == NULL:
            family = (<in_port_holder*>&c.address).sin6_family
            port = ntohs((<in_port_holder*>&c.address).sin6_port)
            if family == AF_INET:
                host = socket.inet_ntop(
                    socket.AF_INET, PyBytes_FromStringAndSize(<char*>&c.address + 4, 4))
            elif family == AF_INET6:
                host = socket.inet_ntop(
                    socket.AF_INET6, PyBytes_FromStringAndSize(<char*>&c.address + 8, 16))
                if host.startswith("::ffff:") and "." in host:
                    host = host[7:]  # an IPv4 peer on a dual-stack listener
            else:
                host = ""
            found = (host, str(port) if host else "")
            Py_INCREF(found)
            c.peer = <PyObject*>found
        return <tuple>c.peer

    # -- states ------------------------------------------------------------------------------

    cdef void _enter(self, Connection* c, int state) noexcept:
        """Move to a state's queue, at its end: its deadline is the latest."""
        cdef Queue* queue
        if c.state != CLOSED:
            queue = &self.queues[c.state]
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
        queue = &self.queues[state]
        c.deadline = self.now + queue.span
        c.progress = 0
        c.previous = queue.last
        if queue.last != NULL:
            queue.last.next = c
        else:
            queue.first = c
        queue.last = c

    cdef int _want(self, Connection* c, uint32_t events) except -1:
        cdef epoll_event event
        cdef int operation = EPOLL_CTL_ADD
        if c.interest == events:
            return 0
        event.events = events
        event.data.ptr = c
        if c.interest:
            operation = EPOLL_CTL_MOD if events else EPOLL_CTL_DEL
        if epoll_ctl(self.epoll, operation, c.fd, &event) < 0:
            raise OSError(errno, "cannot watch a connection")
        c.interest = events
        return 0

    # -- input -------------------------------------------------------------------------------

    cdef int _readable(self, Connection* c) except -1:
        cdef ssize_t got
        cdef size_t held = c.input.size
        cdef char* data = self.scratch
        if c.state == LINGERING:
            return self._discard(c)
        if held and c.interest & EPOLLOUT:
            # Requests that wait in memory: their turn came, nothing new needs to be read.
            self._want(c, EPOLLIN)
            c.input.size = 0
            return self._consume(c, c.input.data, held)
        if held:
            self._reserve(&c.input, held + 16384)
            data = c.input.data
        got = recv(c.fd, data + held, (c.input.capacity if held else SCRATCH) - held, 0)
        if got < 0:
            if errno == EAGAIN or errno == EINTR:
                return self._want(c, EPOLLIN)
            return self._close(c)
        if got == 0:
            return self._eof(c)
        self.slot.bytes_in += got
        if c.state == BODY:
            c.progress += <uint32_t>got
            if c.progress >= PROGRESS:
                self._enter(c, BODY)
        c.input.size = 0
        return self._consume(c, data, held + got)

    cdef int _discard(self, Connection* c) except -1:
        """Read away what a peer still sends after our last response, within bounds."""
        cdef ssize_t got = recv(c.fd, self.scratch, SCRATCH, 0)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if got > 0:
            c.progress += <uint32_t>got
            if c.progress < LINGER_BYTES:
                return 0
        return self._close(c)

    cdef int _eof(self, Connection* c) except -1:
        if c.state == BODY:
            declared = f" of {c.body.length}" if c.body.length >= 0 else ""
            self._complain(c, f"cut upload: {c.body.received}{declared} bytes of the body came")
        return self._close(c)

    cdef int _reserve(self, Buffer* buffer, size_t capacity) except -1:
        cdef char* grown
        if buffer.capacity < capacity:
            capacity = max(capacity, buffer.capacity * 2)
            grown = <char*>realloc(buffer.data, capacity)
            if grown == NULL:
                raise MemoryError
            buffer.data = grown
            buffer.capacity = capacity
        return 0

    cdef int _keep_input(self, Connection* c, char* data, size_t size) except -1:
        """Keep bytes that cannot be used yet; `data` may lie in the buffer itself."""
        if size == 0:
            c.input.size = 0
            if c.input.data != NULL:
                buffer_free(&c.input)
            return 0
        if data >= c.input.data and data < c.input.data + c.input.capacity:
            memmove(c.input.data, data, size)
        else:
            self._reserve(&c.input, size)
            memcpy(c.input.data, data, size)
        c.input.size = size
        return 0

    cdef int _consume(self, Connection* c, char* data, size_t size) except -1:
        """Work through input: heads, bodies, pipelined requests in their order."""
        cdef size_t at = 0
        cdef int head_size
        cdef int64_t taken
        cdef int budget = PIPELINED
        while at < size:
            if c.state == NEW or c.state == IDLE or c.state == HEAD:
                if budget == 0:
                    # A socket is nearly always writable: so epoll brings us back here next turn.
                    self._keep_input(c, data + at, size - at)
                    return self._want(c, EPOLLIN | EPOLLOUT)
                if c.head == NULL:
                    self._take_head(c)
                head_size = parse_head(c.head, data + at, <uint32_t>(size - at), &self.limits)
                if head_size < 0:
                    return self._refuse(c, head_size)
                if head_size == 0:
                    if c.state != HEAD:
                        self._enter(c, HEAD)
                    break
                budget -= 1
                taken = self._begin(c, data + at, head_size, size - at - head_size)
                at += head_size + taken
            elif c.state == BODY:
                taken = body_feed(c.body, data + at, size - at, &self.limits)
                if taken < 0:
                    return self._refuse(c, <int>taken)
                at += taken
                if c.body.phase == COMPLETE:
                    if c.body.chunked:
                        (<Response>c.response).received = c.body.received
                    body = body_take(c.body)
                    body_free(c.body)
                    c.body = NULL
                    self._run(c, body)
            elif c.state == CLOSED:
                return 0
            else:
                break
        if c.state == CLOSED or c.state == LINGERING:
            return 0
        self._keep_input(c, data + at, size - at)
        if c.state != WRITING and c.state != ACTIVE:
            self._want(c, EPOLLIN)
        return 0

    cdef _take_head(self, Connection* c):
        c.head = self.spare_head
        self.spare_head = NULL
        if c.head == NULL:
            c.head = head_new(&self.limits)
            if c.head == NULL:
                raise MemoryError

    cdef _drop_head(self, Connection* c):
        if c.head == NULL:
            return
        if self.spare_head == NULL:
            head_reset(c.head)
            self.spare_head = c.head
        else:
            head_free(c.head)
        c.head = NULL

    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2:
        """A head is complete, `size` bytes follow it. Returns how many of them were used."""
        cdef int64_t length = c.head.content_length
        cdef bint chunked = c.head.chunked
        cdef bint expects = c.head.expect_continue
        cdef Response response
        if length > self.body_limit:
            self._refuse(c, -BODY_TOO_LARGE)
            return 0
        response = self.handler.open(self, c, head)
        if self.draining:
            response.keep_alive = False
        response.connection = c
        Py_INCREF(response)
        c.response = <PyObject*>response
        self._drop_head(c)
        if not chunked and length <= <int64_t>size:
            # The usual case: no body, or one that is here already.
            length = max(length, 0)
            self._run(c, BytesIO(PyBytes_FromStringAndSize(head + head_size, length)))
            return length
        c.body = body_new(chunked, length, self.body_limit)
        if c.body == NULL:
            raise MemoryError
        self._enter(c, BODY)
        if expects and size == 0:
            # RFC 9110 10.1.1. A peer that does not take these bytes will not take more.
            if c_send(c.fd, b"HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) != 25:
                self._close(c)
        return 0

    # -- the request in hand -----------------------------------------------------------------

    cdef int _run(self, Connection* c, object body) except -1:
        self._enter(c, ACTIVE)
        cdef Response response = <Response>c.response
        self.slot.active += 1
        response.body = body
        if self.pool is not None:
            self.pool.submit(response, BEGIN)
            return self._listen_if_free()
        response.begin()
        self.now = _monotonic_usec()
        return self._drive(c)

    cdef int _drive(self, Connection* c) except -1:
        """Send the response as far as the peer and fairness allow."""
        cdef Response response = <Response>c.response
        cdef uint32_t sent = 0
        cdef int outcome
        cdef int i
        for i in range(PIECES):
            sent = 0
            outcome = response.send(c.fd, &sent)
            self.slot.bytes_out += sent
            if outcome != ALL_SENT:
                if outcome == BLOCKED:
                    return self._await_room(c, sent)
                self._complain(c, "the client went away during the response")
                return self._close(c)
            if response.complete:
                return self._finish(c)
            if self.pool is not None:
                self._enter(c, ACTIVE)
                return self.pool.submit(response, PULL)
            response.pull()
            self.now = _monotonic_usec()
            if c.state == WRITING:
                self._enter(c, WRITING)  # the peer took all there was: a whole span for the next
        return self._await_room(c, 0)

    cdef int _await_room(self, Connection* c, uint32_t sent) except -1:
        c.progress += sent
        if c.state != WRITING or c.progress >= PROGRESS:
            self._enter(c, WRITING)
        return self._want(c, EPOLLOUT)

    cdef int _resume(self, Connection* c) except -1:
        """After a response that took more than its turn: on with what came meanwhile."""
        if c.state == IDLE:
            self._want(c, EPOLLIN)
            if c.input.size:
                self._consume(c, c.input.data, c.input.size)
        return 0

    def _collect_done(self):
        self._collect()

    cdef int _collect(self) except -1:
        """Go on with the responses that threads have worked on."""
        cdef Response response
        cdef Connection* c
        while True:
            response = self.pool.collect()
            if response is None:
                break
            c = <Connection*>response.connection
            if c == NULL:  # its connection was closed, or all of it was sent
                if not response.closed:
                    self.pool.submit(response, CLOSE)
                continue
            try:
                self._drive(c)
                self._resume(c)
            except Exception:
                self._broken(c)
        return self._listen_if_free()

    cdef int _finish(self, Connection* c) except -1:
        cdef Response response = <Response>c.response
        cdef bint keep_alive = response.keep_alive
        cdef linger_option reset
        if response.complaint is not None:
            self._complain(c, response.complaint, True)
        note_response(self.slot, response.code)
        if response.cut and not response.chunked and response.length < 0:
            # A body that ends with the connection: only a reset tells the peer that it is short.
            reset.l_onoff = 1
            reset.l_linger = 0
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
        self._release(c)
        c.served += 1
        if not keep_alive:
            return self._close(c)
        self._enter(c, IDLE)
        return 0

    cdef int _release(self, Connection* c) except -1:
        """The request is no longer in hand."""
        cdef Response response
        if c.response != NULL:
            response = <Response>c.response
            c.response = NULL
            Py_DECREF(response)
            if c.state == ACTIVE or c.state == WRITING:
                self.slot.active -= 1
            if self.slot.active == 0:
                self.slot.request_started_usec = 0
            response.connection = NULL
            if response.in_pool:
                return 0  # it is closed when its thread gives it back
            if not response.closed:
                if response.thread >= 0:
                    return self.pool.submit(response, CLOSE)
                response.close()
            if Py_REFCNT(response) == 1:
                self.handler.recycle(<Response>response)
        return 0

    # -- ends --------------------------------------------------------------------------------

    cdef _complain(self, Connection* c, str what, bint of_app=False):
        """One journal line about a connection, with its request where one is in hand: a warning if
        the application is to blame, else information, since clients come and go as they like."""
        if self.handler.report is None:
            return
        request = (<Response>c.response).describe() if c.response != NULL else ""
        peer = self.peer(c)[0] or "a Unix socket"
        self.handler.report(f"{request + ': ' if request else ''}{what} (from {peer})", None,
                            {"PRIORITY": "4" if of_app else "6"})

    cdef int _refuse(self, Connection* c, int verdict) except -1:
        """One answer, one journal line, and nothing served after it."""
        cdef int status = refusal(verdict).status
        reason = refusal(verdict).reason.decode()
        self._complain(c, f"refused with {status}: {reason}")
        self.slot.refused += 1
        note_response(self.slot, status)
        answer = plain_response(status, reason)
        if c_send(c.fd, <char*><bytes>answer, len(answer), MSG_NOSIGNAL) > 0:
            self.slot.bytes_out += len(answer)
        return self._linger(c)

    cdef int _linger(self, Connection* c) except -1:
        """Close after a response that came before all input was read: close() would reset the
        connection under it (RFC 9112 9.6), so shut down one way and read on for a while."""
        self._forget(c)
        if shutdown(c.fd, SHUT_WR) < 0:
            return self._close(c)
        self._enter(c, LINGERING)
        return self._want(c, EPOLLIN)

    cdef _forget(self, Connection* c):
        """Let go of all that a request holds."""
        self._release(c)
        self._drop_head(c)
        body_free(c.body)
        c.body = NULL
        buffer_free(&c.input)

    cdef int _close(self, Connection* c) except -1:
        if c.state == CLOSED:
            return 0
        try:
            self._forget(c)
        finally:
            self._enter(c, CLOSED)
            if c.interest:
                # A fork of the application may hold a copy: epoll would go on reporting it.
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, c.fd, NULL)
            if has_forked:
                # A child may hold a copy, with which the connection would stay open.
                shutdown(c.fd, SHUT_RDWR)
            close(c.fd)
            self.slot.connections -= 1
            c.next = self.graveyard
            self.graveyard = c
            if not self.accepting:
                self.accept_again = 0
                self._listen_if_free()
        return 0

    cdef void _bury(self) noexcept:
        """Free what was closed, once no event of this turn can name it."""
        cdef Connection* c
        while self.graveyard != NULL:
            c = self.graveyard
            self.graveyard = c.next
            if c.peer != NULL:
                Py_DECREF(<object>c.peer)
            free(c)

    cdef int _broken(self, Connection* c) except -1:
        """An error of sockd's own (or no memory): this connection ends, the worker lives."""
        if self.handler.report is not None:
            self.handler.report("internal error on a connection", sys.exc_info(), {})
        try:
            self._close(c)
        except Exception:
            pass
        return 0
