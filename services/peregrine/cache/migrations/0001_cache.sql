-- The last tier of the cache: what is still there when Redis comes back empty.
--
-- The table is logged, so that it survives a crash, which is when a full cache is needed most; but storing
-- an entry does not wait for the disk. Removing one does, and with it for all that was stored before, so what
-- was removed stays removed.
CREATE SCHEMA IF NOT EXISTS cache;

CREATE TABLE cache.entries (
    tenant      text        NOT NULL,
    -- Empty for what everyone of the tenant may see.
    user_id     text        NOT NULL,
    namespace   text        NOT NULL,
    key         bytea       NOT NULL,
    -- Microseconds; the last one written has the highest.
    version     bigint      NOT NULL,
    expire_time timestamptz NOT NULL,
    tags        text[]      NOT NULL,
    -- The entry as Redis holds it, with its times and its checksum.
    body        bytea       NOT NULL,
    PRIMARY KEY (tenant, user_id, namespace, key)
);

-- Compressing a megabyte costs more than reading it.
ALTER TABLE cache.entries ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX entries_expiring ON cache.entries (expire_time);

ALTER TABLE cache.entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.entries FORCE ROW LEVEL SECURITY;

CREATE POLICY own ON cache.entries
    USING (tenant = current_setting('peregrine.tenant', true)
        AND (user_id = '' OR user_id = current_setting('peregrine.user', true)));
-- '*' is the expiry, for everybody.
CREATE POLICY expiry ON cache.entries
    USING (current_setting('peregrine.tenant', true) = '*');

-- Stores an entry unless a newer one is there. A version more than a minute ahead is a broken clock's, and
-- does not count.
CREATE FUNCTION cache.put_entry(
    a_tenant text, a_user text, a_namespace text, a_key bytea,
    a_version bigint, a_expire timestamptz, a_tags text[], a_body bytea
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO cache.entries AS e
        (tenant, user_id, namespace, key, version, expire_time, tags, body)
    VALUES (a_tenant, a_user, a_namespace, a_key, a_version, a_expire, a_tags, a_body)
    ON CONFLICT (tenant, user_id, namespace, key) DO UPDATE
        SET version = EXCLUDED.version, expire_time = EXCLUDED.expire_time,
            tags = EXCLUDED.tags, body = EXCLUDED.body
        WHERE e.version < EXCLUDED.version OR e.version > EXCLUDED.version + 60000000;
END $$;
