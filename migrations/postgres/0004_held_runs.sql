-- Runs for which there is no place at the workers: they wait here, in their tenant's line, and not in the queue.
-- No constraint says that only open runs are held: a worker of an older build, which knows nothing of lines, may claim and
-- end one all the same, and whoever takes it from the line then finds nothing to do.
alter table runs add column held boolean not null default false;

-- Only held runs: each tenant's line, oldest first. A run that is never held never touches it.
create index runs_held on runs (tenant_id, run_id) where held;

-- What is held is not overdue, however long it waits.
drop index runs_due;
create index runs_due on runs (due_at) where due_at is not null and not held;
