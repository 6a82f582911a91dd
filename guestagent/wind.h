// SPDX-License-Identifier: GPL-2.0-or-later
// Internal to freezing and release: system calls of stopped threads, by their registers.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Is a handler about to run? Then the program is meant to see EINTR.
bool agent_wind_handler_waits(pid_t tid);
// A traced thread is woken by signals that a process would never notice: SIGCHLD above all, when a
// child ends.
bool agent_wind_is_ignored(pid_t tid, int sig);
// Returns whether the thread is about to enter a call again that a signal would end. A short read
// has run after its handler when a signal comes then, which is no difference.
bool agent_wind_back(pid_t tid);
// Has such a call end with EINTR after all.
void agent_wind_on(pid_t tid);
// Has a call begin anew (its timeout starts over) where the kernel would go on with
// restart_syscall, which a seccomp filter of the thread does not allow.
void agent_wind_past_seccomp(pid_t tid);
