// SPDX-License-Identifier: GPL-2.0-or-later
// Finds a guest's RAM: which physical ranges, which blocks, where in QEMU's address space.
#include "vmm/ram.h"

#include <string.h>

#include "vmm/hostmaps.h"
#include "vmm/machine.h"
#include "vmm/memory_source.h"
#include "vmm/mtree.h"

/*
 * Three tellers, each asked for what it alone knows:
 *   info mtree -f     physical ranges and the memory region behind each
 *   query-memdev      which regions are the machine's RAM, and not a device's (vga.vram)
 *   gpa2hva           where a physical address is in QEMU; asked at both ends of each range
 * and /proc/PID/maps, to check these answers and to tell shared from private RAM.
 */
typedef struct {
    pid_t pid;
    GArray *maps;        // struct vmm_hostmap
    GPtrArray *mappings; // VmmMapping
    GHashTable *mapped;  // const struct vmm_hostmap * -> VmmMapping *, or NULL where that failed
    GArray *ranges;      // struct vmm_ram_range
    GArray *sources;     // struct vmm_source
} Ram;

static void ram_clear(Ram *ram)
{
    g_clear_pointer(&ram->maps, g_array_unref);
    g_clear_pointer(&ram->mappings, g_ptr_array_unref);
    g_clear_pointer(&ram->mapped, g_hash_table_unref);
    g_clear_pointer(&ram->ranges, g_array_unref);
    g_clear_pointer(&ram->sources, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Ram, ram_clear)

// The names of the machine's RAM blocks: a set of strings.
static GHashTable *read_block_names(VmmQmp *qmp, GError **error)
{
    g_autoptr(VmmJson) backends = vmm_qmp_call(qmp, "query-memdev", NULL, -1, error);
    GHashTable *names;

    if (!backends)
        return NULL;
    names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (json_object_is_type(backends, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(backends); i++) {
            const char *id = vmm_json_string(json_object_array_get_idx(backends, i), "id");

            // Older machine types name the region by its path in the object tree.
            if (id) {
                g_hash_table_add(names, g_strdup(id));
                g_hash_table_add(names, g_strconcat("/objects/", id, NULL));
            }
        }
    }
    // A machine type of before QEMU 5.0 has no backend object for its RAM.
    if (g_hash_table_size(names) == 0)
        g_hash_table_add(names, g_strdup("pc.ram"));
    return names;
}

static GArray *read_map(VmmQmp *qmp, GError **error)
{
    g_autofree char *text = vmm_qmp_hmp(qmp, "info mtree -f", error);

    return text ? vmm_mtree_parse(text, strlen(text), error) : NULL;
}

static bool read_hva(VmmQmp *qmp, struct gpa at, struct hva *ret, GError **error)
{
    g_autofree char *line = g_strdup_printf("gpa2hva 0x%" G_GINT64_MODIFIER "x", at.addr);
    g_autofree char *text = vmm_qmp_hmp(qmp, line, error);
    const char *answer;

    if (!text)
        return false;
    // "Host virtual address for 0x100000 (pc.ram) is 0x7fe697f00000"
    answer = g_strrstr(text, " is 0x");
    if (!answer || (*ret = HVA(g_ascii_strtoull(answer + 6, NULL, 16))).addr == 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QEMU does not tell where its RAM is: %s",
                    g_strstrip(text));
        return false;
    }
    return true;
}

// The mapping of this host map here; NULL where it cannot be had.
static VmmMapping *map_here(Ram *ram, const struct vmm_hostmap *map)
{
    gpointer mapping;

    if (g_hash_table_lookup_extended(ram->mapped, map, NULL, &mapping))
        return mapping;
    mapping = vmm_mapping_open(ram->pid, map->start, map->end, map->offset_bytes, map->inode);
    g_hash_table_insert(ram->mapped, (gpointer)map, mapping);
    if (mapping)
        g_ptr_array_add(ram->mappings, mapping);
    return mapping;
}

