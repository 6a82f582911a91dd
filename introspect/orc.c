// SPDX-License-Identifier: GPL-2.0-or-later
// Where in the kernel a task sleeps: unwinding with ORC (arch/x86/kernel/unwind_orc.c).
#include "introspect/orc.h"

#include <string.h>

#include "introspect/reader.h"

/*
 * Two parallel tables in the kernel image: __start_orc_unwind_ip holds sorted self-relative
 * addresses,
 * __start_orc_unwind a six-byte struct orc_entry for each, which tells how to get from a function's
 * stack pointer to its caller's. We only unwind sleeping tasks, which have no interrupt stacks in
 * between, so the plain cases are enough; anything else ends the chain as incomplete.
 */
enum { REG_UNDEFINED = 0, REG_PREV_SP = 1, REG_BP = 4, REG_SP = 5 };

// The words that __switch_to_asm has pushed: r15 r14 r13 r12 bx bp, and its return address.
#define SWITCH_FRAME_WORDS 7
#define PT_REGS_BYTES      168
#define MAX_ENTRIES        (1u << 24)

struct orc {
    int64_t sp_offset, bp_offset;
    uint64_t sp_reg, bp_reg, type;
};

struct frame {
    uint64_t ip, sp, bp;
};

// Finds the entry that covers ip: the last one whose address is not above it.
static bool find_entry(IntroKernel *k, uint64_t ip, struct orc *ret, bool *ret_found,
                       GError **error)
{
    struct gva ips, ips_end, entries;
    uint32_t stride = intro_sizeof(k, T_orc_entry);

    *ret_found = false;
    if (!intro_symbol(k, "__start_orc_unwind_ip", &ips, NULL) ||
        !intro_symbol(k, "__stop_orc_unwind_ip", &ips_end, NULL) ||
        !intro_symbol(k, "__start_orc_unwind", &entries, NULL) || !stride)
        return true;
    uint64_t low = 0, high = (ips_end.addr - ips.addr) / 4;
    if (high > MAX_ENTRIES || high == 0)
        return true;
    while (high - low > 1) {
        uint64_t mid = low + (high - low) / 2;
        struct gva at = GVA(ips.addr + 4 * mid);
        uint32_t offset;
        if (!intro_read_u32(k, at, &offset, error))
            return false;
        if (at.addr + (int64_t)(int32_t)offset <= ip)
            low = mid;
        else
            high = mid;
    }

    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva entry = GVA(entries.addr + low * stride);
    ret->sp_offset = (int64_t)rd(&r, entry, M_orc_sp_offset);
    ret->bp_offset = (int64_t)rd(&r, entry, M_orc_bp_offset);
    ret->sp_reg = rd(&r, entry, M_orc_sp_reg);
    ret->bp_reg = rd(&r, entry, M_orc_bp_reg);
    ret->type = rd(&r, entry, M_orc_type);
    *ret_found = true;
    return rd_done(&r, error);
}

// ORC_TYPE_*: before 6.4 CALL, REGS, REGS_PARTIAL; since then UNDEFINED and END_OF_STACK come
// first, and the field has three bits.
static bool is_call(IntroKernel *k, const struct orc *orc)
{
    return orc->type == (intro_place(k, M_orc_type)->bit_size >= 3 ? 2 : 0);
}

// From a function to its caller. *ret_more is false where the chain ends here.
static bool step(IntroKernel *k, struct frame *f, uint64_t stack_end, struct gva user_regs,
                 bool *ret_more, bool *ret_complete, GError **error)
{
    struct orc orc;
    bool found;

    *ret_more = *ret_complete = false;
    if (!find_entry(k, f->ip - 1, &orc, &found, error))
        return false;
    if (!found || (orc.sp_reg != REG_SP && orc.sp_reg != REG_BP))
        return true;
    uint64_t sp = (orc.sp_reg == REG_SP ? f->sp : f->bp) + (uint64_t)orc.sp_offset;

    if (!is_call(k, &orc)) { // the registers that an entry from user mode has saved
        *ret_complete = sp == user_regs.addr;
        return true;
    }
    // The stack only grows towards its end: whatever does not is no chain.
    if (sp <= f->sp || sp > stack_end)
        return true;
    uint64_t bp_at = orc.bp_reg == REG_PREV_SP ? sp + (uint64_t)orc.bp_offset
                     : orc.bp_reg == REG_BP    ? f->bp + (uint64_t)orc.bp_offset
                                               : 0;
    if (bp_at && !intro_read_u64(k, GVA(bp_at), &f->bp, error))
        return false;
    f->sp = sp;
    *ret_more = true;
    return intro_read_u64(k, GVA(sp - 8), &f->ip, error);
}

bool intro_unwind(IntroKernel *k, struct gva task, struct gva user_regs, struct intro_chain *ret,
                  GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    uint64_t sp = rd(&r, task, M_thread_sp);
    uint64_t words[SWITCH_FRAME_WORDS];
    bool more = true;

    memset(ret, 0, sizeof(*ret));
    if (!rd_done(&r, error) || !intro_read(k, GVA(sp), words, sizeof(words), error))
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
