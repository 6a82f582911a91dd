// SPDX-License-Identifier: GPL-2.0-or-later
// Finds and parses VMCOREINFO.
#include "introspect/vmcoreinfo.h"

#include <string.h>

#include "introspect/kernel.h"

/*
 * Guest memory is full of decoys: the format strings in the kernel's .rodata, a vmcore or this very
 * source file in the page cache, the remains of an earlier kernel. Only the start of a page counts,
 * the text must be whole, and whoever uses the result proves it against the kernel it describes.
 */

#define NOTE_NAME       "VMCOREINFO"
#define NOTE_TEXT_START 24 // namesz, descsz, type, then the name padded to 12 bytes
#define FIRST_LINE      "OSRELEASE="
#define PROBE_BYTES     64 // what is looked at in each page: one cache line
#define MAX_CANDIDATES  64 // different texts; a guest full of fakes must not keep us busy

static uint32_t get_u32(const uint8_t *from)
{
    uint32_t v;

    memcpy(&v, from, sizeof(v));
    return GUINT32_FROM_LE(v);
}

static bool is_text(char c)
{
    return c == '\n' || (c >= ' ' && c <= '~');
}

// The value of the line `key=...`, up to its newline; NULL where there is none.
static const char *find_line(const char *text, const char *key)
{
    size_t key_len = strlen(key);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, key_len) == 0 && line[key_len] == '=')
            return line + key_len + 1;
    }
    return NULL;
}

static bool find_number(const char *text, const char *key, unsigned base, uint64_t *ret)
{
    const char *value = find_line(text, key);
    g_autofree char *line = value ? g_strndup(value, strcspn(value, "\n")) : NULL;
    gint64 negative;
    guint64 v;

    if (!line)
        return false;
    if (line[0] == '-') {
        if (!g_ascii_string_to_signed(line, base, G_MININT64, 0, &negative, NULL))
            return false;
        *ret = (uint64_t)negative;
        return true;
    }
    if (!g_ascii_string_to_unsigned(line, base, 0, G_MAXUINT64, &v, NULL))
        return false;
    *ret = v;
    return true;
}

bool intro_vmcoreinfo_symbol(const IntroVmcoreinfo *info, const char *name, uint64_t *ret)
{
    g_autofree char *key = g_strdup_printf("SYMBOL(%s)", name);

    return find_number(info->text, key, 16, ret);
}

// Whether a page starts like the note or the bare text: where its text starts, and how long it may
// be at most. At least PROBE_BYTES of page can be read.
static bool starts_right(const uint8_t *page, size_t *ret_start, size_t *ret_max)
{
    uint32_t desc_bytes = get_u32(page + 4);
    bool is_note = get_u32(page) == sizeof(NOTE_NAME) &&
                   memcmp(page + 12, NOTE_NAME, sizeof(NOTE_NAME)) == 0 && desc_bytes > 0 &&
                   desc_bytes <= INTRO_VMCOREINFO_MAX_BYTES;

    *ret_start = is_note ? NOTE_TEXT_START : 0;
    *ret_max = is_note ? desc_bytes : INTRO_VMCOREINFO_MAX_BYTES;
    return memcmp(page + *ret_start, FIRST_LINE, strlen(FIRST_LINE)) == 0;
}

bool intro_vmcoreinfo_text(const uint8_t *page, size_t len, size_t *ret_start, size_t *ret_len)
{
    size_t start, max;
    const uint8_t *nul;

    if (len < PROBE_BYTES || !starts_right(page, &start, &max))
        return false;
    nul = memchr(page + start, '\0', MIN(max, len - start));
    if (!nul && (start == 0 || max > len - start))
        return false; // a note's text ends with the note
    *ret_start = start;
    *ret_len = nul ? (size_t)(nul - page) - start : max;
    return true;
}

void intro_vmcoreinfo_free(IntroVmcoreinfo *info)
{
    if (!info)
        return;
    g_free(info->text);
    g_free(info->release);
    g_free(info);
}

static bool read_numbers(IntroVmcoreinfo *info)
{
    uint64_t five_levels = 0;

    // phys_base came with 4.10; a kernel that was built without KASLR still writes it.
    if (!find_number(info->text, "NUMBER(phys_base)", 10, &info->phys_base) ||
        !intro_vmcoreinfo_symbol(info, "_stext", &info->stext) ||
        (!intro_vmcoreinfo_symbol(info, "init_top_pgt", &info->init_top_pgt) &&
         !intro_vmcoreinfo_symbol(info, "swapper_pg_dir", &info->init_top_pgt)))
        return false;
    find_number(info->text, "KERNELOFFSET", 16, &info->kaslr_bytes);
    find_number(info->text, "NUMBER(sme_mask)", 10, &info->sme_mask);
    find_number(info->text, "NUMBER(pgtable_l5_enabled)", 10, &five_levels);
    info->page_levels = five_levels ? 5 : 4;
    return true;
}

