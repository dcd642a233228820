-- A template is a row of its own: official ones, whose id is their slug, are
-- each node's, and tenants' are the node's that builds them. What was built of
-- it are its revisions, which are kept; builds are how they came about.

-- +goose Up
create table owned_templates (
  node        text not null,
  id          text not null,
  tenant      text not null, -- '' for the official ones
  slug        text not null,
  name        text not null,
  description text not null,
  category    text not null,
  tags        text not null,
  metadata    text not null,
  pool_min    bigint not null,
  pool_max    bigint not null,
  spec        text not null, -- as last set
  revision    text not null, -- that serves, '' for none
  last_build  text not null,
  created_at  bigint not null,
  updated_at  bigint not null,
  deleted_at  bigint not null,
  primary key (node, id)
);
insert into owned_templates select node, slug, '', slug, name, description, '', '[]', '{}', 0, 0, '{}', revision, '', created_at, created_at, 0 from templates;

create table revisions (
  node       text not null,
  template   text not null,
  revision   text not null,
  image      text not null,
  base       text not null, -- digest of the base image
  workdir    text not null,
  run_as     text not null,
  env        text not null,
  spec       text not null, -- that it was built from
  created_at bigint not null,
  primary key (node, template, revision)
);
insert into revisions select node, slug, revision, image, '', workdir, '', env, '{}', created_at from templates;

drop table templates;
alter table owned_templates rename to templates;
create unique index templates_slug on templates (tenant, slug) where tenant <> '' and deleted_at = 0;
create index templates_id on templates (id);

create table builds (
  id          text primary key,
  node        text not null,
  tenant      text not null,
  template    text not null,
  state       text not null,
  spec        text not null,
  base        text not null,
  revision    text not null,
  code        text not null,
  message     text not null,
  created_at  bigint not null,
  started_at  bigint not null,
  finished_at bigint not null,
  updated_at  bigint not null
);
create index builds_template on builds (template, created_at);
create index builds_state on builds (node, state);

create table build_events (
  build text not null,
  seq   bigint not null,
  event text not null,
  state text not null,
  step  bigint not null,
  body  text not null,
  took  bigint not null, -- microseconds
  at    bigint not null,
  primary key (build, seq)
);
