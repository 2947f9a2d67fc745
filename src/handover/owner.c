/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The owner's word: a word of shared memory that says which process has the disk.
 *
 * Key idea: one compare-and-swap decides, no matter what the two processes know about each other.
 * If a process is killed before it has claimed the word, the other one can still claim it.
 */
#include "handover/upgrade.h"

#include "util/fd.h"
#include "util/memfd.h"

int vublk_upgrade_owner_new(struct vublk_error *error)
{
	return vublk_memfd_new("vublk-owner", sizeof(uint32_t), error);
}

uint32_t *vublk_upgrade_owner_map(int fd, struct vublk_error *error)
{
	return vublk_map_shared(fd, 0, sizeof(uint32_t), error);
}

void vublk_upgrade_owner_unmap(uint32_t *word)
{
	vublk_unmap(word, sizeof(*word));
}

bool vublk_upgrade_owner_claim(uint32_t *word, enum vublk_upgrade_owner owner)
{
	uint32_t undecided = VUBLK_UPGRADE_UNDECIDED;

	return __atomic_compare_exchange_n(word, &undecided, owner, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}
