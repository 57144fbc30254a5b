from libc.stdint cimport uint64_t

cdef enum:
    REQUEST_TEXT = 208
    REQUEST_ID = 64
    # Requests of a worker that can be told; a bit each in `in_hand_taken`.
    IN_HAND = 16
    # histogram.py has the rule.
    BUCKETS = 353
    SLOT_SIZE = 12288

cdef enum SlotState:
    FREE, BOOTING, READY, DRAINING, LEAVING

# A request in the worker's hands, while `started_usec` is not 0. `version` is odd while it is being
# written. A request that came without an id has a number instead, of which board.pyx makes one.
cdef struct InHand:
    uint64_t version
    uint64_t started_usec
    uint64_t sending
    uint64_t number
    uint64_t id_size
    uint64_t text_size
    char id[REQUEST_ID]
    char text[REQUEST_TEXT]

cdef struct Slot:
    uint64_t state
    uint64_t generation
    uint64_t worker
    uint64_t pid
    uint64_t started_usec
    uint64_t beat_usec
    uint64_t connections
    uint64_t active
    uint64_t request_started_usec
    uint64_t requests
    uint64_t responses_4xx
    uint64_t responses_5xx
    uint64_t exceptions
    uint64_t refused
    uint64_t turned_away
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t handed_over
    uint64_t taken_over
    uint64_t stolen
    uint64_t access_lost
    uint64_t duration_usec
    uint64_t queue_usec
    uint64_t id_seed
    uint64_t in_hand_taken
    uint64_t durations[BUCKETS]
    uint64_t queues[BUCKETS]
    InHand in_hand[IN_HAND]


cdef class Board:
    cdef readonly int fd
    cdef readonly int slots
    cdef char* memory

    cdef Slot* slot(self, int index) except NULL


cdef int note_request(
    Slot* slot, const char* method, size_t method_size, const char* target, size_t target_size,
    const char* id, size_t id_size, uint64_t since_usec, uint64_t now_usec) noexcept nogil
cdef void note_released(Slot* slot, int entry) noexcept nogil
cdef void note_response(Slot* slot, int status) noexcept nogil
cdef void note_duration(Slot* slot, uint64_t usec) noexcept nogil
cdef str made_id(Slot* slot, uint64_t number)
