from libc.stdint cimport uint64_t

from sockd.http.guest cimport Guest
from sockd.http.ends cimport Handler
from sockd.http.response cimport Response


cdef class TaskHandler(Handler):
    cdef readonly object application
    cdef readonly dict exchanges
    cdef double request_seconds
    cdef object timer
    cdef object host
    cdef object context
    cdef object task_type
    cdef bint eager
    cdef bint tell_id
    cdef object line

    cdef int next_in_line(self) except -1
    cdef int watch(self) except -1


cdef class Exchange(Response):
    cdef Guest loop
    cdef TaskHandler handler
    cdef dict scope
    cdef str method
    cdef str target
    cdef str given_id
    cdef object coroutine
    cdef readonly object task
    cdef bint beginning
    cdef int pieces  # given since the task was last at a halt
    cdef bint gone
    cdef bint late
    cdef uint64_t watched_usec
    cdef list readers
    cdef list writers

    cdef void prepare(self, Guest loop, TaskHandler handler) noexcept
    cdef int start_task(self, bint at_once) except -1
    cdef object step(self, object thrown)
    cdef int _finish_task(self, object error) except -1
    cdef object next_event(self)
    cdef bint may_send(self) noexcept
    cdef bint take(self, object message) except -1
    cdef bint is_timed(self) noexcept
    cdef int end_late(self) except -1
    cdef int returned(self) except -1
    cdef int failed(self, object error) except -1
    cdef int send_out(self) except -1
    cdef int drop(self, str why) except -1
    cdef int wake_readers(self) except -1
    cdef int wake_writers(self) except -1
    cdef object later(self, bint writes)
    cdef int tell(self, str what, object error, str priority) except -1
