// SPDX-License-Identifier: GPL-2.0-or-later
// Where in the kernel a task sleeps: unwinding with ORC (arch/x86/kernel/unwind_orc.c).
#include "introspect/orc.h"

#include <string.h>

#include "introspect/kernel_private.h"
#include "introspect/reader.h"

/*
 * Two parallel tables in the kernel image: __start_orc_unwind_ip holds sorted self-relative
 * addresses, __start_orc_unwind a six-byte struct orc_entry for each, which tells how to get from a
 * function's stack pointer to its caller's. We only unwind sleeping tasks, which have no interrupt
 * stacks in between, so the plain cases are enough; anything else ends the chain as incomplete.
 */
// The words that __switch_to_asm has pushed: r15 r14 r13 r12 bx bp, and its return address.
#define SWITCH_FRAME_WORDS 7
#define PT_REGS_BYTES      168
#define MAX_ENTRIES        (1u << 24)
#define MAX_LEARN          (1u << 14)

struct tables {
    struct gva ips, entries;
    uint64_t n;
    uint32_t stride;
};

struct orc {
    int64_t sp_offset, bp_offset;
    uint64_t sp_reg, bp_reg, type;
};

struct frame {
    uint64_t ip, sp, bp;
};

static bool find_tables(IntroKernel *k, struct tables *ret)
{
    struct gva ips_end;

    ret->stride = intro_sizeof(k, T_orc_entry);
    if (!intro_symbol(k, "__start_orc_unwind_ip", &ret->ips, NULL) ||
        !intro_symbol(k, "__stop_orc_unwind_ip", &ips_end, NULL) ||
        !intro_symbol(k, "__start_orc_unwind", &ret->entries, NULL) || !ret->stride)
        return false;
    ret->n = (ips_end.addr - ret->ips.addr) / 4;
    return ret->n > 0 && ret->n <= MAX_ENTRIES;
}

static bool read_entry(IntroKernel *k, const struct tables *t, uint64_t i, struct orc *ret,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva entry = GVA(t->entries.addr + i * t->stride);

    ret->sp_offset = (int64_t)rd(&r, entry, M_orc_sp_offset);
    ret->bp_offset = (int64_t)rd(&r, entry, M_orc_bp_offset);
    ret->sp_reg = rd(&r, entry, M_orc_sp_reg);
    ret->bp_reg = rd(&r, entry, M_orc_bp_reg);
    ret->type = rd(&r, entry, M_orc_type);
    return rd_done(&r, error);
}

// Finds the entry that covers ip: the last one whose address is not above it.
static bool find_entry(IntroKernel *k, const struct tables *t, uint64_t ip, struct orc *ret,
                       GError **error)
{
    uint64_t low = 0, high = t->n;

    while (high - low > 1) {
        uint64_t mid = low + (high - low) / 2;
        struct gva at = GVA(t->ips.addr + 4 * mid);
        uint32_t offset;
        if (!intro_read_u32(k, at, &offset, error))
            return false;
        if (at.addr + (int64_t)(int32_t)offset <= ip)
            low = mid;
        else
            high = mid;
    }
    return read_entry(k, t, low, ret, error);
}

// ORC_TYPE_*: before 6.4 CALL, REGS, REGS_PARTIAL; since then UNDEFINED and END_OF_STACK come
// first, and the field has three bits.
static bool is_call(IntroKernel *k, const struct orc *orc)
{
    return orc->type == (intro_place(k, M_orc_type)->bit_size >= 3 ? 2 : 0);
}

// ORC_REG_*: those of 4.14, and those of 7.2.
static const struct intro_orc_regs numberings[] = {
    {.sp = 5, .bp = 4, .prev_sp = 1, .bp_indirect = 8},
    {.sp = 3, .bp = 4, .prev_sp = 8, .bp_indirect = 10},
};

/*
 * No type tells how the registers are numbered. Every prologue does: a function begins with its
 * return address at SP, and `push rbp` makes entries that find the caller's rbp 16 below the
 * caller's SP; so does `mov rbp, rsp` after it, by rbp.
 */
void intro_orc_learn(IntroKernel *k)
{
    struct intro_orc_regs regs = {0};
    struct tables t;
    struct gva function;
    struct orc orc;

    if (!find_tables(k, &t) || !intro_symbol(k, "schedule", &function, NULL) ||
        !find_entry(k, &t, function.addr, &orc, NULL) || !is_call(k, &orc) || orc.sp_offset != 8)
        return;
    regs.sp = (uint8_t)orc.sp_reg;
    for (uint64_t i = 0; i < MIN(t.n, MAX_LEARN) && !(regs.bp && regs.prev_sp); i++) {
        if (!read_entry(k, &t, i, &orc, NULL))
            return;
        if (!is_call(k, &orc) || orc.sp_offset != 16 || orc.bp_offset != -16)
            continue;
        if (orc.sp_reg == regs.sp)
            regs.prev_sp = (uint8_t)orc.bp_reg;
        else
            regs.bp = (uint8_t)orc.sp_reg;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(numberings); i++)
        if (numberings[i].sp == regs.sp && numberings[i].bp == regs.bp &&
            numberings[i].prev_sp == regs.prev_sp)
            k->orc_regs = numberings[i];
}

