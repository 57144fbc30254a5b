# cython: language_level=3
"""The connection loop as a guest of an asyncio event loop.

All connections are one reader of the host, the epoll descriptor, and one turn serves all that are
ready; one timer stands for all deadlines. Between turns tasks run, which read and send by `enter`
and `leave`: the native helper must not see what is half done.
"""

import os

from libc.stdint cimport int64_t, uint64_t

from sockd.http.connections cimport (
    EPOLLIN,
    EPOLLOUT,
    IDLE,
    Connection,
    epoll_event,
    epoll_wait,
    monotonic_usec,
)
from sockd.http.helper cimport come_back, pthread_mutex_unlock, step_away
from sockd.http.listening cimport nudge_by
from sockd.http.loop cimport Loop

cdef enum:
    EVENTS = 256


cdef class Guest(Loop):
    """`ended`, a future, is done when it was stopped or has drained; `detach` ends it then."""

    def run(self):
        raise NotImplementedError("attach it to an event loop")

    def attach(self, host):
        """Serve from here on, in `host`, an asyncio event loop."""
        self.host = host
        self.ended = host.create_future()
        self.nudges = -1
        if not self.listening.alone:
            self.nudges = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.watch(self.nudges, self._heed)
            nudge_by(self.nudges)
        self.helper.guest = True
        self._begin_serving()
        host.add_reader(self.all.epoll, self.turn)
        self.poke()
        self._set_timer()
        pthread_mutex_unlock(&self.helper.lock)

    def detach(self):
        """Close every connection."""
        self.host.remove_reader(self.all.epoll)
        if self.timer is not None:
            self.timer.cancel()
        come_back(self.helper)
        self._end_serving()
        if self.nudges >= 0:
            nudge_by(-1)
            self.unwatch(self.nudges)
            os.close(self.nudges)

    def _heed(self):
        os.eventfd_read(self.nudges)  # the turn does the rest

    def turn(self):
        """Serve all that is ready, and what is due."""
        cdef epoll_event events[EVENTS]
        cdef int count
        if self.ended.done():
            return
        come_back(self.helper)
        self.inside = True
        try:
            self.all.now = monotonic_usec()
            over = self._is_over()
            if not over:
                count = epoll_wait(self.all.epoll, events, EVENTS, 0)
                self._serve_ready(events, max(count, 0), self.all.now)
                over = self._is_over()
            if over:
                self.ended.set_result(None)
        except BaseException as error:
            self.ended.set_exception(error)
        self.inside = False
        self._set_timer()
        pthread_mutex_unlock(&self.helper.lock)

    def _set_timer(self):
        cdef uint64_t deadline = self._next_deadline()
        if deadline == 0 or (self.timer is not None and deadline >= self.timer_usec):
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer_usec = deadline
        # A millisecond late rather than early, which would be another turn.
        self.timer = self.host.call_later(
            max(<int64_t>(deadline - monotonic_usec()), 0) / 1e6 + 0.001, self._is_due)

    def _is_due(self):
        self.timer = None
        self.turn()

    cdef void poke(self):
        """Have a turn soon: something has changed that epoll does not tell."""
        self.host.call_soon(self.turn)

    cdef int enter(self) except -1:
        """Between this and `leave` a task may touch connections."""
        come_back(self.helper)
        self.all.now = monotonic_usec()
        return 0

    cdef int leave(self) except -1:
        if self.inside:
            step_away(self.helper, self.all.now)
            return 0
        self._set_timer()
        pthread_mutex_unlock(&self.helper.lock)
        return 0

    cdef int flush(self, Connection* c) except -1:
        """Send what a task has given, between `enter` and `leave`."""
        try:
            self._drive(c)
            if c.state == IDLE:
                # The next request is for a turn, not for this task.
                self._want(c, EPOLLIN | (EPOLLOUT if c.input.size else 0))
                if c.input.size:
                    c.arrived_usec = self.all.now
        except Exception:
            self._broken(c)
        return 0
