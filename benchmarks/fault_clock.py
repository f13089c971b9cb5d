"""A wall clock that jumps for the processes started meanwhile, and for nobody else."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Deadlines that a process computed from the faked clock are given to the kernel in its own time. Those of the
# monotonic clock count from the machine's start and are far smaller. The versions are named, since dlsym would give the
# condition variables of before 2003, which wait for ever; 2.34 is below the glibc that we need.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t *offset;
__attribute__((constructor)) static void start(void) {
    const char *path = getenv("SPANQA_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (map != MAP_FAILED) offset = map;
}
static int64_t shift(void) { return offset ? *offset : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
    int r = syscall(SYS_clock_gettime, id, t);
    if (!r && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return r;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
static struct timespec real(const struct timespec *t) {
    struct timespec own = *t;
    if (own.tv_sec > 1000000000) own.tv_sec -= shift();
    return own;
}
#define ORIGINAL(name, version) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlvsym(RTLD_NEXT, #name, version)
int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t) {
    ORIGINAL(pthread_cond_timedwait, "GLIBC_2.3.2");
    struct timespec own = real(t);
    return next(c, m, &own);
}
int pthread_mutex_timedlock(pthread_mutex_t *restrict m, const struct timespec *restrict t) {
    ORIGINAL(pthread_mutex_timedlock, "GLIBC_2.34");
    struct timespec own = real(t);
    return next(m, &own);
}
int sem_timedwait(sem_t *restrict s, const struct timespec *restrict t) {
    ORIGINAL(sem_timedwait, "GLIBC_2.34");
    struct timespec own = real(t);
    return next(s, &own);
}
"""


@contextlib.contextmanager
def faked_clock() -> Iterator[Callable[[int], None] | None]:
    """Give a function that sets how many seconds the clock of processes started in the block is off.

    It is None where there is no C compiler. The shim is loaded in front of the C library.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        yield None
        return
    before = os.environ.get("LD_PRELOAD")
    with tempfile.TemporaryDirectory(prefix="spanqa-clock-") as work:
        source, library, shared = (Path(work) / name for name in ("clock.c", "clock.so", "offset"))
        source.write_text(SOURCE, "ascii")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        shared.write_bytes(bytes(8))
        with open(shared, "r+b") as file, mmap.mmap(file.fileno(), 8) as mapped:
            os.environ.update(LD_PRELOAD=str(library), SPANQA_CLOCK=str(shared))

            def jump(seconds: int) -> None:
                mapped[:] = struct.pack("<q", seconds)

            try:
                yield jump
            finally:
                del os.environ["SPANQA_CLOCK"], os.environ["LD_PRELOAD"]
                if before is not None:
                    os.environ["LD_PRELOAD"] = before
