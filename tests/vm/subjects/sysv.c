// SPDX-License-Identifier: GPL-2.0-or-later
// System V semaphores, message queues and shared memory of two processes: what IPC_STAT says, what
// is in them, who waits, and what is undone at the end.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define PAGES     7
#define SEG_BYTES (PAGES * 4096 - 100)
#define N_SEMS    8
#define TIMEOUT_S 3

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static struct message {
    long type;
    char text[8192];
} out, in;

static pid_t child, dead;

/* ---- shared memory ---- */

// What the processes tell each other; it lies in a segment.
struct board {
    int child_ready, child_go, child_checks;
    char fill[4000];
};

static int seg_board, seg_twice, seg_removed, seg_pieces, seg_idle, seg_locked, seg_dead;
static volatile struct board *board;
static uint8_t *twice[2], *removed, *pieces, *locked;

static void fill_pages(uint8_t *at, int salt)
{
    for (int i = 0; i < PAGES; i++)
        memset(at + i * 4096, salt + i, 4096);
}

static void check_page(const uint8_t *at, int i, int salt)
{
    for (int j = 0; j < 4096; j += 511)
        CHECK(at[i * 4096 + j] == (uint8_t)(salt + i), "page %d of segment %d is %02x", i, salt,
              at[i * 4096 + j]);
}

static int segment(key_t key, int mode, size_t bytes)
{
    const int id = shmget(key, bytes, IPC_CREAT | IPC_EXCL | mode);

    MUST(id >= 0);
    return id;
}

static uint8_t *attach(int id, int flags)
{
    uint8_t *at = shmat(id, NULL, flags);

    MUST(at != (void *)-1);
    return at;
}

static void make_segments(void)
{
    uint8_t *at;

    seg_board = segment(IPC_PRIVATE, 0600, sizeof *board);
    board = (struct board *)attach(seg_board, 0);
    seg_twice = segment(0x5e600000 + getpid(), 0640, SEG_BYTES);
    twice[0] = attach(seg_twice, 0);
    twice[1] = attach(seg_twice, 0);
    fill_pages(twice[0], 10);
    seg_removed = segment(0x5e700000 + getpid(), 0666, SEG_BYTES);
    removed = attach(seg_removed, 0);
    fill_pages(removed, 30);
    MUST(shmctl(seg_removed, IPC_RMID, NULL) == 0);
    // The key is free again: another one takes it.
    seg_pieces = segment(0x5e700000 + getpid(), 0600, SEG_BYTES);
    pieces = attach(seg_pieces, 0);
    fill_pages(pieces, 50);
    MUST(munmap(pieces + 4096, 4096) == 0 && munmap(pieces + 6 * 4096, 4096) == 0);
    MUST(mprotect(pieces + 3 * 4096, 4096, PROT_READ) == 0);
    seg_idle = segment(IPC_PRIVATE, 0600, SEG_BYTES);
    at = attach(seg_idle, 0);
    fill_pages(at, 70);
    MUST(shmdt(at) == 0);
    seg_locked = segment(IPC_PRIVATE, 0600, 4096);
    locked = attach(seg_locked, SHM_RDONLY);
    MUST(shmctl(seg_locked, SHM_LOCK, NULL) == 0);
}

// What /proc/self/maps says of an attachment: protection, offset and the name.
static void check_map(const void *at, const char *protection, unsigned long offset, key_t key)
{
    char line[256], want[32], mode[8];
    unsigned long start, end, there;
    FILE *maps = fopen("/proc/self/maps", "r");
    bool found = false;

    MUST(maps);
    snprintf(want, sizeof want, "/SYSV%08x", (unsigned)key);
    while (!found && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s %lx", &start, &end, mode, &there) != 4 ||
            start != (unsigned long)at)
            continue;
        found = true;
        CHECK(strncmp(mode, protection, 4) == 0 && there == offset && strstr(line, want),
              "an attachment is %s instead of %s at %lx of %s", line, protection, offset, want);
    }
    fclose(maps);
    CHECK(found, "no mapping at %p", at);
}

