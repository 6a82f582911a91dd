// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the vCPUs and clocks in QEMU's device state stream.
#include "vmm/vmstate.h"

#include <string.h>

#include "vmm/bytes.h"
#include "vmm/machine.h"
#include "vmm/vmstate_cpu.h"

/*
 *   "QEVM"  version 3 (4)
 *   04  section id (4)  length of name (1)  name  instance (4)  version (4)   fields ...
 *   7e  section id (4)
 *   ... more sections
 *   00
 *
 * No section says how long it is, so the ones wanted are looked for by their header, and their
 * footer must stand where their fields end. What the guest writes into a device's buffer might look
 * like a section, but then there are two of them, which is refused.
 */
#define SECTION_FULL   0x04
#define SECTION_FOOTER 0x7e
#define FOOTER_BYTES   5

#define MAX_VCPUS 4096

struct section {
    struct vmm_bytes fields; // from the first field to the end of the stream
    uint32_t id, instance, version;
};

// The next section of that name at or behind `from`; false: none. *ret->fields.at is never below
// `from`.
static bool find_section(const uint8_t *data, size_t len, size_t from, const char *name,
                         struct section *ret)
{
    size_t name_len = strlen(name), header = 1 + 4 + 1 + name_len + 4 + 4;

    while (from < len && len - from >= header) {
        const uint8_t *at = memchr(data + from, SECTION_FULL, len - from - header + 1);

        if (!at)
            return false;
        if (at[5] == name_len && memcmp(at + 6, name, name_len) == 0) {
            struct vmm_bytes b = {.data = data, .len = len, .at = (size_t)(at - data) + 1};

            ret->id = vmm_bytes_u32(&b);
            vmm_bytes_skip(&b, 1 + name_len);
            ret->instance = vmm_bytes_u32(&b);
            ret->version = vmm_bytes_u32(&b);
            ret->fields = b;
            return true;
        }
        from = (size_t)(at - data) + 1;
    }
    return false;
}

static bool at_footer(struct vmm_bytes b, uint32_t id)
{
    return vmm_bytes_u8(&b) == SECTION_FOOTER && vmm_bytes_u32(&b) == id && !b.failed;
}

// Subsections of these records are of no interest; after them comes the footer.
static bool at_end(struct vmm_bytes b, uint32_t id)
{
    return at_footer(b, id) ||
           (b.at < b.len && !b.failed && b.data[b.at] == VMM_VMSTATE_SUBSECTION);
}

static struct vmm_vcpu *find_vcpu(GArray *vcpus, uint32_t index)
{
    for (guint i = 0; i < vcpus->len; i++) {
        struct vmm_vcpu *cpu = &g_array_index(vcpus, struct vmm_vcpu, i);

        if (cpu->index == index)
            return cpu;
    }
    return NULL;
}

static bool refuse_twice(const char *name, uint32_t instance, GError **error)
{
    g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                "device state: the record \"%s\" %u occurs twice, one of them may be forged", name,
                instance);
    return false;
}

static bool read_vcpus(const uint8_t *data, size_t len, struct vmm_vmstate *state, GError **error)
{
    struct section section;
    size_t from = 0;

    while (find_section(data, len, from, "cpu", &section)) {
        g_autofree struct vmm_vcpu *cpu = g_new0(struct vmm_vcpu, 1);

        from = section.fields.at;
        cpu->index = section.instance;
        if (section.version != 12 || section.instance >= MAX_VCPUS) {
            g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                        "device state: vCPU %u has version %u, only 12 is known", section.instance,
                        section.version);
            return false;
        }
        if (!vmm_vmstate_read_cpu(&section.fields, cpu, error))
            return false;
        if (!at_footer(section.fields, section.id)) {
            g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                        "device state: vCPU %u does not end where it should", cpu->index);
            return false;
        }
        if (find_vcpu(state->vcpus, cpu->index))
            return refuse_twice("cpu", cpu->index, error);
        g_array_append_vals(state->vcpus, cpu, 1);
    }
    if (state->vcpus->len > 0)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED, "device state: it has no vCPU");
    return false;
}

