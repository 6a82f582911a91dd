// SPDX-License-Identifier: GPL-2.0-or-later
// Captures a process tree of a paused guest into an image.
#include "introspect/capture.h"

#include <string.h>

#include "formats/cpu_features.h"
#include "introspect/clock.h"
#include "introspect/context.h"
#include "introspect/cow.h"
#include "introspect/cputime.h"
#include "introspect/file.h"
#include "introspect/flock.h"
#include "introspect/ipc.h"
#include "introspect/life.h"
#include "introspect/mm.h"
#include "introspect/pages.h"
#include "introspect/process.h"
#include "introspect/reader.h"
#include "introspect/swap.h"
#include "introspect/task.h"
#include "introspect/timer.h"
#include "introspect/tty.h"
#include "introspect/xsave.h"

#define PF_KTHREAD      0x200000
#define SLACK_PAGES     1024
#define UTS_FIELD_BYTES 64

struct IntroCapture {
    IntroKernel *k;
    struct intro_capture_options opt;
    struct intro_pages *pages;
    FmtImage *img;        // of the take that was DONE
    bool nothing_refused; // as far as the last look at all of the tree tells
};

/* ---- what an image says about its guest ---- */

static char *uts_field(IntroReader *r, struct gva uts, enum intro_member field)
{
    char text[UTS_FIELD_BYTES + 1] = "";

    rd_bytes(r, uts, field, text, UTS_FIELD_BYTES);
    return g_utf8_make_valid(text, -1);
}

static bool fill_head(struct intro_ctx *c, GError **error)
{
    const struct intro_kernel_info *info = intro_kernel_info(c->k);
    struct fmt_head *head = fmt_image_head(c->img);
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva nsproxy = rd_ptr(&r, c->root_task, M_task_nsproxy);
    struct gva ns = nsproxy.addr ? rd_ptr(&r, nsproxy, M_nsproxy_uts_ns) : GVA(0);

    head->source = g_strdup(c->opt->source);
    head->release = g_strdup(info->release);
    head->version = g_strdup(info->version);
    head->machine = g_strdup(info->machine);
    if (ns.addr)
        head->hostname = uts_field(&r, intro_member_addr(c->k, ns, M_uts_ns_name), M_uts_nodename);
    head->realtime_ns = c->clock->realtime_ns;
    head->monotonic_ns = c->clock->monotonic_ns;
    head->boottime_ns = c->clock->boottime_ns;
    head->taken_ns = g_get_real_time() * 1000;
    head->clock_error_ns = c->clock->error_ns;
    head->forensic = c->opt->forensic;
    head->root_pid = intro_task_nr(&r, c->root_task, intro_pid_level(&r, c->root_task));
    return rd_done(&r, error);
}

static bool fill_cpu(struct intro_ctx *c, GError **error)
{
    const struct intro_place *place = intro_place(c->k, M_cpuinfo_capability);
    struct fmt_cpu *cpu = fmt_image_add(c->img, FMT_CPU);
    struct intro_xsave_layout layout;
    uint32_t words[32];
    struct gva boot;
    g_auto(IntroReader) r = INTRO_READER(c->k);

    if (!intro_symbol(c->k, "boot_cpu_data", &boot, error) ||
        !intro_xsave_layout(c->k, &layout, error))
        return false;
    rd_bytes(&r, boot, M_cpuinfo_capability, words, sizeof(words));
    cpu->features =
        fmt_cpu_features_from_kernel(words, MIN(place->size_bytes / 4, G_N_ELEMENTS(words)));
    cpu->xcr0 = c->vcpus->len ? g_array_index(c->vcpus, struct vmm_vcpu, 0).xcr0 : 0;
    cpu->xsave_bytes = intro_xsave_bytes(&layout, cpu->xcr0);
    return rd_done(&r, error);
}

/* ---- prepare ---- */

static bool check_root(IntroKernel *k, uint32_t pid, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    uint64_t flags = rd(&r, task, M_task_flags);
    const char *why = NULL;
    struct gva living;

    if (!rd_done(&r, error) || !intro_main_thread(k, task, &living, error))
        return false;
    struct gva mm = living.addr ? rd_ptr(&r, living, M_task_mm) : GVA(0);
    if (!rd_done(&r, error))
        return false;
    if (flags & PF_KTHREAD)
        why = "is a kernel thread: it has no memory of its own to be captured";
    else if (!living.addr)
        why = "is a zombie: it has ended and waits for its parent to notice";
    else if (!mm.addr)
        why = "is exiting";
    if (why)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED, "process %u %s", pid, why);
    return !why;
}

