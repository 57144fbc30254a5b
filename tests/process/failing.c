/* Preloaded into a process, it makes chosen allocations fail: the tests' worker without memory.
   `fail_at(n, count)`: of the allocations from then on, the n-th and the count-1 after it. */

#include <errno.h>
#include <stddef.h>
#include <stdatomic.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *data, size_t size);

static atomic_long first, last, made;

void fail_at(long n, long count)
{
    atomic_store(&first, 0);
    atomic_store(&made, 0);
    atomic_store(&last, n + count - 1);
    atomic_store(&first, n);
}

long failed(void)
{
    return atomic_load(&first) && atomic_load(&made) >= atomic_load(&first);
}

static int fails(void)
{
    long start = atomic_load(&first);
    if (start == 0)
        return 0;
    long now = atomic_fetch_add(&made, 1) + 1;
    if (now < start || now > atomic_load(&last))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *data, size_t size)
{
    return fails() ? NULL : __libc_realloc(data, size);
}
