// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the agent into a guest that is shut down, disk and definition, and takes it away.
#include "cli/agent_install.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/agent_disk.h"
#include "cli/agent_file.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "guestagent/protocol.h"
#include "vmm/definition.h"

// One run: the domain, if it is one, and its disks.
struct run {
    char *what;       // for messages
    char *uuid, *uri; // of the domain, NULL: disks
    enum vmm_port port;
    CliDisk *disk;
    GPtrArray *notes; // char *
};

static void run_clear(struct run *r)
{
    cli_disk_free(r->disk);
    g_free(r->what);
    g_free(r->uuid);
    g_free(r->uri);
    g_ptr_array_unref(r->notes);
}

bool cli_agent_is_disk(const char *operand)
{
    return strchr(operand, '/') && !g_str_has_prefix(operand, "qmp:");
}

static VmmDefinition *open_domain(struct cli *cli, const char *name, GError **error)
{
    VmmDefinition *def = vmm_definition_open(name, cli->connect, error);

    if (!def && g_file_test(name, G_FILE_TEST_EXISTS))
        g_prefix_error(error, "(the disk of that name is ./%s) ", name);
    return def;
}

bool cli_agent_is_off(struct cli *cli, const char *operand, bool *ret, GError **error)
{
    g_autoptr(VmmDefinition) def = open_domain(cli, operand, error);

    if (!def)
        return false;
    *ret = !vmm_definition_is_active(def);
    return true;
}

// Disks are opened by name, which is another disk's on another host.
static bool check_here(const VmmDefinition *def, GError **error)
{
    g_autofree char *host = NULL;

    if (!g_uri_split(vmm_definition_uri(def), G_URI_FLAGS_NONE, NULL, NULL, &host, NULL, NULL, NULL,
                     NULL, NULL) ||
        !host || !*host)
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "domain %s has its disks on %s: run vmgraft there", vmm_definition_name(def), host);
    return false;
}

// The connection is not kept: the disk takes its time, and libvirt does not wait for the silent.
static bool read_domain(struct cli *cli, const char *name, bool writable, struct run *r,
                        GError **error)
{
    g_autoptr(VmmDefinition) def = open_domain(cli, name, error);

    if (!def || !check_here(def, error) || (writable && !vmm_definition_check_off(def, error)) ||
        !vmm_definition_find_port(def, AGENT_PORT_NAME, &r->port, error))
        return false;
    r->what = g_strdup(vmm_definition_name(def));
    r->uuid = g_strdup(vmm_definition_uuid(def));
    r->uri = g_strdup(vmm_definition_uri(def));
    return true;
}

// Everything that can be refused at once is refused before the appliance boots.
static bool begin(struct cli *cli, const struct cli_agent_place *place, bool writable,
                  struct run *r, GError **error)
{
    const char *first = place->operands[0];

    if (cli_agent_is_disk(first))
        r->what = g_strdup(first);
    else if (!read_domain(cli, first, writable, r, error))
        return false;

    const struct cli_disk_source source = {
        .what = r->what,
        .domain = r->uuid,
        .uri = r->uri,
        .paths = place->operands,
        .format = place->format,
    };
    cli_debug(cli, "%s: starting libguestfs", r->what);
    // An appliance that dies is an error like others.
    signal(SIGPIPE, SIG_IGN);
    r->disk = cli_disk_open(cli, &source, writable, error);
    if (!r->disk)
        return false;
    // From here on, what is begun is brought to its end.
    if (writable)
        cli_signals_hold(cli);
    return true;
}

// Adds the port where it is not, or takes it out where it is ours.
static bool settle_port(struct run *r, bool wanted, bool *changed, GError **error)
{
    g_autoptr(VmmDefinition) def = vmm_definition_open(r->uuid, r->uri, error);

    if (!def || !vmm_definition_find_port(def, AGENT_PORT_NAME, &r->port, error))
        return false;
    if (r->port != (wanted ? VMM_PORT_ABSENT : VMM_PORT_OURS))
        return true;
    if (!(wanted ? vmm_definition_add_port : vmm_definition_remove_port)(def, AGENT_PORT_NAME,
                                                                         error))
        return false;
    r->port = wanted ? VMM_PORT_OURS : VMM_PORT_ABSENT;
    *changed = true;
    return true;
}

static struct json_object *facts(const struct run *r, const char *result)
{
    struct json_object *obj = json_object_new_object(), *notes = json_object_new_array();

    if (result)
        json_object_object_add(obj, "result", json_object_new_string(result));
    json_object_object_add(obj, "system", json_object_new_string(cli_disk_system(r->disk)));
    json_object_object_add(obj, "root", json_object_new_string(cli_disk_root(r->disk)));
    for (guint i = 0; i < r->notes->len; i++)
        json_object_array_add(notes, json_object_new_string(g_ptr_array_index(r->notes, i)));
    json_object_object_add(obj, "notes", notes);
    return obj;
}

static void add_port(const struct run *r, struct json_object *obj)
{
    static const char *const names[] = {
        [VMM_PORT_ABSENT] = "absent", [VMM_PORT_FOREIGN] = "present", [VMM_PORT_OURS] = "added"};

    json_object_object_add(obj, "channel", r->uuid ? json_object_new_string(names[r->port]) : NULL);
}

