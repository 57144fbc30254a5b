# cython: language_level=3
"""WSGI (PEP 3333) on the connection loop: environ, start_response, the iterable."""

import os
import stat
import sys
import urllib.parse
from io import BufferedRandom, BufferedReader, BytesIO, FileIO
from tempfile import TemporaryFile

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Copy
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

import sockd

from sockd.http.connections cimport Connection, monotonic_usec, peer_of, realtime_usec
from sockd.http.current cimport enter_request, id_of, leave_request, note_begun, taken_id
from sockd.http.forks cimport in_child, leave_child
from sockd.http.forwarded cimport (
    Origin,
    Trust,
    from_forwarded,
    from_x_headers,
    queued_usec,
    split_host,
)
from sockd.http.ends cimport Ends, Handler
from sockd.http.names cimport Name, Names, find_name
from sockd.http.parser cimport (
    COOKIE,
    FORWARDED,
    REQUEST_ID,
    REQUEST_START,
    TRACE_PARENT,
    Field,
    Head,
    Span,
    refusal,
)
from sockd.http.response cimport Response, plain_text, send_early_hints
from sockd.http.stream cimport Stream

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)
    PyObject* PyDict_SetDefault(object table, object key, object default) except NULL
    Py_ssize_t PyDict_GET_SIZE(object table)
    Py_ssize_t Py_REFCNT(object value)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    # A list of small pieces is sent as one.
    JOINED = 65536
    # What write() takes before it goes to a file.
    IN_MEMORY = 1 << 20

    # Values that are remembered are not longer than this.
    VALUE = 256

cdef object END = object()  # of an iterable

SECRETS = frozenset(("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE"))
cdef Names _names  # with environ keys; NULL for the value of a secret
cdef Name _host


cdef inline str _text(const char* data, Span* span):
    return <str>PyUnicode_DecodeLatin1(data + span.start, span.size, NULL)


cdef Name* _name(const char* name, uint32_t size) except? NULL:
    """The entry of a field name with its environ key; NULL if there is no room for it."""
    cdef Name* entry = find_name(&_names, name, size)
    if entry == NULL or entry.key != NULL:
        return entry
    key = _environ_key(name, size)
    Py_INCREF(key)
    entry.key = <PyObject*>key
    if key not in SECRETS:
        Py_INCREF("")
        entry.value = <PyObject*>""
    return entry


cdef str _environ_key(const char* name, uint32_t size):
    text = PyBytes_FromStringAndSize(name, size).decode("ascii").upper().replace("-", "_")
    return sys.intern({
        "CONTENT_TYPE": "CONTENT_TYPE", "CONTENT_LENGTH": "CONTENT_LENGTH",
    }.get(text, "HTTP_" + text))


cdef str _value(Name* entry, const char* data, Span* span):
    """The text of a field's value, that of the last request if it is the same."""
    cdef PyObject* last = entry.value
    if last == NULL or span.size > VALUE:
        return _text(data, span)
    if PyUnicode_GET_LENGTH(<object>last) == span.size and memcmp(
        PyUnicode_DATA(<object>last), data + span.start, span.size
    ) == 0:
        return <str>last
    value = _text(data, span)
    Py_INCREF(value)
    entry.value = <PyObject*>value
    Py_DECREF(<object>last)
    return value


cdef class FileWrapper:
    """wsgi.file_wrapper: a regular file is sent by the kernel, all else by its read()."""

    cdef readonly object filelike
    cdef readonly Py_ssize_t block_size

    def __init__(self, filelike, Py_ssize_t block_size=65536):
        self.filelike = filelike
        self.block_size = block_size

    def close(self):
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration


cdef class WSGIHandler(Handler)


