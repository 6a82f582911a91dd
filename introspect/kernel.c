// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the kernel: from VMCOREINFO to one that has proved itself.
#include "introspect/kernel.h"

#include <inttypes.h>
#include <string.h>

#include "introspect/kernel_private.h"

#define MAX_CPUS          8192        // NR_CPUS with MAXSMP
#define MAX_RELEASE_BYTES 64          // __NEW_UTS_LEN
#define SEARCH_BYTES      (64u << 20) // kallsyms lies within this behind _stext

G_DEFINE_QUARK(intro - error - quark, intro_error)

void intro_kernel_free(IntroKernel *k)
{
    if (!k)
        return;
    intro_kallsyms_free(k->symbols);
    intro_frames_free(k->frames);
    g_free(k->percpu_offsets);
    g_free(k->release);
    g_free(k->version);
    g_free(k->machine);
    g_free(k->types_from);
    g_free(k);
}

const struct intro_kernel_info *intro_kernel_info(const IntroKernel *k)
{
    return &k->info;
}

VmmMemory *intro_kernel_memory(IntroKernel *k)
{
    return intro_frames_memory(k->frames);
}

/* ---- symbols ---- */

bool intro_symbol(const IntroKernel *k, const char *name, struct gva *ret, GError **error)
{
    if (intro_kallsyms_find(k->symbols, name, &ret->addr))
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND, "this kernel has no symbol %s", name);
    return false;
}

bool intro_has_symbol(const IntroKernel *k, const char *name)
{
    uint64_t at;

    return intro_kallsyms_find(k->symbols, name, &at);
}

const char *intro_symbol_at(const IntroKernel *k, struct gva at, uint64_t *ret_offset)
{
    return intro_kallsyms_at(k->symbols, at.addr, ret_offset);
}

static bool image_read(void *user, struct gva at, void *ret, size_t len, GError **error)
{
    return intro_read(user, at, ret, len, error);
}

// Before 6.0 VMCOREINFO does not say where kallsyms is.
static bool search_kallsyms(IntroKernel *k, const IntroVmcoreinfo *info,
                            struct intro_kallsyms_tables *ret, GError **error)
{
    size_t len = SEARCH_BYTES;
    g_autofree uint8_t *image = g_malloc(len);

    // The end of the image is not known yet: halve what is asked for until RAM reaches that far.
    while (!intro_read(k, GVA(info->stext), image, len, NULL)) {
        len /= 2;
        if (len < VMM_PAGE_BYTES)
            return intro_read(k, GVA(info->stext), image, VMM_PAGE_BYTES, error);
    }
    return intro_kallsyms_tables_search(image, len, GVA(info->stext), ret, error);
}

static bool find_symbols(IntroKernel *k, const IntroVmcoreinfo *info, GError **error)
{
    struct intro_kallsyms_tables tables;

    if (!intro_kallsyms_tables_from(info, &tables) && !search_kallsyms(k, info, &tables, error))
        return false;
    k->symbols = intro_kallsyms_new(&tables, info->stext, image_read, k, error);
    return k->symbols != NULL;
}

/* ---- types ---- */

static IntroTypes *read_btf(IntroKernel *k, GError **error)
{
    struct gva start, stop;
    g_autofree uint8_t *bytes = NULL;

    if (!intro_symbol(k, "__start_BTF", &start, NULL) ||
        !intro_symbol(k, "__stop_BTF", &stop, NULL) || start.addr == stop.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NO_TYPES,
                    "Linux %s carries no BTF: give a layout profile of this very kernel",
                    k->release);
        return NULL;
    }
    if (stop.addr < start.addr || stop.addr - start.addr > INTRO_BTF_MAX_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "BTF from 0x%" PRIx64 " to 0x%" PRIx64 " makes no sense", start.addr,
                    stop.addr);
        return NULL;
    }
    bytes = g_malloc(stop.addr - start.addr);
    if (!intro_read(k, start, bytes, stop.addr - start.addr, error))
        return NULL;
    return intro_types_from_btf(bytes, stop.addr - start.addr, error);
}

