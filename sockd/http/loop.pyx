# cython: language_level=3
"""The connection loop of a worker: what is read, when the application is called, what is sent, and
how all of it ends.

One thread, level-triggered epoll, no system call that can block on a peer. A request is read whole
before the handler is called; the handler's response is sent piece by piece by the loop, so what a
slow client has not read yet never holds the application. `sockd.http.connections` has the table of
a connection's states; the native helper (`sockd.http.helper`) stands in while the loop is away.
"""

import sys
from io import BytesIO

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from sockd.board cimport (
    DRAINING,
    LEAVING,
    READY,
    Board,
    note_duration,
    note_released,
    note_response,
)
from sockd.http.body cimport COMPLETE, body_feed, body_free, body_new, body_take
from sockd.http.connections cimport (
    ACTIVE,
    BODY,
    CLOSED,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    EPOLLOUT,
    HEAD,
    IDLE,
    LINGERING,
    NEW,
    OF_LISTENER,
    OF_WATCHER,
    STATES_COUNT,
    WRITING,
    Connection,
    bury,
    drop_head,
    enter,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    forget,
    keep_input,
    monotonic_usec,
    next_deadline,
    peer_of,
    reserve,
    take_head,
    tagged,
    want,
)
from sockd.http.current cimport id_of
from sockd.http.forks cimport has_forked, this_is_the_worker
from sockd.http.forwarded cimport Trust
from sockd.http.handover cimport (
    NOTHING_WAITS,
    channel_join,
    EVERY,
    give_away,
    has_descriptors,
    silence,
    take,
)
from sockd.http.health cimport health_answer, health_asked
from sockd.http.helper cimport (
    come_back,
    helper_end,
    helper_free,
    helper_hold,
    helper_new,
    helper_start,
    pthread_mutex_unlock,
    rouse,
    step_away,
    store,
    load,
)
from sockd.http.listening cimport AGAIN_USEC, CHANNEL, NO_ROOM, TRY_AGAIN, Listening
from sockd.http.parser cimport (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    HEAD_TIMEOUT,
    SPOOL_FAILED,
    head_begun,
    head_free,
    parse_head,
    refusal,
)
from sockd.http.pool cimport Pool
from sockd.http.stream cimport Stream, stream_file, stream_new
from sockd.http.response cimport (
    ALL_SENT,
    BEGIN,
    BLOCKED,
    CLOSE,
    PULL,
    Response,
    plain_response,
    set_date,
)

cdef extern from "sys/socket.h" nogil:
    cdef struct linger_option "linger":
        int l_onoff
        int l_linger
    ctypedef unsigned int socklen_t
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int MSG_NOSIGNAL
    int SHUT_WR
    int SHUT_RDWR
    int SOL_SOCKET
    int SO_LINGER

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* value)
    int CLOCK_REALTIME_COARSE

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
    # A connection that has not asked anything yet counts as idle after this.
    GRACE_USEC = 1000000
    ADMITTING_USEC = 500
    # What is accepted in one go.
    ACCEPTED = 16
    ACCEPTING_USEC = 1000
    # When to look again for room in the handover channel.
    ROOM_USEC = 5000
    # Connections that are looked at to find one that can be closed.
    ATTEMPTS = 16


def _address(listener):
    address = listener.getsockname()
    return address if isinstance(address, (str, bytes)) else repr(address[:2])


cdef class Handler:
    """A calling convention, such as WSGI.

    The loop calls `open` when a head is read. The response to be that it returns holds the
    request, and does the rest; see `Response`."""

    cdef Response open(self, Loop loop, Connection* connection, const char* head):
        raise NotImplementedError

    cdef int recycle(self, Response response) except -1:
        """A response is closed and all of it was sent, or its connection has ended."""
        return 0


