from sockd.http.connections cimport Connection
from sockd.http.deadlines cimport Hand
from sockd.http.ends cimport Ends
from sockd.http.response cimport Response


cdef class Overdue(Ends):
    cdef int _let(self, Connection* c, Response response, int job) except -1
    cdef int _end_overrun(self, Hand* hand, Response response) except -1
    cdef int _tell_overrun(self, Hand* hand, str how, str answer, bint able) except -1
    cdef int _look_at_hands(self) except -1
    cdef int _take_from_thread(self, Hand* hand) except -1
    cdef int _leave(self) except -1
