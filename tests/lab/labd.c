// SPDX-License-Identifier: GPL-2.0-or-later
// labd runs commands inside a lab guest for the `lab` command on the host.
//
// Any number of commands run at once; a slow or vanished reader stalls nobody else; time may stop
// (the guest is paused) or jump at any moment, so nothing here asks for it. labd_port.h has the
// protocol.

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "labd_command.h"
#include "labd_port.h"

#define MAX_CHANNELS 256
#define REOPEN_MS    200

struct channel {
    uint32_t id; // 0: unused slot
    pid_t pid;
    bool exited;
    int status;    // as wait(2) gives it, once exited
    int in;        // write end of the command's stdin, -1 once closed
    bool in_eof;   // close `in` when `pending` has drained
    int out[2];    // read ends of stdout and stderr, -1 once closed
    size_t credit; // bytes of output that the host still takes
    struct buffer pending;
};

static struct port port;
static struct channel channels[MAX_CHANNELS];

static struct channel *channel_find(uint32_t id)
{
    for (int i = 0; i < MAX_CHANNELS; i++)
        if (channels[i].id == id)
            return &channels[i];
    return NULL;
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void channel_free(struct channel *channel)
{
    close_end(&channel->in);
    close_end(&channel->out[0]);
    close_end(&channel->out[1]);
    free(channel->pending.data);
    memset(channel, 0, sizeof *channel);
}

// The host no longer listens: end the command and what it left in its process group.
static void channel_hangup(struct channel *channel)
{
    if (!channel->exited)
        kill(-channel->pid, SIGKILL);
    channel_free(channel);
}

static void exec_detached(uint32_t id, const struct command *command, const struct passwd *user)
{
    const char *output = command->output ? command->output : "/dev/null";
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (in < 0 || out < 0) {
        port_send_failure(&port, id, errno, out < 0 ? output : "/dev/null");
    } else {
        pid_t pid = command_spawn(command, user, (int[]){in, out, out});
        if (pid < 0)
            port_send_failure(&port, id, errno, command->argv[0]);
        else
            port_send_number(&port, FRAME_STARTED, id, pid);
    }
    close_end(&in);
    close_end(&out);
}

static void exec_attached(uint32_t id, const struct command *command, const struct passwd *user)
{
    struct channel *channel = channel_find(0);
    int theirs[3], ours[3];

    if (!channel) {
        port_send_failure(&port, id, EAGAIN, command->argv[0]);
        return;
    }
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC))
            die("pipe");
        theirs[i] = ends[i ? 1 : 0];
        ours[i] = ends[i ? 0 : 1];
        // Ours alone: each end of a pipe has flags of its own.
        fcntl(ours[i], F_SETFL, O_NONBLOCK);
    }
    *channel = (struct channel){
        .id = id, .in = ours[0], .out = {ours[1], ours[2]}, .credit = PORT_WINDOW_BYTES};
    channel->pid = command_spawn(command, user, theirs);
    if (channel->pid < 0) {
        port_send_failure(&port, id, errno, command->argv[0]);
        channel_free(channel);
    } else {
        port_send_number(&port, FRAME_STARTED, id, channel->pid);
    }
    for (int i = 0; i < 3; i++)
        close(theirs[i]);
}

static void handle_exec(const struct frame *head)
{
    static struct command command;

    if (!head->channel || channel_find(head->channel) ||
        !command_parse((char *)(head + 1), head->length, &command)) {
        port_send_failure(&port, head->channel, EINVAL, "request");
        return;
    }
    struct passwd user;
    if (!command_user(command.user ? command.user : "0", &user))
        port_send_failure(&port, head->channel, EINVAL, command.user);
    else if (command.detach)
        exec_detached(head->channel, &command, &user);
    else
        exec_attached(head->channel, &command, &user);
}

static void handle_frame(const struct frame *head)
{
    struct channel *channel = head->channel ? channel_find(head->channel) : NULL;
    uint32_t number;

    if (head->type == FRAME_EXEC) {
        handle_exec(head);
    } else if (!channel) {
        return; // it has ended; the host did not know yet
    } else if (head->type == FRAME_STDIN) {
        channel->in_eof |= head->length == 0;
        buffer_append(&channel->pending, head + 1, head->length);
    } else if (head->type == FRAME_CREDIT && head->length == sizeof number) {
        memcpy(&number, head + 1, sizeof number);
        channel->credit += number;
    } else if (head->type == FRAME_HANGUP) {
        channel_hangup(channel);
    }
}

