// SPDX-License-Identifier: GPL-2.0-or-later
// Pseudo terminals (struct tty_struct, n_tty_data): settings, what is under way, who holds them.
#include "introspect/tty.h"

#include <asm/termbits.h>
#include <linux/tty.h>
#include <string.h>

#include "introspect/fd.h"
#include "introspect/reader.h"
#include "introspect/task.h"

/*
 * A pair are two tty_structs that link to each other. What is written on one side goes into the
 * flip buffers of the other side's port, and from there through its line discipline into the ring
 * of that (n_tty_data.read_buf). A worker of the kernel does that as long as the ring has room.
 * The master's line discipline is always raw; all settings are those of the slave.
 *
 * The indices of a ring only grow: where they point to is their remainder.
 */
#define RING_BYTES     4096
#define MAX_FLIP_BYTES (1u << 20) // tty_buffer_set_limit() is 8192 for ptys
#define MAX_FILES      (1u << 20)

G_STATIC_ASSERT(sizeof(struct termios2) == 44); // struct ktermios is the same

// One side while it is read.
struct side {
    struct gva tty, ntty, port;
    struct termios2 termios;
};

/* ---- what is a pseudo terminal ---- */

static bool is_driver(IntroReader *r, struct gva driver, const char *symbol)
{
    struct gva at;

    return driver.addr && intro_symbol(r->k, symbol, &at, NULL) &&
           rd_ptr_at(r, at).addr == driver.addr;
}

// The master of the pair that the tty is of, and whether the tty is that; 0 for other terminals.
static struct gva master_of(IntroReader *r, struct gva tty, bool *ret_is_master)
{
    struct gva driver = tty.addr ? rd_ptr(r, tty, M_tty_driver) : GVA(0);

    *ret_is_master = is_driver(r, driver, "ptm_driver");
    if (*ret_is_master)
        return tty;
    return is_driver(r, driver, "pts_driver") ? rd_ptr(r, tty, M_tty_link) : GVA(0);
}

static bool has_flag(IntroReader *r, struct gva tty, enum intro_const flag, unsigned before)
{
    int64_t bit;

    // Macros until the flags became an enum.
    if (!intro_constant(r->k, flag, &bit))
        bit = before;
    return bit >= 0 && bit < 64 && rd(r, tty, M_tty_flags) >> bit & 1;
}

/* ---- contents ---- */

static bool corrupt(struct gva tty, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "tty_struct at %#" G_GINT64_MODIFIER "x: %s", tty.addr, what);
    return false;
}

static bool busy(struct gva tty, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY, "tty_struct at %#" G_GINT64_MODIFIER "x: %s",
                tty.addr, what);
    return false;
}

static bool read_ring(IntroKernel *k, struct gva ring, uint64_t from, uint64_t to, GByteArray *ret,
                      GError **error)
{
    uint8_t bytes[RING_BYTES];

    if (!intro_read(k, ring, bytes, sizeof bytes, error))
        return false;
    for (uint64_t i = from; i != to; i++)
        g_byte_array_append(ret, &bytes[i % RING_BYTES], 1);
    return true;
}

static bool read_side(IntroKernel *k, struct gva tty, struct side *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);

    ret->tty = tty;
    ret->ntty = rd_ptr(&r, tty, M_tty_disc_data);
    ret->port = rd_ptr(&r, tty, M_tty_port);
    rd_bytes(&r, tty, M_tty_termios, &ret->termios, sizeof ret->termios);
    if (!rd_done(&r, error))
        return false;
    return ret->ntty.addr && ret->port.addr ? true : busy(tty, "no line discipline", error);
}

static bool check_locks(IntroKernel *k, const struct side *s, GError **error)
{
    static const enum intro_member spins[] = {M_tty_ctrl_lock, M_tty_flow_lock, M_tty_files_lock};

    for (size_t i = 0; i < G_N_ELEMENTS(spins); i++)
        if (!intro_check_spinlock(k, intro_member_addr(k, s->tty, spins[i]), "tty_struct", error))
            return false;
    return intro_check_rwsem_write(k, intro_member_addr(k, s->tty, M_tty_termios_rwsem),
                                   "termios of a tty_struct", error) &&
           intro_check_mutex(k, intro_member_addr(k, s->port, M_ttybuf_lock), "tty_bufhead",
                             error) &&
           intro_check_mutex(k, intro_member_addr(k, s->ntty, M_ntty_output_lock), "n_tty_data",
                             error);
}

