from libc.stdint cimport uint64_t

from sockd.board cimport Slot
from sockd.http.response cimport Response

cdef void note_begun(
    Response response, Slot* slot, str method, str target, uint64_t now_usec) noexcept
cdef void enter_request(Response response, Slot* slot) noexcept
cdef void leave_request() noexcept
cdef str taken_id(str value, bint is_trace)
cdef str id_of(Response response, Slot* slot)
