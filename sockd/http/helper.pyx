# cython: language_level=3
"""The native helper of a worker: a thread that never takes the interpreter's lock.

While the loop is away, because the application runs in its thread or does not let go of the lock,
the helper looks after the connections: it reads heads that come in, answers health checks, keeps
what else was asked for the loop, and ends connections at their deadlines. It shuts them down and
never closes one: the loop may know a descriptor's number still.

It sleeps while the loop does nothing, and looks every TICK_MS while it does; what it finds within
PATIENCE_USEC is none of its business, so a loop that beats costs two uncontended locks a request.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from sockd.board cimport DRAINING, FREE, LEAVING, READY, SLOT_SIZE, Slot
from sockd.http.connections cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    HEAD,
    IDLE,
    LISTENERS,
    NEW,
    Connection,
    Connections,
    connection_new,
    drop_head,
    enter,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    keep_input,
    monotonic_usec,
    reserve,
    sockaddr_in6,
    take_head,
    want,
)
from sockd.http.handover cimport ASKING, EVERY, MOST, SILENT, give_away, silence
from sockd.http.health cimport health_answer, health_asked
from sockd.http.parser cimport head_begun, parse_head

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t* attributes)
    int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size)
    int pthread_attr_destroy(pthread_attr_t* attributes)
    int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                       void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    int pthread_mutex_init(pthread_mutex_t* lock, const void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* lock)
    int pthread_mutex_trylock(pthread_mutex_t* lock)

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)
    int SIG_SETMASK

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC
    int EFD_NONBLOCK

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int SHUT_RDWR
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC

cdef extern from "time.h" nogil:
    ctypedef long time_t
    time_t time(time_t* where)

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)
    int close(int fd)

cdef enum:
    TICK_MS = 5
    PATIENCE_USEC = 10000
    QUIET_TICKS = 100
    # An application call that takes longer will keep its worker for a while.
    LONG_USEC = 50000
    UNUSED = 64
    STACK = 256 << 10
    EVENTS = 64
    SCRATCH = 16384
    # Connections that nobody has a thread for, taken from the queue for the sake of a health check
    # among them: what they ask waits for this worker then.
    TAKEN = 8


cdef Helper* helper_new(Connections* all, Channel* channel) noexcept nogil:
    """A helper for `all` and `channel` that is not started, its lock held by the caller; NULL (errno) if it
    cannot be. What it shall do is set in it before it is started."""
    cdef Helper* helper = <Helper*>calloc(1, sizeof(Helper))
    if helper == NULL:
        return NULL
    pthread_mutex_init(&helper.lock, NULL)
    pthread_mutex_lock(&helper.lock)
    helper.all = all
    helper.channel = channel
    helper.lifeline = -1
    helper.scratch = <char*>malloc(SCRATCH)
    helper.epoll = epoll_create1(EPOLL_CLOEXEC)
    helper.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if helper.scratch == NULL or helper.wake < 0 or helper_hold(helper, helper.wake) < 0:
        helper_free(helper)
        return NULL
    return helper


cdef void helper_free(Helper* helper) noexcept nogil:
    if helper == NULL:
        return
    if helper.epoll >= 0:
        close(helper.epoll)
    if helper.wake >= 0:
        close(helper.wake)
    free(helper.scratch)
    pthread_mutex_unlock(&helper.lock)
    pthread_mutex_destroy(&helper.lock)
    free(helper)


cdef int helper_hold(Helper* helper, int fd) noexcept nogil:
    """Watch the wake or, by its end alone, the lifeline; -1 (errno) if it cannot."""
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN if fd == helper.wake else EPOLLRDHUP
    event.data.u64 = fd
    if fd != helper.wake:
        helper.lifeline = fd
    return epoll_ctl(helper.epoll, EPOLL_CTL_ADD, fd, &event)


cdef int helper_start(Helper* helper) noexcept nogil:
    """0 or an errno. All signals are the other threads'."""
    cdef pthread_attr_t attributes
    cdef sigset_t every
    cdef sigset_t before
    cdef int error
    sigfillset(&every)
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, STACK)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    error = pthread_create(&helper.thread, &attributes, _run, helper)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    helper.running = error == 0
    return error


cdef void helper_end(Helper* helper) noexcept nogil:
    """Wait until the thread has ended; the caller holds the lock."""
    if helper.running:
        store(&helper.ending, 1)
        rouse(helper)
        pthread_join(helper.thread, NULL)
        helper.running = False


