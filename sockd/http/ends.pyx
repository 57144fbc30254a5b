# cython: language_level=3
"""What all parts of the connection loop know, and how a connection or a request in it ends.

The loop is one object in six files, each a class on top of the one before: `ends`, `overdue`,
`answers`, `intake`, `reception`, `loop`.
"""

import sys

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from sockd import RequestTimeout
from sockd.board cimport LEAVING, note_response
from sockd.http.connections cimport (
    CLOSED,
    EPOLLIN,
    EPOLL_CTL_DEL,
    LINGERING,
    Connection,
    enter,
    epoll_ctl,
    forget,
    keep_input,
    monotonic_usec,
    peer_of,
    want,
)
from sockd.http.current cimport id_of
from sockd.http.deadlines cimport RAISED
from sockd.http.forks cimport has_forked
from sockd.http.parser cimport refusal
from sockd.http.response cimport Response, plain_response

cdef extern from "sys/socket.h" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL
    int SHUT_WR
    int SHUT_RDWR

cdef extern from "unistd.h" nogil:
    int close(int fd)


cdef class Handler:
    """A calling convention, such as WSGI.

    The loop calls `open` when a head is read. The response to be that it returns holds the
    request, and does the rest; see `Response`. If it `streams`, a response begins then, too, and
    takes the rest of the body out of its connection."""

    cdef Response open(self, Ends loop, Connection* connection, const char* head):
        raise NotImplementedError

    cdef int recycle(self, Response response) except -1:
        """A response is closed and all of it was sent, or its connection has ended."""
        return 0

    cdef bint busy(self):
        """Whether the application does something still for requests that were answered."""
        return False

    cdef int drain(self) except -1:
        """The loop begins to drain."""
        return 0

    cdef bint turns_away(self, Ends loop, Response response) except -1:
        """503 for a request whose client has given up, most likely: it has waited longer than
        `limits.queue_time`. One journal line a second says how many."""
        cdef uint64_t now = monotonic_usec()
        if not loop.queue_limit or now <= response.waiting_since + loop.queue_limit:
            return False
        loop.slot.turned_away += 1
        loop.hush(response)
        self.turned_away += 1
        if self.report is not None and now > self.turned_away_usec + 1000000:
            self.report(
                f"turned away {self.turned_away} requests that had waited longer than "
                "limits.queue_time", None, {"PRIORITY": "4"})
            self.turned_away = 0
            self.turned_away_usec = now
        response.fail(503, [("Retry-After", "1")])
        return True


