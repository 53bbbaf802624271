-- The documents that `knowledge_search` looks in, cut into passages.
--
-- There is no full-text (GIN) index, on purpose: the match operator of text search is not leakproof, so
-- under row-level security PostgreSQL may not use such an index before the policy has been checked. What is
-- read are the passages of one tenant, by the primary key.
CREATE SCHEMA IF NOT EXISTS tools;

CREATE TABLE tools.documents (
    tenant      text        NOT NULL,
    -- The path of the file inside the folder.
    source      text        NOT NULL,
    title       text        NOT NULL,
    -- Of the content and of the way it is cut.
    digest      bytea       NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, source)
);

CREATE TABLE tools.passages (
    tenant  text     NOT NULL,
    source  text     NOT NULL,
    ordinal integer  NOT NULL,
    -- The headings above the passage, outermost first, joined by ' > '.
    heading text     NOT NULL,
    body    text     NOT NULL,
    lexemes tsvector NOT NULL GENERATED ALWAYS AS (
        setweight(to_tsvector('english', heading), 'A') || setweight(to_tsvector('english', body), 'B')
    ) STORED,
    PRIMARY KEY (tenant, source, ordinal),
    FOREIGN KEY (tenant, source) REFERENCES tools.documents ON DELETE CASCADE
);

ALTER TABLE tools.documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.documents FORCE ROW LEVEL SECURITY;
ALTER TABLE tools.passages ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools.passages FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant ON tools.documents USING (tenant = current_setting('peregrine.tenant', true));
CREATE POLICY tenant ON tools.passages USING (tenant = current_setting('peregrine.tenant', true));