static void check_segments(void)
{
    uint8_t *at;

    for (int i = 0; i < PAGES; i++) {
        check_page(twice[0], i, 10);
        check_page(removed, i, 30);
        if (i != 1 && i != 6)
            check_page(pieces, i, 50);
    }
    twice[0][5] = twice[1][5] + 1;
    CHECK(twice[1][5] == twice[0][5], "two attachments are two segments");
    twice[0][5] = 10;
    at = attach(seg_idle, SHM_RDONLY);
    for (int i = 0; i < PAGES; i++)
        check_page(at, i, 70);
    MUST(shmdt(at) == 0);
}

static void check_attachments(void)
{
    check_map(twice[0], "rw-s", 0, 0x5e600000 + getpid());
    check_map(removed, "rw-s", 0, 0x5e700000 + getpid());
    check_map(pieces, "rw-s", 0, 0x5e700000 + getpid());
    check_map(pieces + 3 * 4096, "r--s", 3 * 4096, 0x5e700000 + getpid());
    check_map(locked, "r--s", 0, 0);
    CHECK(mprotect(locked, 4096, PROT_READ | PROT_WRITE) < 0 && errno == EACCES,
          "a read-only attachment can be written to");
}

/* ---- semaphores ---- */

static int sems, sems_fresh, sems_set;

static int op(int id, int num, int add, int flags)
{
    struct sembuf ops = {(unsigned short)num, (short)add, (short)flags};

    return semop(id, &ops, 1);
}

static int value(int num)
{
    return semctl(sems, num, GETVAL);
}

static void make_sems(void)
{
    unsigned short values[N_SEMS] = {3, 0, 7, 1, 0, 0, 100, 0};
    struct semid_ds ds;

    sems = semget(0x5e500000 + getpid(), N_SEMS, IPC_CREAT | IPC_EXCL | 0600);
    MUST(sems >= 0 && semctl(sems, 0, SETALL, (union semun){.array = values}) == 0);
    MUST(op(sems, 0, 2, SEM_UNDO) == 0); // 5, 3 at the end of the parent
    MUST(op(sems, 3, 1, 0) == 0);        // 2
    MUST(semctl(sems, 0, IPC_STAT, (union semun){.buf = &ds}) == 0);
    ds.sem_perm.mode = 0642;
    ds.sem_perm.uid = 1234;
    MUST(semctl(sems, 0, IPC_SET, (union semun){.buf = &ds}) == 0);
    sems_fresh = semget(IPC_PRIVATE, 2, 0600);
    sems_set = semget(IPC_PRIVATE, 1, 0600);
    MUST(semctl(sems_set, 0, SETVAL, (union semun){.val = 42}) == 0);
}

// Sleepers, each in a thread: for what it waits, and how it is to end.
static struct waiter {
    int num, add, timeout_s;
    int want; // errno, 0: granted
    bool in_child;
    pthread_t thread;
    int done;
} waiters[] = {
    {.num = 4, .add = -2},
    {.num = 3, .add = 0},
    {.num = 5, .add = -1, .timeout_s = TIMEOUT_S, .want = EAGAIN},
    {.num = 7, .add = -1, .timeout_s = 300, .in_child = true},
};
#define N_WAITERS (sizeof waiters / sizeof waiters[0])

static uint64_t waited_since;

