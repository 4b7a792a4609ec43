/* grpc_creds.c - checked PEM files to gRPC credentials, and the identity of a peer. */
#include "net/grpc_core.h"

#include "base/clock.h"

#include <string.h>

mlxd_err mlxd_rpc_creds_load(mlxd_rpc_creds **out, const char *ca_path, const char *cert_path,
                             const char *key_path, mlxd_why *why) {
    *out = NULL;
    mlxd_rpc_creds *creds = mlxd_mem_new(1, sizeof *creds);
    if (!creds)
        return mlxd_fail(why, MLXD_ERR_NOMEM, "credentials");
    int64_t now_s = (int64_t)(mlxd_clock_wall_ns() / MLXD_NS_PER_S);
    mlxd_err err = mlxd_certs_load(&creds->bundle, ca_path, cert_path, key_path, now_s, why);
    if (err) {
        mlxd_mem_free(creds);
        return err;
    }
    *out = creds;
    return MLXD_OK;
}

mlxd_rpc_creds *mlxd_rpc_creds_plaintext(void) {
    mlxd_rpc_creds *creds = mlxd_mem_new(1, sizeof *creds);
    if (creds)
        creds->plaintext = true;
    return creds;
}

void mlxd_rpc_creds_close(mlxd_rpc_creds *creds) {
    if (!creds)
        return;
    mlxd_certs_bundle_deinit(&creds->bundle);
    mlxd_mem_free(creds);
}

const mlxd_identity *mlxd_rpc_creds_identity(const mlxd_rpc_creds *creds) {
    return creds->plaintext ? NULL : &creds->bundle.identity;
}

int64_t mlxd_rpc_creds_not_after(const mlxd_rpc_creds *creds) {
    return creds->plaintext ? 0 : creds->bundle.not_after;
}

grpc_ssl_server_certificate_config *mlxd_rpc_creds_server_config(const mlxd_rpc_creds *creds) {
    MLXD_ASSERT(!creds->plaintext);
    grpc_ssl_pem_key_cert_pair pair = {creds->bundle.key_pem, creds->bundle.cert_pem};
    return grpc_ssl_server_certificate_config_create(creds->bundle.ca_pem, &pair, 1);
}

grpc_server_credentials *mlxd_rpc_creds_server(grpc_ssl_server_certificate_config_callback fetch,
                                               void *ctx) {
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, fetch, ctx);
    return grpc_ssl_server_credentials_create_with_options(options);
}

grpc_channel_credentials *mlxd_rpc_creds_channel(const mlxd_rpc_creds *creds) {
    if (creds->plaintext)
        return grpc_insecure_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {creds->bundle.key_pem, creds->bundle.cert_pem};
    return grpc_ssl_credentials_create_ex(creds->bundle.ca_pem, &pair, NULL, NULL);
}

mlxd_err mlxd_rpc_creds_peer(grpc_call *call, mlxd_identity *out, mlxd_why *why) {
    *out = (mlxd_identity){0};
    grpc_auth_context *auth = grpc_call_auth_context(call);
    if (!auth)
        return mlxd_fail(why, MLXD_ERR_PERM, "the connection has no certificate");
    mlxd_err err = MLXD_ERR_PERM;
    size_t uris = 0;
    if (grpc_auth_context_peer_is_authenticated(auth)) {
        grpc_auth_property_iterator it =
            grpc_auth_context_find_properties_by_name(auth, GRPC_PEER_URI_PROPERTY_NAME);
        const grpc_auth_property *property;
        while ((property = grpc_auth_property_iterator_next(&it))) {
            mlxd_slice uri = {(const uint8_t *)property->value, property->value_length};
            uris++;
            err = mlxd_identity_parse_uri(uri, out, why);
        }
    }
    grpc_auth_context_release(auth);
    if (uris == 1 && !err)
        return MLXD_OK;
    *out = (mlxd_identity){0};
    if (uris == 1)
        return mlxd_fail_in(why, MLXD_ERR_PERM, "client certificate");
    return mlxd_fail(why, MLXD_ERR_PERM, "client certificate has %zu URI names, expected 1", uris);
}
