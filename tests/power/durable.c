/* Keeps a copy of a program's files as a power cut would leave them: what a file
 * was told to write reaches its copy when fsync or fdatasync returns, and not
 * before. It can also fill the disk. Loaded with LD_PRELOAD; DURABLE_FROM is the
 * folder that is watched, DURABLE_TO the one with the copies. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FILES 4096
static struct { off_t from, to; } dirty[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* The copy's path, or NULL for a file that is not watched. */
static char *copy_of(int fd, char *out) {
    const char *from = getenv("DURABLE_FROM"), *to = getenv("DURABLE_TO");
    char link[64], path[PATH_MAX];
    if (!from || !to || fd < 0 || fd >= FILES) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return NULL;
    path[len] = 0;
    size_t prefix = strlen(from);
    if (strncmp(path, from, prefix) || path[prefix] != '/') return NULL;
    if (strlen(path) > 4 && !strcmp(path + strlen(path) - 4, "-shm")) return NULL;
    snprintf(out, PATH_MAX, "%s%s", to, path + prefix);
    return out;
}

static void wrote(int fd, off_t at, ssize_t len) {
    if (len <= 0 || fd < 0 || fd >= FILES) return;
    pthread_mutex_lock(&lock);
    if (dirty[fd].to == 0 || at < dirty[fd].from) dirty[fd].from = at;
    if (at + len > dirty[fd].to) dirty[fd].to = at + len;
    pthread_mutex_unlock(&lock);
}

static void synced(int fd) {
    char path[PATH_MAX];
    if (!copy_of(fd, path)) return;
    pthread_mutex_lock(&lock);
    int copy = open(path, O_RDWR | O_CREAT, 0600);
    struct stat file;
    if (copy >= 0 && fstat(fd, &file) == 0) {
        static char buffer[1 << 20];
        for (off_t at = dirty[fd].from; at < dirty[fd].to;) {
            size_t want = sizeof buffer;
            if (at + (off_t)want > dirty[fd].to) want = dirty[fd].to - at;
            ssize_t got = pread(fd, buffer, want, at);
            REAL(pwrite64);
            if (got <= 0 || real(copy, buffer, got, at) != got) break;
            at += got;
        }
        REAL(ftruncate64);
        real(copy, file.st_size);
        close(copy);
    }
    dirty[fd].from = dirty[fd].to = 0;
    pthread_mutex_unlock(&lock);
}

/* The disk is full while the file that DURABLE_FULL names is there. */
static int full(int fd) {
    char path[PATH_MAX];
    const char *flag = getenv("DURABLE_FULL");
    if (!flag || access(flag, F_OK) || !copy_of(fd, path)) return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    if (full(fd)) return -1;
    REAL(pwrite64);
    ssize_t done = real(fd, data, len, at);
    wrote(fd, at, done);
    return done;
}

ssize_t write(int fd, const void *data, size_t len) {
    if (full(fd)) return -1;
    REAL(write);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, len);
    if (at >= 0) wrote(fd, at, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

int fsync(int fd) {
    REAL(fsync);
    int done = real(fd);
    if (done == 0) synced(fd);
    return done;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    int done = real(fd);
    if (done == 0) synced(fd);
    return done;
}

/* SQLite syncs the folder after it removed a journal. */
int unlink(const char *path) {
    const char *from = getenv("DURABLE_FROM"), *to = getenv("DURABLE_TO");
    char copy[PATH_MAX];
    REAL(unlink);
    int done = real(path);
    if (done == 0 && from && to && !strncmp(path, from, strlen(from))) {
        snprintf(copy, sizeof copy, "%s%s", to, path + strlen(from));
        real(copy);
    }
    return done;
}

/* A descriptor that is used again starts clean. */
int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < FILES) dirty[fd].from = dirty[fd].to = 0;
    return real(fd);
}
