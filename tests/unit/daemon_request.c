// SPDX-License-Identifier: GPL-2.0-or-later
// Requests: what is taken, and what is wrong with the others.
#include "daemon/request.h"

#include <string.h>

#include "daemon/answer.h"
#include "daemon/journal.h"

static GPtrArray *parse(const char *xml)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *requests = daemon_requests_parse(xml, &error);

    g_assert_no_error(error);
    return requests;
}

static void test_capture(void)
{
    g_autoptr(GPtrArray) requests = parse("<capture id='1' pid='4009' to='/images/job.vmg'/>");
    const struct daemon_request *r;

    g_assert_cmpuint(requests->len, ==, 1);
    r = requests->pdata[0];
    g_assert_no_error(r->error);
    g_assert_cmpint(r->verb, ==, DAEMON_CAPTURE);
    g_assert_cmpstr(r->id, ==, "1");
    g_assert_cmpstr(r->process, ==, "4009");
    g_assert_cmpstr(r->to, ==, "/images/job.vmg");
    g_assert_cmpuint(r->keep, ==, 0);
    g_assert_false(r->on_suspend || r->forensic || r->allow);
}

static void test_list(void)
{
    g_autoptr(GPtrArray) requests =
        parse("<v:requests xmlns:v='urn:vmgraft:request'> <!-- two -->\n"
              "<v:capture id='a.b-c_D' command='a b' to='/i/j' keep='3' on='suspend' forensic='yes'"
              " allow='external-pipe device'/>"
              "<move id='2' cgroup='/system.slice' domain='web2' copy='yes'/></v:requests>");
    const struct daemon_request *capture, *move;

    g_assert_cmpuint(requests->len, ==, 2);
    capture = requests->pdata[0];
    move = requests->pdata[1];
    g_assert_no_error(capture->error);
    g_assert_no_error(move->error);
    g_assert_cmpstr(capture->process, ==, "name:a b");
    g_assert_cmpuint(capture->keep, ==, 3);
    g_assert_true(capture->on_suspend && capture->forensic);
    g_assert_cmpuint(g_strv_length(capture->allow), ==, 2);
    g_assert_cmpint(move->verb, ==, DAEMON_MOVE);
    g_assert_cmpstr(move->process, ==, "cgroup:/system.slice");
    g_assert_cmpstr(move->domain, ==, "web2");
    g_assert_true(move->copy);
}

// The text tells requests apart: not by the order of their words, nor by what looks alike.
static void test_text(void)
{
    g_autoptr(GPtrArray) a = parse("<capture id='1' pid='7' to='/i/j'/>");
    g_autoptr(GPtrArray) b = parse("<x:capture xmlns:x='urn:y' to='/i/j' pid='7' id='1'/>");
    g_autoptr(GPtrArray) c = parse("<capture id='1' command='7&apos; to=&apos;/i/j' to='/k'/>");
    g_autoptr(GPtrArray) d = parse("<capture id='1' command='7' to='/i/j&apos; to=&apos;/k'/>");
    const struct daemon_request *ra = a->pdata[0], *rb = b->pdata[0], *rc = c->pdata[0],
                                *rd = d->pdata[0];

    g_assert_cmpstr(ra->text, ==, rb->text);
    g_assert_cmpstr(rc->text, !=, rd->text);
}

#define WHERE "to='/i/j'"

static const struct {
    const char *xml;
    const char *complaint; // a part of it
} wrong[] = {
    {"<capture pid='1' " WHERE "/>", "needs an id"},
    {"<capture id='' pid='1' " WHERE "/>", "id: at most"},
    {"<capture id='../x' pid='1' " WHERE "/>", "id: at most"},
    {"<capture id='.x' pid='1' " WHERE "/>", "id: at most"},
    {"<capture id='12345678901234567890123456789012345678901234567890123456789012345' "
     "pid='1' " WHERE "/>",
     "id: at most"},
    {"<capture id='1' " WHERE "/>", "which process?"},
    {"<capture id='1' pid='1'/>", "where to?"},
    {"<capture id='1' pid='0' " WHERE "/>", "pid: '0'"},
    {"<capture id='1' pid='-1' " WHERE "/>", "pid: '-1'"},
    {"<capture id='1' pid='name:x' " WHERE "/>", "pid: 'name:x'"},
    {"<capture id='1' pid='99999999999999999999' " WHERE "/>", "pid: "},
    {"<capture id='1' command='' " WHERE "/>", "command: ''"},
    {"<capture id='1' cgroup='x' " WHERE "/>", "cgroup: 'x'"},
    {"<capture id='1' port='65536' " WHERE "/>", "port: '65536'"},
    {"<capture id='1' pid='1' port='80' " WHERE "/>", "give one of them"},
    {"<capture id='1' pid='1' pid='1' " WHERE "/>", "there twice"},
    {"<capture id='1' pid='1' to='i/j'/>", "no absolute path"},
    {"<capture id='1' pid='1' to='/i/'/>", "no absolute path"},
    {"<capture id='1' pid='1' to='/i/../j'/>", "no absolute path"},
    {"<capture id='1' pid='1' to='/i/..'/>", "no absolute path"},
    {"<capture id='1' pid='1' to='/i\x7f/j'/>", "cannot be printed"},
    {"<capture id='1' pid='1' to='/i/&#x1b;j'/>", "cannot be printed"},
    {"<capture id='1' pid='1' " WHERE " keep='0'/>", "keep: '0'"},
    {"<capture id='1' pid='1' " WHERE " keep='many'/>", "keep: 'many'"},
    {"<capture id='1' pid='1' " WHERE " on='resume'/>", "on: 'resume'"},
    {"<capture id='1' pid='1' " WHERE " forensic='1'/>", "forensic: 'yes' or 'no'"},
    {"<capture id='1' pid='1' " WHERE " allow='--help;'/>", "allow: "},
    {"<capture id='1' pid='1' " WHERE " colour='red'/>", "knows no 'colour'"},
    {"<capture id='1' pid='1' " WHERE " domain='b'/>", "knows no 'domain'"},
    {"<move id='1' pid='1' " WHERE " domain='b'/>", "knows no 'to'"},
    {"<move id='1' pid='1'/>", "where to?"},
    {"<move id='1' pid='1' domain='qmp:/run/x'/>", "domain: "},
    {"<move id='1' pid='1' domain='b' on='suspend'/>", "knows no 'on'"},
};

