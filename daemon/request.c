// SPDX-License-Identifier: GPL-2.0-or-later
// Parses requests: one table of words, each with what it may say.
#include "daemon/request.h"

#include <string.h>

#define MAX_XML_BYTES   (256u << 10)
#define MAX_ID_BYTES    64
#define MAX_VALUE_BYTES 4095
#define MAX_REQUESTS    256
#define MAX_KEEP        10000
#define MAX_PID         (4u << 20) // PID_MAX_LIMIT

G_DEFINE_QUARK(daemon - error - quark, daemon_error)

static void request_free(gpointer data)
{
    struct daemon_request *r = data;

    g_free(r->id);
    g_free(r->process);
    g_free(r->to);
    g_free(r->domain);
    g_strfreev(r->allow);
    g_free(r->text);
    g_clear_error(&r->error);
    g_free(r);
}

// The first thing that is wrong is what is said.
static void complain(struct daemon_request *r, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void complain(struct daemon_request *r, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (r->error)
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    r->error = g_error_new_literal(DAEMON_ERROR, DAEMON_ERROR_REQUEST, text);
}

/* ---- words ---- */

static void set_id(struct daemon_request *r, const char *name, const char *value)
{
    size_t len = strlen(value);
    bool good = len > 0 && len <= MAX_ID_BYTES && value[0] != '.';

    for (const char *at = value; *at; at++)
        good &= g_ascii_isalnum(*at) || strchr("._-", *at) != NULL;
    if (good)
        r->id = g_strdup(value);
    else
        complain(r, "id: at most %d letters, digits, '.', '_' and '-', no '.' first", MAX_ID_BYTES);
}

static bool is_pid(const char *value)
{
    return g_ascii_string_to_unsigned(value, 10, 1, MAX_PID, NULL, NULL);
}

static bool is_port(const char *value)
{
    return g_ascii_string_to_unsigned(value, 10, 1, G_MAXUINT16, NULL, NULL);
}

static bool is_command(const char *value)
{
    return *value != '\0';
}

static bool is_cgroup(const char *value)
{
    return *value == '/';
}

static void set_process(struct daemon_request *r, const char *name, const char *value)
{
    static const struct {
        const char *name;
        const char *prefix; // for vmgraft
        bool (*fits)(const char *value);
        const char *wanted;
    } ways[] = {
        {"pid", "", is_pid, "the number of a process"},
        {"command", "name:", is_command, "the name of a command"},
        {"cgroup", "cgroup:", is_cgroup, "a cgroup's path, from '/' on"},
        {"port", "port:", is_port, "a port's number"},
    };

    if (r->process) {
        complain(r, "pid, command, cgroup and port each name the process: give one of them");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        if (strcmp(ways[i].name, name) != 0)
            continue;
        if (!ways[i].fits(value))
            complain(r, "%s: '%s' is not %s", name, value, ways[i].wanted);
        r->process = g_strconcat(ways[i].prefix, value, NULL);
    }
}

static bool is_file_path(const char *value)
{
    g_auto(GStrv) parts = g_strsplit(value, "/", -1);
    bool good = value[0] == '/' && !g_str_has_suffix(value, "/");

    for (char **part = parts; *part; part++)
        good &= strcmp(*part, ".") != 0 && strcmp(*part, "..") != 0;
    return good;
}

static void set_to(struct daemon_request *r, const char *name, const char *value)
{
    if (is_file_path(value))
        r->to = g_strdup(value);
    else
        complain(r, "to: '%s' is no absolute path of a file", value);
}

static void set_keep(struct daemon_request *r, const char *name, const char *value)
{
    guint64 n;

    if (g_ascii_string_to_unsigned(value, 10, 1, MAX_KEEP, &n, NULL))
        r->keep = (unsigned)n;
    else
        complain(r, "keep: '%s' is no number from 1 to %d", value, MAX_KEEP);
}

static void set_domain(struct daemon_request *r, const char *name, const char *value)
{
    if (*value && !strchr(value, '/'))
        r->domain = g_strdup(value);
    else
        complain(r, "domain: '%s' cannot be the name of one", value);
}

static void set_on(struct daemon_request *r, const char *name, const char *value)
{
    if (strcmp(value, "suspend") != 0)
        complain(r, "on: '%s' is not known, only 'suspend'", value);
    r->on_suspend = true;
}

static void set_allow(struct daemon_request *r, const char *name, const char *value)
{
    bool good = *value != '\0';

    for (const char *at = value; *at; at++)
        good &= g_ascii_isalnum(*at) || strchr("-_ ", *at) != NULL;
    if (good)
        r->allow = g_strsplit(value, " ", -1);
    else
        complain(r, "allow: '%s' is no list of kinds as a refusal names them", value);
}

static void set_flag(struct daemon_request *r, const char *name, const char *value)
{
    bool *flag = strcmp(name, "copy") == 0 ? &r->copy : &r->forensic;

    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        complain(r, "%s: 'yes' or 'no', not '%s'", name, value);
    *flag = strcmp(value, "yes") == 0;
}

#define CAPTURE (1u << DAEMON_CAPTURE)
#define MOVE    (1u << DAEMON_MOVE)

static const struct word {
    const char *name;
    unsigned verbs;
    void (*set)(struct daemon_request *r, const char *name, const char *value);
} words[] = {
    {"id", CAPTURE | MOVE, set_id},
    {"pid", CAPTURE | MOVE, set_process},
    {"command", CAPTURE | MOVE, set_process},
    {"cgroup", CAPTURE | MOVE, set_process},
    {"port", CAPTURE | MOVE, set_process},
    {"to", CAPTURE, set_to},
    {"keep", CAPTURE, set_keep},
    {"forensic", CAPTURE, set_flag},
    {"domain", MOVE, set_domain},
    {"copy", MOVE, set_flag},
    {"on", CAPTURE, set_on},
    {"allow", CAPTURE | MOVE, set_allow},
};

static const char *const verbs[] = {[DAEMON_CAPTURE] = "capture", [DAEMON_MOVE] = "move"};

/* ---- elements ---- */

struct parse {
    GPtrArray *requests;
    unsigned depth;
    bool in_list; // the root is <requests>
};

static const struct word *find_word(const struct daemon_request *r, const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(words[i].name, name) == 0 && (words[i].verbs & 1u << r->verb))
            return &words[i];
    }
    return NULL;
}

