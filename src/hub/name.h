/* name.h - how a person names a model of the hub:
 *
 *     org/name                      the repository; from a GGUF repository one quantization
 *     org/name:Q4_K_M               that quantization (any case), all parts of a split one
 *     org/name/sub/file.gguf        that file
 *     any of them @REVISION         a branch, a tag or a commit; "main" otherwise
 *     hf://org/name@rev/file.gguf   the same; here the revision stands behind the name
 *     hf://name                     an old repository without organisation
 *     https://huggingface.co/org/name/blob/main/file.gguf      as pasted from a browser
 *
 * Pure functions; any thread.
 */
#ifndef MLXD_HUB_NAME_H
#define MLXD_HUB_NAME_H

#include "base/base.h"
#include "base/limits.h"

typedef struct mlxd_hub_name {
    char repo[MLXD_LIMIT_HUB_REPO + 1];         /* "org/name" */
    char revision[MLXD_LIMIT_HUB_REVISION + 1]; /* never empty */
    bool has_revision;                          /* it was named; else it is "main" */
    char tag[MLXD_LIMIT_HUB_TAG + 1];           /* "" = none */
    char file[MLXD_LIMIT_HUB_PATH + 1];         /* "" = none; never together with a tag */
} mlxd_hub_name;

/* INVALID: not of one of the forms above, with the reason. `endpoint` ("https://huggingface.co") is
 * what a pasted address must begin with, besides huggingface.co and hf.co themselves. */
mlxd_err mlxd_hub_name_parse(mlxd_hub_name *out, const char *text, const char *endpoint,
                             mlxd_why *why) MLXD_MUST_CHECK;
/* Writes "org/name[:tag|/file][@revision]" for messages; `size` >= 1. */
void mlxd_hub_name_format(const mlxd_hub_name *n, char *out, size_t size);

/* A path inside a repository that may become a path below a directory of ours: relative, parts of 1
 * to 255 bytes that are neither "." nor "..", no control bytes, no backslash, well-formed UTF-8, at
 * most MLXD_LIMIT_HUB_PATH bytes. */
bool mlxd_hub_path_ok(mlxd_slice path);
/* "org/name" in the hub's alphabet. A name without organisation, as old models have it, is one,
 * too. */
bool mlxd_hub_repo_ok(mlxd_slice repo);
/* What can be a branch, tag or commit, and a path below refs/. */
bool mlxd_hub_revision_ok(mlxd_slice revision);
/* 40 lower-case hexadecimal digits. */
bool mlxd_hub_commit_ok(mlxd_slice commit);

#endif
