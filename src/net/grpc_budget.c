/* grpc_budget.c - bounds what the messages of one peer may hold in memory, over all of its calls
 * and connections.
 *
 * gRPC core buffers a message completely before it tells us its length. So before a message is
 * received, its method's cap is taken from the peer's budget, and when it has come the difference
 * to its real length is given back; the rest when the handler frees it:
 *
 *     take(cap) ... received ... give(cap - length) ... handler frees ... give(length)
 *
 * A call that finds too little left waits in line. Small ones that fit pass it (a heartbeat never
 * waits behind a gigabyte); the line itself is first in, first out and bounded.
 *
 * A peer is a certificate's role and device, or without TLS an address without its port. Rows live
 * as long as somebody holds one.
 */
#include "net/grpc_core.h"

#include <stdio.h>
#include <string.h>

struct mlxd_rpc_peer {
    mlxd_rpc_peer *next;
    mlxd_rpc_budget *budget;
    unsigned refs;
    size_t held;
    size_t waiting;
    mlxd_rpc_waiter *first, *last;
    char key[160];
};

struct mlxd_rpc_budget {
    mlxd_mutex mutex; /* everything of all peers */
    unsigned refs;    /* the server, and every peer row */
    size_t peer_bytes_max;
    mlxd_rpc_peer *peers; /* a handful: nodes of a cluster */
};

mlxd_rpc_budget *mlxd_rpc_budget_open(size_t peer_bytes_max) {
    mlxd_rpc_budget *budget = mlxd_mem_new(1, sizeof *budget);
    if (!budget)
        return NULL;
    mlxd_mutex_init(&budget->mutex);
    budget->refs = 1;
    budget->peer_bytes_max = peer_bytes_max;
    return budget;
}

void mlxd_rpc_budget_unref(mlxd_rpc_budget *budget) {
    mlxd_mutex_lock(&budget->mutex);
    bool last = --budget->refs == 0;
    mlxd_mutex_unlock(&budget->mutex);
    if (!last)
        return;
    MLXD_ASSERT(!budget->peers);
    mlxd_mutex_deinit(&budget->mutex);
    mlxd_mem_free(budget);
}

static void make_key(char *out, size_t size, const mlxd_rpc_info *info) {
    if (info->peer.role) {
        snprintf(out, size, "%s/%s", mlxd_role_name(info->peer.role), info->peer.device);
        return;
    }
    snprintf(out, size, "%s", info->address);
    char *colon = strrchr(out, ':');
    if (colon)
        *colon = 0;
}

mlxd_rpc_peer *mlxd_rpc_peer_get(mlxd_rpc_budget *budget, const mlxd_rpc_info *info) {
    char key[sizeof((mlxd_rpc_peer *)0)->key];
    make_key(key, sizeof key, info);
    mlxd_mutex_lock(&budget->mutex);
    mlxd_rpc_peer *peer = budget->peers;
    while (peer && strcmp(peer->key, key) != 0)
        peer = peer->next;
    if (!peer && (peer = mlxd_mem_new(1, sizeof *peer))) {
        memcpy(peer->key, key, sizeof key);
        peer->budget = budget;
        peer->next = budget->peers;
        budget->peers = peer;
        budget->refs++;
    }
    if (peer)
        peer->refs++;
    mlxd_mutex_unlock(&budget->mutex);
    return peer;
}

void mlxd_rpc_peer_unref(mlxd_rpc_peer *peer) {
    mlxd_rpc_budget *budget = peer->budget;
    mlxd_mutex_lock(&budget->mutex);
    bool last = --peer->refs == 0;
    if (last) {
        MLXD_ASSERT(peer->held == 0 && !peer->first);
        mlxd_rpc_peer **at = &budget->peers;
        while (*at != peer)
            at = &(*at)->next;
        *at = peer->next;
    }
    mlxd_mutex_unlock(&budget->mutex);
    if (last) {
        mlxd_mem_free(peer);
        mlxd_rpc_budget_unref(budget);
    }
}

static bool take(mlxd_rpc_peer *peer, size_t bytes) {
    if (bytes > peer->budget->peer_bytes_max - peer->held)
        return false;
    peer->held += bytes;
    return true;
}

mlxd_err mlxd_rpc_peer_take(mlxd_rpc_peer *peer, mlxd_rpc_waiter *w, size_t bytes) {
    MLXD_ASSERT(bytes <= peer->budget->peer_bytes_max);
    mlxd_err err = MLXD_OK;
    mlxd_mutex_lock(&peer->budget->mutex);
    if (take(peer, bytes)) {
        err = MLXD_OK;
    } else if (peer->waiting >= MLXD_LIMIT_GRPC_PEER_WAITING) {
        err = MLXD_ERR_FULL;
    } else {
        err = MLXD_ERR_AGAIN;
        w->bytes = bytes;
        w->next = NULL;
        *(peer->last ? &peer->last->next : &peer->first) = w;
        peer->last = w;
        peer->waiting++;
    }
    mlxd_mutex_unlock(&peer->budget->mutex);
    return err;
}

/* Takes the first waiter that fits out of the line. */
static mlxd_rpc_waiter *next_in_line(mlxd_rpc_peer *peer) {
    mlxd_rpc_waiter *w = peer->first;
    if (!w || !take(peer, w->bytes))
        return NULL;
    peer->first = w->next;
    if (!peer->first)
        peer->last = NULL;
    peer->waiting--;
    return w;
}

void mlxd_rpc_peer_give(mlxd_rpc_peer *peer, size_t bytes) {
    mlxd_rpc_budget *budget = peer->budget;
    mlxd_mutex_lock(&budget->mutex);
    MLXD_ASSERT(peer->held >= bytes);
    peer->held -= bytes;
    peer->refs++; /* a resumed owner may drop its own */
    mlxd_rpc_waiter *w;
    while ((w = next_in_line(peer))) {
        mlxd_mutex_unlock(&budget->mutex);
        w->resume(w->owner);
        mlxd_mutex_lock(&budget->mutex);
    }
    mlxd_mutex_unlock(&budget->mutex);
    mlxd_rpc_peer_unref(peer);
}

bool mlxd_rpc_peer_leave(mlxd_rpc_peer *peer, mlxd_rpc_waiter *w) {
    mlxd_mutex_lock(&peer->budget->mutex);
    mlxd_rpc_waiter **at = &peer->first, *before = NULL;
    while (*at && *at != w) {
        before = *at;
        at = &before->next;
    }
    bool found = *at == w;
    if (found) {
        *at = w->next;
        if (peer->last == w)
            peer->last = before;
        peer->waiting--;
    }
    mlxd_mutex_unlock(&peer->budget->mutex);
    return found;
}
