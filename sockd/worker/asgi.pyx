# cython: language_level=3
"""ASGI 3 on the connection loop: the scope, and HTTP's messages (ASGI HTTP 2.5)."""

import asyncio
import io
import os
import stat
import urllib.parse
from http import HTTPStatus

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Copy
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from sockd.http.body cimport COMPLETE, body_feed, body_release
from sockd.http.connections cimport (
    ACTIVE,
    BODY,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    WRITING,
    Connection,
    enter,
    keep_input,
    peer_of,
    realtime_usec,
)
from sockd.http.current cimport taken_id
from sockd.http.forwarded cimport Origin, from_forwarded, from_x_headers, queued_usec
from sockd.http.guest cimport Guest
from sockd.http.ends cimport Ends
from sockd.http.names cimport Name, Names, find_name
from sockd.http.parser cimport (
    BODY_TIMEOUT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PORT,
    FORWARDED_PROTO,
    REQUEST_ID,
    REQUEST_START,
    TRACE_PARENT,
    UPGRADE,
    Field,
    Head,
)
from sockd.http.response cimport Response, send_early_hints
from sockd.worker.session cimport Session
from sockd.worker.tasks cimport Exchange, TaskHandler

from sockd.http.handshake import Deflate, Opening, Refused
from sockd.worker.tasks import ClientDisconnected

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)
    Py_ssize_t Py_REFCNT(object value)
    char* PyBytes_AS_STRING(object data)
    Py_ssize_t PyBytes_GET_SIZE(object data)

cdef extern from "sys/epoll.h" nogil:
    uint32_t EPOLLERR
    uint32_t EPOLLHUP

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL

cdef enum:
    PIECE = 65536
    # The time that a client is given for its body is renewed by this many bytes.
    PROGRESS = 65536
    # What is read away of a body that its application did not want, to keep the connection.
    UNWANTED = 65536
    # Field values that are remembered are not longer than this.
    VALUE = 256
    SPARES = 128

SECRETS = frozenset((b"authorization", b"proxy-authorization", b"cookie"))
CancelledError = asyncio.CancelledError
cdef Names _names  # with (name, value) as the value, NULL for that of a secret


cdef inline bytes _bytes(const char* data, size_t size):
    return PyBytes_FromStringAndSize(data, size)


cdef tuple _header(const char* data, Field* field):
    """(name, value) of a header, that of the last request if it is the same."""
    cdef const char* value = data + field.value.start
    cdef uint32_t size = field.value.size
    cdef Name* entry = find_name(&_names, data + field.name.start, field.name.size)
    cdef tuple pair
    if entry == NULL:
        return (_bytes(data + field.name.start, field.name.size).lower(), _bytes(value, size))
    if entry.value != NULL:
        pair = <tuple>entry.value
        if PyBytes_GET_SIZE(pair[1]) == size and memcmp(
            PyBytes_AS_STRING(pair[1]), value, size
        ) == 0:
            return pair
    if entry.key == NULL:
        name = _bytes(data + field.name.start, field.name.size).lower()
        Py_INCREF(name)
        entry.key = <PyObject*>name
        if name not in SECRETS:
            pair = (name, b"")
            Py_INCREF(pair)
            entry.value = <PyObject*>pair
    pair = (<object>entry.key, _bytes(value, size))
    if entry.value != NULL and size <= VALUE:
        Py_INCREF(pair)
        Py_DECREF(<object>entry.value)
        entry.value = <PyObject*>pair
    return pair


cdef bint _asks_for_websocket(const Head* head, const char* data):
    cdef uint32_t i
    cdef const Field* field
    for i in range(head.count):
        field = &head.fields[i]
        if field.id == UPGRADE:
            return b"websocket" in _bytes(data + field.value.start, field.value.size).lower()
    return False


