/* hf_name.h - from the names of tensors in Hugging Face's and MLX's files to canonical ones.
 *
 *     model.layers.3.self_attn.q_proj.weight     blk.3.attn_q.weight
 *     model.layers.3.mlp.experts.17.up_proj.weight   blk.3.ffn_up_exps.weight, expert 17
 *     model.layers.3.mlp.gate_proj.scales        blk.3.ffn_gate.weight, its scales
 *
 * The canonical names are those that GGUF files use; a name means the same tensor in both. Where
 * GGUF has no name (experts whose gate and up lie in one tensor: ffn_gate_up_exps), one is made in
 * its manner. A tensor of a layer that the table does not know keeps the rest of its name
 * (blk.3.mlp.some_thing.weight), and any other one all of it: whoever needs all tensors of a layer
 * to be understood finds it there.
 *
 * Pure.
 */
#ifndef MLXD_MODEL_HF_NAME_H
#define MLXD_MODEL_HF_NAME_H

#include "base/base.h"
#include "base/limits.h"

#define MLXD_HF_NO_EXPERT UINT32_MAX

/* What of the tensor lies under a name: MLX stores a quantized one as three, and the experts of
 * gpt_oss lie in "blocks" with scales. */
typedef enum mlxd_hf_part { MLXD_HF_WEIGHT, MLXD_HF_SCALES, MLXD_HF_BIASES } mlxd_hf_part;

typedef struct mlxd_hf_name {
    char canonical[MLXD_LIMIT_TENSOR_NAME + 16]; /* with ".weight" or ".bias" when known */
    mlxd_hf_part part;
    uint32_t expert; /* of a matrix that is one of a stack, or MLXD_HF_NO_EXPERT */
    bool blocks;     /* written as ..._blocks and ..._scales */
    bool transposed; /* stacked experts without a suffix: [experts][columns][rows] */
} mlxd_hf_name;

/* Reads `stored`, shorter than MLXD_LIMIT_TENSOR_NAME. `post_norms`: the file's family calls
 * post_attention_layernorm a norm behind the attention (mlxd_hf_has_post_norms). false: nothing
 * that a language model needs (the vision tower, tables of the rotary embedding). */
bool mlxd_hf_name_read(const char *stored, bool post_norms, mlxd_hf_name *out);

/* In most families post_attention_layernorm is the norm in front of the feed-forward part
 * (ffn_norm); in those of gemma2, gemma3, olmo2 and gpt_oss GGUF calls it post_attention_norm. */
bool mlxd_hf_has_post_norms(const char *model_type);

#endif