static void add_state(struct json_object *obj, const struct cli_agent_disk *state)
{
    json_object_object_add(obj, "version",
                           state->version ? json_object_new_string(state->version) : NULL);
    json_object_object_add(obj, "service", json_object_new_string(state->service));
    json_object_object_add(obj, "installed",
                           json_object_new_boolean(state->version && state->scripted));
    json_object_object_add(obj, "enabled", json_object_new_boolean(state->enabled));
}

static void print_notes(struct cli *cli, const struct run *r)
{
    for (guint i = 0; i < r->notes->len; i++)
        cli_note(cli, "%s: %s", r->what, (const char *)g_ptr_array_index(r->notes, i));
}

static bool install_on(struct cli *cli, const struct cli_agent_place *place, struct run *r,
                       bool *changed, struct cli_agent_disk *state, GError **error)
{
    g_autofree char *file = cli_agent_file(place->agent, error);

    return file && begin(cli, place, true, r, error) &&
           cli_agent_disk_install(r->disk, file, r->notes, changed, error) &&
           cli_agent_disk_look(r->disk, state, error) && cli_disk_close(r->disk, error) &&
           (!r->uuid || settle_port(r, true, changed, error));
}

static void report_install(struct cli *cli, const struct run *r, bool changed,
                           const struct cli_agent_disk *state)
{
    if (cli->json) {
        struct json_object *obj = facts(r, changed ? "installed" : "unchanged");

        add_state(obj, state);
        add_port(r, obj);
        cli_print_json(obj);
        return;
    }
    cli_note(cli, "%s: agent %s %s, started by %s%s", r->what, state->version,
             changed ? "installed" : "was there already", state->service,
             r->uuid ? "" : "; its guest needs the port " AGENT_PORT_NAME);
    print_notes(cli, r);
}

bool cli_agent_install(struct cli *cli, const struct cli_agent_place *place, GError **error)
{
    struct run r = {.notes = g_ptr_array_new_with_free_func(g_free)};
    g_auto(cli_agent_disk) state = {0};
    bool changed = false;
    bool good = install_on(cli, place, &r, &changed, &state, error);

    if (good)
        report_install(cli, &r, changed, &state);
    run_clear(&r);
    return good;
}

static bool remove_from(struct cli *cli, const struct cli_agent_place *place, struct run *r,
                        bool *changed, GError **error)
{
    if (!begin(cli, place, true, r, error) ||
        !cli_agent_disk_remove(r->disk, r->notes, changed, error) ||
        !cli_disk_close(r->disk, error) || (r->uuid && !settle_port(r, false, changed, error)))
        return false;
    if (r->port == VMM_PORT_FOREIGN)
        g_ptr_array_add(r->notes,
                        g_strdup("its port " AGENT_PORT_NAME " was there before, and stays"));
    return true;
}

bool cli_agent_remove(struct cli *cli, const struct cli_agent_place *place, GError **error)
{
    struct run r = {.notes = g_ptr_array_new_with_free_func(g_free)};
    bool changed = false;
    bool good = remove_from(cli, place, &r, &changed, error);

    if (good && cli->json) {
        struct json_object *obj = facts(&r, changed ? "removed" : "unchanged");

        add_port(&r, obj);
        cli_print_json(obj);
    } else if (good) {
        cli_note(cli, "%s: %s", r.what, changed ? "agent removed" : "there was no agent");
        print_notes(cli, &r);
    }
    run_clear(&r);
    return good;
}

static void print_look(const struct run *r, const struct cli_agent_disk *state)
{
    static const char *const ports[] = {[VMM_PORT_ABSENT] = "not in the domain's XML",
                                        [VMM_PORT_FOREIGN] = "in the domain's XML",
                                        [VMM_PORT_OURS] = "in the domain's XML, by vmgraft"};
    g_autofree char *system = cli_printable(cli_disk_system(r->disk));

    if (state->version)
        printf("agent %s on %s; %s service %s; ", state->version, system, state->service,
               !state->scripted ? "missing"
               : state->enabled ? "enabled"
                                : "not enabled");
    else
        printf("no agent on %s; ", system);
    printf("port %s\n", r->uuid ? ports[r->port] : "unknown: this is a disk");
    if (!state->version || !state->scripted || !state->enabled)
        printf("'vmgraft agent install %s' puts it there\n", r->what);
}

bool cli_agent_look(struct cli *cli, const struct cli_agent_place *place, GError **error)
{
    struct run r = {.notes = g_ptr_array_new_with_free_func(g_free)};
    g_auto(cli_agent_disk) state = {0};
    bool good = begin(cli, place, false, &r, error) && cli_agent_disk_look(r.disk, &state, error);

    if (good && cli->json) {
        struct json_object *obj = facts(&r, NULL);

        add_state(obj, &state);
        add_port(&r, obj);
        cli_print_json(obj);
    } else if (good) {
        print_look(&r, &state);
    }
    run_clear(&r);
    return good;
}
