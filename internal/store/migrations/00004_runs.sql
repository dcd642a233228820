-- A run is one stretch in which a sandbox runs: what usage, quotas and credits
-- are counted by. It is opened and closed in the transaction that changes the
-- sandbox's state. What it used is added up from the host's counters, of which
-- seen_* is the last reading: a reading that comes twice counts once, and
-- counters that begin anew lose nothing.

-- +goose Up
create table runs (
  sandbox       text not null,
  tenant        text not null,
  workspace     text not null,
  project       text not null,
  ext_workspace text not null,
  ext_user      text not null,
  ext_project   text not null,
  milli_cpu     bigint not null,
  memory        bigint not null, -- bytes
  started_at    bigint not null,
  ended_at      bigint not null, -- 0 while it runs
  metered_at    bigint not null, -- of the last reading
  cpu_us        bigint not null, -- microseconds of CPU time
  net_in        bigint not null, -- bytes
  net_out       bigint not null,
  seen_cpu_us   bigint not null,
  seen_net_in   bigint not null,
  seen_net_out  bigint not null,
  primary key (sandbox, started_at)
);
create index runs_tenant on runs (tenant, started_at);
create index runs_ended on runs (ended_at);

insert into runs
select id, tenant, workspace, project, ext_workspace, ext_user, ext_project, milli_cpu, memory,
  started_at, 0, started_at, 0, 0, 0, 0, 0, 0
from sandboxes where state = 'running' and tenant <> '';

-- What sandboxes are looked for by: each tag, under the name 'tag', and each plain
-- value of their metadata, under 'metadata.' and its key. Rows of sandboxes hold
-- the same; these only find them.
create table labels (
  sandbox text not null,
  tenant  text not null,
  name    text not null,
  value   text not null,
  primary key (sandbox, name, value)
);
create index labels_value on labels (tenant, name, value);

-- Lists are newest first, and of what is not destroyed unless they say otherwise.
create index sandboxes_kept on sandboxes (tenant, created_at, id) where state <> 'destroyed';
create index sandboxes_state on sandboxes (tenant, state, created_at, id);
drop index sandboxes_list;
drop index sandboxes_live;
