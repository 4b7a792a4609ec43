/* forward.c - see forward.h. */
#include "cluster/forward.h"

#include "base/mem.h"

#include <stdatomic.h>

#define QUEUED_MAX 8

struct mlxd_forward {
    mlxd_driver *background;
    mlxd_cpu *(*cpu)(void *ctx);
    void *ctx;
    _Atomic unsigned queued;
};

struct job {
    mlxd_forward *forward;
    uint32_t first, end, n, width;
    float *hidden;
    mlxd_forward_done *done;
    void *ctx;
};

mlxd_err mlxd_forward_open(mlxd_forward **out, mlxd_driver *background, mlxd_cpu *(*cpu)(void *ctx),
                           void *ctx, mlxd_why *why) {
    mlxd_forward *f = mlxd_mem_new(1, sizeof *f);
    if (!f)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "out of memory");
    f->background = background;
    f->cpu = cpu;
    f->ctx = ctx;
    *out = f;
    return MLXD_OK;
}

void mlxd_forward_close(mlxd_forward *f) {
    mlxd_mem_free(f);
}

static void run(mlxd_pool *pool, void *a, void *b) {
    struct job *j = a;
    mlxd_forward *f = j->forward;
    mlxd_cpu *cpu = f->cpu(f->ctx);
    mlxd_why why = {0};
    (void)pool;
    (void)b;
    mlxd_err err;
    if (!cpu)
        err = mlxd_fail(&why, MLXD_ERR_STATE, "no layers are loaded on this device");
    else if (mlxd_cpu_width(cpu) != j->width)
        err = mlxd_fail(&why, MLXD_ERR_STATE, "the model is another one now, of hidden size %u",
                        mlxd_cpu_width(cpu));
    else
        err = mlxd_cpu_forward(cpu, j->first, j->end, j->hidden, j->n, &why);
    atomic_fetch_sub(&f->queued, 1);
    j->done(j->ctx, err, &why);
    mlxd_mem_free(j);
}

mlxd_err mlxd_forward_submit(mlxd_forward *f, uint32_t first, uint32_t end, float *hidden,
                             uint32_t n, uint32_t width, mlxd_forward_done *done, void *ctx) {
    bool room = atomic_fetch_add(&f->queued, 1) < QUEUED_MAX;
    struct job *j = room ? mlxd_mem_new(1, sizeof *j) : NULL;
    if (!j) {
        atomic_fetch_sub(&f->queued, 1);
        return room ? MLXD_ERR_NOMEM : MLXD_ERR_FULL;
    }
    *j = (struct job){f, first, end, n, width, hidden, done, ctx};
    mlxd_driver_post(f->background, (mlxd_job){run, j, NULL});
    return MLXD_OK;
}
