/* Preloaded into a driver: its monotonic clock reads the same at every start, stands for five seconds, and then goes on. */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long long first;
    int done = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock != CLOCK_MONOTONIC || done != 0) return done;
    long long real = now->tv_sec * 1000000000LL + now->tv_nsec, none = 0;
    __atomic_compare_exchange_n(&first, &none, real, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    long long since = real - __atomic_load_n(&first, __ATOMIC_SEQ_CST) - 5000000000LL;
    if (since < 0) since = 0;
    /* Later than any machine's own, since the kernel compares absolute time-outs with that one. */
    now->tv_sec = 1000000000LL + since / 1000000000LL;
    now->tv_nsec = since % 1000000000LL;
    return 0;
}
