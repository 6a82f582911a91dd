// SPDX-License-Identifier: GPL-2.0-or-later
// The pause loop: takes a process tree at a moment at which all its threads are at a safe point.
#include "cli/capture.h"

#include <string.h>

#include "cli/refusal.h"
#include "cli/signals.h"
#include "cli/version.h"

#define BETWEEN_TAKES_US 1000
// A guest that comes to nothing in so short a time, as on a busy host, gets twice as long each so
// many takes.
#define TAKES_A_STEP 8
#define MAX_STEPS    5

// Refusals that are met with for so long are not of a moment, though no thread be at rest.
#define LASTING_NS (G_GINT64_CONSTANT(1) * 1000 * 1000 * 1000)

#define MAX_CARRIED_BYTES (G_GUINT64_CONSTANT(4) << 30)

struct take {
    struct cli_guest *guest;
    IntroCapture *capture;
    char *why; // of the last RETRY
    GPtrArray *refusals;
    int64_t paused_ns;
};

// One look at the guest, which is paused when this returns (unless it could not be).
static enum intro_capture_result take_once(struct take *t, GError **error)
{
    g_autoptr(GArray) vcpus = NULL;
    struct vmm_clock clock;

    t->paused_ns = cli_now_ns();
    g_clear_pointer(&t->why, g_free);
    if (!cli_guest_pause(t->guest, error))
        return INTRO_CAPTURE_FAILED;
    vcpus = vmm_machine_read_vcpus(t->guest->vm, error);
    if (!vcpus || !vmm_machine_read_clock(t->guest->vm, &clock, error))
        return INTRO_CAPTURE_FAILED;
    return intro_capture_take(t->capture, vcpus, &clock, &t->why, t->refusals, error);
}

static void set_refused(const struct take *t, GError **error)
{
    g_set_error(error, CLI_ERROR, CLI_ERROR_REFUSED,
                "%s: the process cannot be taken out, and goes on as before:", t->guest->target);
}

static void give_up(const struct take *t, unsigned n_takes, int64_t deadline_ms, GError **error)
{
    if (t->refusals->len)
        set_refused(t, error);
    else if (vmm_machine_why_stopped(t->guest->vm))
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: %s, where the process cannot be taken: %s; --forensic records it as it is",
                    t->guest->target, vmm_machine_why_stopped(t->guest->vm), t->why);
    else if (vmm_machine_was_paused_before(t->guest->vm))
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: was paused where the process cannot be taken: %s; let the guest run on "
                    "for a moment (--let-run), or use --forensic",
                    t->guest->target, t->why);
    else
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: no safe moment in %u pauses within %.1f s: %s; the guest goes on as "
                    "before; a longer --deadline may help",
                    t->guest->target, n_takes, (double)deadline_ms / 1000, t->why);
}

// Takes until it is done; the guest runs in between.
static bool take_all(struct cli *cli, struct take *t, int64_t deadline_ms, unsigned *ret_n_takes,
                     GError **error)
{
    const int64_t until_ns = cli_now_ns() + deadline_ms * 1000000;
    int64_t clean_ns = cli_now_ns(); // when nothing was refused

    for (unsigned n = 1;; n++) {
        enum intro_capture_result result = take_once(t, error);

        if (result == INTRO_CAPTURE_DONE) {
            *ret_n_takes = n;
            return true;
        }
        if (result == INTRO_CAPTURE_FAILED)
            return false;
        if (result == INTRO_CAPTURE_REFUSED) {
            set_refused(t, error);
            return false;
        }
        cli_debug(cli, "take %u: %s", n, t->why);
        if (!vmm_machine_resume(t->guest->vm, error) || cli_signals_check(cli, error))
            return false;
        if (!t->refusals->len)
            clean_ns = cli_now_ns();
        if (vmm_machine_was_paused_before(t->guest->vm) || cli_now_ns() >= until_ns ||
            cli_now_ns() - clean_ns >= LASTING_NS) {
            give_up(t, n, deadline_ms, error);
            return false;
        }
        g_usleep(BETWEEN_TAKES_US << MIN(n / TAKES_A_STEP, MAX_STEPS));
    }
}

static void add_reasons(const GPtrArray *refusals, GPtrArray *reasons)
{
    for (guint i = 0; i < refusals->len; i++) {
        const struct intro_refusal *r = g_ptr_array_index(refusals, i);

        g_ptr_array_add(reasons, cli_reason(r->pid, r->fd, r->kind, r->text));
    }
}

FmtImage *cli_capture(struct cli *cli, struct cli_guest *guest,
                      const struct intro_capture_options *options, int64_t deadline_ms,
                      enum cli_after after, struct cli_capture_stats *ret, GPtrArray *reasons,
                      GError **error)
{
    g_autoptr(IntroCapture) capture = intro_capture_prepare(guest->kernel, options, error);
    g_autoptr(GPtrArray) refusals =
        g_ptr_array_new_with_free_func((GDestroyNotify)intro_refusal_free);
    struct take t = {.guest = guest, .capture = capture, .refusals = refusals};
    struct cli_capture_stats stats = {0};
    g_autoptr(FmtImage) img = NULL;
    bool ok;

    if (!capture) {
        g_prefix_error(error, "%s: ", guest->target);
        return NULL;
    }
    ok = take_all(cli, &t, deadline_ms, &stats.n_takes, error);
    g_free(t.why);
    add_reasons(refusals, reasons);
    if (ok && after == CLI_AFTER_LEAVE_PAUSED)
        vmm_machine_leave_paused(guest->vm);
    else if (!vmm_machine_resume(guest->vm, ok ? error : NULL))
        return NULL;
    if (!ok)
        return NULL;

    if (after == CLI_AFTER_RESUME && !vmm_machine_was_paused_before(guest->vm))
        stats.pause_ns = vmm_machine_pause_ns(guest->vm);
    stats.taken_ns = t.paused_ns;
    img = intro_capture_finish(capture, stats.pause_ns, error);
    if (!img)
        return NULL;
    stats.n_pages = fmt_image_head(img)->n_pages;
    if (!fmt_image_head(img)->writer)
        fmt_image_head(img)->writer = g_strdup("vmgraft " CLI_VERSION);
    *ret = stats;
    return g_steal_pointer(&img);
}

bool cli_parse_carry(const struct cli_carry *carry, uint64_t *ret_bytes, GError **error)
{
    const char *limit = carry->limit ? carry->limit : "1M", units[] = "KMG";
    char *end;
    guint64 n = g_ascii_strtoull(limit, &end, 10);
    const char *unit = *end ? strchr(units, g_ascii_toupper(*end)) : NULL;
    const unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;

    if (!g_ascii_isdigit(*limit) || (*end && (!unit || end[1])) || n == 0 ||
        n > MAX_CARRIED_BYTES >> shift) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                    "--carry-limit takes a size from 1 to 4G, such as 65536, 64K or 16M");
        return false;
    }
    *ret_bytes = carry->files || carry->limit ? n << shift : 0;
    return true;
}

void cli_carry_clear(struct cli_carry *carry)
{
    g_clear_pointer(&carry->limit, g_free);
}

void cli_capture_add_json(const struct cli_capture_stats *stats, struct json_object *obj)
{
    json_object_object_add(obj, "pause_ms", cli_json_ms((int64_t)stats->pause_ns));
    json_object_object_add(obj, "pauses", json_object_new_int64(stats->n_takes));
    json_object_object_add(obj, "pages", json_object_new_uint64(stats->n_pages));
}
