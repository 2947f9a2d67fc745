/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that a VMM may request of the relay while the back-end is connected. */
#include "relay-rig.h"

#include "bus/bus.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <vublk/shadow.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECTOR 512
#define BLOCK 4096

/* --- sessions ------------------------------------------------------------------ */

static void test_negotiation(void **state)
{
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_connect(&relay, &rig);
	rig_negotiate(&rig);
	assert_true(rig.features & VUBLK_BIT(VIRTIO_F_VERSION_1));
	assert_true(rig.features & VUBLK_BIT(VIRTIO_BLK_F_MQ));
	assert_true(rig.features & VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES));
	assert_true(rig.protocol_features & VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD));
	assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_QUEUE_NUM), 4);
	assert_true(rig_get_u64(&rig, VUBLK_VU_GET_MAX_MEM_SLOTS) > 8);
	rig_get_config(&rig, &config);
	assert_int_equal(config.capacity, RELAY_DISK_BYTES / SECTOR);
	assert_int_equal(config.num_queues, 4);
	relay_end(&relay, &rig);
}

/*
 * The guest sees the features and the config that the properties allow. The back-end gets only
 * features that it has offered.
 */
static void test_policy(void **state)
{
	const struct vublk_option policy[] = { { "read-only", "on" }, { "seg-max-adjust", "on" },
					       { "queue-size", "16" }, { NULL } };
	uint64_t writing = VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, policy);
	assert_true(relay_has_said(&relay, "the disk is read-only, although the back-end permits writes, and these features "
					   "are hidden: VIRTIO_BLK_F_DISCARD (bit 13)"));
	relay_connect(&relay, &rig);
	rig_negotiate(&rig);
	assert_int_equal(rig.features & (writing | VUBLK_BIT(VIRTIO_BLK_F_RO)),
			 VUBLK_BIT(VIRTIO_BLK_F_RO));
	rig_get_config(&rig, &config);
	assert_int_equal(config.seg_max, 14);
	assert_int_equal(config.max_discard_sectors, 0);
	assert_int_equal(config.max_write_zeroes_sectors, 0);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
	relay_end(&relay, &rig);
}

static void test_requests_on_four_queues(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 4);
	relay_write_and_read(&rig, 0, 4, 'a');
	for (unsigned q = 0; q < 4; q++)
		assert_int_equal(rig_get_base(&rig, q), 2);
	relay_end(&relay, &rig);
}

/* The VMM stops the rings and starts them again at their bases, as VMMs do to pause the VM. */
static void test_stop_and_go_on(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 2);
	for (unsigned round = 0; round < 10; round++) {
		relay_write_and_read(&rig, 0, 2, (char)('a' + round));
		for (unsigned q = 0; q < 2; q++)
			assert_int_equal(rig_get_base(&rig, q), 2 * (round + 1));
		assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_STATUS, 0), 0);
		for (unsigned q = 0; q < 2; q++)
			assert_int_equal(rig_tell_queue(&rig, q, (uint16_t)(2 * (round + 1))), 0);
		relay_driver_ok(&rig);
	}
	relay_end(&relay, &rig);
}

static void test_reset_and_begin_anew(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	for (unsigned round = 0; round < 5; round++) {
		relay_write_and_read(&rig, 0, 1, (char)('a' + round));
		vublk_driver_ring_deinit(&rig.queues[0].driver);
		relay_reset_device(&rig);
		assert_int_equal(rig_get_u64(&rig, VUBLK_VU_GET_STATUS), 0);
		assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_FEATURES, rig.features), 0);
		memset(rig.memory, 0, RIG_MEMORY);
		rig_start_queue(&rig, 0, RIG_SIZE, 0);
		relay_driver_ok(&rig);
	}
	relay_end(&relay, &rig);
}