static bool is_printable(const char *value)
{
    bool good = g_utf8_validate(value, -1, NULL);

    for (; good && *value; value = g_utf8_next_char(value))
        good = g_unichar_isprint(g_utf8_get_char(value));
    return good;
}

// *seen: the words that there were before, as bits.
static void take_word(struct daemon_request *r, const char *name, const char *value, unsigned *seen)
{
    const struct word *word = find_word(r, name);

    if (!word)
        complain(r, "<%s> knows no '%.40s'", verbs[r->verb], name);
    else if (*seen & 1u << (word - words))
        complain(r, "%s: it is there twice", name);
    else if (strlen(value) > MAX_VALUE_BYTES)
        complain(r, "%s: more than %d bytes", name, MAX_VALUE_BYTES);
    else if (!is_printable(value))
        complain(r, "%s: there are characters in it that cannot be printed", name);
    else
        word->set(r, name, value);
    if (word)
        *seen |= 1u << (word - words);
}

// What is missing is said only where nothing else is wrong.
static void check_complete(struct daemon_request *r)
{
    if (!r->id)
        complain(r, "it needs an id, so that it is done once");
    if (!r->process)
        complain(r, "which process? pid, command, cgroup or port");
    if (r->verb == DAEMON_CAPTURE && !r->to)
        complain(r, "where to? to='/path/of/file'");
    if (r->verb == DAEMON_MOVE && !r->domain)
        complain(r, "where to? domain='name'");
}

