# cython: language_level=3
"""The id of a request, and which request a thread is working on.

A request has the id that a trusted proxy gave it (X-Request-ID, else the trace id of traceparent,
https://www.w3.org/TR/trace-context/); any other has a number, of which its id is made when
somebody asks. So an id that nobody wants costs nothing.
"""

import re
from contextvars import ContextVar

from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from sockd.board cimport Slot, made_id, note_request
from sockd.http.response cimport Response

cdef extern from "Python.h":
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef extern from *:
    """
    static __thread PyObject* sockd_response = NULL;
    static __thread void* sockd_slot = NULL;
    #define sockd_set_current(response, slot) (sockd_response = (response), sockd_slot = (slot))
    #define sockd_current_response() sockd_response
    #define sockd_current_slot() sockd_slot
    """
    void sockd_set_current(PyObject* response, void* slot) noexcept nogil
    PyObject* sockd_current_response() noexcept nogil
    void* sockd_current_slot() noexcept nogil

_ID = re.compile(r"[!-~]{1,64}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

TASK_REQUEST = ContextVar("sockd_request_id", default=None)
"""The id of the request that a task works on, where requests share a thread (ASGI): whatever has
a `str`, which is asked for when somebody wants it."""


cdef void note_begun(
    Response response, Slot* slot, str method, str target, uint64_t now_usec
) noexcept:
    """The request of a response (`method` and `target` in Latin-1) is on the board from here on,
    and has its number."""
    cdef const char* id = NULL
    cdef Py_ssize_t id_size = 0
    if response.request_id is not None:
        id = <char*>PyUnicode_DATA(response.request_id)
        id_size = PyUnicode_GET_LENGTH(response.request_id)
    response.entry = note_request(
        slot, <char*>PyUnicode_DATA(method), PyUnicode_GET_LENGTH(method),
        <char*>PyUnicode_DATA(target), PyUnicode_GET_LENGTH(target),
        id, id_size, response.waiting_since, now_usec)
    response.number = slot.requests


cdef void enter_request(Response response, Slot* slot) noexcept:
    """This thread works on a request from here on, until `leave_request`."""
    sockd_set_current(<PyObject*>response, slot)


cdef void leave_request() noexcept:
    sockd_set_current(NULL, NULL)


cdef str taken_id(str value, bint is_trace):
    """The id in the value of X-Request-ID, or of traceparent; None if it is not a proper one."""
    found = _TRACE.fullmatch(value) if is_trace else _ID.fullmatch(value)
    if found is None or (is_trace and found[1] == "0" * 32):
        return None
    return found[1] if is_trace else value


cdef str id_of(Response response, Slot* slot):
    """None before the application was called, unless it came with one."""
    if response.request_id is None and response.number:
        response.request_id = made_id(slot, response.number)
    return response.request_id


def request_id():
    """The id of the request that the calling thread or task is working on, None outside of one."""
    cdef PyObject* response = sockd_current_response()
    if response != NULL:
        return id_of(<Response>response, <Slot*>sockd_current_slot())
    found = TASK_REQUEST.get()
    return None if found is None else str(found)
