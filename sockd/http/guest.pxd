from libc.stdint cimport uint64_t

from sockd.http.connections cimport Connection
from sockd.http.loop cimport Loop


cdef class Guest(Loop):
    cdef readonly object host
    cdef readonly object ended
    cdef object timer
    cdef uint64_t timer_usec
    cdef int nudges
    cdef bint inside  # its turn is under way: an application may run within that

    cdef int enter(self) except -1
    cdef int leave(self) except -1
    cdef int flush(self, Connection* c) except -1
    cdef void poke(self)