static bool read_halted(const uint8_t *data, size_t len, struct vmm_vmstate *state, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    struct section section;
    size_t from = 0;

    while (find_section(data, len, from, "cpu_common", &section)) {
        struct vmm_vcpu *cpu = find_vcpu(state->vcpus, section.instance);
        uint32_t halted = vmm_bytes_u32(&section.fields);

        vmm_bytes_skip(&section.fields, 4); // interrupt_request
        from = section.fields.at;
        if (section.version != 1 || !cpu || !at_end(section.fields, section.id))
            continue;
        if (!g_hash_table_add(seen, GUINT_TO_POINTER(section.instance + 1)))
            return refuse_twice("cpu_common", section.instance, error);
        cpu->halted = halted != 0;
    }
    return true;
}

static void take_timer(struct vmm_bytes *b, struct vmm_vmstate *state)
{
    state->ticks = (int64_t)vmm_bytes_u64(b);
    vmm_bytes_skip(b, 8);
    state->virtual_ns = vmm_bytes_u64(b);
    state->has_timer = true;
}

static void take_hpet(struct vmm_bytes *b, struct vmm_vmstate *state)
{
    uint8_t n_timers;

    vmm_bytes_skip(b, 8 + 8); // config, isr
    state->hpet_counter = vmm_bytes_u64(b);
    n_timers = vmm_bytes_u8(b);
    vmm_bytes_skip(b, n_timers * (1 + 4 * 8 + 1 + 8u));
    state->has_hpet = true;
}

static void take_kvmclock(struct vmm_bytes *b, struct vmm_vmstate *state)
{
    state->kvmclock_ns = vmm_bytes_u64(b);
    state->has_kvmclock = true;
}

// The clocks of the machine: each at most once.
static const struct clock_record {
    const char *name;
    uint32_t version;
    void (*take)(struct vmm_bytes *b, struct vmm_vmstate *state);
} clock_records[] = {
    {"timer", 2, take_timer},       // softmmu/cpu-timers.c: vmstate_timers
    {"hpet", 2, take_hpet},         // hw/timer/hpet.c: vmstate_hpet
    {"kvmclock", 1, take_kvmclock}, // hw/i386/kvm/clock.c: kvmclock_vmsd
};

static bool read_clock(const uint8_t *data, size_t len, const struct clock_record *record,
                       struct vmm_vmstate *state, GError **error)
{
    struct section section;
    size_t from = 0;
    bool found = false;

    while (find_section(data, len, from, record->name, &section)) {
        struct vmm_vmstate taken = *state;

        from = section.fields.at;
        if (section.version != record->version)
            continue;
        record->take(&section.fields, &taken);
        if (section.fields.failed || !at_end(section.fields, section.id))
            continue;
        if (found)
            return refuse_twice(record->name, section.instance, error);
        found = true;
        *state = taken;
    }
    return true;
}

static gint by_index(gconstpointer a, gconstpointer b)
{
    const struct vmm_vcpu *left = a, *right = b;

    return (left->index > right->index) - (left->index < right->index);
}

bool vmm_vmstate_parse(const uint8_t *data, size_t len, struct vmm_vmstate *ret, GError **error)
{
    struct vmm_vmstate state = {.vcpus = g_array_new(FALSE, FALSE, sizeof(struct vmm_vcpu))};
    bool good;

    if (len < 8 || memcmp(data, "QEVM\0\0\0\3", 8) != 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "device state: this is no QEMU stream of version 3");
        g_array_unref(state.vcpus);
        return false;
    }
    good = read_vcpus(data, len, &state, error) && read_halted(data, len, &state, error);
    for (size_t i = 0; good && i < G_N_ELEMENTS(clock_records); i++)
        good = read_clock(data, len, &clock_records[i], &state, error);
    if (!good) {
        g_array_unref(state.vcpus);
        return false;
    }
    g_array_sort(state.vcpus, by_index);
    *ret = state;
    return true;
}

void vmm_vmstate_clear(struct vmm_vmstate *state)
{
    g_clear_pointer(&state->vcpus, g_array_unref);
}