// Reads the address spaces of a running guest for their size alone. What contradicts itself
// meanwhile does not matter: the estimate is then too low and the take allocates more.
static uint64_t estimate_pages(IntroCapture *cap, struct gva root)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    g_autoptr(GHashTable) objects = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) refusals =
        g_ptr_array_new_with_free_func((GDestroyNotify)intro_refusal_free);
    g_autoptr(GArray) tree = intro_tree(cap->k, root, NULL);
    struct intro_ctx c = {.k = cap->k,
                          .img = img,
                          .opt = &cap->opt,
                          .refusals = refusals,
                          .objects = objects,
                          .pages = cap->pages,
                          .root_task = root,
                          .fd = -1};
    g_autoptr(intro_cow) cow = tree && tree->len > 1 ? intro_cow_new(cap->k) : NULL;

    c.cow = cow;
    intro_pages_reset(cap->pages);
    for (guint i = 0; tree && i < tree->len; i++) {
        struct gva living, mm;
        if (intro_main_thread(cap->k, g_array_index(tree, struct gva, i), &living, NULL) &&
            living.addr && intro_get_ptr(cap->k, living, M_task_mm, &mm, NULL) && mm.addr)
            intro_mm(&c, mm, NULL);
    }
    if (cow)
        intro_cow_resolve(&c);
    intro_swap_end(&c);
    g_clear_pointer(&c.later, g_array_unref);
    g_clear_pointer(&c.partial, g_array_unref);
    g_clear_pointer(&c.programs, g_array_unref);
    g_clear_pointer(&c.holders, g_hash_table_unref);
    return intro_pages_count(cap->pages);
}

static bool prepare_pages(IntroCapture *cap, struct gva root, GError **error)
{
    uint64_t pages = estimate_pages(cap, root);

    if (!intro_pages_reserve(cap->pages, pages + pages / 8 + SLACK_PAGES, error))
        return false;
    vmm_memory_prefault(intro_kernel_memory(cap->k));
    return true;
}

IntroCapture *intro_capture_prepare(IntroKernel *k, const struct intro_capture_options *opt,
                                    GError **error)
{
    g_autoptr(IntroCapture) cap = g_new0(IntroCapture, 1);
    struct gva root;

    cap->k = k;
    cap->opt = *opt;
    cap->pages = intro_pages_new();
    intro_kernel_new_pause(k);
    if (!intro_find_process(k, opt->pid, &root, error) || !check_root(k, opt->pid, root, error))
        return NULL;
    if (opt->records_only)
        intro_pages_want_none(cap->pages);
    else if (!prepare_pages(cap, root, error))
        return NULL;
    return g_steal_pointer(&cap);
}

void intro_capture_free(IntroCapture *cap)
{
    if (!cap)
        return;
    intro_pages_free(cap->pages);
    fmt_image_unref(cap->img);
    g_free(cap);
}

/* ---- take ---- */

// Errors that another look after a moment may not meet again.
static bool is_passing(const GError *error)
{
    return error->domain == INTRO_ERROR &&
           (error->code == INTRO_ERROR_BUSY || error->code == INTRO_ERROR_CORRUPT ||
            error->code == INTRO_ERROR_FAULT || error->code == INTRO_ERROR_NOT_PRESENT);
}

static bool walk_tree(struct intro_ctx *c, GError **error)
{
    g_autoptr(GArray) tree = intro_tree(c->k, c->root_task, error);

    if (!tree || !fill_head(c, error) || !fill_cpu(c, error))
        return false;
    if (tree->len > 1 && !c->opt->records_only)
        c->cow = intro_cow_new(c->k);
    for (guint i = 0; i < tree->len; i++)
        if (!intro_proc(c, g_array_index(tree, struct gva, i), error))
            return false;
    c->pid = c->opt->pid;
    intro_cputime_note(c);
    // Where a thread is busy there will be another take.
    if (c->cow && !c->busy)
        intro_cow_resolve(c);
    // First: files in flight are found by it.
    if (!intro_unix_finish(c, error) || !intro_yama(c, error))
        return false;
    intro_file_check_owners(c);
    return intro_later_run(c, error) && intro_unix_check_peers(c, error) && intro_ipc(c, error) &&
           intro_locks(c, error) && intro_mqueue_check_peers(c, error) &&
           intro_mm_check_peers(c, error) && intro_tables_check_peers(c, error) &&
           intro_pipe_check_peers(c, error) && intro_tty_check_peers(c, error) &&
           intro_shm_check_peers(c, error);
}