IntroVmcoreinfo *intro_vmcoreinfo_parse(const char *text, size_t len, GError **error)
{
    g_autoptr(IntroVmcoreinfo) info = g_new0(IntroVmcoreinfo, 1);
    const char *release;
    size_t n = 0;

    while (n < len && is_text(text[n]))
        n++;
    if (n < len && text[n] != '\0') {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "VMCOREINFO holds the byte 0x%02x at offset %zu", (unsigned char)text[n], n);
        return NULL;
    }
    info->text = g_strndup(text, n);
    release = find_line(info->text, "OSRELEASE");
    if (!release || !read_numbers(info)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "VMCOREINFO lacks what an x86-64 kernel writes (%zu bytes of text)", n);
        return NULL;
    }
    info->release = g_strndup(release, strcspn(release, "\n"));
    return g_steal_pointer(&info);
}

struct search {
    VmmMemory *mem;
    GHashTable *seen; // texts
    intro_vmcoreinfo_fn fn;
    void *user;
};

// What can be read at `at`, up to the longest text and the end of its range.
static size_t read_candidate(VmmMemory *mem, const struct vmm_ram_range *range, struct gpa at,
                             uint8_t *ret)
{
    uint64_t left = range->start.addr + range->size_bytes - at.addr;
    size_t len = MIN(left, NOTE_TEXT_START + INTRO_VMCOREINFO_MAX_BYTES);

    return vmm_memory_read(mem, at, ret, len, NULL) ? len : 0;
}

// A page whose start looks right. False ends the search.
static bool try_page(struct search *s, const struct vmm_ram_range *range, struct gpa at)
{
    g_autofree uint8_t *page = g_malloc(NOTE_TEXT_START + INTRO_VMCOREINFO_MAX_BYTES);
    size_t len = read_candidate(s->mem, range, at, page), start, text_len;
    g_autoptr(IntroVmcoreinfo) info = NULL;

    if (!intro_vmcoreinfo_text(page, len, &start, &text_len))
        return true;
    info = intro_vmcoreinfo_parse((const char *)page + start, text_len, NULL);
    if (!info || !g_hash_table_add(s->seen, g_strdup(info->text)))
        return true;
    info->found_at = at;
    return s->fn(info, s->user) && g_hash_table_size(s->seen) < MAX_CANDIDATES;
}

static bool probe(const uint8_t *bytes)
{
    size_t start, max;

    return starts_right(bytes, &start, &max);
}

enum { CHUNK_PAGES = 4096 };

// Remote memory: the first bytes of many pages in one go.
static bool search_chunk_remote(struct search *s, const struct vmm_ram_range *range, struct gpa at,
                                size_t n_pages, bool *ret_go_on, GError **error)
{
    g_autofree uint8_t *probes = g_malloc(n_pages * PROBE_BYTES);
    g_autofree struct vmm_copy *copies = g_new(struct vmm_copy, n_pages);

    for (size_t i = 0; i < n_pages; i++)
        copies[i] = (struct vmm_copy){.from = GPA(at.addr + i * VMM_PAGE_BYTES),
                                      .to = probes + i * PROBE_BYTES,
                                      .size_bytes = PROBE_BYTES};
    if (!vmm_memory_read_bulk(s->mem, copies, n_pages, 0, error))
        return false;
    for (size_t i = 0; i < n_pages && *ret_go_on; i++) {
        if (probe(probes + i * PROBE_BYTES))
            *ret_go_on = try_page(s, range, copies[i].from);
    }
    return true;
}

static bool search_range(struct search *s, const struct vmm_ram_range *range, bool *ret_go_on,
                         GError **error)
{
    uint64_t end = (range->start.addr + range->size_bytes) & VMM_PAGE_MASK;
    struct gpa at = GPA((range->start.addr + VMM_PAGE_BYTES - 1) & VMM_PAGE_MASK);

    while (at.addr < end && *ret_go_on) {
        size_t n_pages = MIN(CHUNK_PAGES, (end - at.addr) / VMM_PAGE_BYTES);
        const uint8_t *bytes = vmm_memory_peek(s->mem, at, n_pages * VMM_PAGE_BYTES);

        if (!bytes && !search_chunk_remote(s, range, at, n_pages, ret_go_on, error))
            return false;
        for (size_t i = 0; bytes && i < n_pages && *ret_go_on; i++) {
            if (probe(bytes + i * VMM_PAGE_BYTES))
                *ret_go_on = try_page(s, range, GPA(at.addr + i * VMM_PAGE_BYTES));
        }
        at.addr += n_pages * VMM_PAGE_BYTES;
    }
    return true;
}

bool intro_vmcoreinfo_search(VmmMemory *mem, intro_vmcoreinfo_fn fn, void *user, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    struct search s = {.mem = mem, .seen = seen, .fn = fn, .user = user};
    struct vmm_ram_range range = {0};
    bool go_on = true;

    while (go_on &&
           vmm_memory_next_touched(mem, GPA(range.start.addr + range.size_bytes), &range)) {
        if (!search_range(&s, &range, &go_on, error))
            return false;
    }
    return true;
}