/* Queues start and stop while other queues run. */
static void test_queue_by_queue(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 2);
	relay_write_and_read(&rig, 0, 2, 'a');
	rig_start_queue(&rig, 2, RIG_SIZE, 0);
	relay_write_and_read(&rig, 0, 3, 'b');
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 0), 0);
	relay_write_and_read(&rig, 1, 2, 'c');
	assert_int_equal(rig_get_base(&rig, 1), 6);
	relay_write_and_read(&rig, 2, 1, 'd');
	assert_int_equal(rig_set_state(&rig, VUBLK_VU_SET_VRING_ENABLE, 0, 1), 0);
	relay_write_and_read(&rig, 0, 1, 'e');
	/* A stop does not disable a queue. */
	rig_get_base(&rig, 0);
	assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0, rig.queues[0].kick_fd),
			 0);
	relay_write_and_read(&rig, 0, 1, 'f');
	relay_end(&relay, &rig);
}

/* The VMM does not negotiate STATUS, so a ring runs as soon as it is enabled. */
static void test_without_status(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_connect(&relay, &rig);
	rig_negotiate(&rig);
	rig.protocol_features &= ~VUBLK_BIT(VUBLK_VU_F_STATUS);
	assert_int_equal(rig_set_u64(&rig, VUBLK_VU_SET_PROTOCOL_FEATURES, rig.protocol_features),
			 0);
	assert_int_equal(rig_set_mem_table(&rig), 0);
	for (unsigned q = 0; q < 4; q++) {
		rig_start_queue(&rig, q, RIG_SIZE, 0);
		relay_write_and_read(&rig, 0, q + 1, 'a');
	}
	relay_end(&relay, &rig);
}

/* The VMM negotiates STATUS but never sets DRIVER_OK. Its ring runs nevertheless. */
static void test_without_driver_ok(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_set_up_vmm(&relay, &rig);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_end(&relay, &rig);
}

static void test_other_notifiers(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	for (unsigned round = 0; round < 5; round++) {
		vublk_fd_close(&rig.queues[0].call_fd);
		vublk_fd_close(&rig.queues[0].kick_fd);
		rig.queues[0].call_fd = vublk_eventfd_new();
		rig.queues[0].kick_fd = vublk_eventfd_new();
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_CALL, 0,
						  rig.queues[0].call_fd), 0);
		assert_int_equal(rig_set_vring_fd(&rig, VUBLK_VU_SET_VRING_KICK, 0,
						  rig.queues[0].kick_fd), 0);
		relay_write_and_read(&rig, 0, 1, 'a');
	}
	relay_end(&relay, &rig);
}

/* --- memory ---------------------------------------------------------------------- */

static uint64_t remove_region(struct backend_rig *rig, uint64_t guest, uint64_t user,
			      uint64_t bytes)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_REM_MEM_REG);
	message.payload.mem_reg.region = (struct vublk_vu_region){
		.guest_addr = guest, .user_addr = user, .size_bytes = bytes,
	};
	message.header.size = sizeof(message.payload.mem_reg);
	return rig_send_acked(rig, &message);
}

static void test_memory_changes_under_rings(void **state)
{
	int fd = vublk_memfd_new("more", 1 << 20, NULL);
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 2);
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000000, 0x1000000, 1 << 20, 0), 0);
		relay_write_and_read(&rig, 0, 2, 'a');
		assert_int_equal(remove_region(&rig, 0x1000000, 0x1000000, 1 << 20), 0);
		relay_write_and_read(&rig, 0, 2, 'b');
	}
	/*
	 * The VMM removes the memory of the rings. The rings wait until it adds that memory again.
	 */
	assert_int_equal(remove_region(&rig, RIG_GUEST, RIG_USER, RIG_MEMORY), 0);
	assert_int_equal(rig_add_mem_reg(&rig, rig.memory_fd, RIG_GUEST, RIG_USER, RIG_MEMORY, 0),
			 0);
	relay_write_and_read(&rig, 0, 2, 'c');
	relay_end(&relay, &rig);
	close(fd);
}

/*
 * libblkio adds regions that are not made of whole pages, before the rings start and while they
 * run.
 */
