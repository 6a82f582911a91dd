// SPDX-License-Identifier: GPL-2.0-or-later
// Turn the words of an EXEC frame into a process.

#include "labd_command.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

bool command_parse(char *data, size_t length, struct command *ret)
{
    char *word = data, *end = data + length;
    size_t count = 0;

    if (!length || end[-1])
        return false;
    *ret = (struct command){0};
    for (; word < end && *word; word += strlen(word) + 1) {
        if (!strcmp(word, "detach=1"))
            ret->detach = true;
        else if (!strncmp(word, "user=", 5))
            ret->user = word + 5;
        else if (!strncmp(word, "output=", 7))
            ret->output = word + 7;
        else
            return false;
    }
    for (word++; word < end && count < COMMAND_MAX_WORDS; word += strlen(word) + 1)
        ret->argv[count++] = word;
    return count && word >= end;
}

// No getpwnam: NSS cannot be linked statically.
bool command_user(const char *user, struct passwd *ret)
{
    char *end;
    unsigned long uid = strtoul(user, &end, 10);
    bool numeric = *user && !*end;
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *entry = NULL;

    while (file && (entry = fgetpwent(file)))
        if (numeric ? entry->pw_uid == uid : !strcmp(entry->pw_name, user))
            break;
    if (file)
        fclose(file);
    if (entry)
        *ret = *entry;
    else if (numeric)
        *ret = (struct passwd){
            .pw_name = (char *)user, .pw_uid = uid, .pw_gid = uid, .pw_dir = (char *)"/"};
    return entry || numeric;
}

static bool become_user(const struct passwd *user)
{
    if (setgroups(0, NULL) || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) ||
        setresuid(user->pw_uid, user->pw_uid, user->pw_uid))
        return false;
    clearenv();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", user->pw_dir, 1);
    setenv("USER", user->pw_name, 1);
    setenv("LANG", "C.UTF-8", 1);
    return true;
}

// The child's side. `report` closes when the command runs and carries errno when it does not.
static _Noreturn void child(const struct command *command, const struct passwd *user,
                            const int fds[3], int report)
{
    sigset_t none;

    setsid();
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    if (become_user(user))
        execvp(command->argv[0], command->argv);
    int error = errno;
    _exit(write(report, &error, sizeof error) < 0);
}

pid_t command_spawn(const struct command *command, const struct passwd *user, const int fds[3])
{
    int report[2], error = 0;

    if (pipe2(report, O_CLOEXEC))
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        child(command, user, fds, report[1]);
    if (pid < 0)
        error = errno;
    close(report[1]);
    if (pid > 0 && read(report[0], &error, sizeof error) == sizeof error) {
        waitpid(pid, NULL, 0);
        pid = -1;
    }
    close(report[0]);
    errno = error;
    return pid;
}