static IntroTypes *read_profile(IntroKernel *k, const char *path, GError **error)
{
    g_autofree char *release = NULL;
    g_autoptr(IntroTypes) types = intro_types_from_profile(path, &release, error);

    if (types && strcmp(release, k->release) != 0) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT, "%s is for Linux %s; the guest runs %s",
                    path, release, k->release);
        return NULL;
    }
    return g_steal_pointer(&types);
}

static bool find_layout(IntroKernel *k, const char *profile_path, GError **error)
{
    g_autoptr(IntroTypes) types =
        profile_path ? read_profile(k, profile_path, error) : read_btf(k, error);

    if (!types)
        return false;
    if (!intro_layout_resolve(types, &k->layout, error)) {
        g_prefix_error(error, "Linux %s: ", k->release);
        return false;
    }
    k->types_from = g_strdup(profile_path ? profile_path : "btf");
    k->info.types_from = k->types_from;
    return true;
}

/* ---- CPUs ---- */

static bool find_cpus(IntroKernel *k, GError **error)
{
    struct gva at;
    uint32_t n = 1;

    // A kernel built for one CPU has neither.
    if (intro_symbol(k, "nr_cpu_ids", &at, NULL) && !intro_read_u32(k, at, &n, error))
        return false;
    if (n == 0 || n > MAX_CPUS) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT, "nr_cpu_ids at 0x%" PRIx64 " is %u",
                    at.addr, n);
        return false;
    }
    k->n_cpus = n;
    k->percpu_offsets = g_new0(uint64_t, n);
    if (!intro_symbol(k, "__per_cpu_offset", &at, NULL))
        return true;
    if (!intro_read(k, at, k->percpu_offsets, n * sizeof(*k->percpu_offsets), error))
        return false;
    for (unsigned i = 0; i < n; i++)
        k->percpu_offsets[i] = GUINT64_FROM_LE(k->percpu_offsets[i]);
    return true;
}

unsigned intro_n_cpus(const IntroKernel *k)
{
    return k->n_cpus;
}

bool intro_cpu_is_online(IntroKernel *k, unsigned cpu, bool *ret, GError **error)
{
    struct gva mask;
    uint8_t byte;

    if (cpu >= k->n_cpus) {
        *ret = false;
        return true;
    }
    if (!intro_symbol(k, "__cpu_online_mask", &mask, error) ||
        !intro_read(k, GVA(mask.addr + cpu / 8), &byte, 1, error))
        return false;
    *ret = byte >> cpu % 8 & 1;
    return true;
}

// Up to 6.14 per-CPU symbols count from 0 and __per_cpu_offset is where a CPU's area starts; since
// 6.15 they are addresses in the image and it is the distance from there. The sum is the same.
bool intro_percpu(IntroKernel *k, const char *name, unsigned cpu, struct gva *ret, GError **error)
{
    struct gva at;

    if (cpu >= k->n_cpus) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND, "this kernel has no CPU %u", cpu);
        return false;
    }
    if (!intro_symbol(k, name, &at, error))
        return false;
    *ret = GVA(at.addr + k->percpu_offsets[cpu]);
    return true;
}

/* ---- proofs ---- */

static bool read_uts(IntroKernel *k, enum intro_member member, char **ret, GError **error)
{
    struct gva uts;

    if (!intro_symbol(k, "init_uts_ns", &uts, error))
        return false;
    uts = intro_member_addr(k, uts, M_uts_ns_name);
    uts = intro_member_addr(k, uts, member);
    *ret = intro_read_str(k, uts, MAX_RELEASE_BYTES, error);
    return *ret != NULL;
}

static bool prove_release(IntroKernel *k, GError **error)
{
    g_autofree char *release = NULL;

    if (!read_uts(k, M_uts_release, &release, error) ||
        !read_uts(k, M_uts_version, &k->version, error) ||
        !read_uts(k, M_uts_machine, &k->machine, error))
        return false;
    if (strcmp(release, k->release) != 0) {
        g_autofree char *escaped = g_strescape(release, NULL);

        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "VMCOREINFO is of Linux %s but init_uts_ns says %s", k->release, escaped);
        return false;
    }
    k->info.version = k->version;
    k->info.machine = k->machine;
    return true;
}

