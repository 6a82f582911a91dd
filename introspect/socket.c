// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets: what all families have in common (struct sock), and which of them cannot go along.
#include "introspect/socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/*
 * A descriptor leads to an inode of sockfs, which lies in one structure (socket_alloc) with the
 * struct socket; that points to the struct sock of the family. A sock outlives its descriptor as
 * long as a peer or a message points to it.
 */

#define ERESTARTSYS          512       // include/linux/errno.h; no error for programs
#define MAX_SCHEDULE_TIMEOUT INT64_MAX // "for ever", in jiffies
#define JIFFIES_SHIFT        8         // kernel/time/jiffies.c, for 34 Hz and more
#define MAX_FILTER_LEN       4096      // BPF_MAXINSNS
#define SOCK_FILTER_BYTES    8         // struct sock_filter
#define BIT_PASSCRED         3         // of socket.flags until 6.15, include/linux/net.h
#define BIT_PASSSEC          4
#define BIT_PASSPIDFD        7
#define STATE_LISTEN         10 // TCP_LISTEN, include/net/tcp_states.h, for all families

/* ---- options ---- */

static const struct {
    enum intro_const flag;
    enum fmt_socket_option option;
} flags[] = {
    {C_SOCK_URGINLINE, FMT_SOCKET_OOBINLINE},
    {C_SOCK_KEEPOPEN, FMT_SOCKET_KEEPALIVE},
    {C_SOCK_LINGER, FMT_SOCKET_LINGER},
    {C_SOCK_BROADCAST, FMT_SOCKET_BROADCAST},
    {C_SOCK_DBG, FMT_SOCKET_DEBUG},
    {C_SOCK_LOCALROUTE, FMT_SOCKET_DONTROUTE},
    {C_SOCK_RCVTSTAMP, FMT_SOCKET_TIMESTAMP},
    {C_SOCK_RCVTSTAMPNS, FMT_SOCKET_TIMESTAMPNS},
    {C_SOCK_TSTAMP_NEW, FMT_SOCKET_TIMESTAMP_NEW},
    {C_SOCK_RXQ_OVFL, FMT_SOCKET_RXQ_OVFL},
    {C_SOCK_NOFCS, FMT_SOCKET_NOFCS},
    {C_SOCK_FILTER_LOCKED, FMT_SOCKET_LOCK_FILTER},
    {C_SOCK_SELECT_ERR_QUEUE, FMT_SOCKET_SELECT_ERR_QUEUE},
    {C_SOCK_WIFI_STATUS, FMT_SOCKET_WIFI_STATUS},
};

static bool has_flag(IntroReader *r, struct gva sk, enum intro_const flag)
{
    int64_t bit;

    return intro_constant(r->k, flag, &bit) && bit >= 0 && bit < 64 &&
           rd(r, sk, M_sk_flags) >> bit & 1;
}

bool intro_sock_is_closed(IntroReader *r, struct gva sk)
{
    return has_flag(r, sk, C_SOCK_DEAD);
}

static uint64_t pass_options(IntroReader *r, struct gva sk)
{
    struct gva socket = rd_ptr(r, sk, M_sk_socket);
    uint64_t bits = socket.addr ? rd(r, socket, M_socket_flags) : 0;
    const struct {
        enum intro_member member;
        unsigned bit;
        enum fmt_socket_option option;
    } passes[] = {
        {M_sk_scm_credentials, BIT_PASSCRED, FMT_SOCKET_PASSCRED},
        {M_sk_scm_security, BIT_PASSSEC, FMT_SOCKET_PASSSEC},
        {M_sk_scm_pidfd, BIT_PASSPIDFD, FMT_SOCKET_PASSPIDFD},
    };
    uint64_t options = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(passes); i++)
        if (rd_opt(r, sk, passes[i].member, bits >> passes[i].bit & 1))
            options |= passes[i].option;
    if (!rd_opt(r, sk, M_sk_scm_rights, 1))
        options |= FMT_SOCKET_NO_PASSRIGHTS;
    return options;
}

static uint64_t read_options(IntroReader *r, struct gva sk)
{
    uint64_t family = rd(r, sk, M_sk_family), options = 0;

    if (family == AF_UNIX || family == AF_NETLINK)
        options = pass_options(r, sk);
    // Only unix sockets carry files.
    if (family != AF_UNIX)
        options &= ~(uint64_t)FMT_SOCKET_NO_PASSRIGHTS;
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++)
        if (has_flag(r, sk, flags[i].flag))
            options |= flags[i].option;
    if (rd(r, sk, M_sk_reuse))
        options |= FMT_SOCKET_REUSEADDR;
    if (rd(r, sk, M_sk_reuseport))
        options |= FMT_SOCKET_REUSEPORT;
    if (rd(r, sk, M_sk_no_check_tx))
        options |= FMT_SOCKET_NO_CHECK;
    return options;
}

