// SPDX-License-Identifier: GPL-2.0-or-later
// Who the process is and what it may: users, groups, capabilities, limits, place, scheduling.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define PR_SET_IO_FLUSHER_ 57
#define PR_GET_IO_FLUSHER_ 58

#define IOPRIO_HELD ((2 << 13) | 3) // best effort, level 3

struct identity {
    uid_t uid[4]; // real, effective, saved, file system
    gid_t gid[4];
    int n_groups;
    gid_t groups[8];
    struct __user_cap_data_struct caps[2];
    uint64_t bounding, ambient;
    int securebits, no_new_privs, keepcaps, dumpable, pdeathsig, subreaper, thp, timerslack;
    struct rlimit limits[RLIM_NLIMITS];
    mode_t mask;
    char cwd[256], comm[16], oom[16];
    int nice, policy, ioprio;
    int io_flusher, mce_kill;
    cpu_set_t cpus;
    pid_t pid, pgid, sid;
};

static struct identity before;

static uint64_t bits(int option, int sub)
{
    uint64_t set = 0;

    for (int cap = 0; cap <= 40; cap++) {
        const int has = sub ? prctl(option, sub, cap, 0, 0) : prctl(option, cap, 0, 0, 0);

        set |= (uint64_t)(has == 1) << cap;
    }
    return set;
}

static void read_oom(char text[16])
{
    const int fd = open("/proc/self/oom_score_adj", O_RDONLY);

    CHECK(fd >= 0 && read(fd, text, 15) > 0, "oom_score_adj: %m");
    close(fd);
}

static void look(struct identity *id)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

    memset(id, 0, sizeof *id);
    MUST(getresuid(&id->uid[0], &id->uid[1], &id->uid[2]) == 0);
    MUST(getresgid(&id->gid[0], &id->gid[1], &id->gid[2]) == 0);
    id->uid[3] = (uid_t)syscall(SYS_setfsuid, -1);
    id->gid[3] = (gid_t)syscall(SYS_setfsgid, -1);
    id->n_groups = getgroups(8, id->groups);
    MUST(syscall(SYS_capget, &header, id->caps) == 0);
    id->bounding = bits(PR_CAPBSET_READ, 0);
    id->ambient = bits(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET);
    id->securebits = prctl(PR_GET_SECUREBITS);
    id->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    id->keepcaps = prctl(PR_GET_KEEPCAPS);
    id->dumpable = prctl(PR_GET_DUMPABLE);
    MUST(prctl(PR_GET_PDEATHSIG, &id->pdeathsig) == 0);
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &id->subreaper) == 0);
    id->thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    id->timerslack = prctl(PR_GET_TIMERSLACK);
    for (int i = 0; i < RLIM_NLIMITS; i++)
        MUST(getrlimit(i, &id->limits[i]) == 0);
    id->mask = umask(0);
    umask(id->mask);
    MUST(getcwd(id->cwd, sizeof id->cwd));
    MUST(prctl(PR_GET_NAME, id->comm) == 0);
    id->nice = getpriority(PRIO_PROCESS, 0);
    id->policy = sched_getscheduler(0);
    id->ioprio = (int)syscall(SYS_ioprio_get, 1, 0);
    MUST(sched_getaffinity(0, sizeof id->cpus, &id->cpus) == 0);
    id->io_flusher = prctl(PR_GET_IO_FLUSHER_, 0, 0, 0, 0);
    id->mce_kill = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
    id->pid = getpid();
    id->pgid = getpgid(0);
    id->sid = getsid(0);
}

static void limit(int resource, rlim_t cur, rlim_t max)
{
    MUST(setrlimit(resource, &(struct rlimit){cur, max}) == 0);
}

static void write_oom(const char *text)
{
    const int fd = open("/proc/self/oom_score_adj", O_WRONLY);

    MUST(fd >= 0 && write(fd, text, strlen(text)) > 0);
    close(fd);
}

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    const struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)}};

    MUST(syscall(SYS_capset, &header, data) == 0);
}

