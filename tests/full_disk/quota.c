/* Makes a directory a small disk. Preloaded into a process with LD_PRELOAD.
 *
 *   KEEPSTEP_QUOTA_OF   the directory, without symbolic links in its path
 *   KEEPSTEP_QUOTA      a file with the number of bytes that the files in it may take, in decimal digits; read again at every
 *                       write that takes room, so that room can be made while the process runs
 *
 * What counts is what the file system has allocated. A write into what is allocated already always works, as on a real
 * disk; one that needs more than there is is cut short, or fails with ENOSPC if there is nothing left. So do fallocate and
 * making a file or a directory on a disk that is full. Growing a file without writing to it takes no room.
 *
 * Writes by a mapping or by system calls without libc are not seen. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

/* One write at a time: what one takes, the next one sees. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static const char *quota_file;

__attribute__((constructor)) static void begin(void) {
    const char *of = getenv("KEEPSTEP_QUOTA_OF"), *quota = getenv("KEEPSTEP_QUOTA");
    if (!of || !quota || strlen(of) >= sizeof root) return;
    strcpy(root, of);
    quota_file = quota;
}

static int is_below_root(const char *path) {
    size_t n = strlen(root);
    return quota_file && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int is_ours(int fd) {
    if (!quota_file) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below_root(path);
}

static uint64_t used;

static int add(const char *path, const struct stat *found, int kind, struct FTW *at) {
    (void)path, (void)at;
    if (kind == FTW_F || kind == FTW_D) used += (uint64_t)found->st_blocks * 512;
    return 0;
}

/* How many bytes are left. Counted anew each time: nothing that frees room has to be followed. */
static uint64_t room(void) {
    char digits[32] = {0};
    int fd = open(quota_file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, digits, sizeof digits - 1) < 0) abort();
    close(fd);
    uint64_t quota = strtoull(digits, NULL, 10);
    used = 0;
    nftw(root, add, 16, FTW_PHYS);
    return used < quota ? quota - used : 0;
}

/* How many of n bytes can be written at a place: all that is allocated there, and what there is room for. */
static size_t writable(int fd, size_t n, off_t at) {
    uint64_t left = UINT64_MAX;
    size_t done = 0;
    /* To look for data with: that moves a position, which others may be reading at. */
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    fd = open(link, O_RDONLY | O_CLOEXEC);
    if (fd < 0) abort();
    while (done < n) {
        uint64_t here = (uint64_t)at + done, page_end = (here / PAGE + 1) * PAGE;
        size_t part = page_end - here < n - done ? page_end - here : n - done;
        struct stat found;
        off_t data = lseek(fd, here, SEEK_DATA);
        int is_allocated = data >= 0 && (uint64_t)data < here + part;
        /* The rest of a last page that has bytes in it. */
        if (!is_allocated && !fstat(fd, &found))
            is_allocated = (uint64_t)found.st_size > here / PAGE * PAGE && found.st_size % PAGE && (uint64_t)found.st_size <= here
                && lseek(fd, here / PAGE * PAGE, SEEK_DATA) == (off_t)(here / PAGE * PAGE);
        if (!is_allocated) {
            if (left == UINT64_MAX) left = room();
            if (left < PAGE) break;
            left -= PAGE;
        }
        done += part;
    }
    close(fd);
    return done;
}

/* Where a descriptor writes next. */
static off_t position(int fd) {
    struct stat found;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_APPEND) && !fstat(fd, &found)) return found.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

static ssize_t full(void) {
    errno = ENOSPC;
    return -1;
}

static ssize_t write_at(int fd, const void *bytes, size_t n, off_t at) {
    if (!n) return 0;
    pthread_mutex_lock(&mutex);
    int is_at_position = at < 0;
    size_t most = writable(fd, n, is_at_position ? position(fd) : at);
    ssize_t written = !most ? full()
                    : is_at_position ? syscall(SYS_write, fd, bytes, most)
                                     : syscall(SYS_pwrite64, fd, bytes, most, at);
    pthread_mutex_unlock(&mutex);
    return written;
}

static ssize_t writev_at(int fd, const struct iovec *parts, int n, off_t at) {
    ssize_t all = 0;
    for (int i = 0; i < n; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t written = write_at(fd, parts[i].iov_base, parts[i].iov_len, at < 0 ? at : at + all);
        if (written < 0) return all ? all : written;
        all += written;
        if ((size_t)written < parts[i].iov_len) break;
    }
    return all;
}

#define THEIRS(name, result, parameters)                               \
    static result (*theirs) parameters;                                \
    if (!theirs) *(void **)&theirs = dlsym(RTLD_NEXT, #name);

#define OURS(name, parameters, arguments, ours)                        \
    ssize_t name parameters {                                          \
        THEIRS(name, ssize_t, parameters)                              \
        return is_ours(fd) ? ours : theirs arguments;                  \
    }
OURS(write, (int fd, const void *bytes, size_t n), (fd, bytes, n), write_at(fd, bytes, n, -1))
OURS(pwrite, (int fd, const void *bytes, size_t n, off_t at), (fd, bytes, n, at), write_at(fd, bytes, n, at))
OURS(pwrite64, (int fd, const void *bytes, size_t n, off64_t at), (fd, bytes, n, at), write_at(fd, bytes, n, at))
OURS(writev, (int fd, const struct iovec *parts, int n), (fd, parts, n), writev_at(fd, parts, n, -1))
OURS(pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at), writev_at(fd, parts, n, at))
OURS(pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at), writev_at(fd, parts, n, at))

/* Those that copy in the kernel are not there, so that whoever copies falls back to writing. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    THEIRS(copy_file_range, ssize_t, (int, off64_t *, int, off64_t *, size_t, unsigned))
    if (!is_ours(out)) return theirs(in, from, out, to, n, flags);
    errno = ENOSYS;
    return -1;
}

static int allocate(int fd, off_t length) {
    pthread_mutex_lock(&mutex);
    struct stat found;
    uint64_t has = fstat(fd, &found) ? 0 : (uint64_t)found.st_blocks * 512;
    int fits = (uint64_t)length <= has || (uint64_t)length - has <= room();
    pthread_mutex_unlock(&mutex);
    return fits;
}

#define ALLOCATE(name, type, parameters, arguments, otherwise)         \
    int name parameters {                                              \
        THEIRS(name, int, parameters)                                  \
        if (is_ours(fd) && !allocate(fd, at + n)) return otherwise;    \
        return theirs arguments;                                       \
    }
ALLOCATE(fallocate, off_t, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n), (int)full())
ALLOCATE(fallocate64, off64_t, (int fd, int mode, off64_t at, off64_t n), (fd, mode, at, n), (int)full())
ALLOCATE(posix_fallocate, off_t, (int fd, off_t at, off_t n), (fd, at, n), ENOSPC)
ALLOCATE(posix_fallocate64, off64_t, (int fd, off64_t at, off64_t n), (fd, at, n), ENOSPC)

/* A new name takes room in its directory, and a file or directory takes some of its own. */
static int has_no_room_for(const char *path) {
    if (!is_below_root(path) || !access(path, F_OK)) return 0;
    pthread_mutex_lock(&mutex);
    int is_full = room() < PAGE;
    pthread_mutex_unlock(&mutex);
    return is_full;
}

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        THEIRS(name, int, (const char *, int, ...))                    \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                  \
        if ((flags & O_CREAT) && has_no_room_for(path)) return (int)full(); \
        return theirs(path, flags, mode);                              \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    THEIRS(mkdir, int, (const char *, mode_t))
    return has_no_room_for(path) ? (int)full() : theirs(path, mode);
}