cdef class Loop:
    """The loop over `listeners` (listening sockets), with limits and timeouts from `settings`
    (sockd.settings.Settings), counting in slot number `slot` of `board`."""

    def __cinit__(self, Handler handler, listeners, settings, Board board, int slot):
        memset(&self.all, 0, sizeof(self.all))
        self.all.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.scratch = <char*>malloc(SCRATCH)
        self.channel.give = self.channel.take = -1
        self.helper = helper_new(&self.all, &self.channel)
        if self.all.epoll < 0 or self.scratch == NULL or self.helper == NULL:
            raise MemoryError("no memory or descriptor for the connection loop")

    def __init__(self, Handler handler, listeners, settings, Board board, int slot):
        this_is_the_worker()
        self.handler = handler
        self.listeners = list(listeners)
        self.slot = self.all.slot = board.slot(slot)
        self.watchers = {}
        self.batch = 1
        self.trust = Trust(settings.server.trusted)
        limits = settings.limits
        self.all.limits.request_line = limits.request_line
        self.all.limits.header_field = limits.header_field
        self.all.limits.headers = limits.headers
        self.all.limits.head = limits.head
        self.body_limit = limits.body
        self.queue_limit = <uint64_t>(limits.queue_time * 1000000)
        if settings.server.stream_body:
            self.stream_timeout = settings.timeouts.body
        self.connection_limit = limits.connections
        timeouts = settings.timeouts
        for state, seconds in (
            (NEW, timeouts.keepalive),
            (IDLE, timeouts.keepalive),
            (HEAD, timeouts.header),
            (BODY, timeouts.body),
            (WRITING, timeouts.write),
        ):
            self.all.queues[<int>state].span = max(<uint64_t>(seconds * 1000000), <uint64_t>1)
        self.all.queues[<int>LINGERING].span = LINGER_USEC
        self.all.now = monotonic_usec()
        self._tell_date()
        self.listening = Listening(self.listeners, settings, board)
        self.listening.all = &self.all
        self._instruct_helper(settings, board)
        if settings.threads > 1:
            self.pool = Pool(settings.threads)
            self.watch(self.pool.fd, self._collect_done)

    cdef _instruct_helper(self, settings, Board board):
        self.health = settings.server.health.encode()
        self.helper.health.path = self.health
        self.helper.health.size = len(self.health)
        self.late_head = plain_response(
            refusal(HEAD_TIMEOUT).status, refusal(HEAD_TIMEOUT).reason.decode())
        self.helper.late_head = self.late_head
        self.helper.late_head_size = len(self.late_head)
        self.helper.listeners = self.listening.fds
        self.helper.listener_count = self.listening.count
        self.helper.board = board.memory
        self.helper.slots = board.slots
        self.helper.threads = settings.threads

    def __dealloc__(self):
        helper_free(self.helper)
        if self.all.epoll >= 0:
            close(self.all.epoll)
        head_free(self.all.spare_head)
        free(self.scratch)

    # -- what the worker's process calls -----------------------------------------------------

    def watch(self, int fd, callback):
        """Call `callback()` in the loop whenever `fd` is readable."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = tagged(fd, OF_WATCHER)
        if epoll_ctl(self.all.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "cannot watch a descriptor")
        self.watchers[fd] = callback

    def log_access(self, access):
        """Call `access.note` for every request that has ended (`sockd.worker.access`)."""
        self.access = access

    def unwatch(self, int fd):
        if self.watchers.pop(fd, None) is not None:
            epoll_ctl(self.all.epoll, EPOLL_CTL_DEL, fd, NULL)

    def hold(self, int lifeline):
        """Notice the end of this socket to the master also while the application is busy: health
        checks are answered with 503 from then on."""
        if helper_hold(self.helper, lifeline) < 0:
            raise OSError(errno, "cannot watch the lifeline")

    def join(self, int give, int take, *, bint outlives):
        """Exchange connections with other workers, by a pair of SOCK_SEQPACKET sockets whose two
        ends all of them hold. `outlives`: whoever serves after all of them are gone has it too."""
        # A name, since a later process may have its listeners in another order.
        names = [_address(listener) for listener in self.listeners]
        if not channel_join(&self.channel, give, take, outlives, names):
            return
        on = self.listening.on
        self.listening.turn(False)
        self.listening.channel = take
        self.listening.turn(on)

    def stop(self):
        """Quick end: `run` closes every connection and returns."""
        self.stopping = True

    def drain(self, double seconds, *, bint close_idle, bint accept_rest=False,
              bint hand_over=False):
        """End gracefully: accept no more, finish the requests in hand, let `run` return when no
        connection is left, or after `seconds` (what is in hand then is cut; `aborted` counts it).

        With `hand_over`, and a channel, other workers get the connections: idle ones at once, the
        others after their response. `left_over` counts those that nobody took in time; they are
        closed.

        Without, idle connections are closed at once if `close_idle`; else each is answered once
        more, with `Connection: close`, until its keep-alive time is over. `accept_rest` takes
        what the kernel has queued first: for listeners that nobody serves afterwards."""
        # Also called in the middle of a request, by a signal: its response says so already.
        hand_over = hand_over and self.channel.give >= 0
        self.draining = True
        self.closing = not hand_over
        self.slot.state = LEAVING if hand_over else DRAINING
        self.drain_wish = (seconds, close_idle, accept_rest)

    def run(self):
        """Serve until stopped or drained."""
        cdef int state
        cdef int error = helper_start(self.helper)
        if error:
            raise OSError(error, "cannot start the helper thread")
        try:
            if not self.draining:
                self.slot.state = READY
            self.listening.turn(True)
            while not self.stopping:
                if self.drain_wish is not None:
                    self._begin_drain()
                if self.drain_deadline and self.slot.connections == 0:
                    break
                self._turn()
        finally:
            helper_end(self.helper)
        for state in range(<int>STATES_COUNT):
            while self.all.queues[state].first != NULL:
                self._close(self.all.queues[state].first)
        bury(&self.all)

    # -- one turn ----------------------------------------------------------------------------

    cdef int _turn(self) except -1:
        cdef epoll_event events[EVENTS]
        cdef int count
        cdef int i
        cdef int error
        cdef int timeout
        cdef uint64_t tag
        cdef uint64_t woken
        cdef Connection* c
        timeout = self._timeout()
        pthread_mutex_unlock(&self.helper.lock)
        with nogil:
            count = epoll_wait(self.all.epoll, events, EVENTS, timeout)
            error = errno
            woken = monotonic_usec()
            store(&self.helper.away_usec, woken)  # the interpreter's lock may be long in coming
            if load(&self.helper.asleep):
                rouse(self.helper)
        come_back(self.helper)
        if count < 0 and error != EINTR:
            raise OSError(error, "epoll_wait failed")
        PyErr_CheckSignals()
        self.all.now = self.ready_usec = woken
        self.slot.beat_usec = woken
        self._tell_date()
        if self.slot.state > <uint64_t>READY and not self.draining:
            # The master's order to drain is on its way here, or its end is. What is asked after it
            # was given is not for this worker to answer, so it is heard before any of that is read.
            self._hear_order()
        if self.listening.was_nudged() and not self.draining:
            self._take_over()
            for i in range(self.listening.count):
                self._accept_some(i, False)
        for i in range(count):
            # First: the kernel woke nobody else for it, and the application may take long.
            if events[i].data.u64 == tagged(CHANNEL, OF_LISTENER):
                self._take_over()
        for i in range(count):
            if self.drain_wish is not None:
                break  # epoll tells of the rest again
            tag = events[i].data.u64
            if tag & 3 == OF_LISTENER:
                if tag >> 2 != CHANNEL:
                    self._accept_some(<int>(tag >> 2), True)
            elif tag & 3 == OF_WATCHER:
                try:
                    callback = self.watchers.get(<int>(tag >> 2))
                    if callback is not None:
                        callback()
                except MemoryError:
                    pass  # epoll tells of it again
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
                        self.ready_usec = woken
                        self._readable(c)
                except Exception:
                    self._broken(c)
        if self.drain_wish is not None:
            return 0  # some of these events have not had their turn
        # Only what was readable at some moment and has had its turn is held to the time of that
        # moment: what the application took since is nobody's fault. epoll goes round all that is
        # ready, so a row of full answers as long as there are connections has had everyone.
        if self.full_turns == 0:
            self.asked_usec = woken
        self.full_turns += 1
        if count < EVENTS or self.full_turns * EVENTS > self.slot.connections + EVENTS:
            self.full_turns = 0
            self._expire(woken if count < EVENTS else self.asked_usec)
        if self.handing_over:
            self._hand_over()
        bury(&self.all)
        if self.listening.again and self.all.now >= self.listening.again:
            self.listening.again = 0
            self._listen_if_free()
        return 0

    cdef void _tell_date(self) noexcept:
        cdef timespec value
        clock_gettime(CLOCK_REALTIME_COARSE, &value)
        if value.tv_sec != self.date:
            try:
                set_date(value.tv_sec)
                self.date = value.tv_sec
            except MemoryError:
                pass  # the next turn tells it

    cdef int _timeout(self):
        """Milliseconds until the next deadline, -1 for none."""
        cdef uint64_t deadline = next_deadline(&self.all)
        if self.drain_wish is not None or self.stopping:
            return 0
        if self.drain_deadline and (deadline == 0 or self.drain_deadline < deadline):
            deadline = self.drain_deadline
        if self.listening.again and (deadline == 0 or self.listening.again < deadline):
            deadline = self.listening.again
        if self.handing_over and self._holds_idle():
            deadline = min(deadline, self.all.now + ROOM_USEC) if deadline else (
                self.all.now + ROOM_USEC)
        if deadline == 0:
            return -1
        if deadline <= self.all.now:
            return 0
        return <int>min((deadline - self.all.now) // 1000 + 1, <uint64_t>3600000)

    cdef void _expire(self, uint64_t now) noexcept:
        cdef int state
        cdef Connection* c
        for state in range(<int>STATES_COUNT):
            while True:
                c = self.all.queues[state].first
                if c == NULL or not self.all.queues[state].span or c.deadline > now:
                    break
                try:
                    if state == HEAD:
                        self._refuse(c, -HEAD_TIMEOUT)
                    elif state == BODY:
                        self._refuse(c, -BODY_TIMEOUT)
                    elif state == WRITING:
                        self._cut(c, "cut: the client took too long to read the response")
                    else:
                        self._close(c)
                except Exception:
                    self._broken(c)
        if self.drain_deadline and now >= self.drain_deadline:
            if self.handing_over:
                self._end_left_over()
            for state in range(<int>HEAD, <int>WRITING + 1):
                while self.all.queues[state].first != NULL:
                    self.aborted += 1
                    c = self.all.queues[state].first
                    try:
                        self._cut(c, "cut at the drain deadline")
                    except Exception:
                        self._broken(c)
            self.stopping = True

    cdef int _cut(self, Connection* c, str why) except -1:
        self._complain(c, why)
        if self.access is not None and c.response != NULL:
            self._note_access(
                c, (<Response>c.response).code, (<Response>c.response).sent_bytes, why)
        self._close(c)
        return 0

    # -- accepting, and ceasing to -----------------------------------------------------------

    cdef void _listen_if_free(self) noexcept:
        """What cannot run is not accepted: another worker may have room for it."""
        cdef bint has_thread = self.pool is None or self.pool.busy < self.pool.size
        if self.helper.health.size and has_thread == (self.helper.deaf_usec != 0):
            store(&self.helper.deaf_usec, 0 if has_thread else self.all.now)
            if load(&self.helper.asleep):
                rouse(self.helper)
        if self.draining or self.listening.again:
            return
        if not has_thread:
            self.listening.turn(False)
        elif self.slot.connections >= self.connection_limit and not self._make_room():
            # Not until one closes: others become idle, and can be closed for those who wait.
            self.listening.pause(AGAIN_USEC)
        else:
            self.listening.turn(True)

    cdef void _accept_some(self, int index, bint waits) noexcept:
        """As many as came last time and one more, so that a burst takes few turns and a single
        connection few calls in vain. What other workers could serve meanwhile is left to them.
        `waits` as for `_accept`."""
        cdef Connection* fresh[ACCEPTED]
        cdef uint64_t before = self.slot.connections
        cdef uint64_t until = self.all.now + ACCEPTING_USEC
        cdef int taken = 0
        cdef int i
        while (self.listening.on and taken < self.batch and self.all.now < until
                and self.slot.connections < self.connection_limit):
            fresh[taken] = self._accept(index, waits and taken == 0)
            if fresh[taken] == NULL:
                self.batch = max(taken, 1)
                break
            taken += 1
            if not self.listening.alone:
                self._greet(fresh[taken - 1])
                if self.slot.connections > before:
                    break
        else:
            self.batch = min(taken + 1, <int>ACCEPTED)
        if self.listening.alone:
            # The first has had time to send its request.
            for i in range(taken):
                self._greet(fresh[i])
        if taken == 0 and self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef void _accept_rest(self, int index) noexcept:
        cdef Connection* c = self._accept(index, True)
        while c != NULL:
            self._greet(c)
            c = self._accept(index, True) if self.listening.on else NULL

    cdef Connection* _accept(self, int index, bint waits) noexcept:
        """The next connection, NULL if there is none or it is left to others. `waits`: epoll says
        that one does. Without, a want of descriptors means nothing, since accept(2) looks for one
        before it looks for a connection."""
        cdef Connection* c = NULL
        cdef int outcome = TRY_AGAIN
        if not self.draining and self.listening.leaves_it():
            return NULL
        while outcome == TRY_AGAIN:
            outcome = self.listening.accept(index, &c)
            if outcome == NO_ROOM and waits:
                if self._make_room():
                    outcome = TRY_AGAIN
                else:
                    # Without this the loop would turn at full speed on what it cannot take.
                    self.listening.pause(AGAIN_USEC)
        return c

    cdef void _greet(self, Connection* c) noexcept:
        """A new connection: served at once if its request is there already."""
        if c.state != NEW:
            return  # closed to make room
        self.ready_usec = self.all.now
        try:
            self._readable(c)
        except Exception:
            self._broken(c)
        if c.state != CLOSED:
            self.listening.queue_up(c.listener)
        if c.state == NEW and not self.listening.alone:
            # In a burst of connections that ask nothing yet: the others were woken for theirs.
            sched_yield()
        if self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef bint _make_room(self) noexcept:
        """Close the connection that is of least use: one that only lingers, else the one that has
        been idle longest, or silent from its start. False if each has a request."""
        cdef Connection* c
        cdef int attempt
        for attempt in range(ATTEMPTS):
            c = self.all.queues[<int>LINGERING].first
            if c == NULL:
                c = self._longest_idle()
            if c == NULL:
                return False
            self._end_unless_it_asks(c)
            if c.state == CLOSED:
                return True
        return False

    cdef Connection* _longest_idle(self) noexcept:
        cdef Connection* idle = self.all.queues[<int>IDLE].first
        cdef Connection* silent = self.all.queues[<int>NEW].first
        if silent == NULL or (idle != NULL and idle.deadline < silent.deadline):
            return idle
        if self.all.now + self.all.queues[<int>NEW].span < silent.deadline + GRACE_USEC:
            return idle  # that one may be about to ask
        return silent

    cdef void _end_unless_it_asks(self, Connection* c) noexcept:
        """A request may be in the socket already, or wait in memory for its turn."""
        if c.state == LINGERING:
            self._close(c)
            return
        try:
            self._readable(c)
        except Exception:
            self._broken(c)
        if c.state <= <int>IDLE and not c.interest & EPOLLOUT:
            self._close(c)

    cdef int _begin_drain(self) except -1:
        cdef int index
        seconds, close_idle, accept_rest = self.drain_wish
        self.drain_wish = None
        self.all.now = monotonic_usec()
        first = not self.drain_deadline
        self.drain_deadline = self.all.now + <uint64_t>(seconds * 1000000)
        if first:
            if accept_rest:
                self.listening.turn(True)
                for index in range(self.listening.count):
                    self._accept_rest(index)
            self.listening.turn(False)
        self.listening.again = 0
        self.handing_over = not self.closing
        if self.handing_over:
            self.takers = self.listening.takers()
            self._hand_over()
        elif close_idle:
            self._begin_close()
        return 0

    cdef void _begin_close(self) noexcept:
        cdef Connection* c
        cdef int state
        # What others gave away is nobody's otherwise.
        while self.channel.take >= 0 and has_descriptors(
            &self.channel, self.slot.connections, self.all.now
        ) and take(&self.all, &self.channel) != NOTHING_WAITS:
            pass
        for state in range(<int>NEW, <int>HEAD + 1):
            c = self.all.queues[state].first
            while c != NULL:
                if c.interest == 0:  # it waited for others to take it
                    want(&self.all, c, EPOLLIN | EPOLLOUT if c.input.size else EPOLLIN)
                c = c.next
        c = self.all.queues[<int>IDLE].first
        while c != NULL:
            self._end_unless_it_asks(c)
            c = self.all.queues[<int>IDLE].first
        self.all.queues[<int>NEW].span = GRACE_USEC
        c = self.all.queues[<int>NEW].first
        while c != NULL:
            c.deadline = self.all.now + GRACE_USEC
            c = c.next

    # -- connections that come from other workers, or go to them -----------------------------

    def _hear_order(self):
        callback = self.watchers.get(self.helper.lifeline)
        if callback is not None:
            callback()

    cdef void _take_over(self) noexcept:
        """One message of connections that another worker has given away."""
        if self.draining or not self.listening.on or self.channel.take < 0:
            return
        if self.listening.leaves_it():
            return
        if not has_descriptors(&self.channel, self.slot.connections, self.all.now):
            self.listening.pause(AGAIN_USEC)
            return
        if take(&self.all, &self.channel) == NOTHING_WAITS:
            return
        self.listening.queue_up(CHANNEL)
        if self.channel.unreadable:
            try:
                if self.handler.report is not None:
                    self.handler.report(
                        f"{self.channel.unreadable} connections could not be taken over, and were "
                        "answered with 503", None, {"PRIORITY": "3"})
            except Exception:
                pass  # no memory for it
            self.slot.refused += self.channel.unreadable
            self.channel.unreadable = 0
        if self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef void _hand_over(self) noexcept:
        """Give away what has no request in hand, as far as there is room for it."""
        cdef Connection* c
        cdef Connection* following
        cdef int state
        if not self._holds_idle():
            return
        for state in range(<int>NEW, <int>HEAD + 1):
            c = self.all.queues[state].first
            while c != NULL:
                following = c.next
                if c.late:  # it was ended already
                    try:
                        self._eof(c)
                    except Exception:
                        self._broken(c)
                c = following
        if give_away(
            &self.all, &self.channel, EVERY,
            <int>self.slot.connections // (2 * self.takers) + 1, 1 << 30
        ) < 0:
            silence(&self.all)

    cdef bint _leaves(self) noexcept:
        """Whether what is asked from here on is for others to answer: the order to drain may still
        be on its way."""
        return self.handing_over or self.slot.state == LEAVING and self.channel.give >= 0

    cdef bint _holds_idle(self) noexcept:
        return (self.all.queues[<int>NEW].first != NULL or self.all.queues[<int>IDLE].first != NULL
                or self.all.queues[<int>HEAD].first != NULL)

    cdef void _end_left_over(self) noexcept:
        """Nobody took them in the whole drain time."""
        cdef int state
        for state in range(<int>NEW, <int>HEAD + 1):
            while self.all.queues[state].first != NULL:
                self.left_over += 1
                self._close(self.all.queues[state].first)

    cdef int _want(self, Connection* c, uint32_t events) except -1:
        if want(&self.all, c, events) < 0:
            raise OSError(errno, "cannot watch a connection")
        return 0

    # -- input -------------------------------------------------------------------------------

    cdef int _readable(self, Connection* c) except -1:
        cdef ssize_t got
        cdef size_t held = c.input.size
        cdef char* data = self.scratch
        if c.state == LINGERING:
            return self._discard(c)
        if c.late:
            return self._eof(c)  # a request that crossed it must not run: nobody reads the answer
        if held and c.interest & EPOLLOUT:
            # Requests that wait in memory: their turn came, nothing new needs to be read.
            self._want(c, EPOLLIN)
            c.input.size = 0
            return self._consume(c, c.input.data, held)
        if held:
            if not reserve(&c.input, held + 16384):
                raise MemoryError
            data = c.input.data
        got = recv(c.fd, data + held, (c.input.capacity if held else SCRATCH) - held, 0)
        if got < 0:
            if errno == EAGAIN or errno == EINTR:
                return self._want(c, EPOLLIN)
            self._close(c)
            return 0
        if got == 0:
            return self._eof(c)
        self.slot.bytes_in += got
        if c.state == BODY:
            c.progress += <uint32_t>got
            if c.progress >= PROGRESS:
                enter(&self.all, c, BODY)
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
        self._close(c)
        return 0

    cdef int _keep(self, Connection* c, const char* data, size_t size) except -1:
        """Keep input that cannot be used yet."""
        if not keep_input(c, data, size):
            raise MemoryError
        return 0

    cdef int _eof(self, Connection* c) except -1:
        if c.late and c.state == HEAD:
            self._note_refusal(c, HEAD_TIMEOUT)
        elif c.state == BODY:
            declared = f" of {c.body.length}" if c.body.length >= 0 else ""
            self._complain(c, f"cut upload: {c.body.received}{declared} bytes of the body came")
        self._close(c)
        return 0

    cdef int _consume(self, Connection* c, char* data, size_t size) except -1:
        """Work through input: heads, bodies, pipelined requests in their order."""
        cdef size_t at = 0
        cdef int head_size
        cdef int64_t taken
        cdef int budget = PIPELINED
        while at < size:
            if c.state == NEW or c.state == IDLE or c.state == HEAD:
                if self._leaves():
                    c.arrived_usec = self.all.now
                    return self._keep(c, data + at, size - at)
                if budget == 0:
                    c.arrived_usec = self.all.now
                    # A socket is nearly always writable: so epoll brings us back here next turn.
                    self._keep(c, data + at, size - at)
                    return self._want(c, EPOLLIN | EPOLLOUT)
                if c.head == NULL and not take_head(&self.all, c):
                    raise MemoryError
                head_size = parse_head(c.head, data + at, <uint32_t>(size - at), &self.all.limits)
                if head_size < 0:
                    return self._refuse(c, head_size)
                if head_size == 0:
                    if c.state != HEAD and head_begun(c.head, <uint32_t>(size - at)):
                        enter(&self.all, c, HEAD)
                    break
                budget -= 1
                taken = self._begin(c, data + at, head_size, size - at - head_size)
                at += head_size + taken
            elif c.state == BODY:
                taken = body_feed(c.body, data + at, size - at, &self.all.limits)
                if taken < 0:
                    return self._refuse(c, <int>taken)
                at += taken
                if c.body.phase == COMPLETE:
                    (<Response>c.response).waiting_since = self.ready_usec
                    if at < size:
                        c.done_asking = False
                    self._run_with_body(c)
            elif c.state == CLOSED:
                return 0
            else:
                break
        if c.state == CLOSED or c.state == LINGERING:
            return 0
        if at < size or c.input.size == 0:  # else the rest of a body's stream is there
            self._keep(c, data + at, size - at)
        if c.state != WRITING and c.state != ACTIVE:
            self._want(c, EPOLLIN | (EPOLLOUT if at == size and c.input.size else 0))
        return 0

    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2:
        """A head is complete, `size` bytes follow it. Returns how many of them were used."""
        cdef int64_t length = c.head.content_length
        cdef bint chunked = c.head.chunked
        cdef bint expects = c.head.expect_continue
        cdef Response response
        if length > self.body_limit:
            self._refuse(c, -BODY_TOO_LARGE)
            return 0
        if health_asked(&self.helper.health, c.head, head):
            return self._tell_health(c, head)
        response = self.handler.open(self, c, head)
        response.waiting_since = min(response.waiting_since, self.ready_usec)
        if c.arrived_usec:
            response.waiting_since = min(response.waiting_since, c.arrived_usec)
            c.arrived_usec = 0
        if self.closing:
            response.keep_alive = False
        response.connection = c
        Py_INCREF(response)
        c.response = <PyObject*>response
        c.done_asking = not c.head.keep_alive
        drop_head(&self.all, c)
        if not chunked and length <= <int64_t>size:
            # The usual case: no body, or one that is here already.
            length = max(length, 0)
            if length < <int64_t>size:
                c.done_asking = False
            self._run(c, BytesIO(PyBytes_FromStringAndSize(head + head_size, length)))
            return length
        c.body = body_new(chunked, length, self.body_limit)
        if c.body == NULL:
            raise MemoryError
        if self.stream_timeout:
            return self._begin_stream(c, head + head_size, size, expects)
        enter(&self.all, c, BODY)
        if expects and size == 0:
            # RFC 9110 10.1.1. A peer that does not take these bytes will not take more.
            if c_send(c.fd, b"HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) != 25:
                self._close(c)
        return 0

    cdef int64_t _begin_stream(
        self, Connection* c, const char* data, size_t size, bint expects
    ) except -2:
        """The application reads the rest of the body, unless all of it is here. Returns how many
        bytes were used."""
        cdef Response response = <Response>c.response
        cdef int64_t taken = body_feed(c.body, data, size, &self.all.limits)
        if taken < 0:
            self._refuse(c, <int>taken)
        elif c.body.phase == COMPLETE:
            if taken < <int64_t>size:
                c.done_asking = False
            self._run_with_body(c)
        else:
            try:
                response.stream = stream_new(
                    c.fd, c.body, &self.all.limits, self.stream_timeout, expects and size == 0)
            except OSError:
                self._refuse(c, -SPOOL_FAILED)
                return taken
            c.body = NULL
            self._run(c, stream_file(<Stream>response.stream))
        return max(taken, 0)

    cdef int64_t _tell_health(self, Connection* c, const char* head) except -2:
        cdef bint kept = health_answer(c.fd, c.head, head, self.draining, self.date)
        drop_head(&self.all, c)
        c.arrived_usec = 0
        c.served += 1
        if not kept:
            return self._linger(c)
        enter(&self.all, c, IDLE)
        return 0

    # -- the request in hand -----------------------------------------------------------------

    cdef int _run_with_body(self, Connection* c) except -1:
        if c.body.chunked:
            (<Response>c.response).received = c.body.received
        body = body_take(c.body)
        body_free(c.body)
        c.body = NULL
        return self._run(c, body)

    cdef int _run(self, Connection* c, object body) except -1:
        enter(&self.all, c, ACTIVE)
        cdef Response response = <Response>c.response
        self.slot.active += 1
        response.body = body
        if self.pool is not None:
            self.pool.submit(response, BEGIN)
            if self.pool.busy == self.pool.size:
                # Never to make room, which reads: what follows this request lies in `scratch`.
                self._listen_if_free()
            return 0
        step_away(self.helper, self.all.now)
        try:
            response.begin()
        finally:
            come_back(self.helper)
        self.all.now = monotonic_usec()
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
            response.sent_bytes += sent
            if outcome != ALL_SENT:
                if outcome == BLOCKED:
                    return self._await_room(c, sent)
                return self._cut(c, "the client went away during the response")
            if response.complete:
                return self._finish(c)
            if response.entry >= 0:
                self.slot.in_hand[response.entry].sending = 0
            if self.pool is not None:
                enter(&self.all, c, ACTIVE)
                return self.pool.submit(response, PULL)
            step_away(self.helper, self.all.now)
            try:
                response.pull()
            finally:
                come_back(self.helper)
            self.all.now = monotonic_usec()
            if c.state == WRITING:
                enter(&self.all, c, WRITING)  # the peer took all there was: a whole span for the next
        return self._await_room(c, 0)

    cdef int _await_room(self, Connection* c, uint32_t sent) except -1:
        cdef int entry = (<Response>c.response).entry
        if entry >= 0:
            self.slot.in_hand[entry].sending = 1
        c.progress += sent
        if c.state != WRITING or c.progress >= PROGRESS:
            enter(&self.all, c, WRITING)
        return self._want(c, EPOLLOUT)

    cdef int _resume(self, Connection* c) except -1:
        """After a response that took more than its turn: on with what came meanwhile."""
        cdef size_t held = c.input.size
        if c.state == IDLE and not self._leaves():
            self._want(c, EPOLLIN)
            if held:
                c.input.size = 0
                self._consume(c, c.input.data, held)
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
                if response.closed:
                    self._end_entry(response)
                else:
                    self.pool.submit(response, CLOSE)
                continue
            try:
                self._drive(c)
                self._resume(c)
            except Exception:
                self._broken(c)
        self._listen_if_free()
        if not self.listening.on and not self.draining and not self.listening.again:
            self._admit()
        return 0

    cdef void _admit(self) noexcept:
        """Threads come free and are taken again by the connections that are here: let one that
        waits outside into their line now and then, or it would wait as long as they ask."""
        cdef Connection* c
        cdef int index
        if self.all.now >= self.admitted_usec + ADMITTING_USEC:
            self.admitted_usec = self.all.now
            for index in range(self.listening.count):
                c = self._accept(index, False)
                if c != NULL:
                    self._greet(c)
                    break

    cdef int _finish(self, Connection* c) except -1:
        cdef Response response = <Response>c.response
        cdef bint keep_alive = response.keep_alive
        cdef bint at_once = c.done_asking
        cdef linger_option reset
        if response.complaint is not None:
            self._complain(c, response.complaint, True)
        note_response(self.slot, response.code)
        if response.begun_usec:
            note_duration(self.slot, max(self.all.now, response.begun_usec) - response.begun_usec)
        if self.access is not None:
            self._note_access(
                c, response.code, response.sent_bytes, "cut by the application's fault"
                if response.cut else "")
        if response.cut and not response.chunked and response.length < 0:
            # A body that ends with the connection: only a reset tells the peer that it is short.
            reset.l_onoff = 1
            reset.l_linger = 0
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
            at_once = True
        stream = response.stream
        self._release(c)
        c.served += 1
        if stream is not None:
            if not (<Stream>stream).complete():
                return self._linger(c)
            self._keep(c, (<Stream>stream).rest.data, (<Stream>stream).rest.size)
            at_once = at_once and (<Stream>stream).rest.size == 0
        if keep_alive:
            enter(&self.all, c, IDLE)
            return 0
        if not at_once:
            return self._linger(c)
        self._close(c)
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
                step_away(self.helper, self.all.now)
                try:
                    response.close()
                finally:
                    come_back(self.helper)
            response.stream = None
            self._end_entry(response)
            self.handler.recycle(response)
        return 0

    cdef void _end_entry(self, Response response) noexcept:
        """The application is done with the request."""
        if response.entry >= 0:
            note_released(self.slot, response.entry)
            response.entry = -1

    # -- ends --------------------------------------------------------------------------------

    cdef _complain(self, Connection* c, str what, bint of_app=False):
        """One journal line about a connection, with its request where one is in hand: a warning if
        the application is to blame, else information, since clients come and go as they like."""
        if self.handler.report is None:
            return
        request = (<Response>c.response).describe() if c.response != NULL else ""
        peer = peer_of(c)[0] or "a Unix socket"
        self.handler.report(f"{request + ': ' if request else ''}{what} (from {peer})", None,
                            {"PRIORITY": "4" if of_app else "6"})

    cdef _note_refusal(self, Connection* c, int verdict):
        cdef int status = refusal(verdict).status
        self._complain(c, f"refused with {status}: {refusal(verdict).reason.decode()}")
        self.slot.refused += 1
        note_response(self.slot, status)

    cdef int _note_access(self, Connection* c, int status, uint64_t sent, str why) except -1:
        """A request has ended; `sent` bytes of its response were taken."""
        cdef Response response
        cdef uint64_t begun
        peer = peer_of(c)[0]
        if c.response == NULL:
            kept = self.access.note({}, status, 0, 0, sent, 0, None, peer, [], why)
        else:
            response = <Response>c.response
            begun = response.begun_usec
            kept = self.access.note(
                response.told(), status, max(self.all.now, begun) - begun if begun else 0,
                max(begun, response.waiting_since) - response.waiting_since if begun else 0,
                sent, response.body_size, id_of(response, self.slot), peer,
                response.headers or [], why)
        if not kept:
            self.slot.access_lost += 1
        return 0

    cdef int _refuse(self, Connection* c, int verdict) except -1:
        """One answer, one journal line, and nothing served after it."""
        cdef ssize_t sent
        self._note_refusal(c, verdict)
        answer = plain_response(refusal(verdict).status, refusal(verdict).reason.decode())
        sent = max(0, c_send(c.fd, <char*><bytes>answer, len(answer), MSG_NOSIGNAL))
        self.slot.bytes_out += sent
        if self.access is not None:
            self._note_access(c, refusal(verdict).status, sent, "")
        return self._linger(c)

    cdef int _linger(self, Connection* c) except -1:
        """Close after a response while input is unread or may be on its way: close() would reset
        the connection under it (RFC 9112 9.6), so shut down one way and read on for a while."""
        self._forget(c)
        if shutdown(c.fd, SHUT_WR) < 0:
            self._close(c)
            return 0
        enter(&self.all, c, LINGERING)
        return self._want(c, EPOLLIN)

    cdef void _forget(self, Connection* c) noexcept:
        """Let go of all that a request holds."""
        try:
            self._release(c)
        except Exception:
            self._report_fault()
        forget(&self.all, c)

    cdef void _close(self, Connection* c) noexcept:
        if c.state == CLOSED:
            return
        self._forget(c)
        enter(&self.all, c, CLOSED)
        if c.interest:
            # A fork of the application may hold a copy: epoll would go on reporting it.
            epoll_ctl(self.all.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        if has_forked or self.stream_timeout or c.moved:
            # A child, or the stream of a body, may hold a copy: it would stay open with that.
            shutdown(c.fd, SHUT_RDWR)
        close(c.fd)
        self.slot.connections -= 1
        c.next = self.all.graveyard
        self.all.graveyard = c
        if not self.listening.on:
            self.listening.again = 0
            self._listen_if_free()

    cdef void _broken(self, Connection* c) noexcept:
        """An error of sockd's own (or no memory): this connection ends, the worker lives."""
        self._report_fault()
        self._close(c)

    cdef void _report_fault(self) noexcept:
        if self.handler.report is not None:
            try:
                self.handler.report("internal error on a connection", sys.exc_info(), {})
            except MemoryError:
                pass
