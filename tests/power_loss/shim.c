/* Keeps what a power cut would leave of the files below a directory. Preloaded into a process with LD_PRELOAD.
 *
 *   KEEPSTEP_SHADOW_OF   the directory, without symbolic links in its path
 *   KEEPSTEP_SHADOW      the log that is appended to
 *   KEEPSTEP_SHADOW_CUT  if set and not 0, the process kills itself in the sync of this number
 *
 * Of each file and directory that is synced the log gets what has changed since it was synced last: of a file the pages and
 * the size, of a directory the whole listing. Files are named by inode and time of birth, so a file that is created or
 * renamed and whose directory is not synced has no name here, however often the file itself is synced.
 *
 * What counts is fsync, fdatasync, msync with MS_SYNC, and a write through a descriptor with O_SYNC or O_DSYNC.
 * sync_file_range does not: it leaves the size, the extents and the disk's own cache alone. Whatever syncs by a way not
 * seen here (io_uring, system calls without libc, syncfs) does not count either, so a store that does shows as one that
 * loses, never the other way round.
 *
 * Nothing is really synced: the page cache survives the death of the process, and the test is faster so.
 *
 * A record, in the machine's own byte order, all numbers 64 bits:
 *   length of what follows, then
 *   1, inode, birth, whole, size, n, n times: number of the page, its 4096 bytes; pages that are not said are as they
 *                                             were, or zeros if this is the whole file
 *   2, inode, birth, n, n times: inode, birth, is a directory, length of the name, the name
 * The last record may be cut short: then its sync had not ended. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

/* A file as it was synced last by this process. */
struct file {
    uint64_t inode, birth, n_pages;
    unsigned char **pages; /* NULL for a page of zeros. */
    struct file *next;
};

static const unsigned char zeros[PAGE];

/* One sync at a time, so that of two syncs of a file the later one is the later one in the log too. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;
static char root[PATH_MAX];
static int log_fd = -1;
static unsigned long n_syncs, cut_at;

/* The record that is being made. */
static unsigned char *record;
static size_t length, capacity;

static void fail(const char *what) {
    fprintf(stderr, "power-loss shim: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *of = getenv("KEEPSTEP_SHADOW_OF"), *log = getenv("KEEPSTEP_SHADOW"), *cut = getenv("KEEPSTEP_SHADOW_CUT");
    if (!of || !log || strlen(of) >= sizeof root) return;
    strcpy(root, of);
    if (cut) cut_at = strtoul(cut, NULL, 10);
    log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log_fd < 0) fail(log);
}

static void put(const void *bytes, size_t n) {
    if (length + n > capacity) {
        capacity = 2 * (length + n);
        record = realloc(record, capacity);
        if (!record) fail("no memory");
    }
    memcpy(record + length, bytes, n);
    length += n;
}

static void put_number(uint64_t number) { put(&number, sizeof number); }

static void set_number(size_t at, uint64_t number) { memcpy(record + at, &number, sizeof number); }

static void write_record(void) {
    set_number(0, length - sizeof(uint64_t));
    for (size_t done = 0; done < length;) {
        /* Not by write(), which is ours. */
        long n = syscall(SYS_write, log_fd, record + done, length - done);
        if (n < 0 && errno != EINTR) fail("write to the log");
        if (n > 0) done += n;
    }
}

static uint64_t birth(const struct statx *found) {
    return found->stx_mask & STATX_BTIME ? found->stx_btime.tv_sec * 1000000000ull + found->stx_btime.tv_nsec : 0;
}

static int look_at(int fd, const char *name, struct statx *found) {
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    return statx(fd, name, flags, STATX_BASIC_STATS | STATX_BTIME, found);
}

static struct file *find(const struct statx *of) {
    struct file *file = files;
    while (file && (file->inode != of->stx_ino || file->birth != birth(of))) file = file->next;
    return file;
}

static struct file *remember(const struct statx *of) {
    struct file *file = calloc(1, sizeof *file);
    if (!file) fail("no memory");
    *file = (struct file){of->stx_ino, birth(of), 0, NULL, files};
    return files = file;
}

/* Whether the page is not what it was. It is from now on. */
static int changes(struct file *file, uint64_t page, const unsigned char *bytes) {
    unsigned char **old = &file->pages[page];
    if (!memcmp(*old ? *old : zeros, bytes, PAGE)) return 0;
    if (!*old && !(*old = malloc(PAGE))) fail("no memory");
    memcpy(*old, bytes, PAGE);
    return 1;
}

static void resize(struct file *file, uint64_t n_pages) {
    for (uint64_t page = n_pages; page < file->n_pages; page++) free(file->pages[page]);
    file->pages = realloc(file->pages, (n_pages + 1) * sizeof *file->pages);
    if (!file->pages) fail("no memory");
    for (uint64_t page = file->n_pages; page < n_pages; page++) file->pages[page] = NULL;
    file->n_pages = n_pages;
}

