from libc.stdint cimport uint32_t, uint64_t

from sockd.board cimport Board, Slot
from sockd.http.connections cimport LISTENERS, Connection, Connections

cdef enum:
    # When to try again what failed for want of descriptors or memory.
    AGAIN_USEC = 200000
    # The number of what is no listener, but listened to like one: the handover channel.
    CHANNEL = LISTENERS

# What accept() returns of a listener that gave no connection.
cdef enum Nothing:
    NONE_WAITING = 0
    NO_ROOM = -1  # no descriptors, no memory
    TRY_AGAIN = -2


cdef class Listening:
    cdef int fds[LISTENERS]
    cdef int count
    cdef int channel  # where connections of other workers come from; -1: nowhere
    cdef Connections* all
    cdef Board board
    cdef uint32_t threads
    cdef bint alone
    cdef readonly bint on
    cdef uint64_t again
    cdef uint64_t left_since
    cdef uint64_t unshared_until
    cdef uint64_t of_others
    cdef int in_vain
    cdef int reach
    cdef uint64_t reach_usec
    cdef Slot* least

    cdef void turn(self, bint on) noexcept
    cdef void pause(self, uint64_t usec) noexcept
    cdef int accept(self, int index, Connection** connection) noexcept
    cdef void queue_up(self, int index) noexcept
    cdef bint was_nudged(self) noexcept
    cdef bint leaves_it(self) noexcept
    cdef int takers(self) noexcept
    cdef bint _has_its_share(self) noexcept
    cdef bint _watch(self, int index, bint on) noexcept
