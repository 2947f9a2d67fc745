/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The virtio-pci model with only the layers that it may use: util and virtio. The device is a
 * stand-in with the public functions of the real device. test-virtio-pci.c tests the model with a
 * real device.
 *
 * Key idea: the program links the whole model, but no library that sends messages. If the model
 * called a function of such a library, the program would not link.
 */
#include "harness.h"

#include "util/checked.h"
#include "virtio-pci/virtio-pci.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>

#define MODERN_BAR 4
#define NUM_QUEUES 2
#define FEATURES (VUBLK_BIT(VIRTIO_F_VERSION_1) | 1)

/* --- the device ------------------------------------------------------------------------------ */

struct vublk_device {
	uint64_t features;
	uint8_t status;
	unsigned num_set; /* how many queues were set */
};

unsigned vublk_device_num_queues(const struct vublk_device *device)
{
	return NUM_QUEUES;
}

unsigned vublk_device_queue_size(const struct vublk_device *device)
{
	return 16;
}

uint64_t vublk_device_features(const struct vublk_device *device)
{
	return FEATURES;
}

int vublk_device_ack_features(struct vublk_device *device, uint64_t features,
			      struct vublk_error *error)
{
	device->features = features;
	return 0;
}

int vublk_device_set_status(struct vublk_device *device, uint8_t status, struct vublk_error *error)
{
	device->status = status;
	return 0;
}

int vublk_device_set_queue(struct vublk_device *device, unsigned index,
			   const struct vublk_device_queue *queue, size_t queue_bytes,
			   struct vublk_error *error)
{
	assert_in_range(index, 0, NUM_QUEUES - 1);
	device->num_set += queue != NULL;
	return 0;
}

int vublk_device_set_queue_call(struct vublk_device *device, unsigned index, int fd,
				struct vublk_error *error)
{
	return 0;
}

int vublk_device_set_vm_running(struct vublk_device *device, bool running)
{
	return 0;
}

bool vublk_device_has_rings_out(const struct vublk_device *device)
{
	return false;
}

int vublk_device_kick(struct vublk_device *device, unsigned index)
{
	return 0;
}

uint32_t vublk_device_config_generation(const struct vublk_device *device)
{
	return 0;
}

void vublk_device_config_read(const struct vublk_device *device, unsigned offset, void *data,
			      unsigned bytes)
{
	memset(data, 0x5a, bytes);
}

int vublk_device_config_write(struct vublk_device *device, unsigned offset, const void *data,
			      unsigned bytes, struct vublk_error *error)
{
	return 0;
}

/* --- a driver --------------------------------------------------------------------------------- */

static void write_register(struct vublk_virtio_pci *pci, unsigned offset, unsigned bytes,
			   uint32_t value)
{
	vublk_virtio_pci_bar_write(pci, MODERN_BAR, offset, &value, bytes);
}

static uint32_t read_register(struct vublk_virtio_pci *pci, unsigned offset, unsigned bytes)
{
	uint32_t value = 0;

	vublk_virtio_pci_bar_read(pci, MODERN_BAR, offset, &value, bytes);
	return value;
}

static void set_up(struct vublk_virtio_pci *pci)
{
	for (unsigned i = 0; i < 2; i++) {
		write_register(pci, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		write_register(pci, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(FEATURES >> (32 * i)));
	}
	write_register(pci, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_FEATURES_OK);
	write_register(pci, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	write_register(pci, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	write_register(pci, VIRTIO_PCI_COMMON_STATUS, 1,
		       VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/*
 * The model turns the driver's accesses into calls to the device. A reset ends immediately, because
 * this device has no ring to stop.
 */
static void test_a_driver(void **state)
{
	const struct vublk_virtio_pci_options options = { .num_vectors = 0 };
	const struct vublk_virtio_pci_ops ops = { .idle = NULL };
	struct vublk_device device = { .status = 0 };
	struct vublk_virtio_pci *pci;
	struct vublk_loop loop;
	uint32_t id = 0;

	assert_int_equal(vublk_loop_init(&loop, NULL), 0);
	assert_int_equal(vublk_virtio_pci_new(&device, &loop, NULL, &options, &ops, NULL, &pci,
					      NULL), 0);
	vublk_virtio_pci_config_read(pci, PCI_VENDOR_ID, &id, sizeof(id));
	assert_int_equal(id, 0x10421af4);
	assert_int_equal(read_register(pci, 0x2000, 4), 0x5a5a5a5a);
	set_up(pci);
	assert_int_equal(device.features, FEATURES);
	assert_int_equal(device.num_set, 1);
	assert_true(device.status & VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(vublk_virtio_pci_is_driven(pci));
	vublk_virtio_pci_reset(pci);
	assert_int_equal(device.status, 0);
	assert_false(vublk_virtio_pci_is_busy(pci));
	assert_int_equal(read_register(pci, VIRTIO_PCI_COMMON_STATUS, 1), 0);
	vublk_virtio_pci_free(pci);
	vublk_loop_deinit(&loop);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_a_driver),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