// Ticks per second: the clock source of jiffies knows how long one is.
static uint64_t ticks_per_second(IntroReader *r)
{
    struct gva source;

    if (r->error || !intro_symbol(r->k, "clocksource_jiffies", &source, &r->error))
        return 1;
    uint64_t tick_ns = rd(r, source, M_clocksource_mult) >> JIFFIES_SHIFT;
    return tick_ns ? (1000000000 + tick_ns / 2) / tick_ns : 1;
}

// A time in jiffies; 0 for one without end, UINT64_MAX for none at all.
static uint64_t timeout_us(IntroReader *r, uint64_t jiffies)
{
    if (jiffies >= MAX_SCHEDULE_TIMEOUT)
        return 0;
    if (jiffies == 0)
        return UINT64_MAX;
    uint64_t hz = ticks_per_second(r);
    return jiffies / hz * 1000000 + jiffies % hz * 1000000 / hz;
}

static bool read_filter(struct intro_ctx *c, struct gva sk, struct fmt_socket *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva filter = rd_ptr(&r, sk, M_sk_filter);
    struct gva prog = filter.addr ? rd_ptr(&r, filter, M_sk_filter_prog) : GVA(0);
    struct gva orig = prog.addr ? rd_ptr(&r, prog, M_bpf_prog_orig) : GVA(0);
    struct gva code = orig.addr ? rd_ptr(&r, orig, M_fprog_filter) : GVA(0);
    uint64_t len = orig.addr ? rd(&r, orig, M_fprog_len) : 0;

    if (!rd_done(&r, error))
        return false;
    if (filter.addr && (!code.addr || len == 0 || len > MAX_FILTER_LEN)) {
        intro_refuse(c, "socket-filter", "has a socket with a filter that is no classic BPF");
        return true;
    }
    if (!filter.addr)
        return true;
    g_autofree uint8_t *bytes = g_malloc(len * SOCK_FILTER_BYTES);
    if (!intro_read(c->k, code, bytes, len * SOCK_FILTER_BYTES, error))
        return false;
    rec->filter = g_bytes_new_take(g_steal_pointer(&bytes), len * SOCK_FILTER_BYTES);
    return true;
}

/* ---- the record ---- */

struct gva intro_sock_inode(IntroReader *r, struct gva sk)
{
    struct gva socket = rd_ptr(r, sk, M_sk_socket);

    if (!socket.addr)
        return GVA(0);
    return intro_member_addr(r->k, intro_container(r->k, socket, M_socket_alloc_socket),
                             M_socket_alloc_inode);
}

static void read_values(IntroReader *r, struct gva sk, struct fmt_socket *rec)
{
    struct gva inode = intro_sock_inode(r, sk);

    rec->family = rd(r, sk, M_sk_family);
    rec->type = rd(r, sk, M_sk_type);
    rec->protocol = rd(r, sk, M_sk_protocol);
    rec->shutdown = rd(r, sk, M_sk_shutdown);
    rec->error = rd(r, sk, M_sk_err);
    // Left by recvmmsg() when it is interrupted after its first message, by a stop for example.
    if (rec->error == ERESTARTSYS)
        rec->error = 0;
    rec->backlog = rd(r, sk, M_sk_max_ack_backlog);
    rec->options = read_options(r, sk);
    rec->sndbuf_bytes = rd(r, sk, M_sk_sndbuf);
    rec->rcvbuf_bytes = rd(r, sk, M_sk_rcvbuf);
    rec->buf_lock = rd(r, sk, M_sk_userlocks) & 3;
    rec->sndtimeo_us = timeout_us(r, rd(r, sk, M_sk_sndtimeo));
    rec->rcvtimeo_us = timeout_us(r, rd(r, sk, M_sk_rcvtimeo));
    rec->rcvlowat_bytes = rd(r, sk, M_sk_rcvlowat);
    uint64_t linger = rd(r, sk, M_sk_lingertime);
    rec->linger_s = linger ? linger / ticks_per_second(r) : 0;
    rec->priority = rd(r, sk, M_sk_priority);
    rec->mark = rd(r, sk, M_sk_mark);
    rec->peek_off = (int64_t)rd(r, sk, M_sk_peek_off);
    rec->busy_poll_us = rd_opt(r, sk, M_sk_ll_usec, 0);
    if (!inode.addr)
        return;
    rec->ino = rd(r, inode, M_inode_ino);
    rec->mode = rd(r, inode, M_inode_mode);
    rec->uid = rd(r, inode, M_inode_uid);
    rec->gid = rd(r, inode, M_inode_gid);
}

