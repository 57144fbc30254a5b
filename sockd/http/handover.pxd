from libc.stdint cimport uint64_t

from sockd.http.connections cimport LISTENERS, Connection, Connections

cdef enum:
    # SCM_MAX_FD of the kernel is 253, and the first descriptor of a message holds the state.
    MOST = 252

# What `take` returns when it took no connection.
cdef enum NotTaken:
    NOTHING_WAITS = 0
    UNREADABLE = -1

# Which of the connections that can go.
cdef enum Which:
    EVERY
    ASKING  # a request was read, and waits for the loop
    SILENT  # idle, as far as is known

# Both ends of the handover channel; -1 for a loop that has none.
cdef struct Channel:
    int give
    int take
    bint outlives  # somebody else holds both ends too, and whoever comes next finds them
    int listeners
    uint64_t names[LISTENERS]
    uint64_t most_descriptors
    uint64_t counted_usec  # when the descriptors of this process were counted,
    uint64_t counted  # how many they were without the connections
    uint64_t unreadable  # connections that were answered with 503, or lost, and not told of yet


cdef bint channel_join(
    Channel* channel, int give, int take, bint outlives, list names) except -1
cdef bint movable(const Connection* c) noexcept nogil
cdef bint give(Connections* all, Channel* channel, Connection** some, int count) noexcept nogil
cdef int give_away(
    Connections* all, Channel* channel, Which which, int batch, int most) noexcept nogil
cdef void silence(Connections* all) noexcept nogil
cdef int take(Connections* all, Channel* channel) noexcept nogil
cdef bint has_descriptors(Channel* channel, uint64_t connections, uint64_t now) noexcept nogil
