// SPDX-License-Identifier: GPL-2.0-or-later
// A target with the kernel that runs in it.
#include "cli/guest.h"

bool cli_guest_open(struct cli *cli, const char *target, struct cli_guest *ret, GError **error)
{
    g_autoptr(VmmMachine) vm = vmm_machine_open(target, cli->connect, error);
    int64_t start = cli_now_ns();
    IntroKernel *kernel;

    if (!vm)
        return false;
    kernel = intro_kernel_find(vmm_machine_memory(vm), NULL, error);
    if (!kernel) {
        g_prefix_error(error, "%s: ", target);
        return false;
    }
    cli_debug(cli, "%s: Linux %s found in %.0f ms", target, intro_kernel_info(kernel)->release,
              (double)(cli_now_ns() - start) / 1e6);
    *ret = (struct cli_guest){.target = target, .vm = g_steal_pointer(&vm), .kernel = kernel};
    return true;
}

bool cli_guest_open_target(struct cli *cli, const char *target, const char *uri, bool find_kernel,
                           struct cli_guest *ret, GError **error)
{
    g_autoptr(VmmMachine) vm = vmm_machine_open(target, uri, error);
    g_autoptr(GError) why = NULL;

    if (!vm)
        return false;
    *ret = (struct cli_guest){.target = target};
    if (find_kernel && !(ret->kernel = intro_kernel_find(vmm_machine_memory(vm), NULL, &why)))
        cli_debug(cli, "%s: memory goes through the channel: %s", target, why->message);
    ret->vm = g_steal_pointer(&vm);
    return true;
}

void cli_guest_clear(struct cli_guest *guest)
{
    intro_kernel_free(g_steal_pointer(&guest->kernel));
    vmm_machine_unref(g_steal_pointer(&guest->vm));
}

bool cli_guest_pause(struct cli_guest *guest, GError **error)
{
    if (!vmm_machine_pause(guest->vm, error)) {
        g_prefix_error(error, "%s: cannot pause the guest: ", guest->target);
        return false;
    }
    intro_kernel_new_pause(guest->kernel);
    return true;
}