// Whether the line discipline would take more if it was given any (n_tty_receive_buf_common).
static bool has_room(IntroReader *r, const struct side *s)
{
    const uint64_t tail = rd(r, s->ntty, M_ntty_read_tail);
    int64_t room = RING_BYTES - (int64_t)(rd(r, s->ntty, M_ntty_read_head) - tail);

    if (s->termios.c_iflag & PARMRK)
        room = (room + 2) / 3;
    return room > 1 || (rd(r, s->ntty, M_ntty_icanon) && rd(r, s->ntty, M_ntty_canon_head) == tail);
}

// What the line discipline has not taken; it waits for room there.
static bool read_flip(IntroKernel *k, const struct side *s, GByteArray *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva buf = rd_ptr(&r, s->port, M_ttybuf_head);
    const guint before = ret->len;
    unsigned n = 0;

    for (; buf.addr && n <= MAX_FLIP_BYTES; n++) {
        const uint64_t used = rd(&r, buf, M_flip_used), commit = rd(&r, buf, M_flip_commit);
        const uint64_t from = rd(&r, buf, M_flip_read);

        if (!rd_done(&r, error))
            return false;
        if (from > commit || commit > MAX_FLIP_BYTES || ret->len > MAX_FLIP_BYTES)
            return corrupt(s->tty, "a buffer that contradicts itself", error);
        if (used != commit)
            return busy(s->tty, "something is being written", error);
        const guint at = ret->len;
        g_byte_array_set_size(ret, at + (guint)(commit - from));
        if (!intro_read(k, GVA(intro_member_addr(k, buf, M_flip_data).addr + from), ret->data + at,
                        commit - from, error))
            return false;
        buf = rd_ptr(&r, buf, M_flip_next);
    }
    if (n > MAX_FLIP_BYTES)
        return corrupt(s->tty, "its buffers do not end", error);
    if (ret->len > before && has_room(&r, s))
        return busy(s->tty, "something is on its way from the other side", error);
    return rd_done(&r, error);
}

static bool has_mark(const uint64_t flags[RING_BYTES / 64], uint64_t i)
{
    i %= RING_BYTES;
    return flags[i / 64] >> i % 64 & 1;
}

static bool read_input(IntroKernel *k, const struct side *s, struct fmt_tty *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const uint64_t head = rd(&r, s->ntty, M_ntty_read_head);
    const uint64_t tail = rd(&r, s->ntty, M_ntty_read_tail);
    const uint64_t canon = rd(&r, s->ntty, M_ntty_canon_head);
    const bool lines = rd(&r, s->ntty, M_ntty_icanon) && !(s->termios.c_lflag & EXTPROC);
    g_autoptr(GByteArray) input = g_byte_array_new(), marks = g_byte_array_new();
    g_autoptr(GByteArray) typed = g_byte_array_new();
    uint64_t flags[RING_BYTES / 64];

    if (!rd_done(&r, error) || !intro_read(k, intro_member_addr(k, s->ntty, M_ntty_read_flags),
                                           flags, sizeof flags, error))
        return false;
    if (head - tail > RING_BYTES || (lines && canon - tail > head - tail))
        return corrupt(s->tty, "more input than there is room for", error);
    if (!read_ring(k, intro_member_addr(k, s->ntty, M_ntty_read_buf), tail, head, input, error) ||
        !read_flip(k, s, typed, error))
        return false;
    for (uint64_t i = tail; lines && i != head; i++) {
        const uint8_t mark = i - tail < canon - tail && has_mark(flags, i);
        g_byte_array_append(marks, &mark, 1);
    }
    if (lines && canon != tail && !has_mark(flags, canon - 1))
        return corrupt(s->tty, "a line without an end", error);
    if (input->len)
        rec->input = g_byte_array_free_to_bytes(g_steal_pointer(&input));
    if (marks->len)
        rec->marks = g_byte_array_free_to_bytes(g_steal_pointer(&marks));
    if (typed->len)
        rec->typed = g_byte_array_free_to_bytes(g_steal_pointer(&typed));
    return true;
}