cdef class Call(Exchange):
    """An HTTP request in the hands of its task."""

    # -- receive -----------------------------------------------------------------------------

    cdef object next_event(self):
        if self.connection == NULL or self.complete:
            return {"type": "http.disconnect"}
        if not self.body_told:
            if self.body is None:
                return self._more_body()
            self.body_told = True
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self.half_closed:
            self.gone = True
            return {"type": "http.disconnect"}
        if (<Connection*>self.connection).interest == 0:  # it was accepted with its request
            self.loop.enter()
            self.loop._want(<Connection*>self.connection, EPOLLRDHUP)
            self.loop.leave()
        return None

    cdef object _more_body(self):
        self.loop.enter()
        try:
            return self._next_piece(<Connection*>self.connection)
        finally:
            self.loop.leave()

    cdef object _next_piece(self, Connection* c):
        """The piece that is here or in the socket; None if its client has to be waited for."""
        cdef int outcome = 1
        while c.body.size == 0 and c.body.phase != COMPLETE:
            if c.body.expects:
                c.body.expects = False
                c_send(c.fd, b"HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL)
            outcome = self._receive(c)
            if outcome < 0:
                return {"type": "http.disconnect"}
            if outcome == 0:
                self.awaits_body = True
                self.waits_since = self.loop.all.now
                if c.state == ACTIVE:
                    enter(&self.loop.all, c, BODY)
                self.loop._want(c, EPOLLIN | (EPOLLOUT if c.state == WRITING else 0))
                return None
        data = _bytes(c.body.data, c.body.size)
        body_release(c.body)
        self.body_told = c.body.phase == COMPLETE
        return {"type": "http.request", "body": data, "more_body": not self.body_told}

    cdef int _receive(self, Connection* c) except -2:
        """1 if something came, 0 if nothing did yet, -1 if nothing more will."""
        cdef char data[PIECE]
        cdef int64_t taken
        cdef ssize_t got = recv(c.fd, data, PIECE, 0)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if got <= 0:
            declared = f" of {c.body.length}" if c.body.length >= 0 else ""
            self.loop._cut(c, f"cut upload: {c.body.received}{declared} bytes of the body came")
            return -1
        self.loop.slot.bytes_in += got
        self.progress += got
        if self.progress >= PROGRESS:
            self.progress = 0
            self.waited_usec = 0
        taken = body_feed(c.body, data, got, &self.loop.all.limits)
        if taken >= 0 and self.waited_usec > self.body_span() and c.body.phase != COMPLETE:
            taken = -BODY_TIMEOUT
        if taken < 0:
            self.loop._refuse_body(c, <int>taken)
            return -1
        if taken < got:
            c.done_asking = False
            if not keep_input(c, data + taken, got - taken):
                raise MemoryError
        return 1

    cdef uint64_t body_span(self) noexcept:
        return self.loop.all.queues[<int>BODY].span

    cdef bint leaves_input(self) noexcept:
        cdef Connection* c = <Connection*>self.connection
        return c != NULL and c.body != NULL and c.body.phase != COMPLETE

    cdef int _read_rest(self, Connection* c) except -1:
        """Read away what is left of a body nobody wants, if it is little and here."""
        cdef char data[PIECE]
        cdef ssize_t got
        body_release(c.body)
        while c.body.phase != COMPLETE:
            if c.body.chunked or c.body.expects or c.body.left > UNWANTED:
                break
            got = recv(c.fd, data, min(c.body.left, <int64_t>PIECE), 0)
            if got <= 0:
                break
            self.loop.slot.bytes_in += got
            body_feed(c.body, data, got, &self.loop.all.limits)
            body_release(c.body)
        return 0

    # -- send --------------------------------------------------------------------------------

    cdef bint take(self, object message) except -1:
        cdef str kind = message["type"]
        if self.complete:
            raise RuntimeError(f"{kind} after the response was complete")
        if self.connection == NULL:
            raise ClientDisconnected("the client went away")
        if kind == "http.response.body":
            self._body(message)
        elif kind == "http.response.start":
            if self.started:
                raise RuntimeError("http.response.start was sent twice")
            headers = message.get("headers", ())
            if self.loop.access is not None:
                headers = list(headers)
            self.start_bytes(message["status"], headers)
            if self.loop.access is not None:
                self.headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers]
            return False
        elif kind == "http.response.pathsend":
            self._send_path(message["path"])
        elif kind == "http.response.early_hint":
            return self._hint(message["links"])
        else:
            raise RuntimeError(f"{kind} is no message of an HTTP response")
        self.send_out()
        return self.pending() and not self.complete

    cdef int _body(self, dict message) except -1:
        cdef object data = message.get("body", b"")
        cdef bint more = message.get("more_body", False)
        if not self.started:
            raise RuntimeError("http.response.body before http.response.start")
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"the body has to be bytes, not {type(data).__name__}")
            data = bytes(data)
        if not self.head_written:
            self._decide_end(more)
        self.add(data, -1 if more else PyBytes_GET_SIZE(data))
        if not more:
            self.end()
        return 0

    cdef int _send_path(self, path) except -1:
        """A file, which the kernel sends."""
        if not self.started or self.head_written:
            raise RuntimeError("http.response.pathsend is the whole body, behind the start")
        self.file = io.FileIO(path)
        status = os.fstat(self.file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"not a regular file: {path}")
        self._decide_end(False)
        self.add_file(self.file.fileno(), 0, status.st_size, status.st_size)
        return self.end()

    cdef bint _hint(self, links) except -1:
        fields = [("Link", bytes(link).decode("latin-1")) for link in links]
        if self.http11 and not self.head_written and (<ASGIHandler>self.handler).early_hints:
            self.loop.enter()
            try:
                if self.connection != NULL:
                    send_early_hints((<Connection*>self.connection).fd, fields)
            finally:
                self.loop.leave()
        return False

    cdef int _decide_end(self, bint more) except -1:
        """Whether the connection can be kept is said in the head."""
        if self.loop.closing:
            self.keep_alive = False
        elif self.leaves_input():
            if not more:
                self.loop.enter()
                if self.connection != NULL:
                    self._read_rest(<Connection*>self.connection)
                self.loop.leave()
            if more or self.leaves_input():
                self.keep_alive = False
        return 0

    # -- the loop's side ---------------------------------------------------------------------

    cdef int event(self, uint32_t events) except -1:
        cdef Connection* c = <Connection*>self.connection
        if events & EPOLLOUT and c.state == WRITING:
            self.loop._drive(c)
            self.loop._resume(c)
            if self.connection == NULL:
                return 0
        if events & EPOLLIN and self.awaits_body:
            # The task takes it out of the socket.
            self.awaits_body = False
            self.waited_usec += self.loop.all.now - self.waits_since
            if c.state == BODY:
                enter(&self.loop.all, c, ACTIVE)
            return self.wake_readers()
        if events & (EPOLLERR | EPOLLHUP):
            return self.loop._cut(c, "the client went away during the response")
        if events & EPOLLRDHUP:
            # It sends no more; whether it reads still shows when it is sent to.
            self.half_closed = True
            self.loop._want(c, EPOLLOUT if c.state == WRITING else 0)
            return self.wake_readers()
        if events & EPOLLIN:
            # The next request waits until this one has its response.
            self.loop._want(c, EPOLLRDHUP | (EPOLLOUT if c.state == WRITING else 0))
        return 0

    cdef int pull(self) except -1:
        cdef Connection* c = <Connection*>self.connection
        if c.interest & EPOLLOUT:
            if self.awaits_body:
                enter(&self.loop.all, c, BODY)
            self.loop._want(c, 0 if self.half_closed else EPOLLIN)
        return self.wake_writers()

    cdef int returned(self) except -1:
        if self.complete or self.connection == NULL:
            return 0
        if self.gone:
            return self.drop("the client went away during the response")
        self.loop.slot.exceptions += 1
        if not self.started:
            return self._end_early("the application returned without a response", None)
        return self._end_early("the application returned amid its response", None)

    cdef int failed(self, object error) except -1:
        if self.gone and not self.complete:
            if self.connection != NULL:
                self.drop("the client went away during the response")
            if not isinstance(error, (OSError, CancelledError)):
                self.tell(f"after its client went away: {type(error).__name__}: {error}", None, None)
            return 0
        self.loop.slot.exceptions += 1
        if self.complete:
            return self.tell("the application failed after its response", error, None)
        return self._end_early("the application failed", error)

    cdef int _end_early(self, str what, object error) except -1:
        self.tell(what, error, "3")
        self.fail(500)
        return self.send_out()

    cdef int close(self) except -1:
        Exchange.close(self)
        file, self.file = self.file, None
        if file is not None:
            file.close()
        return 0


