from libc.stdint cimport int64_t

cdef class Trust:
    cdef bint unix_peers
    cdef tuple networks
    cdef dict known

    cpdef bint trusts(self, str address)


cdef class Origin:
    cdef readonly str client
    cdef readonly str scheme
    cdef readonly str host
    cdef readonly str port


cpdef Origin from_x_headers(str client, str scheme, str host, str port, Trust trust)
cpdef Origin from_forwarded(str value, Trust trust)
cpdef int64_t queued_usec(str value, int64_t now_usec)
cpdef tuple split_host(str host)
