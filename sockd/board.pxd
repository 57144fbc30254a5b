from libc.stdint cimport uint64_t

cdef enum:
    REQUEST_TEXT = 240
    SLOT_SIZE = 4096

cdef enum SlotState:
    FREE, BOOTING, READY, DRAINING, LEAVING

cdef struct Slot:
    uint64_t state
    uint64_t generation
    uint64_t worker
    uint64_t pid
    uint64_t started_usec
    uint64_t beat_usec
    uint64_t requests
    uint64_t responses_4xx
    uint64_t responses_5xx
    uint64_t exceptions
    uint64_t refused
    uint64_t connections
    uint64_t active
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t request_started_usec
    uint64_t request_version
    uint64_t request_size
    char request[REQUEST_TEXT]


cdef class Board:
    cdef readonly int fd
    cdef readonly int slots
    cdef char* memory

    cdef Slot* slot(self, int index) except NULL


cdef void note_request(Slot* slot, const char* method, size_t method_size,
                       const char* target, size_t target_size, uint64_t now_usec) noexcept nogil
cdef void note_response(Slot* slot, int status) noexcept nogil
