# cython: language_level=3
"""Requests as tasks of an asyncio event loop, and what their applications await.

The coroutine of the task passes each step straight on to the application's own, and sees the end of
that without a callback. What is awaited and is there already
is no Future: the application goes on at once.
"""

import asyncio
import contextvars
import inspect
import sys
import traceback
from collections import deque

from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport uint64_t

from sockd.board cimport Slot, made_id
from sockd.http.connections cimport Connection, monotonic_usec
from sockd.http.current cimport id_of, note_begun
from sockd.http.forks cimport in_child, leave_child
from sockd.http.guest cimport Guest
from sockd.http.ends cimport Handler
from sockd.http.response cimport Response

from sockd.http.current import TASK_REQUEST

cdef extern from "Python.h":
    int PYGEN_NEXT
    int PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) except -1
    void Py_XDECREF(PyObject* value)

cdef enum:
    # Small pieces are taken while so much is waiting for room in the socket.
    ROOM = 16384
    # What a task may give before the others get their turn.
    PIECES = 16

Task = asyncio.Task
CancelledError = asyncio.CancelledError
is_coroutine = inspect.iscoroutine
_set_id = TASK_REQUEST.set
EAGER = sys.version_info >= (3, 12)


class ClientDisconnected(OSError):
    """Raised by `send` when nobody is there to read it (ASGI HTTP 2.4)."""


async def _await(awaitable):
    await awaitable


cdef class Done:
    """Awaited, it is over at once."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        raise kind if value is None else value

    def close(self):
        pass


cdef Done DONE = Done()


cdef class Halt(Done):
    """Awaited, it lets others go first."""

    cdef bint halted

    def __next__(self):
        if self.halted:
            raise StopIteration
        self.halted = True

    def send(self, value):
        return self.__next__()


cdef class Wait:
    """What `receive` returns, and `send` where it cannot be done at once. Each is a coroutine to
    whoever makes a task of it."""

    cdef Exchange exchange
    cdef object inner

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        if self.inner is not None:
            if PyIter_Send(<PyObject*>self.inner, <PyObject*>None, &result) == PYGEN_NEXT:
                found = <object>result
                Py_DECREF(found)
                return found
            Py_XDECREF(result)
            self.inner = None
        future = self.attempt()
        self.inner = future.__await__()
        return next(self.inner)

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        if self.inner is None:
            raise kind if value is None else value
        return self.inner.throw(kind if value is None else value)

    def close(self):
        self.inner = None

    cdef object attempt(self):
        """A future to wait for; StopIteration with the outcome where there is one."""
        raise NotImplementedError


cdef class Receive(Wait):
    cdef object attempt(self):
        if in_child:
            leave_child()
        event = self.exchange.next_event()
        if event is not None:
            raise StopIteration(event)
        return self.exchange.later(False)


cdef class Send(Wait):
    cdef object message  # None when it was taken and only has to go out

    cdef object attempt(self):
        cdef Exchange exchange = self.exchange
        if self.message is not None:
            if not exchange.may_send():
                return exchange.later(True)
            message, self.message = self.message, None
            if not exchange.take(message):
                raise StopIteration
        if exchange.connection == NULL and not exchange.complete:
            raise ClientDisconnected("the client went away")
        if not exchange.pending():
            raise StopIteration
        return exchange.later(True)


cdef class Steps:
    """The coroutine of a task: that of the application, whose end the exchange is told of."""

    cdef Exchange exchange

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.exchange.step(None)

    def send(self, value):
        return self.exchange.step(None)

    def throw(self, kind, value=None, traceback=None):
        return self.exchange.step(kind if value is None else value)

    def close(self):
        if self.exchange.coroutine is not None:
            self.exchange.coroutine.close()

    # What inspect.getcoroutinestate, Task.get_stack and the repr of a task look at.

    @property
    def cr_frame(self):
        return getattr(self.exchange.coroutine, "cr_frame", None)

    @property
    def cr_running(self):
        return self.exchange.coroutine is not None and self.exchange.coroutine.cr_running

    @property
    def cr_suspended(self):
        return self.exchange.coroutine is not None and self.exchange.coroutine.cr_suspended

    @property
    def cr_await(self):
        return getattr(self.exchange.coroutine, "cr_await", None)

    @property
    def cr_code(self):
        return getattr(self.exchange.coroutine, "cr_code", None)

    @property
    def __qualname__(self):
        return self.exchange.describe()


cdef class RequestId:
    """What a task's context knows its request by; the text is made when somebody asks."""

    cdef Slot* slot
    cdef uint64_t number
    cdef str given

    def __str__(self):
        return made_id(self.slot, self.number) if self.given is None else self.given


