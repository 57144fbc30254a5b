# cython: language_level=3
"""Threads that run the application, so that the connection loop only ever waits for sockets.

A request belongs to one thread from its start to its close(): what applications keep for a thread
(Django's database connections) is found again. The thread is free for other requests while the
loop sends what was produced; a slow client holds none.

Handing over allocates nothing, so neither a response nor a thread is lost for want of memory.
"""

import threading

from libc.stdint cimport uint64_t

from sockd.http.connections cimport Connection
from sockd.http.deadlines cimport (
    NOTHING,
    PART,
    WHOLE,
    put_down,
    take_up,
    watch_pool,
    watch_thread,
)
from sockd.http.response cimport CLOSE, Response

cdef extern from "semaphore.h" nogil:
    int sem_init(sem_t* semaphore, int shared, unsigned int value)
    int sem_post(sem_t* semaphore)
    int sem_wait(sem_t* semaphore)
    int sem_destroy(sem_t* semaphore)

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC
    int EFD_NONBLOCK

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)
    int close(int fd)


cdef class Line:
    """Responses that wait in their order. Each is in one line at most: they are linked."""

    cdef void put(self, Response response) noexcept:
        if self.last is None:
            self.first = response
        else:
            self.last.next_in_line = response
        self.last = response

    cdef Response take(self):
        """The first, None if there is none."""
        cdef Response response = self.first
        if response is not None:
            self.first = response.next_in_line
            response.next_in_line = None
            if self.first is None:
                self.last = None
        return response


cdef class Thread:
    """A thread and what it is given: `hand` when the bell rings, then what is in `backlog`."""

    def __cinit__(self, int number):
        self.number = number
        self.backlog = Line()
        sem_init(&self.bell, 0, 0)

    def __dealloc__(self):
        sem_destroy(&self.bell)


cdef class Pool:
    """`size` threads. `fd` is readable when `collect` has something; `busy` of them have a
    request. `watch`, to be set before the first, is told what they have in hand. All but the
    threads themselves is the loop's and needs no lock."""

    def __cinit__(self, int size):
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError("no descriptor for the pool of threads")
        self.size = self.busy = size
        self.threads = [Thread(number) for number in range(size)]
        self.waiting = Line()
        self.done = Line()
        for thread in self.threads:
            self._set_free(thread)

    def __init__(self, int size):
        for number, thread in enumerate(self.threads, 1):
            # Daemons: a thread that the application holds for ever does not hold up the exit.
            threading.Thread(
                target=self._work, args=(thread,), name=f"sockd-{number}", daemon=True
            ).start()

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def _work(self, Thread thread):
        cdef Response response
        cdef uint64_t one = 1
        while True:
            with nogil:
                while sem_wait(&thread.bell) < 0:
                    pass
            response = thread.hand
            thread.hand = None
            watch_thread(self.watch, thread.number)
            try:
                response.work()
            except BaseException:
                response.give_up()
            self.done.put(response)
            write(self.fd, &one, sizeof(one))
            response = None

    cdef int submit(self, Response response, int job) except -1:
        """Let a thread do `job` of a response: its own one, or the first that is free."""
        cdef Thread thread = self.free
        response.job = job
        response.in_pool = True
        if response.thread >= 0:
            thread = <Thread>self.threads[response.thread]
            if thread.is_free:
                self._give(thread, response)
            else:
                thread.backlog.put(response)
        elif thread is not None:
            self._give(thread, response)
        else:
            self.waiting.put(response)
        return 0

    cdef void _give(self, Thread thread, Response response) noexcept:
        response.thread = thread.number
        if response.connection == NULL:
            response.job = CLOSE  # nobody waits for it any more
        if thread.is_free:
            self._occupy(thread)
        take_up(
            self.watch, thread.number, <Connection*>response.connection, &response.words,
            WHOLE if response.job == CLOSE else PART if response.head_written else NOTHING)
        watch_pool(self.watch)
        thread.hand = response
        sem_post(&thread.bell)

    cdef void _set_free(self, Thread thread) noexcept:
        # The one used last is the first again: it has its memory in the caches.
        thread.next_free = self.free
        thread.is_free = True
        self.free = thread
        self.busy -= 1

    cdef void _occupy(self, Thread thread) noexcept:
        cdef Thread before = self.free
        if before is thread:
            self.free = thread.next_free
        else:
            while before.next_free is not thread:
                before = before.next_free
            before.next_free = thread.next_free
        thread.next_free = None
        thread.is_free = False
        self.busy += 1

    cdef Response collect(self):
        """A response whose job is done, None if there is none; its thread gets its next one."""
        cdef Response response = self.done.take()
        cdef Response following
        cdef Thread thread
        cdef uint64_t count
        if response is None:
            read(self.fd, &count, sizeof(count))
            response = self.done.take()
            if response is None:
                return None
        response.in_pool = False
        put_down(self.watch, response.thread)
        thread = <Thread>self.threads[response.thread]
        following = thread.backlog.take()
        if following is None:
            following = self.waiting.take()
        if following is None:
            self._set_free(thread)
        else:
            self._give(thread, following)
        return response
