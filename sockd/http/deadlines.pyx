# cython: language_level=3
"""The time that the application has for a request (`timeouts.request`), and who sees to it.

Each thread that runs the application has a `Hand`: what it works on, and until when. A call of the
application, the next piece of its iterable and its close() have the whole time each: what a client
takes to read never counts, nor what a request waits for a thread.

    application in     at the deadline                      GRACE_USEC later, if it goes on
    the loop's thread  the helper sends a signal, whose     the helper answers or cuts, has the stacks
                       handler raises RequestTimeout in it  written, and the master ends the worker
    a pool's thread    the loop answers or cuts             the same, if the loop did not get to run

docs/design/deadlines.md says why. What the helper calls here needs no interpreter.
"""

import sockd

from cpython.ref cimport PyObject
from libc.errno cimport EAGAIN, ENOBUFS, errno
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from sockd.board cimport DRAINING, Slot, id_half, made_id, note_response
from sockd.http.connections cimport Connection, Connections
from sockd.http.date cimport DATE_LINE, date_line
from sockd.http.response cimport Words

cdef extern from "Python.h" nogil:
    const char* latin_data "(const char*)PyUnicode_DATA"(PyObject* text)
    Py_ssize_t latin_size "PyUnicode_GET_LENGTH"(PyObject* text)
    unsigned long PyThread_get_thread_ident()

cdef extern from "signal.h" nogil:
    int kill(int pid, int number)
    int pthread_kill(pthread_t thread, int number)
    pthread_t pthread_self()
    int SIGKILL

cdef extern from "unistd.h" nogil:
    int getpid()
    ssize_t write(int fd, const void* data, size_t size)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    time_t time(time_t* where)

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        unsigned short sa_family
    int AF_UNSPEC
    int SHUT_RDWR
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int c_connect "connect"(int fd, const sockaddr* address, unsigned int size)
    int shutdown(int fd, int how)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)

cdef extern from *:
    """
    #include <string.h>
    #include <sys/socket.h>

    static __thread void *deadlines_hand;
    static __thread void *deadlines_watch;

    #define sockd_load(where) __atomic_load_n(where, __ATOMIC_SEQ_CST)
    #define sockd_swap(where, value) __atomic_exchange_n(where, value, __ATOMIC_SEQ_CST)
    #define sockd_add(where, value) __atomic_fetch_add(where, value, __ATOMIC_SEQ_CST)

    /* One message with a descriptor (SCM_RIGHTS, unix(7)); it never waits. */
    static ssize_t deadlines_send(int sock, const char *data, size_t size, int fd) {
        struct iovec part = {(void *)data, size};
        union {
            char room[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } rights;
        struct msghdr message;
        struct cmsghdr *head;
        memset(&message, 0, sizeof message);
        memset(&rights, 0, sizeof rights);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (fd >= 0) {
            message.msg_control = rights.room;
            message.msg_controllen = sizeof rights.room;
            head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(head), &fd, sizeof fd);
        }
        return sendmsg(sock, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    """
    void* deadlines_hand
    void* deadlines_watch
    uint64_t swap "sockd_swap"(uint64_t* where, uint64_t value) noexcept nogil
    uint64_t load "sockd_load"(const uint64_t* where) noexcept nogil
    uint64_t add "sockd_add"(uint64_t* where, uint64_t value) noexcept nogil
    ssize_t deadlines_send(int sock, const char* data, size_t size, int fd) noexcept nogil

cdef enum:
    # What the application has to clean up in, and the loop to answer in.
    GRACE_USEC = 1000000
    LONGEST = 1000000000  # seconds
    # A target is told up to here.
    TOLD = 1024
    MESSAGE = 32768
    # For the stacks to be written before the worker ends.
    DUMP_USEC = 500000


# What becomes of a response of which the client has nothing, a part, or all.
cdef const char* ANSWERS[3]
ANSWERS[:] = [b"504", b"cut", b"complete"]


cdef int watch_new(
    Watch* watch, Connections* all, int threads, double limit, double slow
) noexcept nogil:
    """For `threads` threads (1: the loop's own); seconds, 0 is never. -1 without memory."""
    watch.hands = <Hand*>calloc(threads, sizeof(Hand))
    watch.all = all
    watch.count = threads
    watch.inline = threads == 1
    watch.span_usec = <uint64_t>(limit * 1000000)
    watch.slow_usec = <uint64_t>(slow * 1000000)
    watch.stacks = watch.wake = -1
    return -1 if watch.hands == NULL else 0


cdef void watch_free(Watch* watch) noexcept nogil:
    free(watch.hands)
    watch.hands = NULL


cdef void watch_thread(Watch* watch, int index) noexcept:
    """The calling thread has that hand."""
    global deadlines_hand, deadlines_watch
    deadlines_hand = &watch.hands[index]
    deadlines_watch = watch
    watch.hands[index].thread = PyThread_get_thread_ident()
    if watch.inline:
        watch.loop_thread = pthread_self()


