/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BACKEND_MESSAGES_H
#define VUBLK_BACKEND_MESSAGES_H

/*
 * The functions of ring-messages.c, which the table in messages.c uses. They handle messages about
 * one queue, which is session->concerned.
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
/*
 * Stops the queue of the message, if the queue runs. If the message permits it, requests may stay
 * in the in-flight area.
 */
void vublk_session_stop_for_base(struct vublk_session *session);

#endif
