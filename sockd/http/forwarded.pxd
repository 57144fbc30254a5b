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
cpdef tuple split_host(str host)
