-- Conversations, their messages, user profiles, and the request ids that were answered.
--
-- What a turn needs is one function call, so that a turn costs three round trips: BEGIN, the call, COMMIT.
-- The functions run as their caller, under row-level security, and answer with an `outcome` instead of an
-- exception: every outcome but 'done' and 'replayed' makes the caller roll back.
CREATE SCHEMA IF NOT EXISTS memory;

CREATE TABLE memory.conversations (
    tenant          text        NOT NULL,
    user_id         text        NOT NULL,
    conversation_id uuid        NOT NULL,
    title           text        NOT NULL,
    agent_id        text        NOT NULL,
    -- The position of the last message. Its row lock is what makes appends one after the other.
    version         bigint      NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, conversation_id)
) WITH (fillfactor = 80);

CREATE INDEX conversations_newest
    ON memory.conversations (tenant, user_id, update_time DESC, conversation_id DESC);

CREATE TABLE memory.messages (
    tenant          text        NOT NULL,
    user_id         text        NOT NULL,
    conversation_id uuid        NOT NULL,
    position        bigint      NOT NULL,
    role            smallint    NOT NULL,
    -- A serialized peregrine.api.common.v1.Message.
    body            bytea       NOT NULL,
    -- What a person would read of it; for search.
    text            text        NOT NULL,
    -- Estimated.
    tokens          integer     NOT NULL,
    run_id          text        NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, conversation_id, position),
    FOREIGN KEY (tenant, user_id, conversation_id) REFERENCES memory.conversations ON DELETE CASCADE
);

CREATE TABLE memory.profiles (
    tenant      text        NOT NULL,
    user_id     text        NOT NULL,
    -- A JSON object, byte for byte as it was given.
    data        bytea       NOT NULL,
    version     bigint      NOT NULL DEFAULT 1,
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id)
);

-- Answered request ids. `outcome` is what a repetition is told: a version, or a count.
CREATE TABLE memory.requests (
    tenant      text        NOT NULL,
    user_id     text        NOT NULL,
    request_id  text        NOT NULL,
    digest      bytea       NOT NULL,
    outcome     bigint      NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, request_id)
);

CREATE INDEX requests_oldest ON memory.requests (create_time);

ALTER TABLE memory.conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.conversations FORCE ROW LEVEL SECURITY;
ALTER TABLE memory.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.messages FORCE ROW LEVEL SECURITY;
ALTER TABLE memory.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.profiles FORCE ROW LEVEL SECURITY;
ALTER TABLE memory.requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.requests FORCE ROW LEVEL SECURITY;

CREATE POLICY own ON memory.conversations
    USING (tenant = current_setting('peregrine.tenant', true)
        AND user_id = current_setting('peregrine.user', true));
CREATE POLICY own ON memory.messages
    USING (tenant = current_setting('peregrine.tenant', true)
        AND user_id = current_setting('peregrine.user', true));
CREATE POLICY own ON memory.profiles
    USING (tenant = current_setting('peregrine.tenant', true)
        AND user_id = current_setting('peregrine.user', true));
CREATE POLICY own ON memory.requests
    USING (tenant = current_setting('peregrine.tenant', true)
        AND user_id = current_setting('peregrine.user', true));
-- '*' is the expiry of old request ids, for everybody.
CREATE POLICY expiry ON memory.requests
    USING (current_setting('peregrine.tenant', true) = '*');

