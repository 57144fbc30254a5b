from sockd.http.connections cimport Connection
from sockd.http.intake cimport Intake


cdef class Reception(Intake):
    cdef void _accept_some(self, int index, bint waits) noexcept
    cdef void _accept_rest(self, int index) noexcept
    cdef Connection* _accept(self, int index, bint waits) noexcept
    cdef void _greet(self, Connection* c) noexcept
    cdef bint _make_room(self) noexcept
    cdef Connection* _longest_idle(self) noexcept
    cdef void _end_unless_it_asks(self, Connection* c) noexcept
    cdef int _begin_drain(self) except -1
    cdef void _begin_close(self) noexcept
    cdef void _end_idle(self) noexcept
    cdef void _take_over(self) noexcept
    cdef void _hand_over(self) noexcept
    cdef void _end_left_over(self) noexcept
    cdef bint _holds_idle(self) noexcept
