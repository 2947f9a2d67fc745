/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_DEVICE_DEFAULTS_H
#define VUBLK_DEVICE_DEFAULTS_H

/*
 * The default of reconnect-ms on every bus of this library. The device's own default is 0, because
 * only the bus knows whether requests can wait for another back-end.
 */
#define VUBLK_DEVICE_RECONNECT_MS "1000"

#endif