static void feed_stdin(struct channel *channel)
{
    struct buffer *pending = &channel->pending;
    size_t held = buffer_length(pending);

    if (held && channel->in >= 0) {
        ssize_t put = write(channel->in, pending->data + pending->start, held);
        if (put > 0)
            pending->start += put;
        else if (put < 0 && errno != EAGAIN && errno != EINTR)
            close_end(&channel->in);
    }
    if (channel->in < 0)
        pending->start = pending->end; // the command reads no more: swallow the rest
    if (held > buffer_length(pending))
        port_send_number(&port, FRAME_CREDIT, channel->id, held - buffer_length(pending));
    if (channel->in_eof && !buffer_length(pending))
        close_end(&channel->in);
}

// True when something was taken from the pipe.
static bool drain_output(struct channel *channel, int which)
{
    uint8_t chunk[PORT_MAX_PAYLOAD_BYTES];
    int *fd = &channel->out[which];
    size_t want = channel->credit < sizeof chunk ? channel->credit : sizeof chunk;

    if (*fd < 0 || !want || buffer_length(&port.outgoing) > PORT_WINDOW_BYTES)
        return false;
    ssize_t got = read(*fd, chunk, want);
    if (got > 0) {
        channel->credit -= got;
        port_send(&port, which ? FRAME_STDERR : FRAME_STDOUT, channel->id, chunk, got);
    } else if (got == 0) {
        close_end(fd);
    }
    return got > 0;
}

static bool output_empty(int fd)
{
    struct pollfd item = {fd, POLLIN, 0};

    return fd < 0 || poll(&item, 1, 0) == 0 || !(item.revents & POLLIN);
}

static void channel_step(struct channel *channel)
{
    feed_stdin(channel);
    for (int which = 0; which < 2; which++)
        while (drain_output(channel, which))
            ;
    // Not the end of file: a background child may hold the pipes open for ever.
    if (channel->exited && output_empty(channel->out[0]) && output_empty(channel->out[1])) {
        int status = channel->status;
        port_send_number(&port, FRAME_EXIT, channel->id,
                         WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        channel_free(channel);
    }
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    int status;
    pid_t pid;

    while (read(signals, &info, sizeof info) > 0)
        ;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id && channels[i].pid == pid) {
                channels[i].exited = true;
                channels[i].status = status;
            }
}

static void watch(struct pollfd *items, nfds_t *count, int fd, short events)
{
    if (fd >= 0)
        items[(*count)++] = (struct pollfd){fd, events, 0};
}

// One round: wait for anything to do, then do it. False when the host has left.
static bool serve(int signals)
{
    static struct pollfd items[2 + 3 * MAX_CHANNELS];
    size_t queued = buffer_length(&port.outgoing);
    nfds_t count = 0;

    watch(items, &count, port.fd, POLLIN | (queued ? POLLOUT : 0));
    watch(items, &count, signals, POLLIN);
    for (struct channel *channel = channels; channel < channels + MAX_CHANNELS; channel++) {
        if (!channel->id)
            continue;
        bool room = channel->credit && queued <= PORT_WINDOW_BYTES;
        watch(items, &count, buffer_length(&channel->pending) ? channel->in : -1, POLLOUT);
        for (int which = 0; which < 2; which++)
            watch(items, &count, room ? channel->out[which] : -1, POLLIN);
    }
    if (poll(items, count, -1) < 0 && errno != EINTR)
        die("poll");
    if (items[0].revents & POLLHUP || (items[0].revents & POLLIN && !port_read(&port)))
        return false;
    const struct frame *head;
    while ((head = port_next(&port)))
        handle_frame(head);
    // After the frames: a command started by one may have ended already.
    reap(signals);
    for (struct channel *channel = channels; channel < channels + MAX_CHANNELS; channel++)
        if (channel->id)
            channel_step(channel);
    port_flush(&port);
    return true;
}

static int watch_children(void)
{
    sigset_t mask;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0)
        die("signalfd");
    return signals;
}

// QEMU before 8.1 may keep a translation of code that another vCPU has just patched: the breakpoint
// instruction that the kernel puts there for the moment of patching then hits for ever, a panic in
// __schedule(). The kernel patches the scheduler when the first event of perf comes and when the
// last one goes. So one is always there.
static void keep_perf_on(void)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_DUMMY,
    };

    // Kernels without perf have nothing to patch.
    syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(int argc, char **argv)
{
    // Descriptors 0-2 must be taken, so that all later ones lie above.
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2)
        fd = dup(fd);
    close(fd);

    // `labd --ports` runs once at boot, before labd and the agent.
    ports_link();
    if (argc > 1)
        return strcmp(argv[1], "--ports") != 0;
    keep_perf_on();
    int signals = watch_children();
    port_open(&port);
    for (;;) {
        if (port_greet(&port))
            while (serve(signals))
                ;
        for (int i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id)
                channel_hangup(&channels[i]);
        usleep(REOPEN_MS * 1000);
    }
}
