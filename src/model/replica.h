/* replica.h - a partial copy of a checkpoint that lies elsewhere: files of its names and sizes, of
 * which only some ranges are filled, so that it is opened and read like the original.
 *
 *     ROOT/<fingerprint>/model/...   the files; what is not there is a hole
 *                        ranges      which bytes are: written after they are on disk
 *                        lock        held while a process uses the folder
 *
 * The fingerprint is a digest of what the original is (digests of all tensors, names and sizes of
 * files), so that two models never share a folder. `ranges` is a text that is replaced as a whole:
 *
 *     mlxd-shards 1 <fingerprint>
 *     <file> <begin> <end>           one line per range, sorted
 *     end <number of ranges>
 *
 * One that is not exactly so counts for nothing. What was written after the last sync is written
 * again after a crash.
 *
 * Names, sizes and contents come from another machine: names are plain, nothing is followed or
 * replaced that is not a file of ours in a folder of ours (0700, files 0600), and what counts is
 * only what fits its digest (heads here, tensors where they are loaded).
 *
 * Thread: one at a time.
 */
#ifndef MLXD_MODEL_REPLICA_H
#define MLXD_MODEL_REPLICA_H

#include "model/manifest.h"
#include "model/spans.h"

/* ---- what is copied ---- */

typedef struct mlxd_replica_file {
    char name[MLXD_LIMIT_FILE_NAME];
    uint64_t bytes;
    uint64_t head_bytes; /* from its begin: what describes the tensors; all of a document */
    uint8_t head_sha256[MLXD_SHA256_BYTES];
} mlxd_replica_file;

typedef struct mlxd_replica_spec {
    uint8_t model[MLXD_SHA256_BYTES]; /* mlxd_manifest's */
    bool directory;                   /* it is opened by its directory, not by its first file */
    mlxd_replica_file *files;         /* owned */
    size_t n_files;
} mlxd_replica_spec;

/* Describes a checkpoint; reads the heads of its files. */
mlxd_err mlxd_replica_spec_open(mlxd_replica_spec *out, const mlxd_checkpoint *c,
                                const mlxd_manifest *m, mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_replica_spec_close(mlxd_replica_spec *s);
/* INVALID unless its names, sizes and numbers are such that a folder can be made of them. */
mlxd_err mlxd_replica_spec_check(const mlxd_replica_spec *s, mlxd_why *why) MLXD_MUST_CHECK;
/* Name of its folder: the fingerprint, hexadecimal. NOMEM. */
mlxd_err mlxd_replica_spec_name(const mlxd_replica_spec *s, char out[MLXD_SHA256_HEX],
                                mlxd_why *why) MLXD_MUST_CHECK;

/* ---- a folder ---- */

typedef struct mlxd_replica mlxd_replica;

/* Opens the folder of `spec` (which must have been checked) below `root`, or makes it, and takes
 * its lock. Heads that are there are compared with their digests and forgotten when they differ.
 * STATE: another process uses it; PERM: it is not ours alone; IO. */
mlxd_err mlxd_replica_open(mlxd_replica **out, const char *root, const mlxd_replica_spec *spec,
                           mlxd_why *why) MLXD_MUST_CHECK;
/* Without a sync. NULL is fine. */
void mlxd_replica_close(mlxd_replica *r);
/* What mlxd_checkpoint_open takes, once all heads are there. */
const char *mlxd_replica_path(const mlxd_replica *r);
const char *mlxd_replica_name(const mlxd_replica *r);
const mlxd_replica_spec *mlxd_replica_get_spec(const mlxd_replica *r);

/* The first piece of `wanted` that is not there; false: all of it is. */
bool mlxd_replica_gap(const mlxd_replica *r, const mlxd_span *wanted, mlxd_span *out);
/* Bytes of n spans that are not there. */
uint64_t mlxd_replica_missing(const mlxd_replica *r, const mlxd_span *wanted, size_t n);
/* Bytes that are there. */
uint64_t mlxd_replica_bytes(const mlxd_replica *r);

/* Fills a range, which must be inside the file. IO (no space, too). */
mlxd_err mlxd_replica_write(mlxd_replica *r, uint32_t file, uint64_t offset, const void *data,
                            size_t len, mlxd_why *why) MLXD_MUST_CHECK;
/* Puts on disk what was written, then the list of ranges. */
mlxd_err mlxd_replica_sync(mlxd_replica *r, mlxd_why *why) MLXD_MUST_CHECK;
/* This range is not what it should be: it counts as not there from now on, also after a crash. */
mlxd_err mlxd_replica_forget(mlxd_replica *r, const mlxd_span *span, mlxd_why *why) MLXD_MUST_CHECK;
/* Forgets every head that is there but is not what its digest says; *wrong (may be NULL) is the
 * number of them. */
mlxd_err mlxd_replica_check_heads(mlxd_replica *r, size_t *wrong, mlxd_why *why) MLXD_MUST_CHECK;

#endif
