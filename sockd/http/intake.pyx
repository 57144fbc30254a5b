# cython: language_level=3
"""What comes from clients: heads, bodies, pipelined requests, and their end."""

from io import BytesIO

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t

from sockd.http.answers cimport Answers
from sockd.http.body cimport COMPLETE, body_feed, body_new
from sockd.http.connections cimport (
    ACTIVE,
    BODY,
    CLOSED,
    EPOLLIN,
    EPOLLOUT,
    HEAD,
    IDLE,
    LINGERING,
    NEW,
    WRITING,
    Connection,
    drop_head,
    enter,
    reserve,
    take_head,
)
from sockd.http.handover cimport take
from sockd.http.health cimport health_answer, health_asked
from sockd.http.parser cimport BODY_TOO_LARGE, HEAD_TIMEOUT, SPOOL_FAILED, head_begun, parse_head
from sockd.http.response cimport Response
from sockd.http.stream cimport Stream, stream_file, stream_new

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL

cdef enum:
    SCRATCH = 65536
    # A deadline of body and write is renewed by this many bytes of progress.
    PROGRESS = 65536
    # What one connection may do before the others get their turn.
    PIPELINED = 16
    LINGER_BYTES = 1 << 20


cdef class Intake(Answers):
    """A loop that reads requests, whole before they are run unless they stream."""

    cdef int _readable(self, Connection* c) except -1:
        cdef ssize_t got
        cdef size_t held = c.input.size
        cdef char* data = self.scratch
        if c.state == LINGERING:
            return self._discard(c)
        if c.late:
            return self._eof(c)  # a request that crossed it must not run: nobody reads the answer
        if held and c.interest & EPOLLOUT:
            # Requests that wait in memory: their turn came, nothing new needs to be read.
            self._want(c, EPOLLIN)
            c.input.size = 0
            return self._consume(c, c.input.data, held)
        if held:
            if not reserve(&c.input, held + 16384):
                raise MemoryError
            data = c.input.data
        got = recv(c.fd, data + held, (c.input.capacity if held else SCRATCH) - held, 0)
        if got < 0:
            if errno == EAGAIN or errno == EINTR:
                return self._want(c, EPOLLIN)
            self._close(c)
            return 0
        if got == 0:
            return self._eof(c)
        self.slot.bytes_in += got
        if c.state == BODY:
            c.progress += <uint32_t>got
            if c.progress >= PROGRESS:
                enter(&self.all, c, BODY)
        c.input.size = 0
        return self._consume(c, data, held + got)

    cdef int _discard(self, Connection* c) except -1:
        """Read away what a peer still sends after our last response, within bounds."""
        cdef ssize_t got = recv(c.fd, self.scratch, SCRATCH, 0)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if got > 0:
            c.progress += <uint32_t>got
            if c.progress < LINGER_BYTES:
                return 0
        self._close(c)
        return 0

    cdef int _eof(self, Connection* c) except -1:
        if c.late and c.state == HEAD:
            self._note_refusal(c, HEAD_TIMEOUT)
        elif c.state == BODY:
            declared = f" of {c.body.length}" if c.body.length >= 0 else ""
            self._complain(c, f"cut upload: {c.body.received}{declared} bytes of the body came")
        self._close(c)
        return 0

    cdef int _consume(self, Connection* c, char* data, size_t size) except -1:
        """Work through input: heads, bodies, pipelined requests in their order."""
        cdef size_t at = 0
        cdef int head_size
        cdef int64_t taken
        cdef int budget = PIPELINED
        while at < size:
            if c.state == NEW or c.state == IDLE or c.state == HEAD:
                if self._leaves():
                    c.arrived_usec = self.all.now
                    return self._keep(c, data + at, size - at)
                if budget == 0:
                    c.arrived_usec = self.all.now
                    # A socket is nearly always writable: so epoll brings us back here next turn.
                    self._keep(c, data + at, size - at)
                    return self._want(c, EPOLLIN | EPOLLOUT)
                if c.head == NULL and not take_head(&self.all, c):
                    raise MemoryError
                head_size = parse_head(c.head, data + at, <uint32_t>(size - at), &self.all.limits)
                if head_size < 0:
                    return self._refuse(c, head_size)
                if head_size == 0:
                    if c.state != HEAD and head_begun(c.head, <uint32_t>(size - at)):
                        enter(&self.all, c, HEAD)
                    break
                budget -= 1
                taken = self._begin(c, data + at, head_size, size - at - head_size)
                at += head_size + taken
            elif c.state == BODY:
                taken = body_feed(c.body, data + at, size - at, &self.all.limits)
                if taken < 0:
                    return self._refuse(c, <int>taken)
                at += taken
                if c.body.phase == COMPLETE:
                    (<Response>c.response).waiting_since = self.ready_usec
                    if at < size:
                        c.done_asking = False
                    self._run_with_body(c)
            elif c.state == CLOSED:
                return 0
            else:
                break
        if c.state == CLOSED or c.state == LINGERING:
            return 0
        if at < size or c.input.size == 0:  # else the rest of a body's stream is there
            self._keep(c, data + at, size - at)
        if c.state != WRITING and c.state != ACTIVE:
            self._want(c, EPOLLIN | (EPOLLOUT if at == size and c.input.size else 0))
        return 0

    cdef int64_t _begin(self, Connection* c, char* head, size_t head_size, size_t size) except -2:
        """A head is complete, `size` bytes follow it. Returns how many of them were used."""
        cdef int64_t length = c.head.content_length
        cdef bint chunked = c.head.chunked
        cdef bint expects = c.head.expect_continue
        cdef Response response
        if length > self.body_limit:
            self._refuse(c, -BODY_TOO_LARGE)
            return 0
        if health_asked(&self.helper.health, c.head, head):
            return self._tell_health(c, head)
        response = self.handler.open(self, c, head)
        response.waiting_since = min(response.waiting_since, self.ready_usec)
        if c.arrived_usec:
            response.waiting_since = min(response.waiting_since, c.arrived_usec)
            c.arrived_usec = 0
        if self.closing:
            response.keep_alive = False
        response.connection = c
        Py_INCREF(response)
        c.response = <PyObject*>response
        c.done_asking = not c.head.keep_alive
        drop_head(&self.all, c)
        if not chunked and length <= <int64_t>size:
            # The usual case: no body, or one that is here already.
            length = max(length, 0)
            if length < <int64_t>size:
                c.done_asking = False
            body = PyBytes_FromStringAndSize(head + head_size, length)
            self._run(c, body if self.handler.streams else BytesIO(body))
            return length
        c.body = body_new(chunked, length, self.body_limit)
        if c.body == NULL:
            raise MemoryError
        if self.handler.streams:
            return self._begin_early(c, head + head_size, size, expects)
        if self.stream_timeout:
            return self._begin_stream(c, head + head_size, size, expects)
        enter(&self.all, c, BODY)
        if expects and size == 0:
            # RFC 9110 10.1.1. A peer that does not take these bytes will not take more.
            if c_send(c.fd, b"HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) != 25:
                self._close(c)
        return 0

    cdef int64_t _begin_stream(
        self, Connection* c, const char* data, size_t size, bint expects
    ) except -2:
        """The application reads the rest of the body, unless all of it is here. Returns how many
        bytes were used."""
        cdef Response response = <Response>c.response
        cdef int64_t taken = body_feed(c.body, data, size, &self.all.limits)
        if taken < 0:
            self._refuse(c, <int>taken)
        elif c.body.phase == COMPLETE:
            if taken < <int64_t>size:
                c.done_asking = False
            self._run_with_body(c)
        else:
            try:
                response.stream = stream_new(
                    c.fd, c.body, &self.all.limits, self.stream_timeout, expects and size == 0)
            except OSError:
                self._refuse(c, -SPOOL_FAILED)
                return taken
            c.body = NULL
            self._run(c, stream_file(<Stream>response.stream))
        return max(taken, 0)

    cdef int64_t _begin_early(
        self, Connection* c, const char* data, size_t size, bint expects
    ) except -2:
        """A task takes the rest of the body out of the connection as it comes. Returns how many
        bytes were used."""
        cdef int64_t taken = 0
        c.body.streamed = True
        c.body.expects = expects and size == 0
        taken = body_feed(c.body, data, size, &self.all.limits)
        if taken < 0:
            self._refuse(c, <int>taken)
            return 0
        if taken < <int64_t>size:
            c.done_asking = False
        self._run(c, None)
        return taken

    cdef int64_t _tell_health(self, Connection* c, const char* head) except -2:
        cdef bint kept = health_answer(c.fd, c.head, head, self.draining, self.date)
        drop_head(&self.all, c)
        c.arrived_usec = 0
        c.served += 1
        if not kept:
            return self._linger(c)
        enter(&self.all, c, IDLE)
        return 0