static bool prove_init_task(IntroKernel *k, GError **error)
{
    struct gva task;
    char comm[17] = "";

    if (!intro_symbol(k, "init_task", &task, error) ||
        !intro_read(k, intro_member_addr(k, task, M_task_comm), comm,
                    MIN(sizeof(comm) - 1, intro_place(k, M_task_comm)->size_bytes), error))
        return false;
    if (strcmp(comm, "swapper") != 0 && strcmp(comm, "swapper/0") != 0) {
        g_autofree char *escaped = g_strescape(comm, NULL);

        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "init_task at 0x%" PRIx64 " is named \"%s\", not swapper", task.addr, escaped);
        return false;
    }
    return true;
}

// VMCOREINFO is written before the first program runs.
static bool check_running(IntroKernel *k, GError **error)
{
    int64_t running;
    struct gva at;
    uint32_t state;

    if (!intro_constant(k, C_SYSTEM_RUNNING, &running) ||
        !intro_symbol(k, "system_state", &at, NULL))
        return true;
    if (!intro_read_u32(k, at, &state, error))
        return false;
    if (state >= running)
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_NO_KERNEL,
                "Linux %s is still booting and runs no program yet", k->release);
    return false;
}

static IntroKernel *kernel_new(VmmMemory *mem, const IntroVmcoreinfo *info,
                               const char *profile_path, GError **error)
{
    g_autoptr(IntroKernel) k = g_new0(IntroKernel, 1);

    intro_address_init(k, mem, info);
    k->release = g_strdup(info->release);
    k->info.release = k->release;
    if (!find_symbols(k, info, error) || !intro_address_find_maps(k, error) ||
        !find_layout(k, profile_path, error) || !prove_release(k, error) ||
        !prove_init_task(k, error) || !find_cpus(k, error) || !check_running(k, error))
        return NULL;
    intro_orc_learn(k);
    return g_steal_pointer(&k);
}

struct search {
    VmmMemory *mem;
    const char *profile_path;
    IntroKernel *found;
    GError *error; // of the candidate that came farthest
};

// A text that no kernel stands behind is CORRUPT or a FAULT; any other error comes from a kernel
// that was recognised, and is what the user wants to hear.
static bool is_about_kernel(const GError *e)
{
    return e->domain != INTRO_ERROR ||
           (e->code != INTRO_ERROR_CORRUPT && e->code != INTRO_ERROR_FAULT);
}

static bool try_candidate(const IntroVmcoreinfo *info, void *user)
{
    struct search *s = user;
    GError *error = NULL;

    s->found = kernel_new(s->mem, info, s->profile_path, &error);
    if (s->found)
        return false;
    if (!is_about_kernel(error))
        g_prefix_error(&error, "VMCOREINFO at 0x%" PRIx64 ": ", info->found_at.addr);
    if (!s->error || (is_about_kernel(error) && !is_about_kernel(s->error))) {
        g_clear_error(&s->error);
        s->error = error;
    } else {
        g_error_free(error);
    }
    return true;
}

IntroKernel *intro_kernel_find(VmmMemory *mem, const char *profile_path, GError **error)
{
    struct search s = {.mem = mem, .profile_path = profile_path};

    if (!intro_vmcoreinfo_search(mem, try_candidate, &s, error)) {
        g_clear_error(&s.error);
        return NULL;
    }
    if (s.found) {
        g_clear_error(&s.error);
        return s.found;
    }
    if (s.error && is_about_kernel(s.error)) {
        g_propagate_error(error, s.error);
        return NULL;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_NO_KERNEL,
                "no running Linux kernel in %" PRIu64 " MiB of guest memory: not Linux, or not "
                "booted yet%s%s%s",
                vmm_memory_total_bytes(mem) >> 20, s.error ? " (" : "",
                s.error ? s.error->message : "", s.error ? ")" : "");
    g_clear_error(&s.error);
    return NULL;
}
