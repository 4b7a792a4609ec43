/* hf_config.h - what config.json says about the way in which tensors are stored: MLX's quantization
 * with its exceptions per module, the methods of Hugging Face, and whose names the tensors have.
 * (What it says about the model itself is read in config.h.)
 *
 *     "quantization": {"group_size": 64, "bits": 4, "mode": "affine",
 *                      "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8},
 *                      "lm_head": false}
 *
 * MLX repeats it as quantization_config. Hugging Face's quantization_config has a quant_method, of
 * which "mxfp4" (the experts of gpt_oss) is known; other methods are UNSUPPORTED, by name.
 */
#ifndef MLXD_MODEL_HF_CONFIG_H
#define MLXD_MODEL_HF_CONFIG_H

#include "model/checkpoint.h"

typedef struct mlxd_hf_rule {
    mlxd_encoding_kind kind; /* AFFINE or one of the floating point ones; OTHER: not quantized */
    uint8_t bits, group;
} mlxd_hf_rule;

typedef struct mlxd_hf_config mlxd_hf_config;

/* `path` is for error texts. DATA, UNSUPPORTED, NOMEM. */
mlxd_err mlxd_hf_config_open(mlxd_hf_config **out, mlxd_slice json, const char *path,
                             mlxd_why *why) MLXD_MUST_CHECK;
void mlxd_hf_config_close(mlxd_hf_config *c);

bool mlxd_hf_config_has_post_norms(const mlxd_hf_config *c); /* see hf_name.h */
bool mlxd_hf_config_is_tied(const mlxd_hf_config *c);        /* says so: lm_head is not used */
bool mlxd_hf_config_has_blocks(const mlxd_hf_config *c);     /* quant_method is mxfp4 */
/* How the quantized tensor of this canonical name is stored; NULL: nothing is quantized. */
const mlxd_hf_rule *mlxd_hf_config_find(const mlxd_hf_config *c, const char *canonical);

#endif
