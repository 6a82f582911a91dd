// SPDX-License-Identifier: GPL-2.0-or-later
// Removes the objects of IPC that have gone along with a tree, once it is dead.
#include "guestagent/leave.h"

#include <mqueue.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

static void remove_sem(const char *which)
{
    semctl(atoi(which), 0, IPC_RMID);
}

static void remove_msg(const char *which)
{
    msgctl(atoi(which), IPC_RMID, NULL);
}

static void remove_shm(const char *which)
{
    shmctl(atoi(which), IPC_RMID, NULL);
}

static void remove_queue(const char *which)
{
    mq_unlink(which);
}

static const struct {
    const char *prefix;
    void (*remove)(const char *which);
} kinds[] = {
    {"sem ", remove_sem},
    {"msg ", remove_msg},
    {"shm ", remove_shm},
    {"queue ", remove_queue},
};

void agent_leave(const GPtrArray *things)
{
    for (guint i = 0; i < things->len; i++) {
        const char *thing = g_ptr_array_index(things, i);

        for (size_t j = 0; j < G_N_ELEMENTS(kinds); j++)
            if (g_str_has_prefix(thing, kinds[j].prefix))
                kinds[j].remove(thing + strlen(kinds[j].prefix));
    }
}
