/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzz target without a fuzzing engine: on all files of its corpus (the folder CORPUS), then
 * on a fixed series of mutations of these files.
 *
 * Key idea: a fuzzing engine finds more inputs, but this program needs only a compiler. The corpus
 * contains the inputs with which an engine has found errors, so the errors cannot return unnoticed.
 */
#include "fuzz.h"
#include "harness.h"

#include <dirent.h>
#include <stdbool.h>
#include <string.h>

#define MAX_INPUTS 64
#define MAX_INPUT_BYTES 4096

struct input {
	size_t bytes;
	uint8_t data[MAX_INPUT_BYTES];
};

static struct input corpus[MAX_INPUTS];
static size_t num_inputs;
static uint64_t random_state = 0x9e3779b97f4a7c15;

static size_t random_below(size_t end)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (size_t)(random_state % end);
}

static void read_input(const char *name)
{
	struct input *input = &corpus[num_inputs++];
	char path[1024];
	FILE *file;

	assert_true(num_inputs <= MAX_INPUTS);
	snprintf(path, sizeof(path), "%s/%s", CORPUS, name);
	file = fopen(path, "re");
	assert_non_null(file);
	input->bytes = fread(input->data, 1, sizeof(input->data), file);
	assert_true(input->bytes < sizeof(input->data));
	fclose(file);
}

/* Reads the files in alphabetical order, because the mutations depend on the order of the files. */
static void read_corpus(void)
{
	struct dirent **entries;
	int count = scandir(CORPUS, &entries, NULL, alphasort);

	assert_true(count > 0);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.')
			read_input(entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	assert_true(num_inputs > 0);
}

static void set_word(struct input *input)
{
	static const uint32_t words[] = {
		0, 1, 2, 3, 4, 5, 8, 9, 12, 40, 45, 255, 256, 264, 268, 511, 512, 513, 65535,
		0x7fffffff, 0x80000000, 0xfffffff4, 0xffffffff,
	};
	uint32_t word = words[random_below(VUBLK_ARRAY_SIZE(words))];

	if (input->bytes >= sizeof(word))
		memcpy(input->data + random_below(input->bytes - sizeof(word) + 1), &word,
		       sizeof(word));
}

static void remove_range(struct input *input)
{
	size_t start = random_below(input->bytes);
	size_t count = random_below(input->bytes - start + 1);

	memmove(input->data + start, input->data + start + count, input->bytes - start - count);
	input->bytes -= count;
}

/* Inserts a part of a random input of the corpus into `input`, at a random place. */
static void insert_range(struct input *input)
{
	const struct input *other = &corpus[random_below(num_inputs)];
	size_t from = random_below(other->bytes + 1), to = random_below(input->bytes + 1);
	size_t count = random_below(other->bytes - from + 1);

	if (count > MAX_INPUT_BYTES - input->bytes)
		return;
	memmove(input->data + to + count, input->data + to, input->bytes - to);
	memcpy(input->data + to, other->data + from, count);
	input->bytes += count;
}

static void mutate(struct input *input)
{
	switch (input->bytes ? random_below(5) : 4) {
	case 0:
		input->data[random_below(input->bytes)] ^= (uint8_t)(1u << random_below(8));
		break;
	case 1:
		input->data[random_below(input->bytes)] = (uint8_t)random_below(256);
		break;
	case 2:
		set_word(input);
		break;
	case 3:
		remove_range(input);
		break;
	default:
		insert_range(input);
		break;
	}
}

/* The target gets a copy of exactly the input's size, so that a sanitizer detects an overread. */
static void run(const struct input *input)
{
	uint8_t *data = malloc(input->bytes ? input->bytes : 1);

	assert_non_null(data);
	memcpy(data, input->data, input->bytes);
	LLVMFuzzerTestOneInput(data, input->bytes);
	free(data);
}

static void test_corpus(void **state)
{
	read_corpus();
	for (size_t i = 0; i < num_inputs; i++)
		run(&corpus[i]);
}

static void test_mutations(void **state)
{
	static struct input input;

	read_corpus();
	for (unsigned i = 0; i < NUM_MUTATIONS; i++) {
		input = corpus[random_below(num_inputs)];
		for (size_t n = 1 + random_below(6); n; n--)
			mutate(&input);
		run(&input);
	}
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_corpus),
		VUBLK_TEST_LONG(test_mutations, 300),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
