// SPDX-License-Identifier: GPL-2.0-or-later
// A session with a terminal: foreground and background groups, a reader that was stopped, /dev/tty,
// and job control that goes on.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "subject.h"

/*
 * The root holds the master. The leader's session has it for its terminal: EARLY is a member that
 * was there before; FRONT and FRIEND are the foreground group, BACK wanted to read and was stopped.
 */
enum role { LEADER, EARLY, FRONT, FRIEND, BACK, N_ROLES };
static const char *const names[] = {"leader", "early", "front", "friend", "back"};

static struct shared {
    volatile pid_t pid[N_ROLES];
    volatile bool set_up[N_ROLES];
    volatile unsigned got[N_ROLES][32]; // signals
    volatile char line[64];             // that BACK has read
    volatile pid_t front_sees;          // foreground group by /dev/tty
    volatile int status;                // that the leader has waited for
    volatile int answers;
} * shared;

static enum role role;
static int master, number, orders[2]; // orders to the leader
static char name[64];

static void count(int signo)
{
    shared->got[role][signo]++;
}

static void handle(int signo, void (*handler)(int))
{
    const struct sigaction action = {.sa_handler = handler};

    MUST(sigaction(signo, &action, NULL) == 0);
}

static void take(int signo)
{
    handle(signo, count);
}

static pid_t start(enum role as, void (*run)(void))
{
    const pid_t pid = fork();

    MUST(pid >= 0);
    if (pid == 0) {
        role = as;
        shared->pid[as] = getpid();
        run();
        _exit(99);
    }
    while (!shared->pid[as])
        subject_sleep_ms(1);
    return pid;
}

/* ---- the session ---- */

static void run_early(void)
{
    for (;;)
        pause();
}

static sigjmp_buf out_of_read;

static void leave_read(int signo)
{
    count(signo);
    siglongjmp(out_of_read, 1);
}

