// SPDX-License-Identifier: GPL-2.0-or-later
// Inotify: watches under their numbers, what they tell, and events that wait to be read.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

struct expected {
    int wd;
    uint32_t mask;
    const char *name; // "" for none
    int pair;         // events with the same have the same cookie; 0: none
};

static int busy, pending, quiet, blocked, deleted_fd, on_deleted, ep;
static int wd_dir, wd_file, wd_data, wd_once, wd_deleted, wd_pending, wd_file_pending, wd_removed;
static struct expected queue[64];
static unsigned n_queue;

static const char *in_dir(const char *name)
{
    static char path[2][PATH_MAX];
    static unsigned i;

    i = !i;
    snprintf(path[i], PATH_MAX, "%s/%s", subject.workdir, name);
    return path[i];
}

static void make(const char *name)
{
    const int fd = open(in_dir(name), O_CREAT | O_EXCL | O_WRONLY, 0600);

    MUST(fd >= 0 && write(fd, "text", 4) == 4 && close(fd) == 0);
}

static void prepare(void)
{
    MUST(mkdir(in_dir("dir"), 0755) == 0 && mkdir(in_dir("dir/sub"), 0755) == 0);
    MUST(mkdir(in_dir("other"), 0755) == 0);
    MUST(mkdir(in_dir("pdir"), 0755) == 0 && mkdir(in_dir("pdir/sub"), 0755) == 0);
    make("dir/file");
    make("pdir/file");
    make("data");
    make("pdata");
    make("once");
}

static int watch(int fd, const char *name, uint32_t mask)
{
    int wd;

    MUST((wd = inotify_add_watch(fd, in_dir(name), mask)) > 0);
    return wd;
}

static void expect(int wd, uint32_t mask, const char *name, int pair)
{
    MUST(n_queue < sizeof queue / sizeof queue[0]);
    queue[n_queue++] = (struct expected){wd, mask, name, pair};
}

// Numbers that are not in a row.
static void leave_gaps(int fd, unsigned n)
{
    char data[4096];

    for (unsigned i = 0; i < n; i++)
        MUST(inotify_rm_watch(fd, watch(fd, "other", IN_CREATE)) == 0);
    MUST(read(fd, data, sizeof data) > 0);
}

static void set_up_pending(void)
{
    int fd;

    MUST((pending = inotify_init1(IN_NONBLOCK)) >= 0);
    leave_gaps(pending, 3);
    wd_pending = watch(pending, "pdir", IN_ALL_EVENTS);
    leave_gaps(pending, 2);
    wd_file_pending = watch(pending, "pdata", IN_ALL_EVENTS);
    make("gone");
    wd_removed = watch(pending, "gone", IN_ALL_EVENTS);

    MUST((fd = open(in_dir("pdir/new"), O_CREAT | O_EXCL | O_WRONLY, 0600)) >= 0);
    MUST(write(fd, "x", 1) == 1 && fchmod(fd, 0640) == 0 && close(fd) == 0);
    expect(wd_pending, IN_CREATE, "new", 0);
    expect(wd_pending, IN_OPEN, "new", 0);
    expect(wd_pending, IN_MODIFY, "new", 0);
    expect(wd_pending, IN_ATTRIB, "new", 0);
    expect(wd_pending, IN_CLOSE_WRITE, "new", 0);
    MUST(rename(in_dir("pdir/new"), in_dir("pdir/renamed")) == 0);
    expect(wd_pending, IN_MOVED_FROM, "new", 1);
    expect(wd_pending, IN_MOVED_TO, "renamed", 1);
    MUST((fd = open(in_dir("pdata"), O_RDWR)) >= 0 && read(fd, &(char){0}, 1) == 1);
    MUST(pwrite(fd, "t", 1, 0) == 1 && close(fd) == 0);
    expect(wd_file_pending, IN_OPEN, "", 0);
    expect(wd_file_pending, IN_ACCESS, "", 0);
    expect(wd_file_pending, IN_MODIFY, "", 0);
    expect(wd_file_pending, IN_CLOSE_WRITE, "", 0);
    MUST(unlink(in_dir("pdir/renamed")) == 0);
    expect(wd_pending, IN_DELETE, "renamed", 0);
    MUST(mkdir(in_dir("pdir/made"), 0700) == 0 && rmdir(in_dir("pdir/made")) == 0);
    expect(wd_pending, IN_CREATE | IN_ISDIR, "made", 0);
    expect(wd_pending, IN_DELETE | IN_ISDIR, "made", 0);
    MUST(chmod(in_dir("pdir/file"), 0600) == 0);
    expect(wd_pending, IN_ATTRIB, "file", 0);
    MUST((fd = open(in_dir("pdir/sub"), O_RDONLY | O_DIRECTORY)) >= 0 && close(fd) == 0);
    expect(wd_pending, IN_OPEN | IN_ISDIR, "sub", 0);
    expect(wd_pending, IN_CLOSE_NOWRITE | IN_ISDIR, "sub", 0);
    MUST(chmod(in_dir("pdir"), 0755) == 0);
    expect(wd_pending, IN_ATTRIB | IN_ISDIR, "", 0);
    make("other/moved");
    MUST(rename(in_dir("other/moved"), in_dir("pdir/moved")) == 0);
    expect(wd_pending, IN_MOVED_TO, "moved", 2);
    MUST(rename(in_dir("pdir/moved"), in_dir("other/moved")) == 0 &&
         unlink(in_dir("other/moved")) == 0);
    expect(wd_pending, IN_MOVED_FROM, "moved", 3);
    MUST(rename(in_dir("gone"), in_dir("gone-too")) == 0 && unlink(in_dir("gone-too")) == 0);
    expect(wd_removed, IN_MOVE_SELF, "", 0);
    expect(wd_removed, IN_ATTRIB, "", 0);
    expect(wd_removed, IN_DELETE_SELF, "", 0);
    expect(wd_removed, IN_IGNORED, "", 0);
}

