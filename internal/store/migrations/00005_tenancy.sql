-- Who may do what, how much of it, what was done, and what it cost.

-- +goose Up
alter table tenants add column plan text not null default '';
alter table tenants add column max_keys bigint not null default 0;
-- Of all live sandboxes together, max_disk of all that are not destroyed; 0: none.
alter table tenants add column max_milli_cpu bigint not null default 0;
alter table tenants add column max_memory bigint not null default 0;
alter table tenants add column max_disk bigint not null default 0;
-- Millionths of a credit: the sum of the tenant's ledger, so that a create need not add it up.
alter table tenants add column balance bigint not null default 0;

create table users (
  id         text primary key,
  tenant     text not null,
  name       text not null,
  email      text not null,
  role       text not null, -- in the whole tenant, '' for none
  created_at bigint not null
);
create index users_tenant on users (tenant, id);
-- Those who had keys before there were roles could do everything.
insert into users (id, tenant, name, email, role, created_at)
  select user_id, min(tenant), min(name), '', 'owner', min(created_at) from api_keys group by user_id;

alter table api_keys add column type text not null default 'user';
alter table api_keys add column scopes text not null default '*';
alter table api_keys add column workspace text not null default '';
alter table api_keys add column parent text not null default '';
alter table api_keys add column expires_at bigint not null default 0;
alter table api_keys add column last_used_at bigint not null default 0;
update api_keys set type = 'admin' where admin = true;
create index api_keys_parent on api_keys (parent);
create index api_keys_user on api_keys (user_id);

alter table workspaces add column description text not null default '';
alter table workspaces add column metadata text not null default '{}';
alter table workspaces add column updated_at bigint not null default 0;

create table members (
  workspace  text not null,
  tenant     text not null,
  user_id    text not null,
  role       text not null,
  created_at bigint not null,
  primary key (workspace, user_id)
);
create index members_user on members (tenant, user_id);

-- Stand for a key once.
create table tickets (
  hash       text primary key,
  api_key    text not null,
  expires_at bigint not null
);
create index tickets_expires on tickets (expires_at);

-- Bounds for a tenant's own users, by the ids it gives them; 0: none.
create table external_quotas (
  tenant           text not null,
  ext_user         text not null,
  max_sandboxes    bigint not null, -- not destroyed
  max_concurrent   bigint not null, -- live
  max_storage_gb   bigint not null,
  max_credit_cents bigint not null,
  updated_at       bigint not null,
  primary key (tenant, ext_user)
);
create index sandboxes_ext_user on sandboxes (tenant, ext_user, state) where ext_user <> '';

-- Append-only but for what is too old.
create table audit (
  id          text primary key, -- sortable by time
  tenant      text not null,
  workspace   text not null, -- of the key
  api_key     text not null,
  user_id     text not null,
  method      text not null,
  route       text not null,
  resource    text not null,
  status      bigint not null,
  code        text not null, -- of the error
  address     text not null,
  user_agent  text not null,
  request     text not null,
  at          bigint not null
);
create index audit_tenant on audit (tenant, id);
create index audit_at on audit (at);

-- Append-only. Amounts are millionths of a credit: grants above 0, usage below.
create table ledger (
  id         text primary key, -- sortable by time
  tenant     text not null,
  kind       text not null, -- grant, usage
  amount     bigint not null,
  balance    bigint not null, -- after it
  run        text not null, -- of usage
  sandbox    text not null,
  workspace  text not null,
  ext_user   text not null,
  note       text not null,
  expires_at bigint not null,
  at         bigint not null
);
create index ledger_tenant on ledger (tenant, id);
create index ledger_user on ledger (tenant, ext_user) where ext_user <> '';

-- How much of each run of a sandbox is in the ledger.
create table charges (
  run    text primary key,
  amount bigint not null,
  final  boolean not null -- the run has ended, and all of it is charged
);
