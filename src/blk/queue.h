/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_QUEUE_H
#define VUBLK_BLK_QUEUE_H

/*
 * One queue of a disk: its requests, their pieces on the ring, and the completions. request.c
 * checks the arguments of requests, and src/virtio implements the ring.
 *
 * Key idea: a request of the application is cut into one or more pieces, and each piece is one
 * chain on the ring. A piece occupies a slot, and the slot's number is its token on the ring. There
 * are as many requests, and as many slots, as the ring has entries.
 *
 * The owner of a queue is the thread that uses it. Everything here belongs to the owner, except
 * where a comment says otherwise. When a back-end is lost, the disk's thread closes the queue's
 * gate (gate.h) and uses the queue for a moment.
 */

#include "blk/gate.h"
#include "virtio/blk-overlap.h"
#include "blk/split.h"
#include "blk/statistics.h"
#include "blk/unflushed.h"
#include "inproc/inproc.h"
#include "util/atomic.h"
#include "util/log.h"
#include "virtio/blk-format.h"
#include "virtio/driver-ring.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A chain has a header before its data and a status after it. */
#define VUBLK_BLK_CHAIN_OVERHEAD 2
/* The largest number of descriptors in one chain: those of an indirect table of one page. */
#define VUBLK_BLK_MAX_CHAIN 256

/* The descriptors of a chain whose table fits into its slot: header, data, status. */
#define VUBLK_BLK_SLOT_TABLE 3

/*
 * The part of a slot that the driver shares with the back-end: two cache lines. The first has the
 * descriptors, and is not written again if the next request uses the same buffer. The second has
 * the request's header, which the driver writes, and the answer, which the back-end writes.
 */
struct vublk_blk_shared_slot {
	struct vring_desc table[VUBLK_BLK_SLOT_TABLE];
	uint8_t unused[16];
	struct virtio_blk_outhdr header;
	uint8_t status; /* written by the back-end */
	uint8_t id[VUBLK_BLK_ID_BYTES];
	uint8_t unused2[11];
	struct virtio_blk_discard_write_zeroes segment;
};
_Static_assert(offsetof(struct vublk_blk_shared_slot, header) == VUBLK_CACHE_LINE,
	       "a line for the fields that rarely change");
_Static_assert(sizeof(struct vublk_blk_shared_slot) == 128, "two cache lines");

enum vublk_blk_request_state {
	VUBLK_BLK_REQUEST_FREE,
	VUBLK_BLK_REQUEST_CUTTING, /* in the list `cutting`: not completely cut yet */
	VUBLK_BLK_REQUEST_ISSUED,  /* completely cut; some pieces are still on the ring */
	VUBLK_BLK_REQUEST_FUA_ISSUED, /* like ISSUED, for a request with `fua` */
	VUBLK_BLK_REQUEST_DONE,    /* in the list `done`: the completion can be taken */
};

/* The progress of a request with VUBLK_BLK_FUA, which is a write and then a flush; see fua.c. */
enum vublk_blk_fua {
	VUBLK_BLK_FUA_NONE, /* a request without VUBLK_BLK_FUA */
	VUBLK_BLK_FUA_WRITE,
	VUBLK_BLK_FUA_WRITE_PARTLY_DONE, /* at least one piece has completed */
	VUBLK_BLK_FUA_FLUSH,
};

struct vublk_blk_request {
	struct vublk_blk_request *next; /* of the list that the request is in */
	enum vublk_blk_request_state state;
	enum vublk_blk_fua fua;         /* always NONE in a free request */
	uint32_t type;                  /* VIRTIO_BLK_T_... */
	int result;                     /* the first error of a piece */
	unsigned pieces;                /* on the ring */
	uint32_t flags;                 /* of the segment of a write zeroes */
	uint64_t offset;                /* of the next piece, bytes */
	uint64_t left;                  /* bytes that are not cut into pieces yet */
	struct vublk_blk_cursor cursor;
	struct iovec single;            /* the iovec of a request with a plain buffer */
	union {
		char *id;           /* of a get-id */
		uint64_t flush_number;
	};
	void *user_data;
};

/*
 * A piece on the ring, with everything that is needed to issue the piece again. After the loss of a
 * back-end the new rings are filled from the slots, in the order of `sequence`, and never from
 * shared memory, which the lost back-end may have changed.
 */
struct vublk_blk_slot {
	struct vublk_blk_request *request; /* NULL: the slot is free */
	uint64_t sequence;
	uint64_t offset;
	uint64_t bytes;
	struct vublk_blk_cursor cursor;
	/*
	 * These three fields are a copy of the data descriptor that plain.h last wrote to the slot's
	 * table in shared memory, so that plain.h need not write the same table again.
	 * table_bytes 0: the content of the table is unknown.
	 */
	uint64_t table_addr;
	uint32_t table_bytes;
	bool table_writes; /* the request was a write to the disk */
};

