// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX message queues: attributes, messages by priority and age, shared descriptions, a queue
// without a name, mq_notify(), and those who wait to receive and to send.
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define BYTES     5000
#define TIMEOUT_S 3

static char name[3][32];
static char out[BYTES], in[BYTES];

static mqd_t open_queue(const char *of, int flags, long max, long bytes, mode_t mode)
{
    struct mq_attr attr = {.mq_maxmsg = max, .mq_msgsize = bytes};
    const mqd_t q = mq_open(of, flags | O_CREAT | O_EXCL, mode, &attr);

    MUST(q >= 0);
    return q;
}

static void put(mqd_t q, unsigned priority, size_t bytes, int salt)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (char)subject_mix(i + (size_t)salt * 10000);
    MUST(mq_send(q, out, bytes, priority) == 0);
}

static void get(mqd_t q, unsigned priority, size_t bytes, int salt)
{
    unsigned had = 0;
    const ssize_t got = mq_receive(q, in, sizeof in, &had);

    CHECK(got == (ssize_t)bytes && had == priority,
          "message of %zd bytes, priority %u, instead of %zu, %u: %m", got, had, bytes, priority);
    for (size_t i = 0; i < bytes; i++)
        CHECK(in[i] == (char)subject_mix(i + (size_t)salt * 10000), "byte %zu of message %d", i,
              salt);
}

/* ---- messages ---- */

static const struct {
    unsigned priority;
    size_t bytes;
} sent[] = {{3, 10}, {0, 0}, {3, 11}, {32767, 5000}, {0, 4048}, {7, 4049}, {3, 1}};
static const int order[] = {3, 5, 0, 2, 6, 1, 4};
#define N_SENT (sizeof sent / sizeof sent[0])

static mqd_t queue, reader, twin, nameless, waited, full, timed;

static void check_attr(mqd_t q, long flags, long max, long bytes, long there, mode_t mode)
{
    struct mq_attr attr;
    struct stat st;

    MUST(mq_getattr(q, &attr) == 0 && fstat(q, &st) == 0);
    CHECK(attr.mq_flags == flags && attr.mq_maxmsg == max && attr.mq_msgsize == bytes &&
              attr.mq_curmsgs == there,
          "queue %d: flags %lx, %ld messages of %ld of %ld bytes", q, attr.mq_flags,
          attr.mq_curmsgs, attr.mq_maxmsg, attr.mq_msgsize);
    CHECK((st.st_mode & 07777) == mode, "queue %d: mode %o", q, st.st_mode);
}

