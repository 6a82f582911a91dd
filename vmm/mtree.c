// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the flat view of guest memory from the output of `info mtree -f`.
#include "vmm/mtree.h"

#include <stdbool.h>
#include <string.h>

#include "vmm/machine.h"

/*
 * FlatView #3
 *  AS "memory", root: system
 *  AS "cpu-memory-0", root: system
 *  Root memory region: system
 *   0000000000000000-000000000009ffff (prio 0, ram): pc.ram
 *   00000000000c0000-00000000000c9fff (prio 0, rom): pc.ram @00000000000c0000 KVM
 *
 * See softmmu/memory.c (mtree_print_flatview). The offset is left out where it is 0; the word
 * behind it is there where an accelerator has the range mapped.
 */

static void clear_entry(void *entry)
{
    g_free(((struct vmm_mtree_entry *)entry)->block);
}

// Sixteen hexadecimal digits at *text, which is moved behind them.
static bool take_address(const char **text, uint64_t *ret)
{
    uint64_t value = 0;

    for (int i = 0; i < 16; i++) {
        int digit = g_ascii_xdigit_value((*text)[i]);

        if (digit < 0)
            return false;
        value = value << 4 | (uint64_t)digit;
    }
    *text += 16;
    *ret = value;
    return true;
}

static enum vmm_mtree_type type_of(const char *text, size_t len)
{
    if (len == 3 && memcmp(text, "ram", 3) == 0)
        return VMM_MTREE_RAM;
    if (len == 3 && memcmp(text, "rom", 3) == 0)
        return VMM_MTREE_ROM;
    return VMM_MTREE_OTHER;
}

// "NAME", "NAME @OFFSET", either with the accelerator's word behind it.
static char *parse_block(const char *text, uint64_t *ret_offset)
{
    const char *at = g_strrstr(text, " @");
    const char *digits = at ? at + 2 : NULL;

    if (at && take_address(&digits, ret_offset) && (*digits == '\0' || *digits == ' '))
        return g_strndup(text, (gsize)(at - text));
    *ret_offset = 0;
    if (g_str_has_suffix(text, " KVM") || g_str_has_suffix(text, " kvm"))
        return g_strndup(text, strlen(text) - 4);
    return g_strdup(text);
}

// False: this line is no entry of a flat view.
static bool parse_entry(const char *line, struct vmm_mtree_entry *ret)
{
    uint64_t first, last;
    const char *type, *type_end;

    line += strspn(line, " ");
    if (!take_address(&line, &first) || *line++ != '-' || !take_address(&line, &last) ||
        last < first || last == UINT64_MAX)
        return false;
    type = strstr(line, ", ");
    type_end = type ? strstr(type, "): ") : NULL;
    if (!type_end)
        return false;
    type += 2;
    ret->start = GPA(first);
    ret->size_bytes = last - first + 1;
    ret->type = type_of(type, (size_t)(type_end - type));
    ret->block = parse_block(type_end + 3, &ret->offset_bytes);
    return true;
}

static bool follows(const GArray *entries, const struct vmm_mtree_entry *entry)
{
    const struct vmm_mtree_entry *last;

    if (entries->len == 0)
        return true;
    last = &g_array_index(entries, struct vmm_mtree_entry, entries->len - 1);
    return entry->start.addr > last->start.addr &&
           entry->start.addr - last->start.addr >= last->size_bytes;
}

GArray *vmm_mtree_parse(const char *text, size_t len, GError **error)
{
    g_autofree char *copy = g_strndup(text, len);
    g_auto(GStrv) lines = g_strsplit_set(copy, "\r\n", -1);
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(struct vmm_mtree_entry));
    bool is_memory = false;

    g_array_set_clear_func(entries, clear_entry);
    for (char **line = lines; *line; line++) {
        struct vmm_mtree_entry entry;

        if (g_str_has_prefix(*line, "FlatView")) {
            if (is_memory)
                break;
        } else if (g_str_has_prefix(*line, " AS \"memory\",")) {
            is_memory = true;
        } else if (is_memory && parse_entry(*line, &entry)) {
            bool in_order = follows(entries, &entry);

            g_array_append_val(entries, entry);
            if (!in_order) {
                g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL,
                            "memory map: entries overlap at 0x%" G_GINT64_MODIFIER "x",
                            entry.start.addr);
                return NULL;
            }
        }
    }
    if (entries->len == 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL,
                    "memory map: QEMU shows no flat view of the address space \"memory\"");
        return NULL;
    }
    return g_steal_pointer(&entries);
}