static void test_memory_of_part_of_a_page(void **state)
{
	int fd = vublk_memfd_new("small", 15120, NULL);
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	relay_set_up_vmm(&relay, &rig);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 15120, 0), 0);
	rig_start_queue(&rig, 0, RIG_SIZE, 0);
	relay_driver_ok(&rig);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x10000, 0x10000, 7000, 512), 0);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 0, 0, 4096), VIRTIO_BLK_S_OK);
	relay_end(&relay, &rig);
	close(fd);
}

/* The relay refuses invalid changes of the memory, which then have no effect. */
static void test_memory_refused(void **state)
{
	int fd = vublk_memfd_new("more", 1 << 20, NULL);
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	rig_expect_regions_refused(&rig);
	assert_int_equal(remove_region(&rig, 0x1000, 0x1000, 4096), 1);
	relay_write_and_read(&rig, 0, 1, 'a');
	assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 4096, 0), 0);
	relay_write_and_read(&rig, 0, 1, 'b');
	relay_end(&relay, &rig);
	close(fd);
}

static uint64_t set_mem_table(struct backend_rig *rig, int fd, uint64_t bytes)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_MEM_TABLE);
	message.payload.table.num_regions = 1;
	message.payload.table.regions[0] = (struct vublk_vu_region){ .size_bytes = bytes };
	message.header.size = 8 + sizeof(struct vublk_vu_region);
	message.fds[0] = fd;
	message.num_fds = 1;
	return rig_send_acked(rig, &message);
}

/*
 * The relay refuses the VMM's first region or table. The memory table is then empty again, without
 * the refused region.
 */
static void test_first_memory_refused(void **state)
{
	int fd = vublk_memfd_new("more", 1 << 20, NULL);

	for (unsigned whole_table = 0; whole_table < 2; whole_table++) {
		struct relay relay;
		struct backend_rig rig;

		relay_open(&relay, NULL);
		relay_connect(&relay, &rig);
		rig_negotiate(&rig);
		if (whole_table) /* in both cases, the region exceeds its file */
			assert_int_equal(set_mem_table(&rig, fd, 2 << 20), 1);
		else
			assert_int_equal(rig_add_mem_reg(&rig, fd, 0, 0, 2 << 20, 0), 1);
		assert_int_equal(rig_add_mem_reg(&rig, fd, 0x1000, 0x1000, 4096, 0), 0);
		assert_int_equal(rig_set_mem_table(&rig), 0);
		rig_start_queue(&rig, 0, RIG_SIZE, 0);
		relay_driver_ok(&rig);
		relay_write_and_read(&rig, 0, 1, 'a');
		relay_end(&relay, &rig);
	}
	close(fd);
}

/* --- config ----------------------------------------------------------------------- */

static void test_write_cache(void **state)
{
	struct virtio_blk_config config;
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 1);
	for (uint8_t wce = 0; wce < 4; wce++) {
		assert_int_equal(rig_set_wce(&rig, wce & 1), 0);
		rig_get_config(&rig, &config);
		assert_int_equal(config.wce, wce & 1);
	}
	assert_int_equal(rig_set_wce(&rig, 2), 1);
	relay_end(&relay, &rig);
}

static uint8_t read_wce(struct backend_rig *rig)
{
	struct virtio_blk_config config;

	rig_get_config(rig, &config);
	return config.wce;
}

/*
 * The VMM resumes its rings after both the relay and the back-end were replaced. The relay must
 * assume that the driver had turned the write cache off, unless the driver has read the config
 * since.
 */
