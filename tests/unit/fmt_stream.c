// SPDX-License-Identifier: GPL-2.0-or-later
// What is written is what is read, however it comes; what is cut off or altered is never taken.
#include <string.h>

#include <glib/gstdio.h>

#include "fmt_sample.h"
#include "formats/wire.h"

static void test_round_trip(void)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(GByteArray) bytes = sample_encode(img);
    g_autoptr(FmtImage) again = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = NULL;

    dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "full.vmgraft", NULL);
    g_assert_true(g_file_set_contents(path, (char *)bytes->data, bytes->len, NULL));
    again = fmt_load(path, &error);
    g_assert_no_error(error);
    sample_assert_equal(img, again);

    g_autoptr(GByteArray) bytes_again = sample_encode(again);
    g_assert_cmpmem(bytes->data, bytes->len, bytes_again->data, bytes_again->len);
    sample_rmdir(g_steal_pointer(&dir));
}

static void test_pieces(void)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(GByteArray) bytes = sample_encode(img);

    for (size_t piece = 1; piece < 70000; piece = piece * 3 + 1) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FmtImage) again = NULL;

        sample_decode(bytes->data, bytes->len, piece, &again, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(fmt_image_count(again, FMT_TASK), ==, 2);
    }
}

static void test_truncated(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GByteArray) bytes = sample_encode(img);

    for (size_t len = 0; len < bytes->len; len += len / FMT_PAGE_BYTES == 1 ? 7 : 1) {
        g_autoptr(GError) error = NULL;
        g_autofree char *where = g_strdup_printf("cut off at byte %zu ", len);

        g_assert_false(sample_decode(bytes->data, len, 4096, NULL, &error));
        g_assert_error(error, FMT_ERROR, FMT_ERROR_TRUNCATED);
        g_assert_nonnull(strstr(error->message, where));
    }
}

static void test_altered(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GByteArray) bytes = sample_encode(img);

    // All bits, but of the page at 4096 some.
    for (size_t bit = 0; bit < bytes->len * 8; bit += bit / 8 / FMT_PAGE_BYTES == 1 ? 61 : 1) {
        g_autoptr(GError) error = NULL;

        bytes->data[bit / 8] ^= 1 << bit % 8;
        if (sample_decode(bytes->data, bytes->len, bytes->len, NULL, &error))
            g_error("bit %zu of byte %zu can be flipped unseen", bit % 8, bit / 8);
        g_assert_nonnull(error);
        bytes->data[bit / 8] ^= 1 << bit % 8;
    }
}

static void test_trailing(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GByteArray) bytes = sample_encode(img);
    g_autoptr(GError) error = NULL;

    g_byte_array_append(bytes, (const uint8_t *)"", 1);
    g_assert_false(sample_decode(bytes->data, bytes->len, 4096, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_CORRUPT);
}

static void test_foreign(void)
{
    static const char *const others[] = {"\177ELF\2\1\1", "VMGRAFT\r\n", "x"};

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(
            sample_decode((const uint8_t *)others[i], strlen(others[i]), 1, NULL, &error));
        g_assert_error(error, FMT_ERROR, FMT_ERROR_FOREIGN);
    }
}

// The stream's second word of HEAD, its features: right behind magic, header and format.
static void test_versions(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    g_autoptr(GByteArray) bytes = sample_encode(img);
    uint8_t *format = bytes->data + WIRE_MAGIC_BYTES + WIRE_HEADER_BYTES;
    g_autoptr(GError) error = NULL;

    format[0]++;
    g_assert_false(sample_decode(bytes->data, bytes->len, 1, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_VERSION);
    g_clear_error(&error);
    format[0]--;

    format[8 + 2] = 0x10;
    g_assert_false(sample_decode(bytes->data, bytes->len, 1, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_VERSION);
    g_assert_nonnull(strstr(error->message, "bit 20"));
    g_clear_error(&error);
    format[8 + 2] = 0;

    bytes->data[WIRE_MAGIC_BYTES] = FMT_TAIL + 1;
    g_assert_false(sample_decode(bytes->data, bytes->len, 1, NULL, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_VERSION);
    g_assert_nonnull(strstr(error->message, "type 64"));
}

// A live transfer leaves contents out; it can be decoded, and taken back as long as nothing was
// sent.
static void test_live(void)
{
    g_autoptr(FmtImage) img = sample_full();
    g_autoptr(FmtImage) same = sample_full();
    g_autoptr(FmtImage) got = NULL;
    g_autoptr(GArray) placed = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = sample_mkdir();
    g_autofree char *path = g_build_filename(dir, "live", NULL);
    size_t n_placed = 0;

    fmt_image_make_live(img, &placed);
    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *live = fmt_image_extent(img, i), *was = fmt_image_extent(same, i);

        g_assert_cmpuint(live->pages.kind, !=, FMT_PAGES_CLEAN);
        if (live->pages.kind == FMT_PAGES_PLACED)
            g_assert_true(g_array_index(placed, struct fmt_extent, n_placed++).pages.start ==
                          was->pages.start);
        if (was->pages.kind == FMT_PAGES_CLEAN)
            g_assert_cmphex(live->pages.hash, !=, 0);
    }
    g_assert_cmpuint(n_placed, ==, placed->len);

    g_autoptr(GByteArray) bytes = sample_encode(img);
    g_assert_true(sample_decode(bytes->data, bytes->len, 4096, &got, &error));
    g_assert_no_error(error);
    g_assert_true(fmt_save(img, path, NULL, NULL, &error));
    g_assert_null(fmt_load(path, &error));
    g_assert_error(error, FMT_ERROR, FMT_ERROR_VERSION);

    fmt_image_unplace(img, placed);
    for (size_t i = 0; i < fmt_image_n_extents(img); i++)
        g_assert_cmpuint(fmt_image_extent(img, i)->pages.kind, !=, FMT_PAGES_PLACED);
    g_unlink(path);
    sample_rmdir(g_steal_pointer(&dir));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/round-trip", test_round_trip);
    g_test_add_func("/stream/pieces", test_pieces);
    g_test_add_func("/stream/truncated", test_truncated);
    g_test_add_func("/stream/altered", test_altered);
    g_test_add_func("/stream/trailing", test_trailing);
    g_test_add_func("/stream/foreign", test_foreign);
    g_test_add_func("/stream/versions", test_versions);
    g_test_add_func("/stream/live", test_live);
    return g_test_run();
}
