-- Times are microseconds since the epoch, 0 for "not yet". Durations are
-- microseconds. Lists and objects are JSON. SQLite and PostgreSQL run the same
-- files: ROW_NUMBER_KEY stands for a primary key that numbers its rows, in the words
-- of each.

-- +goose Up
create table meta (
  name  text primary key,
  value text not null
);

create table tenants (
  id            text primary key,
  slug          text not null unique,
  name          text not null,
  max_sandboxes bigint not null,
  -- Updating it locks the row, so that limits count one create at a time.
  serial        bigint not null default 0,
  created_at    bigint not null
);

create table api_keys (
  id         text primary key,
  tenant     text not null references tenants (id),
  user_id    text not null,
  name       text not null,
  prefix     text not null,
  admin      boolean not null,
  hash       text not null unique, -- SHA-256 of the secret, hexadecimal
  created_at bigint not null
);
create index api_keys_tenant on api_keys (tenant);

create table workspaces (
  id         text primary key, -- UUID
  tenant     text not null references tenants (id),
  slug       text not null,
  name       text not null,
  created_at bigint not null,
  unique (tenant, slug)
);

create table projects (
  id         text primary key, -- UUID
  tenant     text not null references tenants (id),
  workspace  text not null references workspaces (id),
  slug       text not null,
  name       text not null,
  created_at bigint not null,
  unique (workspace, slug)
);

create table sandboxes (
  id            text primary key,
  tenant        text not null, -- '' while no tenant owns it
  owner         text not null,
  workspace     text not null,
  project       text not null,
  ext_workspace text not null,
  ext_user      text not null,
  ext_project   text not null,
  name          text not null,
  slug          text not null unique,
  template      text not null,
  revision      text not null,
  image         text not null,
  milli_cpu     bigint not null,
  memory        bigint not null,
  disk          bigint not null,
  env           text not null,
  state         text not null,
  ready         boolean not null,
  reason        text not null,
  boot_path     text not null,
  boot          bigint not null,
  timeout       bigint not null,
  idle          bigint not null,
  persist       boolean not null,
  always_on     boolean not null,
  auto_start    boolean not null,
  tags          text not null,
  metadata      text not null,
  freed         boolean not null,
  created_at    bigint not null,
  updated_at    bigint not null,
  started_at    bigint not null,
  ready_at      bigint not null,
  destroyed_at  bigint not null
);
create index sandboxes_list on sandboxes (tenant, created_at, id);
create index sandboxes_live on sandboxes (tenant, state);
create index sandboxes_warm on sandboxes (state, template);
create index sandboxes_freed on sandboxes (freed, state);

create table events (
  seq     ROW_NUMBER_KEY,
  sandbox text not null,
  tenant  text not null,
  type    text not null,
  data    text not null,
  at      bigint not null
);
create index events_sandbox on events (sandbox, seq);
create index events_at on events (at);

create table idempotency (
  tenant     text not null,
  name       text not null,
  digest     text not null,
  sandbox    text not null,
  created_at bigint not null,
  primary key (tenant, name)
);
create index idempotency_created on idempotency (created_at);

create table templates (
  slug        text primary key,
  name        text not null,
  description text not null,
  revision    text not null,
  image       text not null,
  workdir     text not null,
  env         text not null,
  created_at  bigint not null
);

create table snapshots (
  template   text not null,
  revision   text not null,
  name       text not null, -- the driver's key
  ref        text not null,
  created_at bigint not null,
  primary key (template, revision, name)
);
