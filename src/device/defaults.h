/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_DEFAULTS_H
#define VUBLK_DEVICE_DEFAULTS_H

/*
 * The default of reconnect-ms on every bus. The device itself does not reconnect by default,
 * because only the owner of the rings knows whether the requests can wait.
 */
#define VUBLK_DEVICE_RECONNECT_MS "1000"

#endif
