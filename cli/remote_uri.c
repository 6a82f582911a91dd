// SPDX-License-Identifier: GPL-2.0-or-later
// A libvirt of another host, as qemu+ssh://[user@]host[:port]/system names it.
#include "cli/remote_uri.h"

#include <string.h>

// In seconds: until both know each other's keys; from then on each of three times, until the pump
// counts itself.
#define CONNECT_TIMEOUT "ConnectTimeout=15"
#define ALIVE_INTERVAL  "ServerAliveInterval=5"

#define SCHEME "qemu+ssh"

// What virsh and libvirt take where no URI is given.
static const char *effective(const char *uri)
{
    static const char *const variables[] = {"VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"};

    for (size_t i = 0; i < G_N_ELEMENTS(variables) && (!uri || !*uri); i++)
        uri = g_getenv(variables[i]);
    return uri ? uri : "";
}

bool cli_remote_is(const char *uri)
{
    return g_str_has_prefix(effective(uri), SCHEME "://");
}

static bool fail(const char *uri, const char *why, GError **error)
{
    g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "'%s': %s", uri, why);
    return false;
}

static bool is_set(const char *value)
{
    return value && strcmp(value, "0") != 0;
}

static bool set_parameters(cli_remote *r, const char *path, const char *query, GError **error)
{
    static const char *const known[] = {"command", "keyfile", "no_verify", "no_tty", "socket",
                                        "vmgraft", "mode",    "netcat",    "proxy"};
    g_autoptr(GHashTable) values =
        g_uri_parse_params(query ? query : "", -1, "&;", G_URI_PARAMS_NONE, error);
    GHashTableIter iter;
    gpointer name;
    const char *socket;

    if (!values) {
        g_prefix_error(error, "'%s': ", r->uri);
        (*error)->domain = CLI_ERROR;
        (*error)->code = CLI_ERROR_USAGE;
        return false;
    }
    g_hash_table_iter_init(&iter, values);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        size_t i = 0;

        while (i < G_N_ELEMENTS(known) && strcmp(known[i], name) != 0)
            i++;
        if (i == G_N_ELEMENTS(known)) {
            g_autofree char *why = g_strdup_printf("it has no parameter '%s'", (char *)name);

            return fail(r->uri, why, error);
        }
    }
    r->command = g_strdup(g_hash_table_lookup(values, "command"));
    r->keyfile = g_strdup(g_hash_table_lookup(values, "keyfile"));
    r->vmgraft = g_strdup(g_hash_table_lookup(values, "vmgraft"));
    r->no_verify = is_set(g_hash_table_lookup(values, "no_verify"));
    r->no_tty = is_set(g_hash_table_lookup(values, "no_tty"));
    socket = g_hash_table_lookup(values, "socket");
    if (socket) {
        g_autofree char *escaped = g_uri_escape_string(socket, "/", FALSE);

        r->local_uri = g_strdup_printf("qemu+unix://%s?socket=%s", path, escaped);
    } else {
        r->local_uri = g_strconcat("qemu://", path, NULL);
    }
    return true;
}

bool cli_remote_parse(const char *text, cli_remote *ret, GError **error)
{
    g_auto(cli_remote) r = {.uri = g_strdup(effective(text))};
    g_autoptr(GError) why = NULL;
    g_autoptr(GUri) uri =
        g_uri_parse(r.uri, G_URI_FLAGS_ENCODED_QUERY | G_URI_FLAGS_ENCODED_PATH, &why);
    const char *path;

    if (!uri)
        return fail(r.uri, why->message, error);
    path = g_uri_get_path(uri);
    r.host = g_strdup(g_uri_get_host(uri));
    r.user = g_strdup(g_uri_get_userinfo(uri));
    r.port = g_uri_get_port(uri);
    // A word that begins with a dash would be an option of ssh.
    if (!r.host || !*r.host || *r.host == '-' || (r.user && (!*r.user || *r.user == '-')))
        return fail(r.uri, "it names no host", error);
    if (strcmp(path, "/system") != 0 && strcmp(path, "/session") != 0)
        return fail(r.uri, "it ends with neither /system nor /session", error);
    if (!set_parameters(&r, path, g_uri_get_query(uri), error))
        return false;
    *ret = r;
    r = (cli_remote){0};
    return true;
}

void cli_remote_clear(cli_remote *r)
{
    g_free(r->uri);
    g_free(r->host);
    g_free(r->user);
    g_free(r->command);
    g_free(r->keyfile);
    g_free(r->vmgraft);
    g_free(r->local_uri);
    *r = (cli_remote){0};
}

char **cli_remote_ssh(const cli_remote *r)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_autofree char *port = g_strdup_printf("%d", r->port);
    g_autofree char *far = g_strconcat(r->vmgraft ? r->vmgraft : "vmgraft", " remote-helper", NULL);

    // As libvirt calls it, but for ssh's own way to wait for minutes for a network that has gone.
    g_strv_builder_add_many(words, r->command ? r->command : "ssh", "-T", "-e", "none", "-o",
                            CONNECT_TIMEOUT, "-o", ALIVE_INTERVAL, NULL);
    if (r->port >= 0)
        g_strv_builder_add_many(words, "-p", port, NULL);
    if (r->user)
        g_strv_builder_add_many(words, "-l", r->user, NULL);
    if (r->keyfile)
        g_strv_builder_add_many(words, "-i", r->keyfile, NULL);
    if (r->no_tty)
        g_strv_builder_add_many(words, "-o", "BatchMode=yes", NULL);
    if (r->no_verify)
        g_strv_builder_add_many(words, "-o", "StrictHostKeyChecking=no", NULL);
    g_strv_builder_add_many(words, "--", r->host, far, NULL);
    return g_strv_builder_end(words);
}
