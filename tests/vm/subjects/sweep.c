// SPDX-License-Identifier: GPL-2.0-or-later
// No subject: leaves nothing of one to the next in a guest that has no other use: sweep WORKDIR
//
// Not of the processes, in whatever session they are; not of the work directory; not of objects of
// System V and message queues, which outlive their process where that was moved away.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUES "/tmp/.queues"

static _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

// Whether an argument of the process speaks of the directory.
static bool speaks_of(pid_t pid, const char *workdir)
{
    char path[64], text[4096];

    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);

    if (fd >= 0)
        close(fd);
    return n > 0 && memmem(text, (size_t)n, workdir, strlen(workdir));
}

static unsigned kill_once(const char *workdir)
{
    DIR *proc = opendir("/proc");
    unsigned found = 0;

    if (!proc)
        die("/proc");
    for (const struct dirent *entry; (entry = readdir(proc));) {
        const pid_t pid = atoi(entry->d_name);

        // Who has called us speaks of it as well.
        if (pid > 1 && pid != getpid() && pid != getppid() && speaks_of(pid, workdir)) {
            kill(pid, SIGKILL);
            found++;
        }
    }
    closedir(proc);
    return found;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void remove_shm(int id)
{
    shmctl(id, IPC_RMID, NULL);
}

static void remove_sem(int id)
{
    semctl(id, 0, IPC_RMID);
}

static void remove_msg(int id)
{
    msgctl(id, IPC_RMID, NULL);
}

static void remove_objects(const char *path, void (*remove_object)(int))
{
    FILE *list = fopen(path, "re");
    char line[512];
    int id;

    if (!list)
        die(path);
    while (fgets(line, sizeof line, list))
        if (sscanf(line, "%*d %d", &id) == 1)
            remove_object(id);
    fclose(list);
}

static void remove_queues(void)
{
    DIR *queues;

    if ((mkdir(QUEUES, 0700) < 0 && errno != EEXIST) ||
        mount("none", QUEUES, "mqueue", 0, NULL) < 0 || !(queues = opendir(QUEUES)))
        die(QUEUES);
    for (const struct dirent *entry; (entry = readdir(queues));)
        unlinkat(dirfd(queues), entry->d_name, 0); // all but . and ..
    closedir(queues);
    if (umount(QUEUES) < 0 || rmdir(QUEUES) < 0)
        die(QUEUES);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    while (kill_once(argv[1]))
        usleep(1000);
    if (nftw(argv[1], remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
        die(argv[1]);
    remove_objects("/proc/sysvipc/shm", remove_shm);
    remove_objects("/proc/sysvipc/sem", remove_sem);
    remove_objects("/proc/sysvipc/msg", remove_msg);
    remove_queues();
    return 0;
}
