-- Templates are made of sandboxes: the files such a one stands on.

-- +goose Up
alter table templates add column captured text not null default '';
