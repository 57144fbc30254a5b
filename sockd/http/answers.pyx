# cython: language_level=3
"""A request in hand: the application is called, and its response is sent.

A response is sent piece by piece as its client takes it, so what a slow client has not read yet
never holds the application.
"""

from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t

from sockd.board cimport note_duration, note_released, note_response
from sockd.http.body cimport COMPLETE, body_free, body_take
from sockd.http.connections cimport (
    ACTIVE,
    BODY,
    EPOLLIN,
    EPOLLOUT,
    IDLE,
    WRITING,
    Connection,
    enter,
    monotonic_usec,
)
from sockd.http.deadlines cimport let_go
from sockd.http.helper cimport come_back, step_away
from sockd.http.overdue cimport Overdue
from sockd.http.response cimport ALL_SENT, BEGIN, BLOCKED, CLOSE, PULL, Response
from sockd.http.stream cimport Stream

cdef extern from "sys/socket.h" nogil:
    cdef struct linger_option "linger":
        int l_onoff
        int l_linger
    ctypedef unsigned int socklen_t
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int SOL_SOCKET
    int SO_LINGER

cdef enum:
    # A deadline of body and write is renewed by this many bytes of progress.
    PROGRESS = 65536
    PIECES = 16


cdef class Answers(Overdue):
    """A loop that runs requests, in its own thread or in those of its pool."""

    cdef int _run_with_body(self, Connection* c) except -1:
        if c.body.chunked:
            (<Response>c.response).received = c.body.received
        body = body_take(c.body)
        body_free(c.body)
        c.body = NULL
        return self._run(c, body)

    cdef int _run(self, Connection* c, object body) except -1:
        enter(&self.all, c, ACTIVE)
        cdef Response response = <Response>c.response
        self.slot.active += 1
        response.body = body
        if self.pool is not None:
            self.pool.submit(response, BEGIN)
            if self.pool.busy == self.pool.size:
                # Never to make room, which reads: what follows this request lies in `scratch`.
                self._listen_if_free()
            return 0
        if response.of_task:
            if self.concurrency and self.slot.active == self.concurrency:
                self._listen_if_free()
            step_away(self.helper, self.all.now)
            try:
                response.begin()
            finally:
                come_back(self.helper)
        else:
            self._let(c, response, BEGIN)
        self.all.now = monotonic_usec()
        if response.connection == NULL:
            return 0  # a task that took of its body has found the end of the connection
        return self._drive(c)

    cdef int _drive(self, Connection* c) except -1:
        """Send the response as far as the peer and fairness allow."""
        cdef Response response = <Response>c.response
        cdef uint32_t sent = 0
        cdef int outcome
        cdef int i
        for i in range(PIECES):
            sent = 0
            outcome = response.send(c.fd, &sent)
            self.slot.bytes_out += sent
            response.sent_bytes += sent
            if outcome != ALL_SENT:
                if outcome == BLOCKED:
                    return self._await_room(c, sent)
                return self._cut(c, "the client went away during the response")
            if response.complete:
                return self._finish(c)
            if response.entry >= 0:
                self.slot.in_hand[response.entry].sending = 0
            if response.of_task:
                if c.state == WRITING:
                    enter(&self.all, c, ACTIVE)
                return response.pull()
            if self.pool is not None:
                enter(&self.all, c, ACTIVE)
                return self.pool.submit(response, PULL)
            self._let(c, response, PULL)
            self.all.now = monotonic_usec()
            if c.state == WRITING:
                enter(&self.all, c, WRITING)  # the peer took all there was: a whole span for the next
        return self._await_room(c, 0)

    cdef int _await_room(self, Connection* c, uint32_t sent) except -1:
        cdef int entry = (<Response>c.response).entry
        if entry >= 0:
            self.slot.in_hand[entry].sending = 1
        c.progress += sent
        if c.state != WRITING or c.progress >= PROGRESS:
            enter(&self.all, c, WRITING)
        if (<Response>c.response).awaits_body:
            return self._want(c, EPOLLIN | EPOLLOUT)
        return self._want(c, EPOLLOUT)

    cdef int _resume(self, Connection* c) except -1:
        """After a response that took more than its turn: on with what came meanwhile."""
        cdef size_t held = c.input.size
        if c.state == IDLE and not self._leaves():
            self._want(c, EPOLLIN)
            if held:
                c.input.size = 0
                self._consume(c, c.input.data, held)
        return 0

    def _collect_done(self):
        self._collect()

    cdef int _collect(self) except -1:
        """Go on with the responses that threads have worked on."""
        cdef Response response
        cdef Connection* c
        while True:
            response = self.pool.collect()
            if response is None:
                break
            c = <Connection*>response.connection
            if c == NULL:  # its connection was closed, or all of it was sent
                if response.closed:
                    self._end_entry(response)
                else:
                    self.pool.submit(response, CLOSE)
                continue
            try:
                if c.late:
                    self._close(c)  # the helper has answered
                    continue
                self._drive(c)
                self._resume(c)
            except Exception:
                self._broken(c)
        self._listen_if_free()
        if not self.listening.on and not self.draining and not self.listening.again:
            self._admit()
        return 0

    cdef int _finish(self, Connection* c) except -1:
        cdef Response response = <Response>c.response
        cdef bint keep_alive = response.keep_alive
        cdef bint at_once = c.done_asking
        cdef linger_option reset
        if response.complaint is not None:
            self._complain(c, response.complaint, True)
        note_response(self.slot, response.code)
        if response.begun_usec:
            note_duration(self.slot, max(self.all.now, response.begun_usec) - response.begun_usec)
        if self.access is not None:
            self._note_access(
                c, response.code, response.sent_bytes, "cut by the application's fault"
                if response.cut else "")
        if response.cut and not response.chunked and response.length < 0:
            # A body that ends with the connection: only a reset tells the peer that it is short.
            reset.l_onoff = 1
            reset.l_linger = 0
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
            at_once = True
        stream = response.stream
        self._release(c)
        c.served += 1
        if c.body != NULL:
            unread = c.body.phase != COMPLETE
            body_free(c.body)
            c.body = NULL
            if unread:
                return self._linger(c)
        if stream is not None:
            if not (<Stream>stream).complete():
                return self._linger(c)
            self._keep(c, (<Stream>stream).rest.data, (<Stream>stream).rest.size)
            at_once = at_once and (<Stream>stream).rest.size == 0
        if keep_alive:
            enter(&self.all, c, IDLE)
            return 0
        if not at_once:
            return self._linger(c)
        self._close(c)
        return 0

    cdef int _release(self, Connection* c) except -1:
        """The request is no longer in hand."""
        cdef Response response
        if c.response != NULL:
            response = <Response>c.response
            c.response = NULL
            Py_DECREF(response)
            if c.state == ACTIVE or c.state == WRITING or c.state == BODY and response.of_task:
                self.slot.active -= 1
                if self.concurrency and self.slot.active + 1 == self.concurrency:
                    # Not here: to make room for another reads, and this may be amid of that.
                    self.listening.again = self.all.now
            if self.slot.active == 0:
                self.slot.request_started_usec = 0
            response.connection = NULL
            if response.in_pool:
                if response.thread >= 0:
                    let_go(&self.helper.watch, response.thread, c)
                return 0  # it is closed when its thread gives it back
            if not response.closed:
                if response.thread >= 0:
                    return self.pool.submit(response, CLOSE)
                if response.light:
                    response.close()
                else:
                    self._let(c, response, CLOSE)
            response.stream = None
            self._end_entry(response)
            self.handler.recycle(response)
        return 0

    cdef void _end_entry(self, Response response) noexcept:
        """The application is done with the request."""
        if response.entry >= 0:
            note_released(self.slot, response.entry)
            response.entry = -1

    cdef int _consume(self, Connection* c, char* data, size_t size) except -1:
        """Go on with what was read: of `intake`."""
        return 0

    cdef void _admit(self) noexcept:
        """Let one that waits outside in: of `reception`."""
