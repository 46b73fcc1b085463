-- By which request the present wish of an item came: so that a log line of a host call leads back to who asked for it.
alter table work add column request_id text;
