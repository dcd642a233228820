-- Several servers may share a PostgreSQL. Each has a node id, and touches its
-- own sandboxes only; templates and snapshots name files in its data folder.

-- +goose Up
create table nodes (
  id        text primary key,
  url       text not null, -- where the others reach it, '' for nowhere
  version   text not null,
  last_seen bigint not null -- by its own clock
);

-- The last transaction that each node has committed, for one that was cut off
-- from the database before it heard.
create table commits (
  node text primary key,
  turn text not null
);

alter table sandboxes add column node text not null default '';
create index sandboxes_node on sandboxes (node, freed);

create table node_templates (
  node        text not null,
  slug        text not null,
  name        text not null,
  description text not null,
  revision    text not null,
  image       text not null,
  workdir     text not null,
  env         text not null,
  created_at  bigint not null,
  primary key (node, slug)
);
insert into node_templates select '', slug, name, description, revision, image, workdir, env, created_at from templates;
drop table templates;
alter table node_templates rename to templates;

create table node_snapshots (
  node       text not null,
  template   text not null,
  revision   text not null,
  name       text not null, -- the driver's key
  ref        text not null,
  created_at bigint not null,
  primary key (node, template, revision, name)
);
insert into node_snapshots select '', template, revision, name, ref, created_at from snapshots;
drop table snapshots;
alter table node_snapshots rename to snapshots;