static void read_pending(void)
{
    _Alignas(struct inotify_event) char data[8192];
    const ssize_t n = read(pending, data, sizeof data);
    uint32_t cookies[4] = {0};
    unsigned i = 0;

    CHECK(n > 0, "no events wait: %m");
    for (ssize_t at = 0; at < n; i++) {
        const struct inotify_event *event = (const void *)(data + at);
        const struct expected *e = &queue[i];

        at += sizeof *event + event->len;
        CHECK(i < n_queue, "an event too many: %x", event->mask);
        CHECK(event->wd == e->wd && event->mask == e->mask &&
                  strcmp(event->len ? event->name : "", e->name) == 0,
              "event %u is %x of %d (%s), not %x of %d (%s)", i, event->mask, event->wd,
              event->len ? event->name : "", e->mask, e->wd, e->name);
        CHECK(!e->pair == !event->cookie, "event %u has the cookie %u", i, event->cookie);
        CHECK(!cookies[e->pair] || cookies[e->pair] == event->cookie, "cookies differ");
        cookies[e->pair] = event->cookie;
    }
    CHECK(i == n_queue, "%u events instead of %u", i, n_queue);
    CHECK(cookies[1] != cookies[2] && cookies[2] != cookies[3], "cookies are the same");
    CHECK(read(pending, data, sizeof data) < 0 && errno == EAGAIN, "more events wait");
}

static void set_up(void)
{
    MUST((busy = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) >= 0);
    wd_dir = watch(busy, "dir", IN_CREATE | IN_DELETE | IN_MOVE | IN_ONLYDIR);
    wd_file = watch(busy, "dir/file", IN_MODIFY | IN_CLOSE_WRITE);
    leave_gaps(busy, 5);
    wd_data = watch(busy, "data", IN_OPEN);
    MUST(watch(busy, "data", IN_ATTRIB | IN_MASK_ADD) == wd_data);
    wd_once = watch(busy, "once", IN_OPEN | IN_ONESHOT);
    leave_gaps(busy, 1);

    MUST((quiet = inotify_init()) >= 0 && fcntl(quiet, F_GETFD) == 0);
    MUST((deleted_fd = open(in_dir("deleted"), O_CREAT | O_EXCL | O_RDWR, 0600)) >= 0);
    MUST((on_deleted = inotify_init1(IN_NONBLOCK)) >= 0);
    wd_deleted = watch(on_deleted, "deleted", IN_MODIFY);
    MUST(unlink(in_dir("deleted")) == 0);
    set_up_pending();
    MUST((blocked = inotify_init()) >= 0);
    watch(blocked, "other", IN_DELETE);
    MUST((ep = epoll_create1(0)) >= 0);
    for (const int *fd = (const int[]){busy, pending, quiet, -1}; *fd >= 0; fd++)
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, *fd,
                       &(struct epoll_event){.events = EPOLLIN, .data.fd = *fd}) == 0);
}

