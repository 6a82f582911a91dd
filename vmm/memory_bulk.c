// SPDX-License-Identifier: GPL-2.0-or-later
// Copies many pieces of guest memory at once, on several threads.
#include <string.h>

#include "vmm/memory_source.h"

/*
 * The copies are cut at range borders and into pieces of at most BATCH_BYTES; neighbours that
 * continue each other on both sides are joined first. Consecutive pieces form batches of about
 * BATCH_BYTES, which the threads take from a common counter: whoever is held up by page faults
 * takes fewer.
 */
#define BATCH_BYTES  ((size_t)4 << 20)
#define BATCH_PIECES 1024u

struct piece {
    const uint8_t *bytes; // or NULL: remote
    struct vmm_remote_piece remote;
};

struct batch {
    guint first, end; // pieces
};

struct job {
    const VmmMemory *mem;
    GArray *pieces;  // struct piece
    GArray *batches; // struct batch
    gint next;       // batch that nobody has taken, atomic
    GMutex lock;
    GError *error; // the first one, under lock
};

static bool continues(const struct piece *last, const struct vmm_place *place, const uint8_t *to)
{
    size_t n = last->remote.size_bytes;

    if ((uint8_t *)last->remote.to + n != to || n >= BATCH_BYTES)
        return false;
    if (place->source.bytes || last->bytes)
        return last->bytes && last->bytes + n == place->source.bytes;
    return last->remote.from.addr + n == place->source.remote.addr;
}

static size_t add_piece(GArray *pieces, const struct vmm_place *place, uint8_t *to, size_t len)
{
    struct piece *last =
        pieces->len > 0 ? &g_array_index(pieces, struct piece, pieces->len - 1) : NULL;
    bool joined = last && continues(last, place, to);
    size_t room = joined ? BATCH_BYTES - last->remote.size_bytes : BATCH_BYTES;
    size_t n = MIN(MIN(len, room), (size_t)MIN(place->size_bytes, SIZE_MAX));
    struct piece piece = {
        .bytes = place->source.bytes,
        .remote = {.from = place->source.remote, .to = to, .size_bytes = n},
    };

    if (joined)
        last->remote.size_bytes += n;
    else
        g_array_append_val(pieces, piece);
    return n;
}

static bool cut_copies(struct job *job, const struct vmm_copy *copies, size_t n_copies,
                       GError **error)
{
    for (size_t i = 0; i < n_copies; i++) {
        struct gpa at = copies[i].from;
        uint8_t *to = copies[i].to;
        size_t left = copies[i].size_bytes;

        while (left > 0) {
            struct vmm_place place;
            size_t n;

            if (!vmm_memory_locate(job->mem, at, &place)) {
                vmm_memory_set_fault(at, error);
                return false;
            }
            n = add_piece(job->pieces, &place, to, left);
            at.addr += n;
            to += n;
            left -= n;
        }
    }
    return true;
}

static void form_batches(struct job *job)
{
    struct batch batch = {0, 0};
    size_t size_bytes = 0;

    for (guint i = 0; i < job->pieces->len; i++) {
        size_t n = g_array_index(job->pieces, struct piece, i).remote.size_bytes;

        if (batch.end > batch.first &&
            (size_bytes + n > BATCH_BYTES || batch.end - batch.first == BATCH_PIECES)) {
            g_array_append_val(job->batches, batch);
            batch.first = i;
            size_bytes = 0;
        }
        batch.end = i + 1;
        size_bytes += n;
    }
    if (batch.end > batch.first)
        g_array_append_val(job->batches, batch);
}

static bool copy_batch(const struct job *job, const struct batch *batch, GError **error)
{
    struct vmm_remote_piece remote[BATCH_PIECES];
    size_t n_remote = 0;

    for (guint i = batch->first; i < batch->end; i++) {
        const struct piece *piece = &g_array_index(job->pieces, struct piece, i);

        if (piece->bytes)
            memcpy(piece->remote.to, piece->bytes, piece->remote.size_bytes);
        else
            remote[n_remote++] = piece->remote;
    }
    return vmm_remote_read(vmm_memory_pid(job->mem), remote, n_remote, error);
}

static gpointer work(gpointer user)
{
    struct job *job = user;

    for (;;) {
        guint i = (guint)g_atomic_int_add(&job->next, 1);
        GError *error = NULL;

        if (i >= job->batches->len)
            return NULL;
        if (copy_batch(job, &g_array_index(job->batches, struct batch, i), &error))
            continue;
        g_atomic_int_set(&job->next, (gint)job->batches->len); // the others may stop as well
        g_mutex_lock(&job->lock);
        if (job->error)
            g_error_free(error);
        else
            job->error = error;
        g_mutex_unlock(&job->lock);
        return NULL;
    }
}

// The caller works too. A thread that cannot be started only means fewer of them.
static void run(struct job *job, unsigned n_threads)
{
    g_autoptr(GPtrArray) threads = g_ptr_array_new();

    for (unsigned i = 1; i < n_threads && i < job->batches->len; i++) {
        GThread *thread = g_thread_try_new("vmm-bulk", work, job, NULL);

        if (!thread)
            break;
        g_ptr_array_add(threads, thread);
    }
    work(job);
    for (guint i = 0; i < threads->len; i++)
        g_thread_join(threads->pdata[i]);
}

bool vmm_memory_read_bulk(VmmMemory *mem, const struct vmm_copy *copies, size_t n_copies,
                          unsigned n_threads, GError **error)
{
    struct job job = {.mem = mem};
    bool cut;

    job.pieces = g_array_sized_new(FALSE, FALSE, sizeof(struct piece), (guint)n_copies);
    job.batches = g_array_new(FALSE, FALSE, sizeof(struct batch));
    g_mutex_init(&job.lock);
    cut = cut_copies(&job, copies, n_copies, error);
    if (cut) {
        form_batches(&job);
        run(&job, n_threads > 0 ? n_threads : g_get_num_processors());
    }
    g_mutex_clear(&job.lock);
    g_array_unref(job.pieces);
    g_array_unref(job.batches);
    if (job.error)
        g_propagate_error(error, job.error);
    return cut && !job.error;
}
