// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's types from its BTF.
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>

#include "introspect/kernel.h"
#include "introspect/types.h"

#define MAX_PEEL  32     // typedefs and qualifiers in a row
#define MAX_DEPTH 16     // anonymous structures within one another
#define MAX_STEPS 100000 // members looked at for one path

struct btf_types {
    IntroTypes base;
    struct btf *btf;
    uint32_t n; // type ids are below this
    // Structures and unions by name (a typedef of an anonymous one counts), and the next type of
    // the same name (0: none): unrelated files do use one name for different structures.
    GHashTable *by_name;
    uint32_t *next_same;
    GHashTable *enumerators; // name -> int64_t *
};

/* ---- types ---- */

static const struct btf_type *get_type(const struct btf_types *b, uint32_t id)
{
    return id < b->n ? btf__type_by_id(b->btf, id) : NULL;
}

static const char *get_name(const struct btf_types *b, uint32_t offset)
{
    const char *name = btf__name_by_offset(b->btf, offset);

    return name ? name : "";
}

// The type below typedefs and qualifiers; NULL where there is none.
static const struct btf_type *peel(const struct btf_types *b, uint32_t id)
{
    for (unsigned i = 0; i < MAX_PEEL; i++) {
        const struct btf_type *t = get_type(b, id);

        if (!t || !(btf_is_mod(t) || btf_is_typedef(t)))
            return t;
        id = t->type;
    }
    return NULL;
}

// Size of a type; of an array, all of it with the number of elements over all dimensions.
static bool get_extent(const struct btf_types *b, uint32_t id, uint64_t *ret_bytes,
                       uint64_t *ret_elements)
{
    uint64_t n_elements = 1;
    const struct btf_type *t = peel(b, id);

    for (unsigned i = 0; t && btf_is_array(t) && i < MAX_DEPTH; i++) {
        if (__builtin_mul_overflow(n_elements, btf_array(t)->nelems, &n_elements))
            return false;
        t = peel(b, btf_array(t)->type);
    }
    if (!t)
        return false;
    switch (btf_kind(t)) {
    case BTF_KIND_INT:
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
    case BTF_KIND_FLOAT:
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        *ret_bytes = t->size;
        break;
    case BTF_KIND_PTR:
        *ret_bytes = sizeof(uint64_t);
        break;
    default:
        return false;
    }
    *ret_elements = n_elements;
    return !__builtin_mul_overflow(*ret_bytes, n_elements, ret_bytes) && *ret_bytes <= UINT32_MAX;
}

static bool is_signed(const struct btf_type *t)
{
    if (btf_is_int(t))
        return btf_int_encoding(t) & BTF_INT_SIGNED;
    return btf_is_any_enum(t) && btf_kflag(t);
}

/* ---- members ---- */

struct found {
    uint32_t type;
    uint64_t bits;     // from the start of the outermost structure
    uint32_t bit_size; // bitfields: width; else 0
    unsigned *steps_left;
};

// The bit offset and bitfield width of member i. With the structure's kind_flag both are in the
// member; before (BTF of 4.18 to 4.20) a bitfield's width was that of a special integer type.
static void member_bits(const struct btf_types *b, const struct btf_type *t, unsigned i,
                        struct found *f)
{
    const struct btf_type *m;

    f->type = btf_members(t)[i].type;
    f->bits += btf_member_bit_offset(t, i);
    f->bit_size = btf_member_bitfield_size(t, i);
    m = btf_kflag(t) ? NULL : peel(b, f->type);
    if (m && btf_is_int(m) && (btf_int_bits(m) != 8 * m->size || btf_int_offset(m))) {
        f->bits += btf_int_offset(m);
        f->bit_size = btf_int_bits(m);
    }
}

// Finds a member by the first len bytes of name, looking through anonymous members.
static bool find_member(const struct btf_types *b, const struct btf_type *t, const char *name,
                        size_t len, unsigned depth, struct found *f)
{
    if (depth > MAX_DEPTH || !btf_is_composite(t))
        return false;
    for (unsigned i = 0; i < btf_vlen(t) && *f->steps_left > 0; i++) {
        const char *member = get_name(b, btf_members(t)[i].name_off);
        struct found inner = *f;

        --*f->steps_left;
        member_bits(b, t, i, &inner);
        if (*member == '\0') {
            const struct btf_type *anonymous = peel(b, inner.type);

            if (anonymous && find_member(b, anonymous, name, len, depth + 1, &inner)) {
                *f = inner;
                return true;
            }
        } else if (strlen(member) == len && memcmp(member, name, len) == 0) {
            *f = inner;
            return true;
        }
    }
    return false;
}

// Follows "a.b.c"; an array on the way stands for its first element.
static bool find_path(const struct btf_types *b, uint32_t id, const char *path, struct found *f)
{
    f->type = id;
    do {
        size_t len = strcspn(path, ".");
        const struct btf_type *t = peel(b, f->type);

        for (unsigned i = 0; t && btf_is_array(t) && i < MAX_DEPTH; i++)
            t = peel(b, btf_array(t)->type);
        if (!t || f->bit_size || !find_member(b, t, path, len, 0, f))
            return false;
        path += len;
    } while (*path++ == '.');
    return true;
}

