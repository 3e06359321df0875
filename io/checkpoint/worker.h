/* Private to io/checkpoint: the writer thread of a rank. It runs one job at a time and keeps its status with its text,
 * so that what went wrong there can be told here. */
#ifndef WEFT_IO_CKPT_WORKER_H
#define WEFT_IO_CKPT_WORKER_H

#include "base/status.h"

typedef weft_status (*ckpt_job)(void *arg);
typedef struct ckpt_worker ckpt_worker;

weft_status ckpt_worker_create(ckpt_worker **w);
/* Waits for the job. NULL: nothing. */
void ckpt_worker_destroy(ckpt_worker *w);
/* Nothing may be running. */
void ckpt_worker_start(ckpt_worker *w, ckpt_job job, void *arg);
/* The same by the thread that calls; it is over on return. */
void ckpt_worker_do(ckpt_worker *w, ckpt_job job, void *arg);
/* 1 while a job runs. */
int ckpt_worker_busy(ckpt_worker *w);
/* Waits for the job, up to `seconds`; 1: it is over. */
int ckpt_worker_join(ckpt_worker *w, double seconds);
/* Status of the last job, with its text as this thread's error; OK if there was none. */
weft_status ckpt_worker_result(ckpt_worker *w);

#endif