cdef class Call(Response):
    """One request in the application's hands. It is the start_response that the app is given."""

    cdef Ends loop
    cdef WSGIHandler handler
    cdef dict environ
    # As they came: environ is the application's to change.
    cdef str method
    cdef str target
    cdef str client
    cdef list written
    cdef Py_ssize_t written_size
    cdef object spool
    cdef bint spool_sent
    cdef object iterable
    cdef object iterator
    cdef int64_t known_length

    def __call__(self, status, headers, exc_info=None):
        self._check_open()
        if not isinstance(headers, list):
            raise TypeError(f"headers have to be a list, not {type(headers).__name__}")
        if exc_info is not None:
            try:
                if self.head_written:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.started:
            raise RuntimeError("start_response was called twice without exc_info (PEP 3333)")
        self.start(plain_text(status), headers if type(headers) is list else list(headers))
        if self.loop.closing or self.leaves_input():
            self.keep_alive = False
        return self.write

    def write(self, data):
        """PEP 3333's write(): for applications that cannot return an iterable."""
        self._check_open()
        data = self._piece(data)
        if self.written is None:
            self.written = []
            self.written_size = 0
            self.spool_sent = False
        self.written.append(data)
        self.written_size += len(<bytes>data)
        if self.written_size > IN_MEMORY:
            # The application cannot be held up, nor may memory fill: a file takes it.
            if self.spool is None:
                self.spool = TemporaryFile(dir="/var/tmp")
            self.spool.writelines(self.written)
            self.written.clear()
            self.written_size = 0

    def early_hints(self, headers):
        """wsgi.early_hints: send 103 with `headers`, a list of (name, value), at once (RFC 8297).

        Nothing is sent to a client of HTTP/1.0, nor once the response has begun."""
        if self.http11 and not self.head_written and self.connection != NULL:
            send_early_hints((<Connection*>self.connection).fd, list(headers))

    cdef int begin(self) except -1:
        cdef uint64_t now = monotonic_usec() if self.handler.multithread else self.loop.all.now
        note_begun(self, self.loop.slot, self.method, self.target, now)
        self.words.number = self.number
        if self.handler.tell_id:
            self.tell_id = True
            self.environ["sockd.request_id"] = id_of(self, self.loop.slot)
        if self.handler.turns_away(self.loop, self):
            return 0
        self.begun_usec = now
        enter_request(self, self.loop.slot)
        self.environ["wsgi.input"] = self.body
        if self.received >= 0:
            # RFC 9112 7.1.3: decoded, the body has a length and no coding any more.
            self.environ["CONTENT_LENGTH"] = str(self.received)
            del self.environ["HTTP_TRANSFER_ENCODING"]
        self.known_length = -1
        try:
            self.iterable = self.handler.application(self.environ, self)
            if self.written is None:
                self._begin_iterable()
            # else what was written goes first, and pull() begins the iterable after it
        except BaseException:
            self._failed()
        leave_request()
        if in_child:
            leave_child()
        return 0

    cdef int _begin_iterable(self) except -1:
        """Look at what the application returned: a whole body needs no framing in pieces."""
        cdef object iterable = self.iterable
        cdef bytes piece
        if type(iterable) is list or type(iterable) is tuple:
            self.light = True
            if len(iterable) == 1:
                piece = self._piece(iterable[0])
                self._check_started()
                self.add(piece, len(piece))
                self.end()
                return 0
            iterable = [self._piece(data) for data in iterable]
            if not self.head_written:
                self.known_length = sum(map(len, iterable))
                if self.known_length <= JOINED:
                    self._check_started()
                    self.add(b"".join(iterable), self.known_length)
                    self.end()
                    return 0
        elif type(iterable) is FileWrapper and self._hand_over_file():
            return 0
        self.iterator = iter(iterable)
        return 0

    cdef bint _hand_over_file(self) except -1:
        """Hand a regular file to the kernel; false if it is none."""
        filelike = (<FileWrapper>self.iterable).filelike
        # Only what reads as its descriptor does: a gzip file has the fileno() of what it unpacks.
        raw = filelike
        try:
            if type(filelike) is BufferedReader or type(filelike) is BufferedRandom:
                raw = filelike.raw
            if type(raw) is not FileIO:
                return False
            fd = filelike.fileno()
            at = filelike.tell()
            status = os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            return False
        # Those of /proc are empty by their size.
        if not stat.S_ISREG(status.st_mode) or at > status.st_size or status.st_size == 0:
            return False
        self._check_started()
        if self.head_written:
            return False
        size = status.st_size - at
        if self.length >= 0:
            # PEP 3333: a file is sent until its end or Content-Length bytes were.
            size = min(size, self.length)
        self.add_file(fd, at, size, size)
        self.end()
        return True

    cdef int pull(self) except -1:
        enter_request(self, self.loop.slot)
        try:
            if self.written is not None:
                self._send_written()
                return 0
            if self.head_written and self.stream is not None:
                (<Stream>self.stream).ask = False  # RFC 9110 10.1.1: no 100 within the response
            data = next(self.iterator, END)
            if in_child:
                leave_child()
            self._check_started()
            if self.written is not None:
                # PEP 3333 forbids write() within the iterable; others let it pass, in its order.
                if data is not END:
                    self.write(data)
                self._send_written()
                return 0
            if data is END:
                self.end()
                return 0
            data = self._piece(data)
            if data:
                self._add_piece(<bytes>data)
        except BaseException:
            self._failed()
        finally:
            leave_request()
        return 0

    cdef int _add_piece(self, bytes data) except -1:
        """A piece of the iterable, and the end where it is known that no more can be sent."""
        if type(self.iterable) is FileWrapper and self.length >= 0:
            # PEP 3333: a file is sent until its end or Content-Length bytes were.
            data = data[:self.length - self.body_size]
        self.add(data, self.known_length)
        if self.bodyless or (
            type(self.iterable) is FileWrapper and self.body_size == self.length
        ):
            self.end()
        return 0

    cdef int _send_written(self) except -1:
        """What write() took, in its order: what went to the file, then the rest, then the
        iterable."""
        if self.spool is not None and not self.spool_sent:
            self.spool.flush()
            self.spool_sent = True
            self.add_file(self.spool.fileno(), 0, os.fstat(self.spool.fileno()).st_size, -1)
        elif self.written:
            self.add(b"".join(self.written), -1)
            self.written.clear()
        else:
            self.written = None
            if self.spool is not None:
                self.spool.close()
                self.spool = None
            if self.iterator is None:
                self._begin_iterable()
        return 0

    cdef bytes _piece(self, object data):
        if type(data) is bytes:
            return <bytes>data
        if isinstance(data, bytes):
            return b"".join((data,))
        raise TypeError(f"the response body has to be bytes, not {type(data).__name__}")

    cdef int _check_open(self) except -1:
        """The object may serve another request once nobody knows it any more."""
        if self.closed:
            raise RuntimeError("the response has ended")
        return 0

    cdef int _check_started(self) except -1:
        if not self.started:
            raise RuntimeError("start_response was not called (PEP 3333)")
        return 0

    cdef bint leaves_input(self) noexcept:
        return self.stream is not None and not (<Stream>self.stream).complete()

    cdef int _failed(self) except -1:
        """The application raised, or broke PEP 3333: one journal entry, a plain 500."""
        if in_child:
            leave_child()
        if self.loop.hush(self):
            self.fail(504)  # the master tells of it
            return 0
        if self.stream is not None and isinstance(sys.exc_info()[1], OSError) and (
            (<Stream>self.stream).cut or (<Stream>self.stream).verdict
        ):
            # The client's doing, which the application has learnt from reading.
            self._report(str(sys.exc_info()[1]), None)
            self.fail(refusal((<Stream>self.stream).verdict).status or 400)
            return 0
        self.loop.slot.exceptions += 1
        self._report("the application failed", sys.exc_info())
        self.fail(500)
        return 0

    cdef int _report(self, str what, object exc_info) except -1:
        if self.handler.report is not None:
            try:
                self.handler.report(f"{self.describe()}: {what}", exc_info, {
                    "HTTP_METHOD": self.method,
                    "HTTP_PATH": self.target.partition("?")[0],
                    "SOCKD_REQUEST_ID": id_of(self, self.loop.slot),
                })
            except MemoryError:
                pass
        return 0

    cdef int close(self) except -1:
        cdef object iterable = self.iterable
        self.closed = True
        if self.stream is not None:
            (<Stream>self.stream).end()
        if self.spool is not None or type(self.body) is not BytesIO:
            self._close_files()
        self.iterable = self.iterator = self.written = self.body = self.spool = None
        if iterable is not None and type(iterable) is not list and type(iterable) is not tuple:
            enter_request(self, self.loop.slot)
            try:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
            except BaseException:
                if in_child:
                    leave_child()
                if self.loop.hush(self):
                    return 0
                self.loop.slot.exceptions += 1
                self._report("close() of the response failed", sys.exc_info())
            leave_request()
            if in_child:
                leave_child()
        return 0

    cdef int _close_files(self) except -1:
        """Those of a large body and of what was written go with the request. Closing the latter
        wants to write what is left of it, on a disk that may be full."""
        for file in (self.body, self.spool):
            if file is not None:
                try:
                    file.close()
                except (OSError, MemoryError):
                    pass
        return 0

    cdef object told(self):
        return self.environ

    cdef str describe(self):
        return f"{self.method} {self.target}"


