/* settings.h - where the hub is, who we are there and where its cache lies: the environment
 * variables of huggingface_hub, so that both programs work on the same files.
 *
 *     HF_ENDPOINT                            https://huggingface.co
 *     HF_TOKEN, HUGGING_FACE_HUB_TOKEN, file HF_TOKEN_PATH, file HF_HOME/token
 *     HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE    HF_HOME/hub
 *     HF_HOME                                $XDG_CACHE_HOME/huggingface, ~/.cache/huggingface
 *     HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE   no request is made
 *     HF_HUB_DISABLE_IMPLICIT_TOKEN          no token is sent
 *     HF_HUB_DOWNLOAD_TIMEOUT                seconds without a byte until a try is given up (30)
 *     SSL_CERT_FILE, CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE   authorities to trust instead
 *
 * Proxies are curl's business (https_proxy, no_proxy, ...). The token is in no log and no error.
 *
 * Thread: a plain value; reading the environment belongs to the start of the process.
 */
#ifndef MLXD_HUB_SETTINGS_H
#define MLXD_HUB_SETTINGS_H

#include "base/base.h"

#define MLXD_HUB_DIR_MAX 2048 /* bytes of the cache's path */

typedef struct mlxd_hub_settings {
    char endpoint[512]; /* without a slash at its end */
    char cache[MLXD_HUB_DIR_MAX];
    char token[512]; /* "" = none */
    char ca_file[MLXD_HUB_DIR_MAX];
    bool offline;
    unsigned stall_s;
} mlxd_hub_settings;

/* CONFIG: a value that cannot be, by its name (a token is not shown). */
mlxd_err mlxd_hub_settings_read(mlxd_hub_settings *out, mlxd_why *why) MLXD_MUST_CHECK;
/* Forgets the token. */
void mlxd_hub_settings_deinit(mlxd_hub_settings *s);

#endif
