/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_NBDKIT_ERROR_H
#define VUBLK_NBDKIT_ERROR_H

#include <vublk/error.h>

/* Fills `error` (may be NULL) with a sentence. Returns -code. */
__attribute__((format(printf, 3, 4)))
int vublk_nbdkit_error(struct vublk_error *error, int code, const char *format, ...);

#endif
