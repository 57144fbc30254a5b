# cython: language_level=3
"""Connections that come and go: accepted, left to others, closed to make room, given away to other
workers and taken over from them (docs/design/handover.md)."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from sockd.http.connections cimport (
    CLOSED,
    EPOLLIN,
    EPOLLOUT,
    HEAD,
    IDLE,
    LINGERING,
    NEW,
    Connection,
    monotonic_usec,
    want,
)
from sockd.http.handover cimport NOTHING_WAITS, EVERY, give_away, has_descriptors, silence, take
from sockd.http.helper cimport rouse, store, load
from sockd.http.intake cimport Intake
from sockd.http.listening cimport AGAIN_USEC, CHANNEL, NO_ROOM, TRY_AGAIN

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef enum:
    # A connection that has not asked anything yet counts as idle after this.
    GRACE_USEC = 1000000
    ADMITTING_USEC = 500
    # What is accepted in one go.
    ACCEPTED = 16
    ACCEPTING_USEC = 1000
    # Connections that are looked at to find one that can be closed.
    ATTEMPTS = 16


cdef class Reception(Intake):
    """A loop that takes connections as it has room for them, and parts with them to drain."""

    cdef void _listen_if_free(self) noexcept:
        """What cannot run is not accepted: another worker may have room for it."""
        cdef bint has_thread = (
            not self.concurrency or self.slot.active < self.concurrency if self.pool is None
            else self.pool.busy < self.pool.size)
        if self.helper.health.size and has_thread == (self.helper.deaf_usec != 0):
            store(&self.helper.deaf_usec, 0 if has_thread else self.all.now)
            if load(&self.helper.asleep):
                rouse(self.helper)
        if self.draining or self.listening.again:
            return
        if not has_thread:
            self.listening.turn(False)
        elif self.slot.connections >= self.connection_limit and not self._make_room():
            # Not until one closes: others become idle, and can be closed for those who wait.
            self.listening.pause(AGAIN_USEC)
        else:
            self.listening.turn(True)

    cdef void _accept_some(self, int index, bint waits) noexcept:
        """As many as came last time and one more, so that a burst takes few turns and a single
        connection few calls in vain. What other workers could serve meanwhile is left to them.
        `waits` as for `_accept`."""
        cdef Connection* fresh[ACCEPTED]
        cdef uint64_t before = self.slot.connections
        cdef uint64_t until = self.all.now + ACCEPTING_USEC
        cdef int taken = 0
        cdef int i
        while (self.listening.on and taken < self.batch and self.all.now < until
                and self.slot.connections < self.connection_limit):
            fresh[taken] = self._accept(index, waits and taken == 0)
            if fresh[taken] == NULL:
                self.batch = max(taken, 1)
                break
            taken += 1
            if not self.listening.alone:
                self._greet(fresh[taken - 1])
                if self.slot.connections > before:
                    break
        else:
            self.batch = min(taken + 1, <int>ACCEPTED)
        if self.listening.alone:
            # The first has had time to send its request.
            for i in range(taken):
                self._greet(fresh[i])
        if taken == 0 and self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef void _accept_rest(self, int index) noexcept:
        cdef Connection* c = self._accept(index, True)
        while c != NULL:
            self._greet(c)
            c = self._accept(index, True) if self.listening.on else NULL

    cdef Connection* _accept(self, int index, bint waits) noexcept:
        """The next connection, NULL if there is none or it is left to others. `waits`: epoll says
        that one does. Without, a want of descriptors means nothing, since accept(2) looks for one
        before it looks for a connection."""
        cdef Connection* c = NULL
        cdef int outcome = TRY_AGAIN
        if not self.draining and self.listening.leaves_it():
            return NULL
        while outcome == TRY_AGAIN:
            outcome = self.listening.accept(index, &c)
            if outcome == NO_ROOM and waits:
                if self._make_room():
                    outcome = TRY_AGAIN
                else:
                    # Without this the loop would turn at full speed on what it cannot take.
                    self.listening.pause(AGAIN_USEC)
        return c

    cdef void _greet(self, Connection* c) noexcept:
        """A new connection: served at once if its request is there already."""
        if c.state != NEW:
            return  # closed to make room
        self.ready_usec = self.all.now
        try:
            self._readable(c)
        except Exception:
            self._broken(c)
        if c.state != CLOSED:
            self.listening.queue_up(c.listener)
        if c.state == NEW and not self.listening.alone:
            # In a burst of connections that ask nothing yet: the others were woken for theirs.
            sched_yield()
        if self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef bint _make_room(self) noexcept:
        """Close the connection that is of least use: one that only lingers, else the one that has
        been idle longest, or silent from its start. False if each has a request."""
        cdef Connection* c
        cdef int attempt
        for attempt in range(ATTEMPTS):
            c = self.all.queues[<int>LINGERING].first
            if c == NULL:
                c = self._longest_idle()
            if c == NULL:
                return False
            self._end_unless_it_asks(c)
            if c.state == CLOSED:
                return True
        return False

    cdef Connection* _longest_idle(self) noexcept:
        cdef Connection* idle = self.all.queues[<int>IDLE].first
        cdef Connection* silent = self.all.queues[<int>NEW].first
        if silent == NULL or (idle != NULL and idle.deadline < silent.deadline):
            return idle
        if self.all.now + self.all.queues[<int>NEW].span < silent.deadline + GRACE_USEC:
            return idle  # that one may be about to ask
        return silent

    cdef void _end_unless_it_asks(self, Connection* c) noexcept:
        """A request may be in the socket already, or wait in memory for its turn."""
        if c.state == LINGERING:
            self._close(c)
            return
        try:
            self._readable(c)
        except Exception:
            self._broken(c)
        if c.state <= <int>IDLE and not c.interest & EPOLLOUT:
            self._close(c)

    cdef int _begin_drain(self) except -1:
        cdef int index
        seconds, close_idle, accept_rest = self.drain_wish
        self.drain_wish = None
        self.all.now = monotonic_usec()
        first = not self.drain_deadline
        self.drain_deadline = self.all.now + <uint64_t>(seconds * 1000000)
        if first:
            if accept_rest:
                self.listening.turn(True)
                for index in range(self.listening.count):
                    self._accept_rest(index)
            self.listening.turn(False)
        self.listening.again = 0
        self.handler.drain()
        self.handing_over = not self.closing
        if self.handing_over:
            self.takers = self.listening.takers()
            self._hand_over()
        elif close_idle:
            self._begin_close()
        return 0

    cdef void _begin_close(self) noexcept:
        cdef Connection* c
        cdef int state
        # What others gave away is nobody's otherwise.
        while self.channel.take >= 0 and has_descriptors(
            &self.channel, self.slot.connections, self.all.now
        ) and take(&self.all, &self.channel) != NOTHING_WAITS:
            pass
        for state in range(<int>NEW, <int>HEAD + 1):
            c = self.all.queues[state].first
            while c != NULL:
                if c.interest == 0:  # it waited for others to take it
                    want(&self.all, c, EPOLLIN | EPOLLOUT if c.input.size else EPOLLIN)
                c = c.next
        self.closes_idle = True
        self._end_idle()
        self.all.queues[<int>NEW].span = GRACE_USEC
        c = self.all.queues[<int>NEW].first
        while c != NULL:
            c.deadline = self.all.now + GRACE_USEC
            c = c.next

    cdef void _end_idle(self) noexcept:
        cdef Connection* c = self.all.queues[<int>IDLE].first
        while c != NULL:
            self._end_unless_it_asks(c)
            c = self.all.queues[<int>IDLE].first

    cdef void _take_over(self) noexcept:
        """One message of connections that another worker has given away."""
        if self.draining or not self.listening.on or self.channel.take < 0:
            return
        if self.listening.leaves_it():
            return
        if not has_descriptors(&self.channel, self.slot.connections, self.all.now):
            self.listening.pause(AGAIN_USEC)
            return
        if take(&self.all, &self.channel) == NOTHING_WAITS:
            return
        self.listening.queue_up(CHANNEL)
        if self.channel.unreadable:
            try:
                if self.handler.report is not None:
                    self.handler.report(
                        f"{self.channel.unreadable} connections could not be taken over, and were "
                        "answered with 503", None, {"PRIORITY": "3"})
            except Exception:
                pass  # no memory for it
            self.slot.refused += self.channel.unreadable
            self.channel.unreadable = 0
        if self.slot.connections >= self.connection_limit:
            self._listen_if_free()

    cdef void _hand_over(self) noexcept:
        """Give away what has no request in hand, as far as there is room for it."""
        cdef Connection* c
        cdef Connection* following
        cdef int state
        if not self._holds_idle():
            return
        for state in range(<int>NEW, <int>HEAD + 1):
            c = self.all.queues[state].first
            while c != NULL:
                following = c.next
                if c.late:  # it was ended already
                    try:
                        self._eof(c)
                    except Exception:
                        self._broken(c)
                c = following
        if give_away(
            &self.all, &self.channel, EVERY,
            <int>self.slot.connections // (2 * self.takers) + 1, 1 << 30
        ) < 0:
            silence(&self.all)

    cdef bint _holds_idle(self) noexcept:
        return (self.all.queues[<int>NEW].first != NULL or self.all.queues[<int>IDLE].first != NULL
                or self.all.queues[<int>HEAD].first != NULL)

    cdef void _end_left_over(self) noexcept:
        """Nobody took them in the whole drain time."""
        cdef int state
        for state in range(<int>NEW, <int>HEAD + 1):
            while self.all.queues[state].first != NULL:
                self.left_over += 1
                self._close(self.all.queues[state].first)

    cdef void _admit(self) noexcept:
        """Threads come free and are taken again by the connections that are here: let one that
        waits outside into their line now and then, or it would wait as long as they ask."""
        cdef Connection* c
        cdef int index
        if self.all.now >= self.admitted_usec + ADMITTING_USEC:
            self.admitted_usec = self.all.now
            for index in range(self.listening.count):
                c = self._accept(index, False)
                if c != NULL:
                    self._greet(c)
                    break
