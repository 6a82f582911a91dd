// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the mappings of the QEMU process.
#include "vmm/hostmaps.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "vmm/machine.h"

// "7f0000000000-7f0020000000 rw-s 00000000 00:01 1043   /memfd:ram (deleted)"
static bool parse_map(const char *line, struct vmm_hostmap *ret)
{
    unsigned long long start, end, offset, inode;
    unsigned major_number, minor_number;
    char access[5];

    if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu", &start, &end, access, &offset, &major_number,
               &minor_number, &inode) != 7 ||
        start >= end)
        return false;
    *ret = (struct vmm_hostmap){
        .start = HVA(start),
        .end = HVA(end),
        .shared = access[3] == 's',
        .offset_bytes = offset,
        .inode = inode,
        .device = makedev(major_number, minor_number),
    };
    return true;
}

static bool continues(const struct vmm_hostmap *last, const struct vmm_hostmap *map)
{
    return last->end.addr == map->start.addr && last->shared == map->shared &&
           last->inode == map->inode && last->device == map->device &&
           (map->inode == 0 ||
            last->offset_bytes + (last->end.addr - last->start.addr) == map->offset_bytes);
}

GArray *vmm_hostmaps_read(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) failure = NULL;
    GArray *maps;

    if (!g_file_get_contents(path, &text, NULL, &failure)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "QEMU's process %d cannot be looked into: %s", (int)pid, failure->message);
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    maps = g_array_new(FALSE, FALSE, sizeof(struct vmm_hostmap));
    for (char **line = lines; *line; line++) {
        struct vmm_hostmap map, *last;

        if (!parse_map(*line, &map))
            continue;
        last = maps->len > 0 ? &g_array_index(maps, struct vmm_hostmap, maps->len - 1) : NULL;
        if (last && continues(last, &map))
            last->end = map.end;
        else
            g_array_append_val(maps, map);
    }
    return maps;
}

bool vmm_hostmaps_find(const GArray *maps, struct hva start, uint64_t size_bytes,
                       const struct vmm_hostmap **ret)
{
    uint64_t at = start.addr, end = start.addr + size_bytes;

    for (guint i = 0; i < maps->len; i++) {
        const struct vmm_hostmap *map = &g_array_index(maps, struct vmm_hostmap, i);

        if (at < map->start.addr)
            return false;
        if (at >= map->end.addr)
            continue;
        if (end <= map->end.addr) {
            *ret = at == start.addr ? map : NULL;
            return true;
        }
        at = map->end.addr;
    }
    return false;
}