static bool read_output(IntroKernel *k, const struct side *s, struct fmt_tty *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const uint64_t head = rd(&r, s->ntty, M_ntty_read_head);
    const uint64_t tail = rd(&r, s->ntty, M_ntty_read_tail);
    g_autoptr(GByteArray) output = g_byte_array_new();

    if (!rd_done(&r, error))
        return false;
    if (head - tail > RING_BYTES)
        return corrupt(s->tty, "more output than there is room for", error);
    if (!read_ring(k, intro_member_addr(k, s->ntty, M_ntty_read_buf), tail, head, output, error) ||
        !read_flip(k, s, output, error))
        return false;
    if (output->len)
        rec->output = g_byte_array_free_to_bytes(g_steal_pointer(&output));
    return true;
}

static bool read_echo(IntroKernel *k, const struct side *s, struct fmt_tty *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const uint64_t head = rd(&r, s->ntty, M_ntty_echo_head);
    const uint64_t tail = rd(&r, s->ntty, M_ntty_echo_tail);
    g_autoptr(GByteArray) echo = g_byte_array_new();

    rec->column = rd(&r, s->ntty, M_ntty_column);
    rec->canon_column = rd(&r, s->ntty, M_ntty_canon_column);
    if (!rd_done(&r, error))
        return false;
    if (head - tail > RING_BYTES)
        return corrupt(s->tty, "more to echo than there is room for", error);
    if (!read_ring(k, intro_member_addr(k, s->ntty, M_ntty_echo_buf), tail, head, echo, error))
        return false;
    if (echo->len)
        rec->echo = g_byte_array_free_to_bytes(g_steal_pointer(&echo));
    return true;
}

/* ---- settings ---- */

static GBytes *bytes_of(IntroReader *r, struct gva tty, enum intro_member member, size_t size)
{
    g_autofree uint8_t *data = g_malloc(size);

    rd_bytes(r, tty, member, data, size);
    return g_bytes_new_take(g_steal_pointer(&data), size);
}

static bool read_settings(struct intro_ctx *c, const struct side *master, const struct side *slave,
                          struct fmt_tty *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    const uint64_t level = intro_pid_level(&r, c->root_task);
    struct gva session = rd_ptr(&r, slave->tty, M_tty_session);
    struct gva pgrp = rd_ptr(&r, slave->tty, M_tty_pgrp);
    const struct {
        bool on;
        enum fmt_tty_state state;
    } states[] = {
        {has_flag(&r, master->tty, C_TTY_PTY_LOCK, 16), FMT_TTY_LOCKED},
        {has_flag(&r, master->tty, C_TTY_EXCLUSIVE, 3), FMT_TTY_MASTER_EXCLUSIVE},
        {has_flag(&r, slave->tty, C_TTY_EXCLUSIVE, 3), FMT_TTY_SLAVE_EXCLUSIVE},
        {has_flag(&r, master->tty, C_TTY_OTHER_CLOSED, 2), FMT_TTY_SLAVE_CLOSED},
        {rd(&r, master->tty, M_tty_packet), FMT_TTY_PACKET},
        {rd(&r, slave->tty, M_tty_stopped), FMT_TTY_STOPPED},
        {rd(&r, slave->tty, M_tty_tco_stopped), FMT_TTY_TCO_STOPPED},
        {rd(&r, master->tty, M_tty_stopped), FMT_TTY_MASTER_STOPPED},
        {rd(&r, slave->ntty, M_ntty_lnext), FMT_TTY_QUOTING},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(states); i++)
        rec->state |= states[i].on ? states[i].state : 0;
    rec->packet_status = rec->state & FMT_TTY_PACKET ? rd(&r, slave->tty, M_tty_pktstatus) : 0;
    rec->termios = bytes_of(&r, slave->tty, M_tty_termios, sizeof(struct termios2));
    rec->locked = bytes_of(&r, slave->tty, M_tty_termios_locked, sizeof(struct termios2));
    rec->window = bytes_of(&r, slave->tty, M_tty_winsize, 8);
    rec->session = session.addr ? intro_pid_nr(&r, session, level) : 0;
    rec->pgrp = pgrp.addr ? intro_pid_nr(&r, pgrp, level) : 0;
    if (rd(&r, slave->ntty, M_ntty_erasing))
        intro_note(c, FMT_NOTE_LOSS, "terminal-echo",
                   "/dev/pts/%" G_GUINT64_FORMAT " is in the middle of showing what is erased, "
                   "which it will not know",
                   rec->index);
    return rd_done(&r, error);
}

