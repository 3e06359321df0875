/* Reading a checkpoint: of io/ and runtime/, local to one process, no MPI. One thread at a time. */
#ifndef WEFT_IO_CKPT_READER_H
#define WEFT_IO_CKPT_READER_H

#include "io/checkpoint/manifest.h"
#include "io/container/container.h"

typedef struct ckpt_reader ckpt_reader;

/* Reads and checks the manifest. NOTFOUND: no checkpoint; CORRUPT, FORMAT, VERSION. */
weft_status ckpt_reader_open(const char *dir, ckpt_reader **out);
void ckpt_reader_close(ckpt_reader *r); /* NULL: nothing */
const ckpt_manifest *ckpt_reader_manifest(const ckpt_reader *r);
/* Opens every file and checks that it is the one that the manifest means; checks the extra files. */
weft_status ckpt_reader_open_files(ckpt_reader *r);
/* File f, opened and checked the first time. */
weft_status ckpt_reader_file(ckpt_reader *r, size_t f, const weft_container **c);
/* The dataset of set i of the manifest's table. */
weft_status ckpt_reader_set(ckpt_reader *r, size_t i, const weft_container **c,
                            const weft_container_dataset **d);
/* DIR/name if it is one of the extra files and whole. free(). NOTFOUND: the checkpoint has none. */
weft_status ckpt_reader_extra(ckpt_reader *r, const char *name, char **data, size_t *n);

/* Fills the parts; see weft_ckpt_load. */
weft_status ckpt_reader_load(ckpt_reader *r, const weft_ckpt_part *parts, size_t n, weft_ckpt_load_opts *o);
/* Sets asked[i] = 1 for every tensor i of the manifest's table of which a part is asked for; the caller has zeroed it. */
void ckpt_reader_asked(const ckpt_reader *r, const weft_ckpt_part *parts, size_t n, int32_t *asked);
/* As ckpt_reader_load, where others ask for tensors too: `asked` says which are expected. */
weft_status ckpt_reader_load_of(ckpt_reader *r, const weft_ckpt_part *parts, size_t n, const int32_t *asked,
                                weft_ckpt_load_opts *o);
/* Bytes fetched from files so far. */
int64_t ckpt_reader_fetched(const ckpt_reader *r);

#endif
