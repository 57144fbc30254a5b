# cython: language_level=3
"""The board: what every worker is doing, in memory that the master shares.

A sealed-size memfd of fixed slots. A worker writes its own slot with plain stores (no system call,
no lock); the master and whoever holds the descriptor read it at any time, also while the worker is
stuck. Aligned 64-bit stores are atomic on every machine sockd runs on; the requests in hand, which
are text, carry a version that is odd while they are being written.
"""

import mmap
import os

from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap as map_memory, munmap

cdef extern from *:
    """
    #define sockd_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void sockd_barrier() noexcept nogil

cdef extern from *:
    """
    #define sockd_lowest_free(taken) __builtin_ctzll(~(taken))
    #define sockd_doublings(usec) (63 - __builtin_clzll(usec))
    """
    int sockd_lowest_free(uint64_t taken) noexcept nogil
    int sockd_doublings(uint64_t usec) noexcept nogil

SLOT_BYTES = SLOT_SIZE

# Raised with every change of `struct Slot`: a master that goes on in this process may be another's.
LAYOUT = 1

STATES = ("free", "booting", "ready", "draining", "leaving")
"""Values of a slot's `state`, by number. Leaving is draining, with others that take over what is
idle."""

FIELDS = (
    "state", "generation", "worker", "pid", "started_usec", "beat_usec",
    "connections", "active", "request_started_usec",
    "requests", "responses_4xx", "responses_5xx", "exceptions", "refused", "turned_away",
    "bytes_in", "bytes_out", "handed_over", "taken_over", "stolen", "access_lost",
    "duration_usec", "queue_usec",
)
"""The numbers of a slot in the order of `struct Slot`. Times are CLOCK_MONOTONIC in microseconds;
`request_started_usec` is that of the youngest request, 0 when none is in hand."""

COUNTED = FIELDS[FIELDS.index("requests"):]
"""Those that only grow: totals are made of them."""


cdef class Board:
    """Slots in a shared memfd. `fd` may be sent to another process, which attaches to it."""

    def __cinit__(self, int fd, int slots):
        self.memory = NULL
        self.fd = fd
        self.slots = slots
        cdef void* memory = map_memory(
            NULL, slots * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0
        )
        if memory == MAP_FAILED:
            raise OSError("cannot map the board")
        self.memory = <char*>memory

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.slots * SLOT_SIZE)

    @staticmethod
    def create(int slots=512):
        """A new board with all slots free."""
        fd = os.memfd_create("sockd-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, slots * SLOT_SIZE)
        return Board(fd, slots)

    @staticmethod
    def attach(int fd):
        """The board that another process created; ValueError if `fd` holds none."""
        size = os.fstat(fd).st_size
        if size == 0 or size % SLOT_SIZE:
            raise ValueError("not a board")
        return Board(fd, size // SLOT_SIZE)

    cdef Slot* slot(self, int index) except NULL:
        if not 0 <= index < self.slots:
            raise IndexError(f"no slot {index}")
        return <Slot*>(self.memory + <size_t>index * SLOT_SIZE)

    def clear(self, int index, *, int generation=0, int worker=0):
        """Prepare a slot for a worker that is about to be spawned, or free it (no arguments)."""
        cdef Slot* slot = self.slot(index)
        memset(slot, 0, SLOT_SIZE)
        slot.generation = generation
        slot.worker = worker
        slot.id_seed = int.from_bytes(os.urandom(8), "little") if worker else 0
        slot.state = BOOTING if worker else FREE

    def set_state(self, int index, str state):
        """One of STATES."""
        self.slot(index).state = STATES.index(state)

    def set_process(self, int index, int pid, uint64_t started_usec):
        cdef Slot* slot = self.slot(index)
        slot.pid = pid
        slot.started_usec = started_usec

    def read(self, int index):
        """The slot as a dict of FIELDS, with `state` as a word."""
        cdef uint64_t* numbers = <uint64_t*>self.slot(index)
        values = {name: numbers[i] for i, name in enumerate(FIELDS)}
        values["state"] = STATES[values["state"]] if values["state"] < len(STATES) else "unknown"
        return values

    def durations(self, int index):
        """How many requests took so long, by bucket (`sockd.histogram`)."""
        cdef Slot* slot = self.slot(index)
        return [slot.durations[i] for i in range(BUCKETS)]

    def queues(self, int index):
        """How many requests waited so long for the application, by bucket."""
        cdef Slot* slot = self.slot(index)
        return [slot.queues[i] for i in range(BUCKETS)]

    def in_hand(self, int index):
        """The requests in the worker's hands, the oldest first, IN_HAND at most, each as a dict:
        `method`, `target`, `id`, `started_usec`, and whether its response is `sending` only."""
        cdef Slot* slot = self.slot(index)
        cdef InHand copy
        cdef int i
        cdef int attempt
        found = []
        for i in range(IN_HAND):
            for attempt in range(100):
                memcpy(&copy, &slot.in_hand[i], sizeof(InHand))
                sockd_barrier()
                if copy.version == slot.in_hand[i].version and not copy.version & 1:
                    if copy.started_usec and slot.in_hand_taken >> i & 1:
                        found.append(_told(slot, &copy))
                    break
        return sorted(found, key=lambda one: one["started_usec"])


cdef dict _told(Slot* slot, InHand* one):
    text = one.text[:min(one.text_size, <uint64_t>REQUEST_TEXT)].decode("latin-1")
    method, _, target = text.partition(" ")
    return {
        "method": method,
        "target": target,
        "id": one.id[:min(one.id_size, <uint64_t>REQUEST_ID)].decode("latin-1")
        if one.id_size else made_id(slot, one.number),
        "started_usec": one.started_usec,
        "sending": one.sending != 0,
    }


cdef inline uint64_t _mixed(uint64_t number) noexcept nogil:
    """A bijection that leaves nothing of its argument's pattern (the finalizer of splitmix64)."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9ULL
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBULL
    return number ^ (number >> 31)


