from libc.stdint cimport int64_t

from sockd.http.parser cimport Head

cdef struct Health:
    const char* path
    size_t size  # 0: there are no health checks

cdef bint health_asked(const Health* health, const Head* head, const char* data) noexcept nogil
cdef bint health_answer(int fd, const Head* head, const char* data, bint draining,
                        int64_t seconds) noexcept nogil
