# cython: language_level=3
"""Health checks (`server.health`): answered for the worker, by the loop or by the native helper,
without the application. 200 while the worker serves, 503 once it drains."""

from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp

from sockd.http.date cimport DATE_LINE, date_line
from sockd.http.parser cimport Head

cdef extern from "sys/socket.h" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT


cdef bint health_asked(const Health* health, const Head* head, const char* data) noexcept nogil:
    """Whether a complete head is a GET or HEAD of the health path, without a body."""
    cdef const char* method = data + head.method.start
    if health.size == 0 or head.path.size != health.size:
        return False
    if head.chunked or head.content_length > 0:
        return False
    if not (head.method.size == 3 and memcmp(method, b"GET", 3) == 0
            or head.method.size == 4 and memcmp(method, b"HEAD", 4) == 0):
        return False
    return memcmp(data + head.path.start, health.path, health.size) == 0


cdef bint health_answer(int fd, const Head* head, const char* data, bint draining,
                        int64_t seconds) noexcept nogil:
    """Send the answer; whether the connection may be kept. `seconds` since the epoch."""
    cdef char answer[256]
    cdef char date[DATE_LINE + 1]
    cdef bint keep_alive = head.keep_alive and not draining
    cdef const char* connection = b""
    cdef const char* body = b"ok\n"
    if head.method.size == 4:
        body = b""
    elif draining:
        body = b"no\n"
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif head.minor == 0:
        connection = b"Connection: keep-alive\r\n"
    date_line(date, seconds)
    date[DATE_LINE] = 0
    cdef int size = snprintf(
        answer, sizeof(answer),
        b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"
        b"Content-Length: 3\r\n%s%s\r\n%s",
        b"503 Service Unavailable" if draining else b"200 OK", date, connection, body)
    return c_send(fd, answer, size, MSG_NOSIGNAL | MSG_DONTWAIT) == size and keep_alive