// From a function to its caller. *ret_more is false where the chain ends here.
static bool step(IntroKernel *k, struct frame *f, uint64_t stack_end, struct gva user_regs,
                 bool *ret_more, bool *ret_complete, GError **error)
{
    const struct intro_orc_regs *regs = &k->orc_regs;
    struct tables t;
    struct orc orc;

    *ret_more = *ret_complete = false;
    if (!regs->sp || !find_tables(k, &t))
        return true;
    if (!find_entry(k, &t, f->ip - 1, &orc, error))
        return false;
    if (orc.sp_reg != regs->sp && orc.sp_reg != regs->bp && orc.sp_reg != regs->bp_indirect)
        return true;
    uint64_t sp = (orc.sp_reg == regs->sp ? f->sp : f->bp) + (uint64_t)orc.sp_offset;
    // A function that aligns its stack keeps its caller's stack pointer in a word.
    if (orc.sp_reg == regs->bp_indirect && !intro_read_u64(k, GVA(sp), &sp, error))
        return false;

    if (!is_call(k, &orc)) { // the registers that an entry from user mode has saved
        *ret_complete = sp == user_regs.addr;
        return true;
    }
    // The stack only grows towards its end: whatever does not is no chain.
    if (sp <= f->sp || sp > stack_end)
        return true;
    uint64_t bp_at = orc.bp_reg == regs->prev_sp ? sp + (uint64_t)orc.bp_offset
                     : orc.bp_reg == regs->bp    ? f->bp + (uint64_t)orc.bp_offset
                                                 : 0;
    if (bp_at && !intro_read_u64(k, GVA(bp_at), &f->bp, error))
        return false;
    f->sp = sp;
    *ret_more = true;
    return intro_read_u64(k, GVA(sp - 8), &f->ip, error);
}

// What __switch_to_asm has left on the stack of a task that is on no CPU.
static bool read_switch_frame(IntroKernel *k, struct gva task, uint64_t *ret_sp,
                              uint64_t words[SWITCH_FRAME_WORDS], GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);

    *ret_sp = rd(&r, task, M_thread_sp);
    return rd_done(&r, error) &&
           intro_read(k, GVA(*ret_sp), words, SWITCH_FRAME_WORDS * sizeof(*words), error);
}

// Where a task that fork has made begins (arch/x86/entry/entry_64.S): the first since 6.6.
static const char *const births[] = {"ret_from_fork_asm", "ret_from_fork"};

bool intro_never_ran(IntroKernel *k, struct gva task, bool *ret, GError **error)
{
    uint64_t sp, words[SWITCH_FRAME_WORDS];
    struct gva at;

    *ret = false;
    if (!read_switch_frame(k, task, &sp, words, error))
        return false;
    // One that is to run in the kernel has a function in rbx.
    for (size_t i = 0; i < G_N_ELEMENTS(births) && !*ret && !words[4]; i++)
        *ret = intro_symbol(k, births[i], &at, NULL) && words[6] == at.addr;
    return true;
}

bool intro_unwind(IntroKernel *k, struct gva task, struct gva user_regs, struct intro_chain *ret,
                  GError **error)
{
    uint64_t sp, words[SWITCH_FRAME_WORDS];
    bool more = true;

    memset(ret, 0, sizeof(*ret));
    if (!read_switch_frame(k, task, &sp, words, error))
        return false;
    struct frame f = {.ip = words[6], .bp = words[5], .sp = sp + sizeof(words)};

    while (more && ret->n < INTRO_CHAIN_MAX) {
        const char *name = intro_symbol_at(k, GVA(f.ip - 1), NULL);
        if (!name)
            break;
        ret->function[ret->n] = name;
        ret->frame[ret->n++] = f.sp;
        ret->frame[ret->n] = f.sp; // of the last one nothing is known
        if (!step(k, &f, user_regs.addr + PT_REGS_BYTES, user_regs, &more, &ret->complete, error))
            return false;
        if (more || ret->complete)
            ret->frame[ret->n] = more ? f.sp : user_regs.addr;
    }
    return true;
}

static bool is_function(const char *name, const char *function)
{
    size_t len = strlen(function);

    return strncmp(name, function, len) == 0 && (name[len] == '\0' || name[len] == '.');
}

bool intro_chain_is(const struct intro_chain *chain, unsigned i, const char *function)
{
    return is_function(chain->function[i], function);
}

int intro_chain_find(const struct intro_chain *chain, const char *function)
{
    for (unsigned i = 0; i < chain->n; i++)
        if (is_function(chain->function[i], function))
            return (int)i;
    return -1;
}

bool intro_chain_has(const struct intro_chain *chain, const char *function)
{
    return intro_chain_find(chain, function) >= 0;
}

bool intro_chain_calls(const struct intro_chain *chain, const char *caller, const char *callee)
{
    for (unsigned i = 1; i < chain->n; i++)
        if (is_function(chain->function[i], caller) && is_function(chain->function[i - 1], callee))
            return true;
    return false;
}