// Of the node in devpts.
static void read_node(IntroReader *r, struct gva inode, struct fmt_tty *rec)
{
    rec->mode = rd(r, inode, M_inode_mode);
    rec->uid = rd(r, inode, M_inode_uid);
    rec->gid = rd(r, inode, M_inode_gid);
    rec->atime_ns = (int64_t)rd(r, inode, M_inode_atime_sec) * 1000000000 +
                    (int64_t)rd(r, inode, M_inode_atime_nsec);
    rec->mtime_ns = (int64_t)rd(r, inode, M_inode_mtime_sec) * 1000000000 +
                    (int64_t)rd(r, inode, M_inode_mtime_nsec);
}

static bool read_pair(struct intro_ctx *c, struct gva master, struct fmt_tty *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva slave = rd_ptr(&r, master, M_tty_link);
    struct side m, s;

    rec->index = rd(&r, master, M_tty_index);
    // What it held is gone with the master: its slave is hung up.
    if (has_flag(&r, slave, C_TTY_OTHER_CLOSED, 2))
        rec->state |= FMT_TTY_MASTER_CLOSED;
    if (!rd_done(&r, error) || rec->state & FMT_TTY_MASTER_CLOSED)
        return !r.error;
    if (!read_side(c->k, master, &m, error) || !read_side(c->k, slave, &s, error) ||
        !check_locks(c->k, &m, error) || !check_locks(c->k, &s, error))
        return false;
    if (m.termios.c_line != N_TTY || s.termios.c_line != N_TTY) {
        intro_refuse(c, "line-discipline",
                     "/dev/pts/%" G_GUINT64_FORMAT " has the line discipline %u", rec->index,
                     m.termios.c_line != N_TTY ? m.termios.c_line : s.termios.c_line);
        return true;
    }
    struct gva dentry = rd_ptr(&r, slave, M_tty_driver_data);
    if (dentry.addr)
        read_node(&r, rd_ptr(&r, dentry, M_dentry_inode), rec);
    return rd_done(&r, error) && read_settings(c, &m, &s, rec, error) &&
           read_input(c->k, &s, rec, error) && read_output(c->k, &m, rec, error) &&
           read_echo(c->k, &s, rec, error);
}

/* ---- open files ---- */

bool intro_record_tty(struct intro_opened *o, bool *ret_is_pty, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    struct gva private = rd_ptr(&r, o->file, M_file_private), hung_up = GVA(0);
    struct gva tty = private.addr ? rd_ptr(&r, private, M_ttyfile_tty) : GVA(0);
    bool is_master;
    struct gva master = master_of(&r, tty, &is_master);

    *ret_is_pty = false;
    if (!rd_done(&r, error))
        return false;
    if (!master.addr)
        return true;
    *ret_is_pty = true;
    uint64_t ref = intro_object_ref(o->c, master);
    if (!ref) {
        struct fmt_tty *made = intro_object_add(o->c, master, FMT_TTY);
        ref = made->rec.objref;
        if (!read_pair(o->c, master, made, error)) {
            g_prefix_error(error, "%s: ", o->name);
            return false;
        }
    }
    struct fmt_tty_file *rec = fmt_image_add(o->c->img, FMT_TTY_FILE);
    struct fmt_tty *pair = fmt_image_by_ref(o->c->img, ref, FMT_TTY);
    rec->tty = ref;
    rec->side = is_master                          ? FMT_TTY_MASTER
                : strcmp(o->fstype, "devpts") == 0 ? FMT_TTY_SLAVE
                                                   : FMT_TTY_CONTROLLING;
    rec->hung_up = intro_symbol(o->c->k, "hung_up_tty_fops", &hung_up, NULL) &&
                   rd(&r, o->file, M_file_op) == hung_up.addr;
    if (rec->side == FMT_TTY_SLAVE && pair->mode == 0)
        read_node(&r, o->inode, pair);
    o->rec->kind = FMT_FILE_TTY;
    o->rec->object = rec->rec.objref;
    o->rec->path = g_strdup(o->name);
    return rd_done(&r, error);
}

/* ---- controlling terminals ---- */

// All files are known: whether the terminal goes along.
static bool resolve_terminal(struct intro_ctx *c, struct gva signal, uint64_t ref, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct fmt_proc *proc = fmt_image_by_ref(c->img, ref, FMT_PROC);
    bool is_master;
    struct gva master = master_of(&r, rd_ptr(&r, signal, M_signal_tty), &is_master);

    if (!rd_done(&r, error))
        return false;
    proc->terminal = master.addr ? intro_object_ref(c, master) : 0;
    if (!proc->terminal)
        intro_note(c, FMT_NOTE_LOSS, "terminal", "its controlling terminal does not go along");
    return true;
}

