// SPDX-License-Identifier: GPL-2.0-or-later
// Classic BPF as seccomp uses it: what a filter says of a call.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whether the kernel would take it: known instructions, jumps within, a return at the end.
bool agent_bpf_is_valid(const struct sock_filter *insns, size_t n);

// Whether a valid filter looks at where a call comes from.
bool agent_bpf_sees_place(const struct sock_filter *insns, size_t n);

// What a valid filter returns: SECCOMP_RET_* with its data.
uint32_t agent_bpf_run(const struct sock_filter *insns, size_t n, const struct seccomp_data *data);

// Whether a valid filter lets a call go on by restart_syscall, entered from this instruction.
bool agent_bpf_allows_restart(const struct sock_filter *insns, size_t n, bool ia32, uint64_t ip);
