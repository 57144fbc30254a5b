# cython: language_level=3
"""Threads that run the application, so that the connection loop only ever waits for sockets.

A request belongs to one thread from its start to its close(): what applications keep for a thread
(Django's database connections) is found again. The thread is free for other requests while the
loop sends what was produced; a slow client holds none.
"""

import threading
from collections import deque
from queue import SimpleQueue

from libc.stdint cimport uint64_t

from sockd.http.response cimport CLOSE, Response

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC
    int EFD_NONBLOCK

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)
    int close(int fd)


cdef class Pool:
    """`size` threads. `fd` is readable when `collect` has something; `busy` of them have a
    request. All but the threads themselves is the loop's and needs no lock."""

    def __cinit__(self, int size):
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError("no descriptor for the pool of threads")
        self.size = size
        self.queues = [SimpleQueue() for _ in range(size)]
        self.backlogs = [deque() for _ in range(size)]
        self.free = list(range(size))
        self.waiting = deque()
        self.done = deque()

    def __init__(self, int size):
        for number in range(size):
            # Daemons: a thread that the application holds for ever does not hold up the exit.
            threading.Thread(
                target=self._work, args=(number,), name=f"sockd-{number + 1}", daemon=True
            ).start()

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def _work(self, int number):
        cdef Response response
        cdef uint64_t one = 1
        get = self.queues[number].get
        while True:
            response = get()
            response.work()
            self.done.append(response)
            write(self.fd, &one, sizeof(one))
            response = None

    cdef int submit(self, Response response, int job) except -1:
        """Let a thread do `job` of a response: its own one, or the first that is free."""
        response.job = job
        response.in_pool = True
        if response.thread >= 0:
            if response.thread in self.free:
                self.free.remove(response.thread)
                self._give(response.thread, response)
            else:
                self.backlogs[response.thread].append(response)
        elif self.free:
            # The one used last has its memory in the caches.
            self._give(self.free.pop(), response)
        else:
            self.waiting.append(response)
        return 0

    cdef int _give(self, int thread, Response response) except -1:
        response.thread = thread
        if response.connection == NULL:
            response.job = CLOSE  # nobody waits for it any more
        self.busy = self.size - len(self.free)
        self.queues[thread].put(response)
        return 0

    cdef Response collect(self):
        """A response whose job is done, None if there is none; its thread gets its next one."""
        cdef Response response
        cdef int thread
        cdef uint64_t count
        if not self.done:
            read(self.fd, &count, sizeof(count))
            if not self.done:
                return None
        response = self.done.popleft()
        response.in_pool = False
        thread = response.thread
        if self.backlogs[thread]:
            self._give(thread, self.backlogs[thread].popleft())
        elif self.waiting:
            self._give(thread, self.waiting.popleft())
        else:
            self.free.append(thread)
            self.busy = self.size - len(self.free)
        return response
