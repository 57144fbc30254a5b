"""What Linux offers and the standard library lacks, for processes: prctl(2), a fork(2) that runs
no at-fork hooks, and a deadline that the kernel itself enforces.

All raise OSError with the system's errno.
"""

import os

from libc.errno cimport errno
from posix.types cimport pid_t
from posix.unistd cimport fork


cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <time.h>

    static timer_t deadline_timer;
    static int deadline_made = 0;
    static struct itimerspec deadline_orphaned;

    static void deadline_time(struct itimerspec *when, double seconds) {
        memset(when, 0, sizeof *when);
        when->it_value.tv_sec = (time_t)seconds;
        when->it_value.tv_nsec = (long)((seconds - (double)when->it_value.tv_sec) * 1e9);
        if (when->it_value.tv_sec == 0 && when->it_value.tv_nsec == 0)
            when->it_value.tv_nsec = 1;  /* 0 would disarm it */
    }

    /* timer_settime(2) is async-signal-safe (signal-safety(7)). A timer that already runs keeps
       its time: the first cause of the end set it. */
    static void deadline_on_signal(int sig) {
        struct itimerspec left;
        int saved = errno;
        (void)sig;
        if (timer_gettime(deadline_timer, &left) == 0
            && left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0)
            timer_settime(deadline_timer, 0, &deadline_orphaned, NULL);
        errno = saved;
    }

    static int deadline_set(double seconds) {
        struct itimerspec when;
        deadline_time(&when, seconds);
        return timer_settime(deadline_timer, 0, &when, NULL);
    }

    static int deadline_make(int sig, double seconds) {
        struct sigevent event;
        struct sigaction action;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGKILL;
        if (timer_create(CLOCK_MONOTONIC, &event, &deadline_timer) != 0)
            return -1;
        deadline_time(&deadline_orphaned, seconds);
        deadline_made = 1;
        memset(&action, 0, sizeof action);
        action.sa_handler = deadline_on_signal;
        action.sa_flags = SA_RESTART;
        sigemptyset(&action.sa_mask);
        return sigaction(sig, &action, NULL);
    }
    """
    int PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, PR_SET_NAME
    int prctl(int option, ...)
    int deadline_made
    int deadline_make(int sig, double seconds)
    int deadline_set(double seconds)


cdef _fail():
    raise OSError(errno, os.strerror(errno))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        _fail()


def set_parent_death_signal(int sig) -> None:
    """Send `sig` to this process when its parent ends (PR_SET_PDEATHSIG, prctl(2)); 0 undoes it.

    The parent of that moment counts, so a process that is about to be adopted sets it afterwards,
    and then checks getppid(2) again.
    """
    if prctl(PR_SET_PDEATHSIG, <unsigned long>sig, 0, 0, 0) != 0:
        _fail()


def set_process_name(str name) -> None:
    """The name that ps and the journal show (PR_SET_NAME, prctl(2)); 15 bytes of it are kept."""
    data = name.encode("utf-8", "replace")[:15]
    cdef char *text = data
    if prctl(PR_SET_NAME, text, 0, 0, 0) != 0:
        _fail()


def fork_without_hooks() -> int:
    """fork(2) alone: the child's pid, and 0 in the child.

    No at-fork hook runs (os.register_at_fork), so the child may only call os.fork() or os._exit().
    """
    cdef pid_t pid = fork()
    if pid < 0:
        _fail()
    return pid


def make_deadline(int sig, double seconds) -> None:
    """Make this process's one deadline: a timer (timer_create(2)) that ends it with SIGKILL.

    It is not armed. `set_deadline` arms it; so does `sig`, in a handler that needs neither the
    interpreter nor its lock, with `seconds` unless it is armed already.
    """
    if deadline_make(sig, seconds) != 0:
        _fail()


def set_deadline(double seconds) -> None:
    """End this process by SIGKILL after `seconds`, whatever it is doing then."""
    if not deadline_made:
        raise RuntimeError("make_deadline() comes first")
    if deadline_set(seconds) != 0:
        _fail()