cdef class TaskHandler(Handler):
    """`application` is a callable of ASGI 3, called in tasks of `host` (an asyncio event loop)."""

    def __init__(self, application, host, *, report=None):
        self.application = application
        self.report = report
        self.streams = True
        self.exchanges = {}  # in the order of their start
        self.timer = None
        self.host = host
        self.context = contextvars.copy_context()
        self.line = deque()
        self.eager = EAGER

    cdef bint busy(self):
        return len(self.exchanges) > 0

    cdef int next_in_line(self) except -1:
        cdef Exchange exchange
        while self.line:
            exchange = self.line.popleft()
            if exchange.connection != NULL:
                exchange.start_task(False)
                break
        return 0

    cdef int watch(self) except -1:
        """Look again when the time of a request can be over: one timer for all of them."""
        self.timer = self.host.call_later(self.request_seconds, self._look)
        return 0

    def _look(self):
        cdef Exchange exchange
        cdef uint64_t span = <uint64_t>(self.request_seconds * 1e6)
        cdef uint64_t now = monotonic_usec()
        cdef uint64_t earliest = 0
        self.timer = None
        for exchange in list(self.exchanges):
            if not exchange.is_timed():
                continue
            if exchange.awaits_body:
                exchange.watched_usec = now  # its client is waited for: that has a time of its own
            if exchange.watched_usec + span <= now:
                exchange.end_late()
            elif earliest == 0 or exchange.watched_usec < earliest:
                earliest = exchange.watched_usec
        if earliest:
            self.timer = self.host.call_later((earliest + span - now) / 1e6 + 0.001, self._look)
        elif self.exchanges:
            self.watch()

    def cancel(self):
        """Cancel what still runs; how many that were."""
        running = [exchange.task for exchange in self.exchanges if exchange.task is not None]
        for task in running:
            task.cancel()
        return running


