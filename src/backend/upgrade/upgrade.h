/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_UPGRADE_UPGRADE_H
#define VUBLK_BACKEND_UPGRADE_UPGRADE_H

/*
 * How a back-end is handed to another process: calls.c has the calls and the options, state.c the
 * state. src/handover/ has the exchange of messages.
 */
#include "backend/backend.h"

/* The table of the sections of the state. */
extern const struct vublk_section_type vublk_backend_sections[];

/* Writes the sections. The session must be held. */
void vublk_backend_give(const void *backend, struct vublk_sections_writer *to);

#endif
