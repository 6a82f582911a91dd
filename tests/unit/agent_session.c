// SPDX-License-Identifier: GPL-2.0-or-later
// The real agent at the other end of a socket: handshake, hosts that vanish, freezing real
// processes.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guestagent/protocol.h"

static const char *agent_path;

struct peer {
    GPid agent;
    int listener, fd;
    char *dir, *path;
    AgentWire *wire;
};

static void peer_accept(struct peer *p, uint64_t session)
{
    p->fd = accept(p->listener, NULL, NULL);
    g_assert_cmpint(p->fd, >=, 0);
    p->wire = agent_wire_new(AGENT_SIDE_HOST);
    agent_wire_set_session(p->wire, session);
}

static void peer_hang_up(struct peer *p)
{
    close(p->fd);
    agent_wire_free(p->wire);
    p->wire = NULL;
}

static struct peer *peer_new(void)
{
    struct peer *p = g_new0(struct peer, 1);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    g_autoptr(GError) error = NULL;

    p->dir = g_dir_make_tmp("vmgraft-agent-XXXXXX", NULL);
    p->path = g_build_filename(p->dir, "port", NULL);
    strcpy(addr.sun_path, p->path);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(p->listener, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(p->listener, 1), ==, 0);

    char *argv[] = {(char *)agent_path, (char *)"--port", p->path, NULL};

    g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &p->agent, &error);
    g_assert_no_error(error);
    return p;
}

static void peer_free(struct peer *p)
{
    int status;

    if (p->wire)
        peer_hang_up(p);
    kill(p->agent, SIGTERM);
    g_assert_cmpint(waitpid(p->agent, &status, 0), ==, p->agent);
    g_assert_true(WIFEXITED(status));
    close(p->listener);
    unlink(p->path);
    rmdir(p->dir);
    g_free(p->path);
    g_free(p->dir);
    g_free(p);
}
typedef struct peer peer;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(peer, peer_free)

// The next frame that is not ALIVE.
static struct json_object *expect(struct peer *p, enum agent_message type)
{
    g_autoptr(GError) error = NULL;
    struct agent_frame frame;
    struct json_object *json;

    for (;;) {
        struct pollfd pfd = {p->fd, POLLIN, 0};
        enum agent_wire_result got = agent_wire_next(p->wire, &frame);

        g_assert_cmpint(got, !=, AGENT_WIRE_LOST);
        if (got == AGENT_WIRE_FRAME && frame.type != AGENT_ALIVE)
            break;
        if (got == AGENT_WIRE_FRAME)
            continue;
        g_assert_cmpint(agent_wire_write(p->wire, p->fd), ==, 0);
        g_assert_cmpint(poll(&pfd, 1, 30000), ==, 1);
        g_assert_cmpint(agent_wire_read(p->wire, p->fd), >, 0);
    }
    json = agent_frame_json(&frame, &error);
    g_assert_no_error(error);
    if (frame.type != type)
        g_error("%s instead of %s: %.*s", agent_message_name(frame.type), agent_message_name(type),
                (int)frame.length, (const char *)frame.payload);
    return json;
}

static void hello(struct peer *p, uint64_t session)
{
    peer_accept(p, session);
    agent_wire_queue_padding(p->wire);
    agent_wire_queue_json(p->wire, AGENT_HELLO, NULL);

    struct json_object *ack = expect(p, AGENT_HELLO_ACK);

    g_assert_cmpint(agent_json_int(ack, "protocol", 0), ==, AGENT_PROTOCOL);
    g_assert_cmpint(agent_json_int(ack, "agent_pid", 0), ==, p->agent);
    json_object_put(ack);
}

static void send_freeze(struct peer *p, pid_t pid)
{
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "pid", json_object_new_int(pid));
    agent_wire_queue_json(p->wire, AGENT_FREEZE, obj);
}

static char process_state(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    return strrchr(text, ')')[2];
}

// Waits until the process is in one of these states.
static void wait_state(pid_t pid, const char *states)
{
    for (int i = 0; i < 3000; i++) {
        char state = process_state(pid);

        if (state && strchr(states, state))
            return;
        g_usleep(10000);
    }
    g_error("pid %d stays in state %c, not %s", pid, process_state(pid), states);
}

static void test_hello(void)
{
    g_autoptr(peer) p = peer_new();

    hello(p, 1);
    agent_wire_queue_json(p->wire, AGENT_HELLO, NULL); // again, as hosts do
    json_object_put(expect(p, AGENT_HELLO_ACK));
    peer_hang_up(p);
    hello(p, 2);
    agent_wire_queue_json(p->wire, AGENT_RELEASE, NULL);
    json_object_put(expect(p, AGENT_FAILED));
    agent_wire_queue_json(p->wire, AGENT_ABORT, NULL);
    json_object_put(expect(p, AGENT_ABORTED));
}