static int compare_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static struct daemon_request *new_request(enum daemon_verb verb, const char **names,
                                          const char **values)
{
    struct daemon_request *r = g_new0(struct daemon_request, 1);
    g_autoptr(GPtrArray) parts = g_ptr_array_new_with_free_func(g_free);
    unsigned seen = 0;

    r->verb = verb;
    for (size_t i = 0; names[i]; i++) {
        if (g_str_has_prefix(names[i], "xmlns"))
            continue;
        g_ptr_array_add(parts, g_markup_printf_escaped(" %s='%s'", names[i], values[i]));
        take_word(r, names[i], values[i], &seen);
    }
    check_complete(r);
    // Whatever the order, it is the same request.
    g_ptr_array_sort(parts, compare_text);
    g_ptr_array_insert(parts, 0, g_strdup(verbs[verb]));
    g_ptr_array_add(parts, NULL);
    r->text = g_strjoinv("", (char **)parts->pdata);
    return r;
}

// libvirt keeps the prefix that virsh --key gave it.
static const char *local_name(const char *name)
{
    const char *colon = strchr(name, ':');

    return colon ? colon + 1 : name;
}

static void start_element(GMarkupParseContext *context, const char *element, const char **names,
                          const char **values, gpointer user, GError **error)
{
    struct parse *parse = user;
    const char *name = local_name(element);

    if (parse->depth++ == 0 && strcmp(name, "requests") == 0) {
        parse->in_list = true;
        for (; *names && g_str_has_prefix(*names, "xmlns"); names++)
            ;
        if (*names)
            g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML, "<requests> knows no '%.40s'",
                        *names);
        return;
    }
    if (parse->depth > 1u + parse->in_list) {
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML, "<%.40s> has no place there", name);
        return;
    }
    if (parse->requests->len >= MAX_REQUESTS) {
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML, "more than %d requests", MAX_REQUESTS);
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (strcmp(verbs[i], name) == 0) {
            g_ptr_array_add(parse->requests, new_request((enum daemon_verb)i, names, values));
            return;
        }
    }
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML,
                "<%.40s> is no request: capture, move, or requests around several", name);
}

static void text_between(GMarkupParseContext *context, const char *text, gsize len, gpointer user,
                         GError **error)
{
    for (gsize i = 0; i < len; i++) {
        if (!g_ascii_isspace(text[i])) {
            g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML,
                        "there is text between the requests, which has no place there");
            return;
        }
    }
}

static void end_element(GMarkupParseContext *context, const char *element, gpointer user,
                        GError **error)
{
    ((struct parse *)user)->depth--;
}

// Of two with one id the first is meant.
static void check_ids(GPtrArray *requests)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < requests->len; i++) {
        struct daemon_request *r = requests->pdata[i];

        if (r->id && !g_hash_table_add(seen, r->id))
            complain(r, "another request here has the id %s as well", r->id);
    }
}

GPtrArray *daemon_requests_parse(const char *xml, GError **error)
{
    static const GMarkupParser parser = {
        .start_element = start_element, .end_element = end_element, .text = text_between};
    g_autoptr(GPtrArray) requests = g_ptr_array_new_with_free_func(request_free);
    struct parse parse = {.requests = requests};
    g_autoptr(GMarkupParseContext) context =
        g_markup_parse_context_new(&parser, G_MARKUP_PREFIX_ERROR_POSITION, &parse, NULL);
    g_autoptr(GError) why = NULL;

    if (strlen(xml) > MAX_XML_BYTES) {
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_XML, "more than %u bytes of requests",
                    MAX_XML_BYTES);
        return NULL;
    }
    if (g_markup_parse_context_parse(context, xml, -1, &why) &&
        g_markup_parse_context_end_parse(context, &why)) {
        check_ids(requests);
        return g_steal_pointer(&requests);
    }
    g_set_error_literal(error, DAEMON_ERROR, DAEMON_ERROR_XML, why->message);
    return NULL;
}
