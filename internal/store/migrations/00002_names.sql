-- A sandbox may be asked for by its name. Names are a tenant's own: another's
-- many equal ones must not be in the way.

-- +goose Up
create index sandboxes_name on sandboxes (tenant, name) where name <> '';
