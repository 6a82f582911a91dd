// SPDX-License-Identifier: GPL-2.0-or-later
// The end of who has restored a tree: its root is told nothing of it.
//
// The root is a child of this process until that ends. PR_SET_PDEATHSIG speaks of the parent that
// stayed behind in the source, not of this one; but it must be set before the tree is let go. The
// kernel sends the signal as the parent that ends (forget_original_parent in kernel/exit.c), with
// what that may do: so this process ends as somebody who may signal nobody.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

// What may be signalled is told by these two (kill_ok_by_cred in kernel/signal.c).
static bool is_user(const FmtImage *img, uid_t uid)
{
    const struct fmt_cred *cred;

    for (size_t i = 0; FMT_NEXT(img, CRED, i, cred); i++)
        if (cred->uid == uid || cred->suid == uid)
            return true;
    return false;
}

uid_t agent_restore_stranger(const AgentRestore *r)
{
    uid_t uid = (uid_t)-2;

    while (is_user(r->img, uid))
        uid--;
    return uid;
}

void agent_restore_part(uid_t stranger)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

    // A failure cannot be told: all is let go. Who restores credentials may do both.
    if (syscall(SYS_setresuid, stranger, stranger, stranger) == 0)
        syscall(SYS_capset, &head, none);
}
