# cython: language_level=3
"""A request body that the application reads while it comes (`server.stream_body`).

The one that reads waits: the loop itself, where the application runs in its thread. What does not
end as it was announced raises an OSError, so that a body cut short never looks complete."""

import io

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from sockd.http.body cimport COMPLETE, Body, body_feed, body_free, body_release
from sockd.http.connections cimport monotonic_usec, reserve
from sockd.http.deadlines cimport wait_begins, wait_ends
from sockd.http.parser cimport BODY_TIMEOUT, Limits, refusal
from sockd.http.response cimport Buffer, buffer_free

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL

cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, int argument)
    int F_DUPFD_CLOEXEC

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef enum:
    PIECE = 65536
    # The time that the client is given is renewed by this many bytes.
    PROGRESS = 65536


cdef class Stream:
    """What has come of a body and was not read, and the socket for the rest of it.

    `verdict` is why it was refused (sockd.http.parser), `cut` whether the client went away."""

    def __cinit__(self):
        self.fd = -1
        memset(&self.rest, 0, sizeof(Buffer))

    def __dealloc__(self):
        body_free(self.body)
        buffer_free(&self.rest)
        if self.fd >= 0:
            close(self.fd)

    cdef bint complete(self) noexcept:
        return self.body.phase == COMPLETE

    cdef void end(self) noexcept:
        """Let go of the socket: its request is over, though the application may keep the file."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        if not self.complete():
            self.cut = True

    cdef int _feed(self, const char* data, size_t size) except -1:
        """Take what was received. What follows the body is kept in `rest`."""
        cdef int64_t taken
        self.at = 0
        body_release(self.body)
        taken = body_feed(self.body, data, size, &self.limits)
        if taken < 0:
            return self._refuse(<int>taken)
        if taken < <int64_t>size:
            if not reserve(&self.rest, size - taken):
                raise MemoryError
            memcpy(self.rest.data, data + taken, size - taken)
            self.rest.size = size - taken
        return 0

    cdef int _refuse(self, int verdict) except -1:
        self.verdict = verdict
        raise OSError(f"the request body is refused: {refusal(verdict).reason.decode()}")

    cdef int _receive(self) except -1:
        """Wait for more of the body."""
        cdef char data[PIECE]
        cdef pollfd waiting
        cdef ssize_t got
        cdef int64_t since
        cdef uint64_t deadline
        if self.verdict or self.cut:
            raise OSError("the request body did not come whole")
        if self.ask:
            self.ask = False
            c_send(self.fd, b"HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL)
        waiting.fd = self.fd
        waiting.events = POLLIN
        while True:
            got = recv(self.fd, data, PIECE, 0)
            if got < 0 and errno == EINTR:
                continue
            if got >= 0 or errno != EAGAIN:
                break
            if self.left_usec <= 0:
                self.verdict = -BODY_TIMEOUT
                raise TimeoutError("the request body did not come in time")
            since = monotonic_usec()
            deadline = wait_begins()
            with nogil:
                poll(&waiting, 1, <int>min(self.left_usec // 1000 + 1, <int64_t>3600000))
            since = <int64_t>monotonic_usec() - since
            wait_ends(deadline, since)
            self.left_usec -= since
            # A signal's handler may raise, sockd's own for a request that takes too long.
            PyErr_CheckSignals()
        if got <= 0:
            self.cut = True
            declared = f" of {self.body.length}" if self.body.length >= 0 else ""
            raise ConnectionResetError(
                f"the client went away: {self.body.received}{declared} bytes of the body came")
        self.progress += got
        if self.progress >= PROGRESS:
            self.progress = 0
            self.left_usec = self.timeout_usec
        return self._feed(data, got)

    def readinto(self, target):
        """Bytes of the body into `target`: how many, 0 at its end. OSError when it is refused, cut,
        or does not come within `timeouts.body`."""
        cdef unsigned char[::1] view = target
        cdef size_t size
        while self.at == self.body.size and not self.complete():
            self._receive()
        size = min(self.body.size - self.at, <size_t>view.shape[0])
        if size:
            memcpy(&view[0], self.body.data + self.at, size)
            self.at += size
        return size


class _RawStream(io.RawIOBase):
    def __init__(self, stream):
        self._stream = stream

    def readable(self):
        return True

    def readinto(self, target):
        return self._stream.readinto(target)


cdef Stream stream_new(int fd, Body* body, const Limits* limits, double timeout, bint ask):
    """The rest of `body`, which is the stream's from here on, comes from `fd`; the stream has a
    descriptor of its own, since the loop may close the connection under a thread that reads."""
    cdef Stream stream = Stream()
    stream.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if stream.fd < 0:
        raise OSError(errno, "no descriptor for a request body")
    stream.body = body
    body.streamed = True
    stream.limits = limits[0]
    stream.timeout_usec = stream.left_usec = <int64_t>(timeout * 1000000)
    stream.ask = ask
    return stream


cdef object stream_file(Stream stream):
    """A binary file over it, as wsgi.input wants one."""
    return io.BufferedReader(_RawStream(stream), PIECE)
