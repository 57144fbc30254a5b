# cython: language_level=3
"""The board: what every worker is doing, in memory that the master shares.

A sealed-size memfd of fixed slots. A worker writes its own slot with plain stores (no system call,
no lock); the master and whoever holds the descriptor read it at any time, also while the worker is
stuck. Aligned 64-bit stores are atomic on every machine sockd runs on; the one text in a slot, the
request in hand, carries a version that is odd while it is being written.
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

# A page for each slot: histograms fit in later without moving what is there.
SLOT_BYTES = SLOT_SIZE

STATES = ("free", "booting", "ready", "draining", "leaving")
"""Values of a slot's `state`, by number. Leaving is draining, with others that take over what is
idle."""

FIELDS = (
    "state", "generation", "worker", "pid", "started_usec", "beat_usec",
    "requests", "responses_4xx", "responses_5xx", "exceptions", "refused",
    "connections", "active", "bytes_in", "bytes_out", "request_started_usec",
)
"""The numbers of a slot in the order of `struct Slot`. Times are CLOCK_MONOTONIC in microseconds;
`request_started_usec` is 0 when no request is in hand."""


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
        slot.state = BOOTING if worker else FREE

    def set_state(self, int index, str state):
        """One of STATES."""
        self.slot(index).state = STATES.index(state)

    def set_process(self, int index, int pid, uint64_t started_usec):
        cdef Slot* slot = self.slot(index)
        slot.pid = pid
        slot.started_usec = started_usec

    def read(self, int index):
        """The slot as a dict of FIELDS, with `state` as a word and `request` as text
        ("GET /path", empty when none is in hand)."""
        cdef Slot* slot = self.slot(index)
        cdef uint64_t* numbers = <uint64_t*>slot
        values = {name: numbers[i] for i, name in enumerate(FIELDS)}
        values["state"] = STATES[values["state"]] if values["state"] < len(STATES) else "unknown"
        values["request"] = ""
        cdef uint64_t version
        cdef char text[REQUEST_TEXT]
        cdef size_t size = 0
        for _ in range(100):
            version = slot.request_version
            sockd_barrier()
            size = min(slot.request_size, <uint64_t>REQUEST_TEXT)
            memcpy(text, slot.request, size)
            sockd_barrier()
            if version == slot.request_version and not version & 1:
                if values["request_started_usec"]:
                    values["request"] = text[:size].decode("latin-1")
                break
        return values


cdef void note_request(Slot* slot, const char* method, size_t method_size,
                       const char* target, size_t target_size, uint64_t now_usec) noexcept nogil:
    """A request is in the worker's hands from here on."""
    slot.request_version += 1
    sockd_barrier()
    if method_size > 32:
        method_size = 32
    if target_size > REQUEST_TEXT - 1 - method_size:
        target_size = REQUEST_TEXT - 1 - method_size
    memcpy(slot.request, method, method_size)
    slot.request[method_size] = c" "
    memcpy(slot.request + method_size + 1, target, target_size)
    slot.request_size = method_size + 1 + target_size
    sockd_barrier()
    slot.request_version += 1
    slot.request_started_usec = now_usec
    slot.requests += 1


cdef void note_response(Slot* slot, int status) noexcept nogil:
    if status >= 500:
        slot.responses_5xx += 1
    elif status >= 400:
        slot.responses_4xx += 1
