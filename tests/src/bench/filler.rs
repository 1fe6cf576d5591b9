//! Many more runs in the log than there is time to run: copies of one that was, each under ids of its own, with a hash
//! chain of its own. `steadfast check` finds nothing wrong with them.

use sqlx::{Connection, PgConnection};

use crate::Result;

/// Runs of one transaction.
const BATCH: i64 = 1_000;

/// The first run of the log that completed, and how many events it has.
const TEMPLATE: &str = "select run_id, version from runs where status = 'completed' order by run_id limit 1";

const TABLE: &str = "
create temp table if not exists copies (
    n bigint, run_id uuid, session_id uuid, version bigint, tenant_id text, type text, schema smallint,
    time timestamptz, payload text, hash bytea
)";

/// $1: the run to copy. $2, $3: numbers of the first and the last copy, never used before. Ids sort by age, as ours do:
/// the time in milliseconds, then the number; a session's differs from its run's in one digit.
const COPY: &str = "
insert into copies
with recursive
fresh as materialized (
    select n, (born || '70008' || lpad(to_hex(n), 15, '0'))::uuid as run_id,
           (born || '70009' || lpad(to_hex(n), 15, '0'))::uuid as session_id
    from generate_series($2::bigint, $3::bigint) n,
         (select lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') as born) now
),
template as materialized (
    select e.version, e.tenant_id, e.type, e.schema, e.time, e.payload,
           encode(uuid_send(r.session_id), 'hex') as session_hex,
           int8send(e.version) || int2send(e.schema) || int8send((extract(epoch from e.time) * 1000000)::bigint)
           || int8send(octet_length(e.tenant_id)::bigint) || convert_to(e.tenant_id, 'UTF8')
           || int8send(octet_length(e.type)::bigint) || convert_to(e.type, 'UTF8') as head
    from events e join runs r using (run_id) where e.run_id = $1
),
chain as (
    select f.n, f.run_id, f.session_id, 0::bigint as version, null::text as payload,
           decode(repeat('00', 32), 'hex') as hash
    from fresh f
    union all
    select c.n, c.run_id, c.session_id, t.version, p.payload,
           sha256(c.hash || uuid_send(c.run_id) || t.head || int8send(octet_length(p.payload)::bigint)
                  || convert_to(p.payload, 'UTF8'))
    from chain c join template t on t.version = c.version + 1,
    lateral (select replace(t.payload, t.session_hex, encode(uuid_send(c.session_id), 'hex')) as payload) p
)
select c.n, c.run_id, c.session_id, c.version, t.tenant_id, t.type, t.schema, t.time, c.payload, c.hash
from chain c join template t using (version)";

const SESSIONS: &str = "
insert into sessions (session_id, tenant_id, last_seq, metadata, created_at)
select c.session_id, s.tenant_id, 1, s.metadata, s.created_at
from copies c, runs r join sessions s using (session_id) where r.run_id = $1 and c.version = 1";

const EVENTS: &str = "
insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
select run_id, version, tenant_id, type, schema, time, payload, hash from copies order by n, version";

const RUNS: &str = "
insert into runs (run_id, tenant_id, session_id, session_seq, agent, status, version, epoch, hash, dispatches,
                  input_tokens, output_tokens, cost_microusd, created_at, updated_at)
select c.run_id, r.tenant_id, c.session_id, 1, r.agent, r.status, r.version, r.epoch, c.hash, r.dispatches,
       r.input_tokens, r.output_tokens, r.cost_microusd, r.created_at, r.updated_at
from copies c join runs r on r.run_id = $1 and c.version = r.version";

/// A log that was filled.
pub struct Filled {
    /// In the log.
    pub events: u64,
    /// Runs that were copied into it.
    pub copies: u64,
}

/// Fills the log up to so many events, or a few more.
pub async fn fill(connection: &mut PgConnection, wanted: u64) -> Result<Filled> {
    let template: Option<(sqlx::types::Uuid, i64)> = sqlx::query_as(TEMPLATE).fetch_optional(&mut *connection).await?;
    let (template, events_each) = template.ok_or("no run has completed that could be copied")?;
    sqlx::query(TABLE).execute(&mut *connection).await?;
    let wanted = i64::try_from(wanted)?;
    let mut there: i64 = sqlx::query_scalar("select count(*) from events")
        .fetch_one(&mut *connection)
        .await?;
    let mut next: i64 = sqlx::query_scalar("select count(*) from runs")
        .fetch_one(&mut *connection)
        .await?;
    let first = next;
    while there < wanted {
        let runs = ((wanted - there) as u64).div_ceil(events_each.unsigned_abs().max(1));
        let runs = i64::try_from(runs)?.min(BATCH);
        let mut transaction = connection.begin().await?;
        sqlx::query("truncate copies").execute(&mut *transaction).await?;
        let copy = sqlx::query(COPY).bind(template).bind(next).bind(next + runs - 1);
        copy.execute(&mut *transaction).await?;
        sqlx::query(SESSIONS).bind(template).execute(&mut *transaction).await?;
        sqlx::query(EVENTS).execute(&mut *transaction).await?;
        sqlx::query(RUNS).bind(template).execute(&mut *transaction).await?;
        transaction.commit().await?;
        next += runs;
        there += runs * events_each;
    }
    Ok(Filled {
        events: there.unsigned_abs(),
        copies: (next - first).unsigned_abs(),
    })
}
