# cython: language_level=3
"""Requests that take too long: the loop's part of `timeouts.request` and `log.slow`.

docs/design/deadlines.md says who does what; the native helper's part is in `deadlines`.
"""

from libc.stdint cimport uint64_t

from sockd import RequestTimeout
from sockd.board cimport note_response
from sockd.http.connections cimport Connection, monotonic_usec, want
from sockd.http.deadlines cimport (
    INTERRUPTED,
    NOTHING,
    PART,
    RAISED,
    TAKEN,
    WHOLE,
    Hand,
    Watch,
    answer_late,
    cut_off,
    describe,
    others_until,
    plan_ahead,
    put_down,
    take_up,
)
from sockd.http.ends cimport Ends
from sockd.http.helper cimport come_back, step_away
from sockd.http.response cimport BEGIN, CLOSE, PULL, Response

cdef extern from "unistd.h" nogil:
    int pause()


cdef class Overdue(Ends):
    """A loop that holds what the application has in hand to its deadlines."""

    def arm(self, int interrupt, int dump, int stacks):
        """Enforce deadlines with signals: at `interrupt` the interpreter has to call `interrupted`
        in the loop's thread; `dump` has the stacks of all threads written to the descriptor
        `stacks` without the interpreter."""
        self.helper.watch.interrupt = interrupt
        self.helper.watch.dump = dump
        self.helper.watch.stacks = stacks

    def interrupted(self, number, frame):
        """The handler of that signal: raises RequestTimeout where the application is, unless it
        has returned, or something else has the word."""
        cdef Watch* watch = &self.helper.watch
        cdef Hand* hand = &watch.hands[0]
        if not watch.speaking:
            return
        watch.speaking = False
        try:
            if watch.look:
                watch.look = False
                self.overruns.slow(describe(hand, self.slot, monotonic_usec()), frame)
            if hand.stage != INTERRUPTED:
                return
            hand.stage = RAISED
            self.overruns.stopped(hand.thread, frame)
        except Exception:
            self._report_fault()  # for want of memory, say
            if hand.stage != RAISED:
                return
        finally:
            watch.speaking = True
        raise RequestTimeout(f"no answer within {watch.span_usec / 1e6:g} s (timeouts.request)")

    cdef int _let(self, Connection* c, Response response, int job) except -1:
        """Let the application have the word in this thread, for one job (of the pool's)."""
        cdef Watch* watch = &self.helper.watch
        cdef Hand* hand = &watch.hands[0]
        take_up(watch, 0, c, &response.words,
                WHOLE if job == CLOSE else PART if response.head_written else NOTHING)
        watch.look = False
        watch.speaking = True
        step_away(self.helper, self.all.now)
        try:
            if job == BEGIN:
                response.begin()
            elif job == PULL:
                response.pull()
            else:
                response.close()
        finally:
            watch.speaking = False
            come_back(self.helper)
            self.slot.deadline_usec = 0
            if hand.stage:
                self._end_overrun(hand, response)
            put_down(watch, 0)
        return 0

    cdef int _end_overrun(self, Hand* hand, Response response) except -1:
        """The application came back after its deadline."""
        if hand.stage == TAKEN:
            # The helper has answered, and ends this worker: nothing else is to be begun.
            step_away(self.helper, self.all.now)
            while True:
                pause()
        if hand.stage == RAISED:
            answer = None
            if response.cut:
                answer = "cut"
            elif hand.had != WHOLE and not (response.complete and response.code == 504):
                answer = "its own"
            self._tell_overrun(hand, "raised", answer, True)
        return 0

    cdef int _tell_overrun(self, Hand* hand, str how, str answer, bint able) except -1:
        if self.overruns is None:
            return 0
        try:
            request = {"how": how, **describe(hand, self.slot, monotonic_usec())}
            if answer is not None:
                request["answer"] = answer
            if how == "thread":
                self.overruns.stopped(hand.thread, None)
            self.overruns.over(request, able)
        except Exception:
            self._report_fault()  # for want of memory, say
        return 0

    cdef int _look_at_hands(self) except -1:
        """See to what the threads of the pool have in hand for too long."""
        cdef Watch* watch = &self.helper.watch
        cdef Hand* hand
        cdef int i
        for i in range(watch.count):
            hand = &watch.hands[i]
            if hand.since_usec == 0:
                continue
            if hand.slow_usec and hand.slow_usec <= self.all.now:
                hand.slow_usec = 0
                if self.overruns is not None:
                    try:
                        self.overruns.slow(describe(hand, self.slot, self.all.now), None)
                    except Exception:
                        self._report_fault()
            if hand.stage != TAKEN and 0 < hand.deadline_usec <= self.all.now:
                hand.stage = TAKEN
                hand.told = True
                self._take_from_thread(hand)
        watch.due_usec = plan_ahead(watch)
        return 0

    cdef int _take_from_thread(self, Hand* hand) except -1:
        """Answer in the application's place, or cut. Its thread goes on, and cannot be used again
        as long as it does."""
        cdef Connection* c = hand.connection
        cdef bint able = False
        cdef int i
        hand.connection = NULL
        if c != NULL and self.access is not None:
            self._note_access(c, 504, 0, "timeouts.request")
        if c != NULL and hand.had == NOTHING and answer_late(c, hand.words):
            note_response(self.slot, 504)
            self._linger(c)
        elif c != NULL:
            cut_off(c)
            self._close(c)
        for i in range(self.helper.watch.count):
            able |= self.helper.watch.hands[i].stage != TAKEN
        return self._tell_overrun(hand, "thread", None, able)

    cdef int _leave(self) except -1:
        """The interpreter was away for so long that the helper has given this worker up. What is
        in hand and not late may finish."""
        cdef Watch* watch = &self.helper.watch
        cdef uint64_t until = others_until(watch)
        cdef int i
        watch.end_usec = 0
        for i in range(watch.count):
            if watch.hands[i].stage == TAKEN and watch.hands[i].connection != NULL:
                self._close(watch.hands[i].connection)
        self.drain(until / 1e6 - self.all.now / 1e6 if until > self.all.now else 0.0,
                   close_idle=False, hand_over=True)
        return 0