static void test_wrong(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GPtrArray) requests = parse(wrong[i].xml);
        const struct daemon_request *r = requests->pdata[0];

        g_test_message("%zu", i);
        g_assert_cmpuint(requests->len, ==, 1);
        g_assert_error(r->error, DAEMON_ERROR, DAEMON_ERROR_REQUEST);
        g_assert_nonnull(strstr(r->error->message, wrong[i].complaint));
    }
}

static void test_same_id(void)
{
    g_autoptr(GPtrArray) requests = parse("<requests><capture id='1' pid='1' " WHERE "/>"
                                          "<capture id='1' pid='2' " WHERE "/></requests>");

    g_assert_no_error(((struct daemon_request *)requests->pdata[0])->error);
    g_assert_error(((struct daemon_request *)requests->pdata[1])->error, DAEMON_ERROR,
                   DAEMON_ERROR_REQUEST);
}

static const char *const no_requests[] = {
    "",
    "capture",
    "<capture",
    "<capture id='1'",
    "<capture id='1' pid='1' to='/x'><capture/></capture>",
    "<harm/>",
    "<requests><requests/></requests>",
    "<requests>now</requests>",
    "<requests when='now'/>",
    "<capture id='&nosuch;'/>",
    "<capture id='\xff'/>",
};

static void test_no_requests(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(no_requests); i++) {
        g_autoptr(GError) error = NULL;

        g_test_message("%zu", i);
        g_assert_null(daemon_requests_parse(no_requests[i], &error));
        g_assert_error(error, DAEMON_ERROR, DAEMON_ERROR_XML);
    }
}

static void test_too_long(void)
{
    g_autofree char *value = g_strnfill(5000, 'x');
    g_autofree char *one = g_strdup_printf("<capture id='1' pid='1' to='/%s'/>", value);
    g_autofree char *blank = g_strnfill(300000, ' ');
    g_autofree char *all = g_strdup_printf("<requests>%s</requests>", blank);
    g_autoptr(GString) many = g_string_new("<requests>");
    g_autoptr(GPtrArray) requests = parse(one);
    g_autoptr(GError) error = NULL;

    g_assert_nonnull(
        strstr(((struct daemon_request *)requests->pdata[0])->error->message, "more than"));
    g_assert_null(daemon_requests_parse(all, &error));
    g_assert_error(error, DAEMON_ERROR, DAEMON_ERROR_XML);
    g_clear_error(&error);
    for (int i = 0; i < 300; i++)
        g_string_append_printf(many, "<capture id='%d' pid='1' to='/x'/>", i);
    g_string_append(many, "</requests>");
    g_assert_null(daemon_requests_parse(many->str, &error));
    g_assert_error(error, DAEMON_ERROR, DAEMON_ERROR_XML);
}

// Whatever a message has in it, the answer is XML that libvirt takes.
static void test_answer(void)
{
    g_autoptr(GPtrArray) requests = parse("<capture id='1' pid='1' to='/x'/>");
    g_autoptr(GPtrArray) answers =
        g_ptr_array_new_with_free_func((GDestroyNotify)daemon_entry_free);
    g_autofree char *text = NULL;

    g_ptr_array_add(answers, daemon_entry_new(DAEMON_REFUSED, "<\"'&\x01\xff>"));
    text = daemon_answers_format(requests, answers);
    g_assert_cmpstr(text, ==,
                    "<answers><answer id=\"1\" state=\"refused\" "
                    "error=\"&lt;&quot;&apos;&amp;?\xef\xbf\xbd&gt;\"/></answers>");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/request/capture", test_capture);
    g_test_add_func("/daemon/request/list", test_list);
    g_test_add_func("/daemon/request/text", test_text);
    g_test_add_func("/daemon/request/wrong", test_wrong);
    g_test_add_func("/daemon/request/same-id", test_same_id);
    g_test_add_func("/daemon/request/no-requests", test_no_requests);
    g_test_add_func("/daemon/request/too-long", test_too_long);
    g_test_add_func("/daemon/answer", test_answer);
    return g_test_run();
}