cdef class Exchange(Response):
    """A request in the hands of a task: `receive` and `respond` are what the application calls."""

    cdef void prepare(self, Guest loop, TaskHandler handler) noexcept:
        self.loop = loop
        self.handler = handler
        self.of_task = True
        self.gone = self.beginning = self.late = False
        self.readers = self.writers = None

    # -- what the application awaits ---------------------------------------------------------

    def receive(self):
        cdef Receive waits = Receive.__new__(Receive)
        waits.exchange = self
        return waits

    def respond(self, message):
        cdef Send waits
        if in_child:
            leave_child()
        if self.may_send():
            if not self.take(message):
                self.pieces += 1
                return DONE if self.pieces < PIECES else Halt()
            message = None
        waits = Send.__new__(Send)
        waits.exchange = self
        waits.message = message
        return waits

    cdef object next_event(self):
        """What `receive` returns, None if nothing has come."""
        raise NotImplementedError

    cdef bint take(self, object message) except -1:
        """Do what `send` was given; whether it has to be waited for until it went out."""
        raise NotImplementedError

    cdef bint may_send(self) noexcept:
        return self.connection == NULL or (
            self.piece is None and self.file_left == 0
            and (self.buffer.size - self.buffer_at < ROOM or not self.head_written))

    cdef object later(self, bint writes):
        """A future that is done when it is worth another look."""
        future = self.handler.host.create_future()
        if writes:
            if self.writers is None:
                self.writers = []
            self.writers.append(future)
        else:
            if self.readers is None:
                self.readers = []
            self.readers.append(future)
        return future

    cdef int wake_readers(self) except -1:
        waiters, self.readers = self.readers, None
        if waiters is not None:
            for future in waiters:
                if not future.done():
                    future.set_result(None)
        return 0

    cdef int wake_writers(self) except -1:
        waiters, self.writers = self.writers, None
        if waiters is not None:
            for future in waiters:
                if not future.done():
                    future.set_result(None)
        return 0

    # -- what the loop calls -----------------------------------------------------------------

    cdef int begin(self) except -1:
        note_begun(self, self.loop.slot, self.method, self.target, self.loop.all.now)
        if self.handler.tell_id:
            self.tell_id = True
            self.scope["sockd.request_id"] = id_of(self, self.loop.slot)
        if self.loop.concurrency and len(self.handler.exchanges) >= self.loop.concurrency:
            self.handler.line.append(self)
            return 0
        self.beginning = True
        try:
            self.start_task(True)
        finally:
            self.beginning = False
        return 0

    cdef int close(self) except -1:
        self.closed = True
        self.gone = self.gone or not self.complete
        self.wake_readers()
        self.wake_writers()
        return 0

    cdef str describe(self):
        return f"{self.method} {self.target}"

    cdef object told(self):
        client = self.scope["client"] or ("", 0)
        environ = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.target,
            "QUERY_STRING": self.scope["query_string"].decode("latin-1"),
            "PATH_INFO": self.scope["path"],
            "SERVER_PROTOCOL": f"HTTP/{self.scope['http_version']}",
            "REMOTE_ADDR": client[0],
            "wsgi.url_scheme": self.scope["scheme"],
        }
        for name, value in self.scope["headers"]:
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            environ[key] = value.decode("latin-1")
        return environ

    cdef int send_out(self) except -1:
        """Send what was added; within `begin` the loop does so."""
        if self.beginning or self.connection == NULL:
            return 0
        self.loop.enter()
        if self.connection != NULL:
            self.loop.flush(<Connection*>self.connection)
        return self.loop.leave()

    cdef int drop(self, str why) except -1:
        self.loop.enter()
        if self.connection != NULL:
            self.loop._cut(<Connection*>self.connection, why)
        return self.loop.leave()

    # -- the task ----------------------------------------------------------------------------

    cdef int start_task(self, bint at_once) except -1:
        cdef TaskHandler handler = self.handler
        cdef RequestId id
        if handler.turns_away(self.loop, self):
            return self.send_out()
        self.begun_usec = monotonic_usec()
        self.watched_usec = self.begun_usec
        handler.exchanges[self] = None
        if handler.request_seconds and handler.timer is None:
            handler.watch()
        try:
            found = handler.application(self.scope, self.receive, self.respond)
            self.coroutine = found if is_coroutine(found) else _await(found)
        except BaseException as error:
            return self._finish_task(error)
        context = handler.context.copy()
        id = RequestId()
        id.slot = self.loop.slot
        id.number = self.number
        id.given = self.request_id
        context.run(_set_id, id)
        steps = Steps.__new__(Steps)
        (<Steps>steps).exchange = self
        if handler.host.get_task_factory() is not None:
            task = handler.host.create_task(steps, context=context)
        elif at_once and handler.eager:
            task = Task(steps, loop=handler.host, context=context, eager_start=True)
        else:
            task = Task(steps, loop=handler.host, context=context)
        if self.coroutine is not None:
            self.task = task
        return 0

    cdef object step(self, object thrown):
        cdef PyObject* result = NULL
        cdef object found = None
        if self.coroutine is None:
            raise RuntimeError("the request has ended")
        self.pieces = 0
        try:
            if thrown is not None:
                found = self.coroutine.throw(thrown)
            elif PyIter_Send(
                <PyObject*>self.coroutine, <PyObject*>None, &result
            ) == PYGEN_NEXT:
                found = <object>result
                Py_DECREF(found)
            else:
                Py_XDECREF(result)
                raise StopIteration
        except StopIteration:
            if in_child:
                leave_child()
            self._finish_task(None)
            raise
        except BaseException as error:
            if in_child:
                leave_child()
            self._finish_task(error)
            if isinstance(error, CancelledError):
                raise
            raise StopIteration
        if in_child:
            leave_child()
        return found

    cdef int _finish_task(self, object error) except -1:
        """The application has returned, or raised `error`."""
        self.coroutine = self.task = None
        self.handler.exchanges.pop(self, None)
        try:
            if self.late:
                pass  # it was answered, and told
            elif error is None:
                self.returned()
            else:
                self.failed(error)
        except MemoryError:
            self.give_up()
            self.send_out()
        if self.handler.line:
            self.handler.next_in_line()
        if self.loop.draining:
            self.loop.poke()
        return 0

    cdef bint is_timed(self) noexcept:
        """Whether the application owes the beginning of a response."""
        return not self.late and not self.complete and not self.head_written

    cdef int end_late(self) except -1:
        """`timeouts.request` is over: answer in the application's place, and cancel it."""
        cdef object waits = self.coroutine
        stack = []
        while waits is not None and getattr(waits, "cr_frame", None) is not None:
            stack += traceback.format_stack(waits.cr_frame, 1)
            waits = waits.cr_await
        self.late = True
        self.loop.slot.exceptions += 1
        self.tell(
            f"not answered after {self.handler.request_seconds:g} s (timeouts.request)\n"
            "Stack of its task (most recent call last):\n" + "".join(stack).rstrip(), None, "3")
        if self.connection != NULL:
            self.keep_alive = False
            self.fail(504)
            self.send_out()
        if self.task is not None:
            self.task.cancel()
        return 0

    cdef int returned(self) except -1:
        raise NotImplementedError

    cdef int failed(self, object error) except -1:
        raise NotImplementedError

    cdef int tell(self, str what, object error, str priority) except -1:
        if self.handler.report is not None:
            fields = {
                "HTTP_METHOD": self.method,
                "HTTP_PATH": self.target.partition("?")[0],
                "SOCKD_REQUEST_ID": id_of(self, self.loop.slot),
            }
            if priority is not None:
                fields["PRIORITY"] = priority
            try:
                self.handler.report(
                    f"{self.describe()}: {what}",
                    None if error is None else (type(error), error, error.__traceback__), fields)
            except MemoryError:
                pass
        return 0