struct vublk_blk_list {
	struct vublk_blk_request *first;
	struct vublk_blk_request *last;
};

static inline void vublk_blk_list_append(struct vublk_blk_list *list,
					 struct vublk_blk_request *request)
{
	request->next = NULL;
	if (list->last)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

enum vublk_blk_queue_state {
	/* Requests are added to the ring, even while no back-end is connected. */
	VUBLK_BLK_QUEUE_WORKS,
	/* The back-end broke the ring: no completion is taken until the rings are reclaimed. */
	VUBLK_BLK_QUEUE_BROKEN,
	/* Requests in flight have failed, and new ones fail, until a back-end is found. */
	VUBLK_BLK_QUEUE_FAILS,
	VUBLK_BLK_QUEUE_DEAD, /* like FAILS, but permanently */
};

/*
 * The user of the queue is the part of the program that adds requests. The first user that claims
 * the queue keeps it.
 */
enum vublk_blk_queue_user {
	VUBLK_BLK_QUEUE_UNUSED,
	VUBLK_BLK_QUEUE_OF_APPLICATION,
	VUBLK_BLK_QUEUE_OF_BLOCKING_CALLS,
};

struct vublk_blk_queue {
	/* any thread, atomically */
	enum vublk_blk_queue_user user;

	/* constant after init */
	void (*on_broken_ring)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned index;
	unsigned size;
	bool has_indirect;
	bool may_unmap;
	struct vublk_blk_limits limits;
	uint32_t max_plain_bytes; /* of a request that plain.h takes */
	uint64_t features;
	const struct vublk_inproc_queue *inproc; /* its pointers change with the rings */
	const struct vublk_inproc_regions *regions;
	const uint64_t *capacity_bytes; /* written by the disk's thread, loaded atomically */
	struct vublk_blk_flushes *flushes; /* of the disk */
	const struct vublk_log *log;
	const char *serial; /* of VUBLK_BLK_ID_BYTES, of the disk; empty: the back-end's */
	unsigned table_entries;
	struct vublk_blk_statistics *statistics; /* NULL: statistics are off */

	struct vublk_blk_gate gate;

