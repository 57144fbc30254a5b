# cython: language_level=3
"""The connection loop of a worker: what is read, when the application is called, what is sent, and
how all of it ends.

One thread, level-triggered epoll, no system call that can block on a peer. A request is read whole
before the handler is called; the handler's response is sent piece by piece by the loop, so what a
slow client has not read yet never holds the application. `sockd.http.connections` has the table of
a connection's states; the native helper (`sockd.http.helper`) stands in while the loop is away.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from sockd.board cimport DRAINING, LEAVING, READY, Board
from sockd.http.connections cimport (
    ACTIVE,
    BODY,
    CLOSED,
    EPOLLIN,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
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
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    monotonic_usec,
    next_deadline,
    tagged,
)
from sockd.http.deadlines cimport watch_new, watch_thread
from sockd.http.forks cimport this_is_the_worker
from sockd.http.forwarded cimport Trust
from sockd.http.handover cimport channel_join, take
from sockd.http.helper cimport (
    come_back,
    helper_end,
    helper_free,
    helper_hold,
    helper_new,
    helper_start,
    load,
    pthread_mutex_unlock,
    rouse,
    store,
)
from sockd.http.listening cimport CHANNEL, Listening
from sockd.http.parser cimport BODY_TIMEOUT, HEAD_TIMEOUT, head_free, refusal
from sockd.http.pool cimport Pool
from sockd.http.ends cimport Handler
from sockd.http.reception cimport Reception
from sockd.http.response cimport Response, plain_response, set_date

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
    LINGER_USEC = 2000000
    # When to look again for room in the handover channel.
    ROOM_USEC = 5000


def _address(listener):
    address = listener.getsockname()
    return address if isinstance(address, (str, bytes)) else repr(address[:2])


cdef class Loop(Reception):


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
        self.concurrency = limits.concurrency if handler.streams else 0
        if settings.server.stream_body and not handler.streams:
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
        if handler.streams:
            self.listening.threads = self.concurrency or 0xFFFFFFFF
        self.listening.all = &self.all
        self._instruct_helper(settings, board)
        if watch_new(&self.helper.watch, &self.all, 1 if handler.streams else settings.threads,
                     0 if handler.streams else timeouts.request,
                     0 if handler.streams else settings.log.slow) < 0:
            raise MemoryError
        if settings.threads > 1 and not handler.streams:
            self.pool = Pool(settings.threads)
            self.pool.watch = &self.helper.watch
            self.helper.watch.wake = self.pool.fd
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
        self.helper.header = board.header
        self.helper.threads = self.listening.threads

    def __dealloc__(self):
        helper_free(self.helper)
        if self.all.epoll >= 0:
            close(self.all.epoll)
        head_free(self.all.spare_head)
        free(self.scratch)

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
        """Before `fd` is closed."""
        if fd == self.helper.lifeline:
            self.helper.lifeline = -1  # the number may come to mean another file
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
        self._begin_serving()
        try:
            if self.pool is None:
                watch_thread(&self.helper.watch, 0)
            while not self._is_over():
                self._turn()
        finally:
            self._end_serving()

    cdef int _begin_serving(self) except -1:
        cdef int error = helper_start(self.helper)
        if error:
            raise OSError(error, "cannot start the helper thread")
        if not self.draining:
            self.slot.state = READY
        self.listening.turn(True)
        return 0

    cdef bint _is_over(self) except -1:
        if self.stopping:
            return True
        if self.drain_wish is not None:
            self._begin_drain()
        return (self.drain_deadline != 0 and self.slot.connections == 0
                and not self.handler.busy())

    cdef int _end_serving(self) except -1:
        cdef int state
        helper_end(self.helper)
        for state in range(<int>STATES_COUNT):
            while self.all.queues[state].first != NULL:
                self._close(self.all.queues[state].first)
        bury(&self.all)
        return 0

    cdef int _turn(self) except -1:
        cdef epoll_event events[EVENTS]
        cdef int count
        cdef int error
        cdef int timeout
        cdef uint64_t woken
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
        return self._serve_ready(events, count, woken)

    cdef int _serve_ready(self, epoll_event* events, int count, uint64_t woken) except -1:
        """Do what `events` of the epoll tell, -1 of them after a signal, and what is due."""
        cdef int i
        cdef uint64_t tag
        cdef Connection* c
        cdef Response response
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
                    if c.response != NULL and (<Response>c.response).of_task:
                        response = <Response>c.response  # it may let go of its connection
                        response.event(events[i].events)
                        response = None
                    elif c.state == WRITING:
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
        elif self.closes_idle:
            self._end_idle()  # its response had begun before the drain, and said nothing of it
        bury(&self.all)
        if self.helper.watch.due_usec and self.all.now >= self.helper.watch.due_usec:
            self._look_at_hands()
        if self.helper.watch.end_usec:
            self._leave()
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

    cdef uint64_t _next_deadline(self):
        """When the loop has to look next whatever comes, 0 for never."""
        cdef uint64_t deadline = next_deadline(&self.all)
        if self.drain_deadline and (deadline == 0 or self.drain_deadline < deadline):
            deadline = self.drain_deadline
        if self.listening.again and (deadline == 0 or self.listening.again < deadline):
            deadline = self.listening.again
        if self.handing_over and self._holds_idle():
            deadline = min(deadline, self.all.now + ROOM_USEC) if deadline else (
                self.all.now + ROOM_USEC)
        if self.helper.watch.due_usec and (
            deadline == 0 or self.helper.watch.due_usec < deadline
        ):
            deadline = self.helper.watch.due_usec
        return deadline

    cdef int _timeout(self):
        """Milliseconds until the next deadline, -1 for none."""
        cdef uint64_t deadline = self._next_deadline()
        if self.drain_wish is not None or self.stopping:
            return 0
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
                        self._refuse_body(c, -BODY_TIMEOUT)
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

    def _hear_order(self):
        callback = self.watchers.get(self.helper.lifeline)
        if callback is not None:
            callback()