static void become(void)
{
    const gid_t groups[] = {7, 100, 4242, 99999};
    const uint64_t kept = 1 << CAP_NET_ADMIN | 1 << CAP_KILL | 1 << CAP_SETUID;
    cpu_set_t first;

    MUST(chdir(subject.workdir) == 0);
    umask(027);
    limit(RLIMIT_NOFILE, 77, 1000);
    limit(RLIMIT_CORE, 4096, 8192);
    limit(RLIMIT_STACK, 3 << 20, RLIM_INFINITY);
    limit(RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY);
    write_oom("123");
    MUST(setpriority(PRIO_PROCESS, 0, 5) == 0);
    MUST(syscall(SYS_ioprio_set, 1, 0, IOPRIO_HELD) == 0);
    MUST(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}) == 0);
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    MUST(sched_setaffinity(0, sizeof first, &first) == 0);
    MUST(prctl(PR_SET_NAME, "\xff(not) \xc3 1\x80") == 0);
    MUST(prctl(PR_SET_TIMERSLACK, 123456) == 0);
    MUST(prctl(PR_SET_IO_FLUSHER_, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) == 0);
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP) == 0);
    MUST(setgroups(4, groups) == 0);
    MUST(setresgid(1001, 1002, 1003) == 0);
    MUST(setresuid(2001, 2002, 2003) == 0);
    set_caps(kept, kept | 1 << CAP_CHOWN, kept);
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) == 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_PDEATHSIG, SIGWINCH) == 0); // ignored by default
}

#define SAME(member)                                                                               \
    CHECK(memcmp(&now.member, &before.member, sizeof now.member) == 0, #member " changed")

static void compare(void)
{
    struct identity now;

    look(&now);
    SAME(uid);
    SAME(gid);
    SAME(n_groups);
    SAME(groups);
    SAME(caps);
    SAME(bounding);
    SAME(ambient);
    SAME(securebits);
    SAME(no_new_privs);
    SAME(keepcaps);
    CHECK(now.dumpable == before.dumpable, "dumpable is %d, not %d", now.dumpable, before.dumpable);
    SAME(pdeathsig);
    SAME(subreaper);
    SAME(thp);
    CHECK(now.timerslack == before.timerslack, "timer slack is %d", now.timerslack);
    for (int i = 0; i < RLIM_NLIMITS; i++)
        CHECK(now.limits[i].rlim_cur == before.limits[i].rlim_cur &&
                  now.limits[i].rlim_max == before.limits[i].rlim_max,
              "limit %d is %lu of %lu, not %lu of %lu", i, now.limits[i].rlim_cur,
              now.limits[i].rlim_max, before.limits[i].rlim_cur, before.limits[i].rlim_max);
    CHECK(now.mask == before.mask, "umask is %o", now.mask);
    CHECK(strcmp(now.cwd, before.cwd) == 0, "directory is %s", now.cwd);
    CHECK(strcmp(now.comm, before.comm) == 0, "name is %s", now.comm);
    CHECK(now.nice == before.nice, "nice value is %d, not %d", now.nice, before.nice);
    CHECK(now.policy == before.policy, "policy is %d", now.policy);
    CHECK(now.ioprio == before.ioprio, "I/O priority is %x", now.ioprio);
    SAME(cpus);
    SAME(io_flusher);
    SAME(mce_kill);
    CHECK(now.pid == before.pid, "pid is %d", now.pid);
    CHECK(now.pgid == before.pgid && now.sid == before.sid,
          "group %d and session %d, not %d and %d", now.pgid, now.sid, before.pgid, before.sid);
}

int main(int argc, char **argv)
{
    char oom[16] = "";

    subject_begin(argc, argv);
    become();
    look(&before);
    read_oom(before.oom);
    subject_ready();
    if (subject.sabotage)
        MUST(setpriority(PRIO_PROCESS, 0, 6) == 0);
    do {
        compare();
        subject_sleep_ms(1);
    } while (!subject_asked());
    read_oom(oom); // not while it may be moved: an open file of /proc is refused
    CHECK(strcmp(oom, before.oom) == 0, "oom_score_adj is %s", oom);
    subject_pass();
}