cdef str made_id(Slot* slot, uint64_t number):
    """The id of a worker's request `number`: 32 hexadecimal digits, the same whenever asked."""
    cdef uint64_t first = _mixed(slot.id_seed + number)
    return f"{first:016x}{_mixed(first + slot.id_seed):016x}"


cdef inline int _bucket(uint64_t usec) noexcept nogil:
    cdef int doublings
    if usec < 64:
        return <int>(usec >> 2)
    doublings = sockd_doublings(usec)
    if doublings > 26:
        return BUCKETS - 1
    return 16 * (doublings - 5) + <int>(usec >> (doublings - 4) & 15)


def bucket(uint64_t usec):
    """The bucket that a duration is counted in."""
    return _bucket(usec)


cdef int note_request(
    Slot* slot, const char* method, size_t method_size, const char* target, size_t target_size,
    const char* id, size_t id_size, uint64_t since_usec, uint64_t now_usec
) noexcept nogil:
    """A request is in the application's hands from here on, for which it has waited since then.
    Returns its entry, for `note_released`; -1 where there are too many to tell them all."""
    cdef uint64_t queued = now_usec - since_usec if now_usec > since_usec else 0
    cdef int entry = -1
    cdef InHand* one
    slot.requests += 1
    slot.queue_usec += queued
    slot.queues[_bucket(queued)] += 1
    slot.request_started_usec = now_usec
    if slot.in_hand_taken == (1 << IN_HAND) - 1:
        return -1
    entry = sockd_lowest_free(slot.in_hand_taken)
    slot.in_hand_taken |= <uint64_t>1 << entry
    one = &slot.in_hand[entry]
    one.version += 1
    sockd_barrier()
    if method_size > 32:
        method_size = 32
    if target_size > REQUEST_TEXT - 1 - method_size:
        target_size = REQUEST_TEXT - 1 - method_size
    memcpy(one.text, method, method_size)
    one.text[method_size] = c" "
    memcpy(one.text + method_size + 1, target, target_size)
    one.text_size = method_size + 1 + target_size
    one.number = slot.requests
    one.id_size = min(id_size, <size_t>REQUEST_ID)
    if id_size:
        memcpy(one.id, id, one.id_size)
    one.sending = 0
    one.started_usec = now_usec
    sockd_barrier()
    one.version += 1
    return entry


cdef void note_released(Slot* slot, int entry) noexcept nogil:
    """That request is no longer in hand."""
    slot.in_hand_taken &= ~(<uint64_t>1 << entry)


cdef void note_response(Slot* slot, int status) noexcept nogil:
    if status >= 500:
        slot.responses_5xx += 1
    elif status >= 400:
        slot.responses_4xx += 1


cdef void note_duration(Slot* slot, uint64_t usec) noexcept nogil:
    """A request took so long, its response included."""
    slot.duration_usec += usec
    slot.durations[_bucket(usec)] += 1
