/* A disk whose flushes take FLUSH_DELAY_US microseconds longer: to be loaded by LD_PRELOAD. Flushes that are
   under way at the same time wait at the same time, as on a disk with a queue. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static void delay(void) {
    const char *text = getenv("FLUSH_DELAY_US");
    if (text) usleep(atoi(text));
}

#define DELAYED(name, parameters, arguments)                    \
    int name parameters {                                       \
        delay();                                                \
        int (*real) parameters = dlsym(RTLD_NEXT, #name);       \
        return real arguments;                                  \
    }

DELAYED(fsync, (int file), (file))
DELAYED(fdatasync, (int file), (file))
DELAYED(syncfs, (int file), (file))
DELAYED(msync, (void *start, size_t length, int flags), (start, length, flags))
DELAYED(sync_file_range, (int file, off64_t from, off64_t length, unsigned flags), (file, from, length, flags))
