// SPDX-License-Identifier: GPL-2.0-or-later
// What comes over ssh from a vmgraft of another host: frames, and where their payload goes.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/remote_pump.h"
#include "fuzz.h"

G_DEFINE_QUARK(cli - error - quark, cli_error)

int64_t cli_now_ns(void)
{
    return g_get_monotonic_time() * 1000;
}

static int null(void)
{
    return open("/dev/null", O_RDWR | O_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int in = memfd_create("fuzz", MFD_CLOEXEC);
    struct cli_pump_word word;
    bool ok = true;

    if (in < 0 || write(in, data, size) != (ssize_t)size || lseek(in, 0, SEEK_SET) != 0)
        abort();
    g_autoptr(CliPump) p = cli_pump_new(in, null());

    cli_pump_connect(p, 1, -1, null());
    cli_pump_connect(p, CLI_PUMP_IMAGE, null(), null());
    while (ok) {
        ok = cli_pump_step(p, -1, 0, &word, NULL);
        g_clear_pointer(&word.payload, g_bytes_unref);
    }
    cli_pump_drain(p, NULL);
    return 0;
}