cdef void watch_pool(Watch* watch) noexcept nogil:
    """A thread of the pool was given something: the loop has to look when its time is over. What
    is given later is due later, so that is worked out anew only then."""
    cdef uint64_t first = watch.span_usec
    if watch.due_usec == 0 and (first or watch.slow_usec):
        if watch.slow_usec and (first == 0 or watch.slow_usec < first):
            first = watch.slow_usec
        watch.due_usec = watch.all.now + first
        if watch.span_usec:
            watch.all.slot.deadline_usec = watch.all.now + watch.span_usec


cdef uint64_t wait_begins() noexcept nogil:
    """The calling thread waits for its client: there is no deadline meanwhile. Returns what
    `wait_ends` wants to have back."""
    cdef Hand* hand = <Hand*>deadlines_hand
    return swap(&hand.deadline_usec, 0) if hand != NULL else 0


cdef void wait_ends(uint64_t deadline, uint64_t waited) noexcept nogil:
    """After so many microseconds."""
    cdef Hand* hand = <Hand*>deadlines_hand
    cdef Watch* watch = <Watch*>deadlines_watch
    cdef uint64_t one = 1
    if hand == NULL:
        return
    if hand.slow_usec:
        hand.slow_usec += waited
    if deadline:
        deadline += waited
        swap(&hand.deadline_usec, deadline)
        if watch.wake >= 0 and (watch.due_usec == 0 or deadline < watch.due_usec):
            watch.due_usec = deadline
            write(watch.wake, &one, sizeof(one))


cdef uint64_t plan_ahead(Watch* watch) noexcept nogil:
    """When the next of the hands is due, 0 for none. The board is told which deadline is the next,
    so that the master sees one that nobody enforces."""
    cdef Hand* hand
    cdef uint64_t deadline
    cdef uint64_t due = 0
    cdef uint64_t earliest = 0
    cdef int i
    for i in range(watch.count):
        hand = &watch.hands[i]
        if hand.since_usec == 0:
            continue
        deadline = load(&hand.deadline_usec) if hand.stage != TAKEN else 0
        if deadline and (earliest == 0 or deadline < earliest):
            earliest = deadline
        if hand.slow_usec and (due == 0 or hand.slow_usec < due):
            due = hand.slow_usec
    watch.all.slot.deadline_usec = earliest
    return earliest if due == 0 or 0 < earliest < due else due


cdef void enforce(Watch* watch, int lifeline, uint64_t now) noexcept nogil:
    """What is due while the loop is away; the helper calls this, with its lock. A loop that was
    not armed belongs to no worker: nobody else could be harmed, and nobody would replace it."""
    cdef Hand* hand
    cdef uint64_t deadline
    cdef bint untold = False
    cdef int i
    if not watch.interrupt:
        return
    for i in range(watch.count):
        hand = &watch.hands[i]
        if hand.since_usec == 0:
            continue
        deadline = load(&hand.deadline_usec)
        if deadline == 0 or deadline > now:
            hand.late_usec = 0  # it may have been moved
        elif hand.late_usec == 0:
            hand.late_usec = now  # not its deadline: all of us may have been stopped since then
        elif hand.stage != TAKEN and hand.late_usec + GRACE_USEC <= now:
            _take_over(watch, hand, now)
        if hand.stage == TAKEN:
            untold |= not hand.told and not _tell(watch, hand, lifeline, now)
        elif watch.speaking:
            if hand.slow_usec and hand.slow_usec <= now:
                hand.slow_usec = 0
                watch.look = True
                pthread_kill(watch.loop_thread, watch.interrupt)
            if hand.late_usec and hand.stage == RUNNING:
                hand.stage = INTERRUPTED
                pthread_kill(watch.loop_thread, watch.interrupt)
    if watch.end_usec and not untold and now >= max(watch.end_usec, others_until(watch)):
        kill(getpid(), SIGKILL)
    plan_ahead(watch)


cdef uint64_t others_until(Watch* watch) noexcept nogil:
    """Until when requests are in hand that may yet be answered."""
    cdef uint64_t until = 0
    cdef int i
    for i in range(watch.count):
        if watch.hands[i].since_usec and watch.hands[i].stage != TAKEN:
            until = max(until, load(&watch.hands[i].deadline_usec) + GRACE_USEC)
    return until


cdef void _take_over(Watch* watch, Hand* hand, uint64_t now) noexcept nogil:
    """Neither the application nor the loop can be reached: this worker has to go."""
    cdef Connection* c = hand.connection
    hand.went_on = hand.stage == RAISED
    hand.stage = TAKEN
    watch.all.slot.state = DRAINING  # for health checks
    if c != NULL:
        c.late = True
        if hand.had == NOTHING and answer_late(c, hand.words):
            note_response(watch.all.slot, 504)
            shutdown(c.fd, SHUT_RDWR)
        elif hand.had == WHOLE:
            shutdown(c.fd, SHUT_RDWR)
        else:
            cut_off(c)
    if not watch.end_usec:
        kill(getpid(), watch.dump)
        # Its other connections: here is the place to hand them to the other workers, those in the
        # queues of NEW, IDLE and HEAD; until somebody does they end with the worker.
        watch.end_usec = now + DUMP_USEC


