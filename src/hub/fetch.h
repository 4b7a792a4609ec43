/* fetch.h - one file of a repository into the cache's blobs, whole and checked, or not at all.
 *
 *     lock <digest>.lock
 *     blobs/<digest> is there with the right size      -> done
 *     blobs/<digest>.mlxd.incomplete is hashed         <- of an earlier run
 *     GET from its end; tries while bytes come, and a few more
 *     size and digest as the listing says              -> fsync, rename to blobs/<digest>
 *
 * The digest of the listing names both the blob and the partial file, and the listing belongs to
 * one commit; so what is resumed is always the same content, and whatever else may have got into
 * it is found at the end: it is then fetched once more from the start, and after that refused. An
 * If-Range would need the validator of the storage that the hub redirects to, which another run
 * does not have. An answer 200 to a request for a range starts from 0.
 *
 * Thread: one fetch belongs to one thread; several may run at once, in this process or others.
 */
#ifndef MLXD_HUB_FETCH_H
#define MLXD_HUB_FETCH_H

#include "hub/cache.h"
#include "hub/http.h"

typedef enum mlxd_hub_status {
    MLXD_HUB_QUEUED,
    MLXD_HUB_LOCKED,   /* another process fetches it */
    MLXD_HUB_CHECKING, /* hashing what an earlier run has fetched */
    MLXD_HUB_FETCHING,
    MLXD_HUB_RETRYING, /* `note` says why */
    MLXD_HUB_PRESENT,  /* it was there */
    MLXD_HUB_DONE,
    MLXD_HUB_FAILED
} mlxd_hub_status;

/* How far a fetch is; given to `tell` on every change. */
typedef struct mlxd_hub_state {
    mlxd_hub_status status;
    uint64_t done;    /* bytes that are there */
    uint64_t resumed; /* of these from an earlier run */
    char note[200];
} mlxd_hub_state;

typedef struct mlxd_hub_fetch {
    const mlxd_hub_repo *repo;
    const mlxd_hub_file *file;
    const char *url;
    /* Called by the fetching thread; must not block. */
    void (*tell)(void *ctx, const mlxd_hub_state *state);
    bool (*more)(void *ctx); /* false: give up, keep what there is */
    void *ctx;
} mlxd_hub_fetch;

/* Errors: those of http.h after all tries (PEER, or AGAIN when rate limited), CORRUPT (twice not
 * the digest that the hub lists), IO, PERM, CANCELLED. Texts do not name the file. */
mlxd_err mlxd_hub_fetch_run(mlxd_hub_conn *conn, const mlxd_hub_fetch *f,
                            mlxd_why *why) MLXD_MUST_CHECK;

#endif