cdef void rouse(Helper* helper) noexcept nogil:
    cdef uint64_t one = 1
    write(helper.wake, &one, sizeof(one))


cdef void* _run(void* argument) noexcept nogil:
    cdef Helper* helper = <Helper*>argument
    cdef uint64_t returns = 0
    cdef int quiet = 0
    while not load(&helper.ending):
        if quiet < QUIET_TICKS:
            _wait(helper, TICK_MS)
        else:
            store(&helper.asleep, 1)
            if not _is_wanted(helper):
                _wait(helper, -1)
            store(&helper.asleep, 0)
        quiet = 0 if _is_wanted(helper) or helper.returns != returns else quiet + 1
        returns = helper.returns
        if _is_due(helper, monotonic_usec()) and pthread_mutex_trylock(&helper.lock) == 0:
            _attend(helper)
            pthread_mutex_unlock(&helper.lock)
    return NULL


cdef inline bint _is_wanted(Helper* helper) noexcept nogil:
    return load(&helper.away_usec) or load(&helper.deaf_usec) or load(&helper.ending)


cdef bint _is_due(Helper* helper, uint64_t now) noexcept nogil:
    cdef uint64_t away = load(&helper.away_usec)
    cdef uint64_t deaf = load(&helper.deaf_usec)
    return away and now > away + PATIENCE_USEC or deaf and now > deaf + PATIENCE_USEC


cdef void _wait(Helper* helper, int milliseconds) noexcept nogil:
    cdef epoll_event event
    cdef uint64_t count
    if epoll_wait(helper.epoll, &event, 1, milliseconds) < 1:
        return
    if event.data.u64 == <uint64_t>helper.wake:
        read(helper.wake, &count, sizeof(count))
    else:
        # The master is gone: whoever asks is told to go elsewhere, also while the loop is away.
        epoll_ctl(helper.epoll, EPOLL_CTL_DEL, helper.lifeline, NULL)
        helper.all.slot.state = LEAVING if helper.channel.outlives else DRAINING


cdef void _attend(Helper* helper) noexcept nogil:
    """What the loop would do; its lock is held."""
    cdef epoll_event events[EVENTS]
    cdef int count = EVENTS
    cdef uint64_t passes
    cdef int i
    cdef Connection* c
    cdef uint64_t now = monotonic_usec()
    cdef uint64_t since = load(&helper.away_usec) or load(&helper.deaf_usec)
    helper.all.now = now
    if since != helper.attended_usec:
        helper.attended_usec = since
        helper.taken = 0
    if helper.all.slot.state == LEAVING and helper.channel.give >= 0:
        # The loop would do the same, and some wait for it that need not.
        if load(&helper.away_usec) and give_away(
            helper.all, helper.channel, EVERY, MOST, 1 << 30
        ) < 0:
            silence(helper.all)
    elif load(&helper.away_usec):
        # epoll goes round what is ready, so as many answers as all connections fill have had each.
        passes = helper.all.slot.connections // EVENTS + 1
        while passes and count == EVENTS:
            passes -= 1
            count = epoll_wait(helper.all.epoll, events, EVENTS, 0)
            for i in range(count):
                if events[i].data.u64 & 3 == 0:
                    c = <Connection*>events[i].data.ptr
                    if c.state <= <int>HEAD and not c.interest & EPOLLOUT:
                        _read(helper, c)
        if helper.channel.give >= 0 and helper.all.slot.state == READY:
            _share(helper, now)
        _expire(helper, now)
    if helper.health.size and helper.all.slot.state == READY and _is_last_resort(helper):
        for i in range(helper.listener_count):
            while helper.taken < TAKEN and _accept(helper, i):
                pass


