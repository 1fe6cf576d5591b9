-- How each worker sees its model providers, written by the workers for whoever asks. A cache: may be emptied at any
-- moment.
create table provider_states (
    worker text not null,
    provider text not null,
    model text not null,
    -- The circuit breaker: closed, open or half_open, and since when.
    state text not null,
    since timestamptz not null,
    -- The provider asked for patience until then.
    paused_until timestamptz,
    in_flight bigint not null,
    -- Of the breaker's window.
    calls bigint not null,
    failures bigint not null,
    updated_at timestamptz not null,
    constraint provider_states_once primary key (worker, provider, model)
);
