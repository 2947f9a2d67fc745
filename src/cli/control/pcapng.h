/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_PCAPNG_H
#define VUBLK_CLI_CONTROL_PCAPNG_H

/*
 * Writes a trace as a pcapng file (draft-ietf-opsawg-pcapng), in the byte order of this machine.
 * Each request is a packet of link type DLT_USER0, and the packet's time is the time at which the
 * request completed. vublk.lua is the dissector for Wireshark, and must agree with this header on
 * the format of a packet.
 */
#include <stdint.h>
#include <stdio.h>

/*
 * The version of the format of packets (40 bytes, little-endian), and the value of an unknown time.
 */
#define VUBLK_PCAPNG_VERSION 1
#define VUBLK_PCAPNG_UNKNOWN UINT64_MAX

struct vublk_pcapng_request {
	uint64_t completed_ns; /* since 1970 */
	uint64_t wait_ns;      /* from when the device took the request until its last submission, or
				  VUBLK_PCAPNG_UNKNOWN */
	uint64_t latency_ns;   /* from when the device took the request until its completion, or
				  VUBLK_PCAPNG_UNKNOWN */
	uint64_t sector, bytes;
	uint32_t type;
	uint16_t queue;
	uint8_t status;
};

/* These functions report no errors: the caller checks the stream's error indicator at the end. */
void vublk_pcapng_begin(FILE *file, const char *application);
void vublk_pcapng_add(FILE *file, const struct vublk_pcapng_request *request);
/* Adds the block that says how many requests were recorded and dropped up to `time_ns`. */
void vublk_pcapng_end(FILE *file, uint64_t time_ns, uint64_t recorded, uint64_t dropped);

#endif