static void test_heartbeat(void)
{
    g_autoptr(peer) p = peer_new();
    struct agent_frame frame;

    hello(p, 1);
    for (int i = 0; i < 2; i++) {
        while (agent_wire_next(p->wire, &frame) != AGENT_WIRE_FRAME)
            g_assert_cmpint(agent_wire_read(p->wire, p->fd), >, 0);
        g_assert_cmpint(frame.type, ==, AGENT_ALIVE);
    }
}

static void test_lost_frame(void)
{
    g_autoptr(peer) p = peer_new();

    hello(p, 1);
    agent_wire_queue_json(p->wire, AGENT_PING, NULL);
    agent_wire_set_session(p->wire, 1); // its sequence starts again
    agent_wire_queue_json(p->wire, AGENT_PING, NULL);
    agent_wire_queue_json(p->wire, AGENT_PING, NULL);
    agent_wire_set_session(p->wire, 3);
    agent_wire_queue_json(p->wire, AGENT_HELLO, NULL);
    json_object_put(expect(p, AGENT_HELLO_ACK));
}

/* ---- freezing ---- */

// What a subject tells the test through shared memory.
struct board {
    volatile uint64_t count;
    volatile int calls_failed;
};

static struct board *board_new(void)
{
    void *at =
        mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    g_assert_true(at != MAP_FAILED);
    return at;
}

static pid_t start(void (*body)(struct board *), struct board *board)
{
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        body(board);
        _exit(0);
    }
    return pid;
}

static void count(struct board *board)
{
    pid_t child = fork();

    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        board->count++;
}

static bool counts(struct board *board)
{
    uint64_t before = board->count;

    g_usleep(50000);
    return board->count != before;
}

// A busy machine may let it wait.
static void wait_counts(struct board *board)
{
    for (int i = 0; i < 1000; i++)
        if (counts(board))
            return;
    g_error("the subject does not go on");
}

static void test_freeze_thaw(void)
{
    g_autoptr(peer) p = peer_new();
    struct board *board = board_new();
    g_autoptr(GArray) pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    pid_t pid = start(count, board);
    struct json_object *frozen;

    while (board->count < 1000)
        g_usleep(1000);
    hello(p, 1);
    send_freeze(p, pid);
    frozen = expect(p, AGENT_FROZEN);
    agent_json_get_pids(frozen, "pids", pids);
    g_assert_cmpuint(pids->len, ==, 2);
    g_assert_cmpint(agent_json_int(frozen, "threads", 0), ==, 2);
    g_assert_cmpint(agent_json_int(frozen, "tracer_pid", 0), >, 0);
    json_object_put(frozen);
    g_assert_cmpint(process_state(pid), ==, 't');
    g_assert_false(counts(board));

    agent_wire_queue_json(p->wire, AGENT_THAW, NULL);
    json_object_put(expect(p, AGENT_THAWED));
    wait_counts(board);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_freeze_finish(void)
{
    g_autoptr(peer) p = peer_new();
    struct board *board = board_new();
    pid_t pid = start(count, board);
    int status;

    while (board->count < 1000)
        g_usleep(1000);
    hello(p, 1);
    send_freeze(p, pid);
    json_object_put(expect(p, AGENT_FROZEN));
    agent_wire_queue_json(p->wire, AGENT_FINISH, NULL);
    json_object_put(expect(p, AGENT_FINISHED));
    g_assert_cmpint(waitpid(pid, &status, WNOHANG), ==, pid);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    g_assert_false(counts(board));
}

// The host is gone, so is the freeze; FINISH that was sent before still counts.
static void test_hang_up(void)
{
    g_autoptr(peer) p = peer_new();
    struct board *board = board_new();
    pid_t pid = start(count, board);
    int status;

    hello(p, 1);
    send_freeze(p, pid);
    json_object_put(expect(p, AGENT_FROZEN));
    peer_hang_up(p);
    wait_state(pid, "RS");

    hello(p, 2);
    send_freeze(p, pid);
    json_object_put(expect(p, AGENT_FROZEN));
    agent_wire_queue_json(p->wire, AGENT_FINISH, NULL);
    g_assert_cmpint(agent_wire_write(p->wire, p->fd), ==, 0);
    peer_hang_up(p);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status));
}