static void check_event(int fd, int wd, uint32_t mask, const char *name)
{
    _Alignas(struct inotify_event) char data[sizeof(struct inotify_event) + NAME_MAX + 1];
    const struct inotify_event *event = (const void *)data;
    const size_t size = sizeof *event + (*name ? (strlen(name) + 16) / 16 * 16 : 0);
    const ssize_t n = read(fd, data, size);

    CHECK(n == (ssize_t)size, "%zd bytes for event %x of %d (%s): %m", n, mask, wd, name);
    CHECK(event->wd == wd && event->mask == mask &&
              (*name ? strcmp(event->name, name) == 0 : event->len == 0),
          "event %x of %d instead of %x of %d (%s)", event->mask, event->wd, mask, wd, name);
}

static void check_none(int fd)
{
    int n = -1;

    MUST(ioctl(fd, FIONREAD, &n) == 0);
    CHECK(n == 0, "%d bytes of events that nobody has caused", n);
}

static void step(void)
{
    struct epoll_event events[4];
    int fd;

    check_none(busy);
    check_none(quiet);
    check_none(on_deleted);
    CHECK(epoll_wait(ep, events, 4, 0) == 1 && events[0].data.fd == pending, "epoll");
    MUST((fd = open(in_dir("dir/file"), O_WRONLY)) >= 0 && pwrite(fd, "t", 1, 0) == 1 &&
         close(fd) == 0);
    check_event(busy, wd_file, IN_MODIFY, "");
    check_event(busy, wd_file, IN_CLOSE_WRITE, "");
    MUST(pwrite(deleted_fd, "t", 1, 0) == 1);
    check_event(on_deleted, wd_deleted, IN_MODIFY, "");
}

static void use(void)
{
    int wd;

    make("dir/more");
    MUST(unlink(in_dir("dir/more")) == 0);
    check_event(busy, wd_dir, IN_CREATE, "more");
    check_event(busy, wd_dir, IN_DELETE, "more");
    MUST(chmod(in_dir("data"), 0600) == 0);
    check_event(busy, wd_data, IN_ATTRIB, "");
    MUST(close(open(in_dir("once"), O_RDONLY)) == 0);
    check_event(busy, wd_once, IN_OPEN, "");
    check_event(busy, wd_once, IN_IGNORED, "");
    check_none(busy);
    wd = watch(busy, "other", IN_CREATE);
    CHECK(wd == wd_once + 2, "the next watch has the number %d, not %d", wd, wd_once + 2);
    CHECK(inotify_rm_watch(busy, wd_once) < 0 && errno == EINVAL, "a watch that fired is there");
    MUST(inotify_rm_watch(busy, wd_dir) == 0);
    check_event(busy, wd_dir, IN_IGNORED, "");
    CHECK(fcntl(busy, F_GETFD) == FD_CLOEXEC && fcntl(busy, F_GETFL) & O_NONBLOCK &&
              !(fcntl(quiet, F_GETFL) & O_NONBLOCK),
          "flags are lost");
    CHECK(access(in_dir("pdir/new"), F_OK) < 0 && access(in_dir("pdir/made"), F_OK) < 0,
          "files are back");
}

static void *wait_for_event(void *arg)
{
    check_event(blocked, 1, IN_DELETE, "awaited");
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t waiter;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    set_up();
    MUST(pthread_create(&waiter, NULL, wait_for_event, NULL) == 0);
    subject_sleep_ms(20);
    subject_ready();
    if (subject.sabotage)
        MUST(chmod(in_dir("once"), 0600) == 0 && inotify_rm_watch(busy, wd_once) == 0);
    do {
        step();
        subject_sleep_ms(2);
    } while (!subject_asked());
    read_pending();
    MUST(inotify_rm_watch(pending, wd_pending) == 0 &&
         inotify_rm_watch(pending, wd_file_pending) == 0);
    MUST(epoll_ctl(ep, EPOLL_CTL_DEL, pending, NULL) == 0);
    check_none(busy);
    use();
    make("other/awaited");
    MUST(unlink(in_dir("other/awaited")) == 0 && pthread_join(waiter, NULL) == 0);
    subject_pass();
}
