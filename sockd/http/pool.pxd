from sockd.http.response cimport Response

cdef class Pool:
    cdef readonly int size
    cdef readonly int busy
    cdef readonly int fd
    cdef object report
    cdef list queues
    cdef list backlogs
    cdef list free
    cdef object waiting
    cdef object done

    cdef int submit(self, Response response, int job) except -1
    cdef Response collect(self)
    cdef int _give(self, int thread, Response response) except -1
