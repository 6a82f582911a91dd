// SPDX-License-Identifier: GPL-2.0-or-later
// Asserts that a vCPU holds the registers of vmm_spin.S.
#pragma once

#include "vmm/vcpu.h"

void vmm_expect_general(const struct vmm_vcpu *cpu);
void vmm_expect_x87(const struct vmm_vcpu *cpu);
void vmm_expect_vectors(const struct vmm_vcpu *cpu);
void vmm_expect_pkru(const struct vmm_vcpu *cpu);
