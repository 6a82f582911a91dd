// SPDX-License-Identifier: GPL-2.0-or-later
// A developer's tool: finds the kernel of a target, says how long each step took, lists its tasks.
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "introspect/kallsyms.h"
#include "introspect/kernel.h"
#include "introspect/kernel_private.h"
#include "vmm/machine.h"

#define MAX_TASKS 100000

static int64_t started;
static char *profile;
static gboolean symbols_only;

static const GOptionEntry options[] = {
    {"profile", 0, 0, G_OPTION_ARG_FILENAME, &profile, "layout profile for a kernel without BTF",
     "FILE"},
    {"symbols", 0, 0, G_OPTION_ARG_NONE, &symbols_only, "print all of kallsyms, nothing else",
     NULL},
    G_OPTION_ENTRY_NULL,
};

static void lap(const char *what)
{
    int64_t now = g_get_monotonic_time();

    if (symbols_only)
        return;
    printf("%8.2f ms  %s\n", (now - started) / 1000.0, what);
    started = now;
}

static bool first_text(const IntroVmcoreinfo *info, void *user)
{
    if (!symbols_only)
        printf("VMCOREINFO at 0x%" PRIx64 ", _stext at 0x%" PRIx64 "\n", info->found_at.addr,
               info->stext);
    return false;
}

static bool list_tasks(IntroKernel *k, GError **error)
{
    struct gva init, task, next;

    if (!intro_symbol(k, "init_task", &init, error))
        return false;
    task = init;
    for (unsigned i = 0; i < MAX_TASKS; i++) {
        uint64_t pid;
        char comm[17] = "";

        if (!intro_get(k, task, M_task_pid, &pid, error) ||
            !intro_read(k, intro_member_addr(k, task, M_task_comm), comm, 16, error) ||
            !intro_read_ptr(k, intro_member_addr(k, task, M_task_tasks), &next, error))
            return false;
        printf("  %5" PRId64 " %s\n", (int64_t)pid, comm);
        task = intro_container(k, next, M_task_tasks);
        if (task.addr == init.addr) {
            printf("%u tasks\n", i + 1);
            return true;
        }
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT, "the list of tasks has no end");
    return false;
}

struct count {
    uint64_t pages, bytes, swapped;
};

static bool count_page(const struct intro_user_page *page, bool present, void *user)
{
    struct count *c = user;

    c->pages++;
    c->bytes += present ? page->size_bytes : 0;
    c->swapped += !present;
    return true;
}

// The memory of process 1, and the first bytes of what it maps lowest.
static bool walk_init(IntroKernel *k, GError **error)
{
    struct gva init, list, task, mm, pgd;
    uint64_t pid = 0;
    struct count c = {0};

    if (!intro_symbol(k, "init_task", &init, error))
        return false;
    for (task = init; pid != 1;) {
        if (!intro_read_ptr(k, intro_member_addr(k, task, M_task_tasks), &list, error))
            return false;
        task = intro_container(k, list, M_task_tasks);
        if (!intro_get(k, task, M_task_pid, &pid, error))
            return false;
    }
    if (!intro_get_ptr(k, task, M_task_mm, &mm, error) ||
        !intro_get_ptr(k, mm, M_mm_pgd, &pgd, error) ||
        !intro_walk_user(k, pgd, GVA(0), GVA(1ull << 47), count_page, &c, error))
        return false;
    printf("pid 1 at 0x%" PRIx64 ": %" PRIu64 " leaves, %" PRIu64 " bytes mapped, %" PRIu64
           " not present\n",
           task.addr, c.pages, c.bytes, c.swapped);
    return true;
}

static void print_symbols(IntroKernel *k)
{
    for (size_t i = 0; i < intro_kallsyms_count(k->symbols); i++) {
        uint64_t at;
        const char *name = intro_kallsyms_get(k->symbols, i, &at);

        printf("%016" PRIx64 " %s\n", at, name);
    }
}

static bool probe(VmmMemory *mem, GError **error)
{
    g_autoptr(IntroKernel) k = NULL;
    const struct intro_kernel_info *info;
    bool online;

    if (!intro_vmcoreinfo_search(mem, first_text, NULL, error))
        return false;
    lap("search for VMCOREINFO");
    k = intro_kernel_find(mem, profile, error);
    if (!k)
        return false;
    if (symbols_only) {
        print_symbols(k);
        return true;
    }
    lap("intro_kernel_find");
    info = intro_kernel_info(k);
    printf("Linux %s %s %s\nphys_base %" PRId64 " kaslr 0x%" PRIx64 " levels %u types %s\n",
           info->release, info->version, info->machine, (int64_t)info->phys_base, info->kaslr_bytes,
           info->page_levels, info->types_from);
    printf("%zu symbols, %u CPUs, direct map 0x%" PRIx64 ", vmemmap 0x%" PRIx64 "\n",
           intro_kallsyms_count(k->symbols), intro_n_cpus(k), k->direct_map, k->vmemmap);
    for (unsigned cpu = 0; cpu < intro_n_cpus(k); cpu++) {
        const char *current = intro_has_symbol(k, "pcpu_hot") ? "pcpu_hot" : "current_task";
        struct gva at, task;
        uint64_t pid;

        if (!intro_cpu_is_online(k, cpu, &online, error))
            return false;
        if (!online)
            continue;
        if (!intro_percpu(k, current, cpu, &at, error) || !intro_read_ptr(k, at, &task, error) ||
            !intro_get(k, task, M_task_pid, &pid, error))
            return false;
        printf("CPU %u runs pid %" PRIu64 "\n", cpu, pid);
    }
    started = g_get_monotonic_time();
    if (!list_tasks(k, error))
        return false;
    lap("list of tasks");
    if (!walk_init(k, error))
        return false;
    lap("page tables of pid 1");
    return true;
}

static bool probe_file(const char *path, GError **error)
{
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, error);
    g_autoptr(VmmMemory) mem = NULL;
    const void *data;
    struct vmm_ram_range range = {.start = GPA(0)};

    if (!file)
        return false;
    data = g_mapped_file_get_contents(file);
    range.size_bytes = g_mapped_file_get_length(file);
    mem = vmm_memory_new_from_buffers(&range, &data, 1, NULL, NULL);
    return probe(mem, error);
}

static bool probe_machine(const char *target, GError **error)
{
    g_autoptr(VmmMachine) vm = vmm_machine_open(target, NULL, error);

    lap("attach");
    return vm && vmm_machine_pause(vm, error) && probe(vmm_machine_memory(vm), error);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("TARGET|ram:FILE");
    g_autoptr(GError) error = NULL;
    bool ok;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2) {
        fprintf(stderr, "introspect-probe: %s\n", error ? error->message : "give one target");
        return 2;
    }
    started = g_get_monotonic_time();
    if (g_str_has_prefix(argv[1], "ram:"))
        ok = probe_file(argv[1] + 4, &error);
    else
        ok = probe_machine(argv[1], &error);
    if (!ok)
        fprintf(stderr, "introspect-probe: %s\n", error->message);
    return !ok;
}
