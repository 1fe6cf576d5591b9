//! Who has a run and until when, what is overdue, and what waits in the tenants' lines: [`Backend`](super::Backend)'s part of
//! the heads that says when something must happen next.

use std::time::Duration;

use super::{
    Demand, Due, Error,
    adapter::places,
    backend::held_pause,
    rows::due_of,
    sql::{Db, Row},
};
use crate::run::{RunId, TenantId};

/// A run that keeps being dispatched in vain is looked at less and less often, down to once in this time.
const REDRIVE_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A run dispatched so often and still not claimed waits for something else than a worker's place.
const DISPATCHES_MEASURED: u32 = 3;

pub struct Schedule<'a>(pub &'a Db);

impl Schedule<'_> {
    /// The database's clock, which leases are measured by, so processes may disagree about the time.
    fn now(&self) -> &'static str {
        if self.0.is_postgres() {
            "now()"
        } else {
            "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
        }
    }

    /// The database's clock, so many milliseconds from now.
    fn now_plus(&self, ms: &str) -> String {
        if self.0.is_postgres() {
            format!("now() + ({ms}) * interval '1 millisecond'")
        } else {
            format!("strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', (({ms}) / 1000.0) || ' seconds')")
        }
    }

    /// Ends a subquery that names the heads an update will lock: in the appends' order, so that neither waits for the
    /// other in a circle.
    fn in_lock_order(&self) -> &'static str {
        if self.0.is_postgres() {
            "order by run_id for update"
        } else {
            ""
        }
    }

    pub async fn renew(&self, owner: &str, runs: &[(RunId, u64)], ttl: Duration) -> Result<Vec<RunId>, Error> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let ms = ttl.as_millis();
        let mut args = vec![owner.into()];
        let mut which = Vec::with_capacity(runs.len());
        for (run_id, epoch) in runs {
            which.push(format!(
                "(run_id = ${} and epoch = ${})",
                args.len() + 1,
                args.len() + 2
            ));
            args.push(run_id.0.into());
            args.push((*epoch).into());
        }
        // Also after its end, as long as nobody else has claimed the run: the epoch says so.
        let sql = format!(
            "update runs set lease_until = {until}, due_at = {until}
             where run_id in (select run_id from runs where lease_owner = $1 and ({which}) {in_lock_order})
             returning run_id",
            until = self.now_plus(&ms.to_string()),
            which = which.join(" or "),
            in_lock_order = self.in_lock_order(),
        );
        let rows = self.0.fetch_writing(&sql, &args).await?;
        rows.iter().map(|row| Ok(RunId(row.get("run_id")?))).collect()
    }

    pub async fn take_due(&self, limit: u32, first_pause: Duration) -> Result<Vec<Due>, Error> {
        let (first, most) = (first_pause.as_millis(), REDRIVE_PAUSE_MAX.as_millis());
        let first = format!(
            "case when lease_owner is null then {first} else {} end",
            held_pause(first_pause).as_millis()
        );
        // 2^dispatches without overflow; `least` and two-argument `min` are the same function in the two dialects.
        let (least, skip) = if self.0.is_postgres() {
            ("least", "for update skip locked")
        } else {
            ("min", "")
        };
        let pause = format!("{least}({most}, ({first}) * (1 << cast({least}(dispatches, 12) as integer)))");
        let sql = format!(
            // Materialized: a join that ran the locking query twice would take more than was asked.
            "with overdue as materialized (
                 select d.run_id from runs d
                 where d.due_at <= {now} and not d.held
                   and (d.session_seq = 1
                        or not exists (select 1 from runs o
                                       where o.session_id = d.session_id and o.session_seq < d.session_seq
                                         and o.status in ('queued', 'running', 'waiting')))
                 order by d.due_at limit $1 {skip})
             update runs set due_at = {later}, dispatches = dispatches + 1
             where run_id in (select run_id from overdue)
             returning run_id, tenant_id, version, dispatches",
            later = self.now_plus(&pause),
            now = self.now(),
        );
        let rows = self.0.fetch_writing(&sql, &[limit.into()]).await?;
        rows.iter().map(due_of).collect()
    }

    pub async fn make_due(&self, dead_owner: Option<&str>) -> Result<u64, Error> {
        let (now, in_lock_order) = (self.now(), self.in_lock_order());
        let most = if self.0.is_postgres() { "greatest" } else { "max" };
        let sql = format!(
            "update runs set due_at = {now}, dispatches = {most}(dispatches, 1)
             where run_id in (select run_id from runs
                              where due_at > {now} and not held
                                and (status = 'queued'
                                     or (dispatches > 0 and (lease_until is null or lease_until <= {now})))
                              {in_lock_order})"
        );
        let mut made = self.0.execute(&sql, &[]).await?;
        if let Some(owner) = dead_owner {
            let sql = format!(
                "update runs set lease_until = {now}, due_at = {now}
                 where run_id in (select run_id from runs
                                  where lease_owner = $1 and lease_until > {now} {in_lock_order})"
            );
            made += self.0.execute(&sql, &[owner.into()]).await?;
        }
        Ok(made)
    }

    pub async fn hold(&self, runs: &[RunId]) -> Result<u64, Error> {
        if runs.is_empty() {
            return Ok(0);
        }
        let sql = format!(
            "update runs set held = true
             where run_id in (select run_id from runs
                              where run_id in ({which}) and due_at is not null and not held
                                and (lease_until is null or lease_until <= {now}) {in_lock_order})",
            which = places(runs.len()),
            now = self.now(),
            in_lock_order = self.in_lock_order(),
        );
        let ids: Vec<_> = runs.iter().map(|run| run.0.into()).collect();
        self.0.execute(&sql, &ids).await
    }

    pub async fn take_held(&self, tenant: &TenantId, limit: u32, claim_within: Duration) -> Result<Vec<Due>, Error> {
        let skip = if self.0.is_postgres() {
            "for update skip locked"
        } else {
            ""
        };
        let sql = format!(
            "with first as materialized (
                 select run_id from runs where held and tenant_id = $1 order by run_id limit $2 {skip})
             update runs set held = false, due_at = case when due_at > {now} then due_at else {later} end
             where run_id in (select run_id from first)
             returning run_id, tenant_id, version, dispatches",
            now = self.now(),
            later = self.now_plus(&claim_within.as_millis().to_string()),
        );
        let rows = self
            .0
            .fetch_writing(&sql, &[tenant.as_str().into(), limit.into()])
            .await?;
        rows.iter().map(due_of).collect()
    }

    pub async fn held_tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantId>, Error> {
        // From one tenant to the next in the index, however long their lines are.
        let sql = "with recursive line(tenant_id) as (
                       select min(tenant_id) from runs where held and tenant_id > $1
                       union all
                       select (select min(r.tenant_id) from runs r where r.held and r.tenant_id > line.tenant_id)
                       from line where line.tenant_id is not null)
                   select tenant_id from line where tenant_id is not null limit $2";
        let after = after.map_or("", TenantId::as_str);
        let rows = self.0.fetch(sql, &[after.into(), limit.into()]).await?;
        rows.iter().map(|row| row.tenant("tenant_id")).collect()
    }

    pub async fn demand(&self, than: RunId) -> Result<Vec<Demand>, Error> {
        let ms_since = |time: &str| {
            if self.0.is_postgres() {
                format!("cast(extract(epoch from now() - {time}) * 1000 as bigint)")
            } else {
                format!("cast((julianday('now') - julianday({time})) * 86400000 as integer)")
            }
        };
        let sql = format!(
            // A run whose session has an earlier one open waits for that, not for a place.
            "with active as (
                 select a.tenant_id, a.run_id, a.updated_at, a.dispatches, a.lease_until, a.lease_until > {now} as claimed,
                        a.lease_owner is null and a.status = 'queued'
                        and (a.session_seq = 1
                             or not exists (select 1 from runs o
                                            where o.session_id = a.session_id and o.session_seq < a.session_seq
                                              and o.status in ('queued', 'running', 'waiting'))) as runnable
                 from runs a where a.due_at is not null and not a.held
             ), counted as (
                 select tenant_id, count(*) filter (where claimed) as running, 0 as held,
                        count(*) filter (where runnable) as runnable,
                        count(*) filter (where runnable and run_id < $1) as older,
                        min(updated_at) filter (where runnable and dispatches < {DISPATCHES_MEASURED}) as since,
                        min(case when runnable then updated_at when not claimed then lease_until end) as oldest
                 from active group by tenant_id
                 union all
                 select h.tenant_id, 0, count(*), 0, count(*) filter (where h.run_id < $1),
                        (select f.updated_at from runs f
                         where f.held and f.tenant_id = h.tenant_id and f.status = 'queued'
                               and f.dispatches < {DISPATCHES_MEASURED}
                         order by f.run_id limit 1), null
                 from runs h where h.held group by h.tenant_id)
             select tenant_id, cast(sum(running) as bigint) as running, cast(sum(held) as bigint) as held,
                    cast(sum(runnable) as bigint) as runnable, cast(sum(older) as bigint) as older,
                    {since} as waited_ms, {oldest} as oldest_ms
             from counted group by tenant_id order by tenant_id",
            now = self.now(),
            since = ms_since("min(since)"),
            oldest = ms_since("min(oldest)"),
        );
        let rows = self.0.fetch(&sql, &[than.0.into()]).await?;
        let demand = |row: &Row| {
            let age = |column| -> Result<Duration, Error> {
                let ms: Option<i64> = row.get(column)?;
                Ok(Duration::from_millis(ms.unwrap_or(0).max(0).unsigned_abs()))
            };
            Ok(Demand {
                tenant: row.tenant("tenant_id")?,
                running: row.count("running")?,
                held: row.count("held")?,
                runnable: row.count("runnable")?,
                older: row.count("older")?,
                waited: age("waited_ms")?,
                oldest: age("oldest_ms")?,
            })
        };
        rows.iter().map(demand).collect()
    }
}
