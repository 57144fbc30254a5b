from libc.stdint cimport uint64_t

from sockd.board cimport Slot
from sockd.http.connections cimport Connection, Connections
from sockd.http.response cimport Words

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t

cdef enum Stage:
    RUNNING
    INTERRUPTED  # the signal is on its way
    RAISED  # RequestTimeout is, in the application
    TAKEN  # it was answered, or cut, in the application's place

# What the client has of the response.
cdef enum Had:
    NOTHING
    PART
    WHOLE

# What a thread that runs the application has in hand, for one call or one piece. The loop writes
# it, under the helper's lock, but for the deadline, which the application may move.
cdef struct Hand:
    uint64_t since_usec  # 0: nothing
    uint64_t deadline_usec  # 0: none
    uint64_t slow_usec  # when its stack is to be taken; 0: not, or it was
    uint64_t late_usec  # when the helper found it past its deadline; 0: it did not
    int stage
    int had
    Connection* connection  # NULL: it was closed, or the response is done with it
    const Words* words
    unsigned long thread  # as the interpreter numbers it
    bint went_on  # after RequestTimeout was raised in it
    bint told  # the master knows

cdef struct Watch:
    Connections* all
    Hand* hands
    int count
    uint64_t span_usec
    uint64_t slow_usec
    uint64_t due_usec  # when the loop has to look at a pool's hands; 0: not
    bint inline  # the application runs in the loop's thread
    bint speaking  # it does at this moment
    bint look  # its stack is wanted
    uint64_t end_usec  # when the helper ends this worker; 0: not
    int interrupt  # signals; 0: none
    int dump
    int stacks  # where `dump` has them written
    int wake  # an eventfd that has the loop look at `due_usec` again; -1: none
    pthread_t loop_thread


cdef inline void take_up(Watch* watch, int index, Connection* c, const Words* words, int had,
                         ) noexcept nogil:
    """The application gets the word."""
    cdef Hand* hand = &watch.hands[index]
    cdef uint64_t now = watch.all.now
    hand.since_usec = now
    hand.deadline_usec = now + watch.span_usec if watch.span_usec else 0
    hand.slow_usec = now + watch.slow_usec if watch.slow_usec else 0
    hand.late_usec = 0
    hand.stage = RUNNING
    hand.had = had
    hand.connection = c
    hand.words = words
    hand.told = False


cdef inline void put_down(Watch* watch, int index) noexcept nogil:
    watch.hands[index].since_usec = 0
    watch.hands[index].connection = NULL
    watch.hands[index].stage = RUNNING


cdef inline void let_go(Watch* watch, int index, Connection* c) noexcept nogil:
    """The connection is closed, while a thread has its request."""
    if watch.hands[index].connection == c:
        watch.hands[index].connection = NULL


cdef int watch_new(Watch* watch, Connections* all, int threads, double limit, double slow,
                   ) noexcept nogil
cdef void watch_free(Watch* watch) noexcept nogil
cdef void watch_thread(Watch* watch, int index) noexcept
cdef void watch_pool(Watch* watch) noexcept nogil
cdef uint64_t wait_begins() noexcept nogil
cdef void wait_ends(uint64_t deadline, uint64_t waited) noexcept nogil
cdef uint64_t plan_ahead(Watch* watch) noexcept nogil
cdef uint64_t others_until(Watch* watch) noexcept nogil
cdef void enforce(Watch* watch, int lifeline, uint64_t now) noexcept nogil
cdef bint answer_late(Connection* c, const Words* words) noexcept nogil
cdef void cut_off(Connection* c) noexcept nogil
cdef dict describe(Hand* hand, Slot* slot, uint64_t now)
