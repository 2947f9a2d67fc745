/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Executes a command for another thread of this process, as if a client had sent it; see ask.h.
 *
 * Key idea: the asking thread waits for the owner's thread, but only for a limited time. The thread
 * that finishes last frees the struct question, which both threads share.
 */
#include "cli/control/ask.h"

#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct question {
	struct vublk_control_task task;
	pthread_mutex_t lock;
	pthread_cond_t answered;
	bool is_done, is_abandoned; /* protected by the lock */
};

static void free_question(struct question *question)
{
	pthread_cond_destroy(&question->answered);
	pthread_mutex_destroy(&question->lock);
	free(question->task.copy);
	free(question);
}

static void on_done(void *opaque)
{
	struct question *question = opaque;
	bool is_abandoned;

	pthread_mutex_lock(&question->lock);
	question->is_done = true;
	is_abandoned = question->is_abandoned;
	pthread_cond_signal(&question->answered);
	pthread_mutex_unlock(&question->lock);
	if (is_abandoned)
		free_question(question);
}

static struct question *new_question(const struct vublk_control_command *command)
{
	struct question *question = calloc(1, sizeof(*question));
	pthread_condattr_t attributes;

	if (!question)
		return NULL;
	question->task = (struct vublk_control_task){
		.command = command, .done = on_done, .opaque = question,
	};
	question->task.copy = calloc(1, command->copy_bytes + 1);
	pthread_mutex_init(&question->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&question->answered, &attributes);
	pthread_condattr_destroy(&attributes);
	if (question->task.copy)
		return question;
	free_question(question);
	return NULL;
}

/*
 * Waits up to `timeout_ms` for the task. Returns whether the task is done. If it is not, the
 * owner's thread will free the question.
 */
static bool wait_for(struct question *question, unsigned timeout_ms)
{
	struct timespec until;
	bool is_done;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&question->lock);
	while (!question->is_done &&
	       pthread_cond_timedwait(&question->answered, &question->lock, &until) != ETIMEDOUT)
		;
	is_done = question->is_done;
	question->is_abandoned = !is_done;
	pthread_mutex_unlock(&question->lock);
	return is_done;
}

struct json_object *vublk_control_ask_tasks(struct vublk_control_tasks *tasks,
					    const struct vublk_control_command *command,
					    unsigned timeout_ms, struct vublk_error *error)
{
	struct question *question = new_question(command);
	struct json_object *result = NULL;
	int r;

	if (!question) {
		vublk_cli_error(error, ENOMEM, "cannot allocate memory for the command '%s'",
				command->name);
		return NULL;
	}
	r = vublk_control_tasks_post(tasks, &question->task);
	if (!r && !wait_for(question, timeout_ms)) {
		vublk_cli_error(error, ETIMEDOUT, "the disk's thread did not answer in time");
		return NULL;
	}
	if (!r)
		r = question->task.result;
	if (!r)
		result = command->format(tasks->owner, question->task.copy);
	if (r)
		*error = question->task.error;
	else if (!result)
		vublk_cli_error(error, ENOMEM, "cannot allocate memory for the answer");
	free_question(question);
	return result;
}
