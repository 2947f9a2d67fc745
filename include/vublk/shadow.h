/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_SHADOW_H
#define VUBLK_SHADOW_H

/*
 * Shadow rings at run time. With shadow rings, requests pass through the device: it takes them from
 * the driver's rings and puts them on rings of its own, the shadow rings, which the back-end serves
 * (docs/shadow-rings.md). Without them, requests take the direct path: the driver and the back-end
 * share the driver's rings. The property shadow of <vublk/device.h> is the initial setting of a
 * device.
 *
 * The path of requests can be exchanged while the driver works: the current path completes its
 * requests, the back-end returns the rings, and the other path continues where the rings stopped.
 * The driver notices only a pause of some milliseconds.
 *
 * Unless a function says otherwise:
 * States: any.
 * Threads: the device's thread.
 */

#include <vublk/bus.h>
#include <vublk/device.h>
#include <vublk/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

enum vublk_shadow {
	VUBLK_SHADOW_OFF,  /* the direct path, unless a feature in use needs shadow rings */
	VUBLK_SHADOW_ON,   /* shadow rings */
	VUBLK_SHADOW_AUTO, /* shadow rings if the device reconnects and the back-end has no
			      in-flight area; otherwise like OFF */
};

/*
 * Returns the name of a setting, for example "auto", as a static string; "unknown" if there is no
 * such setting.
 * Threads: any.
 */
const char *vublk_shadow_name(enum vublk_shadow shadow);

/*
 * Stores in `shadow` the setting that `text` names: "on", "off", "auto", or another word for on or
 * off that boolean properties accept ("yes", "false", "1" and others).
 * Errors:
 *   EINVAL  there is no such setting
 * Threads: any.
 */
int vublk_shadow_parse(const char *text, enum vublk_shadow *shadow, struct vublk_error *error);

/*
 * Changes the property shadow of a device. If the rings run and the path has to change, the
 * exchange begins as soon as the device's loop runs, and the bus gets the callback started() when
 * the rings run again. If the rings do not run, the next start uses the new setting. If an exchange
 * is not possible, the path stays as it is, and the log says why.
 * Returns:
 *   0  the path is the wanted one, or will be after the next start
 *   1  an exchange is due or under way; see vublk_device_get_shadow()
 * Errors:
 *   EINVAL   there is no such setting; or ON, and the guest's memory overlaps the addresses of the
 *            shadow rings
 *   ENOTSUP  ON, and the driver's requests may be too large for the shadow rings
 *   ENOSPC   ON, and the back-end has no memory slot left for the shadow rings
 *   ENOMEM, EMFILE, EAGAIN  ON, and there is no memory, no descriptor or no thread
 */
int vublk_device_set_shadow(struct vublk_device *device, enum vublk_shadow shadow,
			    struct vublk_error *error);

/*
 * Changes the property shadow of the device that a bus presents, as vublk_device_set_shadow() does.
 * Returns: as vublk_device_set_shadow().
 * Errors: those of vublk_device_set_shadow(), and:
 *   EINVAL  the property serial is set, and `shadow` is not ON
 * Threads: the one that calls vublk_bus_process(), between two calls.
 */
int vublk_bus_set_shadow(struct vublk_bus *bus, enum vublk_shadow shadow,
			 struct vublk_error *error);

/* The setting and the path of requests of a device. Passed with its size; see <vublk/version.h>. */
struct vublk_shadow_info {
	enum vublk_shadow wanted; /* the property shadow */
	bool is_shadowed; /* requests pass through shadow rings, or will when the rings run */
	bool is_changing; /* an exchange is due or under way */
	/*
	 * Why shadow rings are wanted: words joined by commas, such as "property"; empty: they are
	 * not wanted.
	 */
	char reasons[128];
	/* Why the path is not the wanted one; empty if it is, or if the exchange is under way. */
	char refusal[VUBLK_ERROR_TEXT_BYTES];
};

/*
 * Fills `info` with the current setting and the current path of requests. `info_bytes` is
 * sizeof(struct vublk_shadow_info).
 */
void vublk_device_get_shadow(const struct vublk_device *device, struct vublk_shadow_info *info,
			     size_t info_bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
