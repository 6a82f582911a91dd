// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds the decoder of images, as they come and with checksums put right. What it takes, the
// encoder must write again.
#include "fmt_resign.h"
#include "formats/export.h"
#include "formats/summary.h"
#include "fuzz.h"

static bool drop(const void *data, size_t len, void *user, GError **error)
{
    return true;
}

static void use(FmtImage *img)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *summary = fmt_image_summary(img);
    struct json_object *json = fmt_export_json(img);

    json_object_put(json);
    g_assert_nonnull(summary);
    fmt_encode(img, drop, NULL, &error);
    g_assert_no_error(error);
}

static void decode(const uint8_t *data, size_t size, size_t piece)
{
    static const struct fmt_decoder_ops ops = {0};
    g_autoptr(FmtDecoder) dec = fmt_decoder_new(&ops, NULL);
    bool ok = true;

    for (size_t at = 0; ok && at < size; at += piece)
        ok = fmt_decoder_feed(dec, data + at, MIN(piece, size - at), NULL);
    if (ok && fmt_decoder_finish(dec, NULL))
        use(fmt_decoder_image(dec));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_memdup2(data, size);

    decode(data, size, 777);
    if (copy) {
        fmt_resign(copy, size);
        decode(copy, size, size);
    }
    return 0;
}
