# cython: language_level=3
"""Open connections in messages: what a worker gives, another one takes, and goes on with.

docs/design/handover.md has the format. All but `channel_join` and `end_waiting` is plain memory and
system calls, so that the native helper can do it while the interpreter is busy; the caller holds
the connections' lock.
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from sockd.http.connections cimport (
    CLOSED,
    EPOLLIN,
    EPOLLOUT,
    HEAD,
    IDLE,
    NEW,
    Connection,
    Connections,
    connection_new,
    enter,
    enter_since,
    forget,
    reserve,
    sockaddr_in6,
    want,
)
from sockd.http.date cimport DATE_LINE, date_line

cdef extern from *:
    """
    #include <dirent.h>
    #include <string.h>
    #include <sys/socket.h>

    #define SOCKD_RIGHTS 253

    /* One message with descriptors, or none; as sendmsg(2). */
    static ssize_t send_rights(int sock, const void *data, size_t size, const int *fds, int count) {
        union { struct cmsghdr align; char room[CMSG_SPACE(SOCKD_RIGHTS * sizeof(int))]; } control;
        struct iovec part;
        struct msghdr message;
        struct cmsghdr *rights;
        memset(&message, 0, sizeof message);
        part.iov_base = (void *)data;
        part.iov_len = size;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        memset(control.room, 0, message.msg_controllen);
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, (size_t)count * sizeof(int));
        return sendmsg(sock, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }

    /* One message; as recvmsg(2). `flags` are those of the message. */
    static ssize_t receive_rights(
        int sock, void *data, size_t size, int *fds, int *count, int *flags
    ) {
        union { struct cmsghdr align; char room[CMSG_SPACE(SOCKD_RIGHTS * sizeof(int))]; } control;
        struct iovec part;
        struct msghdr message;
        struct cmsghdr *found;
        ssize_t got;
        memset(&message, 0, sizeof message);
        part.iov_base = data;
        part.iov_len = size;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        *count = 0;
        got = recvmsg(sock, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got < 0)
            return got;
        *flags = message.msg_flags;
        for (found = CMSG_FIRSTHDR(&message); found; found = CMSG_NXTHDR(&message, found)) {
            if (found->cmsg_level == SOL_SOCKET && found->cmsg_type == SCM_RIGHTS) {
                *count = (int)((found->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds, CMSG_DATA(found), (size_t)*count * sizeof(int));
            }
        }
        return got;
    }

    /* Descriptors of this process, 0 where /proc does not tell. */
    static unsigned long count_descriptors(void) {
        unsigned long count = 0;
        DIR *directory = opendir("/proc/self/fd");
        if (directory == NULL)
            return 0;
        while (readdir(directory) != NULL)
            count++;
        closedir(directory);
        return count;
    }
    """
    ssize_t send_rights(int sock, const void* data, size_t size, const int* fds, int count) nogil
    ssize_t receive_rights(
        int sock, void* data, size_t size, int* fds, int* count, int* flags) nogil
    unsigned long count_descriptors() nogil

cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, ...)
    int F_GETFL
    int F_SETFL
    int O_NONBLOCK

cdef extern from "sys/mman.h" nogil:
    int memfd_create(const char* name, unsigned int flags)
    unsigned int MFD_CLOEXEC

cdef extern from "sys/resource.h" nogil:
    cdef struct rlimit:
        unsigned long rlim_cur
    int getrlimit(int resource, rlimit* limit)
    int RLIMIT_NOFILE

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int shutdown(int fd, int how)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int MSG_PEEK
    int MSG_TRUNC
    int SHUT_RDWR
    int SOCK_STREAM
    int SOL_SOCKET
    int SO_TYPE

cdef extern from "sys/stat.h" nogil:
    cdef struct stat_t "stat":
        int64_t st_size
        unsigned int st_mode
    int fstat(int fd, stat_t* status)
    bint S_ISREG(unsigned int mode)

cdef extern from "time.h" nogil:
    ctypedef long time_t
    time_t time(time_t* where)

cdef extern from "unistd.h" nogil:
    ssize_t write(int fd, const void* data, size_t size)
    ssize_t pread(int fd, void* data, size_t size, long offset)
    int close(int fd)

cdef enum:
    RIGHTS = MOST + 1
    # A reader knows what one version more and one less mean: a version may only add fields at a
    # record's end.
    VERSION = 1
    LARGEST = 256 << 20
    # The descriptors of this process are counted once in this time, since the application opens
    # some as well; between, connections alone are counted.
    COUNT_USEC = 1000000
    # Those that the application may open meanwhile.
    SPARE = 32
    # RLIMIT_NOFILE below which there is no channel.
    FEWEST = 3 * RIGHTS

# The payload of a message.
cdef struct Envelope:
    uint32_t version
    uint32_t count  # of connections

# The state of a connection, in the message's first descriptor; what was read of an unfinished
# request follows each.
cdef struct Record:
    uint32_t fixed  # bytes of this struct: a later version's may be longer
    uint32_t held  # bytes of input that follow
    uint64_t listener  # `_name` of its address
    uint64_t since_usec  # CLOCK_MONOTONIC: when it entered its state
    uint64_t arrived_usec  # when a request that waits was read, 0 if none does
    uint32_t served
    uint8_t state
    uint8_t reserved[3]
    uint8_t address[28]  # struct sockaddr_in6, as accept(2) gave it

# What `state` says.
cdef enum:
    IS_NEW = 0
    IS_IDLE = 1
    IS_IN_HEAD = 2


cdef uint64_t _name(bytes address):
    """FNV-1a: two processes call a listener by its address."""
    cdef uint64_t mixed = 14695981039346656037U
    cdef uint8_t byte
    for byte in address:
        mixed = (mixed ^ byte) * <uint64_t>1099511628211U
    return mixed


cdef bint channel_join(
    Channel* channel, int give, int take, bint outlives, list names
) except -1:
    """`names`: the addresses of the listeners, in the order of their numbers. False, and without a
    channel, where so few descriptors are allowed that messages could not be received."""
    cdef rlimit limit
    cdef int index
    if getrlimit(RLIMIT_NOFILE, &limit) < 0:
        raise OSError(errno, "cannot learn how many descriptors there may be")
    if limit.rlim_cur < FEWEST:
        return False
    channel.most_descriptors = limit.rlim_cur
    channel.give = give
    channel.take = take
    channel.outlives = outlives
    channel.listeners = len(names)
    for index in range(channel.listeners):
        channel.names[index] = _name(os.fsencode(names[index]))
    return True


cdef bint movable(const Connection* c) noexcept nogil:
    """Whether nothing ties a connection to this process: it has no request in hand, all of its
    responses are in the kernel, and what was read is in its input."""
    return c.state <= <int>HEAD and not c.late


cdef bint give(Connections* all, Channel* channel, Connection** some, int count) noexcept nogil:
    """Send connections, at most MOST, in one message. Once that is done they are closed here;
    false if there is no room for it."""
    cdef Connection* c
    cdef Envelope envelope
    cdef uint32_t interests[MOST]
    cdef int fds[RIGHTS]
    cdef int i
    cdef bint sent
    fds[0] = memfd_create(b"sockd-handover", MFD_CLOEXEC)
    if fds[0] < 0:
        sent = False
    else:
        sent = _write_state(fds[0], channel, all, some, count)
    for i in range(count):
        # The registration belongs to the open file, which goes on: epoll would tell of it still.
        interests[i] = some[i].interest
        want(all, some[i], 0)
        fds[i + 1] = some[i].fd
    if sent:
        envelope.version = VERSION
        envelope.count = count
        while True:
            sent = send_rights(
                channel.give, &envelope, sizeof(envelope), fds, count + 1) == sizeof(envelope)
            if sent or errno != EINTR:
                break
    if fds[0] >= 0:
        close(fds[0])
    if not sent:
        for i in range(count):
            if want(all, some[i], interests[i]) < 0:
                some[i].late = True  # the loop ends what it cannot watch
                shutdown(some[i].fd, SHUT_RDWR)
        return False
    for i in range(count):
        c = some[i]
        forget(all, c)
        enter(all, c, CLOSED)
        close(c.fd)
        all.slot.connections -= 1
        c.next = all.graveyard
        all.graveyard = c
    all.slot.handed_over += count
    return True


cdef bint _write_state(
    int fd, const Channel* channel, const Connections* all, Connection** some, int count
) noexcept nogil:
    cdef size_t size = 0
    cdef size_t at = 0
    cdef ssize_t wrote
    cdef Record record
    cdef Connection* c
    cdef char* data
    cdef int i
    for i in range(count):
        size += sizeof(Record) + some[i].input.size
    data = <char*>malloc(size)
    if data == NULL:
        return False
    for i in range(count):
        c = some[i]
        memset(&record, 0, sizeof(record))
        record.fixed = sizeof(Record)
        record.held = <uint32_t>c.input.size
        record.listener = channel.names[c.listener]
        record.since_usec = c.deadline - all.queues[c.state].span
        record.arrived_usec = c.arrived_usec
        record.served = c.served
        record.state = (
            IS_IN_HEAD if c.state == HEAD else IS_IDLE if c.state == IDLE else IS_NEW)
        memcpy(record.address, &c.address, sizeof(record.address))
        memcpy(data + at, &record, sizeof(record))
        at += sizeof(record)
        if c.input.size:
            memcpy(data + at, c.input.data, c.input.size)
            at += c.input.size
    at = 0
    while at < size:
        wrote = write(fd, data + at, size - at)
        if wrote < 0 and errno == EINTR:
            continue
        if wrote <= 0:
            break
        at += wrote
    free(data)
    return at == size


cdef int give_away(
    Connections* all, Channel* channel, Which which, int batch, int most
) noexcept nogil:
    """Give away those that can go and are meant, up to `batch` in a message, so that several
    workers get some: how many went, at most `most`; -1 if the channel has no room for more."""
    cdef Connection* some[MOST]
    cdef Connection* c
    cdef int given = 0
    cdef int count
    cdef int state
    batch = max(1, min(batch, <int>MOST))
    for state in range(<int>NEW, <int>HEAD + 1):
        c = all.queues[state].first
        while c != NULL and given < most:
            count = 0
            while c != NULL and count < batch and given + count < most:
                if movable(c) and _meant(c, which):
                    some[count] = c
                    count += 1
                c = c.next
            if count:
                if not give(all, channel, some, count):
                    return -1
                given += count
    return given


cdef inline bint _meant(const Connection* c, Which which) noexcept nogil:
    if which == ASKING:
        return c.input.size and c.interest & EPOLLOUT
    return which == EVERY or c.state == IDLE and c.input.size == 0


cdef void silence(Connections* all) noexcept nogil:
    """None of those that are to go may be read here any more, though they have to wait."""
    cdef Connection* c
    cdef int state
    for state in range(<int>NEW, <int>HEAD + 1):
        c = all.queues[state].first
        while c != NULL:
            if movable(c):
                want(all, c, 0)
            c = c.next


cdef bint has_descriptors(Channel* channel, uint64_t connections, uint64_t now) noexcept nogil:
    """Whether a message can be received: the kernel drops the descriptors of it that this process
    has no number for, and nobody learns of them."""
    if now >= channel.counted_usec + COUNT_USEC or (
        channel.counted + connections + RIGHTS + SPARE > channel.most_descriptors
    ):
        channel.counted_usec = now
        channel.counted = count_descriptors()
        channel.counted -= min(channel.counted, connections)
    return channel.counted + connections + RIGHTS + SPARE <= channel.most_descriptors


cdef int take(Connections* all, Channel* channel) noexcept nogil:
    """Receive one message: how many connections came with it, or one of NotTaken. Those with a
    request that was read wait for their turn, which epoll brings."""
    cdef Envelope envelope
    cdef int fds[RIGHTS]
    cdef int count = 0
    cdef int flags = 0
    cdef int taken
    cdef int i
    cdef ssize_t got
    while True:
        got = receive_rights(channel.take, &envelope, sizeof(envelope), fds, &count, &flags)
        if got >= 0 or errno != EINTR:
            break
    if got < 0 or (got == 0 and count == 0):
        return NOTHING_WAITS
    if got != sizeof(envelope) or flags & MSG_TRUNC or count == 0 or not (
        VERSION - 1 <= envelope.version <= VERSION + 1 and envelope.version
    ):
        for i in range(count):
            _turn_away(fds[i])
        channel.unreadable += max(count - 1, 0)  # the first is none
        return UNREADABLE
    taken = _adopt(all, channel, fds[0], fds + 1, count - 1)
    close(fds[0])
    for i in range(taken + 1, count):
        _turn_away(fds[i])
    if envelope.count > <uint32_t>taken and envelope.count <= MOST:
        channel.unreadable += envelope.count - taken
    all.slot.taken_over += taken
    return taken if taken else UNREADABLE


cdef int _adopt(
    Connections* all, Channel* channel, int state, const int* fds, int count
) noexcept nogil:
    """How many of the first descriptors could be made connections of this worker."""
    cdef size_t size
    cdef size_t at = 0
    cdef Record record
    cdef Connection* last = NULL
    cdef int taken = 0
    cdef char* data = _read_state(state, &size)
    if data == NULL:
        return 0
    while taken < count and size - at >= sizeof(Record):
        memcpy(&record, data + at, sizeof(record))
        if record.fixed < sizeof(Record) or record.fixed > size - at or (
            record.held > size - at - record.fixed
        ):
            break
        at += record.fixed
        last = _adopt_one(all, channel, fds[taken], &record, data + at, last)
        if last == NULL:
            break
        at += record.held
        taken += 1
    free(data)
    return taken


cdef char* _read_state(int fd, size_t* size) noexcept nogil:
    cdef stat_t status
    cdef char* data
    cdef size_t at = 0
    cdef ssize_t got
    if fstat(fd, &status) < 0 or not S_ISREG(status.st_mode):
        return NULL
    if status.st_size <= 0 or status.st_size > LARGEST:
        return NULL
    size[0] = <size_t>status.st_size
    data = <char*>malloc(size[0])
    while data != NULL and at < size[0]:
        got = pread(fd, data + at, size[0] - at, <long>at)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            free(data)
            return NULL
        at += got
    return data


cdef Connection* _adopt_one(
    Connections* all, const Channel* channel, int fd, const Record* record, const char* held,
    Connection* last
) noexcept nogil:
    """A connection as it was, in the line of its state: behind `last`, where that is one of the
    same message. NULL if it cannot be one."""
    cdef Connection* c
    cdef sockaddr_in6 address
    cdef int listener = 0
    cdef int index
    cdef int state
    cdef int flags
    cdef int kind = 0
    cdef socklen_t size = sizeof(kind)
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) < 0 or kind != SOCK_STREAM:
        return NULL
    flags = fcntl(fd, F_GETFL)
    if not flags & O_NONBLOCK and fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0:
        return NULL
    for index in range(channel.listeners):
        if channel.names[index] == record.listener:
            listener = index
    memset(&address, 0, sizeof(address))
    memcpy(&address, record.address, min(sizeof(address), sizeof(record.address)))
    c = connection_new(all, fd, listener, &address)
    if c == NULL:
        return NULL
    c.moved = True
    c.served = record.served
    if record.held:
        if not reserve(&c.input, record.held):
            return _give_up(all, c)
        memcpy(c.input.data, held, record.held)
        c.input.size = record.held
        c.arrived_usec = record.arrived_usec
    state = HEAD if record.state == IS_IN_HEAD else IDLE if record.state == IS_IDLE else NEW
    enter_since(all, c, state, record.since_usec, last)
    # A socket is nearly always writable: so what was read has its turn with the next events.
    if want(all, c, EPOLLIN | EPOLLOUT if record.held else EPOLLIN) < 0:
        return _give_up(all, c)
    return c


cdef Connection* _give_up(Connections* all, Connection* c) noexcept nogil:
    """Its descriptor is for the caller to end."""
    forget(all, c)
    enter(all, c, CLOSED)
    all.slot.connections -= 1
    c.next = all.graveyard
    all.graveyard = c
    return NULL


cdef void _turn_away(int fd) noexcept nogil:
    """Answer with 503 and close; what is no connection is only closed."""
    cdef char answer[192]
    cdef int kind = 0
    cdef socklen_t size = sizeof(kind)
    cdef size_t at
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 and kind == SOCK_STREAM:
        memcpy(answer, b"HTTP/1.1 503 Service Unavailable\r\n", 34)
        date_line(answer + 34, time(NULL))
        at = 34 + DATE_LINE
        memcpy(answer + at, b"Content-Length: 0\r\nConnection: close\r\n\r\n", 40)
        c_send(fd, answer, at + 40, MSG_NOSIGNAL | MSG_DONTWAIT)
        _discard(fd)
        shutdown(fd, SHUT_RDWR)
    close(fd)


cdef void _discard(int fd) noexcept nogil:
    """close() resets a connection that has input unread, and the peer may lose the answer."""
    cdef char data[16384]
    cdef int i
    for i in range(16):
        if recv(fd, data, sizeof(data), MSG_DONTWAIT) <= 0:
            break


def end_waiting(int take_from):
    """Close every connection that is still in the channel: the service stops, and nobody else
    comes. A request that was begun is answered with 503. Returns (how many, how many of them had
    one)."""
    cdef Envelope envelope
    cdef int fds[RIGHTS]
    cdef int count = 0
    cdef int flags = 0
    cdef int i
    cdef char byte
    cdef int ended = 0
    cdef int asked = 0
    while receive_rights(take_from, &envelope, sizeof(envelope), fds, &count, &flags) > 0:
        asking = _asking(fds[0], count - 1) if count else set()
        for i in range(1, count):
            ended += 1
            if i - 1 in asking or recv(fds[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0:
                asked += 1
                _turn_away(fds[i])
            else:
                shutdown(fds[i], SHUT_RDWR)
                close(fds[i])
        if count:
            close(fds[0])
    return ended, asked


cdef set _asking(int state, int count):
    """Which of a message's connections hold a part of a request."""
    cdef size_t size
    cdef size_t at = 0
    cdef Record record
    cdef char* data = _read_state(state, &size)
    found = set()
    if data != NULL:
        for index in range(count):
            if size - at < sizeof(Record):
                break
            memcpy(&record, data + at, sizeof(record))
            if record.held:
                found.add(index)
            at = min(size, at + record.fixed + record.held)
        free(data)
    return found
