/* limits.h - one row for every size that a peer, a file, a client or a flag controls.
 *
 * A value beyond its row is refused where it is parsed, before anything is allocated for it.
 */
#ifndef MLXD_BASE_LIMITS_H
#define MLXD_BASE_LIMITS_H

/* ---- this process ---- */
#define MLXD_LIMIT_THREADS 256
#define MLXD_LIMIT_NODES 64     /* devices in a cluster */
#define MLXD_LIMIT_STAGES 64    /* stages in a pipeline */
#define MLXD_LIMIT_DEVICE_ID 63 /* bytes: a DNS label */

/* ---- model files ---- */
#define MLXD_LIMIT_GGUF_KV (64u << 10)
#define MLXD_LIMIT_GGUF_TENSORS (64u << 10)
#define MLXD_LIMIT_GGUF_KEY 65535u        /* a metadata key, bytes */
#define MLXD_LIMIT_GGUF_STRING (1u << 20) /* a metadata string, bytes */
#define MLXD_LIMIT_GGUF_ARRAY (16u << 20) /* elements of one metadata array */
#define MLXD_LIMIT_GGUF_NAME 64           /* a tensor's name with NUL */
#define MLXD_LIMIT_TENSOR_NAME 256        /* the same where other containers give it */
#define MLXD_LIMIT_TENSORS (256u << 10)   /* of a checkpoint, each expert's counted */
#define MLXD_LIMIT_SAFETENSORS_DIMS 8
#define MLXD_LIMIT_MODEL_FILES 1024           /* parts of one checkpoint */
#define MLXD_LIMIT_FILE_NAME 256              /* of a part, with NUL */
#define MLXD_LIMIT_DIRECTORY (16u << 10)      /* entries of a model's directory */
#define MLXD_LIMIT_DOCUMENT_BYTES (64u << 20) /* config.json, tokenizer.json ... */
#define MLXD_LIMIT_EXPERTS 4096
#define MLXD_LIMIT_GGUF_DIMS 4
#define MLXD_LIMIT_GGUF_ALIGNMENT (64u << 10)
#define MLXD_LIMIT_LAYERS 1024
#define MLXD_LIMIT_HIDDEN (1u << 16) /* hidden size */
#define MLXD_LIMIT_FFN (1u << 19)    /* feed-forward size */
#define MLXD_LIMIT_HEADS 1024
#define MLXD_LIMIT_EXPERTS_USED 64 /* by a token */
#define MLXD_LIMIT_HEAD_DIM 512
#define MLXD_LIMIT_VOCAB (4u << 20)            /* tokens */
#define MLXD_LIMIT_VOCAB_BYTES (1u << 30)      /* texts of all tokens together */
#define MLXD_LIMIT_TOKEN_BYTES 4096            /* one token's text */
#define MLXD_LIMIT_SPECIAL_BYTES 256           /* a control or user-defined token's text */
#define MLXD_LIMIT_TOKENIZER_BYTES (96u << 20) /* tokenizer.json (gemma 3: 33 MB) */
#define MLXD_LIMIT_TOKENIZER_VALUES (8u << 20) /* JSON values in it (gemma 3: 2.1 M) */
#define MLXD_LIMIT_TOKENIZER_STEPS 16          /* of its normalizer, and of its pre-tokenizer */
#define MLXD_LIMIT_PATTERN_BYTES 16384         /* a regular expression in it */
#define MLXD_LIMIT_CONTEXT (16u << 20)         /* positions of one session */
#define MLXD_LIMIT_TEMPLATE_BYTES (1u << 20)
#define MLXD_LIMIT_TEMPLATE_NODES (64u << 10)   /* of the tree of one template */
#define MLXD_LIMIT_TEMPLATE_STEPS (16u << 20)   /* of one render */
#define MLXD_LIMIT_TEMPLATE_MEMORY (256u << 20) /* of one render, bytes */
#define MLXD_LIMIT_TEXT_BYTES (64u << 20)       /* one text to tokenize */