cdef void _share(Helper* helper, uint64_t now) noexcept nogil:
    """Requests that wait behind the one that runs are for workers that have none: one for each of
    them, since each gets one message. Idle connections go as well when it takes long: what is
    asked on them next need not wait for the next look."""
    cdef Slot* slot = helper.all.slot
    cdef uint64_t connections = slot.connections
    cdef uint64_t before = slot.handed_over
    cdef int room
    if connections <= slot.active:
        return
    room = _siblings_with_room(helper)
    if room and give_away(helper.all, helper.channel, ASKING, 1, room) == 0 and (
        now > load(&helper.away_usec) + LONG_USEC
    ):
        give_away(helper.all, helper.channel, SILENT,
                  <int>(connections // (2 * <uint64_t>room)) + 1, 1 << 30)
    slot.stolen += slot.handed_over - before


cdef int _siblings_with_room(const Helper* helper) noexcept nogil:
    """How many other workers could run a request at once."""
    cdef const Slot* slot
    cdef int found = 0
    cdef int unused = 0
    cdef int i
    for i in range(helper.slots):
        slot = <const Slot*>(helper.board + <size_t>i * SLOT_SIZE)
        if slot.state == FREE:
            unused += 1
            if unused == UNUSED:
                break  # the lowest free slot is taken first: nothing follows
            continue
        unused = 0
        if slot.state == READY and slot.active < helper.threads and slot != helper.all.slot:
            found += 1
    return found


cdef bint _is_last_resort(Helper* helper) noexcept nogil:
    """Whether connections wait that no other worker can take."""
    cdef pollfd waiting[LISTENERS]
    cdef const Slot* slot
    cdef int i
    for i in range(helper.listener_count):
        waiting[i].fd = helper.listeners[i]
        waiting[i].events = POLLIN
    if poll(waiting, helper.listener_count, 0) < 1:
        return False
    for i in range(helper.slots):
        slot = <const Slot*>(helper.board + <size_t>i * SLOT_SIZE)
        if slot.state == READY and slot.active < helper.threads and slot != helper.all.slot:
            return False
    return True


cdef bint _accept(Helper* helper, int index) noexcept nogil:
    """One connection, in case that it asks for the worker's health; false if there is none."""
    cdef Connection* c
    cdef sockaddr_in6 address
    cdef socklen_t size = sizeof(sockaddr_in6)
    cdef int fd
    memset(&address, 0, sizeof(address))
    fd = accept4(helper.listeners[index], <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return False
    c = connection_new(helper.all, fd, index, &address)
    if c == NULL:
        close(fd)
        return False
    c.taken = True
    helper.taken += 1
    if want(helper.all, c, EPOLLIN) < 0:
        shutdown(fd, SHUT_RDWR)
    else:
        _read(helper, c)
    return True


cdef int _read(Helper* helper, Connection* c) noexcept nogil:
    """Read on in a head. A health check is answered; all else is kept for the loop, which is told
    by EPOLLOUT, since there may be nothing more to read."""
    cdef Connections* all = helper.all
    cdef size_t held = c.input.size
    cdef char* data = helper.scratch
    cdef ssize_t got
    cdef int size
    if held:
        if not reserve(&c.input, held + SCRATCH):
            return 0
        data = c.input.data
    got = recv(c.fd, data + held, SCRATCH, MSG_DONTWAIT)
    if got <= 0:
        return 0  # the loop sees an end as well
    if not keep_input(c, data, held + got) or (c.head == NULL and not take_head(all, c)):
        shutdown(c.fd, SHUT_RDWR)
        return 0
    while c.input.size:
        size = parse_head(c.head, c.input.data, <uint32_t>c.input.size, &all.limits)
        if size == 0:
            if c.state != HEAD and head_begun(c.head, <uint32_t>c.input.size):
                enter(all, c, HEAD)
            return 0
        if size < 0 or not health_asked(&helper.health, c.head, c.input.data):
            drop_head(all, c)  # the loop parses it again
            c.arrived_usec = all.now
            want(all, c, EPOLLIN | EPOLLOUT)
            return 0
        if c.taken and helper.taken:
            helper.taken -= 1
        c.taken = False
        c.served += 1
        if not health_answer(
            c.fd, c.head, c.input.data, all.slot.state > <uint64_t>READY, time(NULL)
        ):
            shutdown(c.fd, SHUT_RDWR)
            return 0
        enter(all, c, IDLE)
        drop_head(all, c)
        keep_input(c, c.input.data + size, c.input.size - size)
        if c.input.size and not take_head(all, c):
            return 0
    return 0


cdef void _expire(Helper* helper, uint64_t now) noexcept nogil:
    """Deadlines of connections that the loop would have read. Those of bodies and responses wait
    for it: what has come, and what room there is, only the loop can tell."""
    cdef int state
    cdef Connection* c
    cdef Connection* following
    for state in range(<int>NEW, <int>HEAD + 1):
        c = helper.all.queues[state].first
        while c != NULL and c.deadline <= now:
            following = c.next
            if not c.interest & EPOLLOUT:  # else it is a request that waits for the loop
                c.late = True
                if state == HEAD:
                    c_send(c.fd, helper.late_head, helper.late_head_size,
                           MSG_NOSIGNAL | MSG_DONTWAIT)
                shutdown(c.fd, SHUT_RDWR)
                enter(helper.all, c, state)
            c = following
