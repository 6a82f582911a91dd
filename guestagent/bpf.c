// SPDX-License-Identifier: GPL-2.0-or-later
// Classic BPF as seccomp uses it (kernel/seccomp.c: seccomp_check_filter, net/core/filter.c).

#include "guestagent/bpf.h"

#include <linux/audit.h>
#include <string.h>
#include <sys/syscall.h>

#define N_WORDS (BPF_MEMWORDS)

// What is allowed beside loads, stores and jumps, whose operands are checked as well.
static const uint16_t plain[] = {
    BPF_LD | BPF_W | BPF_LEN,  BPF_LDX | BPF_W | BPF_LEN, BPF_LD | BPF_IMM,
    BPF_LDX | BPF_IMM,         BPF_MISC | BPF_TAX,        BPF_MISC | BPF_TXA,
    BPF_RET | BPF_K,           BPF_RET | BPF_A,           BPF_ALU | BPF_ADD | BPF_K,
    BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_SUB | BPF_K, BPF_ALU | BPF_SUB | BPF_X,
    BPF_ALU | BPF_MUL | BPF_K, BPF_ALU | BPF_MUL | BPF_X, BPF_ALU | BPF_DIV | BPF_X,
    BPF_ALU | BPF_AND | BPF_K, BPF_ALU | BPF_AND | BPF_X, BPF_ALU | BPF_OR | BPF_K,
    BPF_ALU | BPF_OR | BPF_X,  BPF_ALU | BPF_XOR | BPF_K, BPF_ALU | BPF_XOR | BPF_X,
    BPF_ALU | BPF_LSH | BPF_X, BPF_ALU | BPF_RSH | BPF_X, BPF_ALU | BPF_NEG,
};

static bool is_plain(uint16_t code)
{
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (plain[i] == code)
            return true;
    }
    return false;
}

static bool is_valid(const struct sock_filter *insn, size_t left)
{
    switch (insn->code) {
    case BPF_LD | BPF_W | BPF_ABS:
        return insn->k % 4 == 0 && insn->k <= sizeof(struct seccomp_data) - 4;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return insn->k < N_WORDS;
    case BPF_ALU | BPF_DIV | BPF_K:
        return insn->k != 0;
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K:
        return insn->k < 32;
    case BPF_JMP | BPF_JA:
        return insn->k < left;
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X:
        return insn->jt < left && insn->jf < left;
    default:
        return is_plain(insn->code);
    }
}

bool agent_bpf_is_valid(const struct sock_filter *insns, size_t n)
{
    if (n == 0 || n > BPF_MAXINSNS || BPF_CLASS(insns[n - 1].code) != BPF_RET)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!is_valid(&insns[i], n - i - 1))
            return false;
    }
    return true;
}

bool agent_bpf_sees_place(const struct sock_filter *insns, size_t n)
{
    const size_t start = offsetof(struct seccomp_data, instruction_pointer);

    for (size_t i = 0; i < n; i++) {
        if (insns[i].code == (BPF_LD | BPF_W | BPF_ABS) && insns[i].k >= start &&
            insns[i].k < start + sizeof(uint64_t))
            return true;
    }
    return false;
}

struct machine {
    uint32_t a, x, memory[N_WORDS];
};

static uint32_t loaded(const struct sock_filter *insn, const struct machine *m,
                       const struct seccomp_data *data)
{
    uint32_t word;

    switch (BPF_MODE(insn->code)) {
    case BPF_ABS:
        memcpy(&word, (const uint8_t *)data + insn->k, sizeof word);
        return word;
    case BPF_MEM:
        return m->memory[insn->k];
    case BPF_LEN:
        return sizeof *data;
    default:
        return insn->k;
    }
}

static uint32_t computed(uint16_t op, uint32_t a, uint32_t b)
{
    switch (op) {
    case BPF_ADD:
        return a + b;
    case BPF_SUB:
        return a - b;
    case BPF_MUL:
        return a * b;
    case BPF_DIV:
        return b ? a / b : 0;
    case BPF_AND:
        return a & b;
    case BPF_OR:
        return a | b;
    case BPF_XOR:
        return a ^ b;
    case BPF_LSH:
        return a << (b & 31);
    case BPF_RSH:
        return a >> (b & 31);
    default:
        return -a;
    }
}

// How many instructions a jump passes over.
static uint32_t jump(const struct sock_filter *insn, uint32_t a, uint32_t b)
{
    switch (BPF_OP(insn->code)) {
    case BPF_JEQ:
        return a == b ? insn->jt : insn->jf;
    case BPF_JGT:
        return a > b ? insn->jt : insn->jf;
    case BPF_JGE:
        return a >= b ? insn->jt : insn->jf;
    case BPF_JSET:
        return a & b ? insn->jt : insn->jf;
    default:
        return insn->k;
    }
}

uint32_t agent_bpf_run(const struct sock_filter *insns, size_t n, const struct seccomp_data *data)
{
    struct machine m = {0};

    for (size_t i = 0; i < n; i++) {
        const struct sock_filter *insn = &insns[i];
        const uint32_t operand = BPF_SRC(insn->code) == BPF_X ? m.x : insn->k;

        switch (BPF_CLASS(insn->code)) {
        case BPF_LD:
            m.a = loaded(insn, &m, data);
            break;
        case BPF_LDX:
            m.x = loaded(insn, &m, data);
            break;
        case BPF_ST:
            m.memory[insn->k] = m.a;
            break;
        case BPF_STX:
            m.memory[insn->k] = m.x;
            break;
        case BPF_ALU:
            // A division by zero ends the filter.
            if (BPF_OP(insn->code) == BPF_DIV && operand == 0)
                return 0;
            m.a = computed(BPF_OP(insn->code), m.a, operand);
            break;
        case BPF_JMP:
            i += jump(insn, m.a, operand);
            break;
        case BPF_RET:
            return BPF_RVAL(insn->code) == BPF_A ? m.a : insn->k;
        case BPF_MISC:
            if (BPF_MISCOP(insn->code) == BPF_TAX)
                m.x = m.a;
            else
                m.a = m.x;
        }
    }
    return 0;
}

bool agent_bpf_allows_restart(const struct sock_filter *insns, size_t n, bool ia32, uint64_t ip)
{
    const struct seccomp_data data = {
        .nr = ia32 ? 0 : SYS_restart_syscall,
        .arch = ia32 ? AUDIT_ARCH_I386 : AUDIT_ARCH_X86_64,
        .instruction_pointer = ip,
    };
    const uint32_t verdict = agent_bpf_run(insns, n, &data) & SECCOMP_RET_ACTION_FULL;

    return verdict == SECCOMP_RET_ALLOW || verdict == SECCOMP_RET_LOG;
}