bool intro_terminal(struct intro_ctx *c, struct gva signal, struct fmt_proc *proc, GError **error)
{
    struct gva tty;

    if (!intro_get_ptr(c->k, signal, M_signal_tty, &tty, error))
        return false;
    if (tty.addr)
        intro_later(c, resolve_terminal, signal, proc->rec.objref);
    return true;
}

/* ---- who else ---- */

struct search {
    struct intro_ctx *c;
    GHashTable *holders; // of files, outside of the tree; made when needed
    struct gva outside;  // a file that the tree does not have
    unsigned ours;
};

static bool look_at_file(struct gva node, void *user, GError **error)
{
    struct search *s = user;
    struct gva file;

    if (!intro_get_ptr(s->c->k, intro_container(s->c->k, node, M_ttyfile_list), M_ttyfile_file,
                       &file, error))
        return false;
    if (intro_object_ref(s->c, file))
        s->ours++;
    else
        s->outside = file;
    return true;
}

static const char *holder_of(struct search *s, struct gva file, GError **error)
{
    if (!s->holders && !(s->holders = intro_outside_holders(s->c, error)))
        return NULL;
    const char *holder = g_hash_table_lookup(s->holders, GSIZE_TO_POINTER(file.addr));
    return holder ? holder : "something outside of the tree";
}

// The first process that has a file of the terminal.
static void blame(struct intro_ctx *c, const struct fmt_tty *rec)
{
    const struct fmt_tty_file *file;

    for (size_t i = 0; FMT_NEXT(c->img, TTY_FILE, i, file); i++)
        if (file->tty == rec->rec.objref) {
            intro_blame_holder(c, file->rec.objref);
            return;
        }
}

static bool check_pair(struct search *s, struct gva master, struct fmt_tty *rec, GError **error)
{
    struct gva slave;
    unsigned of_master;

    if (!intro_get_ptr(s->c->k, master, M_tty_link, &slave, error))
        return false;
    const struct gva sides[] = {master, slave};
    s->outside = GVA(0);
    s->ours = of_master = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(sides); i++) {
        if (!intro_walk_list(s->c->k, intro_member_addr(s->c->k, sides[i], M_tty_files), MAX_FILES,
                             look_at_file, s, error))
            return false;
        of_master += i == 0 ? s->ours : 0;
    }
    if (!of_master && !(rec->state & FMT_TTY_MASTER_CLOSED))
        rec->state |= FMT_TTY_OUTSIDE;
    if (!s->outside.addr)
        return true;
    const char *holder = holder_of(s, s->outside, error);
    if (!holder)
        return false;
    blame(s->c, rec);
    intro_refuse(s->c, "tty-outside",
                 "has the terminal /dev/pts/%" G_GUINT64_FORMAT ", which is also open in %s",
                 rec->index, holder);
    return true;
}

// A file of the tree that others have as well, as a child has its parent's.
static bool check_files(struct search *s, GError **error)
{
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, s->c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_file *file = fmt_image_by_ref(s->c->img, GPOINTER_TO_SIZE(ref), FMT_FILE);
        const struct fmt_tty_file *tty =
            file ? fmt_image_by_ref(s->c->img, file->object, FMT_TTY_FILE) : NULL;

        if (!tty)
            continue;
        if (!s->holders && !(s->holders = intro_outside_holders(s->c, error)))
            return false;
        const char *holder = g_hash_table_lookup(s->holders, at);
        if (!holder)
            continue;
        intro_blame_holder(s->c, file->rec.objref);
        intro_refuse(s->c, "tty-outside", "has %s, which is also held by %s", file->path, holder);
    }
    return true;
}

bool intro_tty_check_peers(struct intro_ctx *c, GError **error)
{
    struct search s = {.c = c};
    GHashTableIter iter;
    void *at, *ref;
    bool ok = true;

    g_hash_table_iter_init(&iter, c->objects);
    while (ok && g_hash_table_iter_next(&iter, &at, &ref)) {
        struct fmt_tty *rec = fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_TTY);
        ok = !rec || check_pair(&s, GVA(GPOINTER_TO_SIZE(at)), rec, error);
    }
    ok = ok && (fmt_image_count(c->img, FMT_TTY) == 0 || check_files(&s, error));
    g_clear_pointer(&s.holders, g_hash_table_unref);
    c->pid = c->opt->pid;
    c->fd = -1;
    return ok;
}