static void run_front(void)
{
    const int tty = open("/dev/tty", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    char got[64];

    MUST(tty >= 0);
    take(SIGINT);
    take(SIGTSTP);
    take(SIGHUP);
    while (tcgetpgrp(tty) != getpid()) // else it would be stopped like BACK
        subject_sleep_ms(1);
    // Waits for input until the last of the signals, which may come just before it waits again; a
    // waiting reader stays one in the background.
    if (sigsetjmp(out_of_read, 1) == 0) {
        handle(SIGWINCH, leave_read);
        shared->set_up[FRONT] = true;
        ssize_t n;
        while ((n = read(STDIN_FILENO, got, sizeof got)) < 0 && errno == EINTR)
            ;
        CHECK(n <= 0, "the foreground has read %zd bytes", n);
        for (;;) // hung up: somebody else has failed
            pause();
    }
    shared->front_sees = tcgetpgrp(tty);
    for (;;)
        pause();
}

static void run_friend(void)
{
    take(SIGINT);
    take(SIGWINCH);
    take(SIGTSTP);
    take(SIGHUP);
    shared->set_up[FRIEND] = true;
    for (;;)
        pause();
}

static void run_back(void)
{
    char got[64];

    MUST(setpgid(0, 0) == 0);
    signal(SIGTSTP, SIG_DFL);
    take(SIGINT);
    take(SIGWINCH);
    for (;;) {
        const ssize_t n = read(STDIN_FILENO, got, sizeof got - 1);

        if (n <= 0)
            continue;
        got[n] = '\0';
        memcpy((char *)shared->line, got, (size_t)n + 1);
    }
}

static void obey(char order)
{
    int status;

    switch (order) {
    case 'f': // to the foreground
        signal(SIGTTOU, SIG_IGN);
        MUST(tcsetpgrp(STDIN_FILENO, shared->pid[BACK]) == 0);
        MUST(kill(-shared->pid[BACK], SIGCONT) == 0);
        break;
    case 'w':
        MUST(waitpid(shared->pid[BACK], &status, WUNTRACED) == shared->pid[BACK]);
        shared->status = status;
        break;
    case 't': // who has a terminal
        MUST(close(open("/dev/tty", O_RDWR)) == 0);
        break;
    }
    shared->answers++;
}

static void run_leader(void)
{
    int status;
    char order;

    MUST(setsid() == getpid());
    close(master);
    start(EARLY, run_early);
    MUST(open(name, O_RDWR) >= 0); // becomes its terminal
    const int slave = open(name, O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        MUST(dup2(slave, fd) == fd);
    close(slave);
    take(SIGINT);
    take(SIGWINCH);
    take(SIGTSTP);
    take(SIGHUP);
    start(FRONT, run_front);
    MUST(setpgid(shared->pid[FRONT], shared->pid[FRONT]) == 0);
    start(FRIEND, run_friend);
    MUST(setpgid(shared->pid[FRIEND], shared->pid[FRONT]) == 0);
    MUST(tcsetpgrp(STDIN_FILENO, shared->pid[FRONT]) == 0);
    start(BACK, run_back);
    MUST(waitpid(shared->pid[BACK], &status, WUNTRACED) == shared->pid[BACK]);
    MUST(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
    while (!shared->set_up[FRONT] || !shared->set_up[FRIEND])
        subject_sleep_ms(1);
    shared->answers++;
    for (ssize_t n; (n = read(orders[0], &order, 1)) != 0;)
        if (n > 0)
            obey(order);
        else
            MUST(errno == EINTR);
}

/* ---- the root ---- */

static void order(char what)
{
    const int before = shared->answers;

    MUST(write(orders[1], &what, 1) == 1);
    AWAIT(shared->answers != before, "the leader does not answer to %c", what);
}

// Of /proc/PID/stat.
struct look {
    char state;
    int pgrp, session, tty, tpgid;
};

static struct look look_at(enum role who)
{
    char path[64], text[512];
    struct look l = {0};

    snprintf(path, sizeof path, "/proc/%d/stat", shared->pid[who]);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    CHECK(n > 0, "%s: %m", path);
    close(fd);
    text[n] = '\0';
    MUST(sscanf(strrchr(text, ')') + 2, "%c %*d %d %d %d %d", &l.state, &l.pgrp, &l.session, &l.tty,
                &l.tpgid) == 5);
    return l;
}

static void check_all(pid_t foreground)
{
    const pid_t groups[N_ROLES] = {shared->pid[LEADER], shared->pid[LEADER], shared->pid[FRONT],
                                   shared->pid[FRONT], shared->pid[BACK]};

    for (enum role i = 0; i < N_ROLES; i++) {
        const struct look l = look_at(i);
        const int tty = i == EARLY ? 0 : (int)makedev(136, number);

        CHECK(l.pgrp == groups[i] && l.session == shared->pid[LEADER], "%s: group %d session %d",
              names[i], l.pgrp, l.session);
        CHECK(l.tty == tty, "%s has the terminal %x, not %x", names[i], l.tty, tty);
        CHECK(l.tpgid == (i == EARLY ? -1 : foreground), "%s: foreground group is %d", names[i],
              l.tpgid);
        CHECK((l.state == 'T') == (i == BACK && foreground != shared->pid[BACK]), "%s is %c",
              names[i], l.state);
    }
    CHECK(tcgetpgrp(master) == foreground, "the foreground group is %d, not %d: %m",
          tcgetpgrp(master), foreground);
    CHECK(tcgetsid(master) == shared->pid[LEADER], "the session is %d: %m", tcgetsid(master));
}

static void await_signal(enum role who, int signo, unsigned n)
{
    AWAIT(shared->got[who][signo] >= n, "%s does not get signal %d", names[who], signo);
    CHECK(shared->got[who][signo] == n, "%s got signal %d %u times", names[who], signo,
          shared->got[who][signo]);
}

// A signal that only the foreground group gets.
static void check_front_only(int signo, unsigned n)
{
    await_signal(FRONT, signo, n);
    await_signal(FRIEND, signo, n);
    CHECK(!shared->got[LEADER][signo] && !shared->got[BACK][signo],
          "signal %d went beyond the foreground group", signo);
}

static void type(const char *text)
{
    MUST(write(master, text, strlen(text)) == (ssize_t)strlen(text));
}

static void finish(void)
{
    const struct winsize window = {11, 22, 33, 44};

    type("\x03");
    check_front_only(SIGINT, 1);
    type("\x1a");
    check_front_only(SIGTSTP, 1);
    MUST(ioctl(master, TIOCSWINSZ, &window) == 0);
    check_front_only(SIGWINCH, 1);
    AWAIT(shared->front_sees == shared->pid[FRONT], "/dev/tty says that the foreground group is %d",
          shared->front_sees);
    order('t');
    order('f');
    check_all(shared->pid[BACK]);
    type("for you\n");
    AWAIT(strcmp((const char *)shared->line, "for you\n") == 0,
          "the job that was continued has read '%s'", (const char *)shared->line);
    type("\x1a");
    order('w');
    CHECK(WIFSTOPPED(shared->status) && WSTOPSIG(shared->status) == SIGTSTP,
          "^Z: the leader is told %x", shared->status);
    for (enum role i = FRONT; i <= FRIEND; i++)
        CHECK(shared->got[i][SIGINT] == 1 && shared->got[i][SIGTSTP] == 1,
              "the group that is in the background got ^Z");
    close(master);
    await_signal(LEADER, SIGHUP, 1);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    MUST(master >= 0 && unlockpt(master) == 0 && ptsname_r(master, name, sizeof name) == 0);
    MUST(ioctl(master, TIOCGPTN, &number) == 0);
    MUST(pipe2(orders, 0) == 0);
    start(LEADER, run_leader);
    while (!shared->answers)
        subject_sleep_ms(1);
    subject_ready();
    if (subject.sabotage)
        kill(-shared->pid[BACK], SIGCONT), kill(shared->pid[FRIEND], SIGINT);
    while (!subject_asked()) {
        check_all(shared->pid[FRONT]);
        subject_sleep_ms(2);
    }
    check_all(shared->pid[FRONT]);
    finish();
    for (enum role i = 0; i < N_ROLES; i++)
        kill(shared->pid[i], SIGKILL);
    MUST(waitpid(shared->pid[LEADER], NULL, 0) == shared->pid[LEADER]);
    subject_pass();
}
