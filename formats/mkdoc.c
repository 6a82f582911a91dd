// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the tables of records and an annotated dump into docs/image-format.md, or checks that they
// are there.
//
// usage: mkdoc [--check] DOCUMENT IMAGE
//
// What stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/catalogue.h"
#include "formats/image.h"
#include "formats/wire.h"

#define END_MARK "<!-- end -->"

static void add_fields(GString *out, const struct fmt_record_type *t)
{
    g_string_append(out, "\n| at | field | kind | meaning |\n|---:|---|---|---|\n");
    for (size_t i = 0; i < t->n_fields; i++) {
        const struct fmt_field *f = &t->fields[i];
        const struct fmt_record_type *to = fmt_record_type(f->to);
        bool is_ref = f->kind == FMT_FIELD_R || f->kind == FMT_FIELD_P;

        g_string_append_printf(out, "| %zu | %s | %c%s%s | %s |\n", i * WIRE_FIELD_BYTES, f->name,
                               "UIXSBRP"[f->kind], is_ref ? " " : "",
                               !is_ref ? ""
                               : to    ? to->name
                                       : "any",
                               f->doc);
    }
}

static bool add_records(GString *out, const GByteArray *image)
{
    for (uint32_t type = 0; type < FMT_N_TYPES; type++) {
        const struct fmt_record_type *t = fmt_record_type(type);

        if (!t)
            continue;
        g_string_append_printf(out, "\n### %" PRIu32 " %s\n\n%s.\n", type, t->name, t->doc);
        if (t->n_fields > 0)
            add_fields(out, t);
    }
    g_string_append(out, "\n");
    return true;
}

static void add_line(GString *out, const GByteArray *image, uint64_t at, uint64_t len,
                     const char *note)
{
    g_string_append_printf(out, "%06" PRIx64 " ", at);
    for (uint64_t i = 0; i < 8; i++)
        g_string_append_printf(out, i < len ? " %02x" : "   ", image->data[at + (i < len ? i : 0)]);
    g_string_append_printf(out, "%s%s\n", *note ? "  " : "", note);
}

// Lines of 8 bytes, without those in the middle of a long text or page.
static void add_bytes(GString *out, const GByteArray *image, uint64_t at, uint64_t len,
                      const char *note)
{
    for (uint64_t i = 0; i < len; i += 8) {
        if (len > 64 && i == 16) {
            g_string_append_printf(out, "        ...%22s(%" PRIu64 " bytes in all)\n", "", len);
            return;
        }
        add_line(out, image, at + i, MIN(8, len - i), i == 0 ? note : "");
    }
}

static void add_values(GString *out, const GByteArray *image, uint64_t at,
                       const struct fmt_record_type *t)
{
    size_t zeros = 0;

    for (size_t i = 0; i < t->n_fields; i++) {
        uint64_t value = wire_get64(image->data + at + i * WIRE_FIELD_BYTES);

        if (value == 0)
            zeros++;
        else
            add_line(out, image, at + i * WIRE_FIELD_BYTES, 8, t->fields[i].name);
    }
    if (zeros > 0)
        g_string_append_printf(out, "        ...%22s(%zu more: 0)\n", "", zeros);
}

static void add_record(GString *out, const GByteArray *image, uint64_t at,
                       const struct wire_header *h, const struct fmt_record_type *t)
{
    g_autofree char *what = g_strdup_printf("type %" PRIu32 ": %s; flags", h->type, t->name);
    uint64_t payload = at + WIRE_HEADER_BYTES, fields = t->n_fields * WIRE_FIELD_BYTES;

    g_string_append(out, "\n");
    add_line(out, image, at, 8, what);
    add_line(out, image, at + 8, 8, "length of the payload");
    add_line(out, image, at + 16, 8, "objref");
    if (h->type == FMT_STRING) {
        add_bytes(out, image, payload, h->length_bytes, "text");
        if (h->length_bytes % 8)
            add_line(out, image, payload + h->length_bytes, wire_pad(h->length_bytes),
                     "zeros up to 8");
        return;
    }
    add_values(out, image, payload, t);
    if (h->type == FMT_PAGES && h->length_bytes > fields) {
        uint64_t contents = wire_get64(image->data + payload + offsetof(struct fmt_pages, n_pages) -
                                       sizeof(struct fmt_record)) *
                            FMT_PAGE_BYTES;

        add_bytes(out, image, payload + fields, h->length_bytes - fields - contents,
                  "zeros up to a page boundary");
        add_bytes(out, image, payload + h->length_bytes - contents, contents, "contents");
    }
}

static bool add_dump(GString *out, const GByteArray *image)
{
    uint64_t at = WIRE_MAGIC_BYTES;

    g_string_append(out, "\n```\n");
    add_line(out, image, 0, 8, "magic: VMGRAFT and a line feed");
    while (at < image->len) {
        struct wire_header h = wire_get_header(image->data + at);
        const struct fmt_record_type *t = fmt_record_type(h.type);

        if (!t || h.length_bytes > image->len - at - WIRE_HEADER_BYTES)
            return false;
        add_record(out, image, at, &h, t);
        at += WIRE_HEADER_BYTES + h.length_bytes + wire_pad(h.length_bytes);
    }
    g_string_append(out, "```\n\n");
    return true;
}

static const struct {
    const char *mark;
    bool (*add)(GString *out, const GByteArray *image);
} parts[] = {
    {"<!-- generated: records -->", add_records},
    {"<!-- generated: dump -->", add_dump},
};

// The document with its generated parts made anew; NULL where a mark is missing or the image is
// none.
static char *regenerate(const char *text, const GByteArray *image)
{
    g_autoptr(GString) out = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        const char *mark = strstr(text, parts[i].mark);
        const char *end = mark ? strstr(mark, END_MARK) : NULL;

        if (!end)
            return NULL;
        mark += strlen(parts[i].mark);
        g_string_append_len(out, text, mark - text);
        g_string_append(out, "\n");
        if (!parts[i].add(out, image))
            return NULL;
        text = end;
    }
    g_string_append(out, text);
    return g_string_free(g_steal_pointer(&out), false);
}

int main(int argc, char **argv)
{
    bool check = argc == 4 && strcmp(argv[1], "--check") == 0;
    g_autofree char *old = NULL, *fresh = NULL, *data = NULL;
    g_autoptr(GError) error = NULL;
    gsize len;

    if (argc != 3 && !check) {
        fprintf(stderr, "usage: mkdoc [--check] DOCUMENT IMAGE\n");
        return 2;
    }
    const char *path = argv[argc - 2];
    if (!g_file_get_contents(path, &old, NULL, &error) ||
        !g_file_get_contents(argv[argc - 1], &data, &len, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    GByteArray image = {.data = (guint8 *)data, .len = len};
    fresh = regenerate(old, &image);
    if (!fresh) {
        fprintf(stderr, "%s lacks a mark, or %s is no image\n", path, argv[argc - 1]);
        return 1;
    }
    if (strcmp(old, fresh) == 0)
        return 0;
    if (check) {
        fprintf(stderr, "%s is out of date: run `ninja image-format-doc`\n", path);
        return 1;
    }
    if (!g_file_set_contents(path, fresh, -1, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    return 0;
}
