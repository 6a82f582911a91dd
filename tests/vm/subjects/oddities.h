// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptors of what no other guest can give: -1 with errno where this one has it not, either.
#pragma once

int open_bpf_map(void);
int open_perf(void);
int open_kmsg(void);
int open_fanotify(void);
int open_debugfs(void);
int open_fscontext(void);
int open_uts_namespace(void);
int open_netlink(void);