cdef class ASGIHandler(TaskHandler):
    """Runs `application` (ASGI 3) in tasks of `host`, an asyncio event loop.

    `report` and `settings` are as for WSGIHandler; `state` is the lifespan's, None without one."""

    def __init__(self, application, settings, *, host, report=None):
        TaskHandler.__init__(self, application, host, report=report)
        self.state = None
        self.templates = []
        self.spares = []
        self.root = settings.app.root_path.rstrip("/")
        self.raw_root = self.root.encode()
        self.early_hints = settings.server.early_hints
        self.tell_id = settings.server.request_id
        self.request_seconds = settings.timeouts.request
        self.deflate = Deflate() if settings.websocket.compression else None
        self.message_limit = settings.websocket.message
        self.ping = settings.websocket.ping

    cdef _make_templates(self, Guest loop):
        extensions = {"http.response.pathsend": {}}
        if self.early_hints:
            extensions["http.response.early_hint"] = {}
        for listener in loop.listeners:
            name = listener.getsockname()
            self.templates.append({
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.5"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "",
                "raw_path": b"",
                "query_string": b"",
                "root_path": self.root,
                "headers": None,
                "client": None,
                "server": tuple(name[:2]) if isinstance(name, tuple) else (name, None),
                "extensions": extensions,
            })

    cdef Response open(self, Ends loop, Connection* c, const char* data):
        cdef Head* head = c.head
        cdef Call call = None
        if not self.templates:
            self._make_templates(<Guest>loop)
        if head.upgrade and _asks_for_websocket(head, data):
            return self._open_session(<Guest>loop, c, data)
        if self.spares:
            call = <Call>self.spares.pop()
            if Py_REFCNT(call) > 1:
                call = None  # its task, or the application, has it still
        if call is None:
            call = Call()
        call.prepare(<Guest>loop, self)
        call.body_told = call.half_closed = call.trailers = False
        call.waited_usec = 0
        call.progress = 0
        call.waiting_since = loop.all.now
        call.scope = self._scope(<Guest>loop, c, data, call)
        call.reset(head.minor == 1, call.method == "HEAD", head.keep_alive)
        call.request_id = call.given_id
        call.light = True
        return call

    cdef Exchange _open_session(self, Guest loop, Connection* c, const char* data):
        cdef Session session = Session()
        cdef dict scope
        session.prepare(loop, self)
        session.limit = self.message_limit
        session.ping = self.ping
        session.waiting_since = loop.all.now
        scope = self._scope(loop, c, data, session)
        session.reset(c.head.minor == 1, False, c.head.keep_alive)
        session.request_id = session.given_id
        session.light = True
        try:
            session.opening = Opening(
                session.method.encode("latin-1"), c.head.minor, scope["headers"],
                deflate=self.deflate)
        except Refused as refused:
            body = f"{refused}\n".encode()
            # Cython 0.29 does not take `%` on bytes.
            fields = "".join(
                f"{name.decode('latin-1')}: {value.decode('latin-1')}\r\n"
                for name, value in refused.fields if name != b"Connection")
            session.refusal = (
                f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\n{fields}"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            ).encode("latin-1") + body
            return session
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        scope["subprotocols"] = session.opening.subprotocols
        scope["extensions"] = {"websocket.http.response": {}}
        session.scope = scope
        return session

    cdef int drain(self) except -1:
        for exchange in list(self.exchanges):
            if type(exchange) is Session:
                (<Session>exchange).go_away()
        return 0

    cdef dict _scope(self, Guest loop, Connection* c, const char* data, Exchange exchange):
        cdef Head* head = c.head
        cdef dict scope = <dict>PyDict_Copy(self.templates[c.listener])
        cdef list headers = []
        cdef dict forwarded = None
        cdef str request_id = None
        cdef Field* field
        cdef uint32_t i
        scope["asgi"] = PyDict_Copy(scope["asgi"])
        scope["extensions"] = PyDict_Copy(scope["extensions"])
        if head.method.size == 3 and memcmp(data + head.method.start, b"GET", 3) == 0:
            exchange.method = "GET"
        else:
            exchange.method = <str>PyUnicode_DecodeLatin1(
                data + head.method.start, head.method.size, NULL)
            scope["method"] = exchange.method
        exchange.target = <str>PyUnicode_DecodeLatin1(
            data + head.target.start, head.target.size, NULL)
        self._add_path(scope, data, head)
        if head.has_query:
            scope["query_string"] = _bytes(data + head.query.start, head.query.size)
        if head.minor == 0:
            scope["http_version"] = "1.0"
        peer = peer_of(c)
        if head.authority.size:
            headers.append((b"host", _bytes(data + head.authority.start, head.authority.size)))
        for i in range(head.count):
            field = &head.fields[i]
            if field.id < REQUEST_ID:
                headers.append(_header(data, field))
                continue
            trusted = loop.trust.trusts(<str>peer[0])
            if field.id >= FORWARDED and not trusted:
                continue
            pair = _header(data, field)
            headers.append(pair)
            if not trusted:
                continue
            value = pair[1].decode("latin-1")
            if field.id >= FORWARDED:
                if forwarded is None:
                    forwarded = {}
                earlier = forwarded.get(field.id)
                forwarded[field.id] = value if earlier is None else f"{earlier},{value}"
            elif field.id == REQUEST_ID or request_id is None:
                request_id = taken_id(value, field.id == TRACE_PARENT) or request_id
        exchange.given_id = request_id
        scope["headers"] = headers
        if peer[0]:
            scope["client"] = (peer[0], int(peer[1]))
        if self.state is not None:
            scope["state"] = self.state.copy()
        if forwarded is not None:
            self._apply_forwarded(scope, forwarded, loop, exchange)
        return scope

    cdef _add_path(self, dict scope, const char* data, Head* head):
        """Paths include the root, which a proxy may have taken away (asgiref's specs/www)."""
        cdef bytes raw = _bytes(data + head.path.start, head.path.size) or b"/"
        cdef str path
        if self.root and not (
            raw.startswith(self.raw_root) and raw[len(self.raw_root):len(self.raw_root) + 1] in b"/"
        ):
            raw = self.raw_root + raw
        path = raw.decode("ascii")
        if memchr(<char*>raw, 37, len(raw)) != NULL:
            path = urllib.parse.unquote(path)
        scope["path"] = path
        scope["raw_path"] = raw

    cdef _apply_forwarded(self, dict scope, dict forwarded, Guest loop, Exchange exchange):
        """Let a trusted proxy's word stand for its connection, as WSGI has it."""
        cdef Origin origin
        cdef list headers
        start = forwarded.pop(<int>REQUEST_START, None)
        if start is not None:
            exchange.waiting_since -= min(
                exchange.waiting_since, <uint64_t>queued_usec(start, realtime_usec()))
        if not forwarded:
            return
        if <int>FORWARDED in forwarded:
            origin = from_forwarded(forwarded[<int>FORWARDED], loop.trust)
        else:
            origin = from_x_headers(
                forwarded.get(<int>FORWARDED_FOR, ""), forwarded.get(<int>FORWARDED_PROTO, ""),
                forwarded.get(<int>FORWARDED_HOST, ""), forwarded.get(<int>FORWARDED_PORT, ""),
                loop.trust)
        if origin.client:
            scope["client"] = (origin.client, 0)
        if origin.scheme:
            scope["scheme"] = origin.scheme
        if origin.host:
            headers = scope["headers"]
            pair = (b"host", origin.host.encode("latin-1"))
            if headers and headers[0][0] == b"host":
                headers[0] = pair
            else:
                headers.insert(0, pair)

    cdef int recycle(self, Response response) except -1:
        (<Exchange>response).scope = None
        if len(self.spares) < SPARES and type(response) is Call:
            self.spares.append(response)
        return 0
