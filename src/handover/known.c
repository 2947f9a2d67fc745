/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks that the new process knows the sections of the state that it must not skip.
 *
 * Key idea: the new process names the sections that it knows before the old process stops anything.
 * So if the new version cannot take over, the attempt has no effect.
 */
#include "handover/upgrade.h"

#include "util/error.h"

#include <vublk/version.h>

#include <errno.h>
#include <string.h>

void vublk_upgrade_give_known(const struct vublk_section_type *const *tables,
			      struct vublk_sections_writer *to)
{
	for (; *tables; tables++)
		for (const struct vublk_section_type *type = *tables; type->name; type++) {
			vublk_section_begin(to, "knows", 1, true);
			vublk_section_put_text(to, type->name);
		}
}

/*
 * Returns a mask in which only the bit of the section `name` is set, or 0 if this version does not
 * know the section.
 */
static uint64_t bit_of(const struct vublk_section_type *const *tables, const char *name)
{
	uint64_t bit = 1;

	for (; *tables; tables++)
		for (const struct vublk_section_type *type = *tables; type->name; type++, bit <<= 1)
			if (!strcmp(type->name, name))
				return bit;
	return 0;
}

void vublk_upgrade_note_known(const struct vublk_section_type *const *tables, uint64_t *known,
			      const char *name)
{
	*known |= bit_of(tables, name);
}

int vublk_upgrade_check_known(const struct vublk_section_type *const *tables, uint64_t known,
			      const char *version, struct vublk_error *error)
{
	for (const struct vublk_section_type *const *table = tables; *table; table++)
		for (const struct vublk_section_type *type = *table; type->name; type++)
			if (!type->may_be_skipped && !(known & bit_of(tables, type->name)))
				return vublk_error_set(error, ENOTSUP, "the new process (version %s) does not "
						       "know the section '%s' of the state; take over "
						       "with a version that is not older than %s", version,
						       type->name, VUBLK_VERSION_STRING);
	return 0;
}