cdef class Ends:
    """What a loop has and holds; what it is for stands in the classes on top of it."""

    cdef int _cut(self, Connection* c, str why) except -1:
        self._complain(c, why)
        if self.access is not None and c.response != NULL:
            self._note_access(
                c, (<Response>c.response).code, (<Response>c.response).sent_bytes, why)
        self._close(c)
        return 0

    cdef bint _leaves(self) noexcept:
        """Whether what is asked from here on is for others to answer: the order to drain may still
        be on its way."""
        return self.handing_over or self.slot.state == LEAVING and self.channel.give >= 0

    cdef int _want(self, Connection* c, uint32_t events) except -1:
        if want(&self.all, c, events) < 0:
            raise OSError(errno, "cannot watch a connection")
        return 0

    cdef int _keep(self, Connection* c, const char* data, size_t size) except -1:
        """Keep input that cannot be used yet."""
        if not keep_input(c, data, size):
            raise MemoryError
        return 0

    cdef bint hush(self, Response response) noexcept:
        """What follows in this job of the response is sockd's own: nothing is raised in it. Whether
        RequestTimeout was, before."""
        if response.thread >= 0 or response.of_task:
            return False
        self.helper.watch.speaking = False
        return self.helper.watch.hands[0].stage == RAISED

    cdef _complain(self, Connection* c, str what, bint of_app=False):
        """One journal line about a connection, with its request where one is in hand: a warning if
        the application is to blame, else information, since clients come and go as they like."""
        if self.handler.report is None:
            return
        request = ""
        fields = {"PRIORITY": "4" if of_app else "6"}
        if c.response != NULL:
            request = (<Response>c.response).describe()
            fields["SOCKD_REQUEST_ID"] = id_of(<Response>c.response, self.slot)
        peer = peer_of(c)[0] or "a Unix socket"
        self.handler.report(f"{request + ': ' if request else ''}{what} (from {peer})", None, fields)

    cdef _note_refusal(self, Connection* c, int verdict):
        cdef int status = refusal(verdict).status
        self._complain(c, f"refused with {status}: {refusal(verdict).reason.decode()}")
        self.slot.refused += 1
        note_response(self.slot, status)

    cdef int _note_access(self, Connection* c, int status, uint64_t sent, str why) except -1:
        """A request has ended; `sent` bytes of its response were taken."""
        cdef Response response
        cdef uint64_t begun
        peer = peer_of(c)[0]
        if c.response == NULL:
            kept = self.access.note({}, status, 0, 0, sent, 0, None, peer, [], why)
        else:
            response = <Response>c.response
            begun = response.begun_usec
            kept = self.access.note(
                response.told(), status, max(self.all.now, begun) - begun if begun else 0,
                max(begun, response.waiting_since) - response.waiting_since if begun else 0,
                sent, response.body_size, id_of(response, self.slot), peer,
                response.headers or [], why)
        if not kept:
            self.slot.access_lost += 1
        return 0

    cdef int _refuse(self, Connection* c, int verdict) except -1:
        """One answer, one journal line, and nothing served after it."""
        cdef ssize_t sent
        self._note_refusal(c, verdict)
        answer = plain_response(refusal(verdict).status, refusal(verdict).reason.decode())
        sent = max(0, c_send(c.fd, <char*><bytes>answer, len(answer), MSG_NOSIGNAL))
        self.slot.bytes_out += sent
        if self.access is not None:
            self._note_access(c, refusal(verdict).status, sent, "")
        return self._linger(c)

    cdef int _refuse_body(self, Connection* c, int verdict) except -1:
        """Refuse a body; the response to it may have begun."""
        if c.response != NULL and (<Response>c.response).head_written:
            self._note_refusal(c, verdict)
            self._close(c)
            return 0
        return self._refuse(c, verdict)

    cdef int _linger(self, Connection* c) except -1:
        """Close after a response while input is unread or may be on its way: close() would reset
        the connection under it (RFC 9112 9.6), so shut down one way and read on for a while."""
        self._forget(c)
        if shutdown(c.fd, SHUT_WR) < 0:
            self._close(c)
            return 0
        enter(&self.all, c, LINGERING)
        return self._want(c, EPOLLIN)

    cdef void _forget(self, Connection* c) noexcept:
        """Let go of all that a request holds."""
        try:
            self._release(c)
        except Exception:
            self._report_fault()
        forget(&self.all, c)

    cdef void _close(self, Connection* c) noexcept:
        if c.state == CLOSED:
            return
        self._forget(c)
        enter(&self.all, c, CLOSED)
        if c.interest:
            # A fork of the application may hold a copy: epoll would go on reporting it.
            epoll_ctl(self.all.epoll, EPOLL_CTL_DEL, c.fd, NULL)
        if has_forked or self.stream_timeout or c.moved:
            # A child, or the stream of a body, may hold a copy: it would stay open with that.
            shutdown(c.fd, SHUT_RDWR)
        close(c.fd)
        self.slot.connections -= 1
        c.next = self.all.graveyard
        self.all.graveyard = c
        if not self.listening.on:
            self.listening.again = 0
            self._listen_if_free()

    cdef void _broken(self, Connection* c) noexcept:
        """An error of sockd's own (or no memory): this connection ends, the worker lives."""
        self._report_fault()
        self._close(c)

    cdef void _report_fault(self) noexcept:
        if self.handler.report is not None:
            try:
                self.handler.report("internal error on a connection", sys.exc_info(), {})
            except MemoryError:
                pass

    cdef void _listen_if_free(self) noexcept:
        """Accept if there is room: of `reception`."""

    cdef int _release(self, Connection* c) except -1:
        """The request is no longer in hand: of `answers`."""
        return 0