	/*
	 * used by the owner inside the gate, or by the disk's thread while it has closed the gate
	 */
	struct vublk_driver_ring ring __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_shared_slot *shared;
	uint64_t shared_addr;
	struct vring_desc *tables; /* indirect tables of longer chains: `table_entries` per slot */
	uint64_t tables_addr;
	struct vublk_inproc_region_cache cache;
	struct vublk_ring_buffer *buffers; /* header, data, status of the piece being made */
	struct vublk_blk_slot *slots;
	uint16_t *free_slots; /* a stack */
	unsigned num_free_slots;
	struct vublk_blk_request *requests;
	struct vublk_blk_request *free; /* a stack */
	struct vublk_blk_list cutting; /* only the first request has pieces on the ring */
	struct vublk_blk_list done;
	unsigned num_done;
	unsigned in_flight;   /* requests that are not free */
	uint64_t sequence;
	uint64_t covering_flush; /* number of the flush that covers all completed writes; 0: none */
	bool flush_fails;     /* the next flush fails, because completed writes may be lost */
	bool unpublished;     /* the ring has chains that the back-end cannot see yet */
	bool calls_enabled;
	enum vublk_blk_queue_state state;
	struct vublk_error failure; /* why the queue does not work */
	struct vublk_log_limit log_limit;
	/* for deadline.c: how many pieces had been published at each of the last checks */
	uint64_t published_notes[VUBLK_INPROC_LOOKS_PER_DEADLINE];
	unsigned next_note;
	struct vublk_blk_overlap overlap; /* of the writes on the ring */
} __attribute__((aligned(VUBLK_CACHE_LINE)));

/* Bytes of shared memory that a queue needs in addition to the ring. */
uint64_t vublk_blk_queue_shared_bytes(unsigned size, bool has_indirect);

/* The arguments of vublk_blk_queue_init(). */
struct vublk_blk_queue_setup {
	/* Called on the owner's thread when it finds that the back-end broke the ring. */
	void (*on_broken_ring)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned index;
	unsigned size;
	uint64_t features;
	bool may_unmap; /* write zeroes may deallocate */
	struct vublk_blk_limits limits;
	const struct vublk_inproc_queue *inproc;
	const struct vublk_inproc_regions *regions;
	const uint64_t *capacity_bytes;
	struct vublk_blk_flushes *flushes;
	bool statistics;
	const struct vublk_log *log;
	const char *serial;
};

/* `queue` is zeroed by the caller. A failure leaves it deinitialised. */
int vublk_blk_queue_init(struct vublk_blk_queue *queue, const struct vublk_blk_queue_setup *setup,
			 struct vublk_error *error);
void vublk_blk_queue_deinit(struct vublk_blk_queue *queue);

/*
 * The disk's thread calls the following functions, which are in recover.c.
 *
 * The back-end was lost: takes its completions, and keeps the owner out until
 * vublk_blk_queue_after_loss(). Does not change the rings.
 */
void vublk_blk_queue_lost(struct vublk_blk_queue *queue);
/*
 * Lets the owner in again. `writes_lost`: completed writes of any queue of the disk may be lost. In
 * that case each flush in flight fails with EOWNERDEAD; if no flush is in flight, the next one
 * fails.
 */
void vublk_blk_queue_after_loss(struct vublk_blk_queue *queue, bool writes_lost);
/*
 * The rings are about to be replaced: takes all completions, and keeps the owner out until
 * vublk_blk_queue_resume().
 */
void vublk_blk_queue_suspend(struct vublk_blk_queue *queue);
/*
 * The rings were replaced by empty ones. `error` NULL: the pieces in flight are issued again, in
 * their original order. Otherwise the requests in flight fail, and new ones fail until
 * vublk_blk_queue_revive(). Lets the owner in again.
 */
void vublk_blk_queue_resume(struct vublk_blk_queue *queue, const struct vublk_error *error);
/* A back-end is connected again: a queue that failed its requests works again. */
void vublk_blk_queue_revive(struct vublk_blk_queue *queue);
/*
 * No back-end will complete a request any more: takes all completions, and fails all other
 * requests.
 */
void vublk_blk_queue_give_up(struct vublk_blk_queue *queue, const struct vublk_error *error);

/*
 * In deadline.c, called by the disk's thread: whether a piece has taken longer than the deadline
 * since its submission. Called VUBLK_INPROC_LOOKS_PER_DEADLINE times per deadline.
 */
bool vublk_blk_queue_is_overdue(struct vublk_blk_queue *queue);

/*
 * The following functions are in queue.c, for recover.c, and are called inside the gate.
 *
 * Stores the present address of the memory that the queue shares with the back-end.
 */
void vublk_blk_queue_bind(struct vublk_blk_queue *queue);
/*
 * Takes all completions that the ring has. Requests in `cutting` may then fit on the ring, so the
 * caller pumps the queue or signals call_fd, after which the owner pumps it.
 */
void vublk_blk_queue_take_all(struct vublk_blk_queue *queue);
/* Each request in flight completes with queue->failure, and new requests are refused. */
void vublk_blk_queue_fail_all(struct vublk_blk_queue *queue, enum vublk_blk_queue_state state);
/* Whether the request is neither free nor done. */
bool vublk_blk_queue_is_in_flight(const struct vublk_blk_request *request);
/* A piece has left the ring: completes its request if that was the last piece. */
void vublk_blk_queue_piece_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request);
/* Continues the requests for which the ring had no room, and publishes the new chains. */
void vublk_blk_queue_pump(struct vublk_blk_queue *queue);
/*
 * Does the same on the disk's thread, but never blocks in a kick, because no other thread would
 * unblock this thread.
 */
void vublk_blk_queue_pump_for_owner(struct vublk_blk_queue *queue);

/*
 * Takes a free request, zeroed; NULL: no request is free. The caller passes the request to
 * vublk_blk_queue_start() or returns it with vublk_blk_queue_put_request().
 */
struct vublk_blk_request *vublk_blk_queue_get_request(struct vublk_blk_queue *queue);
void vublk_blk_queue_put_request(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/* Adds as many pieces of the request to the ring as fit; the remaining pieces follow later. */
void vublk_blk_queue_start(struct vublk_blk_queue *queue, struct vublk_blk_request *request);
/* Completes a request, which has no piece on the ring. */
void vublk_blk_queue_finish(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
			    int result);

/*
 * Claims the queue. True: the queue belongs to `user`, which may have claimed it before. Any
 * thread.
 */
static inline bool vublk_blk_queue_claim(struct vublk_blk_queue *queue,
					 enum vublk_blk_queue_user user)
{
	enum vublk_blk_queue_user before = VUBLK_BLK_QUEUE_UNUSED;

	return __atomic_compare_exchange_n(&queue->user, &before, user, false, __ATOMIC_RELAXED,
					   __ATOMIC_RELAXED) || before == user;
}

/*
 * Called by the owner: whether `result` means that the library, not the back-end, completed the
 * request.
 */
bool vublk_blk_queue_gave_up(struct vublk_blk_queue *queue, int result);

/* Called by the owner: fills `error` with one sentence that says why a request has this result. */
void vublk_blk_queue_explain(struct vublk_blk_queue *queue, int result, struct vublk_error *error);

/* The time until `deadline_ns`, rounded up, for poll(); -1 for UINT64_MAX (no deadline). */
int vublk_blk_left_ms(uint64_t deadline_ns);

#endif
