# Whether this process is a fork of a worker, and whether this worker has forked.
cdef bint in_child
cdef bint has_forked

cdef void this_is_the_worker() noexcept
cdef void leave_child() noexcept
