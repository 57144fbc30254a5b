from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

cdef enum:
    NAMES = 1024
    NAMES_FILLED = 512

cdef struct Name:
    char* raw
    uint32_t size
    # What the name and its last value are to the application; of its user's making.
    PyObject* key
    PyObject* value

cdef struct Names:
    Name table[NAMES]
    int filled

cdef Name* find_name(Names* names, const char* name, uint32_t size) noexcept nogil
