from libc.stdint cimport uint32_t, uint64_t

from sockd.http.connections cimport Connections
from sockd.http.handover cimport Channel
from sockd.http.health cimport Health

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t* lock)
    int pthread_mutex_unlock(pthread_mutex_t* lock)

cdef extern from *:
    """
    #define sockd_store(where, value) __atomic_store_n(where, value, __ATOMIC_SEQ_CST)
    #define sockd_load(where) __atomic_load_n(where, __ATOMIC_SEQ_CST)
    """
    void store "sockd_store"(void* where, uint64_t value) noexcept nogil
    uint64_t load "sockd_load"(const void* where) noexcept nogil

cdef struct Helper:
    Connections* all
    Channel* channel
    Health health
    const char* late_head  # the whole answer to a head that is not complete in time
    size_t late_head_size
    const int* listeners
    int listener_count
    const char* board  # slots of all workers
    int slots
    uint64_t threads
    # Held by whoever may touch the connections: the loop, but while it is away.
    pthread_mutex_t lock
    uint64_t away_usec  # since when the loop is away; 0: it is not
    uint64_t deaf_usec  # since when it does not accept, having no thread free; 0: it does
    uint64_t returns
    uint64_t asleep
    uint64_t ending
    uint64_t attended_usec  # the away_usec or deaf_usec that `taken` belongs to
    uint32_t taken  # connections accepted in search of a health check that have asked none
    int lifeline
    int epoll
    int wake
    bint running
    pthread_t thread
    char* scratch


cdef void rouse(Helper* helper) noexcept nogil


cdef inline void step_away(Helper* helper, uint64_t now) noexcept nogil:
    """The loop turns to something that may take long; until it comes back the helper may look
    after the connections."""
    store(&helper.away_usec, now)
    pthread_mutex_unlock(&helper.lock)
    if load(&helper.asleep):
        rouse(helper)


cdef inline void come_back(Helper* helper) noexcept nogil:
    pthread_mutex_lock(&helper.lock)
    store(&helper.away_usec, 0)
    helper.returns += 1


cdef Helper* helper_new(Connections* all, Channel* channel) noexcept nogil
cdef int helper_start(Helper* helper) noexcept nogil
cdef void helper_end(Helper* helper) noexcept nogil
cdef void helper_free(Helper* helper) noexcept nogil
cdef int helper_hold(Helper* helper, int lifeline) noexcept nogil
