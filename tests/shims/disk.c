/* A disk that is full, slow or failing, for a PostgreSQL that loads this before its C library.
 *
 * The file that DISK_FAULTS names says how it is now: "full" (whatever makes a file longer fails with ENOSPC),
 * "slow MS" (each sync takes so long), "fail" (each sync fails with EIO). Without that file all is well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_now(const char *word, int *number) {
  const char *path = getenv("DISK_FAULTS");
  char found[16] = "";
  FILE *file = path ? fopen(path, "r") : NULL;
  if (!file) return 0;
  int count = fscanf(file, "%15s %d", found, number);
  fclose(file);
  return count >= 1 && strcmp(found, word) == 0;
}

/* Whether bytes up to this offset would make a file of the data directory longer. */
static int is_refused(int fd, off_t end) {
  struct stat stat;
  char link[64], path[512];
  int unused;
  if (!is_now("full", &unused) || fstat(fd, &stat) || !S_ISREG(stat.st_mode) || end <= stat.st_size) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, "/pg/data/") != NULL;
}

static off_t size_of(const struct iovec *parts, int count) {
  off_t size = 0;
  for (int n = 0; n < count; n++) size += parts[n].iov_len;
  return size;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSE(fd, end) if (is_refused(fd, end)) { errno = ENOSPC; return -1; }

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
  REFUSE(fd, at + (off_t)size)
  return NEXT(pwrite)(fd, bytes, size, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
  REFUSE(fd, at + (off_t)size)
  return NEXT(pwrite64)(fd, bytes, size, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
  REFUSE(fd, at + size_of(parts, count))
  return NEXT(pwritev)(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
  REFUSE(fd, at + size_of(parts, count))
  return NEXT(pwritev64)(fd, parts, count, at);
}

ssize_t write(int fd, const void *bytes, size_t size) {
  off_t at = lseek(fd, 0, SEEK_CUR);
  if (at >= 0) { REFUSE(fd, at + (off_t)size) }
  return NEXT(write)(fd, bytes, size);
}

static int sync_fails(void) {
  int ms = 0;
  if (is_now("slow", &ms)) usleep(1000 * ms);
  return is_now("fail", &ms);
}

int fsync(int fd) {
  if (sync_fails()) { errno = EIO; return -1; }
  return NEXT(fsync)(fd);
}

int fdatasync(int fd) {
  if (sync_fails()) { errno = EIO; return -1; }
  return NEXT(fdatasync)(fd);
}