/* ---- the hub and its cache ---- */
#define MLXD_HUB_COMMIT 40      /* digits of a commit: not a limit, but its only length */
#define MLXD_LIMIT_HUB_REPO 193 /* "org/name", bytes */
#define MLXD_LIMIT_HUB_REVISION 255
#define MLXD_LIMIT_HUB_TAG 63
#define MLXD_LIMIT_HUB_PATH 1023 /* of a file in a repository */
#define MLXD_LIMIT_HUB_FILES (64u << 10)
#define MLXD_LIMIT_HUB_FILE_BYTES (1ull << 44)
#define MLXD_LIMIT_HUB_PAGES 1024           /* of a listing */
#define MLXD_LIMIT_HUB_REPLY (16u << 20)    /* one page of it */
#define MLXD_LIMIT_HUB_INDEX (64u << 20)    /* model.safetensors.index.json */
#define MLXD_LIMIT_HUB_LISTING (128u << 20) /* memory of a listing */
#define MLXD_LIMIT_HUB_DEPTH 16             /* folders in folders of a snapshot */
#define MLXD_LIMIT_HUB_CONNECTIONS 16
#define MLXD_LIMIT_HUB_REDIRECTS 8
#define MLXD_LIMIT_HUB_TRIES 5    /* in a row without a new byte */
#define MLXD_LIMIT_HUB_WAIT_S 300 /* that Retry-After may ask for */

/* ---- engine ---- */
#define MLXD_LIMIT_SESSIONS 1024    /* live on one node */
#define MLXD_LIMIT_STEP_ROWS 256    /* sessions that share a step */
#define MLXD_LIMIT_STEP_TOKENS 4096 /* token positions of one step */

/* ---- REST ---- */
#define MLXD_LIMIT_BODY_BYTES (16u << 20)
#define MLXD_LIMIT_HEADER_BYTES (64u << 10)
#define MLXD_LIMIT_HEADERS 100
#define MLXD_LIMIT_HTTP_CONNECTIONS 4096
#define MLXD_LIMIT_HTTP_BODIES_BYTES (512u << 20) /* bodies of all requests together */
#define MLXD_LIMIT_HTTP_PARAM 255                 /* bytes of a {id} in a path */
#define MLXD_LIMIT_JSON_DEPTH 64
#define MLXD_LIMIT_JSON_VALUES (1u << 20) /* values and keys of one document */
#define MLXD_LIMIT_MESSAGES 4096          /* messages of one conversation */
#define MLXD_LIMIT_STOP_STRINGS 4
#define MLXD_LIMIT_STOP_BYTES 1024 /* one stop string */
#define MLXD_LIMIT_LOGIT_BIAS 1024 /* entries */
#define MLXD_LIMIT_TOP_LOGPROBS 20
#define MLXD_LIMIT_STREAM_BYTES (4u << 20) /* unsent bytes of one SSE stream: slow reader */
#define MLXD_LIMIT_API_KEYS 1024

/* ---- gRPC ---- */
#define MLXD_LIMIT_GRPC_MESSAGE (1u << 30)         /* contract's cap for one message */
#define MLXD_LIMIT_GRPC_STREAM_MESSAGE (64u << 20) /* one message of our own stream */
#define MLXD_LIMIT_WIRE_HEADER (2u << 20)        /* a StageService message without hidden states */
#define MLXD_LIMIT_SHARD_CHUNK (4u << 20)        /* bytes of a model file in one message */
#define MLXD_LIMIT_GRPC_PEER_BYTES (2147483647u) /* held for one peer by concurrent calls */
#define MLXD_LIMIT_GRPC_STREAMS 100              /* concurrent streams of one connection */
#define MLXD_LIMIT_GRPC_PEER_WAITING 64          /* calls of one peer waiting for its budget */
#define MLXD_LIMIT_GRPC_METADATA (64u << 10)
#define MLXD_LIMIT_TENSOR_ID 256 /* bytes */
#define MLXD_LIMIT_TENSOR_DIMS 8
#define MLXD_LIMIT_TENSOR_STORE_COUNT 1024 /* tensors kept by SendTensor */
#define MLXD_LIMIT_TENSOR_STORE_BYTES (1u << 30)
#define MLXD_LIMIT_TENSOR_WAIT_S 3600       /* longest timeout of GetTensor */
#define MLXD_LIMIT_TENSOR_WAITERS 256       /* GetTensor calls that wait for a tensor */
#define MLXD_LIMIT_FORWARD_PASSES 8         /* ForwardPass calls that wait for their turn */
#define MLXD_LIMIT_FORWARD_BYTES (1u << 30) /* results of ForwardPass that are not read yet */

/* ---- configuration ---- */
#define MLXD_LIMIT_CONFIG_BYTES (1u << 20)
#define MLXD_LIMIT_CONFIG_DEPTH 16

#endif
