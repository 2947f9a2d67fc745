/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks of a pcapng file; see pcapng.h.
 *
 * Key idea: a block is a type, its length, a body of 32-bit words, and the length again. All blocks
 * of a trace are small, so each is built in memory.
 */
#include "cli/control/pcapng.h"

#include "cli/cli.h"

#include <endian.h>
#include <string.h>

#define SECTION_HEADER 0x0a0d0d0au
#define INTERFACE_DESCRIPTION 1u
#define INTERFACE_STATISTICS 5u
#define ENHANCED_PACKET 6u
#define BYTE_ORDER_MAGIC 0x1a2b3c4du
#define DLT_USER0 147u
#define NANOSECONDS 9 /* if_tsresol: 10^-9 */

enum pcapng_option {
	OPTION_END = 0,
	OPTION_SHB_USERAPPL = 4,
	OPTION_IF_NAME = 2,
	OPTION_IF_TSRESOL = 9,
	OPTION_ISB_IFRECV = 4,
	OPTION_ISB_IFDROP = 5,
};

struct block {
	uint32_t words[64];
	unsigned count;
};

static void put_u32(struct block *block, uint32_t value)
{
	block->words[block->count++] = value;
}

static void put_u64(struct block *block, uint64_t value)
{
	memcpy(&block->words[block->count], &value, sizeof(value));
	block->count += 2;
}

/* Adds `count` bytes to the block, padded to a multiple of 4 bytes. */
static void put_bytes(struct block *block, const void *bytes, size_t count)
{
	if (count)
		memcpy(&block->words[block->count], bytes, count);
	block->count += (unsigned)(count + 3) / 4;
}

static void put_option(struct block *block, enum pcapng_option option, const void *bytes, size_t count)
{
	uint16_t head[] = { (uint16_t)option, (uint16_t)count };

	put_bytes(block, head, sizeof(head));
	put_bytes(block, bytes, count);
}

static void put_text(struct block *block, enum pcapng_option option, const char *text)
{
	put_option(block, option, text, VUBLK_CLI_MIN(strlen(text), (size_t)100));
}

static void begin_block(struct block *block, uint32_t type)
{
	*block = (struct block){ 0 };
	put_u32(block, type);
	put_u32(block, 0); /* the length, set at the end */
}

static void write_block(FILE *file, struct block *block)
{
	uint32_t bytes = (block->count + 1) * 4;

	block->words[1] = bytes;
	put_u32(block, bytes);
	fwrite(block->words, 1, bytes, file);
}

void vublk_pcapng_begin(FILE *file, const char *application)
{
	const uint8_t resolution = NANOSECONDS;
	const uint16_t version[] = { 1, 0 }, link[] = { DLT_USER0, 0 };
	struct block block;

	begin_block(&block, SECTION_HEADER);
	put_u32(&block, BYTE_ORDER_MAGIC);
	put_bytes(&block, version, sizeof(version));
	put_u64(&block, UINT64_MAX); /* the length of the section; all ones: unknown */
	put_text(&block, OPTION_SHB_USERAPPL, application);
	put_option(&block, OPTION_END, NULL, 0);
	write_block(file, &block);
	begin_block(&block, INTERFACE_DESCRIPTION);
	put_bytes(&block, link, sizeof(link));
	put_u32(&block, 0); /* the longest packet; 0: packets are not cut */
	put_text(&block, OPTION_IF_NAME, "vublk");
	put_option(&block, OPTION_IF_TSRESOL, &resolution, sizeof(resolution));
	put_option(&block, OPTION_END, NULL, 0);
	write_block(file, &block);
}

static void put_time(struct block *block, uint64_t time_ns)
{
	put_u32(block, (uint32_t)(time_ns >> 32));
	put_u32(block, (uint32_t)time_ns);
}

void vublk_pcapng_add(FILE *file, const struct vublk_pcapng_request *request)
{
	const struct {
		uint8_t version, status;
		uint16_t queue;
		uint32_t type;
		uint64_t sector, bytes, wait_ns, latency_ns;
	} packet = {
		VUBLK_PCAPNG_VERSION, request->status, htole16(request->queue), htole32(request->type),
		htole64(request->sector), htole64(request->bytes), htole64(request->wait_ns),
		htole64(request->latency_ns),
	};
	struct block block;

	_Static_assert(sizeof(packet) == 40, "vublk.lua expects 40 bytes");
	begin_block(&block, ENHANCED_PACKET);
	put_u32(&block, 0); /* the interface */
	put_time(&block, request->completed_ns);
	put_u32(&block, sizeof(packet));
	put_u32(&block, sizeof(packet));
	put_bytes(&block, &packet, sizeof(packet));
	write_block(file, &block);
}

void vublk_pcapng_end(FILE *file, uint64_t time_ns, uint64_t recorded, uint64_t dropped)
{
	uint64_t received = recorded + dropped;
	struct block block;

	begin_block(&block, INTERFACE_STATISTICS);
	put_u32(&block, 0); /* the interface */
	put_time(&block, time_ns);
	put_option(&block, OPTION_ISB_IFRECV, &received, sizeof(received));
	put_option(&block, OPTION_ISB_IFDROP, &dropped, sizeof(dropped));
	put_option(&block, OPTION_END, NULL, 0);
	write_block(file, &block);
}
