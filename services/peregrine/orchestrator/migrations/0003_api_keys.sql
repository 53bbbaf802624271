-- API keys. A secret has 256 random bits, so its SHA-256 is as good a secret as any slow hash would make of it.
CREATE TABLE orchestrator.api_keys (
    key_id         text        PRIMARY KEY,
    tenant         text        NOT NULL,
    user_id        text        NOT NULL,
    name           text        NOT NULL,
    scopes         text[]      NOT NULL,
    secret_digest  bytea       NOT NULL,
    created_by     text        NOT NULL,
    request_id     text,
    request_digest bytea       NOT NULL,
    create_time    timestamptz NOT NULL DEFAULT now(),
    expire_time    timestamptz,
    revoke_time    timestamptz,
    last_used_time timestamptz
);

CREATE UNIQUE INDEX api_keys_request ON orchestrator.api_keys (tenant, created_by, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX api_keys_newest ON orchestrator.api_keys (tenant, create_time DESC, key_id DESC);

ALTER TABLE orchestrator.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE orchestrator.api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON orchestrator.api_keys
    USING (tenant = current_setting('peregrine.tenant', true));
-- Whose key it is, is known only when it has been found: one row, to who names it.
CREATE POLICY named ON orchestrator.api_keys FOR SELECT
    USING (key_id = current_setting('peregrine.key_id', true));
