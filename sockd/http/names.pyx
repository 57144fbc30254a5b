# cython: language_level=3
"""Names of header fields that came before, found by their bytes: clients repeat themselves."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy


cdef Name* find_name(Names* names, const char* name, uint32_t size) noexcept nogil:
    """The entry of a field name, a new one without key where it is new; NULL if there is no room
    for it."""
    cdef uint32_t i
    cdef uint32_t mixed = size
    cdef Name* entry
    for i in range(size):
        mixed = mixed * 31 + <uint8_t>name[i]
    mixed ^= mixed >> 15
    for i in range(8):
        entry = &names.table[(mixed + i) & (NAMES - 1)]
        if entry.raw == NULL:
            break
        if entry.size == size and memcmp(entry.raw, name, size) == 0:
            return entry
    else:
        return NULL
    if names.filled == NAMES_FILLED:
        return NULL
    entry.raw = <char*>malloc(size)
    if entry.raw == NULL:
        return NULL
    memcpy(entry.raw, name, size)
    entry.size = size
    names.filled += 1
    return entry