cdef dict _with_room(dict table):
    """The same with the next larger size of a hash table."""
    size = sys.getsizeof(table)
    extra = []
    while sys.getsizeof(table) == size:
        key = f"HTTP_{len(extra)}"
        extra.append(key)
        table[key] = ""
    for key in extra:
        del table[key]
    return table


cdef class WSGIHandler(Handler):
    """Runs `application` for each request.

    `report(message, exc_info or None, fields)` is told of what the application did wrong; fields
    are journal fields. `settings` (sockd.settings.Settings) say how requests look to it."""

    cdef object application
    cdef list templates
    cdef Call spare
    cdef readonly bint multiprocess
    cdef readonly bint multithread
    cdef str root
    cdef bint early_hints
    cdef bint tell_id

    def __init__(self, application, settings, *, report=None, bint multiprocess=True):
        self.application = application
        self.root = settings.app.root_path.rstrip("/").encode().decode("latin-1")  # PEP 3333
        self.early_hints = settings.server.early_hints
        self.tell_id = settings.server.request_id
        self.report = report
        self.multiprocess = multiprocess
        self.multithread = settings.threads > 1
        self.templates = []
        if _host.value == NULL:
            Py_INCREF("")
            _host.value = <PyObject*>""

    cdef _make_templates(self, Ends loop):
        """What every environ of a listener has in common. All keys of a request are there from
        the start, and room for its fields: a copy has it as well, so that filling it in seldom
        makes the table grow."""
        for listener in loop.listeners:
            name = listener.getsockname()
            host, port = name[:2] if isinstance(name, tuple) else ("localhost", 80)
            template = {
                "REQUEST_METHOD": "GET",
                "SCRIPT_NAME": self.root,
                "PATH_INFO": "",
                "QUERY_STRING": "",
                "RAW_URI": "",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "SERVER_NAME": host,
                "SERVER_PORT": str(port),
                "SERVER_SOFTWARE": f"sockd/{sockd.__version__}",
                "REMOTE_ADDR": "",
                "REMOTE_PORT": "",
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http",
                "wsgi.input": None,
                "wsgi.input_terminated": True,
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": self.multithread,
                "wsgi.multiprocess": self.multiprocess,
                "wsgi.run_once": False,
                "wsgi.file_wrapper": FileWrapper,
            }
            self.templates.append(_with_room(template))

    cdef Response open(self, Ends loop, Connection* c, const char* data):
        cdef Head* head = c.head
        cdef Call call
        cdef dict environ
        cdef Field* field
        cdef uint32_t i
        cdef Name* name
        cdef str key
        cdef str value
        cdef str method
        cdef str target
        cdef PyObject* earlier
        cdef Py_ssize_t count
        cdef uint32_t forwarded = 0
        cdef str request_id = None
        if not self.templates:
            self._make_templates(loop)
        call = self.spare
        if call is None or Py_REFCNT(call) > 2:
            # Somebody has it still: a connection, a thread, an application that kept its
            # start_response.
            call = self.spare = Call()
        call.loop = loop
        call.handler = self
        environ = <dict>PyDict_Copy(self.templates[c.listener])
        call.environ = environ
        if head.method.size == 3 and memcmp(data + head.method.start, b"GET", 3) == 0:
            method = "GET"  # as in the template
        else:
            method = _text(data, &head.method)
            environ["REQUEST_METHOD"] = method
        target = _text(data, &head.target)
        if head.path.size == 0:
            environ["PATH_INFO"] = "/"  # RFC 9112 3.2.2, of an absolute-form without a path
        elif data[head.path.start] == b"*":
            environ["PATH_INFO"] = ""  # RFC 3875 4.1.5: empty, or from a slash on
        elif memchr(data + head.path.start, 37, head.path.size) == NULL:
            environ["PATH_INFO"] = (
                target if head.path.size == head.target.size else _text(data, &head.path))
        else:
            raw = PyBytes_FromStringAndSize(data + head.path.start, head.path.size)
            environ["PATH_INFO"] = urllib.parse.unquote_to_bytes(raw).decode("latin-1")
        if self.root:
            self._take_root(environ)
        if head.has_query:
            environ["QUERY_STRING"] = _text(data, &head.query)
        environ["RAW_URI"] = target
        peer = peer_of(c)
        call.method = method
        call.target = target
        call.client = <str>peer[0]
        if head.minor == 0:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        environ["REMOTE_ADDR"] = peer[0]
        environ["REMOTE_PORT"] = peer[1]
        if head.authority.size:
            environ["HTTP_HOST"] = _value(&_host, data, &head.authority)
        for i in range(head.count):
            field = &head.fields[i]
            if field.id >= REQUEST_ID:
                if not loop.trust.trusts(<str>peer[0]):
                    if field.id >= FORWARDED:
                        continue
                elif field.id >= FORWARDED:
                    forwarded |= 1 << field.id
                elif field.id == REQUEST_ID or request_id is None:
                    request_id = taken_id(
                        _text(data, &field.value), field.id == TRACE_PARENT) or request_id
            name = _name(data + field.name.start, field.name.size)
            if name != NULL:
                key = <str>name.key
                value = _value(name, data, &field.value)
            else:
                key = _environ_key(data + field.name.start, field.name.size)
                value = _text(data, &field.value)
            count = PyDict_GET_SIZE(environ)
            earlier = PyDict_SetDefault(environ, key, value)
            if PyDict_GET_SIZE(environ) == count:  # equal short values may be one object
                # RFC 9110 5.3: fields of one name are a list; RFC 9113 8.2.3 for cookies.
                joint = "; " if field.id == COOKIE else ","
                environ[key] = <str>earlier + joint + value
        call.reset(head.minor == 1, method == "HEAD", head.keep_alive)
        call.request_id = request_id
        call.waiting_since = loop.all.now
        if forwarded & 1 << REQUEST_START:
            call.waiting_since -= min(
                call.waiting_since,
                <uint64_t>queued_usec(environ["HTTP_X_REQUEST_START"], realtime_usec()))
            forwarded ^= 1 << REQUEST_START
        if self.early_hints:
            environ["wsgi.early_hints"] = call.early_hints
        if forwarded:
            self._apply_origin(environ, forwarded, loop.trust)
            call.client = <str>environ["REMOTE_ADDR"]
        elif not peer[0]:
            self._apply_host(environ, "")
        call.words.method = <PyObject*>method
        call.words.target = <PyObject*>target
        call.words.client = <PyObject*>call.client
        call.words.id = <PyObject*>call.request_id if call.request_id is not None else NULL
        return call

    cdef _take_root(self, dict environ):
        """A path below the root is what follows it (RFC 3875 4.1.5); any other has lost the root
        to a proxy already."""
        cdef str path = <str>environ["PATH_INFO"]
        if path.startswith(self.root) and path[len(self.root):len(self.root) + 1] in ("", "/"):
            environ["PATH_INFO"] = path[len(self.root):]

    cdef _apply_origin(self, dict environ, uint32_t forwarded, Trust trust):
        """Let a trusted proxy's word stand for its connection. Forwarded, the standard, is taken
        where both forms are there."""
        cdef Origin origin
        if forwarded & 1 << FORWARDED:
            origin = from_forwarded(environ["HTTP_FORWARDED"], trust)
        else:
            origin = from_x_headers(
                environ.get("HTTP_X_FORWARDED_FOR", ""),
                environ.get("HTTP_X_FORWARDED_PROTO", ""),
                environ.get("HTTP_X_FORWARDED_HOST", ""),
                environ.get("HTTP_X_FORWARDED_PORT", ""),
                trust,
            )
        if origin.client:
            environ["REMOTE_ADDR"] = origin.client
            environ["REMOTE_PORT"] = ""
        if origin.scheme:
            environ["wsgi.url_scheme"] = origin.scheme
        if origin.host:
            environ["HTTP_HOST"] = origin.host
        self._apply_host(environ, origin.port)

    cdef _apply_host(self, dict environ, str port):
        """SERVER_NAME and SERVER_PORT as the client addressed them (RFC 3875 4.1.14)."""
        name, explicit = split_host(environ.get("HTTP_HOST", ""))
        if name:
            environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = (
            port or explicit or ("443" if environ["wsgi.url_scheme"] == "https" else "80"))

    cdef int recycle(self, Response response) except -1:
        (<Call>response).environ = None
        return 0
