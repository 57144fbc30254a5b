/* The floor: a bare epoll responder, one process. It finds the end of a head, waits for POST bytes
 * of body behind it, answers with a body of SIZE bytes, and checks nothing.
 * usage: responder PORT|/PATH keep|close SIZE POST */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FDS = 65536 };

static struct {
    long awaited; /* bytes of body still to come */
    long unsent;  /* bytes of the answer still to go out */
} state[FDS];

static char *answer;
static long answer_size, posted;
static int keep, epoll;

static int listen_on(const char *where)
{
    int one = 1, fd;
    if (where[0] == '/') {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        strncpy(at.sun_path, where, sizeof at.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (bind(fd, (struct sockaddr *)&at, sizeof at))
            return -1;
    } else {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(where)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&at, sizeof at))
            return -1;
    }
    return listen(fd, 4096) ? -1 : fd;
}

static void make_answer(long size)
{
    char head[256];
    int head_size = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %ld\r\n"
        "Date: Sat, 21 Nov 2026 00:00:00 GMT\r\n%s\r\n", size, keep ? "" : "Connection: close\r\n");
    answer_size = head_size + size;
    answer = malloc(answer_size);
    memcpy(answer, head, head_size);
    memset(answer + head_size, 'x', size);
}

static void watch(int fd, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, operation, fd, &event);
}

static void respond(int fd)
{
    int waited = state[fd].unsent < answer_size;
    ssize_t sent = send(fd, answer + answer_size - state[fd].unsent, state[fd].unsent, MSG_NOSIGNAL);
    state[fd].unsent -= sent > 0 ? sent : 0;
    if (sent < 0 && errno != EAGAIN)
        close(fd);
    else if (state[fd].unsent)
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    else if (!keep)
        close(fd);
    else if (waited)
        watch(fd, EPOLL_CTL_MOD, EPOLLIN);
}

static void take(int fd)
{
    static char input[65536];
    ssize_t got = recv(fd, input, sizeof input, 0);
    if (got <= 0) {
        close(fd);
        return;
    }
    if (state[fd].awaited == 0) {
        char *end = memmem(input, got, "\r\n\r\n", 4);
        if (end == NULL)
            return;
        got -= end + 4 - input;
        state[fd].awaited = posted;
    }
    state[fd].awaited -= got;
    if (state[fd].awaited > 0)
        return;
    state[fd].awaited = 0;
    state[fd].unsent = answer_size;
    respond(fd);
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    int listener;
    if (argc != 5 || (listener = listen_on(argv[1])) < 0) {
        perror("responder PORT|/PATH keep|close SIZE POST");
        return 1;
    }
    keep = strcmp(argv[2], "close") != 0;
    make_answer(atol(argv[3]));
    posted = atol(argv[4]);
    epoll = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd >= FDS) {
                    close(fd);
                } else if (fd >= 0) {
                    state[fd].awaited = state[fd].unsent = 0;
                    watch(fd, EPOLL_CTL_ADD, EPOLLIN);
                }
            } else if (state[fd].unsent) {
                respond(fd);
            } else {
                take(fd);
            }
        }
    }
}
