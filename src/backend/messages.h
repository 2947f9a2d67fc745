/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_MESSAGES_H
#define VUBLK_BACKEND_MESSAGES_H

/*
 * The functions of ring-messages.c, for the table of messages in messages.c. A function for a
 * message about one queue finds the queue in session->concerned.
 */
#include "backend/session.h"

int vublk_session_set_vring_num(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_addr(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_base(struct vublk_session *session, struct vublk_error *error);
int vublk_session_get_vring_base(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_enable(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_kick(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_call(struct vublk_session *session, struct vublk_error *error);
int vublk_session_set_vring_err(struct vublk_session *session, struct vublk_error *error);

/* Stops the queue of the message, if the queue runs. */
void vublk_session_stop_concerned(struct vublk_session *session);
/* Stops the queue of the message, if the queue runs and the message enables or disables it. */
void vublk_session_stop_if_enable_changes(struct vublk_session *session);
/* Stops the queue of the message, if it runs, with a drain or without one, as the message says. */
void vublk_session_stop_for_base(struct vublk_session *session);

#endif
