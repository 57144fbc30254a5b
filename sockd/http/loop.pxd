from libc.stdint cimport uint64_t

from sockd.board cimport Board
from sockd.http.connections cimport epoll_event
from sockd.http.reception cimport Reception


cdef class Loop(Reception):
    cdef _instruct_helper(self, settings, Board board)
    cdef void _tell_date(self) noexcept
    cdef int _begin_serving(self) except -1
    cdef bint _is_over(self) except -1
    cdef int _end_serving(self) except -1
    cdef int _turn(self) except -1
    cdef int _serve_ready(self, epoll_event* events, int count, uint64_t woken) except -1
    cdef uint64_t _next_deadline(self)
    cdef int _timeout(self)
    cdef void _expire(self, uint64_t now) noexcept