static void test_write_cache_of_a_resumed_disk(void **state)
{
	const struct {
		bool reads_config;
		uint16_t base;
		uint8_t wce;
	} cases[] = {
		{ .reads_config = false, .base = 0, .wce = 1 },
		{ .reads_config = true, .base = 1, .wce = 1 },
		{ .reads_config = false, .base = 1, .wce = 0 },
	};

	for (size_t i = 0; i < VUBLK_ARRAY_SIZE(cases); i++) {
		struct relay relay;
		struct backend_rig rig;

		relay_open(&relay, NULL);
		relay_connect(&relay, &rig);
		rig_negotiate(&rig);
		assert_int_equal(rig_set_mem_table(&rig), 0);
		if (cases[i].reads_config)
			assert_int_equal(read_wce(&rig), 1);
		rig_make_ring(&rig, 0, RIG_SIZE, cases[i].base);
		rig.queues[0].ring.avail->idx = rig.queues[0].ring.used->idx = cases[i].base;
		assert_int_equal(rig_tell_queue(&rig, 0, cases[i].base), 0);
		relay_driver_ok(&rig);
		relay_write_and_read(&rig, 0, 1, 'a');
		assert_int_equal(read_wce(&rig), cases[i].wce);
		assert_int_equal(rig_set_wce(&rig, 1), 0);
		assert_int_equal(read_wce(&rig), 1);
		relay_close_vmm(&relay, &rig);
		relay_close(&relay);
	}
}

static void expect_config_change(struct vublk_channel *back)
{
	struct pollfd wait = { .fd = back->fd, .events = POLLIN };
	struct vublk_vu_message message;

	while (!vublk_channel_receive(back, &message, NULL))
		assert_int_equal(poll(&wait, 1, -1), 1);
	assert_int_equal(message.header.request, VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG);
	assert_true(message.header.flags & VUBLK_VU_FLAG_NEED_REPLY);
	message.header.flags = VUBLK_VU_VERSION | VUBLK_VU_FLAG_REPLY;
	message.header.size = sizeof(uint64_t);
	message.payload.u64 = 0;
	assert_int_equal(vublk_channel_send(back, &message, NULL), 0);
}

static void test_resize(void **state)
{
	struct virtio_blk_config config;
	struct vublk_vu_message message;
	struct vublk_channel back;
	struct relay relay;
	struct backend_rig rig;
	int sockets[2];

	relay_begin(&relay, &rig, 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = sockets[1];
	message.num_fds = 1;
	assert_int_equal(rig_send_acked(&rig, &message), 0);
	close(sockets[1]);
	vublk_channel_init(&back, sockets[0]);
	for (unsigned i = 1; i <= 3; i++) {
		relay_resize(&relay, RELAY_DISK_BYTES + (i << 20));
		expect_config_change(&back);
		rig_get_config(&rig, &config);
		assert_int_equal(config.capacity, (RELAY_DISK_BYTES + (i << 20)) / SECTOR);
	}
	vublk_channel_deinit(&back);
	relay_write_and_read(&rig, 0, 1, 'a');
	relay_end(&relay, &rig);
}

/* --- one VMM after another ---------------------------------------------------------- */

static void test_many_vmms(void **state)
{
	unsigned fds = 0, mappings = 0;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	for (unsigned i = 0; i < 20; i++) {
		relay_start_vmm(&relay, &rig, 4);
		relay_write_and_read(&rig, 0, 4, (char)('a' + i));
		relay_close_vmm(&relay, &rig);
		relay_wait(&relay, "is available again"); /* ready for the next VMM */
		if (!i) {
			fds = vublk_test_count_fds();
			mappings = vublk_test_count_mappings();
		}
	}
	assert_int_equal(vublk_test_count_fds(), fds);
	assert_int_equal(vublk_test_count_mappings(), mappings);
	relay_close(&relay);
}

static bool backend_maps(const struct relay *relay, const char *words)
{
	char path[64], line[512];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)relay->pid);
	maps = fopen(path, "re");
	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		found |= strstr(line, words) != NULL;
	fclose(maps);
	return found;
}

/*
 * When a VMM disconnects, the back-end releases that VMM's memory, because the next VMM may need
 * that much memory.
 */
static void test_memory_is_given_back(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	for (unsigned i = 0; i < 3; i++) {
		relay_start_vmm(&relay, &rig, 1);
		assert_true(backend_maps(&relay, "memfd:rig"));
		relay_close_vmm(&relay, &rig);
		relay_wait(&relay, "is available again"); /* the relay has reconnected */
		assert_false(backend_maps(&relay, "memfd:rig"));
	}
	relay_close(&relay);
}

