# cython: language_level=3
"""A WebSocket in the hands of its task (ASGI WebSocket 2.5).

Frames are read until one message is there, then no more before the application has taken it: a
slow application holds up its client, and what a connection can make a worker keep is one message.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset

from sockd.http.connections cimport (
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    WRITING,
    Connection,
    keep_input,
    monotonic_usec,
)
from sockd.http.response cimport Buffer, buffer_add, buffer_free
from sockd.http.websocket cimport WebSocket
from sockd.worker.tasks cimport Exchange

from sockd.http.websocket import NO_CLOSE, Closed
from sockd.worker.tasks import ClientDisconnected

cdef extern from "Python.h":
    char* PyBytes_AS_STRING(object data)
    Py_ssize_t PyBytes_GET_SIZE(object data)

cdef extern from "sys/epoll.h" nogil:
    uint32_t EPOLLERR
    uint32_t EPOLLHUP

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* data, size_t size, int flags)

cdef enum:
    PIECE = 65536
    # Messages are taken while so much is waiting for room in the socket.
    ROOM = 16384
    RESTART = 1012
    CLOSING_SECONDS = 5


cdef class Session(Exchange):
    # -- receive -----------------------------------------------------------------------------

    cdef object next_event(self):
        if not self.connect_told:
            self.connect_told = True
            return {"type": "websocket.connect"}
        if self.held is None and self.ending is None and self.connection != NULL:
            self.loop.enter()
            try:
                if self.stage == OPEN:
                    self._advance(<Connection*>self.connection)
                elif (<Connection*>self.connection).interest == 0:
                    self.loop._want(<Connection*>self.connection, EPOLLRDHUP)
            finally:
                self.loop.leave()
        event, self.held = self.held, None
        if event is not None:
            if type(event) is str:
                return {"type": "websocket.receive", "text": event, "bytes": None}
            return {"type": "websocket.receive", "text": None, "bytes": event}
        if self.ending is not None or self.connection == NULL:
            return self._disconnect()
        return None

    cdef object _disconnect(self):
        code, reason = self.ending or (NO_CLOSE, "")
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    cdef int _advance(self, Connection* c) except -1:
        """Read on until there is a message, or nothing more."""
        cdef char data[PIECE]
        cdef ssize_t got
        cdef size_t used
        while self.held is None and not self.engine.over:
            if self.input_at < c.input.size:
                event = self.engine.next_event(
                    c.input.data + self.input_at, c.input.size - self.input_at, &used)
                self.input_at += used
            else:
                if c.input.size:
                    self.input_at = 0
                    keep_input(c, NULL, 0)
                got = recv(c.fd, data, PIECE, 0)
                if got < 0 and (errno == EAGAIN or errno == EINTR):
                    break
                if got <= 0:
                    return self._lost(c)
                self.loop.slot.bytes_in += got
                self.heard_usec = self.loop.all.now
                self.pinged = False
                event = self.engine.next_event(data, got, &used)
                if <ssize_t>used < got and not keep_input(c, data + used, got - used):
                    raise MemoryError
            self._heard(event)
        return self._flush(c)

    cdef int _heard(self, object event) except -1:
        if type(event) is str or type(event) is bytes:
            self.held = event
        elif type(event) is Closed:
            self.ending = (event.code, event.reason)
            if event.failed:
                self.tell(f"WebSocket failed with {event.code}: {event.reason}", None, None)
        return 0

    cdef int _lost(self, Connection* c) except -1:
        """The connection has ended without Close (RFC 6455 7.1.5)."""
        if self.engine is not None:
            self.engine.eof()
        if self.ending is None:
            self.ending = (NO_CLOSE, "")
        self.loop._close(c)
        return 0

    # -- send --------------------------------------------------------------------------------

    cdef bint may_send(self) noexcept:
        return self.connection == NULL or self.engine is None or self.engine.out.size < ROOM

    cdef bint take(self, object message) except -1:
        cdef str kind = message["type"]
        if self.connection == NULL or self.ending is not None:
            if kind == "websocket.close":
                return False
            raise ClientDisconnected("the client went away")
        if kind == "websocket.send" and self.stage == OPEN:
            data = message.get("bytes")
            if data is None:
                data = message["text"]
            try:
                self.engine.put(data)
            except MemoryError:
                self.drop("too little memory for a message")
                raise
        elif kind == "websocket.close" and self.stage == OPEN:
            self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.accept" and self.stage == CONNECTING:
            self._accept(message)
        elif kind == "websocket.close" and self.stage == CONNECTING:
            self.stage = ENDED
            self.keep_alive = False
            self.fail(403)
        elif self.stage == CONNECTING or self.stage == DENYING:
            self._deny(kind, message)
        else:
            raise RuntimeError(f"{kind} does not fit the state of the WebSocket")
        self.send_out()
        return self.connection != NULL and self.pending() and not self.complete

    cdef int _accept(self, object message) except -1:
        headers = message.get("headers", ())
        head = self.opening.accept(
            message.get("subprotocol"), [(bytes(name), bytes(value)) for name, value in headers])
        self.engine = WebSocket(limit=self.limit, deflate=self.opening.deflate)
        self.opening = None
        buffer_add(&self.buffer, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        self.code = 101
        self.started = self.head_written = True
        self.stage = OPEN
        self.heard_usec = monotonic_usec()
        self._watch()
        self.loop.enter()
        if self.connection != NULL:
            (<Connection*>self.connection).done_asking = False
            if (<Connection*>self.connection).state != WRITING:
                self.loop._want(<Connection*>self.connection, EPOLLIN)
        return self.loop.leave()

    cdef int _deny(self, str kind, object message) except -1:
        """The extension websocket.http.response."""
        if kind == "websocket.http.response.start" and not self.started:
            self.start_bytes(message["status"], message.get("headers", ()))
            self.stage = DENYING
            self.keep_alive = False
        elif kind == "websocket.http.response.body" and self.started:
            body = bytes(message.get("body", b""))
            more = message.get("more_body", False)
            self.add(body, -1 if more else len(body))
            if not more:
                self.stage = ENDED
                self.end()
        else:
            raise RuntimeError(f"{kind} does not fit the state of the WebSocket")
        return 0

    cdef int _close(self, int code, str reason) except -1:
        if not self.engine.close_sent:
            self.engine.close(code, reason)
        return self._watch()

    cdef int send_out(self) except -1:
        if self.beginning or self.connection == NULL:
            return 0
        self.loop.enter()
        if self.connection != NULL:
            self._flush(<Connection*>self.connection)
        return self.loop.leave()

    cdef int _flush(self, Connection* c) except -1:
        if self.connection != NULL and (self._load() or self.pending() or self.complete):
            self.loop.flush(c)
        return 0

    cdef int _load(self) except -1:
        """Take what the engine has to send, once all that was taken before is sent; 1 if there was
        something, or nothing more will be."""
        if self.engine is None or self.complete or self.buffer_at < self.buffer.size:
            return 0
        if self.engine.out.size:
            buffer_free(&self.buffer)
            self.buffer = self.engine.out
            self.buffer_at = 0
            memset(&self.engine.out, 0, sizeof(Buffer))
            self.engine.taken()
            return 1
        buffer_free(&self.buffer)
        self.buffer_at = 0
        if self.engine.over:
            self.keep_alive = False
            self.complete = True
            return 1
        return 0

    # -- the loop's side ---------------------------------------------------------------------

    cdef int begin(self) except -1:
        cdef Connection* c = <Connection*>self.connection
        if self.opening is None or c.body != NULL or self.body or self.loop.draining:
            self.keep_alive = False
            self.stage = ENDED
            if self.opening is None:
                self.code = 400
                buffer_add(
                    &self.buffer, PyBytes_AS_STRING(self.refusal), PyBytes_GET_SIZE(self.refusal))
                self.started = self.head_written = self.complete = True
            else:
                self.fail(503 if self.loop.draining else 400)
            return 0
        return Exchange.begin(self)

    cdef int event(self, uint32_t events) except -1:
        cdef Connection* c = <Connection*>self.connection
        if events & EPOLLOUT and c.state == WRITING:
            self.loop._drive(c)
            if self.connection == NULL:
                return 0
        if events & EPOLLIN and self.stage == OPEN and self.held is None:
            self._advance(c)
            if self.held is not None or self.ending is not None:
                self.wake_readers()
        elif events & (EPOLLERR | EPOLLHUP):
            self._lost(c)
        elif events & EPOLLRDHUP:
            if self.stage == OPEN:
                self.loop._want(c, EPOLLOUT if c.state == WRITING else 0)  # read when it is its turn
            else:
                self._lost(c)
        elif events & EPOLLIN:
            self.loop._want(c, EPOLLRDHUP | (EPOLLOUT if c.state == WRITING else 0))
        return 0

    cdef int pull(self) except -1:
        cdef Connection* c = <Connection*>self.connection
        if self._load():
            return self.loop._drive(c)
        if c.interest != EPOLLIN and self.stage == OPEN and self.held is None:
            self.loop._want(c, EPOLLIN)
        elif c.interest & EPOLLOUT:
            self.loop._want(c, EPOLLRDHUP)
        return self.wake_writers()

    cdef int returned(self) except -1:
        if self.complete or self.connection == NULL:
            return 0
        if self.stage == OPEN:
            self._close(1000, "")
        else:
            self.loop.slot.exceptions += 1
            self.tell("the application returned without an answer to the WebSocket", None, "3")
            self.keep_alive = False
            self.fail(500)
        return self.send_out()

    cdef int failed(self, object error) except -1:
        if self.ending is not None or self.gone:
            if not isinstance(error, OSError):
                self.tell(f"after its client went away: {type(error).__name__}: {error}", None, None)
        else:
            self.loop.slot.exceptions += 1
            self.tell("the application failed", error, None)
        if self.complete or self.connection == NULL:
            return 0
        if self.stage == OPEN:
            self._close(1011, "")
        else:
            self.keep_alive = False
            self.fail(500)
        return self.send_out()

    cdef int close(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return Exchange.close(self)

    # -- deadlines ---------------------------------------------------------------------------

    cdef int go_away(self) except -1:
        """The worker drains; within a turn of the loop."""
        if self.stage == OPEN and self.connection != NULL and not self.engine.close_sent:
            self._close(RESTART, "service restart")
            self._flush(<Connection*>self.connection)
        return 0

    cdef int _watch(self) except -1:
        """Look after the connection when it has been silent, or has not answered Close."""
        cdef double seconds = self.ping
        if self.engine.close_sent:
            seconds = CLOSING_SECONDS
        if self.timer is not None:
            self.timer.cancel()
        if seconds:
            self.timer = self.handler.host.call_later(seconds, self._look)
        return 0

    def _look(self):
        cdef double silent = (monotonic_usec() - self.heard_usec) / 1e6
        self.timer = None
        if self.connection == NULL:
            return
        if self.engine.close_sent:
            self.drop("the client did not answer the close of its WebSocket")
        elif self.held is None and silent >= self.ping:
            if self.pinged:
                self.drop("the client did not answer a ping")
            else:
                self.pinged = True
                self.engine.ping(b"")
                self.send_out()
                self._watch()
        else:
            self._watch()
