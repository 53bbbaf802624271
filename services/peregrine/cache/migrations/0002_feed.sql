-- What was made untrue, and the policies: one feed that every replica follows.
--
-- A number is taken by updating the one row of feed_end, which stays locked until the commit, so numbers become
-- visible in their order. They are microseconds, made to grow: should this database be lost and begin anew, its
-- numbers still lie beyond those that entries in Redis carry.
CREATE TABLE cache.feed_end (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint  NOT NULL,
    previous bigint  NOT NULL
);
INSERT INTO cache.feed_end (sequence, previous)
VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0);

CREATE TABLE cache.feed (
    sequence    bigint      PRIMARY KEY,
    -- The number before it, whoever's, so that a follower sees whether it missed one.
    previous    bigint      NOT NULL,
    tenant      text        NOT NULL,
    -- t: a tag; n: a namespace; k: a key; p: a policy.
    kind        text        NOT NULL CHECK (kind IN ('t', 'n', 'k', 'p')),
    -- Empty for what everyone of the tenant may see.
    user_id     text        NOT NULL,
    namespace   text        NOT NULL,
    -- The key, the tag, or a serialized peregrine.api.cache.v1.Policy.
    target      bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX feed_oldest ON cache.feed (create_time);

CREATE TABLE cache.policies (
    tenant    text   NOT NULL,
    namespace text   NOT NULL,
    version   bigint NOT NULL,
    -- A serialized peregrine.api.cache.v1.Policy.
    policy    bytea  NOT NULL,
    PRIMARY KEY (tenant, namespace)
);

-- Answered request ids. `outcome`: the version of a policy, or the number of an invalidation.
CREATE TABLE cache.requests (
    tenant      text        NOT NULL,
    request_id  text        NOT NULL,
    digest      bytea       NOT NULL,
    outcome     bigint      NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, request_id)
);

CREATE INDEX requests_oldest ON cache.requests (create_time);

-- How often keys were asked for, by hour: the most frequent ones of each replica, added up.
CREATE TABLE cache.frequencies (
    tenant    text        NOT NULL,
    namespace text        NOT NULL,
    hour      timestamptz NOT NULL,
    user_id   text        NOT NULL,
    key       bytea       NOT NULL,
    count     bigint      NOT NULL,
    -- From what the namespace's loader computes the value.
    source    bytea       NOT NULL,
    PRIMARY KEY (tenant, namespace, hour, user_id, key)
);

CREATE INDEX frequencies_oldest ON cache.frequencies (hour);

ALTER TABLE cache.feed_end ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.feed_end FORCE ROW LEVEL SECURITY;
ALTER TABLE cache.feed ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.feed FORCE ROW LEVEL SECURITY;
ALTER TABLE cache.policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.policies FORCE ROW LEVEL SECURITY;
ALTER TABLE cache.requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.requests FORCE ROW LEVEL SECURITY;
ALTER TABLE cache.frequencies ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.frequencies FORCE ROW LEVEL SECURITY;

-- Nobody's: it holds a number.
CREATE POLICY everyone ON cache.feed_end USING (true);
CREATE POLICY tenant ON cache.feed
    USING (tenant = current_setting('peregrine.tenant', true));
CREATE POLICY tenant ON cache.policies
    USING (tenant = current_setting('peregrine.tenant', true));
CREATE POLICY tenant ON cache.requests
    USING (tenant = current_setting('peregrine.tenant', true));
CREATE POLICY own ON cache.frequencies
    USING (tenant = current_setting('peregrine.tenant', true)
        AND (user_id = '' OR user_id = current_setting('peregrine.user', true)));
-- '*' is a replica that follows everybody's, counts for everybody, and sweeps.
CREATE POLICY follow ON cache.feed USING (current_setting('peregrine.tenant', true) = '*');
CREATE POLICY follow ON cache.policies FOR SELECT
    USING (current_setting('peregrine.tenant', true) = '*');
CREATE POLICY sweep ON cache.requests USING (current_setting('peregrine.tenant', true) = '*');
CREATE POLICY count ON cache.frequencies
    USING (current_setting('peregrine.tenant', true) = '*');

CREATE FUNCTION cache.append(
    a_tenant text, a_kind text, a_user text, a_namespace text, a_target bytea
) RETURNS SETOF cache.feed LANGUAGE plpgsql AS $$
DECLARE
    taken cache.feed_end;
BEGIN
    UPDATE cache.feed_end
        SET previous = sequence,
            sequence = greatest(sequence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        RETURNING * INTO taken;
    RETURN QUERY INSERT INTO cache.feed (sequence, previous, tenant, kind, user_id, namespace, target)
        VALUES (taken.sequence, taken.previous, a_tenant, a_kind, a_user, a_namespace, a_target)
        RETURNING *;
END $$;
