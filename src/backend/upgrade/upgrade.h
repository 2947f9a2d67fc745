/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_UPGRADE_UPGRADE_H
#define VUBLK_BACKEND_UPGRADE_UPGRADE_H

/*
 * Hands a back-end to another process. calls.c implements the calls and transfers the options,
 * state.c transfers the state, and src/handover/ exchanges the messages.
 */
#include "backend/backend.h"

/* The table of the sections of the state. */
extern const struct vublk_section_type vublk_backend_sections[];

/* Writes the sections. If there is a session, it must be held. */
void vublk_backend_give(const void *backend, struct vublk_sections_writer *to);

#endif
