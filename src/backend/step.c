/* step.c - the micro-batch of stage.h: rows, tokens and hidden states in arrays of fixed size. */
#include "backend/stage.h"

#include "base/mem.h"

#include <string.h>

mlxd_step *mlxd_step_open(uint32_t rows_max, uint32_t tokens_max, uint32_t width) {
    MLXD_ASSERT(rows_max > 0 && tokens_max >= rows_max && width > 0);
    mlxd_step *s = mlxd_mem_new(1, sizeof *s);
    if (!s)
        return NULL;
    s->rows_max = rows_max;
    s->tokens_max = tokens_max;
    s->width = width;
    /* The largest part first: what cannot be had is known before the rest is taken. */
    s->hidden = mlxd_mem_new((size_t)tokens_max * width, sizeof *s->hidden);
    if (!s->hidden) {
        mlxd_step_close(s);
        return NULL;
    }
    s->rows = mlxd_mem_new(rows_max, sizeof *s->rows);
    s->generations = mlxd_mem_new(rows_max, sizeof *s->generations);
    s->drawn = mlxd_mem_new(rows_max, sizeof *s->drawn);
    s->finish = mlxd_mem_new(rows_max, sizeof *s->finish);
    s->tokens = mlxd_mem_new(tokens_max, sizeof *s->tokens);
    if (!s->rows || !s->generations || !s->drawn || !s->finish || !s->tokens) {
        mlxd_step_close(s);
        return NULL;
    }
    return s;
}

void mlxd_step_close(mlxd_step *s) {
    if (!s)
        return;
    mlxd_mem_free(s->hidden);
    mlxd_mem_free(s->tokens);
    mlxd_mem_free(s->finish);
    mlxd_mem_free(s->drawn);
    mlxd_mem_free(s->generations);
    mlxd_mem_free(s->rows);
    mlxd_mem_free(s);
}

void mlxd_step_clear(mlxd_step *s) {
    s->n_rows = s->n_tokens = s->n_hidden = 0;
    s->compute_ns = 0;
}

bool mlxd_step_add(mlxd_step *s, const mlxd_row *row, mlxd_generation *g) {
    MLXD_ASSERT(row->n_tokens > 0 && row->n_out <= row->n_tokens);
    if (s->n_rows == s->rows_max || row->n_tokens > s->tokens_max - s->n_tokens)
        return false;
    int32_t *tokens = s->tokens + s->n_tokens;
    memcpy(tokens, row->tokens, row->n_tokens * sizeof *tokens);
    s->rows[s->n_rows] = *row;
    s->rows[s->n_rows].tokens = tokens;
    s->generations[s->n_rows++] = g;
    s->n_tokens += row->n_tokens;
    s->n_hidden = s->n_tokens;
    return true;
}

/* Copies rows [from, from+n) of the hidden states down to row `to`. */
static void move_hidden(mlxd_step *s, uint32_t to, uint32_t from, uint32_t n) {
    if (to != from)
        memmove(s->hidden + (size_t)to * s->width, s->hidden + (size_t)from * s->width,
                (size_t)n * s->width * sizeof *s->hidden);
}

void mlxd_step_remove(mlxd_step *s, bool (*gone)(void *ctx, uint64_t session), void *ctx) {
    MLXD_ASSERT(s->n_hidden == s->n_tokens);
    uint32_t rows = 0, to = 0, from = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t n = s->rows[r].n_tokens;
        if (!gone(ctx, s->rows[r].session)) {
            move_hidden(s, to, from, n);
            memmove(s->tokens + to, s->tokens + from, n * sizeof *s->tokens);
            s->rows[rows] = s->rows[r];
            s->rows[rows].tokens = s->tokens + to;
            s->generations[rows++] = s->generations[r];
            to += n;
        }
        from += n;
    }
    s->n_rows = rows;
    s->n_tokens = s->n_hidden = to;
}

void mlxd_step_compact(mlxd_step *s) {
    MLXD_ASSERT(s->n_hidden == s->n_tokens);
    uint32_t to = 0, from = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        const mlxd_row *row = &s->rows[r];
        move_hidden(s, to, from + row->n_tokens - row->n_out, row->n_out);
        to += row->n_out;
        from += row->n_tokens;
    }
    s->n_hidden = to;
}
