/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_MESSAGES_H
#define VUBLK_BUS_RELAY_MESSAGES_H

/*
 * Functions that the table of messages (messages.c) refers to and that are in other files. In each
 * section, the functions that record what a message says come first. Those that act on a message
 * once the device matches the set-up follow.
 */
#include "bus/relay/relay.h"

/* --- ring-messages.c --------------------------------------------------------- */

int vublk_relay_set_vring_num(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_addr(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_base(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_enable(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_kick(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_call(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_set_vring_err(struct vublk_relay *relay, struct vublk_error *error);
/* For GET_VRING_BASE and GET_VRING_BASE_SKIP_DRAIN. */
int vublk_relay_withdraw_vring(struct vublk_relay *relay, struct vublk_error *error);

int vublk_relay_get_vring_base(struct vublk_relay *relay, struct vublk_error *error);

/* --- area.c ------------------------------------------------------------------ */

int vublk_relay_set_inflight_fd(struct vublk_relay *relay, struct vublk_error *error);

int vublk_relay_get_inflight_fd(struct vublk_relay *relay, struct vublk_error *error);

/* --- memory.c ---------------------------------------------------------------- */

/*
 * These functions take ownership of the message's descriptors, and keep the previous table until
 * vublk_relay_memory_commit() or vublk_relay_memory_roll_back().
 */
int vublk_relay_memory_set(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_memory_add(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_memory_remove(struct vublk_relay *relay, struct vublk_error *error);

#endif