static void check_all(void)
{
    struct pollfd fds[2] = {{queue, POLLIN | POLLOUT, 0}, {nameless, POLLIN | POLLOUT, 0}};
    char byte = 0;

    check_attr(queue, O_NONBLOCK, 8, BYTES, N_SENT, 0640);
    check_attr(twin, O_NONBLOCK, 8, BYTES, N_SENT, 0640);
    check_attr(reader, 0, 8, BYTES, N_SENT, 0640);
    check_attr(nameless, 0, 1, 100, 1, 0600);
    CHECK((fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY && fcntl(reader, F_GETFD) == FD_CLOEXEC,
          "flags %x %x", fcntl(reader, F_GETFL), fcntl(reader, F_GETFD));
    CHECK(mq_send(reader, &byte, 1, 0) < 0 && errno == EBADF, "a read-only queue takes messages");
    CHECK(poll(fds, 2, 0) == 2 && fds[0].revents == (POLLIN | POLLOUT) && fds[1].revents == POLLIN,
          "poll says %x, %x", fds[0].revents, fds[1].revents);
    CHECK(mq_open(name[1], O_RDWR) < 0 && errno == ENOENT, "the unlinked queue has its name");
    // The twin shares its description with the first one.
    MUST(fcntl(twin, F_SETFL, 0) == 0);
    check_attr(queue, 0, 8, BYTES, N_SENT, 0640);
    MUST(fcntl(queue, F_SETFL, O_NONBLOCK) == 0);
}

/* ---- who waits ---- */

static volatile sig_atomic_t notified, notified_value;
static volatile pid_t receiver_tid;

static void on_notify(int signo, siginfo_t *info, void *context)
{
    notified = info->si_code == SI_MESGQ ? signo : -1;
    notified_value = info->si_value.sival_int;
}

static void *wait_message(void *arg)
{
    ssize_t got;
    char text[100];

    receiver_tid = gettid();
    do
        got = mq_receive(waited, text, sizeof text, NULL);
    while (got < 0 && errno == EINTR);
    CHECK(got == 5 && memcmp(text, "first", 5) == 0, "the waiting receiver got %zd: %m", got);
    return arg;
}

static void *wait_timeout(void *arg)
{
    struct timespec until;
    ssize_t got;
    char text[100];

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += TIMEOUT_S;
    do
        got = mq_timedreceive(timed, text, sizeof text, NULL, &until);
    while (got < 0 && errno == EINTR);
    CHECK(got < 0 && errno == ETIMEDOUT, "a timeout ended with %zd: %m", got);
    return arg;
}

static void *wait_room(void *arg)
{
    int done;

    do
        done = mq_send(full, "room", 4, 9);
    while (done < 0 && errno == EINTR);
    CHECK(done == 0, "the waiting sender: %m");
    return arg;
}

static void make_all(void)
{
    struct sigaction act = {.sa_sigaction = on_notify, .sa_flags = SA_SIGINFO};

    umask(0);
    for (int i = 0; i < 3; i++)
        snprintf(name[i], sizeof name[i], "/subject-%d.%d", getpid(), i);
    queue = open_queue(name[0], O_RDWR | O_NONBLOCK, 8, BYTES, 0640);
    reader = mq_open(name[0], O_RDONLY | O_CLOEXEC);
    twin = dup(queue);
    MUST(reader >= 0 && twin >= 0);
    for (size_t i = 0; i < N_SENT; i++)
        put(queue, sent[i].priority, sent[i].bytes, (int)i);
    nameless = open_queue(name[1], O_RDWR, 1, 100, 0600);
    put(nameless, 1, 100, 60);
    MUST(mq_unlink(name[1]) == 0);
    full = dup(nameless);
    waited = open_queue(name[2], O_RDWR, 2, 100, 0622);
    MUST(fchown(waited, 11, 12) == 0);
    sigaction(SIGRTMIN + 2, &act, NULL);
}

// One who waits for a queue is served first; who is to be notified is told of the next message.
static void check_notification(pthread_t receiver)
{
    struct sigevent other = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    char text[100];

    CHECK(mq_notify(waited, &other) < 0 && errno == EBUSY, "nobody is registered: %m");
    subject_await_call(receiver_tid, SYS_mq_timedreceive);
    MUST(mq_send(waited, "first", 5, 0) == 0);
    MUST(pthread_join(receiver, NULL) == 0);
    CHECK(!notified, "notified of a message that somebody waited for");
    MUST(mq_send(waited, "second", 6, 0) == 0);
    AWAIT(notified, "not notified");
    CHECK(notified == SIGRTMIN + 2 && notified_value == 4711, "notified with %d, %d", notified,
          notified_value);
    MUST(mq_receive(waited, text, sizeof text, NULL) == 6);
    MUST(mq_notify(waited, &other) == 0); // once is all
}

int main(int argc, char **argv)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_value.sival_int = 4711};
    pthread_t receiver, patient, sender;
    struct stat st;
    int status, go[2];
    pid_t child;

    subject_begin(argc, argv);
    make_all();
    event.sigev_signo = SIGRTMIN + 2;
    MUST(mq_notify(waited, &event) == 0);
    MUST(pipe(go) == 0);
    child = fork();
    MUST(child >= 0);
    if (child == 0) {
        char byte;

        close(go[1]);
        while (read(go[0], &byte, 1) != 0)
            ;
        get(reader, 32767, 5000, 3);
        _exit(0);
    }
    timed = open_queue(name[1], O_RDWR, 1, 100, 0600); // the name that is free again
    MUST(mq_unlink(name[1]) == 0);
    MUST(pthread_create(&receiver, NULL, wait_message, NULL) == 0);
    MUST(pthread_create(&patient, NULL, wait_timeout, NULL) == 0);
    MUST(pthread_create(&sender, NULL, wait_room, NULL) == 0);
    while (!receiver_tid)
        subject_sleep_ms(1);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        get(queue, 32767, 5000, 3);
    do {
        check_all();
        subject_sleep_ms(2);
    } while (!subject_asked());
    MUST(fstat(waited, &st) == 0);
    CHECK(st.st_uid == 11 && st.st_gid == 12 && (st.st_mode & 07777) == 0622,
          "the queue is of %d, %d, mode %o", st.st_uid, st.st_gid, st.st_mode);
    check_notification(receiver);
    close(go[1]);
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
    for (size_t i = 1; i < N_SENT; i++)
        get(twin, sent[order[i]].priority, sent[order[i]].bytes, order[i]);
    CHECK(mq_receive(queue, in, sizeof in, NULL) < 0 && errno == EAGAIN, "more than was sent");
    get(nameless, 1, 100, 60);
    MUST(pthread_join(sender, NULL) == 0);
    MUST(mq_receive(nameless, in, sizeof in, NULL) == 4 && memcmp(in, "room", 4) == 0);
    MUST(pthread_join(patient, NULL) == 0);
    MUST(mq_unlink(name[0]) == 0 && mq_unlink(name[2]) == 0);
    subject_pass();
}