// A worker that is killed lets the tree go on, and the host is told.
static void test_worker_dies(void)
{
    g_autoptr(peer) p = peer_new();
    struct board *board = board_new();
    pid_t pid = start(count, board);
    struct json_object *frozen;

    hello(p, 1);
    send_freeze(p, pid);
    frozen = expect(p, AGENT_FROZEN);
    kill((pid_t)agent_json_int(frozen, "tracer_pid", 0), SIGSEGV);
    json_object_put(frozen);
    json_object_put(expect(p, AGENT_FAILED));
    wait_state(pid, "RS");
    wait_counts(board);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_refused(void)
{
    g_autoptr(peer) p = peer_new();
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    pid_t zombie = fork();
    struct json_object *obj;

    if (zombie == 0)
        _exit(0);
    wait_state(zombie, "Z");
    hello(p, 1);
    send_freeze(p, zombie);
    obj = expect(p, AGENT_REFUSED);
    agent_json_get_strings(obj, "reasons", reasons);
    json_object_put(obj);
    g_assert_cmpuint(reasons->len, ==, 1);
    g_assert_nonnull(strstr(reasons->pdata[0], "zombie"));
    waitpid(zombie, NULL, 0);

    send_freeze(p, 1);
    json_object_put(expect(p, AGENT_REFUSED));
    send_freeze(p, p->agent);
    json_object_put(expect(p, AGENT_REFUSED));
    send_freeze(p, 2); // kthreadd
    json_object_put(expect(p, AGENT_REFUSED));
    send_freeze(p, 4194303);
    json_object_put(expect(p, AGENT_FAILED));
    send_freeze(p, 0);
    json_object_put(expect(p, AGENT_FAILED));
}

static void wait_in_epoll(struct board *board)
{
    int ep = epoll_create1(0);
    struct epoll_event event;

    for (;;) {
        if (epoll_wait(ep, &event, 1, -1) < 0)
            board->calls_failed++;
    }
}

static void wait_in_sigtimedwait(struct board *board)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;) {
        if (sigwaitinfo(&set, NULL) < 0)
            board->calls_failed++;
    }
}

static void wait_in_sleep(struct board *board)
{
    struct timespec left = {1000, 0};

    for (;;) {
        if (nanosleep(&left, &left) < 0)
            board->calls_failed++;
    }
}

// No call fails because of a freeze.
static void test_calls(void)
{
    static void (*const bodies[])(struct board *) = {
        wait_in_epoll,
        wait_in_sigtimedwait,
        wait_in_sleep,
    };
    g_autoptr(peer) p = peer_new();

    hello(p, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(bodies); i++) {
        struct board *board = board_new();
        pid_t pid = start(bodies[i], board);

        wait_state(pid, "S");
        for (int round = 0; round < 3; round++) {
            send_freeze(p, pid);
            json_object_put(expect(p, AGENT_FROZEN));
            agent_wire_queue_json(p->wire, AGENT_THAW, NULL);
            json_object_put(expect(p, AGENT_THAWED));
            wait_state(pid, "S");
        }
        g_assert_cmpint(board->calls_failed, ==, 0);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

static void on_usr1(int sig)
{
}

static void wait_with_handler(struct board *board)
{
    struct sigaction action = {.sa_handler = on_usr1};

    sigaction(SIGUSR1, &action, NULL);
    board->count = 1;
    wait_in_epoll(board);
}

// A signal that comes while frozen still ends the call: a program may rely on that.
static void test_signal_while_frozen(void)
{
    g_autoptr(peer) p = peer_new();
    struct board *board = board_new();
    pid_t pid = start(wait_with_handler, board);

    while (board->count == 0)
        g_usleep(1000);
    wait_state(pid, "S");
    hello(p, 1);
    send_freeze(p, pid);
    json_object_put(expect(p, AGENT_FROZEN));
    kill(pid, SIGUSR1);
    agent_wire_queue_json(p->wire, AGENT_THAW, NULL);
    json_object_put(expect(p, AGENT_THAWED));
    for (int i = 0; i < 60000 && board->calls_failed == 0; i++)
        g_usleep(1000);
    g_assert_cmpint(board->calls_failed, ==, 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc != 2)
        g_error("usage: agent_session AGENT");
    agent_path = argv[1];
    g_test_add_func("/session/hello", test_hello);
    g_test_add_func("/session/heartbeat", test_heartbeat);
    g_test_add_func("/session/lost-frame", test_lost_frame);
    g_test_add_func("/session/freeze-thaw", test_freeze_thaw);
    g_test_add_func("/session/freeze-finish", test_freeze_finish);
    g_test_add_func("/session/hang-up", test_hang_up);
    g_test_add_func("/session/worker-dies", test_worker_dies);
    g_test_add_func("/session/refused", test_refused);
    g_test_add_func("/session/calls", test_calls);
    g_test_add_func("/session/signal-while-frozen", test_signal_while_frozen);
    return g_test_run();
}