static bool take(struct intro_ctx *c, const struct vmm_clock *machine, GError **error)
{
    struct intro_clock clock;

    if (!intro_find_process(c->k, c->opt->pid, &c->root_task, error) ||
        !check_root(c->k, c->opt->pid, c->root_task, error) ||
        !intro_clock_read(c->k, c->vcpus, machine, &clock, error))
        return false;
    c->clock = &clock;
    c->timers = intro_timers_read(c->k, &clock, error);
    bool ok = c->timers && walk_tree(c, error);
    intro_timers_free(c->timers);
    c->timers = NULL;
    c->clock = NULL;
    return ok;
}

static int by_holder(gconstpointer a, gconstpointer b)
{
    const struct intro_refusal *x = *(struct intro_refusal *const *)a;
    const struct intro_refusal *y = *(struct intro_refusal *const *)b;

    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    if (x->fd != y->fd)
        return x->fd < y->fd ? -1 : 1;
    int kind = strcmp(x->kind, y->kind);
    return kind ? kind : strcmp(x->text, y->text);
}

static enum intro_capture_result judge(IntroCapture *cap, struct intro_ctx *c, GError *failure,
                                       char **why, GError **error)
{
    if (g_error_matches(failure, INTRO_ERROR, INTRO_ERROR_SWAPPED) && !c->opt->forensic)
        intro_refuse(c, "swap", "%s", failure->message);
    g_ptr_array_sort(c->refusals, by_holder);
    // Where the walk broke off the list may lack some: another look finds them as well. And what a
    // thread is in the middle of looks like somebody else's: shmat() counts before it maps, fork
    // before anybody sees the child, and fstat() holds what others close.
    if (c->refusals->len && c->passing && !c->busy)
        g_set_error(&c->busy, INTRO_ERROR, INTRO_ERROR_BUSY, "a thread is in the middle of a call");
    cap->nothing_refused = !c->refusals->len && (c->hurry || !failure);
    if (c->refusals->len && !c->busy && (!failure || !is_passing(failure))) {
        g_clear_error(&failure);
        return INTRO_CAPTURE_REFUSED;
    }
    if (!failure)
        failure = g_steal_pointer(&c->busy);
    if (!failure && intro_pages_copy(cap->pages, intro_kernel_memory(cap->k), &failure)) {
        intro_swap_complete(c);
        if (c->refusals->len)
            return INTRO_CAPTURE_REFUSED;
        intro_disk_complete(c);
        cap->img = fmt_image_ref(c->img);
        return INTRO_CAPTURE_DONE;
    }
    if (is_passing(failure)) {
        *why = g_strdup(failure->message);
        g_error_free(failure);
        return INTRO_CAPTURE_RETRY;
    }
    g_propagate_error(error, failure);
    return INTRO_CAPTURE_FAILED;
}

enum intro_capture_result intro_capture_take(IntroCapture *cap, GArray *vcpus,
                                             const struct vmm_clock *clock, char **why,
                                             GPtrArray *refusals, GError **error)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    g_autoptr(GHashTable) objects = g_hash_table_new(NULL, NULL);
    g_autoptr(GError) failure = NULL;
    struct intro_ctx c = {.k = cap->k,
                          .img = img,
                          .opt = &cap->opt,
                          .refusals = refusals,
                          .objects = objects,
                          .pages = cap->pages,
                          .vcpus = vcpus,
                          .hurry = cap->nothing_refused && !cap->opt.forensic,
                          .fd = -1};

    intro_kernel_new_pause(cap->k);
    intro_pages_reset(cap->pages);
    g_ptr_array_set_size(refusals, 0);
    g_clear_pointer(&cap->img, fmt_image_unref);
    intro_swap_begin(&c);
    take(&c, clock, &failure);
    enum intro_capture_result result = judge(cap, &c, g_steal_pointer(&failure), why, error);
    intro_swap_end(&c);
    g_clear_error(&c.busy);
    g_clear_pointer(&c.sockets, g_array_unref);
    g_clear_pointer(&c.later, g_array_unref);
    g_clear_pointer(&c.partial, g_array_unref);
    g_clear_pointer(&c.programs, g_array_unref);
    g_clear_pointer(&c.holders, g_hash_table_unref);
    g_clear_pointer(&c.cow, intro_cow_free);
    return result;
}

FmtImage *intro_capture_finish(IntroCapture *cap, uint64_t pause_ns, GError **error)
{
    FmtImage *img = g_steal_pointer(&cap->img);

    if (!img) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED, "nothing has been captured");
        return NULL;
    }
    fmt_image_head(img)->n_pages = intro_pages_finish(cap->pages, img);
    fmt_image_head(img)->pause_ns = pause_ns;
    return img;
}
