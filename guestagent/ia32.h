// SPDX-License-Identifier: GPL-2.0-or-later
// Calls of i386 that the agent has threads make.
#pragma once

#include "guestagent/remote.h"

#define IA32_GETPID                 20
#define IA32_SIGSUSPEND             72
#define IA32_MUNMAP                 91
#define IA32_POLL                   168
#define IA32_RT_SIGACTION           174
#define IA32_RT_SIGSUSPEND          179
#define IA32_CLOCK_NANOSLEEP        267
#define IA32_PSELECT6               308
#define IA32_PPOLL                  309
#define IA32_SET_ROBUST_LIST        311
#define IA32_EPOLL_PWAIT            319
#define IA32_CLOCK_NANOSLEEP_TIME64 407
#define IA32_PSELECT6_TIME64        413
#define IA32_PPOLL_TIME64           414
#define IA32_FUTEX_TIME64           422

// SA_IA32_ABI: the kernel's own mark of an action that a call of i386 has set.
#define AGENT_SA_IA32 0x02000000ull

struct fmt_sigaction;

bool agent_ia32_sigaction(const struct agent_tracee *t, const struct fmt_sigaction *a,
                          GError **error);