-- Takes a request id for 24 hours. When it was taken before: `known` is the outcome it had at `since`,
-- `reused` says that it was another request. The key makes a concurrent twin wait for the first to commit.
CREATE FUNCTION memory.claim_request(
    a_tenant text, a_user text, a_request text, a_digest bytea, a_outcome bigint,
    OUT known bigint, OUT reused boolean, OUT since timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    reused := false;
    IF a_request = '' THEN
        RETURN;
    END IF;
    INSERT INTO memory.requests AS r (tenant, user_id, request_id, digest, outcome)
    VALUES (a_tenant, a_user, a_request, a_digest, a_outcome)
    ON CONFLICT (tenant, user_id, request_id) DO UPDATE
        SET digest = EXCLUDED.digest, outcome = EXCLUDED.outcome, create_time = EXCLUDED.create_time
        WHERE r.create_time < now() - interval '24 hours';
    IF NOT FOUND THEN
        SELECT r.outcome, r.digest <> a_digest, r.create_time INTO known, reused, since
        FROM memory.requests r
        WHERE r.tenant = a_tenant AND r.user_id = a_user AND r.request_id = a_request;
    END IF;
END $$;

-- Appends messages at the next positions. `head` is the version after them; with 'replayed' the version
-- that the first request led to, with 'stale' the version there is.
CREATE FUNCTION memory.append_messages(
    a_tenant text, a_user text, a_conversation uuid, a_expected bigint,
    a_request text, a_digest bytea, a_run text,
    a_roles smallint[], a_bodies bytea[], a_texts text[], a_tokens integer[],
    OUT outcome text, OUT head bigint
) LANGUAGE plpgsql AS $$
DECLARE
    earlier record;
BEGIN
    SELECT c.version INTO head FROM memory.conversations c
    WHERE c.tenant = a_tenant AND c.user_id = a_user AND c.conversation_id = a_conversation
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'not_found';
        RETURN;
    END IF;
    earlier := memory.claim_request(
        a_tenant, a_user, a_request, a_digest, head + cardinality(a_bodies));
    IF earlier.reused THEN
        outcome := 'reused';
        RETURN;
    END IF;
    IF earlier.known IS NOT NULL THEN
        -- A version beyond the last: the conversation was deleted since, and this is another one.
        outcome := CASE WHEN earlier.known <= head THEN 'replayed' ELSE 'not_found' END;
        head := earlier.known;
        RETURN;
    END IF;
    IF a_expected <> head THEN
        outcome := 'stale';
        RETURN;
    END IF;
    INSERT INTO memory.messages
        (tenant, user_id, conversation_id, position, role, body, text, tokens, run_id)
    SELECT a_tenant, a_user, a_conversation, head + n, role, body, text, tokens, a_run
    FROM unnest(a_roles, a_bodies, a_texts, a_tokens)
        WITH ORDINALITY AS m (role, body, text, tokens, n);
    head := head + cardinality(a_bodies);
    UPDATE memory.conversations c SET version = head, update_time = now()
    WHERE c.tenant = a_tenant AND c.user_id = a_user AND c.conversation_id = a_conversation;
    outcome := 'done';
END $$;

-- The newest messages up to a position, newest first: at most `a_limit`, and of these as many as have
-- `a_budget` tokens together; the first one always. Plain SQL, so that it is planned with its caller.
CREATE FUNCTION memory.newest_messages(
    a_tenant text, a_user text, a_conversation uuid, a_through bigint, a_limit integer, a_budget bigint
) RETURNS TABLE (place bigint, body bytea, tokens integer) LANGUAGE sql STABLE AS $$
    SELECT w.position, w.body, w.tokens
    FROM (
        SELECT m.position, m.body, m.tokens, sum(m.tokens) OVER (ORDER BY m.position DESC) AS total
        FROM (
            SELECT t.position, t.body, t.tokens FROM memory.messages t
            WHERE t.tenant = a_tenant AND t.user_id = a_user
                AND t.conversation_id = a_conversation AND t.position <= a_through
            ORDER BY t.position DESC
            LIMIT a_limit
        ) m
    ) w
    WHERE w.total <= a_budget OR w.position = a_through
    ORDER BY w.position DESC
$$;

-- Appends the user's message and reads what the model needs: candidates for the window, newest first, and
-- the profile.
CREATE FUNCTION memory.begin_turn(
    a_tenant text, a_user text, a_conversation uuid, a_create boolean, a_title text, a_agent text,
    a_expected bigint, a_request text, a_digest bytea, a_run text,
    a_role smallint, a_body bytea, a_text text, a_tokens integer, a_limit integer, a_budget bigint,
    OUT outcome text, OUT head bigint, OUT bodies bytea[], OUT sizes integer[],
    OUT profile bytea, OUT profile_version bigint, OUT profile_time timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    appended record;
BEGIN
    IF a_create THEN
        INSERT INTO memory.conversations (tenant, user_id, conversation_id, title, agent_id)
        VALUES (a_tenant, a_user, a_conversation, a_title, a_agent)
        ON CONFLICT DO NOTHING;
    END IF;
    appended := memory.append_messages(
        a_tenant, a_user, a_conversation, a_expected, a_request, a_digest, a_run,
        ARRAY[a_role], ARRAY[a_body], ARRAY[a_text], ARRAY[a_tokens]);
    outcome := appended.outcome;
    head := appended.head;
    IF outcome NOT IN ('done', 'replayed') THEN
        RETURN;
    END IF;
    SELECT array_agg(m.body ORDER BY m.place DESC), array_agg(m.tokens ORDER BY m.place DESC)
    INTO bodies, sizes
    FROM memory.newest_messages(a_tenant, a_user, a_conversation, head, a_limit, a_budget) m;
    SELECT p.data, p.version, p.update_time INTO profile, profile_version, profile_time
    FROM memory.profiles p WHERE p.tenant = a_tenant AND p.user_id = a_user;
END $$;

CREATE FUNCTION memory.put_profile(
    a_tenant text, a_user text, a_data bytea, a_expected bigint, a_request text, a_digest bytea,
    OUT outcome text, OUT head bigint, OUT since timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    earlier record;
BEGIN
    -- One writer at a time, also while there is no row to lock.
    PERFORM pg_advisory_xact_lock(hashtextextended(a_tenant || '/' || a_user, 0));
    SELECT p.version INTO head FROM memory.profiles p
    WHERE p.tenant = a_tenant AND p.user_id = a_user FOR UPDATE;
    head := coalesce(head, 0);
    earlier := memory.claim_request(a_tenant, a_user, a_request, a_digest, head + 1);
    IF earlier.reused THEN
        outcome := 'reused';
    ELSIF earlier.known IS NOT NULL THEN
        outcome := 'replayed';
        head := earlier.known;
        since := earlier.since;
    ELSIF a_expected <> head THEN
        outcome := 'stale';
    ELSE
        outcome := 'done';
        head := head + 1;
        since := now();
        INSERT INTO memory.profiles (tenant, user_id, data, version)
        VALUES (a_tenant, a_user, a_data, head)
        ON CONFLICT (tenant, user_id) DO UPDATE
            SET data = EXCLUDED.data, version = EXCLUDED.version, update_time = now();
    END IF;
END $$;

-- `deleted` is 1 or 0.
CREATE FUNCTION memory.delete_conversation(
    a_tenant text, a_user text, a_conversation uuid, a_request text, a_digest bytea,
    OUT outcome text, OUT deleted bigint
) LANGUAGE plpgsql AS $$
DECLARE
    earlier record;
BEGIN
    PERFORM 1 FROM memory.conversations c
    WHERE c.tenant = a_tenant AND c.user_id = a_user AND c.conversation_id = a_conversation
    FOR UPDATE;
    deleted := CASE WHEN FOUND THEN 1 ELSE 0 END;
    earlier := memory.claim_request(a_tenant, a_user, a_request, a_digest, deleted);
    IF earlier.reused THEN
        outcome := 'reused';
    ELSIF earlier.known IS NOT NULL THEN
        outcome := 'replayed';
        deleted := earlier.known;
    ELSE
        outcome := 'done';
        DELETE FROM memory.conversations c
        WHERE c.tenant = a_tenant AND c.user_id = a_user AND c.conversation_id = a_conversation;
    END IF;
END $$;

-- `deleted` counts conversations. Of the user stays one row: that this request was answered.
CREATE FUNCTION memory.delete_user(
    a_tenant text, a_user text, a_request text, a_digest bytea,
    OUT outcome text, OUT deleted bigint
) LANGUAGE plpgsql AS $$
DECLARE
    earlier record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(a_tenant || '/' || a_user, 0));
    SELECT count(*) INTO deleted FROM (
        SELECT 1 FROM memory.conversations c
        WHERE c.tenant = a_tenant AND c.user_id = a_user
        ORDER BY c.conversation_id FOR UPDATE
    ) locked;
    earlier := memory.claim_request(a_tenant, a_user, a_request, a_digest, deleted);
    IF earlier.reused THEN
        outcome := 'reused';
    ELSIF earlier.known IS NOT NULL THEN
        outcome := 'replayed';
        deleted := earlier.known;
    ELSE
        outcome := 'done';
        DELETE FROM memory.conversations c WHERE c.tenant = a_tenant AND c.user_id = a_user;
        DELETE FROM memory.profiles p WHERE p.tenant = a_tenant AND p.user_id = a_user;
        DELETE FROM memory.requests r
        WHERE r.tenant = a_tenant AND r.user_id = a_user AND r.request_id <> a_request;
    END IF;
END $$;
