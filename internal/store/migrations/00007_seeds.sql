-- What copies of a template start from is its seed; snapshots are what tenants
-- take of their sandboxes.

-- +goose Up
alter table snapshots rename to seeds;
