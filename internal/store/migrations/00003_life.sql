-- A sandbox may stop and start again: what is kept of it between, from which
-- root file system it started, and how its time is counted.

-- +goose Up
alter table sandboxes add column base text not null default '';
alter table sandboxes add column files text not null default '';
alter table sandboxes add column ran bigint not null default 0;
alter table sandboxes add column stopped_at bigint not null default 0;
alter table sandboxes add column extended_at bigint not null default 0;
create index sandboxes_files on sandboxes (files) where files <> '';