struct fmt_socket *intro_sock_record(struct intro_ctx *c, struct gva sk, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t owned = rd(&r, sk, M_sk_owned);

    if (!rd_done(&r, error) ||
        !intro_check_spinlock(c->k, intro_member_addr(c->k, sk, M_sk_slock), "sock", error) ||
        !intro_check_spinlock(c->k, intro_member_addr(c->k, sk, M_sk_queue_lock), "sk_buff_head",
                              error))
        return NULL;
    if (owned) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "sock at %#" G_GINT64_MODIFIER "x is being worked on", sk.addr);
        return NULL;
    }
    struct fmt_socket *rec = intro_object_add(c, sk, FMT_SOCKET);
    read_values(&r, sk, rec);
    return rd_done(&r, error) && read_filter(c, sk, rec, error) ? rec : NULL;
}

/* ---- families that stay behind ---- */

static const struct {
    unsigned family;
    const char *name;
} families[] = {
    {AF_INET, "an IPv4"},          {AF_INET6, "an IPv6"},
    {AF_NETLINK, "a netlink"},     {AF_PACKET, "a packet"},
    {AF_VSOCK, "a vsock"},         {AF_ALG, "a kernel cryptography (AF_ALG)"},
    {AF_BLUETOOTH, "a Bluetooth"}, {AF_CAN, "a CAN"},
    {AF_KEY, "an AF_KEY"},         {AF_TIPC, "a TIPC"},
    {AF_XDP, "an AF_XDP"},         {AF_RDS, "an RDS"},
};

static const char *internet_protocol(uint64_t type, uint64_t protocol)
{
    if (protocol == IPPROTO_TCP)
        return "TCP";
    if (protocol == IPPROTO_UDP)
        return "UDP";
    return type == SOCK_RAW ? "raw IP" : "IP";
}

// "address:port" of one side of an IP socket.
static char *endpoint(IntroReader *r, struct gva sk, bool v6, bool remote)
{
    uint64_t port = remote ? g_ntohs((uint16_t)rd(r, sk, M_sk_dport)) : rd(r, sk, M_sk_num);
    uint8_t addr[16] = {0};
    char text[INET6_ADDRSTRLEN] = "?";

    if (v6 && intro_has(r->k, M_sk_v6_daddr))
        rd_bytes(r, sk, remote ? M_sk_v6_daddr : M_sk_v6_rcv_saddr, addr, sizeof(addr));
    else
        rd_bytes(r, sk, remote ? M_sk_daddr : M_sk_rcv_saddr, addr, 4);
    inet_ntop(v6 ? AF_INET6 : AF_INET, addr, text, sizeof(text));
    return g_strdup_printf(v6 ? "[%s]:%" G_GUINT64_FORMAT : "%s:%" G_GUINT64_FORMAT, text, port);
}

static char *describe_internet(IntroReader *r, struct gva sk, bool v6)
{
    const char *protocol = internet_protocol(rd(r, sk, M_sk_type), rd(r, sk, M_sk_protocol));
    g_autofree char *local = endpoint(r, sk, v6, false), *remote = endpoint(r, sk, v6, true);

    if (rd(r, sk, M_sk_state) == STATE_LISTEN)
        return g_strdup_printf("a %s socket that listens at %s", protocol, local);
    if (rd(r, sk, M_sk_dport))
        return g_strdup_printf("a %s socket from %s to %s", protocol, local, remote);
    return g_strdup_printf("a %s socket at %s", protocol, local);
}

static char *describe(IntroReader *r, struct gva sk)
{
    uint64_t family = rd(r, sk, M_sk_family);

    if (family == AF_INET || family == AF_INET6)
        return describe_internet(r, sk, family == AF_INET6);
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++)
        if (families[i].family == family)
            return g_strdup_printf("%s socket, protocol %" G_GUINT64_FORMAT, families[i].name,
                                   rd(r, sk, M_sk_protocol));
    return g_strdup_printf("a socket of family %" G_GUINT64_FORMAT, family);
}

bool intro_socket(struct intro_ctx *c, struct gva inode, uint64_t *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva socket = intro_member_addr(c->k, intro_container(c->k, inode, M_socket_alloc_inode),
                                          M_socket_alloc_socket);
    struct gva sk = rd_ptr(&r, socket, M_socket_sk);
    uint64_t family = sk.addr ? rd(&r, sk, M_sk_family) : 0;

    if (!rd_done(&r, error))
        return false;
    if (!sk.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "socket at %#" G_GINT64_MODIFIER "x: open without a sock", socket.addr);
        return false;
    }
    if (family == AF_UNIX && intro_has(c->k, M_unix_peer))
        return (*ret = intro_unix_sock(c, sk, error)) != 0;
    if (family == AF_NETLINK && intro_netlink_is_idle(&r, sk))
        return rd_done(&r, error) && intro_netlink_sock(c, sk, ret, error);
    g_autofree char *what = describe(&r, sk);
    if (!rd_done(&r, error))
        return false;
    intro_refuse(c, "socket", "has %s open", what);
    *ret = 0;
    return true;
}
