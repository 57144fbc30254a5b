# cython: language_level=3
"""The listening sockets, and which worker takes a connection.

All workers wait for the same sockets with EPOLLEXCLUSIVE: the kernel wakes the first that waits, in
the order of registration. docs/design/workers.md tells how connections are spread with that."""

import socket

from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset

from sockd.board cimport READY, Board, Slot
from sockd.http.connections cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLEXCLUSIVE,
    EPOLLIN,
    LISTENERS,
    OF_LISTENER,
    Connection,
    connection_new,
    epoll_ctl,
    epoll_event,
    sockaddr_in6,
    tagged,
)

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef extern from *:
    """
    #include <signal.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static volatile sig_atomic_t nudged = 0;

    static void on_nudge(int sig) {
        (void)sig;
        nudged = 1;
    }

    /* SIGURG is ignored by default, so a nudge harms nobody. It interrupts epoll_wait(2) always, and
       with SA_RESTART none of the application's calls (signal(7)). */
    static void heed_nudges(void) {
        struct sigaction action;
        if (sigaction(SIGURG, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
            memset(&action, 0, sizeof action);
            action.sa_handler = on_nudge;
            action.sa_flags = SA_RESTART;
            sigaction(SIGURG, &action, NULL);
        }
    }

    static void nudge(pid_t pid) {
        syscall(SYS_tgkill, pid, pid, SIGURG);  /* its main thread, where the loop is */
    }

    static int was_nudged(void) {
        int was = nudged;
        nudged = 0;
        return was;
    }
    """
    void heed_nudges() nogil
    void nudge(int pid) nogil
    int c_was_nudged "was_nudged"() nogil

cdef enum:
    # What the kernel takes of a response that it cannot send yet. Otherwise it is up to 4 MiB, so a
    # few hundred clients that do not read bring all of TCP to its limit (tcp_mem of tcp(7)).
    UNSENT = 256 << 10
    # A worker that has its share looks again this often whether another has taken the connection,
    LEFT_USEC = 1000
    # and takes it after this long: the others may be stuck.
    LEFT_MOST_USEC = 8000
    # When that has happened so often and they have taken nothing meanwhile, they are stuck: then
    # all that comes is taken for a while, and one more is left to them after that.
    LEFT_IN_VAIN = 8
    UNSHARED_USEC = 100000
    # A worker with a request in hand is busy after this long; before, it may just not have the CPU.
    SHORT_USEC = 20000
    REACH_USEC = 100000


cdef class Listening:
    """`sockets` in the epoll of `all`; `again` is when to look at them again (CLOCK_MONOTONIC in
    microseconds), 0 if nothing else than an event matters."""

    def __init__(self, sockets, settings, Board board):
        if len(sockets) > LISTENERS:
            raise ValueError(f"more than {LISTENERS} listeners")
        self.count = len(sockets)
        self.channel = -1
        for index, listener in enumerate(sockets):
            self.fds[index] = listener.fileno()
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                # Inherited by what is accepted: no system call for each connection.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self.board = board
        self.threads = settings.threads
        self.alone = settings.workers == 1
        if not self.alone:
            heed_nudges()

    cdef void turn(self, bint on) noexcept:
        """Take the listeners into epoll, or out (an exclusive entry cannot be modified). Without
        memory for that they are out, and tried again."""
        cdef int index
        self.again = 0
        if on == self.on:
            return
        self.on = on
        for index in range(self.count):
            if not self._watch(index, on):
                self.pause(AGAIN_USEC)
                return
        if self.channel >= 0 and not self._watch(CHANNEL, on):
            self.pause(AGAIN_USEC)

    cdef void pause(self, uint64_t usec) noexcept:
        self.turn(False)
        self.again = self.all.now + usec

    cdef bint _watch(self, int index, bint on) noexcept:
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        event.data.u64 = tagged(index, OF_LISTENER)
        # Those that were not in are not found when all are taken out.
        return epoll_ctl(self.all.epoll, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL,
                         self.channel if index == CHANNEL else self.fds[index],
                         &event) == 0 or not on

    cdef int accept(self, int index, Connection** connection) noexcept:
        """1 and a connection in state NEW, or one of Nothing."""
        cdef socklen_t size = sizeof(sockaddr_in6)
        cdef sockaddr_in6 address
        cdef int fd
        memset(&address, 0, sizeof(address))
        fd = accept4(self.fds[index], <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EAGAIN:
                return NONE_WAITING
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                return NO_ROOM
            return TRY_AGAIN
        connection[0] = connection_new(self.all, fd, index, &address)
        if connection[0] == NULL:
            close(fd)
            return NO_ROOM
        return 1

    cdef void queue_up(self, int index) noexcept:
        """After a connection that stays: the kernel wakes the first waiting worker in the order of
        their registration, and the last one to accept goes to the end of that line."""
        if not self.alone and self.on:
            self._watch(index, False)
            if not self._watch(index, True):
                self.pause(AGAIN_USEC)

    cdef bint was_nudged(self) noexcept:
        """Whether another worker has left a connection to this one."""
        return c_was_nudged()

    cdef bint leaves_it(self) noexcept:
        """Leave what waits to the worker that has the fewest connections, and say so to it: the
        kernel has woken nobody else for it."""
        cdef uint64_t now = self.all.now
        if self.alone or self.all.slot.connections < 2 or now < self.unshared_until:
            return False
        if not self._has_its_share():
            self.left_since = 0
            return False
        if self.left_since == 0:
            self.left_since = now
        elif now > self.left_since + LEFT_MOST_USEC:
            self.left_since = 0
            self.in_vain += 1
            if self.in_vain >= LEFT_IN_VAIN:
                self.in_vain -= 1
                self.unshared_until = now + UNSHARED_USEC
            return False
        if self.least != NULL:
            nudge(<int>self.least.pid)
        self.pause(LEFT_USEC)
        return True

    cdef int takers(self) noexcept:
        """Workers that take connections, at least 1."""
        cdef int index
        cdef int found = 0
        for index in range(self.board.slots):
            if self.board.slot(index).state == READY:
                found += 1
        return max(found, 1)

    cdef bint _has_its_share(self) noexcept:
        """More connections than the mean of the workers that can take one, itself included."""
        cdef Slot* slot
        cdef uint64_t mine = self.all.slot.connections
        cdef uint64_t total = 0
        cdef uint64_t workers = 0
        cdef int index
        cdef int learnt = 0
        cdef bint learning = self.all.now > self.reach_usec + REACH_USEC
        self.least = NULL
        if learning:
            self.reach_usec = self.all.now
            self.reach = self.board.slots
        for index in range(self.reach):
            slot = self.board.slot(index)
            if slot.state == READY and (
                slot.active < self.threads or slot == self.all.slot
                or slot.request_started_usec + SHORT_USEC > self.all.now
            ):
                total += slot.connections
                workers += 1
                if self.least == NULL or slot.connections < self.least.connections:
                    self.least = slot
            if learning and slot.state:
                learnt = index + 1
        if learning:
            self.reach = learnt
        if total - mine != self.of_others:
            self.of_others = total - mine
            self.in_vain = 0
        return mine * workers > total