static void *wait_sem(void *arg)
{
    struct waiter *w = arg;
    struct sembuf ops = {(unsigned short)w->num, (short)w->add, 0};
    struct timespec timeout = {w->timeout_s, 0};
    int done;

    do
        done = semtimedop(sems, &ops, 1, w->timeout_s ? &timeout : NULL);
    while (done < 0 && errno == EINTR);
    CHECK(done == (w->want ? -1 : 0) && (!w->want || errno == w->want),
          "the waiter for semaphore %d: %d, %m", w->num, done);
    if (w->want == EAGAIN) {
        const uint64_t took = subject_now(CLOCK_MONOTONIC) - waited_since;
        CHECK(took >= TIMEOUT_S * NS_PER_S, "a timeout of %d s took %lu ms", TIMEOUT_S,
              (unsigned long)(took / NS_PER_MS));
    }
    __atomic_store_n(&w->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void start_waiters(bool in_child)
{
    waited_since = subject_now(CLOCK_MONOTONIC);
    for (size_t i = 0; i < N_WAITERS; i++)
        if (waiters[i].in_child == in_child)
            MUST(pthread_create(&waiters[i].thread, NULL, wait_sem, &waiters[i]) == 0);
}

static void check_waiting(void)
{
    for (size_t i = 0; i < N_WAITERS; i++) {
        const struct waiter *w = &waiters[i];

        if (w->timeout_s == TIMEOUT_S)
            continue;
        CHECK(!w->done, "the waiter for semaphore %d waits no more", w->num);
        // Just moved, it may have to enter the call again first.
        AWAIT(semctl(sems, w->num, w->add ? GETNCNT : GETZCNT) == 1, "%d wait for semaphore %d",
              semctl(sems, w->num, GETNCNT), w->num);
    }
}

/* ---- queues ---- */

static int queue, queue_full, queue_dead;
static const struct {
    long type;
    size_t bytes;
} messages[] = {{5, 0}, {1, 1}, {5, 100}, {9, 8000}, {1, 4048}, {7, 4049}};
#define N_MESSAGES (sizeof messages / sizeof messages[0])

static void send_message(int id, long type, size_t bytes, int salt)
{
    out.type = type;
    for (size_t i = 0; i < bytes; i++)
        out.text[i] = (char)subject_mix(i + (size_t)salt * 100000);
    MUST(msgsnd(id, &out, bytes, IPC_NOWAIT) == 0);
}

static void receive_message(int id, long want, long type, size_t bytes, int salt)
{
    const ssize_t got = msgrcv(id, &in, sizeof in.text, want, IPC_NOWAIT);

    CHECK(got == (ssize_t)bytes && in.type == type, "message of %zd bytes, type %ld: %m", got,
          in.type);
    for (size_t i = 0; i < bytes; i++)
        CHECK(in.text[i] == (char)subject_mix(i + (size_t)salt * 100000),
              "byte %zu of a message of type %ld", i, type);
}

static void make_queues(void)
{
    struct msqid_ds ds;

    queue = msgget(0x5e400000 + getpid(), IPC_CREAT | IPC_EXCL | 0600);
    MUST(queue >= 0 && msgctl(queue, IPC_STAT, &ds) == 0);
    ds.msg_qbytes = 16300;
    ds.msg_perm.gid = 77;
    MUST(msgctl(queue, IPC_SET, &ds) == 0);
    for (size_t i = 0; i < N_MESSAGES; i++)
        send_message(queue, messages[i].type, messages[i].bytes, (int)i);
    queue_full = msgget(IPC_PRIVATE, 0600);
    MUST(queue_full >= 0 && msgctl(queue_full, IPC_STAT, &ds) == 0);
    ds.msg_qbytes = 100;
    MUST(msgctl(queue_full, IPC_SET, &ds) == 0);
    send_message(queue_full, 3, 100, 50);
    queue_dead = msgget(IPC_PRIVATE, 0600);
    MUST(queue_dead >= 0);
}

static void *wait_message(void *arg)
{
    static struct message m;
    ssize_t got;

    do
        got = msgrcv(queue, &m, sizeof m.text, 77, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == 4 && m.type == 77 && memcmp(m.text, "wake", 4) == 0,
          "the waiting receiver got %zd bytes: %m", got);
    return arg;
}

static void *wait_room(void *arg)
{
    static struct message m = {8, "room"};
    int done;

    do
        done = msgsnd(queue_full, &m, 4, 0);
    while (done < 0 && errno == EINTR);
    CHECK(done == 0, "the waiting sender: %m");
    return arg;
}

static void drain_queues(pthread_t receiver, pthread_t sender)
{
    static const int order[] = {1, 4, 0, 2, 5, 3}; // type 1 first, then by any
    const long want[] = {1, 1, 0, 0, 0, 0};

    for (size_t i = 0; i < N_MESSAGES; i++) {
        const int n = i < 2 ? order[i] : (int[]){0, 2, 3, 5}[i - 2];

        receive_message(queue, want[i], messages[n].type, messages[n].bytes, n);
    }
    out.type = 77;
    memcpy(out.text, "wake", 4);
    MUST(msgsnd(queue, &out, 4, 0) == 0);
    MUST(pthread_join(receiver, NULL) == 0);
    receive_message(queue_full, 0, 3, 100, 50);
    MUST(pthread_join(sender, NULL) == 0);
    CHECK(msgrcv(queue_full, &in, sizeof in.text, 0, IPC_NOWAIT) == 4 && in.type == 8 &&
              memcmp(in.text, "room", 4) == 0,
          "the waiting sender's message is not there");
}

/* ---- what *ctl(IPC_STAT) says ---- */

struct facts {
    struct shmid_ds shm[7];
    struct semid_ds sem[3];
    struct msqid_ds msg[3];
    int val[N_SEMS], pid[N_SEMS];
};

static void forget_times(struct facts *f)
{
    // A time is that of the restore, but never is never.
    for (size_t i = 0; i < 7; i++) {
        f->shm[i].shm_atime = !!f->shm[i].shm_atime;
        f->shm[i].shm_dtime = 0;
        f->shm[i].shm_ctime = 0;
    }
    for (size_t i = 0; i < 3; i++) {
        f->sem[i].sem_otime = !!f->sem[i].sem_otime;
        f->sem[i].sem_ctime = 0;
        f->msg[i].msg_stime = !!f->msg[i].msg_stime;
        f->msg[i].msg_rtime = !!f->msg[i].msg_rtime;
        f->msg[i].msg_ctime = 0;
        f->sem[i].sem_perm.__seq = f->msg[i].msg_perm.__seq = 0;
    }
}

static void look(struct facts *f)
{
    const int shm[] = {seg_board, seg_twice,  seg_removed, seg_pieces,
                       seg_idle,  seg_locked, seg_dead};
    const int sem[] = {sems, sems_fresh, sems_set}, msg[] = {queue, queue_full, queue_dead};

    memset(f, 0, sizeof *f);
    for (size_t i = 0; i < 7; i++)
        CHECK(shmctl(shm[i], IPC_STAT, &f->shm[i]) == 0, "segment %zu (%d): %m", i, shm[i]);
    for (size_t i = 0; i < 3; i++) {
        CHECK(semctl(sem[i], 0, IPC_STAT, (union semun){.buf = &f->sem[i]}) == 0, "set %zu: %m", i);
        CHECK(msgctl(msg[i], IPC_STAT, &f->msg[i]) == 0, "queue %zu: %m", i);
    }
    for (int i = 0; i < N_SEMS; i++) {
        f->val[i] = semctl(sems, i, GETVAL);
        f->pid[i] = semctl(sems, i, GETPID);
    }
    forget_times(f);
}

static void compare(const struct facts *was)
{
    struct facts is;

    look(&is);
    for (size_t i = 0; i < 7; i++) {
        const struct shmid_ds *a = &was->shm[i], *b = &is.shm[i];
        CHECK(
            memcmp(a, b, sizeof *a) == 0,
            "segment %zu: key %x mode %o attached %lu by %d, %d, time %ld; was %x %o %lu %d %d %ld",
            i, b->shm_perm.__key, b->shm_perm.mode, b->shm_nattch, b->shm_cpid, b->shm_lpid,
            b->shm_atime, a->shm_perm.__key, a->shm_perm.mode, a->shm_nattch, a->shm_cpid,
            a->shm_lpid, a->shm_atime);
    }
    for (size_t i = 0; i < 3; i++) {
        CHECK(memcmp(&was->sem[i], &is.sem[i], sizeof is.sem[i]) == 0,
              "set %zu: mode %o uid %u otime %ld", i, is.sem[i].sem_perm.mode,
              is.sem[i].sem_perm.uid, is.sem[i].sem_otime);
        const struct msqid_ds *a = &was->msg[i], *b = &is.msg[i];
        CHECK(memcmp(a, b, sizeof *a) == 0,
              "queue %zu: %lu messages, %lu bytes of %lu, by %d, %d; was %lu %lu %lu %d %d", i,
              b->msg_qnum, b->__msg_cbytes, b->msg_qbytes, b->msg_lspid, b->msg_lrpid, a->msg_qnum,
              a->__msg_cbytes, a->msg_qbytes, a->msg_lspid, a->msg_lrpid);
    }
    for (int i = 0; i < N_SEMS; i++)
        CHECK(was->val[i] == is.val[i] && was->pid[i] == is.pid[i],
              "semaphore %d is %d by %d, was %d by %d", i, is.val[i], is.pid[i], was->val[i],
              was->pid[i]);
}

/* ---- processes ---- */

// Ends at once; what it did remains.
static void act_dead(void)
{
    seg_dead = segment(IPC_PRIVATE, 0600, 4096);
    board->fill[0] = 1;
    *(volatile int *)&board->fill[8] = seg_dead;
    send_message(queue_dead, 4, 10, 60);
    MUST(op(sems, 1, 1, 0) == 0);
    _exit(0);
}

static void act_child(void)
{
    uint8_t *reader;

    MUST(msgrcv(queue, &in, sizeof in.text, 42, IPC_NOWAIT) == 3);
    MUST(op(sems, 2, -2, SEM_UNDO) == 0); // 5, 7 at the end of the child
    MUST(op(sems, 6, 3, SEM_UNDO) == 0);  // 103, 100 at the end of the child
    MUST(shmdt(twice[1]) == 0);
    reader = attach(seg_twice, SHM_RDONLY);
    start_waiters(true);
    board->child_ready = 1;
    while (!board->child_go) {
        for (int i = 0; i < PAGES; i++) {
            if (i) // the first page changes all the time
                check_page(reader, i, 10);
            check_page(removed, i, 30);
        }
        board->child_checks++;
        subject_sleep_ms(2);
    }
    MUST(pthread_join(waiters[3].thread, NULL) == 0);
    _exit(0);
}

static void fork_all(void)
{
    int status;

    dead = fork();
    MUST(dead >= 0);
    if (dead == 0)
        act_dead();
    MUST(waitpid(dead, &status, 0) == dead && status == 0);
    seg_dead = *(volatile int *)&board->fill[8];
    send_message(queue, 42, 3, 0);
    child = fork();
    MUST(child >= 0);
    if (child == 0)
        act_child();
    while (!board->child_ready)
        subject_sleep_ms(2);
}

static void finish_child(void)
{
    int status;

    board->child_go = 1;
    MUST(op(sems, 7, 1, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
    CHECK(value(2) == 7 && value(6) == 100, "undone to %d and %d", value(2), value(6));
}

static void finish_waiters(void)
{
    MUST(op(sems, 4, 2, 0) == 0);
    MUST(op(sems, 3, -2, 0) == 0);
    for (size_t i = 0; i < N_WAITERS; i++)
        if (!waiters[i].in_child)
            MUST(pthread_join(waiters[i].thread, NULL) == 0);
}

static void remove_all(void)
{
    struct shmid_ds ds;

    // shmdt() of what came in pieces takes all of them.
    MUST(shmdt(pieces) == 0 && shmctl(seg_pieces, IPC_STAT, &ds) == 0);
    CHECK(ds.shm_nattch == 0, "%lu pieces remain attached", ds.shm_nattch);
    MUST(shmdt(removed) == 0);
    CHECK(shmctl(seg_removed, IPC_STAT, &ds) < 0, "the removed segment outlives its attachments");
    for (int i = 0; i < 6; i++)
        MUST(shmctl((int[]){seg_board, seg_twice, seg_pieces, seg_idle, seg_locked, seg_dead}[i],
                    IPC_RMID, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        MUST(semctl((int[]){sems, sems_fresh, sems_set}[i], 0, IPC_RMID) == 0);
        MUST(msgctl((int[]){queue, queue_full, queue_dead}[i], IPC_RMID, NULL) == 0);
    }
}

int main(int argc, char **argv)
{
    pthread_t receiver, sender;
    struct facts facts;

    subject_begin(argc, argv);
    make_segments();
    make_sems();
    make_queues();
    fork_all();
    start_waiters(false);
    MUST(pthread_create(&receiver, NULL, wait_message, NULL) == 0);
    MUST(pthread_create(&sender, NULL, wait_room, NULL) == 0);
    subject_sleep_ms(50);
    check_segments();
    check_attachments();
    look(&facts);
    subject_ready();
    if (subject.sabotage)
        MUST(op(sems, 2, 1, 0) == 0);
    do {
        const int checks = board->child_checks;

        compare(&facts);
        check_segments();
        check_waiting();
        AWAIT(board->child_checks != checks, "the child does not see what the parent sees");
    } while (!subject_asked());
    check_attachments();
    compare(&facts);
    finish_child();
    finish_waiters();
    drain_queues(receiver, sender);
    receive_message(queue_dead, 0, 4, 10, 60);
    remove_all();
    subject_pass();
}
