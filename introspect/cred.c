// SPDX-License-Identifier: GPL-2.0-or-later
// Credentials (struct cred).
#include "introspect/cred.h"

#include "introspect/reader.h"

#define MAX_GROUPS 65536 // NGROUPS_MAX

static GBytes *read_groups(struct intro_ctx *c, IntroReader *r, struct gva cred)
{
    struct gva info = rd_ptr(r, cred, M_cred_group_info);
    uint64_t n = rd(r, info, M_group_info_ngroups);
    g_autofree uint32_t *gids = NULL;

    if (r->error || n == 0)
        return NULL;
    if (n > MAX_GROUPS) {
        g_set_error(&r->error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "group_info at %" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT " groups",
                    info.addr, n);
        return NULL;
    }
    gids = g_new(uint32_t, n);
    if (!intro_read(c->k, intro_member_addr(c->k, info, M_group_info_gid), gids, n * 4, &r->error))
        return NULL;
    return g_bytes_new_take(g_steal_pointer(&gids), n * 4);
}

// A keyring of its own holds keys that stay behind; most processes have none.
static const struct {
    enum intro_member member;
    const char *text;
} keyrings[] = {
    {M_cred_session_keyring, "its session keyring does not go along"},
    {M_cred_process_keyring, "its process keyring does not go along"},
    {M_cred_thread_keyring, "a thread keyring does not go along"},
};

// The label is the first word of what AppArmor has in cred.security.
static void note_apparmor(struct intro_ctx *c, IntroReader *r, struct gva cred)
{
    struct gva initialized, sizes;
    int64_t unconfined;

    if (!intro_symbol(c->k, "apparmor_initialized", &initialized, NULL) ||
        !intro_symbol(c->k, "apparmor_blob_sizes", &sizes, NULL) || !intro_has(c->k, M_blob_cred) ||
        !intro_has(c->k, M_aa_label_flags) || !intro_has(c->k, M_cred_security) ||
        !intro_constant(c->k, C_FLAG_UNCONFINED, &unconfined) || !rd_u32_at(r, initialized))
        return;
    struct gva blob = rd_ptr(r, cred, M_cred_security);
    struct gva label =
        blob.addr ? rd_ptr_at(r, GVA(blob.addr + rd(r, sizes, M_blob_cred))) : GVA(0);

    if (!label.addr || r->error || rd(r, label, M_aa_label_flags) & (uint64_t)unconfined)
        return;
    struct gva name_at =
        rd_opt(r, label, M_aa_label_name, 0) ? rd_ptr(r, label, M_aa_label_name) : GVA(0);
    g_autofree char *name = name_at.addr ? intro_read_str(c->k, name_at, 256, NULL) : NULL;
    intro_note(c, FMT_NOTE_LOSS, "security-label", "its AppArmor label %s does not go along",
               name ? name : "");
}

// A thread that restricts itself would be free in the target.
static void refuse_landlock(struct intro_ctx *c, IntroReader *r, struct gva cred)
{
    struct gva initialized, sizes;

    if (!intro_symbol(c->k, "landlock_initialized", &initialized, NULL) ||
        !intro_symbol(c->k, "landlock_blob_sizes", &sizes, NULL) || !intro_has(c->k, M_blob_cred) ||
        !intro_has(c->k, M_cred_security) || !(rd_u32_at(r, initialized) & 0xff))
        return;
    struct gva blob = rd_ptr(r, cred, M_cred_security);
    // struct landlock_cred_security begins with its domain.
    if (blob.addr && rd_u64_at(r, GVA(blob.addr + rd(r, sizes, M_blob_cred))))
        intro_refuse(c, "landlock", "is restricted by Landlock");
}

static void note_security(struct intro_ctx *c, IntroReader *r, struct gva cred)
{
    struct gva selinux;

    for (size_t i = 0; i < G_N_ELEMENTS(keyrings); i++)
        if (rd_opt(r, cred, keyrings[i].member, 0))
            intro_note(c, FMT_NOTE_LOSS, "keyring", "%s", keyrings[i].text);
    note_apparmor(c, r, cred);
    refuse_landlock(c, r, cred);
    if (intro_symbol(c->k, "selinux_state", &selinux, NULL) &&
        rd_opt(r, selinux, M_selinux_initialized, 0))
        intro_note(c, FMT_NOTE_LOSS, "security-label", "its SELinux context does not go along");
}

uint64_t intro_cred(struct intro_ctx *c, struct gva cred, GError **error)
{
    uint64_t ref = intro_object_ref(c, cred);
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva init_ns = GVA(0);

    if (ref)
        return ref;
    struct fmt_cred *rec = intro_object_add(c, cred, FMT_CRED);
    rec->uid = rd(&r, cred, M_cred_uid);
    rec->euid = rd(&r, cred, M_cred_euid);
    rec->suid = rd(&r, cred, M_cred_suid);
    rec->fsuid = rd(&r, cred, M_cred_fsuid);
    rec->gid = rd(&r, cred, M_cred_gid);
    rec->egid = rd(&r, cred, M_cred_egid);
    rec->sgid = rd(&r, cred, M_cred_sgid);
    rec->fsgid = rd(&r, cred, M_cred_fsgid);
    rec->securebits = rd(&r, cred, M_cred_securebits);
    // kernel_cap_t: u32[2] before 6.3, u64 since; the bytes are the same.
    rd_bytes(&r, cred, M_cred_cap_inheritable, &rec->cap_inheritable, 8);
    rd_bytes(&r, cred, M_cred_cap_permitted, &rec->cap_permitted, 8);
    rd_bytes(&r, cred, M_cred_cap_effective, &rec->cap_effective, 8);
    rd_bytes(&r, cred, M_cred_cap_bset, &rec->cap_bounding, 8);
    rd_bytes(&r, cred, M_cred_cap_ambient, &rec->cap_ambient, 8);
    rec->groups = read_groups(c, &r, cred);

    note_security(c, &r, cred);
    struct gva ns = rd_ptr(&r, cred, M_cred_user_ns);
    if (!rd_done(&r, error))
        return 0;
    if (intro_symbol(c->k, "init_user_ns", &init_ns, NULL) && ns.addr != init_ns.addr)
        intro_refuse(c, "user-namespace", "lives in a user namespace of its own");
    return rec->rec.objref;
}
