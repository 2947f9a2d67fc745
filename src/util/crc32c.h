/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_CRC32C_H
#define VUBLK_UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * Returns the CRC-32C (Castagnoli; RFC 3720, appendix B.4) of `bytes` bytes. This checksum detects
 * accidental errors, including every burst of up to 32 bits, but not deliberate changes.
 */
uint32_t vublk_crc32c(const void *data, size_t bytes);

#endif