static bool make_place(const struct btf_types *b, const struct found *f, struct intro_place *ret)
{
    const struct btf_type *t = peel(b, f->type);
    uint64_t bytes, n_elements;

    if (!get_extent(b, f->type, &bytes, &n_elements) || f->bits / 8 > UINT32_MAX ||
        n_elements > UINT32_MAX)
        return false;
    *ret = (struct intro_place){
        .is_signed = is_signed(t),
        .offset = f->bits / 8,
        .size_bytes = bytes,
        .n_elements = n_elements,
    };
    if (f->bit_size) {
        ret->bit_offset = f->bits % 8;
        ret->bit_size = f->bit_size;
        ret->size_bytes = (ret->bit_offset + f->bit_size + 7) / 8;
    }
    return f->bit_size || f->bits % 8 == 0;
}

/* ---- the source ---- */

static bool btf_member(const IntroTypes *types, const char *type, const char *path,
                       struct intro_place *ret)
{
    const struct btf_types *b = (const struct btf_types *)types;
    uint32_t id = GPOINTER_TO_UINT(g_hash_table_lookup(b->by_name, type));

    for (; id; id = b->next_same[id]) {
        unsigned steps = MAX_STEPS;
        struct found f = {.steps_left = &steps};

        if (find_path(b, id, path, &f) && make_place(b, &f, ret))
            return true;
    }
    return false;
}

static bool btf_size(const IntroTypes *types, const char *type, uint32_t *ret)
{
    const struct btf_types *b = (const struct btf_types *)types;
    uint32_t id = GPOINTER_TO_UINT(g_hash_table_lookup(b->by_name, type));
    const struct btf_type *t = id ? peel(b, id) : NULL;

    if (!t)
        return false;
    *ret = t->size;
    return true;
}

static bool btf_constant(const IntroTypes *types, const char *name, int64_t *ret)
{
    const struct btf_types *b = (const struct btf_types *)types;
    const int64_t *value = g_hash_table_lookup(b->enumerators, name);

    if (!value)
        return false;
    *ret = *value;
    return true;
}

static void btf_free(IntroTypes *types)
{
    struct btf_types *b = (struct btf_types *)types;

    g_hash_table_unref(b->by_name);
    g_hash_table_unref(b->enumerators);
    g_free(b->next_same);
    btf__free(b->btf);
    g_free(b);
}

static const struct intro_types_ops btf_ops = {
    .member = btf_member,
    .size = btf_size,
    .constant = btf_constant,
    .free = btf_free,
};

// Real structures come before typedefs of the same name, else the order of the ids is kept.
static void index_structure(struct btf_types *b, uint32_t id, const char *name)
{
    uint32_t at = GPOINTER_TO_UINT(g_hash_table_lookup(b->by_name, name));

    if (!at) {
        g_hash_table_insert(b->by_name, (void *)name, GUINT_TO_POINTER(id));
        return;
    }
    b->next_same[id] = b->next_same[at];
    b->next_same[at] = id;
}

static void index_enumerators(struct btf_types *b, const struct btf_type *t)
{
    for (unsigned i = 0; i < btf_vlen(t); i++) {
        bool wide = btf_is_enum64(t);
        const char *name = get_name(b, wide ? btf_enum64(t)[i].name_off : btf_enum(t)[i].name_off);
        int64_t value;

        if (wide)
            value = (int64_t)btf_enum64_value(&btf_enum64(t)[i]);
        else
            value = btf_kflag(t) ? btf_enum(t)[i].val : (int64_t)(uint32_t)btf_enum(t)[i].val;
        if (*name && !g_hash_table_contains(b->enumerators, name))
            g_hash_table_insert(b->enumerators, (void *)name, g_memdup2(&value, sizeof(value)));
    }
}

static void index_all(struct btf_types *b)
{
    for (uint32_t id = 1; id < b->n; id++) {
        const struct btf_type *t = btf__type_by_id(b->btf, id);

        if (btf_is_composite(t) && *get_name(b, t->name_off))
            index_structure(b, id, get_name(b, t->name_off));
        else if (btf_is_any_enum(t))
            index_enumerators(b, t);
    }
    for (uint32_t id = 1; id < b->n; id++) {
        const struct btf_type *t = btf__type_by_id(b->btf, id);
        const struct btf_type *peeled = btf_is_typedef(t) ? peel(b, id) : NULL;

        if (peeled && btf_is_composite(peeled) && !*get_name(b, peeled->name_off))
            index_structure(b, id, get_name(b, t->name_off));
    }
}

// btf__new without its words on stderr: what is wrong with a guest's BTF is ours to say.
static struct btf *parse_quietly(const void *bytes, size_t len)
{
    libbpf_print_fn_t print = libbpf_set_print(NULL);
    struct btf *btf = btf__new(bytes, len);
    int code = errno;

    libbpf_set_print(print);
    errno = code;
    return btf;
}

IntroTypes *intro_types_from_btf(const void *bytes, size_t len, GError **error)
{
    struct btf *btf = len <= INTRO_BTF_MAX_BYTES ? parse_quietly(bytes, len) : NULL;
    struct btf_types *b;

    if (!btf) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "the kernel's BTF (%zu bytes) is damaged: %s", len,
                    len > INTRO_BTF_MAX_BYTES ? "too long" : g_strerror(errno));
        return NULL;
    }
    b = g_new0(struct btf_types, 1);
    b->base.ops = &btf_ops;
    b->btf = btf;
    b->n = btf__type_cnt(btf);
    b->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    b->next_same = g_new0(uint32_t, b->n);
    b->enumerators = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
    index_all(b);
    return &b->base;
}
