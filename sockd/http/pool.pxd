from sockd.http.deadlines cimport Watch
from sockd.http.response cimport Response

cdef extern from "semaphore.h" nogil:
    ctypedef struct sem_t:
        pass


cdef class Line:
    cdef Response first
    cdef Response last

    cdef void put(self, Response response) noexcept
    cdef Response take(self)


cdef class Thread:
    cdef int number
    cdef bint is_free
    cdef sem_t bell
    cdef Response hand
    cdef Line backlog
    cdef Thread next_free


cdef class Pool:
    cdef readonly int size
    cdef readonly int busy
    cdef readonly int fd
    cdef list threads
    cdef Thread free
    cdef Line waiting
    cdef Line done
    cdef Watch* watch

    cdef int submit(self, Response response, int job) except -1
    cdef Response collect(self)
    cdef void _give(self, Thread thread, Response response) noexcept
    cdef void _occupy(self, Thread thread) noexcept
    cdef void _set_free(self, Thread thread) noexcept