/* A VMM disconnects with requests in flight. The next VMM is served as usual. */
static void test_vmm_dies_with_requests(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL);
	for (unsigned i = 0; i < 5; i++) {
		relay_start_vmm(&relay, &rig, 2);
		for (uint16_t token = 0; token < 32; token++)
			rig_add(&rig, token % 2, token / 2, VIRTIO_BLK_T_OUT, token * 8, 0, BLOCK);
		rig_kick(&rig, 0);
		rig_kick(&rig, 1);
		relay_close_vmm(&relay, &rig);
	}
	relay_start_vmm(&relay, &rig, 2);
	relay_write_and_read(&rig, 0, 2, 'z');
	relay_end(&relay, &rig);
}

/* --- the bus ------------------------------------------------------------------------ */

static void test_bus_states(void **state)
{
	assert_int_equal(vublk_bus_next_state(VUBLK_BUS_REALIZING, VUBLK_BUS_EVENT_REALIZED),
			 VUBLK_BUS_LISTENING);
	assert_int_equal(vublk_bus_next_state(VUBLK_BUS_SERVING, VUBLK_BUS_EVENT_STOP),
			 VUBLK_BUS_STOPPING);
	for (int event = 0; event < VUBLK_BUS_NUM_EVENTS; event++)
		assert_int_equal(vublk_bus_next_state(VUBLK_BUS_FINISHED, event), -1);
	for (int i = 0; i < VUBLK_BUS_NUM_STATES; i++)
		assert_non_null(vublk_bus_state_name(i));
}

static void check_refused(const char *spec, const struct vublk_option *options, const char *words)
{
	struct vublk_bus *bus;
	struct vublk_error error;

	assert_int_equal(vublk_bus_open(spec, options, NULL, &bus, &error), -EINVAL);
	if (!strstr(error.text, words))
		fail_msg("'%s' is not '%s'", error.text, words);
}

static void test_bad_arguments(void **state)
{
	const struct vublk_option none[] = { { NULL } };
	const struct vublk_option good[] = { { "chardev", "/nowhere" }, { NULL } };
	const struct vublk_option unknown[] = { { "chardev", "/nowhere" }, { "x", "1" }, { NULL } };
	const struct vublk_option odd[] = { { "chardev", "/nowhere" }, { "queue-size", "100" },
					    { NULL } };
	const struct vublk_option serial[] = { { "chardev", "/nowhere" }, { "serial", "disk7" },
					       { NULL } };

	check_refused(NULL, good, "the bus '' is invalid");
	check_refused("vhost-user", good, "the bus 'vhost-user' is invalid");
	check_refused("vhost-user:", good, "the bus 'vhost-user:' is invalid");
	check_refused("pci:/x", good, "the bus 'pci:/x' is invalid");
	check_refused("vhost-user:/x", none, "chardev is not set");
	check_refused("vhost-user:/x", unknown, "no property 'x'");
	check_refused("vhost-user:/x", odd, "power of two");
	check_refused("vhost-user:/x", serial, "serial needs shadow=on");
	check_refused("vfio-user:/x", serial, "serial needs shadow=on");
	vublk_bus_free(NULL);
}

static void test_serial_needs_shadow_rings(void **state)
{
	const struct vublk_option options[] = { { "chardev", "/nowhere" }, { "serial", "disk7" },
						{ "shadow", "on" }, { NULL } };
	struct vublk_bus *bus;
	struct vublk_error error;
	char spec[200];

	snprintf(spec, sizeof(spec), "vhost-user:%s/serial", vublk_test_folder());
	assert_int_equal(vublk_bus_open(spec, options, NULL, &bus, &error), 0);
	assert_int_equal(vublk_bus_set_shadow(bus, VUBLK_SHADOW_AUTO, &error), -EINVAL);
	assert_non_null(strstr(error.text, "the serial 'disk7'"));
	assert_int_equal(vublk_bus_set_shadow(bus, VUBLK_SHADOW_ON, &error), 0);
	vublk_bus_free(bus);
}

