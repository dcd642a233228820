-- Sandboxes pause with their memory, and tenants take snapshots of them.

-- +goose Up
alter table sandboxes add column memory_ref text not null default '';
alter table sandboxes add column saved bigint not null default 0;
create index sandboxes_memory on sandboxes (memory_ref) where memory_ref <> '';
alter table tenants add column max_saved bigint not null default 0; -- bytes, 0: no limit

create table snapshots (
  id           text primary key,
  tenant       text not null,
  workspace    text not null,
  sandbox      text not null,
  status       text not null,
  passing      boolean not null, -- made for a fork, and gone with it
  comment      text not null,
  keep         boolean not null,
  reason       text not null,
  spec         text not null,
  parent       text not null,
  base         text not null,
  memory       text not null,
  files        text not null,
  driver_key   text not null,
  size         bigint not null,
  retention    bigint not null,
  expires_at   bigint not null, -- by age alone
  last_used_at bigint not null,
  created_at   bigint not null,
  updated_at   bigint not null,
  node         text not null
);
create index snapshots_tenant on snapshots (tenant, created_at);
create index snapshots_sandbox on snapshots (sandbox);
create index snapshots_memory on snapshots (memory) where memory <> '';
create index snapshots_files on snapshots (files) where files <> '';