/* The bytes from..to of a file are durable, or all of them and its size. */
static void file_synced(int fd, const struct statx *found, uint64_t from, uint64_t to) {
    int all = from == 0 && to == UINT64_MAX;
    struct file *file = find(found);
    int whole = all && !file;
    if (whole) file = remember(found);
    uint64_t size = found->stx_size, n_pages = (size + PAGE - 1) / PAGE, n = 0;
    if (file) resize(file, n_pages);
    length = 0;
    put_number(0);
    put_number(1);
    put_number(found->stx_ino);
    put_number(birth(found));
    put_number(whole);
    put_number(size);
    size_t n_at = length;
    put_number(0);

    /* The descriptor may be for writing only. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0) fail("open to read");
    uint64_t data = 0, hole = 0; /* There is data from one to the other; what was passed over is a hole. */
    uint64_t last = to < size ? (to + PAGE - 1) / PAGE : n_pages;
    for (uint64_t page = from / PAGE; page < last; page++) {
        uint64_t at = page * PAGE;
        if (at >= hole) {
            off_t next = lseek(in, at, SEEK_DATA);
            data = next < 0 ? UINT64_MAX : (uint64_t)next / PAGE * PAGE;
            off_t end = next < 0 ? -1 : lseek(in, next, SEEK_HOLE);
            hole = end < 0 ? UINT64_MAX : (uint64_t)end;
        }
        unsigned char bytes[PAGE] = {0};
        if (at >= data) {
            if (pread(in, bytes, PAGE, at) < 0) fail("read");
        } else if (all && !file->pages[page]) {
            continue;
        }
        /* What is not known to be in the log already is said. */
        if (!file || changes(file, page, bytes)) {
            put_number(page);
            put(bytes, PAGE);
            n++;
        }
    }
    close(in);
    set_number(n_at, n);
    write_record();
}

static void directory_synced(int fd, const struct statx *found) {
    length = 0;
    put_number(0);
    put_number(2);
    put_number(found->stx_ino);
    put_number(birth(found));
    size_t n_at = length;
    uint64_t n = 0;
    put_number(0);
    DIR *directory = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) fail("open a directory");
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct statx child;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (look_at(dirfd(directory), entry->d_name, &child)) continue; /* Gone meanwhile. */
        put_number(child.stx_ino);
        put_number(birth(&child));
        put_number(S_ISDIR(child.stx_mode));
        put_number(strlen(entry->d_name));
        put(entry->d_name, strlen(entry->d_name));
        n++;
    }
    closedir(directory);
    set_number(n_at, n);
    write_record();
}

static int is_below_root(const char *path) {
    size_t n = strlen(root);
    return !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static void synced(int fd, uint64_t from, uint64_t to) {
    if (log_fd < 0) return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return;
    path[n] = 0;
    struct statx found;
    if (!is_below_root(path) || look_at(fd, "", &found)) return;
    int kept = errno;
    pthread_mutex_lock(&mutex);
    if (++n_syncs == cut_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    /* Again: it may have grown while others synced. */
    if (look_at(fd, "", &found)) fail("look at a file");
    if (S_ISDIR(found.stx_mode)) directory_synced(fd, &found);
    else if (S_ISREG(found.stx_mode)) file_synced(fd, &found, from, to);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static int sync_of(int fd) {
    if (fcntl(fd, F_GETFD) < 0) return -1;
    synced(fd, 0, UINT64_MAX);
    return 0;
}

int fsync(int fd) { return sync_of(fd); }

int fdatasync(int fd) { return sync_of(fd); }

int msync(void *address, size_t n, int flags) {
    (void)n;
    if (!(flags & MS_SYNC)) return 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps) return -1;
    char line[PATH_MAX + 128], path[PATH_MAX];
    while (fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %4095[^\n]", &begin, &end, path) != 3) continue;
        if ((uintptr_t)address < begin || (uintptr_t)address >= end) continue;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            synced(fd, 0, UINT64_MAX);
            close(fd);
        }
        break;
    }
    fclose(maps);
    return 0;
}

/* After a write of n bytes, which ended at the descriptor's position unless it said where it wrote. */
static ssize_t written(int fd, ssize_t n, off_t at) {
    if (n <= 0 || log_fd < 0) return n;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !(flags & O_DSYNC)) return n;
    off_t from = at < 0 || (flags & O_APPEND) ? lseek(fd, 0, SEEK_CUR) - n : at;
    if (from >= 0) synced(fd, from, from + n);
    return n;
}

#define OURS(name, parameters, arguments, at)                          \
    ssize_t name parameters {                                          \
        static ssize_t (*theirs) parameters;                           \
        if (!theirs) *(void **)&theirs = dlsym(RTLD_NEXT, #name);      \
        return written(fd, theirs arguments, at);                      \
    }
OURS(write, (int fd, const void *bytes, size_t n), (fd, bytes, n), -1)
OURS(pwrite, (int fd, const void *bytes, size_t n, off_t at), (fd, bytes, n, at), at)
OURS(pwrite64, (int fd, const void *bytes, size_t n, off64_t at), (fd, bytes, n, at), at)
OURS(writev, (int fd, const struct iovec *bytes, int n), (fd, bytes, n), -1)
OURS(pwritev, (int fd, const struct iovec *bytes, int n, off_t at), (fd, bytes, n, at), at)
OURS(pwritev64, (int fd, const struct iovec *bytes, int n, off64_t at), (fd, bytes, n, at), at)
