from libc.stdint cimport uint32_t, uint64_t

from sockd.board cimport Board, Slot
from sockd.http.connections cimport LISTENERS, Connection, Connections

# What accept() returns of a listener that gave no connection.
cdef enum Nothing:
    NONE_WAITING = 0
    NO_ROOM = -1  # no descriptors, no memory
    TRY_AGAIN = -2


cdef class Listening:
    cdef int fds[LISTENERS]
    cdef int count
    cdef Connections* all
    cdef Board board
    cdef uint32_t threads
    cdef bint alone
    cdef readonly bint on
    cdef uint64_t again
    cdef uint64_t declined_usec
    cdef int reach
    cdef uint64_t reach_usec

    cdef int turn(self, bint on) except -1
    cdef int pause(self, uint64_t usec) except -1
    cdef int accept(self, int index, Connection** connection) except -3
    cdef bint leaves_it(self) except -1
    cdef bint _has_its_share(self) noexcept
    cdef int _watch(self, int index, bint on) except -1