cdef bint answer_late(Connection* c, const Words* words) noexcept nogil:
    """Send 504, whole; whether that was possible."""
    cdef char answer[256]
    cdef char date[DATE_LINE + 1]
    cdef const char* body = b"Gateway Timeout\n"
    date_line(date, time(NULL))
    date[DATE_LINE] = 0
    if words.method != NULL and latin_size(words.method) == 4 and (
        memcmp(latin_data(words.method), b"HEAD", 4) == 0
    ):
        body = b""
    cdef int size = snprintf(
        answer, sizeof(answer),
        b"HTTP/1.1 504 Gateway Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 16\r\n%sConnection: close\r\n\r\n%s", date, body)
    return c_send(c.fd, answer, size, MSG_NOSIGNAL | MSG_DONTWAIT) == size


cdef void cut_off(Connection* c) noexcept nogil:
    """End a connection in the middle of a response, so that its peer can tell: TCP is reset, also
    if a fork of the application holds a copy of the descriptor (connect(2), AF_UNSPEC)."""
    cdef sockaddr nobody
    memset(&nobody, 0, sizeof(nobody))
    nobody.sa_family = AF_UNSPEC
    if c_connect(c.fd, &nobody, sizeof(nobody)) < 0:
        shutdown(c.fd, SHUT_RDWR)


cdef bint _tell(Watch* watch, Hand* hand, int lifeline, uint64_t now) noexcept nogil:
    """Tell the master, in a message as sockd.worker.messages has it; false if it has to be tried
    again."""
    cdef char message[MESSAGE]
    cdef size_t size
    size = <size_t>snprintf(
        message, MESSAGE, b'{"timeout": {"how": "%s", "answer": "%s", "thread": %lu, '
        b'"elapsed": %.6f, "patience": %.6f', b"deaf" if hand.went_on else b"stuck",
        ANSWERS[hand.had], hand.thread, (now - hand.since_usec) / 1e6,
        (max(watch.end_usec, others_until(watch)) - now) / 1e6)
    if hand.words != NULL:
        size += _add(message + size, b"method", hand.words.method)
        size += _add(message + size, b"target", hand.words.target)
        size += _add(message + size, b"client", hand.words.client)
        size += _add(message + size, b"request_id", hand.words.id)
        if hand.words.id == NULL and hand.words.number:
            size += snprintf(
                message + size, 64, b', "request_id": "%016lx%016lx"',
                id_half(watch.all.slot, hand.words.number, False),
                id_half(watch.all.slot, hand.words.number, True))
    message[size] = message[size + 1] = c"}"
    hand.told = deadlines_send(lifeline, message, size + 2, watch.stacks) >= 0 or (
        errno != EAGAIN and errno != ENOBUFS)
    return hand.told


cdef size_t _add(char* where, const char* name, PyObject* text) noexcept nogil:
    """A member of a JSON object (RFC 8259), its value Latin-1."""
    cdef const char* data
    cdef size_t length
    cdef size_t i
    cdef unsigned char byte
    cdef char* at = where
    if text == NULL:
        return 0
    data = latin_data(text)
    length = min(<size_t>latin_size(text), <size_t>TOLD)
    at += snprintf(at, 32, b', "%s": "', name)
    for i in range(length):
        byte = <unsigned char>data[i]
        if byte < 32 or byte > 126 or byte == c'"' or byte == c"\\":
            at += snprintf(at, 8, b"\\u%04x", <unsigned int>byte)
        else:
            at[0] = <char>byte
            at += 1
    at[0] = c'"'
    return at + 1 - where


cdef dict describe(Hand* hand, Slot* slot, uint64_t now):
    """The request in hand, as the message to the master has it."""
    found = {
        "thread": hand.thread,
        "elapsed": (now - hand.since_usec) / 1e6,
        "answer": ANSWERS[hand.had].decode(),
    }
    if hand.words != NULL:
        for name, text in (
            ("method", <object>hand.words.method if hand.words.method != NULL else None),
            ("target", <object>hand.words.target if hand.words.target != NULL else None),
            ("client", <object>hand.words.client if hand.words.client != NULL else None),
            ("request_id", <object>hand.words.id if hand.words.id != NULL else None),
        ):
            if text is not None:
                found[name] = text[:TOLD]
        if hand.words.id == NULL and hand.words.number:
            found["request_id"] = made_id(slot, hand.words.number)
    return found


def _extend(double seconds):
    """sockd.extend_deadline, in a thread that runs the application."""
    cdef Hand* hand = <Hand*>deadlines_hand
    if hand == NULL or hand.since_usec == 0 or hand.deadline_usec == 0 or hand.stage == TAKEN:
        return False
    add(&hand.deadline_usec, <uint64_t>(min(seconds, <double>LONGEST) * 1000000))
    return True


sockd._extend = _extend
