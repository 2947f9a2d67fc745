/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_UPGRADE_UPGRADE_H
#define VUBLK_BUS_UPGRADE_UPGRADE_H

/*
 * Hands a bus to another process. calls.c implements the public calls and transfers the properties,
 * and state.c transfers the state. src/handover/ exchanges the messages.
 */
#include "bus/bus.h"

/* --- state.c ------------------------------------------------------------------------- */

/* The tables of the sections that this version knows. The array ends with NULL. */
extern const struct vublk_section_type *const vublk_bus_known_sections[];

/* Stores the tables of all sections of the state in `tables`. Returns the number of tables. */
size_t vublk_bus_upgrade_tables(void *bus,
				struct vublk_section_table tables[VUBLK_UPGRADE_MAX_TABLES]);
/* Writes the sections of the bus, the device and the client. */
void vublk_bus_give(const void *bus, struct vublk_sections_writer *to);

#endif
