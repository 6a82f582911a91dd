// SPDX-License-Identifier: GPL-2.0-or-later
// Target names: which are sockets, which are domains, which are neither.
#include "vmm/target.h"

#include "vmm/machine.h"

static void test_sockets(void)
{
    g_auto(vmm_target) target = {0};
    g_autofree char *folder = g_get_current_dir();
    g_autofree char *expected = g_strconcat(folder, "/some.sock", NULL);

    g_assert_true(vmm_target_parse("qmp:some.sock", "qemu:///session", &target, NULL));
    g_assert_cmpint(target.kind, ==, VMM_TARGET_SOCKET);
    g_assert_cmpstr(target.socket, ==, expected);
    g_assert_null(target.uri);
}

static void test_domains(void)
{
    g_auto(vmm_target) plain = {0}, from_environment = {0}, given = {0};

    g_unsetenv("VIRSH_DEFAULT_CONNECT_URI");
    g_assert_true(vmm_target_parse("web:1 of 2", NULL, &plain, NULL));
    g_assert_cmpint(plain.kind, ==, VMM_TARGET_DOMAIN);
    g_assert_cmpstr(plain.domain, ==, "web:1 of 2");
    g_assert_null(plain.uri);

    g_setenv("VIRSH_DEFAULT_CONNECT_URI", "qemu:///system", true);
    g_assert_true(vmm_target_parse("web", "", &from_environment, NULL));
    g_assert_cmpstr(from_environment.uri, ==, "qemu:///system");
    g_assert_true(vmm_target_parse("web", "qemu:///session", &given, NULL));
    g_assert_cmpstr(given.uri, ==, "qemu:///session");
}

static void test_neither(void)
{
    static const char *const names[] = {"", "qmp:", "/run/a.sock", "qemu:///system", "a/b"};
    g_autofree char *endless = g_strnfill(200, 'x');
    g_autofree char *too_long = g_strconcat("qmp:/", endless, NULL);
    struct vmm_target target;

    for (size_t i = 0; i <= G_N_ELEMENTS(names); i++) {
        const char *name = i < G_N_ELEMENTS(names) ? names[i] : too_long;
        g_autoptr(GError) error = NULL;

        g_assert_false(vmm_target_parse(name, NULL, &target, &error));
        g_assert_error(error, VMM_ERROR, VMM_ERROR_TARGET);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/target/sockets", test_sockets);
    g_test_add_func("/vmm/target/domains", test_domains);
    g_test_add_func("/vmm/target/neither", test_neither);
    return g_test_run();
}
