from libc.stdint cimport int64_t

cdef enum:
    DATE_LINE = 37  # bytes

cdef void date_line(char* line, int64_t seconds) noexcept nogil