static bool add_range(Ram *ram, VmmQmp *qmp, struct vmm_ram_range range, enum vmm_ram_flags flags,
                      GError **error)
{
    struct gpa last_page = GPA(range.start.addr + range.size_bytes - 1);
    const struct vmm_hostmap *map;
    struct vmm_source source = {0};
    VmmMapping *mapping = NULL;
    struct hva first, last;

    if (!read_hva(qmp, range.start, &first, error) || !read_hva(qmp, last_page, &last, error))
        return false;
    if (last.addr - first.addr != range.size_bytes - 1 ||
        !vmm_hostmaps_find(ram->maps, first, range.size_bytes, &map)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "process %d, which owns the monitor, does not hold the guest's RAM at "
                    "0x%" G_GINT64_MODIFIER
                    "x: the socket was handed over by another process, or that "
                    "is a process of another pid namespace",
                    (int)ram->pid, first.addr);
        return false;
    }
    source.remote = first;
    if (map && map->shared && map->inode != 0 && !(flags & VMM_RAM_NO_MAPPING))
        mapping = map_here(ram, map);
    if (mapping)
        source.bytes = vmm_mapping_bytes(mapping, first);
    g_array_append_val(ram->ranges, range);
    g_array_append_val(ram->sources, source);
    return true;
}

// Goes through the flat view and joins entries that continue each other in the same block, such as
// the PAM regions below 1 MiB.
static bool add_entries(Ram *ram, VmmQmp *qmp, const GArray *entries, GHashTable *names,
                        enum vmm_ram_flags flags, GError **error)
{
    for (guint i = 0; i < entries->len;) {
        const struct vmm_mtree_entry *entry = &g_array_index(entries, struct vmm_mtree_entry, i);
        const struct vmm_mtree_entry *next = entry + 1;
        struct vmm_ram_range range = {.start = entry->start, .size_bytes = entry->size_bytes};

        i++;
        if (entry->type == VMM_MTREE_OTHER || !g_hash_table_contains(names, entry->block))
            continue;
        for (; i < entries->len && next->type != VMM_MTREE_OTHER &&
               next->start.addr == range.start.addr + range.size_bytes &&
               next->offset_bytes == entry->offset_bytes + range.size_bytes &&
               strcmp(next->block, entry->block) == 0;
             i++, next++)
            range.size_bytes += next->size_bytes;
        if (!add_range(ram, qmp, range, flags, error))
            return false;
    }
    if (ram->ranges->len == 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL,
                    "memory map: none of its entries is a RAM block of the machine");
        return false;
    }
    return true;
}

static void destroy_mappings(void *user)
{
    g_ptr_array_unref(user);
}

static void prefault_mappings(void *user)
{
    GPtrArray *mappings = user;

    for (guint i = 0; i < mappings->len; i++)
        vmm_mapping_prefault(mappings->pdata[i]);
}

static bool next_touched(void *user, const uint8_t *bytes, size_t len, size_t *ret_start,
                         size_t *ret_len)
{
    GPtrArray *mappings = user;

    for (guint i = 0; i < mappings->len; i++) {
        if (vmm_mapping_next_touched(mappings->pdata[i], bytes, len, ret_start, ret_len))
            return *ret_len > 0;
    }
    *ret_start = 0;
    *ret_len = len;
    return true;
}

VmmMemory *vmm_ram_open(VmmQmp *qmp, enum vmm_ram_flags flags, GError **error)
{
    g_auto(Ram) ram = {0};
    g_autoptr(GHashTable) names = read_block_names(qmp, error);
    g_autoptr(GArray) entries = names ? read_map(qmp, error) : NULL;
    struct vmm_backing backing = {
        .destroy = destroy_mappings,
        .prefault = prefault_mappings,
        .next_touched = next_touched,
    };

    if (!entries || !vmm_qmp_pid(qmp, &ram.pid, error))
        return NULL;
    ram.maps = vmm_hostmaps_read(ram.pid, error);
    if (!ram.maps)
        return NULL;
    ram.mappings = g_ptr_array_new_with_free_func((GDestroyNotify)vmm_mapping_close);
    ram.mapped = g_hash_table_new(NULL, NULL);
    ram.ranges = g_array_new(FALSE, FALSE, sizeof(struct vmm_ram_range));
    ram.sources = g_array_new(FALSE, FALSE, sizeof(struct vmm_source));
    if (!add_entries(&ram, qmp, entries, names, flags, error))
        return NULL;
    backing.user = g_steal_pointer(&ram.mappings);
    return vmm_memory_new((const struct vmm_ram_range *)ram.ranges->data,
                          (const struct vmm_source *)ram.sources->data, ram.ranges->len, ram.pid,
                          &backing);
}
