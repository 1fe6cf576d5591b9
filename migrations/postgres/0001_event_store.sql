-- The event store: the log, the head of each stream, and what must be committed with them.
-- Requires Postgres 15 or later.

-- The head of each run's stream. Written in the same statement as the events behind it.
create table runs (
    run_id uuid primary key,
    tenant_id text not null,
    session_id uuid not null,
    -- 1 for the first run of its session; a run may be claimed once all with a lower number have ended.
    session_seq bigint not null,
    agent text not null,
    status text not null,
    version bigint not null,
    -- Grows with every claim. An append that names an older one loses.
    epoch bigint not null,
    -- Hash of the event `version`.
    hash bytea not null,
    lease_owner text,
    lease_until timestamptz,
    -- By when something must have happened; null when only a person can move the run, or when it has ended.
    due_at timestamptz,
    dispatches bigint not null default 0,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cost_microusd bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint runs_status_known
        check (status in ('queued', 'running', 'waiting', 'completed', 'failed', 'cancelled')),
    constraint runs_ended_are_idle
        check (status not in ('completed', 'failed', 'cancelled') or (lease_owner is null and due_at is null)),
    constraint runs_session_order unique (session_id, session_seq)
) with (fillfactor = 60);

-- Only open runs: a claim asks whether an earlier run of the session is among them.
create index runs_open_in_session on runs (session_id, session_seq) where status in ('queued', 'running', 'waiting');
create index runs_due on runs (due_at) where due_at is not null;

-- The log. Rows are never changed and never deleted.
create table events (
    run_id uuid not null,
    version bigint not null,
    tenant_id text not null,
    type text not null,
    schema smallint not null,
    time timestamptz not null,
    -- JSON, kept as text: its bytes are hashed.
    payload text not null,
    hash bytea not null,
    -- The default is raised when the log is restored into another cluster, whose transaction numbers start again.
    generation integer not null default 1,
    txid xid8 not null default pg_current_xact_id(),
    position bigint not null generated always as identity,
    constraint events_version_once primary key (run_id, version)
);

-- A bare sequence is not the order of commits; readers compare the whole tuple and stop at the oldest open transaction.
create index events_log on events (generation, txid, position);

create table sessions (
    session_id uuid primary key,
    tenant_id text not null,
    last_seq bigint not null,
    metadata text not null,
    created_at timestamptz not null
);

-- Large payloads and agent definitions, by content.
create table blobs (
    sha256 bytea primary key,
    bytes bytea not null,
    created_at timestamptz not null default now()
);

-- A cache of folded states: may be emptied at any moment.
create table snapshots (
    run_id uuid primary key,
    version bigint not null,
    hash bytea not null,
    state_version bigint not null,
    state text not null
);

create table idempotency_keys (
    tenant_id text not null,
    key text not null,
    fingerprint bytea not null,
    status bigint not null,
    body text not null,
    created_at timestamptz not null,
    constraint idempotency_keys_once primary key (tenant_id, key)
);

create table api_keys (
    id uuid primary key,
    tenant_id text not null,
    name text not null,
    hash bytea not null unique,
    scopes text not null,
    created_at timestamptz not null,
    expires_at timestamptz,
    revoked_at timestamptz
);