static void test_socket_in_use(void **state)
{
	struct relay relay;
	int fd;

	relay_open_alone(&relay, NULL);
	relay_wait(&relay, "no back-end is connected yet");
	fd = vublk_socket_listen(relay.socket, NULL);
	relay_start_backend(&relay, NULL);
	relay_join(&relay);
	assert_int_equal(relay.result, -EADDRINUSE);
	relay_close(&relay);
	close(fd);
}

static void test_stop_before_a_backend(void **state)
{
	struct relay relay;

	relay_open_alone(&relay, NULL);
	relay_wait(&relay, "no back-end is connected yet");
	assert_int_equal(access(relay.socket, F_OK), -1);
	relay_close(&relay);
}

static void test_stop_while_serving(void **state)
{
	struct relay relay;
	struct backend_rig rig;

	relay_begin(&relay, &rig, 4);
	relay_write_and_read(&rig, 0, 4, 'a');
	vublk_bus_stop(relay.bus);
	rig_wait_for_end(&rig);
	relay_join(&relay);
	assert_int_equal(relay.result, 0);
	relay_close(&relay);
	assert_int_equal(access(relay.socket, F_OK), -1);
	rig_close(&rig);
}

/* vublk_bus_free() does not wait for the VMM or the back-end. */
static void test_free_while_serving(void **state)
{
	char path[200], spec[220], backend[200];
	struct vublk_option options[] = { { "chardev", backend }, { NULL } };
	struct vublk_error error;
	struct vublk_bus *bus;
	struct pollfd wait;
	struct relay relay;
	struct backend_rig rig;

	relay_open(&relay, NULL); /* the case uses only its back-end */
	vublk_bus_stop(relay.bus);
	relay_join(&relay);
	vublk_bus_free(relay.bus);
	relay.bus = NULL;
	snprintf(backend, sizeof(backend), "%s", relay.backend);
	snprintf(path, sizeof(path), "%s/other", vublk_test_folder());
	snprintf(spec, sizeof(spec), "vhost-user:%s", path);
	assert_int_equal(vublk_bus_open(spec, options, NULL, &bus, &error), 0);
	wait = (struct pollfd){ .fd = vublk_bus_fd(bus), .events = POLLIN };
	while (access(path, F_OK) < 0) {
		assert_int_equal(poll(&wait, 1, -1), 1);
		assert_int_equal(vublk_bus_process(bus, &error), 1);
	}
	rig_attach(&rig, vublk_socket_connect(path, NULL));
	assert_int_equal(poll(&wait, 1, -1), 1);
	assert_int_equal(vublk_bus_process(bus, &error), 1);
	vublk_bus_free(bus);
	assert_int_equal(access(path, F_OK), -1);
	rig_close(&rig);
	relay_close(&relay);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_negotiation),
		VUBLK_TEST(test_policy),
		VUBLK_TEST(test_requests_on_four_queues),
		VUBLK_TEST(test_stop_and_go_on),
		VUBLK_TEST(test_reset_and_begin_anew),
		VUBLK_TEST(test_queue_by_queue),
		VUBLK_TEST(test_without_status),
		VUBLK_TEST(test_without_driver_ok),
		VUBLK_TEST(test_other_notifiers),
		VUBLK_TEST(test_memory_changes_under_rings),
		VUBLK_TEST(test_memory_of_part_of_a_page),
		VUBLK_TEST(test_memory_refused),
		VUBLK_TEST(test_first_memory_refused),
		VUBLK_TEST(test_write_cache),
		VUBLK_TEST(test_write_cache_of_a_resumed_disk),
		VUBLK_TEST(test_resize),
		VUBLK_TEST(test_many_vmms),
		VUBLK_TEST(test_memory_is_given_back),
		VUBLK_TEST(test_vmm_dies_with_requests),
		VUBLK_TEST(test_bus_states),
		VUBLK_TEST(test_bad_arguments),
		VUBLK_TEST(test_serial_needs_shadow_rings),
		VUBLK_TEST(test_socket_in_use),
		VUBLK_TEST(test_stop_before_a_backend),
		VUBLK_TEST(test_stop_while_serving),
		VUBLK_TEST(test_free_while_serving),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
